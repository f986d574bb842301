"""Which host has which message, and who waits for replies: what the kernel knows of agents in
memory alone."""

import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from typing import Any, Protocol

from aios.records.agents import Delivery

IN_FLIGHT = 256
"""Messages in the hands of one host: what it has in memory, however many agents wait."""
HOSTS = 2
"""So that agents go on at once when one of them dies: a new process takes seconds to be there."""
MOST_HOMES = 50_000
"""Agents whose last host is known, so that they find their object there."""
LIVED_S = 10.0
"""A host that ended sooner is not replaced at once: what ended it may end the next one."""
LONGEST_PAUSE_S = 30.0


class Hosts(Protocol):
    """Processes that run agents; Ray actors in production."""

    def on_end(self, ended: Callable[[int, str], None]) -> None:
        """Call `ended(epoch, why)`, from any thread, when a host is gone."""
        ...

    def start(self, epoch: int, key: str) -> None:
        """Begin a host; `key` is an API key that may predict."""
        ...

    def deliver(self, epoch: int, deliveries: list[dict[str, Any]]) -> None:
        """Send messages to a host; nobody waits for this."""
        ...

    def cancel(self, epoch: int, seqs: list[int]) -> None:
        """Tell a host to stop handling messages; nobody waits for this."""
        ...

    def seen(self) -> dict[int, dict[str, int]]:
        """What hosts said of themselves last, by epoch: `pid`, `awake`, `busy`."""
        ...

    def close(self) -> None:
        """End all hosts."""
        ...


class Staff:
    """The hosts that live, and the messages that they have. One thread at a time.

    Args:
        new_key: makes an API key for hosts.
    """

    def __init__(self, new_key: Callable[[], str]) -> None:
        self._new_key = new_key
        self._key: str | None = None
        self.hosts: Hosts | None = None
        self.wanted = False
        self.problem: str | None = None
        self.flights: dict[int, dict[int, str]] = {}
        self._busy: dict[str, int] = {}
        self._home: dict[str, int] = {}
        self._begun_s: dict[int, float] = {}
        self._pause_s = 0.0
        self._not_before_s = 0.0
        self._now_s = 0.0

    def short(self, now_s: float) -> bool:
        """Whether another host is to be started now."""
        self._now_s = now_s
        few = len(self.flights) < HOSTS
        return self.wanted and self.hosts is not None and few and now_s >= self._not_before_s

    def start(self, epoch: int, now_s: float) -> None:
        """Begin a host."""
        assert self.hosts is not None
        if self._key is None:
            self._key = self._new_key()
        self.flights[epoch] = {}
        self._begun_s[epoch] = now_s
        self.hosts.start(epoch, self._key)

    def gone(self, epoch: int) -> None:
        """Forget a host; its agents go to others."""
        if epoch not in self.flights:
            return
        self.landed(list(self.flights[epoch]))
        del self.flights[epoch]
        self._home = {ref: home for ref, home in self._home.items() if home != epoch}
        quick = self._now_s - self._begun_s.pop(epoch) < LIVED_S
        self._pause_s = min(max(1.0, 2 * self._pause_s), LONGEST_PAUSE_S) if quick else 0.0
        self._not_before_s = self._now_s + self._pause_s

    def share_out(
        self, ready: Iterable[str], over: Collection[int], gone: Collection[int] = ()
    ) -> dict[int, list[str]]:
        """Which of the agents for which something may wait go to which host now: each to the one
        that it was on before, else to the one that has least; none that is busy.

        Args:
            over: messages that are handled no more, though `flights` still has them.
            gone: hosts that get nothing.
        """
        room = {
            epoch: IN_FLIGHT - sum(1 for seq in flights if seq not in over)
            for epoch, flights in self.flights.items()
            if epoch not in gone
        }
        shared: dict[int, list[str]] = {epoch: [] for epoch in room}
        if not room:
            return {}
        for ref in ready:
            if self.is_busy(ref, over):
                continue
            epoch = self._home.get(ref, 0)
            if room.get(epoch, 0) <= 0:
                epoch = max(room, key=lambda one: room[one])
            if room[epoch] <= 0:
                break
            room[epoch] -= 1
            shared[epoch].append(ref)
        return {epoch: refs for epoch, refs in shared.items() if refs}

    def deliver(self, epoch: int, deliveries: list[Delivery]) -> None:
        """Hand messages to a host."""
        if not deliveries or self.hosts is None:
            return
        for one in deliveries:
            if not one.dry:
                self.flights[epoch][one.seq] = one.ref
                self._busy[one.ref] = one.seq
                self._home[one.ref] = epoch
        if len(self._home) > MOST_HOMES:
            self._home.clear()  # they are remade at some other host once
        self.hosts.deliver(epoch, [one.model_dump() for one in deliveries])

    def landed(self, seqs: Iterable[int]) -> None:
        """Messages that no host has any more."""
        for seq in seqs:
            for flights in self.flights.values():
                ref = flights.pop(seq, None)
                if ref is not None and self._busy.get(ref) == seq:
                    del self._busy[ref]

    def recall(self, refs: Collection[str]) -> None:
        """Take agents from their hosts."""
        for epoch, flights in self.flights.items():
            seqs = [seq for seq, ref in flights.items() if ref in refs]
            self.landed(seqs)
            if seqs and self.hosts is not None:
                self.hosts.cancel(epoch, seqs)

    def shown(self) -> list[dict[str, Any]]:
        """The hosts for people."""
        seen = {} if self.hosts is None else self.hosts.seen()
        flights = {epoch: len(have) for epoch, have in list(self.flights.items())}
        return [
            {"epoch": epoch, "in_flight": count, **seen.get(epoch, {})}
            for epoch, count in flights.items()
        ]

    def close(self) -> None:
        """End all hosts."""
        if self.hosts is not None:
            self.hosts.close()

    def is_busy(self, ref: str, over: Collection[int] = ()) -> bool:
        """Whether a host has a message of this agent."""
        seq = self._busy.get(ref)
        return seq is not None and seq not in over


class Replies:
    """Who waits for what becomes of a message. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, list[Future[dict[str, Any]]]] = {}

    def wait_for(self, seq: int) -> Future[dict[str, Any]]:
        """What becomes of a message: `{"reply"}` or `{"problem"}`. Who waits no more cancels it."""
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            self._waiting.setdefault(seq, []).append(future)
        future.add_done_callback(lambda done: self._forget(seq, done))
        return future

    def tell(self, replies: dict[int, dict[str, Any]]) -> None:
        """Wake who waits for these messages."""
        for seq, answer in replies.items():
            with self._lock:
                waiting = self._waiting.pop(seq, [])
            for future in waiting:
                if future.set_running_or_notify_cancel():
                    future.set_result(answer)

    def _forget(self, seq: int, future: Future[dict[str, Any]]) -> None:
        with self._lock:
            waiting = self._waiting.get(seq, [])
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                self._waiting.pop(seq, None)
