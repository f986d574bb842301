"""Where a replica answers by itself, behind the ingress."""

import psutil

from aios.kernel.head import Head
from aios.kernel.processes import processes_of


def replica_port(head: Head, endpoint: str) -> int:
    """The HTTP port of an endpoint's only replica, where HAProxy asks it."""
    title = f"ray::ServeReplica:{endpoint}:endpoint"
    found = [
        process
        for process in processes_of(head.id, str(head.temp_dir))
        if (process.cmdline() or [""])[0] == title
    ]
    replica = max(found, key=psutil.Process.create_time)
    ports = range(head.ports.direct_ingress_min, head.ports.direct_ingress_max + 1)
    (port,) = {
        connection.laddr.port
        for connection in replica.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }.intersection(ports)
    return int(port)
