"""Thin Ray Serve shells around `Endpoint` and `ChallengerReplica`.

The kernel names `endpoint_app` and `challenger_app` as import paths in the declarative
Serve configuration. Their arguments never change while an endpoint lives, because a changed
argument restarts replicas; what changes comes as a traffic plan that each replica waits for
at the kernel, so that Serve and its HAProxy are not touched when traffic shifts.
"""

import asyncio
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve

from aios.clock import SystemClock
from aios.contracts import Batch, Codec, Contract
from aios.models import OutlierDetector, device_for, load_engine, load_outliers
from aios.records import Autoscale, Challenger, ServedVersion, TrafficPlan
from aios.records.cost import Owner
from aios.serving.calls import Calls
from aios.serving.challenger import ChallengerReplica, Reply, unpack
from aios.serving.control_headers import answer_directly
from aios.serving.endpoint import Endpoint
from aios.serving.features import FeatureWindows
from aios.serving.heap import settle_heap
from aios.serving.http import EndpointApp
from aios.serving.line import Lines, Listening, Place
from aios.serving.live import ChallengerClient
from aios.serving.outliers import Outliers
from aios.serving.privacy import Privacy
from aios.serving.recorder import FLUSH_S, Recorder
from aios.serving.runner import Outputs, Runner
from aios.serving.starting import Start
from aios.store.artifacts import ArtifactStore
from aios.telemetry.on_ray import Metered
from aios.telemetry.traces import Tracer

