"""`Runtime`: the one object a user holds."""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import ValidationError

from aios.errors import UsageError
from aios.presentation import Shown
from aios.records import Autoscale, Cached, Default, EndpointSpec, ModelVersion, Rule
from aios.rollout import BlueGreen, Canary, Shadow
from aios.runtime.models import Models
from aios.runtime.objects import Endpoint, Live, Rollout
from aios.runtime.tables import Status, Table
from aios.runtime.transport import Transport


class Runtime(Live):
    """A running aios: register models, deploy endpoints, roll versions out and back.

    Get one from `aios.connect()` or `aios.local()`. It holds a connection and nothing else.
    """

    def __init__(self, address: str, key: str | None) -> None:
        self._transport = Transport(address, key)
        self.address = self._transport.address
        self.key = key
        self.models = Models(self._transport)

    def deploy(
        self,
        name: str,
        version: str | ModelVersion,
        *,
        deadline_s: float = 1.0,
        replicas: int | Autoscale = 1,
        fallback: Sequence[Cached | Rule | Default] = (),
        wait_s: float = 120.0,
        **settings: Any,
    ) -> Endpoint:
        """Serve a version as endpoint `name`, or change how an endpoint is served.

        Args:
            version: such as `loan:1`. An endpoint that serves another version already is not
                switched over: that is what `rollout` is for.
            deadline_s: the whole budget of one request.
            replicas: a number, or `aios.Autoscale(1, 8)`.
            fallback: what answers when the model cannot, tried in order.
            wait_s: how long to wait until it answers; 0 returns at once.
            settings: see `EndpointSpec`: max_queued, max_body_bytes, max_rows,
                record_fraction, require_key.

        Raises:
            IllegalTransition: the endpoint serves another version, or a rollout runs.
            DeadlineExceeded: it is not ready after `wait_s`; says what Serve reports.
        """
        ref = version.ref if isinstance(version, ModelVersion) else version
        scale = Autoscale(replicas, replicas) if isinstance(replicas, int) else replicas
        fields = {
            "deadline_s": deadline_s,
            "replicas": scale,
            "fallback": tuple(fallback),
            **settings,
        }
        try:
            spec = EndpointSpec(name=name, model=ref.split(":")[0].split("@")[0], **fields)
        except ValidationError as error:
            raise UsageError(_explain(error)) from None
        body = {"version": ref, "spec": spec.model_dump(mode="json", exclude={"name", "model"})}
        self._transport.change("PUT", f"/api/v1/endpoints/{name}", body)
        endpoint = Endpoint(self._transport, name)
        return endpoint.wait(wait_s) if wait_s else endpoint

    def endpoint(self, name: str) -> Endpoint:
        """An endpoint that is deployed.

        Raises:
            UnknownEndpoint: it is not; says which are.
        """
        self._transport.get(f"/api/v1/endpoints/{name}")
        return Endpoint(self._transport, name)

    def remove(self, name: str) -> None:
        """Take an endpoint down; its history stays.

        Raises:
            IllegalTransition: a rollout runs on it.
        """
        self._transport.change("DELETE", f"/api/v1/endpoints/{name}")

    def rollout(
        self, endpoint: str, version: str | ModelVersion, plan: Canary | BlueGreen | Shadow
    ) -> Rollout:
        """Start to move an endpoint to another version; returns at once.

        Raises:
            IllegalTransition: one runs on this endpoint already.
            UsageError: the version's contract is narrower than stable's; names the fields.
        """
        if not isinstance(plan, Canary | BlueGreen | Shadow):
            raise UsageError(
                f"the plan is {plan!r:.60}; give aios.Canary(), aios.BlueGreen() or aios.Shadow()"
            )
        ref = version.ref if isinstance(version, ModelVersion) else version
        body = {"version": ref, "plan": plan.model_dump(mode="json")}
        found = self._transport.change("POST", f"/api/v1/endpoints/{endpoint}/rollouts", body)
        return Rollout(self._transport, found["id"])

    def get_rollout(self, rollout_id: str) -> Rollout:
        """A rollout that somebody started, by the id that `rollouts` lists.

        Raises:
            UnknownRollout: there is none; says which run.
        """
        self._transport.get(f"/api/v1/rollouts/{rollout_id}")
        return Rollout(self._transport, rollout_id)

    def rollouts(self, endpoint: str | None = None) -> Table:
        """Rollouts that run or ran, oldest first."""
        found = self._transport.get("/api/v1/rollouts", endpoint=endpoint)
        columns = ["id", "endpoint", "from_version", "to_version", "status", "stage", "reason"]
        return Table("rollouts", found, columns)

    def rollback(self, endpoint: str, reason: str = "") -> int:
        """Give users what they had before: ends a running rollout, else undoes the last
        promotion. Returns the version that is stable now; every replica follows within a
        fraction of a second, and `endpoint(...).wait()` waits for it.

        Raises:
            IllegalTransition: there is no promotion to undo; a rollback is not undone by
                another one.
        """
        path = f"/api/v1/endpoints/{endpoint}/rollback"
        return int(self._transport.change("POST", path, {"reason": reason})["version"])

    def status(self) -> Status:
        """What is deployed, how it does, and which rollouts run."""
        return Status(self.address, self._transport.get("/api/v1/status"))

    def ps(self) -> Table:
        """Every process of the runtime's work: kernel, API, replicas of each arm."""
        columns = ["role", "name", "version", "pid", "node", "state", "in_flight", "revision"]
        return Table("processes", self._transport.get("/api/v1/ps"), columns)

    def audit(self, limit: int = 100, subject: str | None = None) -> Table:
        """The newest audit entries, newest first."""
        found = self._transport.get("/api/v1/audit", limit=limit, subject=subject)
        return Table("audit", found, ["seq", "at_s", "actor", "action", "subject"])

    def metrics(self) -> str:
        """Prometheus's text format, of all endpoints."""
        return self._transport.text("/metrics")

    def close(self) -> None:
        """Close the connection; a private runtime ends with it."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _named(self) -> str:
        return f"aios runtime at {self.address}"

    def _now(self) -> Shown:
        return self.status()


def _explain(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the endpoint"
    return f"{where}: {fault['msg']} (got {str(fault['input'])[:80]!r})"
