"""Thin Ray shell: a source is read in an actor, which hands what it reads to the kernel."""

import logging
import os
import threading
import time
from typing import Any

import ray

from aios.errors import ClusterUnavailable
from aios.events.consumer import Consumer, Pump, Taking
from aios.events.sources import open_consumer
from aios.records.cost import Owner
from aios.records.events import Incoming, Subscription
from aios.telemetry.on_ray import Metered

KERNEL = "aios-kernel"
NAMESPACE = "aios"
ANSWER_S = 30.0
"""How long a batch may take to be on disk."""
SILENT_S = 20.0
"""A reader that does not answer for so long is frozen, and another one takes over."""
STARTED_S = 120.0
"""How long a process may take to begin, on cores that are busy."""


class ReaderActor:
    """Reads one source until it is ended."""

    def __init__(
        self,
        subscription: dict[str, Any],
        password: str | None,
        position: dict[str, Any] | None,
    ) -> None:
        logging.basicConfig(level=logging.INFO)
        found = Subscription.model_validate(subscription)
        self._id = found.id
        self._kernel: Any = None
        Metered(Owner("control plane"))

        def opened() -> Consumer:
            return open_consumer(found.spec, password, position)

        self._pump = Pump(found.spec, opened, self._take)
        threading.Thread(target=self._pump.run, name="aios-reader", daemon=True).start()

    def progress(self) -> dict[str, Any]:
        """See `events.consumer.Progress`."""
        found = self._pump.progress
        silent_s = time.monotonic() - found.looked_s
        return {
            "pid": os.getpid(),
            "taken": found.taken,
            "lag": found.lag,
            "held": found.held,
            "problem": found.problem,
            "silent_s": silent_s,
        }

    def _take(self, batch: list[Incoming], filtered: int) -> Taking:
        try:
            if self._kernel is None:
                self._kernel = ray.get_actor(KERNEL, namespace=NAMESPACE)
            rows = [tuple(one.model_dump().values()) for one in batch]
            answer = self._kernel.take_events.remote(self._id, rows, filtered)
            hold, gone, problem = ray.get(answer, timeout=ANSWER_S)
        except (ValueError, ray.exceptions.RayError) as error:
            self._kernel = None
            raise ClusterUnavailable("the kernel does not answer; it may be restarting") from error
        if problem is not None:
            raise ClusterUnavailable(problem)
        return Taking(hold, gone)


class _Handle:
    """One reader, as the kernel sees it. Never waits: answers are looked for."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._asked: Any = None
        self._answered_s: float | None = None
        self._begun_s = time.monotonic()
        self._last: dict[str, Any] = {}

    def progress(self) -> dict[str, Any] | None:
        now_s = time.monotonic()
        if self._asked is None:
            self._asked = self._actor.progress.remote()
        done, _ = ray.wait([self._asked], timeout=0)
        if done:
            try:
                self._last = ray.get(done[0])
            except ray.exceptions.RayError:
                return None
            self._answered_s = now_s
            self._asked = self._actor.progress.remote()
        since_s, bound_s = self._begun_s, STARTED_S
        if self._answered_s is not None:
            since_s, bound_s = self._answered_s, SILENT_S
        return None if now_s - since_s > bound_s else self._last

    def end(self) -> None:
        ray.kill(self._actor, no_restart=True)


class RayHost:
    """Starts readers on this cluster. They belong to the kernel's process and end with it, so that
    nobody reads for a kernel that is gone."""

    def read(
        self, subscription: Subscription, password: str | None, position: dict[str, Any] | None
    ) -> _Handle:
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0}
        source = subscription.spec.source
        if source.kind == "files" and "://" not in source.url:
            # A folder of "this machine" is one of the kernel's.
            options["resources"] = {"node:__internal_head__": 0.001}
        actor = (
            ray.remote(ReaderActor)
            .options(**options)
            .remote(subscription.model_dump(mode="json"), password, position)
        )
        return _Handle(actor)


def incoming(rows: list[tuple[Any, ...]]) -> list[Incoming]:
    """What a reader sent, which travels bare as records of thousands would take long to check."""
    names = tuple(Incoming.model_fields)
    return [Incoming.model_construct(**dict(zip(names, row, strict=True))) for row in rows]
