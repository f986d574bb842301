"""All questions to the registry: the same in and outside a change."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, Row, func, select

from aios.errors import StoreCorrupt, UnknownEndpoint, UnknownModel, UnknownRollout, UsageError
from aios.records import ModelVersion, Record, TrafficPlan
from aios.registry.rows import ApiKey, AuditEntry, EndpointState, Evidence, RolloutRow
from aios.store import tables as t

_Kind = TypeVar("_Kind", bound=Record)

_LARGEST_VERSION = 2**31 - 1
"""What an INTEGER column of PostgreSQL holds; a greater number cannot exist."""

_SHOWN_NAMES = 20


class Reads(ABC):
    """Queries over one connection at a time; where it comes from is the subclass's matter."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Connection]:
        """A connection on a consistent snapshot."""

    @abstractmethod
    def _now_s(self) -> float:
        """Wall time in Unix seconds."""

    def version(self, reference: str) -> ModelVersion:
        """The version that `loan:7`, `loan@stable` (an alias) or `loan` (the newest) names.

        Raises:
            UnknownModel: there is none; the message lists what there is.
        """
        with self._reading() as connection:
            name, number = _resolve(connection, reference)
            query = select(t.versions).where(
                t.versions.c.name == name, t.versions.c.version == number
            )
            row = connection.execute(query).first()
            if row is None:
                _unknown_version(connection, name, number)
            return from_row(ModelVersion, row)

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """All versions of a model, or of all models, oldest first.

        Raises:
            UnknownModel: no model has this name.
        """
        query = select(t.versions).order_by(t.versions.c.name, t.versions.c.version)
        if name is not None:
            query = query.where(t.versions.c.name == name)
        with self._reading() as connection:
            found = [from_row(ModelVersion, row) for row in connection.execute(query)]
            if name is not None and not found:
                _unknown_model(connection, name)
        return found

    def aliases(self, name: str) -> dict[str, int]:
        """The aliases of a model and the versions they stand for.

        Raises:
            UnknownModel: no model has this name.
        """
        with self._reading() as connection:
            if newest_version(connection, name) is None:
                _unknown_model(connection, name)
            return _aliases(connection, name)

    def endpoint(self, name: str) -> EndpointState:
        """The desired state of an endpoint.

        Raises:
            UnknownEndpoint: it is not deployed; the message lists those that are.
        """
        with self._reading() as connection:
            row = connection.execute(_endpoints_query().where(t.endpoints.c.name == name)).first()
            if row is None:
                _unknown_endpoint(connection, name)
            return from_row(EndpointState, row)

    def endpoints(self) -> list[EndpointState]:
        """The desired state of all endpoints, by name."""
        with self._reading() as connection:
            rows = connection.execute(_endpoints_query().order_by(t.endpoints.c.name))
            return [from_row(EndpointState, row) for row in rows]

    def plan(self, name: str) -> TrafficPlan | None:
        """The newest traffic plan of an endpoint; None if none was published yet.

        Raises:
            UnknownEndpoint: it is not deployed.
        """
        self.endpoint(name)
        query = select(t.plans.c.plan).where(t.plans.c.endpoint == name)
        with self._reading() as connection:
            newest = query.order_by(t.plans.c.revision.desc()).limit(1)
            found = connection.execute(newest).scalar()
        return None if found is None else record(TrafficPlan, found)

    def plans(self, name: str) -> list[TrafficPlan]:
        """All traffic plans that ever were, oldest first; also of an endpoint that was removed.

        Raises:
            UnknownEndpoint: there is neither an endpoint nor a plan of that name.
        """
        query = (
            select(t.plans.c.plan).where(t.plans.c.endpoint == name).order_by(t.plans.c.revision)
        )
        with self._reading() as connection:
            found = [record(TrafficPlan, plan) for plan in connection.execute(query).scalars()]
        if not found:
            self.endpoint(name)
        return found

    def rollout(self, rollout_id: str) -> RolloutRow:
        """A rollout, running or finished.

        Raises:
            UnknownRollout: none has this id; the message lists those that run.
        """
        with self._reading() as connection:
            query = select(t.rollouts).where(t.rollouts.c.id == rollout_id)
            row = connection.execute(query).first()
        if row is None:
            running = listed(f"{one.id} on {one.endpoint}" for one in self.active_rollouts())
            raise UnknownRollout(f"no rollout {shown(rollout_id)}; running: {running}")
        return from_row(RolloutRow, row)

    def rollouts(self, endpoint: str | None = None) -> list[RolloutRow]:
        """All rollouts of an endpoint, or of all endpoints, oldest first."""
        query = select(t.rollouts).order_by(t.rollouts.c.created_s, t.rollouts.c.id)
        if endpoint is not None:
            query = query.where(t.rollouts.c.endpoint == endpoint)
        with self._reading() as connection:
            return [from_row(RolloutRow, row) for row in connection.execute(query)]

    def active_rollouts(self) -> list[RolloutRow]:
        """The rollouts that run, at most one per endpoint, oldest first."""
        query = (
            select(t.rollouts)
            .where(t.rollouts.c.status == "running")
            .order_by(t.rollouts.c.created_s, t.rollouts.c.id)
        )
        with self._reading() as connection:
            return [from_row(RolloutRow, row) for row in connection.execute(query)]

    def evidence(self, rollout_id: str) -> list[Evidence]:
        """What was written down for a rollout, in the order it was added."""
        columns = (t.evidence.c.era, t.evidence.c.at_s, t.evidence.c.payload)
        query = (
            select(*columns).where(t.evidence.c.rollout_id == rollout_id).order_by(t.evidence.c.id)
        )
        with self._reading() as connection:
            return [from_row(Evidence, row) for row in connection.execute(query)]

    def keys(self) -> list[ApiKey]:
        """The API keys that may call now: neither revoked nor expired."""
        columns = [t.keys.c[name] for name in ApiKey.model_fields]
        query = select(*columns).where(
            t.keys.c.revoked_s.is_(None),
            t.keys.c.expires_s.is_(None) | (t.keys.c.expires_s > self._now_s()),
        )
        with self._reading() as connection:
            return [
                from_row(ApiKey, row) for row in connection.execute(query.order_by(t.keys.c.id))
            ]

    def audit(self, limit: int = 100, subject: str | None = None) -> list[AuditEntry]:
        """The newest audit entries, newest first, of one subject or of all."""
        columns = [t.audit.c[name] for name in AuditEntry.model_fields]
        query = select(*columns).order_by(t.audit.c.seq.desc()).limit(max(0, limit))
        if subject is not None:
            query = query.where(t.audit.c.subject == subject)
        with self._reading() as connection:
            return [_audit_entry(row) for row in connection.execute(query)]

    def remembered(
        self, operation_id: str, request_digest: str | None = None
    ) -> dict[str, Any] | None:
        """The result of an operation that was carried out already, else None.

        Raises:
            UsageError: the id was used for another request (if its digest is given).
        """
        query = select(t.operations.c.request_digest, t.operations.c.result)
        with self._reading() as connection:
            row = connection.execute(query.where(t.operations.c.id == operation_id)).first()
        if row is None:
            return None
        if request_digest not in (None, row.request_digest):
            raise UsageError(
                f"operation id {shown(operation_id)} was used for another request; "
                "make a new id for each new request"
            )
        result: dict[str, Any] = row.result
        return result


