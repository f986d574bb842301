"""The contestants: how each is started, reached, watched and ended.

`shared_cluster` holds aios with and without a canary and, beside it on the same Ray, HAProxy
and flags, the bare replica. `fastapi` is one process. `hand_made` is a Ray of its own with
Serve's default settings. All are context managers that leave no process behind, and all end
by themselves if this process is killed.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import psutil

import aios
from aios.capacity.answers import Place
from aios.capacity.load import Target
from aios.kernel.head import Head, read_head
from aios.kernel.processes import ID_VARIABLE, end_all, processes_of
from aios.runtime.lifecycle import LocalRuntime
from benchmarks.commands import last_words
from benchmarks.scorer import OUTPUT
from benchmarks.workload import Workload

STARTUP_S = 240.0
"""On a machine that is busy with other things a Ray of six replicas took 134 s."""
CANARY_WEIGHT_FRACTION = 0.1
LONG_S = 3600.0
"""Longer than any benchmark: the canary stays where it is."""
AIOS_CANARY, AIOS_STEADY, AIOS_DIRECT = "aios, 10 % canary", "aios", "aios, no HAProxy"
BARE, FASTAPI, HAND_MADE = "bare raw ASGI", "FastAPI", "hand-made canary"


@dataclass(frozen=True)
class Contestant:
    """One server that takes part.

    Attributes:
        name: as in the tables.
        target: where it answers.
        processes: role -> process, those whose CPU time its requests cost.
        recorded: number of rows in its prediction log, or None if it keeps none.
        check: whether it is still what its name says, with its canary at its weight.
        bodies: its own requests where its protocol is another; None: the workload's.
        score_at: where the score is in its answers.
        everything: all processes that must be there for it; None: `processes`.
    """

    name: str
    target: Target
    processes: Mapping[str, psutil.Process]
    recorded: Callable[[], int] | None = None
    check: Callable[[], bool] = field(default=lambda: True)
    bodies: tuple[bytes, ...] | None = None
    score_at: Place = OUTPUT
    everything: Callable[[], list[psutil.Process]] | None = None

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far, user and system, by role."""
        found = {}
        for role, process in self.processes.items():
            times = process.cpu_times()
            found[role] = times.user + times.system
        return found

    def memory_mib(self) -> tuple[float, float]:
        """Memory of all its processes together: resident, so that what they share counts in each;
        and with what is shared counted once. The second is Linux's alone, else the first again."""
        processes = self.everything() if self.everything else self.processes.values()
        found = [_memory_bytes(process) for process in processes]
        return sum(rss for rss, _ in found) / 2**20, sum(pss for _, pss in found) / 2**20


def _memory_bytes(process: psutil.Process) -> tuple[int, int]:
    try:
        found = process.memory_full_info() if psutil.LINUX else process.memory_info()
    except psutil.NoSuchProcess:  # Ray begins and ends some all the time
        return 0, 0
    return found.rss, getattr(found, "pss", found.rss)


@contextmanager
def shared_cluster(
    workload: Workload, wanted: Callable[[str], bool], replicas: int = 1
) -> Iterator[list[Contestant]]:
    """aios with everything on, and the bare replica, on one private Ray.

    Args:
        replicas: of each of aios' endpoints.
    """
    with aios.local() as runtime:
        home = runtime.home
        rollout = _deploy(runtime, workload, wanted, replicas)
        head = read_head(home)
        assert head is not None
        for endpoint in _endpoints(wanted):
            _until(partial(_are_up, head, endpoint, replicas), f"{replicas} replicas of {endpoint}")
        if wanted(BARE):
            _deploy_bare(head, workload)
        yield [entry for entry in _on_shared(runtime, head, rollout) if wanted(entry.name)]


def _endpoints(wanted: Callable[[str], bool]) -> list[str]:
    steady = wanted(AIOS_STEADY) or wanted(AIOS_DIRECT)
    return ["steady"] * steady + ["moving"] * wanted(AIOS_CANARY)


def _are_up(head: Head, endpoint: str, replicas: int) -> bool:
    title = f"ray::ServeReplica:{endpoint}:endpoint"
    return [one for one, _ in _alive(head)].count(title) >= replicas


