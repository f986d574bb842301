"""Commands and queries about API keys.

The kernel makes the key, so that the secret is as long as it must be. The plain key is in
the answer and nowhere else: not in the remembered result, nor in the audit entry.
"""

from collections.abc import Callable
from typing import Any

from pydantic import Field, field_validator

from aios.errors import IllegalTransition, UsageError
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.requests import Nothing, OfId
from aios.records import Record
from aios.registry import Change, Registry
from aios.security import Role, key_id, new_key

_OWN_ACTORS = ("aios", "aios up", "health", "kernel", "v2")
"""Names under which aios itself acts; a person of that name could hide behind them."""


class AddKey(Record):
    """A key for a person or service; `expires_s` is a time in Unix seconds, None is never."""

    identity: str = Field(min_length=1, max_length=100)
    role: Role
    expires_s: float | None = Field(default=None, allow_inf_nan=False)

    @field_validator("identity")
    @classmethod
    def _is_a_name(cls, identity: str) -> str:
        # Letters of other alphabets that look the same would make two people of one.
        if not (identity.isascii() and identity.isprintable()):
            raise ValueError("must be one line of ASCII characters, such as an e-mail address")
        if identity != " ".join(identity.split()):
            raise ValueError("must have no spaces around it")
        if identity.casefold() in _OWN_ACTORS:
            raise ValueError(f"{identity!r} is what aios calls itself; name a person or service")
        return identity


class KeyCommands:
    """`add_key`, `revoke_key` and `keys`.

    Args:
        changed: called after a change, to tell the API and all endpoints.
    """

    def __init__(self, registry: Registry, changed: Callable[[], None]) -> None:
        self._registry = registry
        self._changed = changed
        self.commands: Commands = {
            "add_key": (AddKey, self._add),
            "revoke_key": (OfId, self._revoke),
        }
        self.queries: Queries = {"keys": (Nothing, self._list)}

    def ensure(self, identity: str, digest: str) -> None:
        """Let the key that `aios up` made call as admin, unless it was revoked."""
        if self._registry.knows_key(digest):
            return
        with self._registry.change(actor="aios up", action="add_key", subject=identity) as change:
            change.add_key(f"{identity}-{digest[:8]}", identity, digest, "admin")

    def _refuse_look_alike(self, change: Change, identity: str) -> None:
        """One person with two spellings could approve what they made."""
        for known in change.identities():
            if known != identity and known.casefold() == identity.casefold():
                raise UsageError(
                    f"{identity!r} differs from {known!r}, who has a key, by capital letters only: "
                    f"give {known!r}, or another name"
                )

    def _add(self, request: AddKey, asked: Asked) -> dict[str, Any]:
        plain, digest = new_key(request.identity)
        told = {"id": key_id(plain), **request.model_dump(mode="json")}
        with asked.change(self._registry, "add_key", request.identity, **told) as change:
            if change.done is not None:
                refuse_to_repeat(change.done)
            if request.expires_s is not None and request.expires_s <= change.at_s:
                raise UsageError(
                    f"expires_s = {request.expires_s:g} is in the past; it is a time in Unix "
                    "seconds, such as time.time() + 30 * 86_400"
                )
            self._refuse_look_alike(change, request.identity)
            change.add_key(told["id"], request.identity, digest, request.role, request.expires_s)
            change.remember(told)
        self._changed()
        return {**told, "key": plain}

    def _revoke(self, request: OfId, asked: Asked) -> dict[str, Any]:
        with asked.change(self._registry, "revoke_key", request.id) as change:
            if change.done is not None:
                return change.done
            admins = [key for key in change.keys() if key.role == "admin"]  # noqa: SIM118
            rest = [key for key in admins if key.id != request.id]
            if rest != admins and all(key.expires_s is not None for key in rest):
                raise IllegalTransition(
                    f"key {request.id} is the last admin key that does not expire; add another "
                    "one first, or nobody could administer this runtime any more"
                )
            change.revoke_key(request.id)
            change.remember({"id": request.id})
        self._changed()
        return {"id": request.id}

    def _list(self) -> list[dict[str, Any]]:
        active = self._registry.keys()
        return [key.model_dump(mode="json", exclude={"digest"}) for key in active]


def refuse_to_repeat(made: dict[str, Any]) -> None:
    """A key is shown once: what was made under an operation id cannot be given again.

    Raises:
        IllegalTransition: always; names the key, so that it can be revoked.
    """
    raise IllegalTransition(
        f"key {made['id']} was made by this request before, and a key is shown only once; "
        f"revoke {made['id']} and add another one",
        id=made["id"],
    )