def newest_version(connection: Connection, name: str) -> int | None:
    """The highest version number of a model; None if there is no such model."""
    query = select(func.max(t.versions.c.version)).where(t.versions.c.name == name)
    return connection.execute(query).scalar()


def newest_revision(connection: Connection, endpoint: str) -> int:
    """The revision of the newest plan under that name, also of a removed endpoint; 0 if none."""
    query = select(func.max(t.plans.c.revision)).where(t.plans.c.endpoint == endpoint)
    return connection.execute(query).scalar() or 0


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
    """A record from a row whose columns have the names of its fields."""
    return record(kind, row._asdict())


def _audit_entry(row: Row[*tuple[Any, ...]]) -> AuditEntry:
    fields = row._asdict()
    try:
        fields["details"] = json.loads(fields["details"])
    except ValueError:
        raise StoreCorrupt(f"audit entry {row.seq} was damaged; verify the audit log") from None
    return record(AuditEntry, fields)


def _endpoints_query() -> Any:
    revision = (
        select(func.coalesce(func.max(t.plans.c.revision), 0))
        .where(t.plans.c.endpoint == t.endpoints.c.name)
        .scalar_subquery()
        .label("revision")
    )
    names = ("spec", "stable_version", "previous_version", "created_s", "updated_s")
    return select(*(t.endpoints.c[name] for name in names), revision)


def _resolve(connection: Connection, reference: str) -> tuple[str, int]:
    if match := re.fullmatch(r"([^:@]+):([0-9]{1,10})", reference):
        number = int(match[2])
        if number > _LARGEST_VERSION:
            _unknown_version(connection, match[1], number)
        return match[1], number
    name, at, alias = reference.partition("@")
    newest = newest_version(connection, name)
    if newest is None:
        _unknown_model(connection, name)
    if not at:
        return name, newest
    found = _aliases(connection, name)
    if alias not in found:
        raise UnknownModel(
            f"model {name} has no alias {shown(alias)}; it has: {listed(sorted(found))}"
        )
    return name, found[alias]


def _aliases(connection: Connection, name: str) -> dict[str, int]:
    query = select(t.aliases.c.alias, t.aliases.c.version).where(t.aliases.c.name == name)
    return {row.alias: row.version for row in connection.execute(query.order_by(t.aliases.c.alias))}


def _unknown_model(connection: Connection, name: str) -> NoReturn:
    query = select(t.versions.c.name).distinct().order_by(t.versions.c.name)
    known = listed(connection.execute(query).scalars())
    raise UnknownModel(f"no model {shown(name)}; registered: {known}")


def _unknown_version(connection: Connection, name: str, number: int) -> NoReturn:
    newest = newest_version(connection, name)
    if newest is None:
        _unknown_model(connection, name)
    there = "1" if newest == 1 else f"1 to {newest}"
    raise UnknownModel(f"model {name} has no version {number}; it has {there}")


def _unknown_endpoint(connection: Connection, name: str) -> NoReturn:
    query = select(t.endpoints.c.name).order_by(t.endpoints.c.name)
    known = listed(connection.execute(query).scalars())
    raise UnknownEndpoint(f"no endpoint {shown(name)}; deployed: {known}")
