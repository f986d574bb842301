"""A kernel without Ray: Serve, flows, replicas and time are played by what is here."""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aios.clock import ManualClock
from aios.config import Settings
from aios.contracts import Contract, Number
from aios.errors import ClusterUnavailable
from aios.kernel.kernel import Kernel
from aios.kernel.serve_client import AppStatus, ReplicaStatus
from aios.records import ArmReport, Buckets, TrafficPlan, WindowReport
from aios.rollout import Canary
from aios.security import Caller
from aios.telemetry import Histogram, Sketch

KEY = ("local", "a" * 64)
ANN = Caller("ann", "admin")
CONTRACT = Contract(inputs={"a": Number(min=0, max=10)}, outputs={"approve": Number(min=0, max=1)})
NARROW = Contract(inputs={"a": Number(min=0, max=5)}, outputs={"approve": Number(min=0, max=1)})
QUICK = Canary(steps=(0.2, 1.0), bake_s=2, abort_when=("errors worse",), no_data_s=4)
TWO_STEPS = Canary(steps=(0.1, 0.5, 1.0), bake_s=2, abort_when=("errors worse",), no_data_s=4)


class FakeServe:
    """Runs what it is told at once. `broken` says how applications fail to deploy, by version;
    `outage` makes every call fail, `slow` keeps new applications from becoming ready."""

    def __init__(self) -> None:
        self.puts: list[dict[str, Any]] = []
        self.broken: dict[int, str] = {}
        self.outage = False
        self.lose_answers = False
        self.slow = False

    @property
    def config(self) -> dict[str, Any]:
        return self.puts[-1]

    @property
    def apps(self) -> dict[str, dict[str, Any]]:
        return {app["name"]: app for app in self.config["applications"]}

    @property
    def challengers(self) -> list[str]:
        return [name for name in self.apps if "--v" in name]

    def put(self, config: dict[str, Any]) -> None:
        if self.outage:
            raise ClusterUnavailable("Serve is away")
        self.puts.append(config)
        if self.lose_answers:
            raise ClusterUnavailable("Serve took it, but its answer was lost")

    def statuses(self) -> dict[str, AppStatus]:
        if self.outage:
            raise ClusterUnavailable("Serve is away")
        return {name: self._status(name, app) for name, app in self.apps.items()}

    def _status(self, name: str, app: dict[str, Any]) -> AppStatus:
        version = app["args"].get("served", {}).get("version")
        if version in self.broken:
            trace = f"Traceback (most recent call last):\n  ...\n{self.broken[version]}\n"
            return AppStatus(name, "DEPLOY_FAILED", trace)
        if version is not None and self.slow:
            return AppStatus(name, "DEPLOYING", "")
        replica = ReplicaStatus(f"{name}-replica", "RUNNING", 4242, "127.0.0.1", 1.0)
        return AppStatus(name, "RUNNING", "", (replica,))


