"""How long from nothing to the first answer, and where does the time go?

    python -m benchmarks.coldstart [--rounds 3] [--spare-workers 0 2] [--short]

Runtimes without and with spare workers (`spare_workers` in the settings: processes that wait, all
imported) take turns, so that both are seen under the same load. Each round starts a private runtime
and asks it, every 10 ms, until it answers:

* the runtime: from `aios.local()` to an API that answers, with the moments at which its processes
  began (Ray's store and node, Serve's controller, the kernel, HAProxy, the API's replica);
* an endpoint (the loan model, ONNX, contract, recorder, key): from `rt.deploy` to the first answer;
* another endpoint of the same model, in the same way: what the first left warm is used;
* a second replica beside it, from `rt.deploy(replicas=2)` until HAProxy has an answer of it;
* a second version beside the first, from `rt.rollout` to the first answer of the canary.

Serve tells when it asked for the replica, which is after it has built the application in another
process. A replica tells in one line of its log when it had imported everything, was constructed,
had its plan, had fetched, loaded and warmed its model, and was ready; when its process began the
system tells, to 10 ms. A process that was there before it was needed took no time. Written are the
parts of each start, the CPU seconds that all processes of the runtime used meanwhile (also for what
they do without load, about 0.2 s a second), and their memory then (PSS: shared pages are counted
once). On a machine that others use too the CPU seconds say more than the seconds; they are to a
second, since what a process used that ends counts a moment later, and what spare workers use is
used before.

Caveats: the first round finds the files of all packages in the page cache or not, which it cannot
tell; later ones find them there. Artifacts lie on the same disk, so that fetching is a look. The
client asks from the same machine. Ray's own start is in the first part and not ours to change.
"""

import argparse
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil

import aios
from aios.capacity import machine
from aios.kernel.head import read_head
from aios.kernel.processes import processes_of
from aios.serving.starting import TOLD
from benchmarks.commands import begin
from benchmarks.figures import Spread
from benchmarks.results import RESULTS, ResultFile
from benchmarks.workload import Workload, prepare

NAME = "coldstart"
LOOK_S = 0.01
REFILL_S = 10.0
"""Until spare workers that were taken are there again; more on a busy machine."""
WAIT_S = 1.0
"""For one answer; before there is a replica, some are never given."""
PATIENCE_S = 300.0
STEPS = (
    "asked for",
    "process began",
    "imported",
    "constructed",
    "planned",
    "fetched",
    "loaded",
    "warmed",
    "ready",
    "answered",
)
"""In order; each part is the time from the step before, the first from the call."""
TITLES = {
    "gcs_server": "Ray's store",
    "raylet": "Ray's node",
    "ray::ServeController": "Serve's controller",
    "ray::KernelActor": "the kernel",
    "haproxy": "HAProxy",
    "ray::ServeReplica:aios--api": "the API's replica",
}
"""Processes of a runtime, by how their titles begin."""


def parts(called_s: float, at_s: Mapping[str, float]) -> dict[str, float]:
    """Seconds from each step to the next, of those that were told; they add up to the whole. What
    was reached before the call, as by a process that was waiting, took nothing."""
    found, before_s = {}, called_s
    for step in STEPS:
        if step in at_s:
            reached_s = max(before_s, at_s[step])
            found[step] = reached_s - before_s
            before_s = reached_s
    return found


def starts(lines: "list[str]", name: str) -> dict[int, dict[str, float]]:
    """What replicas of an application told of their start, by process; `name` may have a `*`."""
    # Ray may have begun the line with a mark of its own.
    told = [orjson.loads(line.partition(TOLD)[2]) for line in lines if TOLD in line]
    return {one["pid"]: one["at_s"] for one in told if fnmatch(one["name"], name)}


