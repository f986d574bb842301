"""Desired state as Ray Serve's declarative configuration: pure functions of records.

Only replica counts and limits differ between two configurations of one endpoint.
`import_path`, `args` and `runtime_env` make its code version: changing one restarts every
replica, so nothing that varies is put there. Traffic plans are not here at all: replicas
fetch them from the kernel. As `user_config` each shift of traffic made Serve take the
replica out of HAProxy and put it back, two reloads and 200 to 400 ms without answers.
"""

from collections.abc import Mapping
from typing import Any

from aios.config import Settings
from aios.records import Autoscale, EndpointSpec, ServedVersion, TrafficPlan
from aios.security import Caller

API_APP = "aios--api"
_HEALTH = {"health_check_period_s": 1.0, "health_check_timeout_s": 10.0}


def replica_settings(settings: Settings) -> dict[str, Any]:
    """What every replica of a model needs to know; a change of it restarts them all. No key is
    among it."""
    return {
        "artifacts_url": settings.artifacts_url,
        "cache": str(settings.home / "cache"),
        "log_url": settings.log_url,
        "otlp_endpoint": settings.otlp_endpoint,
        "otlp_ratio": settings.otlp_ratio,
        "window_s": settings.window_s,
    }


def api_settings(settings: Settings) -> dict[str, Any]:
    """What the API's replica needs to know."""
    return {
        "artifacts_url": settings.artifacts_url,
        "runs_url": settings.runs_url,
        "cache": str(settings.home / "cache"),
    }


def challenger_app_name(endpoint: str, version: int, rollout_id: str) -> str:
    """The Serve application of one challenger; no endpoint can have this name.

    Each rollout gets one of its own, so that what is left of an earlier one of the same
    version, a crashed process say, is never taken for it.
    """
    return f"{endpoint}--v{version}-{rollout_id[-8:]}"


def challenger_of(app: str) -> tuple[str, int] | None:
    """Endpoint and version of a challenger's application; None for any other."""
    endpoint, _, rest = app.partition("--v")
    version = rest.partition("-")[0]
    return (endpoint, int(version)) if version.isdecimal() else None


def endpoint_application(plan: TrafficPlan, replica_settings: Mapping[str, Any]) -> dict[str, Any]:
    """The application that answers for an endpoint."""
    spec = plan.spec
    return {
        "name": spec.name,
        "route_prefix": f"/v2/models/{spec.name}",
        "import_path": "aios.serving.on_ray:endpoint_app",
        "args": {"name": spec.name, "settings": dict(replica_settings)},
        "deployments": [
            {
                "name": "endpoint",
                # Our own limit answers first, with a problem body and Retry-After.
                "max_ongoing_requests": 2 * spec.max_queued + 64,
                "graceful_shutdown_timeout_s": max(5.0, 2 * spec.deadline_s),
                "ray_actor_options": _resources(spec),
                **_HEALTH,
                **_scale(spec.replicas),
            }
        ],
    }


def challenger_application(
    app: str, plan: TrafficPlan, served: ServedVersion, replica_settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A version in an application of its own, without a route."""
    spec = plan.spec
    settings = {**replica_settings, "max_rows": spec.max_rows, "threads": spec.threads}
    arguments = {
        "served": served.model_dump(mode="json"),
        "model": spec.model,
        "settings": settings,
    }
    return {
        "name": app,
        "route_prefix": None,
        "import_path": "aios.serving.on_ray:challenger_app",
        "args": arguments,
        "deployments": [
            {
                "name": "challenger",
                "max_ongoing_requests": spec.max_queued,
                "graceful_shutdown_timeout_s": 2.0,
                "max_constructor_retry_count": 2,
                "ray_actor_options": _resources(spec),
                **_HEALTH,
                **_scale(spec.replicas),
            }
        ],
    }


def api_application(
    callers: Mapping[str, Caller], api_settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The control API. `callers` maps the sha256 of each API key to who holds it."""
    return {
        "name": API_APP,
        "route_prefix": "/",
        "import_path": "aios.kernel.api_on_ray:api_app",
        "args": {"settings": dict(api_settings)},
        "deployments": [
            {
                "name": "api",
                "num_replicas": 1,
                "max_ongoing_requests": 200,
                "user_config": {"keys": {key: list(caller) for key, caller in callers.items()}},
                "ray_actor_options": {"num_cpus": 0.1},
                **_HEALTH,
            }
        ],
    }


def serve_config(
    applications: list[dict[str, Any]], http_port: int, *, on_loopback: bool
) -> dict[str, Any]:
    """The whole of it. Serve deletes applications that are not named here.

    The ingress has no TLS, so on one machine it stays on loopback; on a cluster the proxies
    must reach the replicas of other nodes.
    """
    host = "127.0.0.1" if on_loopback else "0.0.0.0"
    return {
        "http_options": {"host": host, "port": http_port},
        "proxy_location": "EveryNode",
        "applications": sorted(applications, key=lambda app: str(app["name"])),
    }


def _resources(spec: EndpointSpec) -> dict[str, float]:
    """What Ray sets aside for a replica. Without a GPU it is not named, as before there were any:
    another text would restart the replicas of endpoints that run."""
    return {"num_cpus": 0.1, **({"num_gpus": spec.gpus} if spec.gpus else {})}


def _scale(replicas: Autoscale) -> dict[str, Any]:
    if replicas.fixed:
        return {"num_replicas": replicas.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": replicas.min_replicas,
            "max_replicas": replicas.max_replicas,
            "target_ongoing_requests": replicas.ongoing_requests,
        }
    }
