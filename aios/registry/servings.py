"""Which version served where, when, and what let it: the history that a rollback reads."""

from typing import Any

from sqlalchemy import Connection, and_, exists, insert, select, update

from aios.errors import UnknownEndpoint
from aios.records import Serving
from aios.registry.base import Reading, from_row, listed, shown
from aios.store import tables as t

BREAK_GLASS = "break_glass"
"""The key under which a clearance names the broken glass that let a version serve."""

_EARLIER = t.servings.alias("earlier")
_LATER = t.servings.alias("later")
_TAKEN_BACK = exists().where(
    _LATER.c.endpoint == _EARLIER.c.endpoint,
    _LATER.c.model == _EARLIER.c.model,
    _LATER.c.version == _EARLIER.c.version,
    _LATER.c.id >= _EARLIER.c.id,
    _LATER.c.bad,
)
_GOOD = and_(_EARLIER.c.from_s >= t.endpoints.c.created_s, ~_EARLIER.c.break_glass, ~_TAKEN_BACK)
"""It served since its endpoint was deployed, was cleared by the rules, and its version was
not taken back then or since."""

PREVIOUS_VERSION = (
    select(_EARLIER.c.version)
    .where(
        _EARLIER.c.endpoint == t.endpoints.c.name,
        _EARLIER.c.model == t.endpoints.c.model,
        _EARLIER.c.version != t.endpoints.c.stable_version,
        _GOOD,
    )
    .order_by(_EARLIER.c.id.desc())
    .limit(1)
    .scalar_subquery()
    .label("previous_version")
)
"""A column beside those of `endpoints`: the version that a rollback leads to, or NULL."""


class ServingReads(Reading):
    """Questions about what served."""

    def servings(self, endpoint: str) -> list[Serving]:
        """Each version that was stable of an endpoint, oldest first; also of a removed one.

        Raises:
            UnknownEndpoint: nothing of this name ever served.
        """
        query = select(t.servings).where(t.servings.c.endpoint == endpoint)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(t.servings.c.id)).all()
            if not rows:
                known = select(t.servings.c.endpoint).distinct().order_by(t.servings.c.endpoint)
                served = listed(connection.execute(known).scalars())
                raise UnknownEndpoint(f"no endpoint {shown(endpoint)}; ever deployed: {served}")
        return [from_row(Serving, row) for row in rows]

    def servings_of(self, model: str, version: int | None = None) -> list[Serving]:
        """Where a model, or one version of it, was stable, on any endpoint, oldest first."""
        query = select(t.servings).where(t.servings.c.model == model)
        if version is not None:
            query = query.where(t.servings.c.version == version)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(t.servings.c.id))
            return [from_row(Serving, row) for row in rows]

    def serving_at(self, endpoint: str, at_s: float) -> Serving | None:
        """What was stable at a time (Unix seconds); None if the endpoint was not deployed then."""
        query = select(t.servings).where(
            t.servings.c.endpoint == endpoint,
            t.servings.c.from_s <= at_s,
            t.servings.c.until_s.is_(None) | (t.servings.c.until_s > at_s),
        )
        with self._reading() as connection:
            row = connection.execute(query.order_by(t.servings.c.id.desc()).limit(1)).first()
        return None if row is None else from_row(Serving, row)


def last_model(connection: Connection, endpoint: str) -> str | None:
    """The model that an endpoint of this name served last; None if there never was one."""
    mine = select(t.servings.c.model).where(t.servings.c.endpoint == endpoint)
    return connection.execute(mine.order_by(t.servings.c.id.desc()).limit(1)).scalar()


def cleared_before(
    connection: Connection, endpoint: str, model: str, version: int
) -> dict[str, Any] | None:
    """What let a version serve on this endpoint when it did so before, if it may come back.

    None if it never served since the endpoint was deployed, was taken back when it last
    served, or served only because glass was broken.
    """
    query = (
        select(_EARLIER.c.cleared_by)
        .join(t.endpoints, t.endpoints.c.name == _EARLIER.c.endpoint)
        .where(
            _EARLIER.c.endpoint == endpoint,
            _EARLIER.c.model == model,
            _EARLIER.c.version == version,
            _GOOD,
        )
        .order_by(_EARLIER.c.id.desc())
        .limit(1)
    )
    found: dict[str, Any] | None = connection.execute(query).scalar()
    return found


def open_serving(connection: Connection, serving: Serving) -> None:
    """Write down that a version serves from now on; the one before must be closed."""
    row = serving.model_dump(mode="json")
    by_force = BREAK_GLASS in serving.cleared_by
    connection.execute(insert(t.servings).values(**row, break_glass=by_force))


def close_serving(connection: Connection, endpoint: str, at_s: float, bad: bool) -> None:
    """Write down that what served does so no more; `bad` if it was taken back."""
    current = (t.servings.c.endpoint == endpoint) & t.servings.c.until_s.is_(None)
    connection.execute(update(t.servings).where(current).values(until_s=at_s, bad=bad))