REPORT_S = 1.0
RETRY_S = 0.25
KERNEL = "aios-kernel"
NAMESPACE = "aios"
ENDPOINT_DEPLOYMENT = "endpoint"
CHALLENGER_DEPLOYMENT = "challenger"
QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""A log line per request costs 5 % of the replica; metrics and the prediction log tell more.
Serve makes the line before it drops it unless the level too is above it."""

logger = logging.getLogger("aios.serving")
IMPORTED_S = time.time()
"""When this process had imported everything: of a replica, what it waited for until then."""


def _start() -> Start:
    _keep_warnings()
    start = Start(IMPORTED_S)
    start.reached("constructed")
    return start


def _keep_warnings() -> None:
    """Warnings and errors go to the log of the worker (`worker-*.err`). In a replica Serve has put
    its own log, of a level that is not kept, in the place of `sys.stderr` and `sys.stdout`."""
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("aios").addHandler(handler)


def _tell(start: Start, name: str) -> None:
    """One line in the log of the worker (`worker-*.out`)."""
    start.reached("ready")
    if sys.__stdout__ is not None:
        sys.__stdout__.write(start.line(name, os.getpid()) + "\n")
        sys.__stdout__.flush()


def _load(
    settings: dict[str, Any],
    served: ServedVersion,
    max_rows: int,
    threads: int,
    tracer: Tracer,
    start: Start,
) -> tuple[Runner, Codec]:
    store = ArtifactStore(settings["artifacts_url"], Path(settings["cache"]))
    contract = Contract.from_json(served.contract)
    folder = store.fetch(served.artifact.digest)
    start.reached("fetched")
    gpus = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
    device = device_for(served.artifact.engine, gpus)
    engine = load_engine(
        folder, served.artifact, contract, device=device, threads=threads, on_step=start.reached
    )
    codec = Codec(contract, max_rows)
    about = {"aios.version": served.version, "aios.engine": served.artifact.engine}
    return Runner(engine, codec, tracer=tracer, about=about), codec


def _tracer(settings: dict[str, Any], service: str) -> Tracer:
    return Tracer(settings["otlp_endpoint"], service, settings["otlp_ratio"])


class _HandleClient:
    """Asks a challenger through its Serve handle; whoever stops waiting cancels the call."""

    def __init__(self, app: str) -> None:
        self._handle = serve.get_deployment_handle(CHALLENGER_DEPLOYMENT, app, _check_exists=False)

    async def __call__(
        self, batch: Batch, timeout_s: float, traceparent: str | None
    ) -> tuple[Outputs, float]:
        response = self._handle.infer.remote(batch, timeout_s, traceparent)
        try:
            reply: Reply = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        return unpack(reply)

    async def where(self) -> Place:
        """Where one of its replicas listens."""
        place: Place = await self._handle.where.remote()
        return place


def _connect(challenger: Challenger, replicas: Autoscale) -> ChallengerClient:
    client = _HandleClient(challenger.app)
    # Serve counts what comes through handles, and scales by it.
    return Lines(client, client.where) if replicas.fixed else client


def _load_outliers(settings: dict[str, Any], served: ServedVersion) -> OutlierDetector | None:
    store = ArtifactStore(settings["artifacts_url"], Path(settings["cache"]))
    folder = store.fetch(served.artifact.digest)
    return load_outliers(folder, served.artifact, Contract.from_json(served.contract))


@serve.deployment(name=ENDPOINT_DEPLOYMENT, logging_config=QUIET)
@serve.ingress()
class EndpointDeployment:
    """One endpoint replica."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, name: str, settings: dict[str, Any]
    ) -> None:
        self._start = start = _start()
        self._name = name
        context = serve.get_replica_context()
        self._privacy = Privacy()
        log_url = f"{settings['log_url'].rstrip('/')}/{name}"
        self._recorder = Recorder(log_url, 1.0, self._privacy)
        replica = context.replica_id.unique_id
        self._features = FeatureWindows(name, replica, settings["window_s"], self._privacy)
        tracer = _tracer(settings, "aios-endpoint")
        self._endpoint = Endpoint(
            load=lambda served, spec: _load(
                settings, served, spec.max_rows, spec.threads, tracer, start
            ),
            connect=_connect,
            recorder=self._recorder,
            features=self._features,
            outliers=Outliers(lambda served: _load_outliers(settings, served)),
            tracer=tracer,
            clock=SystemClock(),
            replica=replica,
        )
        self._app = EndpointApp(self._endpoint, name)
        self._calls = Calls()
        self._kernel: Any = None
        self._stamp = ""
        while not self._stamp:
            await self._take_next_plan()
        owner = Owner("endpoint", name, self._endpoint.live.plan.spec.model)
        self._metered = Metered(owner, changing=self._calls.told)
        settle_heap()
        self._timers = [
            asyncio.create_task(self._follow_forever()),
            asyncio.create_task(self._report_forever()),
            asyncio.create_task(self._record_forever()),
            asyncio.create_task(self._summarise_forever()),
        ]
        _tell(start, name)

    def __serve_build_asgi_app__(self) -> EndpointApp:
        return self._app

    async def _take_next_plan(self) -> None:
        """Wait for a plan other than the one in force, and act on it. Without a kernel, or
        without news for a while, return; the plan in force stays."""
        try:
            if self._kernel is None:
                loop = asyncio.get_running_loop()
                self._kernel = await loop.run_in_executor(
                    None, lambda: ray.get_actor(KERNEL, namespace=NAMESPACE)
                )
            answer = await self._kernel.next_plan.remote(self._name, self._stamp)
        except (ValueError, ray.exceptions.RayError) as error:
            self._kernel = None
            logger.warning("no plan can be had, the kernel does not answer: %s", error)
            await asyncio.sleep(RETRY_S)
            return
        if "plan" in answer:
            self._start.reached("planned")
            plan = TrafficPlan.model_validate(answer["plan"])
            self._privacy.keyring = answer["keyring"]
            self._recorder.fraction = plan.spec.record_fraction
            await self._endpoint.reconfigure(plan)
            # Serve scales by the requests that it sees.
            fixed = self._endpoint.live.plan.spec.replicas.fixed
            answer_directly(self._app if fixed else None, self._app.paths)
            self._stamp = answer["stamp"]
            self._report()
        elif "problem" in answer:
            await asyncio.sleep(RETRY_S)

    async def _follow_forever(self) -> None:
        while True:
            try:
                await self._take_next_plan()
            except Exception:
                logger.exception("a plan could not be taken; the one in force stays")
                await asyncio.sleep(RETRY_S)

    def _report(self) -> None:
        """Tell the kernel; a report that fails is made up for by the next, which is cumulative."""
        try:
            report = self._endpoint.report()
            if report is None:
                return
            self._calls.add(report)
            if self._kernel is None:
                self._kernel = ray.get_actor(KERNEL, namespace=NAMESPACE)
            self._kernel.report.remote(report.model_dump())
        except (ValueError, ray.exceptions.RayError) as error:
            self._kernel = None
            logger.warning("the kernel cannot be reached: %s", error)
        except Exception:
            logger.exception("no report could be made")

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self._report()

    async def _record_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await loop.run_in_executor(None, self._recorder.flush)
            except Exception:
                logger.exception("predictions could not be recorded; they are counted as dropped")

    async def _summarise_forever(self) -> None:
        """Fold what was seen into windows, and send those that are over until the kernel says
        that it has them."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(REPORT_S)
            try:
                taken, now_s = self._features.take(), time.time()
                ready = await loop.run_in_executor(None, self._features.fold, taken, now_s)
                if ready and self._kernel is not None:
                    await self._kernel.take_windows.remote([part.model_dump() for part in ready])
                    self._features.sent(ready)
            except ray.exceptions.RayError as error:
                logger.warning("windows are kept, the kernel does not answer: %s", error)
            except Exception:
                logger.exception("what was seen could not be summarised")

    async def __del__(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._report()
        self._metered.tell()
        if self._kernel is not None:
            parts = self._features.finish(time.time())
            self._kernel.take_windows.remote([part.model_dump() for part in parts])
        self._recorder.flush()


@serve.deployment(name=CHALLENGER_DEPLOYMENT, logging_config=QUIET)
class ChallengerDeployment:
    """One challenger replica."""

    def __init__(self, served: dict[str, Any], model: str, settings: dict[str, Any]) -> None:
        start = _start()
        version = ServedVersion.model_validate(served)
        tracer = _tracer(settings, "aios-challenger")
        loaded = _load(settings, version, settings["max_rows"], settings["threads"], tracer, start)
        self._replica = ChallengerReplica(loaded, tracer, f"{model}:{version.version}")
        self._listening = Listening(self._replica.infer)
        app = serve.get_replica_context().app_name
        Metered(Owner("endpoint"), app=app)
        settle_heap()
        _tell(start, app)

    async def infer(self, batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
        return await self._replica.infer(batch, timeout_s, traceparent)

    async def where(self) -> Place:
        return await self._listening.place(ray.util.get_node_ip_address())

    async def __del__(self) -> None:
        await self._listening.close()


def endpoint_app(args: dict[str, Any]) -> serve.Application:
    """Import path of an endpoint's Serve application; see `kernel.serve_config`."""
    return EndpointDeployment.bind(args["name"], args["settings"])  # type: ignore[attr-defined]


def challenger_app(args: dict[str, Any]) -> serve.Application:
    """Import path of a challenger's Serve application."""
    return ChallengerDeployment.bind(args["served"], args["model"], args["settings"])  # type: ignore[attr-defined]