def began_s(process: psutil.Process) -> float:
    """When a process began, by the wall clock. The boot's moment, which psutil adds to what the
    system tells, is whole seconds; it is taken out again."""
    since_boot_s = process.create_time() - psutil.boot_time()
    return since_boot_s + time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class World:
    """A runtime that was just started, and what can be seen of it from outside."""

    def __init__(self, rt: Any, workload: Workload) -> None:
        head = read_head(rt.home)
        assert head is not None, "it runs"
        self.rt, self.head, self.body = rt, head, workload.bodies[0]

    def log_lines(self) -> "list[str]":
        return [
            line
            for path in self.head.log_dir.glob("worker-*.out")
            for line in path.read_text("utf-8", errors="replace").splitlines()
        ]

    def started(self, name: str, but: "set[int]") -> dict[str, float]:
        """The steps of a replica that is not among the processes known already."""
        asked_s = {row["pid"]: row["started_s"] for row in self.rt.ps() if row["started_s"]}
        for pid, at_s in starts(self.log_lines(), name).items():
            if pid not in but:
                more = {"asked for": asked_s[pid]} if pid in asked_s else {}
                return {**at_s, **more, "process began": began_s(psutil.Process(pid))}
        raise aios.ClusterUnavailable(f"no replica of {name!r} told of its start")

    def answers_by_server(self, endpoint: str) -> "list[int]":
        """Good answers of each replica of an endpoint, as HAProxy counts them."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(next((self.head.temp_dir / "h").glob("*/admin.sock"))))
            admin.sendall(b"show stat\n")
            text = b"".join(iter(lambda: admin.recv(65_536), b"")).decode()
        heads, *rows = [line.split(",") for line in text.lstrip("# ").splitlines() if line]
        found = [dict(zip(heads, row, strict=False)) for row in rows]
        return [
            int(one["hrsp_2xx"] or 0)
            for one in found
            if endpoint in one["pxname"] and one["svname"] not in ("FRONTEND", "BACKEND")
        ]

    @contextmanager
    def asked(
        self, endpoint: str, good: Callable[[dict[str, Any]], bool]
    ) -> Iterator["list[float]"]:
        """Ask every 10 ms until an answer is good; its moment is in the list then."""
        seen: list[float] = []
        over = threading.Event()
        headers = {"Authorization": f"Bearer {self.rt.key}", "Content-Type": "application/json"}

        def ask() -> None:
            url = f"{self.rt.address}/v2/models/{endpoint}/predict"
            with httpx.Client(headers=headers, timeout=WAIT_S, trust_env=False) as client:
                while not over.is_set():
                    key = {"x-aios-key": str(time.monotonic_ns())}  # it decides which arm answers
                    try:
                        answer = client.post(url, content=self.body, headers=key)
                    except httpx.TransportError:  # nobody answers yet, or not in time
                        continue
                    if answer.status_code == 200 and good(answer.json()):
                        seen.append(time.time())
                        return
                    time.sleep(LOOK_S)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield seen
            thread.join(PATIENCE_S)
        finally:
            over.set()
            thread.join()
        if not seen:
            raise aios.DeadlineExceeded(f"{endpoint} did not answer within {PATIENCE_S:.0f} s")

    def processes(self) -> "list[psutil.Process]":
        return processes_of(self.head.id, str(self.head.temp_dir))

    def cpu_s(self) -> float:
        """CPU seconds that all processes of the runtime have used, those that ended included: the
        system adds them to who started them."""
        used = 0.0
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used += times.user + times.system + times.children_user + times.children_system
        return used

    def memory_mib(self) -> float:
        """Of all processes of the runtime."""
        used = 0
        for process in self.processes():
            try:
                used += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return used / 2**20


def runtime_parts(called_s: float, world: World, answered_s: float) -> dict[str, float]:
    """Seconds from the call until each main process of the runtime began, and until it answered."""
    found: dict[str, float] = {}
    for process in world.processes():
        try:
            name = process.name()
            told, at_s = " ".join(process.cmdline()) or name, began_s(process) - called_s
        except psutil.NoSuchProcess:  # one that only helped to start it
            continue
        for begins, title in TITLES.items():
            if told.startswith(begins) or name == begins:
                found[title] = min(at_s, found.get(title, at_s))
    return {
        **dict(sorted(found.items(), key=lambda item: item[1])),
        "answered": answered_s - called_s,
    }


def endpoint_parts(world: World, name: str) -> dict[str, float]:
    """From `rt.deploy` to the first answer."""
    called_s = time.time()
    with world.asked(name, lambda body: True) as answered:
        world.rt.deploy(name, "loan:1")
    at_s = world.started(name, set())
    return parts(called_s, {**at_s, "answered": answered[0]})


def replica_parts(world: World) -> dict[str, float]:
    """From `rt.deploy(replicas=2)` to the first answer of the second."""
    known = set(starts(world.log_lines(), "loan"))
    called_s = time.time()

    def both(body: dict[str, Any]) -> bool:
        del body
        return sum(count > 0 for count in world.answers_by_server("loan")) > 1

    with world.asked("loan", both) as answered:
        world.rt.deploy("loan", "loan:1", replicas=2)
    at_s = world.started("loan", known)
    return parts(called_s, {**at_s, "answered": answered[0]})


def version_parts(world: World) -> dict[str, float]:
    """From `rt.rollout` to the first answer of the second version."""
    called_s = time.time()
    with world.asked("loan", lambda body: body["arm"] == "canary") as answered:
        rollout = world.rt.rollout("loan", "loan:2", aios.Canary(steps=(0.5, 1.0), bake_s=600))
    at_s = world.started("loan--v2-*", set())
    rollout.abort("measured")
    rollout.wait(60)
    return parts(called_s, {**at_s, "answered": answered[0]})


@dataclass(frozen=True)
class Started:
    """One thing that was started: seconds to its first answer, CPU seconds of the runtime's
    processes meanwhile, their memory then, and the steps: seconds since the call (of the runtime)
    or since the step before."""

    what: str
    whole_s: float
    cpu_s: float
    memory_mib: float
    steps: Mapping[str, float]

    def __str__(self) -> str:
        steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in self.steps.items())
        return (
            f"{self.what}: {self.whole_s:.2f} s, CPU {self.cpu_s:.2f} s, then "
            f"{self.memory_mib:,.0f} MiB ({steps})"
        )

    def figures(self) -> dict[str, float]:
        """What two runs are compared by."""
        return {
            f"{self.what}: seconds to the first answer": self.whole_s,
            f"{self.what}: CPU seconds": self.cpu_s,
            f"{self.what}: MiB of the runtime then": self.memory_mib,
        }


def one_round(workload: Workload, spare_workers: int, *, short: bool) -> Iterator[Started]:
    """A runtime, and what runs on it, one after the other."""
    called_s = time.time()
    with aios.local(spare_workers=spare_workers) as rt:
        answered_s = time.time()
        world = World(rt, workload)
        steps = runtime_parts(called_s, world, answered_s)
        took_s = answered_s - called_s
        yield Started("runtime up", took_s, world.cpu_s(), world.memory_mib(), steps)
        for _ in range(2):
            rt.models.register(
                "loan", workload.estimator, contract=workload.contract, sample=workload.sample
            )
        starting: dict[str, Callable[[], dict[str, float]]] = {
            "endpoint": lambda: endpoint_parts(world, "loan"),
            "another endpoint": lambda: endpoint_parts(world, "other"),
            "second replica": lambda: replica_parts(world),
            "second version": lambda: version_parts(world),
        }
        if short:
            del starting["another endpoint"], starting["second replica"]
        for what, start in starting.items():
            if spare_workers:
                time.sleep(REFILL_S)
            before_s = world.cpu_s()
            steps = start()
            took_s, cpu_s = sum(steps.values()), world.cpu_s() - before_s
            yield Started(what, took_s, cpu_s, world.memory_mib(), steps)


def main() -> None:
    """Run the rounds, write them as they come, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spare-workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--short", action="store_true", help="one round, with less in it")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"at least one round, not {arguments.rounds}")
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as folder:
        workload = prepare(Path(folder))
    file = ResultFile(RESULTS, NAME)
    file.run(workload=workload.name, machine=machine.describe(), **vars(arguments))
    found: dict[str, list[float]] = {}
    for number in range(1 if arguments.short else arguments.rounds):
        for spares in arguments.spare_workers[-1:] if arguments.short else arguments.spare_workers:
            for started in one_round(workload, spares, short=arguments.short):
                print(f"{spares} spare workers, {started}", flush=True)
                file.add("parts", {**asdict(started), "spare_workers": spares, "round": number})
                for name, value in started.figures().items():
                    name = f"{spares} spare workers, {name}"
                    found.setdefault(name, []).append(value)
                    line = {"name": name, "value": value, "better": "lower", "round": number}
                    file.add("figure", line)
    for name, values in found.items():
        print(f"{name}: {Spread.of(values)}")
    print(f"written to {file.path}")


if __name__ == "__main__":
    begin(main)
