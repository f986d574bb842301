"""What is known of one command while it is carried out."""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

from aios.errors import Forbidden
from aios.records import Record
from aios.registry import Change, Registry
from aios.security import Caller
from aios.store.canonical import canonical


@dataclass(frozen=True)
class Asked:
    """Who asks, under which operation id; `digest` tells one request from another."""

    caller: Caller
    operation_id: str | None
    digest: str

    @classmethod
    def of(
        cls,
        caller: Caller,
        command: str,
        arguments: Mapping[str, Any],
        operation_id: str | None,
    ) -> Self:
        """The asking of one command."""
        text = canonical([caller.identity, command, dict(arguments)])
        return cls(caller, operation_id, hashlib.sha256(text.encode("ascii")).hexdigest())

    @property
    def actor(self) -> str:
        """The caller's identity, as rows and audit entries hold it."""
        return self.caller.identity

    def change(
        self, registry: Registry, action: str, subject: str, **details: Any
    ) -> AbstractContextManager[Change]:
        """`Registry.change` on behalf of the caller, under its operation id."""
        return registry.change(
            actor=self.actor,
            action=action,
            subject=subject,
            details=details,
            operation_id=self.operation_id,
            request_digest=self.digest,
        )


def refuse_other_person(what: str, to: str, caller: Caller) -> None:
    """Raises:
    Forbidden: `to` is neither the caller's role nor their identity, and they administer nothing.
    """
    if caller.role != "admin" and to not in (caller.role, caller.identity):
        raise Forbidden(
            f"{what} is for {to!r}; you are {caller.identity} with the role {caller.role}"
        )


Command = Callable[[Any, Asked], dict[str, Any] | Future[dict[str, Any]]]
"""Carries out a request of the record type beside it in a table of commands. What is done together
with other things a moment later gives a future; so may a query that waits."""
Commands = dict[str, tuple[type[Record], Command]]
Queries = dict[str, tuple[type[Record], Callable[..., Any]]]
"""A query is called with its request's fields as arguments."""