def _deploy(
    runtime: aios.Runtime, workload: Workload, wanted: Callable[[str], bool], replicas: int
) -> aios.Rollout | None:
    for _ in range(2):
        runtime.models.register(
            "loan", workload.estimator, contract=workload.contract, sample=workload.sample
        )
    if "steady" in _endpoints(wanted):
        runtime.deploy("steady", "loan:1", deadline_s=5.0, replicas=replicas)
    if not wanted(AIOS_CANARY):
        return None
    runtime.deploy("moving", "loan:1", deadline_s=5.0, replicas=replicas)
    # Only errors can end it: the machine's noise must not end a benchmark.
    plan = aios.Canary(
        steps=(CANARY_WEIGHT_FRACTION, 1.0),
        bake_s=LONG_S,
        no_data_s=LONG_S,
        abort_when=("errors worse",),
    )
    rollout = runtime.rollout("moving", "loan:2", plan)
    _until(lambda: _moving(rollout), "the canary to get traffic")
    return rollout


def _moving(rollout: aios.Rollout) -> bool:
    status = rollout.status()
    if status.finished:
        raise RuntimeError(f"the canary did not stay at its weight: {status.summary}")
    return status.stage.startswith("canary")


def _on_shared(runtime: LocalRuntime, head: Head, rollout: aios.Rollout | None) -> list[Contestant]:
    by_title = _titles(head)
    contestants = []
    if rollout is not None:
        moving = _aios(AIOS_CANARY, "moving", runtime, head, by_title)
        contestants.append(replace(moving, check=partial(_moving, rollout)))
    if "ray::ServeReplica:steady:endpoint" in by_title:
        steady = _aios(AIOS_STEADY, "steady", runtime, head, by_title)
        contestants += [steady, _without_haproxy(steady, head)]
    bare = by_title.get("ray::ServeReplica:bare:replica")
    if bare is not None:
        processes = {"replica": bare, "haproxy": by_title["haproxy"]}
        contestants.append(Contestant(BARE, Target(f"{head.address}/bare", {}), processes))
    return contestants


def _aios(
    name: str,
    endpoint: str,
    runtime: LocalRuntime,
    head: Head,
    by_title: Mapping[str, psutil.Process],
) -> Contestant:
    mine = f"ray::ServeReplica:{endpoint}"
    alive = _alive(head)
    replicas = [process for title, process in alive if title == f"{mine}:endpoint"]
    canaries = [
        process
        for title, process in alive
        if title.startswith(f"{mine}--v") and title.endswith("challenger")
    ]
    return Contestant(
        name=name,
        target=Target(
            f"{head.address}/v2/models/{endpoint}/predict",
            {"Authorization": f"Bearer {runtime.key}"},
        ),
        processes={
            **numbered("replica", replicas),
            "haproxy": by_title["haproxy"],
            **numbered("canary", canaries),
            "kernel": by_title["ray::KernelActor"],
        },
        recorded=partial(_rows, head.home / "predictions" / endpoint),
        everything=partial(processes_of, head.id, str(head.temp_dir)),
    )


def numbered(role: str, processes: Sequence[psutil.Process]) -> dict[str, psutil.Process]:
    """Processes of one role by names: role, role 2, role 3."""
    names = [role, *(f"{role} {number}" for number in range(2, len(processes) + 1))]
    return dict(zip(names, processes, strict=False))


def _without_haproxy(contestant: Contestant, head: Head) -> Contestant:
    """The same replica, asked on the port where HAProxy asks it."""
    processes = {role: p for role, p in contestant.processes.items() if role != "haproxy"}
    port = _ingress_port(processes["replica"], head)
    url = contestant.target.url.replace(f":{head.ports.http}/", f":{port}/")
    target = replace(contestant.target, url=url)
    return replace(contestant, name=AIOS_DIRECT, target=target, processes=processes)


def _titles(head: Head) -> dict[str, psutil.Process]:
    """The processes of a cluster by what they call themselves; the youngest of a name."""
    return dict(_alive(head))


def _alive(head: Head) -> list[tuple[str, psutil.Process]]:
    """Title and process of all that live, the oldest first."""
    found = []
    for process in sorted(processes_of(head.id, str(head.temp_dir)), key=lambda p: p.create_time()):
        command = process.cmdline()
        title = "haproxy" if process.name() == "haproxy" else (command or [""])[0]
        found.append((title, process))
    return found


