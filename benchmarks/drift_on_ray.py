"""The two endpoints of `drift_request` as replicas of the same Serve, one watched and one not.

    python -m benchmarks.drift_on_ray KEY FOLDER        into the cluster that the environment names

They join a private runtime through `serve.run`, as `peers_on_ray`'s bare replica does, and so have
what a real endpoint has around it: HAProxy, Serve's replica, its flags.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import ray
from ray import serve

import aios
from aios.capacity.load import Target
from aios.kernel.head import Head, read_head
from aios.kernel.processes import processes_of
from aios.serving.features import FeatureWindows
from aios.serving.heap import settle_heap
from aios.serving.http import EndpointApp
from aios.serving.recorder import FLUSH_S, Recorder
from benchmarks import drift_request as request

STARTUP_S = 120.0
NAMES = ("toy-off", "toy-on")


@serve.deployment(
    name="replica",
    max_ongoing_requests=576,
    ray_actor_options={"num_cpus": 0.1},
    logging_config={"log_level": "WARNING", "enable_access_log": False},  # as aios has it
)
@serve.ingress()
class Replica:
    """One endpoint, with a replica's timers."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, name: str, key: str, folder: str
    ) -> None:
        watched = name == "toy-on"
        recorder = Recorder(f"{folder}/{name}", 1.0 if watched else 0.0)
        features = (FeatureWindows if watched else request.Unwatched)(name, "r1", 60.0)
        self._endpoint = request.endpoint(recorder, features)
        self._name = name
        await self._endpoint.reconfigure(request.plan(key, name))
        settle_heap()  # as aios does
        self._timers = [
            asyncio.create_task(request.again(1.0, lambda: request.fold(features))),
            asyncio.create_task(request.again(FLUSH_S, recorder.flush)),
        ]

    def __serve_build_asgi_app__(self) -> EndpointApp:
        return EndpointApp(self._endpoint, self._name)


@contextmanager
def on_serve(key: str) -> "Iterator[dict[str, tuple[Target, psutil.Process]]]":
    """Both, until the block ends: where each answers, and its replica's process."""
    with tempfile.TemporaryDirectory() as folder, aios.local() as runtime:
        head = read_head(runtime.home)
        assert head is not None
        command = [sys.executable, "-m", "benchmarks.drift_on_ray", key, folder]
        done = subprocess.run(
            command,
            env={**os.environ, **head.driver_env()},
            capture_output=True,
            text=True,
            timeout=STARTUP_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the replicas did not start: {done.stderr[-2000:]}")
        yield {name.removeprefix("toy-"): _reached(head, name, key) for name in NAMES}


def _reached(head: Head, name: str, key: str) -> tuple[Target, psutil.Process]:
    title = f"ray::ServeReplica:{name}:replica"
    (process,) = (
        process
        for process in processes_of(head.id, str(head.temp_dir))
        if (process.cmdline() or [""])[0] == title
    )
    url = f"{head.address}/v2/models/{name}/predict"
    return Target(url, {"Authorization": f"Bearer {key}"}), process


def deploy(key: str, folder: str) -> None:
    """Both replicas, into the cluster that the environment names."""
    ray.init(address="auto", log_to_driver=False, namespace="benchmarks")
    for name in NAMES:
        app = Replica.bind(name, key, folder)  # type: ignore[attr-defined]
        serve.run(app, name=name, route_prefix=f"/v2/models/{name}")


if __name__ == "__main__":
    deploy(*sys.argv[1:])
