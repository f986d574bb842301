"""Commands and queries about endpoints: what they serve, and how that changes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from uuid import uuid4

from aios.contracts import Contract
from aios.errors import Forbidden, IllegalTransition
from aios.kernel import requests, views
from aios.kernel.checks import (
    refuse_absent_gpu,
    refuse_other_model,
    refuse_other_version,
    refuse_unfit,
    refuse_unfit_defaults,
)
from aios.kernel.clearing import policy_of
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.observations import Observations
from aios.kernel.reconcile import Reconciler
from aios.kernel.registering import refuse_prohibited
from aios.kernel.rollouts import RolloutDriver
from aios.kernel.traffic import next_plan
from aios.records import EndpointSpec
from aios.registry import Registry, RolloutRow
from aios.rollout.plans import Shadow, parse_plan
from aios.security import Caller, permits


class EndpointCommands:
    """Versions are registered, endpoints deployed, and rollouts lead from one to the next.

    Args:
        rollouts: goes on with what is begun here.
        most_gpus: what a node has at most; None where that is not known, or may grow.
        reconciler: told of every change; knows what runs.
    """

    def __init__(
        self,
        registry: Registry,
        observations: Observations,
        reconciler: Reconciler,
        rollouts: RolloutDriver,
        most_gpus: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._observations = observations
        self._reconciler = reconciler
        self._rollouts = rollouts
        self._most_gpus = most_gpus
        self.commands: Commands = {
            "register": (requests.Register, self._register),
            "deploy": (requests.Deploy, self._deploy),
            "remove": (requests.OfName, self._remove),
            "start_rollout": (requests.StartRollout, self._start_rollout),
            "command_rollout": (requests.CommandRollout, self._command_rollout),
            "rollback": (requests.Rollback, self._rollback),
            "measure": (requests.OfName, self._measure),
        }
        self.queries: Queries = {
            "endpoints": (requests.Nothing, self.endpoints),
            "endpoint": (requests.OfName, self._endpoint),
            "rollouts": (requests.MaybeEndpoint, self._list_rollouts),
            "rollout": (requests.OfId, self._rollout_status),
            "evidence": (requests.OfId, partial(views.evidence, registry)),
            "series": (requests.OfEndpoint, observations.series),
            "plans": (requests.OfEndpoint, partial(views.plans, registry)),
        }

    def _register(self, request: requests.Register, asked: Asked) -> dict[str, Any]:
        contract = Contract.from_json(request.contract)
        with asked.change(
            self._registry, "register", request.name, contract=contract.digest
        ) as change:
            if change.done is not None:
                return change.done
            refuse_prohibited(policy_of(change), request.name, change.profile(request.name).use)
            version = change.register(
                request.name,
                request.artifact,
                contract.to_json(),
                contract.digest,
                metrics=request.metrics,
                tags=request.tags,
                lineage=request.lineage,
                conversion=request.conversion,
            )
            result = version.model_dump(mode="json")
            change.remember(result)
        return result

    def _deploy(self, request: requests.Deploy, asked: Asked) -> dict[str, Any]:
        """Create an endpoint, or change its spec. Changing the version of one that runs is a
        rollout's work and refused here."""
        version = self._registry.version(request.version)
        spec = requests.read(
            EndpointSpec, {**request.spec, "model": version.name}, "the endpoint's spec"
        )
        refuse_absent_gpu(spec, self._most_gpus())
        with asked.change(self._registry, "deploy", spec.name, version=version.ref) as change:
            if change.done is not None:
                return change.done
            existing = {state.spec.name: state for state in change.endpoints()}.get(spec.name)
            if existing is not None:
                refuse_other_version(existing.spec, existing.stable_version, version)
                if any(row.endpoint == spec.name for row in change.active_rollouts()):
                    raise IllegalTransition(
                        f"a rollout runs on endpoint {spec.name!r}; wait for it or abort it, "
                        "then deploy again"
                    )
            else:
                refuse_other_model(change, spec, asked)
            refuse_unfit_defaults(spec, Contract.from_json(version.contract))
            change.put_endpoint(spec, version.version)
            change.set_alias(version.name, "stable", version.version)
            change.publish(next_plan(change, spec, version))
            result = {"name": spec.name, "version": version.version}
            change.remember(result)
        self._reconciler.changed()
        return result

    def _remove(self, request: requests.OfName, asked: Asked) -> dict[str, Any]:
        name = request.name
        with asked.change(self._registry, "remove", name) as change:
            if change.done is not None:
                return change.done
            change.remove_endpoint(name)
            change.remember({"name": name})
        self._observations.forget(name)
        self._reconciler.changed()
        return {"name": name}

    def _start_rollout(self, request: requests.StartRollout, asked: Asked) -> dict[str, Any]:
        state = self._registry.endpoint(request.endpoint)
        plan = parse_plan(request.plan)
        to = self._registry.version(request.version)
        told = {"to": to.ref, "plan": plan.model_dump(mode="json")}
        with asked.change(self._registry, "rollout", state.spec.name, **told) as change:
            if change.done is not None:
                return change.done
            state = change.endpoint(state.spec.name)
            now = change.version(f"{state.spec.model}:{state.stable_version}")
            refuse_unfit(state.spec, now, to)
            if isinstance(plan, Shadow):
                # Its answers reach nobody; everything else must be allowed to serve.
                refuse_prohibited(policy_of(change), to.name, change.profile(to.name).use)
            else:
                change.require_clearance(to)
            row = RolloutRow(
                id=f"{state.spec.name}-{to.version}-{uuid4().hex[:8]}",
                endpoint=state.spec.name,
                from_version=now.version,
                to_version=to.version,
                plan=plan.model_dump(mode="json"),
                stage="starting",
                created_s=change.at_s,
                created_by=asked.actor,
            )
            row = row.model_copy(update={"state": self._rollouts.first_state(plan, row.id)})
            change.note(**{"from": now.ref, "rollout": row.id})
            change.create_rollout(row)
            change.remember({"id": row.id})
        self._rollouts.drive(row.id)
        self._reconciler.changed()
        return {"id": row.id}

    def roll_out_run(
        self, endpoint: str, ref: str, plan: dict[str, Any], identity: str, operation_id: str
    ) -> str:
        """The rollout that a training run asked for, on behalf of who started the run."""
        active = self._registry.keys()
        if not any(permits(key.role, "rollout") for key in active if key.identity == identity):
            raise Forbidden(
                f"{identity}, who asked for the rollout, has no key any more that may start one; "
                "somebody else must"
            )
        fields = {"endpoint": endpoint, "version": ref, "plan": plan}
        asked = Asked.of(Caller(identity, "deployer"), "start_rollout", fields, operation_id)
        done = self._registry.remembered(operation_id, asked.digest)
        if done is not None:
            self.drive_again(done)
        found = done or self._start_rollout(requests.StartRollout(**fields), asked)
        return str(found["id"])

    def drive_again(self, done: Mapping[str, Any]) -> None:
        """Go on with a rollout whose start is asked for again: the first time may have ended
        between the row and its flow."""
        self._rollouts.drive(done["id"])

    def _command_rollout(self, request: requests.CommandRollout, asked: Asked) -> dict[str, Any]:
        endpoint = self._registry.rollout(request.id).endpoint
        command, reason = request.command, request.reason or ""
        told = {"rollout": request.id, "reason": reason}
        with (
            self._rollouts.deciding,
            asked.change(self._registry, f"{command}_rollout", endpoint, **told) as change,
        ):
            if change.done is not None:
                return change.done
            result = self._rollouts.command(change, request.id, command, reason)
            change.remember(result)
        self._rollouts.wake(request.id)
        return result

    def _rollback(self, request: requests.Rollback, asked: Asked) -> dict[str, Any]:
        """Back to what users had before: end the running rollout, or undo the last promotion."""
        name, reason = request.endpoint, request.reason or ""
        with (
            self._rollouts.deciding,
            asked.change(self._registry, "rollback", name, reason=reason) as change,
        ):
            if change.done is not None:
                return change.done
            state = change.endpoint(name)
            running = [row for row in change.active_rollouts() if row.endpoint == name]
            if running:
                self._rollouts.command(change, running[0].id, "abort", reason or "rolled back")
                target = change.endpoint(name).stable_version
            elif state.previous_version is None:
                raise IllegalTransition(
                    f"endpoint {name!r} serves version {state.stable_version} and has no "
                    "promotion to undo; to change it start a rollout"
                )
            else:
                target = state.previous_version
                version = change.version(f"{state.spec.model}:{target}")
                change.put_endpoint(state.spec, target, rejected=True, cause="rollback")
                change.set_alias(state.spec.model, "stable", target)
                change.publish(next_plan(change, state.spec, version))
            result = {"endpoint": name, "version": target, "at_s": change.at_s}
            change.remember(result)
        self._reconciler.changed()
        for row in running:
            self._rollouts.wake(row.id)
        return result

    def _measure(self, request: requests.OfName, asked: Asked) -> dict[str, Any]:
        """Note who is about to put load on an endpoint; the load itself comes from his machine."""
        with asked.change(self._registry, "measure", request.name) as change:
            if change.done is not None:
                return change.done
            state = change.endpoint(request.name)
            version = f"{state.spec.model}:{state.stable_version}"
            change.note(version=version)
            result = {"endpoint": request.name, "version": version}
            change.remember(result)
        return result

    # -- queries ----------------------------------------------------------------------

    def _endpoint(self, name: str) -> dict[str, Any]:
        state = self._registry.endpoint(name)
        return views.endpoint(
            state,
            self._registry.plan(name),
            self._observations,
            self._reconciler.statuses(),
            self._reconciler.problem,
        )

    def endpoints(self) -> list[dict[str, Any]]:
        return [self._endpoint(state.spec.name) for state in self._registry.endpoints()]

    def _list_rollouts(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        if endpoint is not None:
            self._registry.endpoint(endpoint)
        return [self._rollouts.view(row) for row in self._registry.rollouts(endpoint)]

    def _rollout_status(self, id: str) -> dict[str, Any]:
        return self._rollouts.view(self._registry.rollout(id))
