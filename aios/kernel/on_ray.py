"""Thin Ray shell: the kernel as a detached actor."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray

from aios.agents.on_ray import Hosts
from aios.clock import SystemClock
from aios.config import Settings
from aios.errors import AiosError
from aios.events.on_ray import RayHost, incoming
from aios.flows.on_ray import RayCrew
from aios.kernel.boot_on_ray import CONTROL_PLANE, NAME
from aios.kernel.environment import cluster_token
from aios.kernel.kernel import Kernel
from aios.kernel.metering import LOOK_S, Metering
from aios.kernel.opening import open_flows, place_of
from aios.kernel.reconcile import Reconciler
from aios.kernel.serve_client import ServeClient
from aios.kernel.serve_config import API_APP
from aios.kernel.spares import KEEP_S, Spares
from aios.records import WindowReport
from aios.records.cost import NodeSeen, ProcessUsage
from aios.security import Caller
from aios.telemetry.on_ray import meter_here
from aios.training.on_ray import Workbench

THREADS = 16
PLAN_WAIT_S = 30.0
FUTURE_S = 10.0
"""How long a call waits for something that is to come, less than `api_on_ray.ANSWER_S`."""
SPARE_LOOK_S = 2.0
START_WORKERS_S = 10.0
"""Ray answers when it has begun to start them."""
TYPE_LABELS = ("instance-type", "ray.io/node-group")
"""Labels of a Ray node that say what it costs by the hour, the first that is there."""

logger = logging.getLogger("aios.kernel")


class Resident:
    """What the detached actor `KernelActor` does. Ray restarts it with the same arguments when its
    process dies; what it knows it reads from the store.

    An event loop, because every replica of every endpoint waits here for its next traffic
    plan; whatever touches the database runs in threads.
    """

    def __init__(self, settings: dict[str, Any], api_key: tuple[str, str]) -> None:
        logging.basicConfig(level=logging.INFO)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        loaded = Settings.model_validate(settings)
        client = ServeClient(f"http://127.0.0.1:{loaded.dashboard_port}", cluster_token(os.environ))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="aios-command")
        self._kernel = self._threads.submit(
            lambda: Kernel(
                loaded,
                client,
                SystemClock(),
                api_key,
                open_flows(loaded),
                open_workbench(loaded),
                RayCrew(place_of(loaded), NAME, loaded.otlp_endpoint),
            )
        ).result()
        ingress = f"http://127.0.0.1:{loaded.http_port}"
        self._kernel.agents.use_hosts(Hosts(ingress, loaded.otlp_endpoint))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._kernel.on_change(self._announce)
        self._kernel.events.readers.host = RayHost()
        self._kernel.start()
        meter = threading.Thread(
            target=_meter_forever, args=(self._kernel.metering,), name="aios-meter", daemon=True
        )
        meter.start()
        spare = threading.Thread(
            target=_spare_forever,
            args=(self._kernel.reconciler, Spares(loaded.spare_workers)),
            name="aios-spares",
            daemon=True,
        )
        spare.start()

    def _announce(self) -> None:
        """From any thread: let every `next_plan` look again."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake_waiting)

    def _wake_waiting(self) -> None:
        waited_for, self._changed = self._changed, asyncio.Event()
        waited_for.set()

    async def next_plan(self, endpoint: str, stamp: str) -> dict[str, Any]:
        """Wait for a plan whose stamp is not `stamp`: `{"stamp", "plan", "keyring"}`; `{}` when
        there is none for a while, so that a caller whose kernel was replaced asks the new one."""
        self._loop = asyncio.get_running_loop()
        give_up_s = self._loop.time() + PLAN_WAIT_S
        while True:
            changed = self._changed
            try:
                found, plan = await self._loop.run_in_executor(
                    self._threads, self._kernel.plan_for, endpoint
                )
            except AiosError as error:
                return {"problem": error.to_problem()}
            if found != stamp:
                return {
                    "stamp": found,
                    "plan": plan.model_dump(mode="json"),
                    "keyring": self._kernel.log.keys.current(),
                }
            try:
                async with asyncio.timeout_at(give_up_s):
                    await changed.wait()
            except TimeoutError:
                return {}

    async def execute(
        self, command: str, arguments: dict[str, Any], caller: Caller, operation_id: str | None
    ) -> dict[str, Any]:
        """`{"result": ...}`, or `{"problem": ...}` for an error raised on purpose."""
        return await self._told(self._kernel.execute, command, arguments, caller, operation_id)

    async def agents(self, epoch: int, what: str, told: Any) -> dict[str, Any]:
        """What a host of agents asks; see `execute`."""
        return await self._told(self._kernel.agents.host_asks, epoch, what, told)

    async def _told(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What a function gives, also where that is a future. None is the result where it takes
        longer than one call may: ask again."""
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._threads, function, *arguments)
            if isinstance(result, Future):
                async with asyncio.timeout(FUTURE_S):
                    result = await asyncio.wrap_future(result)
        except TimeoutError:
            return {"result": None}
        except AiosError as error:
            return {"problem": error.to_problem()}
        return {"result": result}

    async def report(self, report: dict[str, Any]) -> None:
        """Take a replica's counts; nobody waits for this."""
        self._kernel.report(WindowReport.model_validate(report))

    async def take_windows(self, parts: list[dict[str, Any]]) -> None:
        """Keep what a replica saw; it asks for the answer, and sends again without one."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._kernel.take_windows, parts)

    async def take_events(
        self, subscription: str, rows: list[tuple[Any, ...]], filtered: int
    ) -> tuple[bool, bool, str | None]:
        """Keep what a reader read, on disk when this has an answer: whether to wait, whether it is
        wanted no more, and why it could not be kept."""
        loop, take = asyncio.get_running_loop(), self._kernel.events.take
        try:
            found = await loop.run_in_executor(
                self._threads, take, subscription, incoming(rows), filtered
            )
        except AiosError as error:
            return True, False, error.message
        return found.hold, found.gone, None

    async def used(self, usage: dict[str, Any]) -> None:
        """Take what a process of ours has used; nobody waits for this."""
        told = ProcessUsage.model_validate(usage)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._kernel.metering.used, told)

    async def ask_flows(self, what: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """What a worker of users' flows asks: `{"result": ...}` or `{"problem": ...}`."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._kernel.flows.asked_by_worker, what, *arguments
            )
        except AiosError as error:
            return {"problem": error.to_problem()}
        return {"result": result}

    async def ready(self) -> int:
        """Its process id, once it is up."""
        return os.getpid()