def _ingress_port(replica: psutil.Process, head: Head) -> int:
    """The replica's own HTTP port, which HAProxy passes requests to."""
    ports = range(head.ports.direct_ingress_min, head.ports.direct_ingress_max + 1)
    listening = {
        connection.laddr.port
        for connection in replica.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    (port,) = listening.intersection(ports)
    return int(port)


def _rows(log: Path) -> int:
    from deltalake import DeltaTable

    if not (log / "_delta_log").exists():
        return 0
    actions = DeltaTable(str(log)).get_add_actions(flatten=True)
    return int(sum(actions.column("num_records").to_pylist()))


def _deploy_bare(head: Head, workload: Workload) -> None:
    environment = {**os.environ, **head.driver_env()}
    command = [sys.executable, "-m", "benchmarks.peers_on_ray", "bare", workload.graph.to_json()]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=STARTUP_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the bare replica did not start: {done.stderr[-2000:]}")


@contextmanager
def fastapi(workload: Workload) -> Iterator[Contestant]:
    """FastAPI and onnxruntime under uvicorn."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers_fastapi", str(port), workload.graph.to_json()],
        stdin=subprocess.PIPE,
    )
    try:
        target = Target(f"http://127.0.0.1:{port}/predict", {})
        _wait_for(target, workload)
        yield Contestant(FASTAPI, target, {"server": psutil.Process(process.pid)})
    finally:
        process.kill()
        process.wait()


@contextmanager
def hand_made(workload: Workload, replicas: int = 1) -> Iterator[Contestant]:
    """Router deployment in front of two model deployments, on Serve's default settings, each of
    `replicas`.

    A Ray of its own, started by a driver as most users do. Not by `aios.kernel.head`, which
    gives every Ray that it starts aios' own Serve flags.
    """
    port = free_port()
    mark = f"bench-{os.getpid()}-{port}"
    with tempfile.TemporaryDirectory(prefix="aios-b-") as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        token = Path(folder) / "token"
        token.write_text(mark)
        environment |= {
            ID_VARIABLE: mark,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        command = [sys.executable, "-m", "benchmarks.peers_on_ray", "hand-made"]
        log = Path(folder) / "log"
        with log.open("wb") as written:
            process = subprocess.Popen(
                [*command, workload.graph.to_json(), str(port), folder, str(replicas)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for this process, which then ends that one
            )
        try:
            target = Target(f"http://127.0.0.1:{port}/predict", {})
            _until(lambda: _serves(mark, replicas) or process.poll() is not None, "its replicas")
            if process.returncode is not None:
                raise RuntimeError(f"it ended: {last_words(log)}")
            _wait_for(target, workload)
            everything = partial(processes_of, mark)
            yield Contestant(HAND_MADE, target, _serve_processes(mark), everything=everything)
        finally:
            end_all(lambda: processes_of(mark))
            process.wait()


def _serves(mark: str, replicas: int) -> bool:
    """Whether router, both versions and proxy have as many processes as they shall."""
    return len(_serve_processes(mark)) >= 3 * replicas + 1


def _serve_processes(mark: str) -> dict[str, psutil.Process]:
    """Proxy and replicas of a Ray that carries this mark."""
    found: dict[str, list[psutil.Process]] = {}
    for process in processes_of(mark):
        title = (process.cmdline() or [""])[0]
        if title.startswith("ray::ServeReplica:"):
            role = title.removeprefix("ray::ServeReplica:default:")
            found.setdefault(role, []).append(process)
        elif title.startswith("ray::ProxyActor"):
            found.setdefault("proxy", []).append(process)
    roles = [numbered(role, processes) for role, processes in found.items()]
    return {name: process for named in roles for name, process in named.items()}


def _wait_for(target: Target, workload: Workload) -> None:
    _until(lambda: _answers(target, workload.bodies[0]), f"an answer from {target.url}")


def _answers(target: Target, body: bytes) -> bool:
    headers = {"Content-Type": "application/json", **target.headers}
    request = urllib.request.Request(target.url, data=body, headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=5
        ) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _until(holds: Callable[[], bool], what: str) -> None:
    give_up_s = time.monotonic() + STARTUP_S
    while not holds():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"waited {STARTUP_S:.0f} s for {what}")
        time.sleep(0.25)


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
