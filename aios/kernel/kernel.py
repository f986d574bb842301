"""The control plane as a plain class: commands in, desired state and audit entries out.

Every command that changes something is one registry transaction that also remembers its
result under the caller's operation id, so a command repeated after a crash is not carried
out twice. What runs is the reconciler's matter; how a rollout goes on is `RolloutDriver`'s.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from aios.clock import Clock
from aios.config import Settings
from aios.errors import Forbidden, NotApproved, UnknownName
from aios.flows import Flows
from aios.kernel import metrics, requests, serve_config, views
from aios.kernel.access import Access
from aios.kernel.agent_commands import AgentCommands
from aios.kernel.alerts import Alerts
from aios.kernel.clearing import guard, uncleared
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.cost_metrics import CostMetrics
from aios.kernel.costs import Costs
from aios.kernel.endpoint_commands import EndpointCommands
from aios.kernel.event_commands import EventCommands
from aios.kernel.explaining import Explaining, ExplainQuery
from aios.kernel.flow_commands import REPEATED, FlowCommands
from aios.kernel.flow_traces import FlowTraces
from aios.kernel.flow_workers import Crew
from aios.kernel.governance_commands import GovernanceCommands
from aios.kernel.inbox import Inbox
from aios.kernel.key_commands import KeyCommands, refuse_to_repeat
from aios.kernel.log_commands import LogCommands
from aios.kernel.metering import Metering
from aios.kernel.observations import Observations
from aios.kernel.reconcile import Reconciler, Serve
from aios.kernel.rollouts import RolloutDriver
from aios.kernel.runs import RunDriver, Workbench
from aios.kernel.sealing import Sealing
from aios.kernel.traffic import challenger_at, served, stamped
from aios.kernel.watch_commands import WatchCommands, begin_as
from aios.kernel.watcher import Watcher
from aios.kernel.words import spoken
from aios.records import TrafficPlan, WindowReport
from aios.registry import Observed, Outbox, Registry, UsageStore
from aios.security import Caller
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
        database.upgrade()
        self.registry = registry = Registry(database, clock, guard)
        self._started_s = clock.now_s()
        self._observations = seen = Observations(clock)
        self.reconciler = Reconciler(self.desired, serve)
        changed = self.reconciler.changed
        self._access = Access(registry, clock)
        self._sealing = Sealing(settings, database, clock)
        self._traces = traces = FlowTraces(settings.otlp_endpoint, registry, clock)
        self.rollouts = RolloutDriver(registry, seen, self.reconciler, flows, clock, traces)
        usage, prices = UsageStore(database, clock), settings.prices
        self.metering = Metering(usage, prices, clock, partial(challenger_at, registry))
        self._endpoints = EndpointCommands(
            registry, seen, self.reconciler, self.rollouts, self._most_gpus
        )
        roll_out = self._endpoints.roll_out_run
        self.runs = RunDriver(registry, workbench, flows, clock, roll_out, traces)
        governed = GovernanceCommands(registry, self.runs, self._answered)
        observed = Observed(database, clock)
        self.alerts = Alerts(Outbox(database, clock), clock)
        begin_run, tell = begin_as(governed.begin_run), self.alerts.tell
        self.watcher = Watcher(registry, observed, workbench, clock, begin_run, tell, traces)
        watching = WatchCommands(registry, observed, self.watcher, self.alerts, seen)
        self.take_windows = watching.take_windows
        self.log = LogCommands(settings, registry, observed, workbench, clock, changed)
        self.flows = FlowCommands(settings, registry, crew)
        self.agents = AgentCommands(registry, database, clock, changed, self.flows)
        eventful = EventCommands(
            settings, registry, database, clock, changed, self.flows, self.agents
        )
        self.events = eventful.events
        keys = KeyCommands(registry, changed)
        keys.ensure(*api_key)
        scraped = (
            *(seen, observed, self.watcher, self.alerts, CostMetrics(self.metering)),
            *(self.log.metrics, self.agents.metrics, eventful.metrics),
        )
        inbox = Inbox(registry, self.flows, self.agents.calls)
        self.rooms_that_act = (self.agents, self.flows, eventful, inbox)
        rooms = (
            *(keys, self._endpoints, self.log, governed, watching),
            *self.rooms_that_act,
        )
        self._commands: Commands = {
            name: command for room in rooms for name, command in room.commands.items()
        }
        self._queries: Queries = {
            **{name: query for room in rooms for name, query in room.queries.items()},
            **Costs(registry, usage, self.metering, prices, clock).queries,
            "explain": (ExplainQuery, Explaining(registry, workbench).explain),
            "models": (requests.MaybeName, partial(views.models, registry)),
            "model": (requests.OfReference, partial(views.model, registry)),
            "audit": (requests.AuditQuery, partial(views.audit, registry)),
            "audit_verify": (requests.Nothing, self._sealing.verify),
            "status": (requests.Nothing, self._status),
            "ps": (requests.Nothing, self._ps),
            "metrics": (requests.Nothing, partial(metrics.render, registry, *scraped)),
            # The artifact itself never comes here: the API asks whether it may take one.
            "upload": (requests.Nothing, dict),
        }
        self._again: dict[str, Callable[[dict[str, Any]], None]] = {
            "start_rollout": self._endpoints.drive_again,
            "start_run": self._drive_run_again,
            "reproduce": self._drive_run_again,
            "add_key": refuse_to_repeat,
        }
        """What is done when one of these commands comes again, besides answering as before."""

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
            request = requests.read(kind, arguments, spoken(command))
            asked = Asked.of(caller, command, arguments, operation_id)
            try:
                return self._carried_out(command, asked) or carry_out(request, asked)
            except (Forbidden, NotApproved) as error:
                self._access.refused(command, arguments, caller, error.message)
                raise
        kind, answer = self._queries[command]
        return answer(**dict(requests.read(kind, arguments, spoken(command))))

    def _most_gpus(self) -> float | None:
        """None on a cluster that somebody else started: it may get nodes with more."""
        return None if self._settings.ray_address is not None else self.metering.most_gpus()

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

    def _carried_out(self, command: str, asked: Asked) -> dict[str, Any] | None:
        """The result of the same request before, whatever has become of the world since."""
        if asked.operation_id is None or command in REPEATED:
            return None
        done = self.registry.remembered(asked.operation_id, asked.digest)
        if done is not None and command in self._again:
            self._again[command](done)
        return done

    def _drive_run_again(self, done: dict[str, Any]) -> None:
        self.runs.drive(done["id"])

    def _answered(self, subject: str) -> None:
        """Somebody answered an approval request: what waits for it looks again."""
        self.rollouts.wake(subject.partition("@")[0])

    def _status(self) -> dict[str, Any]:
        return views.status(
            self.registry,
            self._started_s,
            self._clock.now_s(),
            endpoints=self._endpoints.endpoints(),
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
        hosts = [
            views.process("agent host", f"host {one['epoch']}", one.get("pid"), one["in_flight"])
            for one in self.agents.post.hosts()
        ]
        readers = [
            views.process("event reader", name, pid)
            for name, found in list(self.events.readers.readers.items())
            for pid in found.pids
        ]
        return [*found, *self.flows.workers.processes(), *hosts, *readers]
