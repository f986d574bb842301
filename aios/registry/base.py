"""What all questions and all changes stand on: a connection, the time, rows to records."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, Row

from aios.errors import StoreCorrupt, UsageError
from aios.records import Record

_Kind = TypeVar("_Kind", bound=Record)

_SHOWN_NAMES = 20


class Reading(ABC):
    """Queries over one connection at a time; where it comes from is the subclass's matter."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Connection]:
        """A connection on a consistent snapshot."""

    @abstractmethod
    def now_s(self) -> float:
        """Wall time in Unix seconds; inside a change, the time of the change."""


class Writing(Reading):
    """Statements inside one open change."""

    at_s: float
    actor: str

    @abstractmethod
    def _open(self) -> Connection:
        """The change's connection, as long as something may be written."""

    @abstractmethod
    def note(self, **details: Any) -> None:
        """Add to the details of the audit entry what is known only now."""


def listed(names: Iterable[str]) -> str:
    """Names for a message, shortened, never empty."""
    every = list(names)
    more = f" and {len(every) - _SHOWN_NAMES} more" if len(every) > _SHOWN_NAMES else ""
    return (", ".join(every[:_SHOWN_NAMES]) + more) or "none"


def shown(name: str) -> str:
    """A name from outside for a message: quoted, escaped and shortened."""
    return json.dumps(str(name)[:60])


def record(kind: type[_Kind], fields: dict[str, Any]) -> _Kind:
    """A record from stored fields.

    Raises:
        StoreCorrupt: they do not fit, so something else than this code wrote them.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise StoreCorrupt(
            f"the store holds a {kind.__name__} that cannot be read ({where}: {fault['msg']}); "
            "restore a backup, or use the aios version that wrote it"
        ) from None


def from_row(kind: type[_Kind], row: Row[*tuple[Any, ...]]) -> _Kind:
    """A record from a row; columns that are no field of it are left out."""
    fields = row._asdict()
    return record(kind, {name: fields[name] for name in kind.model_fields if name in fields})


def valid(kind: type[_Kind], **fields: Any) -> _Kind:
    """A record from a caller's values.

    Raises:
        UsageError: one of them cannot be taken; the message names it.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UsageError(
            f"{kind.__name__}: {where} = {shown(str(fault['input']))}: {fault['msg']}"
        ) from None
