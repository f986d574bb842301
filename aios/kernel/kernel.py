"""The control plane as a plain class: commands in, desired state and audit entries out.

Every command that changes something is one registry transaction that also remembers its
result under the caller's operation id, so a command repeated after a crash is not carried
out twice. What runs is the reconciler's matter; how a rollout goes on is `RolloutDriver`'s.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from aios.clock import Clock
from aios.config import Settings
from aios.contracts import Contract, compatibility
from aios.errors import IllegalTransition, UnknownName, UsageError
from aios.flows import FlowEngine
from aios.kernel import metrics, serve_config, views
from aios.kernel.observations import Observations
from aios.kernel.reconcile import Reconciler, Serve
from aios.kernel.rollouts import RolloutDriver
from aios.kernel.traffic import next_plan, served
from aios.records import Artifact, EndpointSpec, WindowReport
from aios.registry import Registry, RolloutRow
from aios.rollout.plans import parse_plan
from aios.store.database import Database

Command = Callable[[str, str | None, dict[str, Any]], dict[str, Any]]


class Kernel:
    """One per cluster. `start` brings up its threads; `execute` is its only door.

    Args:
        settings: where the store, artifacts and logs are.
        serve: Ray Serve, or a fake of it.
        api_key: (identity, digest) of the key that `aios up` made.
    """

    def __init__(
        self, settings: Settings, serve: Serve, clock: Clock, api_key: tuple[str, str]
    ) -> None:
        self._settings = settings
        self._clock = clock
        database = Database(settings.store_url)
        database.upgrade()
        self.registry = Registry(database, clock)
        self._started_s = clock.now_s()
        self._ensure_key(*api_key)
        self._observations = Observations(clock)
        self._reconciler = Reconciler(self.desired, serve)
        flows = FlowEngine(_flows_url(settings), executor="kernel")
        self._rollouts = RolloutDriver(
            self.registry, self._observations, self._reconciler, flows, clock
        )
        self._commands: dict[str, Command] = {
            "register": self._register,
            "deploy": self._deploy,
            "remove": self._remove,
            "start_rollout": self._start_rollout,
            "command_rollout": self._command_rollout,
            "rollback": self._rollback,
        }
        self._queries: dict[str, Callable[..., Any]] = {
            "models": self._models,
            "model": lambda ref: self.registry.version(ref).model_dump(mode="json"),
            "endpoints": self._endpoints,
            "endpoint": lambda name: self._endpoint(name),
            "rollouts": self._list_rollouts,
            "rollout": self._rollout_status,
            "evidence": self._evidence,
            "series": lambda endpoint: self._observations.series(endpoint),
            "plans": lambda endpoint: [
                plan.model_dump(mode="json", exclude={"keys"})
                for plan in self.registry.plans(endpoint)
            ],
            "audit": lambda limit=100, subject=None: [
                entry.model_dump(mode="json") for entry in self.registry.audit(limit, subject)
            ],
            "status": self._status,
            "ps": self._ps,
            "metrics": lambda: metrics.render(self.registry, self._observations),
            "feedback": self._feedback,
        }

    def start(self) -> None:
        """Begin to reconcile, and go on with the rollouts that were running."""
        self._reconciler.start()
        self._rollouts.start()

    def close(self) -> None:
        self._rollouts.close()
        self._reconciler.stop()

    def report(self, report: WindowReport) -> None:
        """Take what a replica counted."""
        self._observations.add(report)

    def execute(
        self, command: str, arguments: Mapping[str, Any], actor: str, operation_id: str | None
    ) -> Any:
        """Carry out one command or query.

        Raises:
            AiosError: it cannot be done; the message says why and what to do.
        """
        try:
            if command in self._commands:
                return self._commands[command](actor, operation_id, dict(arguments))
            if command in self._queries:
                return self._queries[command](**arguments)
        except ValidationError as error:
            raise UsageError(_explain(error)) from error
        known = ", ".join(sorted({**self._commands, **self._queries}))
        raise UnknownName(f"no command {command[:60]!r}; there are: {known}")

    def desired(self) -> dict[str, Any]:
        """The Serve configuration that the registry asks for now."""
        keys = {key.digest: key.identity for key in self.registry.keys()}
        replica_settings = {
            "artifacts_url": self._settings.artifacts_url,
            "cache": str(self._settings.home / "cache"),
            "log_url": self._settings.log_url,
            "otlp_endpoint": self._settings.otlp_endpoint,
        }
        applications = [
            serve_config.api_application(
                keys,
                {
                    "artifacts_url": self._settings.artifacts_url,
                    "cache": str(self._settings.home / "cache"),
                },
            )
        ]
        for state in self.registry.endpoints():
            plan = self.registry.plan(state.spec.name)
            if plan is None:
                continue
            plan = plan.model_copy(update={"keys": tuple(sorted(keys))})
            applications.append(serve_config.endpoint_application(plan, replica_settings))
            wanted = self._rollouts.challengers(state.spec.name)
            for version in wanted:
                applications.append(
                    serve_config.challenger_application(
                        plan,
                        served(self.registry.version(f"{state.spec.model}:{version}")),
                        replica_settings,
                    )
                )
        return serve_config.serve_config(applications, self._settings.http_port)

    # -- commands ---------------------------------------------------------------------

    def _ensure_key(self, identity: str, digest: str) -> None:
        if any(key.digest == digest for key in self.registry.keys()):
            return
        with self.registry.change(actor="aios up", action="add_key", subject=identity) as change:
            change.add_key(f"{identity}-{digest[:8]}", identity, digest, "admin")

    def _register(
        self, actor: str, operation_id: str | None, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        name = str(arguments["name"])
        contract = Contract.from_json(arguments["contract"])
        with self.registry.change(
            actor=actor,
            action="register",
            subject=name,
            details={"contract": contract.digest},
            operation_id=operation_id,
        ) as change:
            if change.done is not None:
                return change.done
            version = change.register(
                name,
                Artifact.model_validate(arguments["artifact"]),
                contract.to_json(),
                contract.digest,
                metrics=arguments.get("metrics"),
                tags=arguments.get("tags"),
                lineage=arguments.get("lineage"),
                conversion=arguments.get("conversion"),
            )
            result = version.model_dump(mode="json")
            change.remember(result)
        return result

    def _deploy(
        self, actor: str, operation_id: str | None, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """Create an endpoint, or change its spec. Changing the version of one that runs is a
        rollout's work and refused here."""
        version = self.registry.version(str(arguments["version"]))
        spec = EndpointSpec.model_validate({**arguments["spec"], "model": version.name})
        with self.registry.change(
            actor=actor,
            action="deploy",
            subject=spec.name,
            details={"version": version.ref},
            operation_id=operation_id,
        ) as change:
            if change.done is not None:
                return change.done
            existing = {state.spec.name: state for state in change.endpoints()}.get(spec.name)
            if existing is not None:
                _refuse_other_version(existing.spec, existing.stable_version, version.name, version)
                if any(row.endpoint == spec.name for row in change.active_rollouts()):
                    raise IllegalTransition(
                        f"a rollout runs on endpoint {spec.name!r}; wait for it or abort it, "
                        "then deploy again"
                    )
            change.put_endpoint(spec, version.version)
            change.set_alias(version.name, "stable", version.version)
            change.publish(next_plan(change, spec, version))
            result = {"name": spec.name, "version": version.version}
            change.remember(result)
        self._reconciler.changed()
        return result

    def _remove(
        self, actor: str, operation_id: str | None, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        name = str(arguments["name"])
        with self.registry.change(
            actor=actor, action="remove", subject=name, operation_id=operation_id
        ) as change:
            if change.done is not None:
                return change.done
            change.remove_endpoint(name)
            change.remember({"name": name})
        self._observations.forget(name)
        self._reconciler.changed()
        return {"name": name}

    def _start_rollout(
        self, actor: str, operation_id: str | None, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        state = self.registry.endpoint(str(arguments["endpoint"]))
        plan = parse_plan(arguments["plan"])
        to = self.registry.version(str(arguments["version"]))
        now = self.registry.version(f"{state.spec.model}:{state.stable_version}")
        _refuse_unfit(state.spec, now.version, to)
        rollout_id = f"{state.spec.name}-{to.version}-{uuid4().hex[:8]}"
        with self.registry.change(
            actor=actor,
            action="rollout",
            subject=state.spec.name,
            details={"to": to.ref, "from": now.ref, "plan": plan.model_dump(mode="json")},
            operation_id=operation_id,
        ) as change:
            if change.done is not None:
                return change.done
            reasons = compatibility(
                Contract.from_json(now.contract), Contract.from_json(to.contract)
            )
            if reasons:
                raise UsageError(
                    f"{to.ref} cannot replace {now.ref}, its contract is narrower: "
                    + "; ".join(reasons)
                )
            change.create_rollout(
                RolloutRow(
                    id=rollout_id,
                    endpoint=state.spec.name,
                    from_version=now.version,
                    to_version=to.version,
                    plan=plan.model_dump(mode="json"),
                    stage="starting",
                    state=self._rollouts.first_state(plan, rollout_id),
                    created_s=change.at_s,
                    created_by=actor,
                )
            )
            result = {"id": rollout_id}
            change.remember(result)
        self._rollouts.drive(rollout_id)
        self._reconciler.changed()
        return result

    def _command_rollout(
        self, actor: str, operation_id: str | None, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        row = self.registry.rollout(str(arguments["id"]))
        command, reason = str(arguments["command"]), str(arguments.get("reason") or "")
        with (
            self._rollouts.deciding,
            self.registry.change(
                actor=actor,
                action=f"{command}_rollout",
                subject=row.endpoint,
                details={"rollout": row.id, "reason": reason},
                operation_id=operation_id,
            ) as change,
        ):
            if change.done is not None:
                return change.done
            result = self._rollouts.command(change, row.id, command, reason)
            change.remember(result)
        self._rollouts.wake(row.id)
        return result

    def _rollback(
        self, actor: str, operation_id: str | None, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """Back to what users had before: end the running rollout, or undo the last promotion."""
        name, reason = str(arguments["endpoint"]), str(arguments.get("reason") or "")
        with (
            self._rollouts.deciding,
            self.registry.change(
                actor=actor,
                action="rollback",
                subject=name,
                details={"reason": reason},
                operation_id=operation_id,
            ) as change,
        ):
            if change.done is not None:
                return change.done
            state = change.endpoint(name)
            running = [row for row in change.active_rollouts() if row.endpoint == name]
            if running:
                self._rollouts.command(change, running[0].id, "abort", reason or "rolled back")
                target = state.stable_version
            elif state.previous_version is None:
                raise IllegalTransition(
                    f"endpoint {name!r} has served only version {state.stable_version}; "
                    "there is nothing to roll back to"
                )
            else:
                target = state.previous_version
                version = change.version(f"{state.spec.model}:{target}")
                change.put_endpoint(state.spec, target)
                change.set_alias(state.spec.model, "stable", target)
                change.publish(next_plan(change, state.spec, version))
            result = {"endpoint": name, "version": target, "at_s": change.at_s}
            change.remember(result)
        self._reconciler.changed()
        for row in running:
            self._rollouts.wake(row.id)
        return result

    # -- queries ----------------------------------------------------------------------

    def _models(self, name: str | None = None) -> list[dict[str, Any]]:
        return [version.model_dump(mode="json") for version in self.registry.versions(name)]

    def _endpoint(self, name: str) -> dict[str, Any]:
        state = self.registry.endpoint(name)
        return views.endpoint(
            state,
            self.registry.plan(name),
            self._observations,
            self._reconciler.statuses(),
            self._reconciler.problem,
        )

    def _endpoints(self) -> list[dict[str, Any]]:
        return [self._endpoint(state.spec.name) for state in self.registry.endpoints()]

    def _list_rollouts(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        if endpoint is not None:
            self.registry.endpoint(endpoint)
        return [self._rollouts.view(row) for row in self.registry.rollouts(endpoint)]

    def _rollout_status(self, id: str) -> dict[str, Any]:
        return self._rollouts.view(self.registry.rollout(id))

    def _evidence(self, id: str) -> list[dict[str, Any]]:
        self.registry.rollout(id)
        return [item.model_dump(mode="json") for item in self.registry.evidence(id)]

    def _status(self) -> dict[str, Any]:
        return {
            "started_s": self._started_s,
            "now_s": self._clock.now_s(),
            "models": len({version.name for version in self.registry.versions()}),
            "versions": len(self.registry.versions()),
            "endpoints": self._endpoints(),
            "rollouts": [self._rollouts.view(row) for row in self.registry.active_rollouts()],
            "problem": self._reconciler.problem,
        }

    def _ps(self) -> list[dict[str, Any]]:
        return views.processes(
            self._started_s,
            os.getpid(),
            self._reconciler.statuses(),
            self.registry,
            self._observations,
        )

    def _feedback(self, endpoint: str, answers: list[dict[str, Any]]) -> dict[str, Any]:
        self.registry.endpoint(endpoint)
        return {"taken": self._observations.feedback(endpoint, answers)}


def _refuse_other_version(
    spec: EndpointSpec, stable: int, model: str, version: Any
) -> None:
    if spec.model != model or stable != version.version:
        raise IllegalTransition(
            f"endpoint {spec.name!r} serves {spec.model}:{stable}; to bring {version.ref} to its "
            f'users use rt.rollout("{spec.name}", "{version.ref}", aios.Canary(...))'
        )


def _refuse_unfit(spec: EndpointSpec, stable: int, to: Any) -> None:
    if to.name != spec.model:
        raise UsageError(
            f"endpoint {spec.name!r} serves the model {spec.model!r}; {to.ref} is another model"
        )
    if to.version == stable:
        raise UsageError(f"{to.ref} is the stable version of {spec.name!r} already")


def _flows_url(settings: Settings) -> str:
    """DBOS's tables stand beside ours in PostgreSQL; in SQLite they get a file of their own,
    since each file has one writer at a time."""
    if settings.store_url.startswith("sqlite"):
        Path(settings.home).mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{settings.home}/flows.db"
    return settings.store_url.replace("postgresql://", "postgresql+psycopg://", 1)


def _explain(error: ValidationError) -> str:
    faults = [
        f"{'.'.join(str(part) for part in fault['loc']) or 'value'}: {fault['msg']}"
        for fault in error.errors(include_url=False)[:5]
    ]
    return "; ".join(faults)


