"""Carries messages between agents: everything that comes at about the same time is one
transaction, and what it allows is sent to the hosts once it is on disk."""

import heapq
import logging
import queue
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from typing import Any

from aios.clock import Clock
from aios.errors import AiosError, Overloaded, UsageError
from aios.kernel.agent_staff import Hosts, Replies, Staff
from aios.kernel.mailroom import FactsOf, Mailroom, News
from aios.records.agents import AgentPlan, Delivery
from aios.registry.mailbox import Mailbox
from aios.store.database import Database

MOST_AT_ONCE = 500
"""Orders of one transaction; other writers wait for it."""
LOOK_S = 1.0
TIDY_S = 3_600.0
KEEP_S = 30 * 86_400.0
"""How long messages that are done, or were given up, and what agents decided stay."""

Order = Callable[[Mailroom], Any]

logger = logging.getLogger("aios.kernel")


class Post:
    """The one thread that writes mailboxes.

    What it has in memory (which host has which message) is about messages that wait on disk: a
    kernel that dies forgets it, its hosts end with it, and the next one hands out anew.

    Args:
        facts: gives what was read off an agent's version.
        plans: gives the plans by which agents run other versions.
        worse: told of a version on trial that failed what the agent's own version handled.
        new_key: makes an API key for hosts.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        facts: FactsOf,
        plans: Callable[[], list[AgentPlan]],
        worse: Callable[[str, int], None],
        new_key: Callable[[], str],
    ) -> None:
        self._database = database
        self._clock = clock
        self._facts = facts
        self._plans = plans
        self._worse = worse
        self._staff = Staff(new_key)
        self.problem: str | None = None
        self.replies = Replies()
        self._orders: queue.SimpleQueue[tuple[Order, Future[Any]] | None] = queue.SimpleQueue()
        self._once = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._ready: dict[str, None] = {}
        self._early: list[tuple[float, str]] = []
        self._lost: list[tuple[int, int | None, str]] = []
        self._next_tidy_s = 0.0

    def use_hosts(self, hosts: Hosts) -> None:
        """What runs agents. Without it messages wait."""
        hosts.on_end(self.ended)
        self._staff.hosts = hosts

    def start(self) -> None:
        """Begin, with what an earlier kernel left."""
        with self._database.reading() as connection:
            left = Mailbox(connection, 0.0).waiting_agents()
        if left:
            self.look_at(left)
        self._thread = threading.Thread(target=self._run, name="aios-post", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what waits is for the next kernel."""
        self._closed.set()
        self._orders.put(None)
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._staff.close()

    def order(self, order: Order) -> Future[Any]:
        """Let something be done in the next transaction; what it gave, once that is on disk."""
        future: Future[Any] = Future()
        self._orders.put((order, future))
        if self._thread is None:
            self.once()
        return future

    def look_at(self, refs: Iterable[str]) -> None:
        """Something may wait for these agents; they need hosts."""
        self._staff.wanted = True
        with self._once:
            self._ready |= dict.fromkeys(refs)
        self._orders.put(None)

    def recall(self, refs: Collection[str]) -> None:
        """Take agents from their hosts: what becomes of their messages counts no more."""
        with self._once:
            self._staff.recall(set(refs))
        self.look_at(refs)

    def ended(self, epoch: int, why: str, culprit: int | None = None) -> None:
        """A host is gone, or counts as gone; `culprit` is the message that held it up."""
        with self._once:
            self._lost.append((epoch, culprit, why))
        self._orders.put(None)

    def hosts(self) -> list[dict[str, Any]]:
        """The hosts, and how many messages each has."""
        return self._staff.shown()

    def once(self) -> None:
        """One transaction for what was ordered until now, and for what may be handed out.

        Raises:
            StoreUnavailable: nothing was changed; who ordered is told the same.
        """
        with self._once:
            orders, lost = self._taken(), list(self._lost)
            plans = {plan.name: plan for plan in self._plans()}
            try:
                with self._database.transaction() as connection:
                    room = Mailroom(connection, self._clock.now_s(), self._facts, plans)
                    for gone in lost:
                        self._give_up(room, *gone)
                    done = [_attempted(order, room) for order, _ in orders]
                    handed, looked = self._hand_out(room)
                    room.box.flush()
            except Exception as error:
                for _, future in orders:
                    _settle(future, None, error)
                raise
            del self._lost[: len(lost)]
            for epoch, _, _ in lost:
                self._staff.gone(epoch)
            self._after(room.news, handed, looked)
        for (_, future), (result, failure) in zip(orders, done, strict=True):
            _settle(future, result, failure)
        self.replies.tell(room.news.replies)
        for name, version in room.news.worse:
            self._worse(name, version)

    def tidy(self) -> None:
        """Once an hour: messages that ended long ago leave."""
        now_s = self._clock.monotonic_s()
        if now_s < self._next_tidy_s:
            return
        self._next_tidy_s = now_s + TIDY_S
        with self._database.transaction() as connection:
            wall_s = self._clock.now_s()
            Mailbox(connection, wall_s).remove_old(wall_s - KEEP_S)

    def hire(self) -> None:
        """Start the hosts that are missing, once there are agents."""
        while self._staff.short(self._clock.monotonic_s()):
            with self._database.transaction() as connection:
                epoch = Mailbox(connection, self._clock.now_s()).open_host()
            self._staff.start(epoch, self._clock.monotonic_s())

    def _taken(self) -> list[tuple[Order, Future[Any]]]:
        taken: list[tuple[Order, Future[Any]]] = []
        while len(taken) < MOST_AT_ONCE:
            try:
                found = self._orders.get_nowait()
            except queue.Empty:
                break
            if found is not None:
                taken.append(found)
        return taken

    def _give_up(self, room: Mailroom, epoch: int, culprit: int | None, why: str) -> None:
        room.lost(self._staff.flights.get(epoch, {}), culprit, why)
        room.box.close_host(epoch, why)

    def _hand_out(self, room: Mailroom) -> tuple[dict[int, list[Delivery]], dict[str, float]]:
        """Messages for hosts that have room; and the agents that were looked at, with the time
        from which on their next message may be handled (0: now, or there is none)."""
        now_s = room.box.now_s
        while self._early and self._early[0][0] <= now_s:
            self._ready.setdefault(heapq.heappop(self._early)[1])
        self._ready |= dict.fromkeys(room.news.work)
        gone = [epoch for epoch, _, _ in self._lost]
        over = set(room.news.over)
        handed: dict[int, list[Delivery]] = {}
        looked: dict[str, float] = {}
        for epoch, refs in self._staff.share_out(self._ready, over, gone).items():
            handed[epoch], early = room.hand_out(refs, epoch)
            looked |= dict.fromkeys(refs, 0.0) | early
        return handed, looked

    def _after(
        self, news: News, handed: dict[int, list[Delivery]], looked: dict[str, float]
    ) -> None:
        """Act on what is on disk now."""
        self._staff.wanted |= bool(news.work)
        self._staff.landed(news.over)
        for ref, due_s in looked.items():
            self._ready.pop(ref, None)
            if due_s:
                heapq.heappush(self._early, (due_s, ref))
        for epoch, deliveries in handed.items():
            self._staff.deliver(epoch, deliveries)
        for ref in [ref for ref in self._ready if self._staff.is_busy(ref)]:
            del self._ready[ref]  # it is looked at again when its message is over
        if self._ready and any(handed.values()):
            self._orders.put(None)

    def _pause_s(self) -> float:
        if not self._early:
            return LOOK_S
        return min(LOOK_S, max(0.0, self._early[0][0] - self._clock.now_s()))

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                first = self._orders.get(timeout=self._pause_s())
                if first is not None:
                    self._orders.put(first)
            except queue.Empty:
                pass
            try:
                self.tidy()
                self.hire()
                self.once()
                self.problem = self._staff.problem
            except Exception as error:
                self.problem = f"agents' messages wait: {error!s:.200}"
                logger.exception("agents' messages could not be written; they are tried again")
                self._closed.wait(LOOK_S)


def _settle(future: Future[Any], result: Any, failure: Exception | None) -> None:
    if not future.set_running_or_notify_cancel():
        return  # nobody waits any more; it is done all the same
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)


def _attempted(order: Order, room: Mailroom) -> tuple[Any, AiosError | None]:
    """What an order gave, or why it was refused; then it has changed nothing."""
    try:
        return order(room), None
    except (UsageError, Overloaded) as error:
        return None, error
