"""Thin Ray shells: a host of agents as an actor, and how the kernel starts, feeds and ends them."""

import asyncio
import contextlib
import logging
import os
import queue
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from aios.agents.context import raised
from aios.agents.host import AgentHost
from aios.agents.ingress import Ingress
from aios.agents.watchdog import Watchdog
from aios.errors import ClusterUnavailable
from aios.records.agents import Delivery
from aios.records.cost import Owner
from aios.telemetry.on_ray import Metered
from aios.telemetry.traces import Tracer

KERNEL = "aios-kernel"
NAMESPACE = "aios"
PING_S = 2.0
FROZEN_S = 10.0
"""A host that has answered once and then does not for so long counts as dead."""
START_S = 120.0
"""How long one may take to answer first: a busy machine imports slowly."""

logger = logging.getLogger("aios.agents")


class HostActor:
    """A process that runs agents. It ends with the kernel, which starts another."""

    def __init__(self, epoch: int, address: str, key: str, otlp_endpoint: str | None) -> None:
        self._epoch = epoch
        self._ingress = address, key
        self._tracer = Tracer(otlp_endpoint, "aios-agents")
        self._kernel = ray.get_actor(KERNEL, namespace=NAMESPACE)
        self._begun: AgentHost | None = None
        self._tasks: list[asyncio.Task[None]] = []
        Metered(Owner("agents"), changing=self._handled)

    def _handled(self) -> dict[str, Any]:
        return {} if self._begun is None else {"calls": dict(self._begun.handled)}

    def _host(self) -> AgentHost:
        """The host, made at the first call: Ray has no loop before."""
        if self._begun is None:
            ingress = Ingress(*self._ingress, self._tracer)
            host = AgentHost(self._ask_kernel, ingress.predict, tracer=self._tracer)
            self._watchdog = Watchdog(self._give_up)
            self._tasks = [
                asyncio.create_task(host.tell_forever()),
                asyncio.create_task(host.sleep_forever()),
            ]
            self._begun = host
        return self._begun

    async def deliver(self, deliveries: list[dict[str, Any]]) -> None:
        """Begin to handle messages."""
        self._host().deliver([Delivery.model_validate(one) for one in deliveries])

    async def cancel(self, seqs: list[int]) -> None:
        """Stop handling messages."""
        self._host().cancel(seqs)

    async def ping(self) -> dict[str, int]:
        """How it is."""
        host = self._host()
        return {"pid": os.getpid(), "awake": host.awake, "busy": host.busy}

    async def life(self) -> None:
        """Never returns; who waits for it learns of this process's end."""
        await asyncio.Event().wait()

    async def _ask_kernel(self, what: str, told: Any) -> Any:
        try:
            return raised(await self._kernel.agents.remote(self._epoch, what, told))
        except ray.exceptions.RayError as error:
            raise ClusterUnavailable(f"the kernel does not answer: {error!s:.200}") from error

    def _give_up(self, task: str) -> None:
        """From the watchdog's thread: the loop does not turn any more."""
        logger.error("agent %s cannot be interrupted; its process ends", task)
        told = self._kernel.agents.remote(self._epoch, "stuck", {"task": task})
        ray.wait([told], timeout=5)
        os._exit(1)


class _Host:
    """A host as the kernel sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.begun_s = time.monotonic()
        self.answered_s: float | None = None
        self.asked: Any = None
        self.seen: dict[str, int] = {}


class Hosts:
    """Starts hosts as Ray actors. Ray must be initialised; threads may share it.

    Args:
        address: URL of the ingress on every node.
    """

    def __init__(self, address: str, otlp_endpoint: str | None = None) -> None:
        self._address = address
        self._otlp_endpoint = otlp_endpoint
        self._lock = threading.Lock()
        self._hosts: dict[int, _Host] = {}
        self._ended: Callable[[int, str], None] = lambda _epoch, _why: None
        self._watching = False
        self._deaths: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()

    def on_end(self, ended: Callable[[int, str], None]) -> None:
        """Call `ended(epoch, why)`, from any thread, when a host is gone."""
        self._ended = ended

    def start(self, epoch: int, key: str) -> None:
        """Begin a host; what is delivered before it is up waits for it.

        Args:
            key: an API key that may predict.
        """
        options = {"num_cpus": 0.1, "max_concurrency": 10_000, "scheduling_strategy": "SPREAD"}
        actor = (
            ray.remote(HostActor)
            .options(**options)
            .remote(epoch, self._address, key, self._otlp_endpoint)
        )
        with self._lock:
            self._hosts[epoch] = _Host(actor)
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="aios-agent-hosts", daemon=True).start()
        life = actor.life.remote().future()
        # In a thread of Ray's own, which must not wait for Ray.
        life.add_done_callback(lambda done: self._deaths.put((epoch, _why(done))))

    def deliver(self, epoch: int, deliveries: list[dict[str, Any]]) -> None:
        """Send messages to a host; nobody waits for this."""
        host = self._hosts.get(epoch)
        if host is not None:
            host.actor.deliver.remote(deliveries)

    def cancel(self, epoch: int, seqs: list[int]) -> None:
        """Tell a host to stop handling messages; nobody waits for this."""
        host = self._hosts.get(epoch)
        if host is not None:
            host.actor.cancel.remote(seqs)

    def seen(self) -> dict[int, dict[str, int]]:
        """What hosts said of themselves last, by epoch: `pid`, `awake`, `busy`."""
        with self._lock:
            return {epoch: dict(host.seen) for epoch, host in self._hosts.items()}

    def close(self) -> None:
        """End all hosts."""
        with self._lock:
            hosts, self._hosts = self._hosts, {}
        for host in hosts.values():
            ray.kill(host.actor)

    def _gone(self, epoch: int, why: str) -> None:
        with self._lock:
            host = self._hosts.pop(epoch, None)
        if host is not None:
            ray.kill(host.actor)
            self._ended(epoch, why)

    def _watch(self) -> None:
        """Tell of hosts that ended, and find those that are there and do not answer."""
        next_s = 0.0
        while True:
            with contextlib.suppress(queue.Empty):
                self._gone(*self._deaths.get(timeout=PING_S))
            if time.monotonic() < next_s:
                continue
            next_s = time.monotonic() + PING_S
            with self._lock:
                hosts = list(self._hosts.items())
            for epoch, host in hosts:
                why = _look(host, time.monotonic())
                if why is not None:
                    self._gone(epoch, why)


def _look(host: _Host, now_s: float) -> str | None:
    """Ask a host how it is, and take its last answer; why it counts as dead, if it does."""
    if host.asked is None:
        host.asked = host.actor.ping.remote()
    try:
        ready, _ = ray.wait([host.asked], timeout=0)
        if ready:
            host.seen, host.asked = ray.get(ready[0]), None
            host.answered_s = now_s
            return None
    except ray.exceptions.RayError as error:
        return f"it does not answer: {error!s:.200}"
    if host.answered_s is None:
        return f"it was not up after {START_S:.0f} s" if now_s - host.begun_s > START_S else None
    if now_s - host.answered_s > FROZEN_S:
        return f"it has not answered for {now_s - host.answered_s:.0f} s"
    return None


def _why(done: Any) -> str:
    error = done.exception()
    if error is None:
        return "it ended"
    # Ray's own text goes on for lines, about addresses and logs.
    told = " ".join(line.strip() for line in str(error).splitlines()[:2])
    return f"{type(error).__name__}: {textwrap.shorten(told, 200, placeholder=' ...')}"
