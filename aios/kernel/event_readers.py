"""Keeps the processes alive that read from brokers, and has as many as the lag asks for."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aios.clock import Clock
from aios.errors import AiosError
from aios.events.scaling import Scale, scaled
from aios.events.secrets import secret
from aios.records.events import Subscription

READ = ("kafka", "rabbitmq", "postgres_cdc", "files")
"""Sources that a process of their own reads; others come to the kernel, or are its clock."""
ALONE = ("postgres_cdc", "files")
"""Sources that only one process can read."""

logger = logging.getLogger("aios.kernel")


class Handle(Protocol):
    """One process that reads."""

    def progress(self) -> dict[str, Any] | None:
        """How far it is, as `events.consumer.Progress`; `{}` if it has not told yet.

        Returns:
            None if it is gone, or has not answered for too long.
        """

    def end(self) -> None:
        """End it now. What it had not acknowledged is read again."""


class Host(Protocol):
    """Where processes are started."""

    def read(
        self, subscription: Subscription, password: str | None, position: dict[str, Any] | None
    ) -> Handle: ...


@dataclass
class Readers:
    """Those of one subscription."""

    subscription: Subscription
    scale: Scale
    handles: list[Handle] = field(default_factory=list)
    lag: int | None = None
    problem: str | None = None
    restarts: int = 0
    pids: list[int] = field(default_factory=list)
    password: str | None = field(default=None, repr=False)


class EventReaders:
    """The processes of all subscriptions. `look` is called every second, by one thread.

    Args:
        home: of the runtime, where secret files are.
    """

    def __init__(self, clock: Clock, home: Path) -> None:
        self.host: Host | None = None
        self._clock = clock
        self._home = home
        self.readers: dict[str, Readers] = {}

    def look(self, subscriptions: Sequence[Subscription]) -> None:
        """End what is no longer wanted, begin what is missing."""
        wanted = {one.id: one for one in subscriptions if one.spec.source.kind in READ}
        for name, found in list(self.readers.items()):
            one = wanted.get(name)
            if one is None or one.spec != found.subscription.spec:
                self._end(found.handles)
                del self.readers[name]
        for name, one in wanted.items():
            if name not in self.readers:
                low = self._bounds(one)[0]
                scale = Scale(low, low, self._clock.monotonic_s())
                self.readers[name] = Readers(one, scale)
            self._keep(self.readers[name], one)

    def close(self) -> None:
        for found in self.readers.values():
            self._end(found.handles)
        self.readers = {}

    def _keep(self, found: Readers, subscription: Subscription) -> None:
        found.subscription = subscription
        alive, told = [], []
        for handle in found.handles:
            progress = handle.progress()
            if progress is None:
                handle.end()
                found.restarts += 1
                logger.warning("a reader of %s is gone; another one begins", subscription.id)
            else:
                alive.append(handle)
                told.append(progress)
        problems = [one["problem"] for one in told if one.get("problem")]
        lags = [one["lag"] for one in told if one.get("lag") is not None]
        # Members of a Kafka group tell of their own partitions; a queue's readers of all of it.
        total = sum if subscription.spec.source.kind == "kafka" else max
        found.pids = [one["pid"] for one in told if "pid" in one]
        found.lag = total(lags) if lags else None
        held = any(one.get("held") for one in told)
        low, high = self._bounds(subscription)
        found.scale = scaled(found.scale, found.lag, held, low, high, self._clock.monotonic_s())
        number = found.scale.consumers
        self._end(alive[number:])
        found.handles = alive[:number]
        found.problem = problems[0] if problems else None
        try:
            if problems or len(found.handles) < number:
                self._use_password(found)
            while len(found.handles) < number:
                found.handles.append(self._begin(found))
        except AiosError as error:
            found.problem = error.message

    def _use_password(self, found: Readers) -> None:
        """Take the password as it is now; readers that began with another one begin anew."""
        reference = getattr(found.subscription.spec.source, "password", None)
        password = None if reference is None else secret(reference, self._home)
        if password != found.password:
            self._end(found.handles)
            found.handles, found.password = [], password

    def _begin(self, found: Readers) -> Handle:
        assert self.host is not None
        subscription = found.subscription
        return self.host.read(subscription, found.password, subscription.position)

    def _bounds(self, subscription: Subscription) -> tuple[int, int]:
        if subscription.spec.source.kind in ALONE:
            return 1, 1
        scale = subscription.spec.consumers
        return scale.min_replicas, scale.max_replicas

    def _end(self, handles: Sequence[Handle]) -> None:
        for handle in handles:
            handle.end()
