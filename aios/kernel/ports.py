"""The ports of a runtime, how a private runtime gets its own, and who holds them now."""

import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil
from pydantic import Field, ValidationError, model_validator

from aios.errors import TemporaryError, UsageError
from aios.kernel.processes import end_all, is_alive, name_of, processes_of, runtime_of
from aios.records import Record

BLOCK_FIRST, BLOCK_END, BLOCK_SIZE = 20_000, 30_000, 500
"""Private runtimes take blocks from here: below the ports that systems give to outgoing
connections (32,768 and up on Linux), above Ray's own default range for workers."""
_RANGES = ("direct_ingress_min", "direct_ingress_max", "worker_min", "worker_max")


class Ports(Record):
    """Every TCP port that a runtime listens on, none left to chance.

    Ray binds all but four on loopback here: the HAProxy metrics and stats pages and, with
    several nodes, what other nodes must reach.
    """

    http: int = Field(description="predictions, the ingress")
    gcs: int = Field(description="Ray's control store")
    dashboard: int = Field(description="dashboard and Serve's declarative configuration")
    dashboard_agent_listen: int
    dashboard_agent_grpc: int
    runtime_env_agent: int
    dashboard_metrics: int
    metrics_export: int = Field(description="Ray's metrics for Prometheus")
    node_manager: int
    object_manager: int
    ray_client: int
    haproxy_metrics: int
    haproxy_stats: int
    fallback_http: int = Field(description="Serve's own proxy behind HAProxy")
    fallback_grpc: int
    direct_ingress_min: int = Field(description="replicas, reached by HAProxy")
    direct_ingress_max: int
    worker_min: int
    worker_max: int

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        ranges = [
            range(self.direct_ingress_min, self.direct_ingress_max + 1),
            range(self.worker_min, self.worker_max + 1),
        ]
        singles = self.singles()
        if not all(1 <= port <= 65_535 for port in (*singles.values(), *self._bounds())):
            raise ValueError("a port is outside 1..65535")
        if not all(ranges) or set(ranges[0]) & set(ranges[1]):
            raise ValueError("the port ranges of replicas and workers are empty or overlap")
        names: dict[int, str] = {}
        for name, port in singles.items():
            if port in names:
                raise ValueError(f"port {port} is given to both {names[port]} and {name}")
            for taken, whose in zip(ranges, ("replicas", "workers"), strict=True):
                if port in taken:
                    raise ValueError(
                        f"port {port} of {name} is one of those of {whose}, {taken.start} to "
                        f"{taken.stop - 1}"
                    )
            names[port] = name
        return self

    @classmethod
    def default(
        cls, http_port: int = 8000, ray_port: int = 6379, dashboard_port: int = 8265
    ) -> Self:
        """The well-known ports, for the one runtime of `aios up`.

        What Ray would leave to chance or put among outgoing connections (its agents) follows
        the dashboard's default port, so that a clash is never a matter of luck.

        Raises:
            UsageError: two of the ports are the same, or one lies in a reserved range.
        """
        agents = ("dashboard_agent_listen", "dashboard_agent_grpc", "runtime_env_agent")
        others = ("dashboard_metrics", "metrics_export", "node_manager", "object_manager")
        near = {name: 8266 + index for index, name in enumerate(agents + others)}
        try:
            return cls(
                http=http_port,
                gcs=ray_port,
                dashboard=dashboard_port,
                ray_client=10_001,
                haproxy_metrics=9101,
                haproxy_stats=8404,
                fallback_http=8500,
                fallback_grpc=9500,
                direct_ingress_min=30_000,
                direct_ingress_max=30_999,
                worker_min=10_002,
                worker_max=19_999,
                **near,
            )
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise UsageError(
                f"these ports cannot be used together: {reason}. Change one."
            ) from None

    @classmethod
    def free(cls) -> Self:
        """A block of ports that nobody uses, for a private runtime.

        Claimed for the calling process until `release` or its end, so that two runtimes that
        start at once never get the same; once a runtime is up, its listening ports protect it.

        Raises:
            TemporaryError: every block is in use.
        """
        starts = list(range(BLOCK_FIRST, BLOCK_END, BLOCK_SIZE))
        # Runtimes of other users, whose claims are elsewhere, begin to look elsewhere too.
        begin = os.getpid() % len(starts)
        starts = starts[begin:] + starts[:begin]
        with _claims() as folder:
            for first in starts:
                ports = cls._block(first)
                if _claimed(folder / str(first)) or not all(
                    map(_bindable, ports.singles().values())
                ):
                    continue
                me = psutil.Process()
                claim = {"pid": me.pid, "created_s": me.create_time()}
                (folder / str(first)).write_text(json.dumps(claim))
                return ports
        raise TemporaryError(
            f"all {len(starts)} port blocks between {BLOCK_FIRST} and {BLOCK_END} are in use. "
            "Stop a private runtime, or wait for one to end."
        )

    def release(self) -> None:
        """Give a block of `free` back; does nothing for other ports."""
        with _claims() as folder:
            (folder / str(self.http)).unlink(missing_ok=True)

    def singles(self) -> dict[str, int]:
        """Name and number of every port that is not a range: those that must be free."""
        return {name: getattr(self, name) for name in Ports.model_fields if name not in _RANGES}

    def _bounds(self) -> tuple[int, ...]:
        return tuple(getattr(self, name) for name in _RANGES)

    @classmethod
    def _block(cls, first: int) -> Self:
        names = [name for name in cls.model_fields if name not in _RANGES]
        return cls(
            direct_ingress_min=first + 20,
            direct_ingress_max=first + 219,
            worker_min=first + 220,
            worker_max=first + BLOCK_SIZE - 1,
            **{name: first + index for index, name in enumerate(names)},
        )


