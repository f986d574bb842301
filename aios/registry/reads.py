"""All questions to the registry: the same in and outside a change."""

import json
from typing import Any, NoReturn

from sqlalchemy import Connection, Row, func, select

from aios.errors import StoreCorrupt, UnknownEndpoint, UnknownRollout, UsageError
from aios.records import ModelVersion, TrafficPlan
from aios.registry.agents import AgentReads
from aios.registry.approvals import ApprovalReads
from aios.registry.base import from_row, listed, record, shown
from aios.registry.definitions import DefinitionReads
from aios.registry.governed import GovernedReads
from aios.registry.questions import QuestionReads
from aios.registry.references import aliases_of, require_model, version_row
from aios.registry.rows import ApiKey, AuditEntry, EndpointState, Evidence, RolloutRow
from aios.registry.runs import RunReads
from aios.registry.servings import PREVIOUS_VERSION, ServingReads
from aios.registry.subscriptions import SubscriptionReads
from aios.registry.watches import WatchReads
from aios.store import tables as t

_ENDPOINTS = select(
    *(t.endpoints.c[name] for name in ("spec", "stable_version", "created_s", "updated_s")),
    PREVIOUS_VERSION,
    select(func.coalesce(func.max(t.plans.c.revision), 0))
    .where(t.plans.c.endpoint == t.endpoints.c.name)
    .scalar_subquery()
    .label("revision"),
)


class Reads(
    GovernedReads,
    ApprovalReads,
    RunReads,
    ServingReads,
    WatchReads,
    DefinitionReads,
    AgentReads,
    QuestionReads,
    SubscriptionReads,
):
    """Everything that can be asked."""

    def version(self, reference: str) -> ModelVersion:
        """The version that `loan:7`, `loan@stable` (an alias) or `loan` (the newest) names.

        Raises:
            UnknownModel: there is none; the message lists what there is.
        """
        with self._reading() as connection:
            return from_row(ModelVersion, version_row(connection, reference))

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
                require_model(connection, name)
        return found

    def aliases(self, name: str) -> dict[str, int]:
        """The aliases of a model and the versions they stand for.

        Raises:
            UnknownModel: no model has this name.
        """
        with self._reading() as connection:
            require_model(connection, name)
            return aliases_of(connection, name)

    def endpoint(self, name: str) -> EndpointState:
        """The desired state of an endpoint.

        Raises:
            UnknownEndpoint: it is not deployed; the message lists those that are.
        """
        with self._reading() as connection:
            row = connection.execute(_ENDPOINTS.where(t.endpoints.c.name == name)).first()
            if row is None:
                _unknown_endpoint(connection, name)
            return from_row(EndpointState, row)

    def endpoints(self) -> list[EndpointState]:
        """The desired state of all endpoints, by name."""
        with self._reading() as connection:
            rows = connection.execute(_ENDPOINTS.order_by(t.endpoints.c.name))
            return [from_row(EndpointState, row) for row in rows]

    def rollback_target(self, endpoint: str) -> int | None:
        """The version that a rollback of an endpoint leads to; see `EndpointState`.

        Raises:
            UnknownEndpoint: it is not deployed.
        """
        return self.endpoint(endpoint).previous_version

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

    def identities(self) -> list[str]:
        """Everybody who ever had an API key."""
        query = select(t.keys.c.identity).distinct()
        with self._reading() as connection:
            return [str(identity) for identity in connection.execute(query).scalars()]

    def keys(self) -> list[ApiKey]:
        """The API keys that may call now: neither revoked nor expired."""
        columns = [t.keys.c[name] for name in ApiKey.model_fields]
        query = select(*columns).where(
            t.keys.c.revoked_s.is_(None),
            t.keys.c.expires_s.is_(None) | (t.keys.c.expires_s > self.now_s()),
        )
        with self._reading() as connection:
            return [
                from_row(ApiKey, row) for row in connection.execute(query.order_by(t.keys.c.id))
            ]

    def knows_key(self, digest: str) -> bool:
        """Whether this key was ever added, also if it was revoked or has expired since."""
        with self._reading() as connection:
            query = select(t.keys.c.id).where(t.keys.c.digest == digest)
            return connection.execute(query).first() is not None

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


def newest_revision(connection: Connection, endpoint: str) -> int:
    """The revision of the newest plan under that name, also of a removed endpoint; 0 if none."""
    query = select(func.max(t.plans.c.revision)).where(t.plans.c.endpoint == endpoint)
    return connection.execute(query).scalar() or 0


def _audit_entry(row: Row[*tuple[Any, ...]]) -> AuditEntry:
    fields = row._asdict()
    try:
        fields["details"] = json.loads(fields["details"])
    except ValueError:
        raise StoreCorrupt(f"audit entry {row.seq} was damaged; verify the audit log") from None
    return record(AuditEntry, fields)


def _unknown_endpoint(connection: Connection, name: str) -> NoReturn:
    query = select(t.endpoints.c.name).order_by(t.endpoints.c.name)
    known = listed(connection.execute(query).scalars())
    raise UnknownEndpoint(f"no endpoint {shown(name)}; deployed: {known}")
