"""Acts on events: a thread for each subscription begins a flow, asks an endpoint, or tells an
agent, per event.

An event is done in the transaction that keeps what follows from it. A kernel that is killed before
that tries again: a flow has an id made of subscription and coordinates, so it is begun once; an
endpoint is asked again, which changes nothing, and its answer is sent once; to an agent it is the
same message, which is in its mailbox once.
"""

import hashlib
import logging
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from aios.clock import Clock
from aios.errors import AiosError, UsageError, describe, storable
from aios.events.asking import Asking
from aios.events.dispatching import PutOff, SetAside, after_failure, fault_of
from aios.records.cloudevents import CloudEvent
from aios.records.events import Subscription
from aios.registry.events import EventStore, Outcome, Outgoing, Row

WINDOW = 256
"""Events that are acted on between two transactions."""
AT_A_TIME = 16
"""Requests to one endpoint, or agents that are told."""
IDLE_S = 0.2
"""Between two looks at an inbox that was empty; whoever takes an event wakes its line at once."""
AWAY_S = 1.0
"""After a look at which nothing succeeded."""
LOOK_S = 1.0
LONGEST_TRACE = 10_000

logger = logging.getLogger("aios.kernel")


class Starter(Protocol):
    """What begins flows."""

    def begin(self, ref: str, arguments: list[Any], flow_id: str, by: str, /) -> Any:
        """Begin a flow; nothing happens where one of this id was begun before.

        Raises:
            AiosError: it cannot be begun, and why.
        """


class Teller(Protocol):
    """What puts events into agents' mailboxes."""

    def tell_event(self, name: str, agent_id: str, event: Any, operation: str, by: str, /) -> None:
        """Let the agent of this id handle an event, once for each operation. On disk then.

        Raises:
            AiosError: it cannot be put there, and why.
        """


@dataclass(frozen=True)
class _Good:
    sends: list[Outgoing]


@dataclass(frozen=True)
class _Bad:
    error: BaseException
    trace: str


Act = Callable[[Subscription, Row], list[Outgoing]]


def flow_id_of(subscription: str, coordinates: str) -> str:
    """The id of the flow that an event begins: the same whenever it is delivered."""
    name = hashlib.sha256(f"{subscription}\n{coordinates}".encode()).hexdigest()[:32]
    return f"{subscription}-{name}"


class Line:
    """The events of one subscription. `look` is one round; `run` goes on until closed."""

    def __init__(
        self,
        subscription: Subscription,
        store: EventStore,
        clock: Clock,
        act: Act,
        counts: Counter[tuple[str, str]],
    ) -> None:
        self.subscription = subscription
        self._store = store
        self._clock = clock
        self._act = act
        self._counts = counts
        self._wake = threading.Event()
        self._closed = False
        self._together = subscription.spec.flow is None
        at_a_time = AT_A_TIME if self._together else 1
        self._pool = ThreadPoolExecutor(at_a_time, f"aios-event-{subscription.id}")
        self._thread = threading.Thread(
            target=self.run, name=f"aios-events-{subscription.id}", daemon=True
        )
        # By number: when it was tried last, and how often. Kept in memory: after a restart of
        # the kernel the pauses begin anew, the counted attempts do not.
        self._tried: dict[int, tuple[float, int]] = {}
        self._good_s = -1.0
        self.problem: str | None = None

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something came in."""
        self._wake.set()

    def close(self, wait_s: float = 10.0) -> None:
        """Begin nothing more; what is going on is waited for."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)
        self._pool.shutdown(wait=False)

    def run(self) -> None:
        """Look until closed."""
        while not self._closed:
            self._wake.clear()
            try:
                tried, good = self.look()
            except AiosError as error:
                self.problem, tried, good = error.message, 1, 0
            except Exception:
                logger.exception("events of %s cannot be acted on", self.subscription.id)
                self.problem, tried, good = "unexpected; the kernel's log says more", 1, 0
            if not tried:
                self._wake.wait(IDLE_S)
            elif not good:
                time.sleep(AWAY_S)

    def look(self) -> tuple[int, int]:
        """Act on what is due; returns (how many were tried, how many are done)."""
        rows = self._store.due(self.subscription.id, WINDOW)
        if not rows:
            return 0, 0
        chains: dict[Any, list[Row]] = {}
        for row in rows:
            chains.setdefault((row.seq,) if row.key is None else row.key, []).append(row)
        if self._together:
            found = list(self._pool.map(self._tried_all, chains.values()))
        else:
            found = [self._tried_all(chain) for chain in chains.values()]
        results = [one for chain in found for one in chain]
        outcome = self._settled(results)
        self._store.settle(self.subscription.id, outcome)
        self._counts[(self.subscription.id, "done")] += len(outcome.done)
        self._counts[(self.subscription.id, "dead")] += len(outcome.dead)
        self._counts[(self.subscription.id, "retried")] += len(outcome.put_off)
        return len(results), len(outcome.done)

    def _tried_all(self, chain: Sequence[Row]) -> list[tuple[Row, _Good | _Bad]]:
        """The events of one key, one after the other, up to the first that fails."""
        found: list[tuple[Row, _Good | _Bad]] = []
        for row in chain:
            if self._closed:
                break
            try:
                result: _Good | _Bad = _Good(self._act(self.subscription, row))
            except Exception as error:  # noqa: BLE001  it is kept with the event
                result = _Bad(error, _trace(error))
            found.append((row, result))
            if isinstance(result, _Bad):
                break
        return found

    def _settled(self, results: Sequence[tuple[Row, _Good | _Bad]]) -> Outcome:
        outcome, now_s, mono_s = Outcome(), self._clock.now_s(), self._clock.monotonic_s()
        if any(isinstance(result, _Good) for _, result in results):
            self._good_s = mono_s
            self.problem = None
        for row, result in results:
            if isinstance(result, _Good):
                outcome.done.append(row.seq)
                outcome.sends += result.sends
                self._tried.pop(row.seq, None)
                continue
            last_s, tries = self._tried.get(row.seq, (mono_s, 0))
            fault, others = fault_of(result.error), self._good_s >= last_s
            reason = describe(result.error)
            match after_failure(row.attempts, fault, others, tries, now_s):
                case PutOff(attempts, due_s):
                    outcome.put_off.append((row.seq, attempts, due_s))
                    self._tried[row.seq] = (mono_s, tries + 1)
                case SetAside(attempts):
                    outcome.dead.append((row, attempts, reason, result.trace))
                    self._tried.pop(row.seq, None)
                    logger.warning(
                        "an event of %s is set aside after %d attempts: %s",
                        *(self.subscription.id, attempts, reason),
                    )
            if fault == "target":
                self.problem = reason
        return outcome