class Occupied(Record):
    """A port that somebody listens on. `pid` is None where the system does not tell.

    `ours` says that an aios runtime started the process; `runtime_alive` whether that
    runtime's head still runs, or only left this behind.
    """

    port: int
    pid: int | None
    name: str
    ours: bool
    runtime_id: str | None = None
    home: str | None = None
    runtime_alive: bool = False

    def __str__(self) -> str:
        who = f"process {self.pid} ({self.name})" if self.pid else "a process of another user"
        if self.ours:
            who += f" of the aios runtime at {self.home}"
        return f"port {self.port} is held by {who}"


def leftovers(ports: Ports) -> list[Occupied]:
    """Who holds the ports that a runtime would need; empty when all are free."""
    taken = [port for port in ports.singles().values() if not _bindable(port)]
    if not taken:
        return []
    holders = _listeners(set(taken))
    # Without a holder it may have been a process that ended while we looked.
    return [
        _occupied(port, holders.get(port))
        for port in taken
        if port in holders or not _bindable(port)
    ]


def clear_leftovers(ports: Ports) -> list[Occupied]:
    """End what dead runtimes left on our ports, such as a HAProxy, and return what it was.

    Raises:
        UsageError: a port is held by a living runtime or by somebody else. Nothing is ended
            then, and the message says who holds what.
    """
    found = leftovers(ports)
    foreign = [held for held in found if not held.ours or held.runtime_alive]
    if foreign:
        raise UsageError(
            "; ".join(str(held) for held in foreign) + ". " + _advice(foreign),
            ports=[held.port for held in foreign],
            pids=[held.pid for held in foreign],
        )
    for runtime_id in sorted({held.runtime_id for held in found if held.runtime_id}):
        end_all(lambda dead=runtime_id: processes_of(dead))  # type: ignore[misc]
    if found:
        settle(ports)
    return found


def settle(ports: Ports, timeout_s: float = 2.0) -> None:
    """Wait, at most `timeout_s`, until nobody listens on the ports.

    A killed process leaves the process table's sight, and its mark with it, some time before
    the system has closed its sockets: 0.3 s were seen with Ray's proxies.
    """
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if all(map(_bindable, ports.singles().values())):
            return
        time.sleep(0.05)


def runtime_alive(processes: Iterable[psutil.Process]) -> bool:
    """Whether these processes of one runtime are a head, or a head that is starting."""
    heads = {"gcs_server", "raylet"}
    return any(name_of(process) in heads for process in processes)


def _advice(foreign: list[Occupied]) -> str:
    homes = sorted({held.home for held in foreign if held.ours and held.home})
    if homes:
        return "Stop it with `aios down` (AIOS_HOME=" + ", ".join(homes) + "), or set other ports."
    return "End that process, or set other ports (http_port, ray_port, dashboard_port)."


def _occupied(port: int, pid: int | None) -> Occupied:
    if pid is None or not psutil.pid_exists(pid):
        return Occupied(port=port, pid=None, name="unknown", ours=False)
    process = psutil.Process(pid)
    runtime_id, home = runtime_of(process)
    return Occupied(
        port=port,
        pid=pid,
        name=name_of(process),
        ours=runtime_id is not None,
        runtime_id=runtime_id,
        home=home,
        runtime_alive=runtime_id is not None and runtime_alive(processes_of(runtime_id)),
    )


def _listeners(ports: set[int]) -> dict[int, int]:
    """Port to pid. macOS shows all connections to root only, so ask each process there."""
    try:
        connections = [(entry, entry.pid) for entry in psutil.net_connections(kind="tcp")]
    except psutil.AccessDenied:
        connections = [(entry, pid) for pid in psutil.pids() for entry in _connections(pid)]
    return {
        entry.laddr.port: pid
        for entry, pid in connections
        if pid and entry.status == psutil.CONN_LISTEN and entry.laddr.port in ports
    }


def _connections(pid: int) -> list[psutil._ntuples.pconn]:
    try:
        return list(psutil.Process(pid).net_connections(kind="tcp"))
    except psutil.Error:
        return []


def _bindable(port: int) -> bool:
    """Whether a server could listen here. Both addresses, as macOS lets a wildcard bind
    beside a loopback one; SO_REUSEADDR, as connections that just ended do not matter."""
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError:
                return False
    return True


@contextmanager
def _claims() -> Iterator[Path]:
    """The folder of port claims of this user, locked against other processes."""
    folder = Path(tempfile.gettempdir()) / f"aios-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UsageError(f"{folder} belongs to another user. Remove it, or set TMPDIR.")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _claimed(claim: Path) -> bool:
    """Whether the process that wrote the claim still lives; a reused pid does not count."""
    try:
        owner = json.loads(claim.read_text())
        process = psutil.Process(owner["pid"])
        return is_alive(process) and abs(process.create_time() - owner["created_s"]) < 1
    except (OSError, ValueError, KeyError, psutil.Error):
        return False