class FakeWorkbench:
    """Stages give what the test lays down for them, and remember what they were told: a result,
    an error, or a function of what they are told that gives one of these."""

    def __init__(self) -> None:
        self.gives: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.cancelled: list[str] = []
        self.released: list[str] = []

    def run(
        self, run_id: str, stage: str, spec: Any, results: dict[str, Any], extra: dict[str, Any]
    ) -> dict[str, Any]:
        return self._given(stage, extra)

    def trials(self, run_id: str) -> list[dict[str, Any]]:
        return []

    def cancel(self, run_id: str) -> None:
        self.cancelled.append(run_id)

    def release(self, run_id: str) -> None:
        self.released.append(run_id)

    def use_keys(self, keyring: Any) -> None:
        self.keyring = keyring

    def tidy(self, endpoint: str, keep_days: Any, pinned: Any) -> dict[str, Any]:
        told = {"endpoint": endpoint, "keep_days": keep_days, "pinned": list(pinned)}
        return self._given("tidy", told)

    def keys_in_use(self, endpoints: Any) -> dict[str, list[str]]:
        return self._given("keys_in_use", {"endpoints": list(endpoints)})

    def find_answer(self, endpoints: Any, request_id: str, row: int) -> dict[str, Any]:
        return self._given("find_answer", {"endpoints": list(endpoints), "row": row})

    def find_answers(
        self, endpoint: str, request_ids: Any, inputs: Any = ()
    ) -> dict[str, dict[str, Any]]:
        found = self._given("find_answers", {"endpoint": endpoint, "inputs": list(inputs)})
        return {name: one for name, one in found.items() if name in request_ids}

    def write_feedback(self, endpoint: str, entries: Any) -> None:
        self._given("write_feedback", {"endpoint": endpoint, "entries": list(entries)})

    def compare_rows(self, question: dict[str, Any]) -> dict[str, Any]:
        return self._given("compare_rows", question)

    def explain(
        self, run_id: str, version: dict[str, Any], inputs: dict[str, Any], recipe: Any
    ) -> dict[str, Any]:
        return self._given("explain", {"run": run_id, "version": version["version"]})

    def _given(self, name: str, told: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((name, told))
        found = self.gives[name]
        if callable(found):
            found = found(told)
        if isinstance(found, Exception):
            raise found
        return dict(found)


class FakeFlows:
    """Remembers which flows were started; the test takes the looks."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.launched = False
        self._calls: dict[str, Any] = {}

    def flow(self, name: str, function: Any) -> Any:
        return function

    step = flow

    def launch(self) -> None:
        self.launched = True

    def start(self, flow: Any, *arguments: Any, flow_id: str) -> None:
        if flow_id not in self.started:
            self.started.append(flow_id)
            self._calls[flow_id] = (flow, arguments)

    def carry_out(self, flow_id: str) -> Any:
        """What the flow does, now and in this thread; its result."""
        flow, arguments = self._calls[flow_id]
        return flow(*arguments)

    def close(self) -> None:
        self.launched = False


class FakeCrew:
    """Workers of users' flows that are begun and do nothing."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.dead: set[str] = set()

    def start(self, worker_id: str) -> None:
        self.there.add(worker_id)

    def find(self, worker_id: str) -> bool:
        return worker_id in self.there

    def ended(self, wait_s: float) -> set[str]:
        found, self.dead = self.dead, set()
        if not found:
            time.sleep(wait_s)  # as long as real ones: a kernel that a test leaves must not spin
        return found

    def end(self, worker_id: str) -> None:
        self.there.discard(worker_id)


@dataclass
class Replica:
    """A replica that does what its plan says. Rates are per arm."""

    endpoint: str
    name: str = "loan-replica"
    pid: int = 100
    plan: TrafficPlan | None = None
    refuses: dict[int, str] = field(default_factory=dict)
    error_rate: dict[int, float] = field(default_factory=dict)
    requests_per_s: int = 2000
    silent: bool = False
    refused: str | None = None
    sequence: int = 0
    counts: dict[str, ArmReport] = field(default_factory=dict)

    def take(self, plan: TrafficPlan) -> None:
        if plan.stable.version in self.refuses:
            self.refused = self.refuses[plan.stable.version]
            return
        self.refused = None
        if self.plan is None or plan.era != self.plan.era:
            self.counts = {}
        self.plan = plan

    def report(self, at_s: float) -> WindowReport:
        assert self.plan is not None
        self.sequence += 1
        challenger = self.plan.challenger
        share = challenger.weight_fraction if challenger is not None else 0.0
        self._serve("stable", self.plan.stable.version, 1 - share)
        if challenger is not None:
            shadow = challenger.arm == "shadow"
            self._serve(challenger.arm, challenger.served.version, 1.0 if shadow else share)
        return WindowReport(
            endpoint=self.endpoint,
            replica=self.name,
            era=self.plan.era,
            revision=self.plan.revision,
            sequence=self.sequence,
            at_s=at_s,
            pid=self.pid,
            node="127.0.0.1",
            requests=self.sequence * self.requests_per_s,
            failed=self.sequence,
            in_flight=3,
            queued=2,
            refused=self.refused,
            latency=LATENCY,
            took=_took(3 * self.sequence),
            arms=self.counts,
        )

    def _serve(self, arm: str, version: int, share: float) -> None:
        old = self.counts.get(arm) or ArmReport(version=version)
        attempts = int(self.requests_per_s * share)
        errors = old.errors.get("model_failed", 0) + int(
            attempts * self.error_rate.get(version, 0.0)
        )
        new = ArmReport(
            version=version,
            attempts=old.attempts + attempts,
            errors={"model_failed": errors} if errors else {},
        )
        self.counts = {**self.counts, arm: new}


def _took(requests: int) -> Buckets:
    """A third of the requests in 10, 20 and 30 ms each."""
    histogram = Histogram()
    histogram.update_many([0.01, 0.02, 0.03] * (requests // 3))
    return histogram.buckets()


def _latency() -> bytes:
    sketch = Sketch()
    sketch.update_many([0.01, 0.02, 0.03])
    return sketch.to_bytes()


LATENCY = _latency()


class World:
    """A kernel and all that is around it, second by second."""

    def __init__(self, home: Path, clock: ManualClock | None = None) -> None:
        self.settings = Settings(home=home)
        self.clock = clock or ManualClock(1_000_000.0)
        self.serve = FakeServe()
        self.replicas: list[Replica] = []
        self.bench = FakeWorkbench()
        self.restart()

    def restart(self, flows: FakeFlows | None = None) -> None:
        """As after SIGKILL: nothing of the old kernel is closed or told."""
        self.flows = flows or FakeFlows()
        around = (self.flows, self.bench, FakeCrew())
        self.kernel = Kernel(self.settings, self.serve, self.clock, KEY, *around)

    def do(self, command: str, operation_id: str | None = None, /, **arguments: Any) -> Any:
        return self.kernel.execute(command, arguments, ANN, operation_id)

    def ask(self, caller: Caller, command: str, /, **arguments: Any) -> Any:
        """As `do`, on behalf of somebody else."""
        return self.kernel.execute(command, arguments, caller, None)

    def register(self, name: str = "loan", contract: Contract = CONTRACT, count: int = 1) -> None:
        for number in range(count):
            artifact = {"digest": f"{number:064x}", "engine": "onnx", "size_bytes": 10}
            self.do("register", name=name, artifact=artifact, contract=contract.to_json())

    def deploy(self, version: str = "loan:1", **spec: Any) -> None:
        self.do("deploy", version=version, spec={"name": "loan", **spec})
        self.tick()

    def rollout(self, plan: Any = QUICK, version: str = "loan:2") -> str:
        started = self.do(
            "start_rollout", endpoint="loan", version=version, plan=plan.model_dump(mode="json")
        )
        return str(started["id"])

    def tick(self, seconds: float = 1.0) -> None:
        """Time passes, Serve is reconciled, replicas take their plan and report, running
        rollouts are looked at."""
        self.clock.advance(seconds)
        self.reconcile()
        for row in self.kernel.registry.active_rollouts():
            self.kernel.rollouts.look(row.id)

    def reconcile(self) -> None:
        with suppress(ClusterUnavailable):
            self.kernel.reconciler.once()
        if "loan" not in self.serve.apps:
            return
        plan = self.plan()
        for replica in self.replicas:
            replica.take(plan)
            if not replica.silent:
                self.kernel.report(replica.report(self.clock.now_s()))

    def plan(self, endpoint: str = "loan") -> TrafficPlan:
        """What the kernel tells the replicas of an endpoint."""
        return self.kernel.plan_for(endpoint)[1]

    def until(self, rollout_id: str, *, seconds: int = 60, stage: str | None = None) -> Any:
        """The rollout's view when it has ended, or when it is in `stage`."""
        for _ in range(seconds):
            view = self.do("rollout", id=rollout_id)
            if view["status"] != "running" or view["stage"] == stage:
                return view
            self.tick()
        return self.do("rollout", id=rollout_id)

    def alias(self) -> int:
        return int(self.kernel.registry.version("loan@stable").version)


def make_template(folder: Path) -> Path:
    """A home with three versions of one model, the first one deployed: made once, since
    setting it up takes longer than most tests."""
    world = World(folder)
    world.register(count=3)
    world.deploy()
    return folder


def make_world(template: Path, folder: Path, clock: ManualClock | None = None) -> World:
    """A world whose home is a copy of the template, with two replicas."""
    shutil.copytree(template, folder, dirs_exist_ok=True)
    world = World(folder, clock)
    world.replicas = [Replica("loan"), Replica("loan", "loan-other", 101)]
    world.tick()
    return world
