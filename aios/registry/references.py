"""Which version `loan:7`, `loan@stable` or `loan` names, and what is told if none."""

import re
from typing import Any, NoReturn

from sqlalchemy import Connection, Row, func, select

from aios.errors import UnknownModel
from aios.registry.base import listed, shown
from aios.store import tables as t

_LARGEST_VERSION = 2**31 - 1
"""What an INTEGER column of PostgreSQL holds; a greater number cannot exist."""


def version_row(connection: Connection, reference: str) -> Row[*tuple[Any, ...]]:
    """The row of the version that a reference names.

    Raises:
        UnknownModel: there is none; the message lists what there is.
    """
    name, number = _resolve(connection, reference)
    query = select(t.versions).where(t.versions.c.name == name, t.versions.c.version == number)
    row = connection.execute(query).first()
    if row is None:
        _unknown_version(connection, name, number)
    return row


def newest_version(connection: Connection, name: str) -> int | None:
    """The highest version number of a model; None if there is no such model."""
    query = select(func.max(t.versions.c.version)).where(t.versions.c.name == name)
    return connection.execute(query).scalar()


def require_model(connection: Connection, name: str) -> int:
    """The highest version number of a model.

    Raises:
        UnknownModel: there is none; the message lists those that are.
    """
    newest = newest_version(connection, name)
    if newest is None:
        query = select(t.versions.c.name).distinct().order_by(t.versions.c.name)
        known = listed(connection.execute(query).scalars())
        raise UnknownModel(f"no model {shown(name)}; registered: {known}")
    return newest


def aliases_of(connection: Connection, name: str) -> dict[str, int]:
    """The aliases of a model and the versions they stand for."""
    query = select(t.aliases.c.alias, t.aliases.c.version).where(t.aliases.c.name == name)
    return {row.alias: row.version for row in connection.execute(query.order_by(t.aliases.c.alias))}


def _resolve(connection: Connection, reference: str) -> tuple[str, int]:
    if match := re.fullmatch(r"([^:@]+):([0-9]{1,10})", reference):
        number = int(match[2])
        if number > _LARGEST_VERSION:
            _unknown_version(connection, match[1], number)
        return match[1], number
    name, at, alias = reference.partition("@")
    newest = require_model(connection, name)
    if not at:
        return name, newest
    found = aliases_of(connection, name)
    if alias not in found:
        raise UnknownModel(
            f"model {name} has no alias {shown(alias)}; it has: {listed(sorted(found))}"
        )
    return name, found[alias]


def _unknown_version(connection: Connection, name: str, number: int) -> NoReturn:
    newest = require_model(connection, name)
    there = "1" if newest == 1 else f"1 to {newest}"
    raise UnknownModel(f"model {name} has no version {number}; it has {there}")
