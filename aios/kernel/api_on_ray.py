"""Thin Ray shell: the API as a Serve deployment. Who builds or serves it imports nothing of the
kernel, its database and its rooms: a second of CPU and 27 MiB in each of two processes."""

import asyncio
from pathlib import Path
from typing import Any

import ray
from ray import serve

from aios.errors import ClusterUnavailable, from_problem
from aios.kernel.api import build_api, caller_of
from aios.kernel.boot_on_ray import CONTROL_PLANE, NAME, NAMESPACE
from aios.security import Caller
from aios.store.artifacts import ArtifactStore
from aios.telemetry.on_ray import Metered
from aios.training.workspace import Workspace

ANSWER_S = 15.0
"""How long a command may take; SQLite and a rollout's decision take milliseconds."""


@serve.deployment(name="api")
@serve.ingress()
class ApiDeployment:
    """One replica of the control API."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._callers: dict[str, Caller] = {}
        self._store = ArtifactStore(settings["artifacts_url"], Path(settings["cache"]))
        self._data = Workspace(f"{settings['runs_url'].rstrip('/')}/data", "", "")
        Metered(CONTROL_PLANE)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        keys = user_config["keys"]
        self._callers = {digest: Caller(*caller) for digest, caller in keys.items()}

    def __serve_build_asgi_app__(self) -> Any:
        return build_api(
            self._execute,
            lambda header: caller_of(self._callers, header),
            lambda body, digest: self._store.write_tar(body, digest),
            self._keep_data,
        )

    def _keep_data(self, content: bytes, digest: str) -> str:
        self._data.write(f"{digest}.parquet", content)
        return self._data.path(f"{digest}.parquet")

    async def _execute(
        self, command: str, arguments: dict[str, Any], caller: Caller, operation_id: str | None
    ) -> Any:
        try:
            kernel = ray.get_actor(NAME, namespace=NAMESPACE)
            async with asyncio.timeout(ANSWER_S):
                answer = await kernel.execute.remote(command, arguments, caller, operation_id)
        except (ValueError, TimeoutError, ray.exceptions.RayActorError) as error:
            raise ClusterUnavailable(
                "the control plane does not answer, it may be restarting; endpoints go on "
                "serving; try again in a second"
            ) from error
        if "problem" in answer:
            raise from_problem(answer["problem"])
        return answer["result"]


def api_app(args: dict[str, Any]) -> serve.Application:
    """Import path of the API's Serve application; see `serve_config.api_application`."""
    return ApiDeployment.bind(args["settings"])  # type: ignore[attr-defined]