class Dispatcher:
    """A line for each subscription that is on.

    Args:
        starter: begins flows.
        teller: tells agents.
        asking: asks endpoints; made when it is first needed.
    """

    def __init__(
        self,
        store: EventStore,
        clock: Clock,
        starter: Starter,
        teller: Teller,
        asking: Callable[[], Asking],
    ) -> None:
        self.starter = starter
        self._teller = teller
        self._store = store
        self._clock = clock
        self._make_asking = asking
        self._asking: Asking | None = None
        self._lines: dict[str, Line] = {}
        self._lock = threading.Lock()
        self._stopped = False
        self.counts: Counter[tuple[str, str]] = Counter()

    def follow(self, subscriptions: Sequence[Subscription]) -> None:
        """Have a line for each of these, as it is now, and no others."""
        wanted = {one.id: one for one in subscriptions}
        with self._lock:
            if self._stopped:
                return
            over = [
                line
                for line in self._lines.values()
                if line.subscription.id not in wanted
                or line.subscription.spec != wanted[line.subscription.id].spec
            ]
            for line in over:
                line.close()
                del self._lines[line.subscription.id]
            for name, one in wanted.items():
                if name not in self._lines:
                    self._lines[name] = self.line(one)
                    self._lines[name].start()

    def line(self, subscription: Subscription) -> Line:
        """A line that has not begun."""
        return Line(subscription, self._store, self._clock, self._act, self.counts)

    def wake(self, subscription: str) -> None:
        """Something came in, or is due again."""
        line = self._lines.get(subscription)
        if line is not None:
            line.wake()

    def problem(self, subscription: str) -> str | None:
        """Why nothing is acted on, if so."""
        line = self._lines.get(subscription)
        return None if line is None else line.problem

    def close(self) -> None:
        with self._lock:
            self._stopped = True
            for line in self._lines.values():
                line.close()
        if self._asking is not None:
            self._asking.close()

    def _act(self, subscription: Subscription, row: Row) -> list[Outgoing]:
        spec, flow_id = subscription.spec, flow_id_of(subscription.id, row.coordinates)
        event = row.content
        if spec.agent is not None:
            if row.key is None:
                raise UsageError(
                    f"the event has no key, which says whose of the agents {spec.agent} it is"
                )
            self._teller.tell_event(spec.agent, row.key, event, flow_id, subscription.created_by)
            return []
        if spec.endpoint is None:
            self.starter.begin(str(spec.flow), [event], flow_id, subscription.created_by)
            return []
        with self._lock:
            self._asking = self._asking or self._make_asking()
        answer = self._asking.ask(spec.endpoint, event, row.key, flow_id[-32:])
        if spec.to is None:
            return []
        told = CloudEvent(
            id=flow_id,
            source=f"aios:endpoints/{spec.endpoint}",
            type="aios.answer",
            subject=row.key,
            time_s=self._clock.now_s(),
            data={**answer, "event": {name: event[name] for name in ("source", "id", "type")}},
        )
        return [Outgoing(spec.to, told, row.key)]


def _trace(error: BaseException) -> str:
    return storable("".join(traceback.format_exception(error))[-LONGEST_TRACE:])
