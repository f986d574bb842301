"""One audited change: everything that may be written inside `Registry.change`."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from aios.errors import IllegalTransition, UnknownName, UsageError
from aios.records import Artifact, EndpointSpec, ModelVersion, Record, TrafficPlan
from aios.records.base import NAME_PATTERN
from aios.registry.reads import Reads, listed, newest_revision, newest_version, shown
from aios.registry.rows import ApiKey, RolloutRow, RolloutStatus
from aios.store import tables as t

_Kind = TypeVar("_Kind", bound=Record)


class Change(Reads):
    """An open change. All reads are here too, and see what the change has written so far.

    No other change runs meanwhile, so what was read is still true when the change commits.
    `done` is the remembered result if this operation was carried out before, else None; then
    nothing can be written: return `done` instead.
    """

    def __init__(
        self, connection: Connection, at_s: float, actor: str, done: dict[str, Any] | None
    ) -> None:
        self.at_s = at_s
        self.actor = actor
        self.done = done
        self.result: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self._connection = connection

    def remember(self, result: dict[str, Any]) -> None:
        """Keep the result under the change's operation id, for a repeated request."""
        self.result = result

    def note(self, **details: Any) -> None:
        """Add to the details of the audit entry what is known only now."""
        self.notes.update(details)

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
        version = _valid(
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
        """
        if not re.fullmatch(NAME_PATTERN, alias) or len(alias) > 63:
            raise UsageError(f"alias {shown(alias)} is not a name; use letters, digits, - and _")
        self.version(f"{name}:{version}")
        here = (t.aliases.c.name == name) & (t.aliases.c.alias == alias)
        if not self._open().execute(update(t.aliases).where(here).values(version=version)).rowcount:
            row = {"name": name, "alias": alias, "version": version}
            self._open().execute(insert(t.aliases).values(**row))

    def put_endpoint(
        self, spec: EndpointSpec, stable_version: int, *, rejected: bool = False
    ) -> None:
        """Create an endpoint, or give it another spec or stable version.

        The version that was stable becomes the previous one; if it was `rejected`, there is
        none afterwards, because a rollback must never lead to it.

        Raises:
            UnknownModel: there is no such version of the spec's model.
        """
        self.version(f"{spec.model}:{stable_version}")
        connection = self._open()
        table = t.endpoints
        values: dict[str, Any] = {
            "spec": spec.model_dump(mode="json"),
            "model": spec.model,
            "stable_version": stable_version,
            "updated_s": self.at_s,
        }
        old = connection.execute(select(table).where(table.c.name == spec.name)).first()
        if old is None:
            new = {"name": spec.name, "previous_version": None, "created_s": self.at_s}
            connection.execute(insert(table).values(**new, **values))
            return
        if old.model != spec.model:
            values["previous_version"] = None
        elif old.stable_version != stable_version:
            values["previous_version"] = None if rejected else old.stable_version
        connection.execute(update(table).where(table.c.name == spec.name).values(**values))

    def remove_endpoint(self, name: str) -> None:
        """Remove an endpoint. Its plans and rollouts stay as history.

        Raises:
            UnknownEndpoint: it is not deployed.
            IllegalTransition: a rollout runs on it.
        """
        self.endpoint(name)
        self._refuse_running(name, "removed")
        self._open().execute(delete(t.endpoints).where(t.endpoints.c.name == name))

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
        new = _valid(RolloutRow, **fields)
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
        key = _valid(
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

    def _now_s(self) -> float:
        return self.at_s


def _valid(kind: type[_Kind], **fields: Any) -> _Kind:
    try:
        return kind(**fields)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UsageError(
            f"{kind.__name__}: {where} = {shown(str(fault['input']))}: {fault['msg']}"
        ) from None
