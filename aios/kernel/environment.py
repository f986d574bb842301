"""How Ray is told what we want: the environment of a head and of those who connect to it.

Every name was looked up in Ray 2.60; figures and reasons are with each. Ray reads most of them
at import, in every process, so they must be there before the first one starts.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from aios.kernel.ports import Ports
from aios.kernel.processes import HOME_VARIABLE, ID_VARIABLE

SERVING = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # HAProxy writes two log lines per request, to a syslog on port 514 and to a Python process
    # that makes metrics of it: 0.08 ms of CPU. Replicas count their requests themselves.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HAPROXY_LOG_TARGET": "/dev/null",
    # Serve obeys headers of any caller (no timeout, no cancelling); these keep them off.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "aios.serving.control_headers:middlewares",
    # Ray's workers, replicas and HAProxy among them, run at nice 15 by default: anything else
    # on the machine that computes starves them.
    "RAY_worker_niceness": "0",
}
"""2,000 instead of 140 requests per second. Also in each process that uses ray.serve."""

FAILURE_DETECTION = {
    # A killed proxy is back after 4.7 s instead of 23.2 s.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "1",
    # Without limits Serve's controller and Ray's clients wait for ever for a dead GCS.
    "RAY_SERVE_KV_TIMEOUT_S": "5",
    "RAY_gcs_server_request_timeout_seconds": "5",
    # A GCS that cannot open its store is found out in half a minute, not in two.
    "RAY_gcs_server_port_wait_time_s": "30",
    # Torch's import by several replicas at once on two cores can pass the default of 60 s.
    "RAY_worker_register_timeout_seconds": "120",
    # Out of memory: end a replica of the biggest group, not the youngest task, which can be
    # Serve's controller (ray#63862).
    "RAY_worker_killing_policy_by_group": "1",
}
"""Node health checks stay at Ray's defaults: a lone head that is declared dead because two
cores were busy for three seconds costs more than a slow verdict."""

PRELOAD = {"RAY_preload_python_modules": "aios.serving.on_ray"}
"""What a worker imports before it has work. With spare workers it is done before a replica is
wanted; other work, such as training, waits a second of CPU longer for a worker that is new."""

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes 127.0.0.1 Ray's node address on every system. Without it Ray turns `--node-ip-address
127.0.0.1`, and a driver's, into the machine's outside address, and listens to the world."""


def head_environment(
    base: Mapping[str, str],
    *,
    runtime_id: str,
    home: Path,
    ports: Ports,
    temp_dir: Path,
    token_path: Path,
    gcs_path: Path,
    python_path: str,
    extra: Mapping[str, str],
) -> dict[str, str]:
    """The whole environment of a head's processes, workers and replicas included.

    `base`'s own RAY_ variables are left out: an address, token or hook of another cluster must
    not leak in. Whoever wants one gives it in `extra`, which wins over everything but the
    runtime's identity.
    """
    proxy_dir = temp_dir / "h"
    return {
        **{name: value for name, value in base.items() if not name.startswith("RAY_")},
        **SERVING,
        **FAILURE_DETECTION,
        "PYTHONPATH": python_path,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_storage": "rocksdb",
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.direct_ingress_min),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.direct_ingress_max),
        # The default is one shared /tmp/haproxy-serve.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy_dir / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy_dir / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy_dir / "server-state"),
        **extra,
        **driver_environment(ports, token_path),
        "RAY_gcs_storage_path": str(gcs_path),
        ID_VARIABLE: runtime_id,
        HOME_VARIABLE: str(home),
    }


def driver_environment(ports: Ports, token_path: Path) -> dict[str, str]:
    """What a process needs, set before it imports ray, for `ray.init(address="auto")`.

    It carries no marker: stopping the runtime must not end the user's notebook.
    """
    return {
        **SERVING,
        **LOOPBACK,
        "RAY_ADDRESS": f"127.0.0.1:{ports.gcs}",
        # Both always, or Ray looks into, and writes to, the user's own Ray folder.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def cluster_token(environment: Mapping[str, str]) -> str | None:
    """Ray's cluster token where `RAY_AUTH_TOKEN_PATH` names its file; None without one."""
    path = environment.get("RAY_AUTH_TOKEN_PATH")
    return Path(path).read_text().strip() if path else None


def start_command(
    ports: Ports,
    temp_dir: Path,
    *,
    num_cpus: int | None,
    memory_bytes: int | None,
    object_store_bytes: int,
) -> list[str]:
    """`ray start` of the Python that runs this, with every port named.

    Without log monitor and autoscaler: nobody reads the one, nothing scales by the other on
    one machine, and each is a Python process of 80 MB.
    """
    named = {
        "port": ports.gcs,
        "dashboard-port": ports.dashboard,
        "dashboard-agent-listen-port": ports.dashboard_agent_listen,
        "dashboard-agent-grpc-port": ports.dashboard_agent_grpc,
        "runtime-env-agent-port": ports.runtime_env_agent,
        "metrics-export-port": ports.metrics_export,
        "node-manager-port": ports.node_manager,
        "object-manager-port": ports.object_manager,
        "ray-client-server-port": ports.ray_client,
        "min-worker-port": ports.worker_min,
        "max-worker-port": ports.worker_max,
        "node-ip-address": "127.0.0.1",
        "dashboard-host": "127.0.0.1",
        "temp-dir": temp_dir,
        "object-store-memory": object_store_bytes,
        "include-log-monitor": "false",
        "num-cpus": num_cpus,
        "memory": memory_bytes,
    }
    options = [f"--{name}={value}" for name, value in named.items() if value is not None]
    flags = ["--head", "--no-monitor", "--disable-usage-stats", "--log-style=record"]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *flags, *options]


def import_path(folder: Path, base: Mapping[str, str]) -> str:
    """PYTHONPATH with which replicas import what the user can: his folder, then his own path."""
    parts = [str(folder), *base.get("PYTHONPATH", "").split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(part for part in parts if part))
