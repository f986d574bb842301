"""One audited change: everything that may be written inside `Registry.change`."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from aios.errors import IllegalTransition, NotApproved, UnknownName, UsageError
from aios.records import Artifact, Clearance, EndpointSpec, ModelVersion, Serving, TrafficPlan
from aios.records.base import NAME_PATTERN
from aios.registry.agents import AgentWrites
from aios.registry.alerts import AlertWrites
from aios.registry.approvals import ApprovalWrites
from aios.registry.base import listed, shown, valid
from aios.registry.definitions import DefinitionWrites
from aios.registry.governed import GovernedWrites
from aios.registry.observed import forget_observed
from aios.registry.questions import QuestionWrites
from aios.registry.reads import Reads, newest_revision
from aios.registry.references import newest_version
from aios.registry.rows import ApiKey, RolloutRow, RolloutStatus, ServingCause
from aios.registry.runs import RunWrites
from aios.registry.servings import cleared_before, close_serving, last_model, open_serving
from aios.registry.subscriptions import SubscriptionWrites
from aios.registry.watches import WatchWrites
from aios.store import tables as t

Guard = Callable[[Reads, ModelVersion], Clearance]
"""Says whether a version may become stable now, from what the registry holds."""


class Change(
    GovernedWrites,
    ApprovalWrites,
    RunWrites,
    WatchWrites,
    AlertWrites,
    DefinitionWrites,
    AgentWrites,
    QuestionWrites,
    SubscriptionWrites,
    Reads,
):
    """An open change. All reads are here too, and see what the change has written so far.

    No other change runs meanwhile, so what was read is still true when the change commits.
    `done` is the remembered result if this operation was carried out before, else None; then
    nothing can be written: return `done` instead.
    """

    def __init__(
        self, connection: Connection, at_s: float, actor: str, guard: Guard | None
    ) -> None:
        self.at_s = at_s
        self.actor = actor
        self.done: dict[str, Any] | None = None
        self.result: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self.others: list[tuple[str, dict[str, Any]]] = []
        self._connection = connection
        self._guard = guard

    def remember(self, result: dict[str, Any]) -> None:
        """Keep the result under the change's operation id, for a repeated request."""
        self.result = result

    def note(self, **details: Any) -> None:
        """Add to the details of the audit entry what is known only now."""
        self.notes.update(details)

    def also(self, action: str, **details: Any) -> None:
        """Something else that this change does to its subject: an audit entry of its own."""
        self.others.append((action, details))

    def register(
        self,
        name: str,
        artifact: Artifact,
        contract: dict[str, Any],
        contract_digest: str,
        metrics: dict[str, float] | None = None,
        tags: dict[str, str] | None = None,
        lineage: dict[str, Any] | None = None,
        conversion: dict[str, Any] | None = None,
        created_by: str | None = None,
    ) -> ModelVersion:
        """Add the next version of a model, also when the same artifact is there already.

        Raises:
            UsageError: the name or a value cannot be taken.
        """
        version = valid(
            ModelVersion,
            name=name,
            version=(newest_version(self._open(), name) or 0) + 1,
            artifact=artifact,
            contract=contract,
            contract_digest=contract_digest,
            metrics=metrics or {},
            tags=tags or {},
            lineage=lineage or {},
            conversion=conversion or {},
            created_s=self.at_s,
            created_by=created_by or self.actor,
        )
        self._open().execute(insert(t.versions).values(**version.model_dump(mode="json")))
        self.note(version=version.version, artifact=artifact.digest)
        return version

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Let `name@alias` stand for a version, whatever it stood for before.

        Raises:
            UnknownModel: there is no such version.
            UsageError: the alias is not a name.
            NotApproved: it would be `stable`, is that of no endpoint, and is not cleared.
        """
        if not re.fullmatch(NAME_PATTERN, alias) or len(alias) > 63:
            raise UsageError(f"alias {shown(alias)} is not a name; use letters, digits, - and _")
        found = self.version(f"{name}:{version}")
        if alias == "stable" and not self._is_stable(name, version):
            self.require_clearance(found)
        here = (t.aliases.c.name == name) & (t.aliases.c.alias == alias)
        if not self._open().execute(update(t.aliases).where(here).values(version=version)).rowcount:
            row = {"name": name, "alias": alias, "version": version}
            self._open().execute(insert(t.aliases).values(**row))

    def require_clearance(self, version: ModelVersion) -> dict[str, Any]:
        """What lets this version become stable now, as a `Serving` keeps it.

        Raises:
            NotApproved: something is missing; the message and `details["missing"]` say all of it.
        """
        if self._guard is None:
            return {}
        clearance = self._guard(self, version)
        if not clearance.allowed:
            raise NotApproved(
                f"{version.ref} may not become stable (tier {clearance.tier}): "
                + "; ".join(clearance.missing),
                ref=version.ref,
                tier=clearance.tier,
                missing=list(clearance.missing),
            )
        return clearance.cleared_by

    def put_endpoint(
        self,
        spec: EndpointSpec,
        stable_version: int,
        *,
        rejected: bool = False,
        cause: ServingCause = "deploy",
    ) -> None:
        """Create an endpoint, or give it another spec or stable version. One that comes back with
        another model begins anew: what was seen of the one before is forgotten.

        A new stable version must be cleared, and a new `Serving` begins. Only a `rollback` to
        one that served here before by the rules, and was not taken back, needs no clearance:
        it must work at any time. `rejected` takes back the version that was stable: no
        rollback will lead to it before it is cleared and stable again.

        Raises:
            UnknownModel: there is no such version of the spec's model.
            NotApproved: the version is not cleared; says everything that is missing.
        """
        version = self.version(f"{spec.model}:{stable_version}")
        connection = self._open()
        table = t.endpoints
        old = connection.execute(select(table).where(table.c.name == spec.name)).first()
        if old is None and last_model(connection, spec.name) not in (None, spec.model):
            forget_observed(connection, spec.name)
        if old is None or (old.model, old.stable_version) != (spec.model, stable_version):
            self._serve(spec.name, version, rejected, cause)
        values: dict[str, Any] = {
            "spec": spec.model_dump(mode="json"),
            "model": spec.model,
            "stable_version": stable_version,
            "updated_s": self.at_s,
        }
        if old is None:
            new = {"name": spec.name, "created_s": self.at_s}
            connection.execute(insert(table).values(**new, **values))
        else:
            connection.execute(update(table).where(table.c.name == spec.name).values(**values))

    def remove_endpoint(self, name: str) -> None:
        """Remove an endpoint. Its plans, servings and rollouts stay as history.

        Raises:
            UnknownEndpoint: it is not deployed.
            IllegalTransition: a rollout runs on it.
        """
        self.endpoint(name)
        self._refuse_running(name, "removed")
        connection = self._open()
        close_serving(connection, name, self.at_s, bad=False)
        connection.execute(delete(t.endpoints).where(t.endpoints.c.name == name))

    def publish(self, plan: TrafficPlan) -> None:
        """Make a traffic plan the newest one of its endpoint.

        Revisions go on counting when an endpoint was removed and deployed again, so that a
        replica never mistakes an old plan for a new one.

        Raises:
            UnknownEndpoint: the endpoint is not deployed.
            IllegalTransition: the revision is not the current one plus one.
        """
        name = plan.spec.name
        self.endpoint(name)
        current = newest_revision(self._open(), name)
        if plan.revision != current + 1:
            raise IllegalTransition(
                f"plan of endpoint {name} has revision {plan.revision}, but the next one is "
                f"{current + 1}; make it again from the current plan"
            )
        self._open().execute(
            insert(t.plans).values(
                endpoint=name,
                revision=plan.revision,
                plan=plan.model_dump(mode="json"),
                at_s=self.at_s,
            )
        )
        self.note(revision=plan.revision)

    def create_rollout(self, rollout: RolloutRow) -> None:
        """Start a rollout.

        Raises:
            IllegalTransition: one runs on the endpoint already, or the id was used.
            UnknownEndpoint: the endpoint is not deployed.
            UnknownModel: one of the two versions does not exist.
        """
        model = self.endpoint(rollout.endpoint).spec.model
        for version in (rollout.from_version, rollout.to_version):
            self.version(f"{model}:{version}")
        self._refuse_running(rollout.endpoint, "given another one")
        try:
            self._open().execute(insert(t.rollouts).values(**rollout.model_dump(mode="json")))
        except IntegrityError:
            raise IllegalTransition(
                f"rollout {shown(rollout.id)} cannot be created: its id was used before"
            ) from None

    def save_rollout(
        self,
        rollout_id: str,
        status: RolloutStatus,
        state: dict[str, Any],
        reason: str | None = None,
        finished_s: float | None = None,
        *,
        stage: str | None = None,
    ) -> RolloutRow:
        """Move a running rollout on, or end it with a final status (`finished_s`: now).

        Raises:
            UnknownRollout: there is none with this id.
            IllegalTransition: it has ended already.
        """
        old = self.rollout(rollout_id)
        if old.status != "running":
            raise IllegalTransition(
                f"rollout {rollout_id} on {old.endpoint} has ended ({old.status}: {old.reason}); "
                "start a new one"
            )
        if status == "running":
            finished_s = None
        elif finished_s is None:
            finished_s = self.at_s
        fields = old.model_dump() | {
            "status": status,
            "state": state,
            "reason": old.reason if reason is None else reason,
            "finished_s": finished_s,
            "stage": old.stage if stage is None else stage,
        }
        new = valid(RolloutRow, **fields)
        self._open().execute(
            update(t.rollouts)
            .where(t.rollouts.c.id == rollout_id)
            .values(**new.model_dump(mode="json", exclude={"id"}))
        )
        return new

    def add_key(
        self, key_id: str, identity: str, digest: str, role: str, expires_s: float | None = None
    ) -> ApiKey:
        """Let a key call from now on, until `expires_s` (Unix seconds) if given.

        Raises:
            UsageError: the id or digest was used before, or a value cannot be taken.
        """
        key = valid(
            ApiKey,
            id=key_id,
            identity=identity,
            digest=digest,
            role=role,
            created_s=self.at_s,
            expires_s=expires_s,
        )
        same = (t.keys.c.id == key_id) | (t.keys.c.digest == digest)
        if self._open().execute(select(t.keys.c.id).where(same)).first():
            raise UsageError(f"key {shown(key_id)} was added before; make a new key")
        self._open().execute(insert(t.keys).values(**key.model_dump(mode="json")))
        return key

    def revoke_key(self, key_id: str) -> None:
        """Let a key never call again. Revoking it twice is no error.

        Raises:
            UnknownName: no key has this id; the message lists the ids in use.
        """
        here = t.keys.c.id == key_id
        if not self._open().execute(select(t.keys.c.id).where(here)).first():
            known = listed(key.id for key in self.keys())
            raise UnknownName(f"no key {shown(key_id)}; active: {known}")
        unrevoked = here & t.keys.c.revoked_s.is_(None)
        self._open().execute(update(t.keys).where(unrevoked).values(revoked_s=self.at_s))

    def _serve(
        self, endpoint: str, version: ModelVersion, rejected: bool, cause: ServingCause
    ) -> None:
        """Close what served on an endpoint and open what serves now, if it may."""
        connection = self._open()
        cleared_by = None
        if cause == "rollback":
            cleared_by = cleared_before(connection, endpoint, version.name, version.version)
        if cleared_by is None:
            cleared_by = self.require_clearance(version)
        serving = Serving(
            endpoint=endpoint,
            model=version.name,
            version=version.version,
            cause=cause,
            by=self.actor,
            cleared_by=cleared_by,
            from_s=self.at_s,
        )
        close_serving(connection, endpoint, self.at_s, bad=rejected)
        open_serving(connection, serving)
        if cleared_by:
            self.note(cleared_by=cleared_by)

    def _is_stable(self, model: str, version: int) -> bool:
        """Whether a version is the stable one of some endpoint, with what this change wrote."""
        here = (t.endpoints.c.model == model) & (t.endpoints.c.stable_version == version)
        query = select(t.endpoints.c.name).where(here)
        return self._open().execute(query).first() is not None

    def _refuse_running(self, endpoint: str, wish: str) -> None:
        for running in self.active_rollouts():
            if running.endpoint == endpoint:
                raise IllegalTransition(
                    f"rollout {running.id} ({running.from_version} -> {running.to_version}) runs "
                    f"on endpoint {endpoint}, which cannot be {wish} before it ends: "
                    "wait for it, promote it or abort it"
                )

    def _open(self) -> Connection:
        if self.done is not None:
            raise IllegalTransition(
                "this operation was carried out before; give back its remembered result"
            )
        if self._connection.closed:
            raise UsageError("this change is over; open a new one with registry.change(...)")
        return self._connection

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._borrowed()

    @contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        if self._connection.closed:
            raise UsageError("this change is over; read from the registry")
        yield self._connection

    def now_s(self) -> float:
        return self.at_s
