"""Ray Serve's public REST API on the dashboard: put a configuration, read what runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aios.errors import ClusterUnavailable

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ReplicaStatus:
    """One replica process as Serve sees it."""

    replica: str
    state: str
    pid: int | None
    node: str | None
    started_s: float | None


@dataclass(frozen=True)
class AppStatus:
    """One Serve application: `status` is Serve's own word (RUNNING, DEPLOY_FAILED, ...)."""

    name: str
    status: str
    message: str
    replicas: tuple[ReplicaStatus, ...] = field(default=())

    @property
    def ready(self) -> bool:
        """Whether a replica answers. Not the application's own status: each new
        configuration makes every application DEPLOYING for a moment, changed or not."""
        return any(replica.state == "RUNNING" for replica in self.replicas)

    @property
    def failed(self) -> bool:
        return self.status == "DEPLOY_FAILED"


class ServeClient:
    """Talks to the dashboard that runs Serve.

    Args:
        dashboard_url: such as `http://127.0.0.1:8265`.
        token: Ray's cluster token, or None where the cluster asks for none.
    """

    def __init__(self, dashboard_url: str, token: str | None) -> None:
        import httpx

        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(
            base_url=dashboard_url, headers=headers, timeout=TIMEOUT_S, trust_env=False
        )

    def put(self, config: Mapping[str, Any]) -> None:
        """Make Serve run exactly these applications.

        Raises:
            ClusterUnavailable: Serve did not take it; the message carries its answer.
        """
        self._call("PUT", json=dict(config))

    def statuses(self) -> dict[str, AppStatus]:
        """What runs now, by application name.

        Raises:
            ClusterUnavailable: the dashboard does not answer.
        """
        found = self._call("GET").json().get("applications", {})
        return {name: _app_status(name, details) for name, details in found.items()}

    def _call(self, method: str, **more: Any) -> "httpx.Response":
        import httpx

        try:
            answer = self._client.request(method, "/api/serve/applications/", **more)
        except httpx.HTTPError as error:
            raise ClusterUnavailable(f"Ray's dashboard does not answer: {error!r}") from error
        if answer.status_code != 200:
            raise ClusterUnavailable(
                f"Ray Serve answered {answer.status_code} to {method}: {answer.text[-500:]}"
            )
        return answer

    def close(self) -> None:
        self._client.close()


def _app_status(name: str, details: Mapping[str, Any]) -> AppStatus:
    replicas = [
        ReplicaStatus(
            replica=str(replica.get("replica_id")),
            state=str(replica.get("state")),
            pid=replica.get("pid"),
            node=replica.get("node_ip"),
            started_s=replica.get("start_time_s"),
        )
        for deployment in details.get("deployments", {}).values()
        for replica in deployment.get("replicas", [])
    ]
    messages = [str(details.get("message") or "")]
    messages += [str(d.get("message") or "") for d in details.get("deployments", {}).values()]
    return AppStatus(
        name=name,
        status=str(details.get("status")),
        message="\n".join(message for message in messages if message),
        replicas=tuple(replicas),
    )


def failure_reason(message: str) -> str:
    """The last line of a traceback that Serve reports: what went wrong, without the stack."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] or "Rejected" in line]
    return (named or lines or ["no reason was given"])[-1][:500]
