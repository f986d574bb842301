"""The control plane as a plain class: commands in, desired state and audit entries out.

Every command that changes something is one registry transaction that also remembers its
result under the caller's operation id, so a command repeated after a crash is not carried
out twice. What runs is the reconciler's matter; how a rollout goes on is `RolloutDriver`'s.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from uuid import uuid4

from aios.clock import Clock
from aios.config import Settings
from aios.contracts import Contract
from aios.errors import Forbidden, IllegalTransition, NotApproved, UnknownName
from aios.flows import Flows
from aios.kernel import metrics, requests, serve_config, views
from aios.kernel.access import Access
from aios.kernel.agent_commands import AgentCommands
from aios.kernel.alerts import Alerts
from aios.kernel.checks import (
    refuse_other_model,
    refuse_other_version,
    refuse_unfit,
    refuse_unfit_defaults,
)
from aios.kernel.clearing import guard, policy_of, uncleared
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.cost_metrics import CostMetrics
from aios.kernel.costs import Costs
from aios.kernel.event_commands import EventCommands
from aios.kernel.explaining import Explaining, ExplainQuery
from aios.kernel.flow_commands import REPEATED, FlowCommands
from aios.kernel.flow_traces import FlowTraces
from aios.kernel.flow_workers import Crew
from aios.kernel.governance_commands import GovernanceCommands
from aios.kernel.key_commands import KeyCommands, refuse_to_repeat
from aios.kernel.log_commands import LogCommands
from aios.kernel.metering import Metering
from aios.kernel.observations import Observations
from aios.kernel.reconcile import Reconciler, Serve
from aios.kernel.registering import refuse_prohibited
from aios.kernel.rollouts import RolloutDriver
from aios.kernel.runs import RunDriver, Workbench
from aios.kernel.sealing import Sealing
from aios.kernel.traffic import challenger_at, next_plan, served, stamped
from aios.kernel.watch_commands import WatchCommands, begin_as
from aios.kernel.watcher import Watcher
from aios.records import EndpointSpec, TrafficPlan, WindowReport
from aios.registry import Change, Observed, Outbox, Registry, RolloutRow, UsageStore
from aios.rollout.plans import Shadow, parse_plan
from aios.security import Caller, permits
from aios.store.database import Database


class Kernel:
    """One per cluster. `start` brings up its threads; `execute` is its only door.

    Args:
        settings: where the store, artifacts and logs are.
        serve: Ray Serve, or a fake of it.
        api_key: (identity, digest) of the key that `aios up` made.
        flows: what drives rollouts and training runs durably; see `kernel.opening`.
        workbench: what carries out the stages of training runs.
        crew: the processes of the workers of users' flows.
    """

    def __init__(
        self,
        settings: Settings,
        serve: Serve,
        clock: Clock,
        api_key: tuple[str, str],
        flows: Flows,
        workbench: Workbench,
        crew: Crew,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._database = database = Database(settings.store_url)
        self._database.upgrade()
        self.registry = Registry(self._database, clock, guard)
        self._started_s = clock.now_s()
        self._observations = Observations(clock)
        self.reconciler = Reconciler(self.desired, serve)
        self._traces = traces = FlowTraces(settings.otlp_endpoint, self.registry, clock)
        self.rollouts = RolloutDriver(
            self.registry, self._observations, self.reconciler, flows, clock, traces
        )
        self.runs = RunDriver(self.registry, workbench, flows, clock, self._roll_out_run, traces)
        self._access = Access(self.registry, clock)
        governed = GovernanceCommands(self.registry, self.runs, self._answered)
        observed = Observed(self._database, clock)
        self.alerts = Alerts(Outbox(self._database, clock), clock)
        begin_run, tell = begin_as(governed.begin_run), self.alerts.tell
        self.watcher = Watcher(self.registry, observed, workbench, clock, begin_run, tell, traces)
        watching = WatchCommands(
            self.registry, observed, self.watcher, self.alerts, self._observations
        )
        self.take_windows = watching.take_windows
        usage, prices = UsageStore(self._database, clock), settings.prices
        self.metering = Metering(usage, prices, clock, partial(challenger_at, self.registry))
        costs = Costs(self.registry, usage, self.metering, prices, clock)
        self._sealing = Sealing(settings, self._database, clock)
        changed = self.reconciler.changed
        self.log = LogCommands(settings, self.registry, observed, workbench, clock, changed)
        self.flows = FlowCommands(settings, self.registry, crew)
        self.agents = AgentCommands(self.registry, self._database, clock, changed, self.flows)
        around = (clock, changed, self.flows, self.agents)
        eventful = EventCommands(settings, self.registry, database, *around)
        self.events = eventful.events
        told = (CostMetrics(self.metering), self.log.metrics, self.agents.metrics, eventful.metrics)
        seen = (self._observations, observed, self.watcher, self.alerts, *told)
        keys = KeyCommands(self.registry, changed)
        keys.ensure(*api_key)
        self._commands: Commands = {
            **keys.commands,
            **self.log.commands,
            **governed.commands,
            **watching.commands,
            **self.agents.commands,
            **self.flows.commands,
            **eventful.commands,
            "register": (requests.Register, self._register),
            "deploy": (requests.Deploy, self._deploy),
            "remove": (requests.OfName, self._remove),
            "start_rollout": (requests.StartRollout, self._start_rollout),
            "command_rollout": (requests.CommandRollout, self._command_rollout),
            "rollback": (requests.Rollback, self._rollback),
        }
        self._queries: Queries = {
            **keys.queries,
            **self.log.queries,
            **governed.queries,
            **watching.queries,
            **self.agents.queries,
            **eventful.queries,
            **costs.queries,
            **self.flows.queries,
            "explain": (ExplainQuery, Explaining(self.registry, workbench).explain),
            "models": (requests.MaybeName, partial(views.models, self.registry)),
            "model": (requests.OfReference, partial(views.model, self.registry)),
            "endpoints": (requests.Nothing, self._endpoints),
            "endpoint": (requests.OfName, self._endpoint),
            "rollouts": (requests.MaybeEndpoint, self._list_rollouts),
            "rollout": (requests.OfId, self._rollout_status),
            "evidence": (requests.OfId, partial(views.evidence, self.registry)),
            "series": (requests.OfEndpoint, self._observations.series),
            "plans": (requests.OfEndpoint, partial(views.plans, self.registry)),
            "audit": (requests.AuditQuery, partial(views.audit, self.registry)),
            "audit_verify": (requests.Nothing, self._sealing.verify),
            "status": (requests.Nothing, self._status),
            "ps": (requests.Nothing, self._ps),
            "metrics": (requests.Nothing, partial(metrics.render, self.registry, *seen)),
            # The artifact itself never comes here: the API asks whether it may take one.
            "upload": (requests.Nothing, dict),
        }

    def start(self) -> None:
        """Begin to reconcile, and go on with the rollouts that were running."""
        self._sealing.start()
        self.reconciler.start()
        self.rollouts.start()
        self.runs.start()
        self.watcher.start()
        self.log.housekeeping.start()
        self.alerts.start()
        self.agents.start()
        self.flows.start()
        self.events.start()

    def close(self) -> None:
        """Stop looking and deciding. Rollouts in the middle are left for the next kernel."""
        self.events.close()
        self.flows.close()
        self.agents.close()
        self.log.housekeeping.close()
        self.watcher.close()
        self.alerts.close()
        self.runs.close()
        self.rollouts.close()
        self.reconciler.stop()
        self.metering.save()
        self._access.close()
        self._traces.close()
        self._sealing.close()
        self._database.close()

    def report(self, report: WindowReport) -> None:
        """Take what a replica counted."""
        self._observations.add(report)

    @property
    def known(self) -> list[str]:
        """The names of all commands and queries."""
        return sorted({**self._commands, **self._queries})

    def execute(
        self, command: str, arguments: Mapping[str, Any], caller: Caller, operation_id: str | None
    ) -> Any:
        """Carry out one command or query.

        Raises:
            Forbidden, NotApproved: role or rules do not let the caller; the attempt is in the
                audit log.
            AiosError: it cannot be done; the message says why and what to do.
        """
        if command not in self.known:
            known = ", ".join(self.known)
            raise UnknownName(f"no command {str(command)[:60]!r}; there are: {known}")
        self._access.check(command, arguments, caller)
        if command in self._commands:
            kind, carry_out = self._commands[command]
            request = requests.read(kind, arguments, command)
            asked = Asked.of(caller, command, arguments, operation_id)
            try:
                return self._carried_out(command, asked) or carry_out(request, asked)
            except (Forbidden, NotApproved) as error:
                self._access.refused(command, arguments, caller, error.message)
                raise
        kind, answer = self._queries[command]
        return answer(**dict(requests.read(kind, arguments, command)))

    def desired(self) -> dict[str, Any]:
        """The Serve configuration that the registry asks for now."""
        active = self.registry.keys()
        callers = {key.digest: Caller(key.identity, key.role) for key in active}
        replica_settings = serve_config.replica_settings(self._settings)
        api_settings = serve_config.api_settings(self._settings)
        applications = [serve_config.api_application(callers, api_settings)]
        for state in self.registry.endpoints():
            plan = self.registry.plan(state.spec.name)
            if plan is None:
                continue
            applications.append(serve_config.endpoint_application(plan, replica_settings))
            wanted = self.rollouts.challengers(state.spec.name)
            for app, version in wanted.items():
                applications.append(
                    serve_config.challenger_application(
                        app,
                        plan,
                        served(self.registry.version(f"{state.spec.model}:{version}")),
                        replica_settings,
                    )
                )
        return serve_config.serve_config(
            applications,
            self._settings.http_port,
            on_loopback=self._settings.ray_address is None,
        )

    def plan_for(self, endpoint: str) -> tuple[str, TrafficPlan]:
        """The plan that the replicas of an endpoint must act on now, with the keys that may
        call, and a stamp that differs whenever either does, or the log's keys.

        Raises:
            UnknownEndpoint: it is not deployed, or has no plan yet.
        """
        return stamped(self.registry, endpoint, self.log.keys.current().stamp)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener`, from any thread, whenever desired state may have changed."""
        self.reconciler.listeners.append(listener)

    # -- commands ---------------------------------------------------------------------

    def _carried_out(self, command: str, asked: Asked) -> dict[str, Any] | None:
        """The result of the same request before, whatever has become of the world since."""
        if asked.operation_id is None or command in REPEATED:
            return None
        done = self.registry.remembered(asked.operation_id, asked.digest)
        if done is not None and command == "start_rollout":
            # The first time may have ended between the row and its flow.
            self.rollouts.drive(done["id"])
        if done is not None and command in ("start_run", "reproduce"):
            self.runs.drive(done["id"])
        if done is not None and command == "add_key":
            refuse_to_repeat(done)
        return done

    def _change(
        self, asked: Asked, action: str, subject: str, **details: Any
    ) -> AbstractContextManager[Change]:
        return asked.change(self.registry, action, subject, **details)

    def _register(self, request: requests.Register, asked: Asked) -> dict[str, Any]:
        contract = Contract.from_json(request.contract)
        with self._change(asked, "register", request.name, contract=contract.digest) as change:
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
        version = self.registry.version(request.version)
        spec = requests.read(
            EndpointSpec, {**request.spec, "model": version.name}, "the endpoint's spec"
        )
        with self._change(asked, "deploy", spec.name, version=version.ref) as change:
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
        self.reconciler.changed()
        return result

    def _remove(self, request: requests.OfName, asked: Asked) -> dict[str, Any]:
        name = request.name
        with self._change(asked, "remove", name) as change:
            if change.done is not None:
                return change.done
            change.remove_endpoint(name)
            change.remember({"name": name})
        self._observations.forget(name)
        self.reconciler.changed()
        return {"name": name}

    def _start_rollout(self, request: requests.StartRollout, asked: Asked) -> dict[str, Any]:
        state = self.registry.endpoint(request.endpoint)
        plan = parse_plan(request.plan)
        to = self.registry.version(request.version)
        told = {"to": to.ref, "plan": plan.model_dump(mode="json")}
        with self._change(asked, "rollout", state.spec.name, **told) as change:
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
            row = row.model_copy(update={"state": self.rollouts.first_state(plan, row.id)})
            change.note(**{"from": now.ref, "rollout": row.id})
            change.create_rollout(row)
            change.remember({"id": row.id})
        self.rollouts.drive(row.id)
        self.reconciler.changed()
        return {"id": row.id}

    def _roll_out_run(
        self, endpoint: str, ref: str, plan: dict[str, Any], identity: str, operation_id: str
    ) -> str:
        """The rollout that a training run asked for, on behalf of who started the run."""
        active = self.registry.keys()
        if not any(permits(key.role, "rollout") for key in active if key.identity == identity):
            raise Forbidden(
                f"{identity}, who asked for the rollout, has no key any more that may start one; "
                "somebody else must"
            )
        fields = {"endpoint": endpoint, "version": ref, "plan": plan}
        asked = Asked.of(Caller(identity, "deployer"), "start_rollout", fields, operation_id)
        done = self._carried_out("start_rollout", asked)
        found = done or self._start_rollout(requests.StartRollout(**fields), asked)
        return str(found["id"])

    def _answered(self, subject: str) -> None:
        """Somebody answered an approval request: what waits for it looks again."""
        self.rollouts.wake(subject.partition("@")[0])

    def _command_rollout(self, request: requests.CommandRollout, asked: Asked) -> dict[str, Any]:
        endpoint = self.registry.rollout(request.id).endpoint
        command, reason = request.command, request.reason or ""
        told = {"rollout": request.id, "reason": reason}
        with (
            self.rollouts.deciding,
            self._change(asked, f"{command}_rollout", endpoint, **told) as change,
        ):
            if change.done is not None:
                return change.done
            result = self.rollouts.command(change, request.id, command, reason)
            change.remember(result)
        self.rollouts.wake(request.id)
        return result

    def _rollback(self, request: requests.Rollback, asked: Asked) -> dict[str, Any]:
        """Back to what users had before: end the running rollout, or undo the last promotion."""
        name, reason = request.endpoint, request.reason or ""
        with (
            self.rollouts.deciding,
            self._change(asked, "rollback", name, reason=reason) as change,
        ):
            if change.done is not None:
                return change.done
            state = change.endpoint(name)
            running = [row for row in change.active_rollouts() if row.endpoint == name]
            if running:
                self.rollouts.command(change, running[0].id, "abort", reason or "rolled back")
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
        self.reconciler.changed()
        for row in running:
            self.rollouts.wake(row.id)
        return result

    # -- queries ----------------------------------------------------------------------

    def _endpoint(self, name: str) -> dict[str, Any]:
        state = self.registry.endpoint(name)
        return views.endpoint(
            state,
            self.registry.plan(name),
            self._observations,
            self.reconciler.statuses(),
            self.reconciler.problem,
        )

    def _endpoints(self) -> list[dict[str, Any]]:
        return [self._endpoint(state.spec.name) for state in self.registry.endpoints()]

    def _list_rollouts(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        if endpoint is not None:
            self.registry.endpoint(endpoint)
        return [self.rollouts.view(row) for row in self.registry.rollouts(endpoint)]

    def _rollout_status(self, id: str) -> dict[str, Any]:
        return self.rollouts.view(self.registry.rollout(id))

    def _status(self) -> dict[str, Any]:
        return views.status(
            self.registry,
            self._started_s,
            self._clock.now_s(),
            endpoints=self._endpoints(),
            rollouts=[self.rollouts.view(row) for row in self.registry.active_rollouts()],
            uncleared=uncleared(self.registry),
            problems=(
                self.reconciler.problem,
                self._sealing.problem,
                self.log.housekeeping.problem,
                self.watcher.feedback.problem,
                self._observations.recorder_problem(),
                self.agents.post.problem,
                self.flows.workers.problem,
            ),
        )

    def _ps(self) -> list[dict[str, Any]]:
        found = views.processes(
            self._started_s,
            os.getpid(),
            self.reconciler.statuses(),
            self.registry,
            self._observations,
        )
        return found + self.flows.workers.processes()
