"""The processes behind an endpoint: where its replica answers by itself, and what it uses."""

from collections.abc import Iterable

import psutil

from aios.kernel.head import Head
from aios.kernel.processes import processes_of


def processes(head: Head, endpoint: str) -> dict[str, psutil.Process]:
    """`replica`, the youngest of the endpoint's, and `haproxy`."""
    found: dict[str, psutil.Process] = {}
    titles = {f"ray::ServeReplica:{endpoint}:endpoint": "replica", "haproxy": "haproxy"}
    running = processes_of(head.id, str(head.temp_dir))
    for process in sorted(running, key=psutil.Process.create_time):
        haproxy = process.name() == "haproxy"
        role = titles.get("haproxy" if haproxy else (process.cmdline() or [""])[0])
        if role is not None:
            found[role] = process
    return found


def own_port(replica: psutil.Process, head: Head) -> int:
    """The HTTP port of a replica, where HAProxy asks it."""
    ports = range(head.ports.direct_ingress_min, head.ports.direct_ingress_max + 1)
    (port,) = {
        connection.laddr.port
        for connection in replica.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }.intersection(ports)
    return int(port)


def cpu_s(running: Iterable[psutil.Process]) -> float | None:
    """CPU seconds that they have used so far, user and system; None if one has ended, as HAProxy
    does when Serve gives it another configuration."""
    try:
        times = [process.cpu_times() for process in running]
    except psutil.NoSuchProcess:
        return None
    return float(sum(one.user + one.system for one in times))