def _meter_forever(metering: Metering) -> None:
    """Tell the metering what the kernel uses and which nodes there are."""
    own = meter_here(CONTROL_PLANE)
    while True:
        try:
            metering.used(own.usage({}))
            metering.look(_nodes())
        except Exception:
            logger.exception("the nodes could not be looked at; the next look counts for both")
        time.sleep(LOOK_S)


def _nodes() -> list[NodeSeen]:
    """The nodes of the cluster that are alive."""
    return [
        NodeSeen(
            id=node["NodeID"],
            type=next(
                (node["Labels"][it] for it in TYPE_LABELS if it in node["Labels"]), "default"
            ),
            cores=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _spare_forever(reconciler: Reconciler, spares: Spares) -> None:
    """Keep processes waiting for replicas, once the API has what it needs."""
    while True:
        time.sleep(SPARE_LOOK_S)
        apps = reconciler.statuses()
        try:
            if API_APP in apps and apps[API_APP].ready:
                nodes = {
                    node["NodeManagerAddress"]: node["NodeManagerPort"]
                    for node in ray.nodes()
                    if node["Alive"]
                }
                for address, count in spares.missing(apps, nodes, time.monotonic()).items():
                    start_workers(f"{address}:{nodes[address]}", count)
        except Exception:
            logger.exception("no spare workers could be started; replicas start without them")


def start_workers(node_manager: str, count: int) -> None:
    """Let a node of Ray start workers that nobody needs yet. Ray does so itself before tasks that
    wait in line; there is no public call."""
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import common_pb2, node_manager_pb2, node_manager_pb2_grpc

    request = node_manager_pb2.PrestartWorkersRequest(
        language=common_pb2.Language.PYTHON,
        keep_alive_duration_secs=int(KEEP_S),
        num_workers=count,
    )
    request.runtime_env_info.serialized_runtime_env = "{}"  # that of Serve's replicas
    channel = init_grpc_channel(node_manager)
    try:
        stub = node_manager_pb2_grpc.NodeManagerServiceStub(channel)
        stub.PrestartWorkers(request, timeout=START_WORKERS_S)
    finally:
        channel.close()


def open_workbench(settings: Settings) -> Workbench:
    """Where the stages of training runs are carried out: this cluster."""
    return Workbench(
        settings.runs_url,
        settings.artifacts_url,
        settings.log_url,
        settings.home / "cache",
        settings.otlp_endpoint,
    )
