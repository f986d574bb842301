"""Events in the kernel: what comes in is kept and acted on, what goes out is sent.

source -> reader (a Ray actor) -> `take`: inbox, one transaction -> acknowledged to the source
inbox  -> dispatcher: a flow begins, an endpoint answers, an agent has a message -> done, with what
          is to be sent
outbox -> sending -> sink
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from aios.clock import Clock
from aios.config import Settings
from aios.errors import AiosError, Overloaded, UnknownName, UsageError
from aios.events.asking import Asking
from aios.events.consumer import Taking
from aios.events.reading import Message, Reader
from aios.events.schedule import due_ticks, tick
from aios.events.secrets import key_of_webhook
from aios.kernel.dispatcher import Dispatcher, Starter, Teller
from aios.kernel.event_readers import EventReaders
from aios.kernel.event_sending import Sending
from aios.kernel.note import write_private
from aios.records.cloudevents import CloudEvent
from aios.records.events import Incoming, Schedule, Sink, Subscription, Webhook
from aios.registry import EventStore, Registry
from aios.registry.events import Outgoing
from aios.security import digest, new_key
from aios.security.webhooks import verified_id
from aios.store.database import Database

LOOK_S = 1.0
FORGET_S = 3600.0
MOST_WAITING = 10_000
"""Events of a subscription that wait here; more stay where they come from."""
IDENTITY = "events"
"""As whom endpoints are asked."""
KEY_FILE = "events.key"

logger = logging.getLogger("aios.kernel")


class Events:
    """Everything about events that goes on without being asked.

    Args:
        registry: keeps subscriptions, and the key by which endpoints are asked.
        database: keeps events.
        told: called after a key was made, so that whoever checks keys learns of it.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        database: Database,
        clock: Clock,
        told: Callable[[], None],
        starter: Starter,
        teller: Teller,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._clock = clock
        self._told = told
        self.store = EventStore(database, clock)
        self.dispatcher = Dispatcher(self.store, clock, starter, teller, self._asking)
        self.sending = Sending(self.store, clock, settings.home)
        self.readers = EventReaders(clock, settings.home)
        self.counts: Counter[tuple[str, str]] = Counter()
        self._closed = threading.Event()
        self._changed = threading.Event()
        self._known: dict[str, Subscription] = {}
        self._forget_due_s = clock.monotonic_s() + FORGET_S
        self._ticking: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="aios-events", daemon=True)

    def start(self) -> None:
        self._known = {one.id: one for one in self.store.subscriptions()}
        self.sending.start()
        self._thread.start()

    def close(self) -> None:
        """Take and begin nothing more; the next kernel goes on."""
        self._closed.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self.readers.close()
        self.dispatcher.close()
        self.sending.close()

    def changed(self) -> None:
        """A subscription was turned on or off."""
        self._known = {one.id: one for one in self.store.subscriptions()}
        self._changed.set()

    # -- coming in --------------------------------------------------------------------

    def take(self, subscription: str, batch: Sequence[Incoming], filtered: int) -> Taking:
        """Keep what a reader read; it acknowledges when this has returned."""
        if subscription not in self._known:
            return Taking(hold=True, gone=True)
        self.counts[(subscription, "filtered")] += filtered
        if not batch:
            return Taking(hold=self.store.waiting(subscription) >= MOST_WAITING)
        return Taking(hold=self._keep(subscription, batch) >= MOST_WAITING)

    def take_webhook(self, subscription: str, headers: dict[str, str], body: str) -> bool:
        """Keep what somebody posted, signed; whether it is new. On disk when this returns.

        Raises:
            UnknownName: no webhook has this name.
            Unauthenticated, Malformed: see `security.webhooks.verified_id`.
            Overloaded: too much waits.
            UsageError: it is no event, or lacks the key.
        """
        found = self._known.get(subscription)
        if found is None or not isinstance(found.spec.source, Webhook):
            raise UnknownName(f"no webhook {subscription[:60]!r} is taken here")
        key = key_of_webhook(str(found.spec.source.secret), self._settings.home)
        raw = body.encode()
        name = verified_id(headers, raw, key, self._clock.now_s())
        if self.store.waiting(subscription) >= MOST_WAITING:
            raise Overloaded("too many events wait; send it again later", retry_after_s=5.0)
        message = Message(
            coordinates=f"webhook/{name}",
            body=raw,
            source=f"webhook:{subscription}",
            kind="webhook.message",
            time_s=self._clock.now_s(),
            headers=headers,
            content_type=headers.get("content-type", ""),
            named=True,
        )
        reader = Reader(found.spec)
        read = reader.read(message)
        if read is None:
            self.counts[(subscription, "filtered")] += 1
            return True
        if read.reason is not None:
            self.counts[(subscription, "refused")] += 1
            raise UsageError(read.reason)
        before = self.counts[(subscription, "repeated")]
        self._keep(subscription, [read])
        return self.counts[(subscription, "repeated")] == before

    def _keep(
        self, subscription: str, batch: Sequence[Incoming], position: dict[str, float] | None = None
    ) -> int:
        told = self.store.take(subscription, batch, position)
        self.counts[(subscription, "taken")] += told.stored
        self.counts[(subscription, "repeated")] += told.repeated
        self.counts[(subscription, "unreadable")] += told.unreadable
        if told.stored:
            self.dispatcher.wake(subscription)
        return told.waiting

    # -- going out --------------------------------------------------------------------

    def emit(self, sink: Sink, event: CloudEvent, key: str | None) -> None:
        """See that an event is sent; on disk when this returns."""
        self.store.send([Outgoing(sink, event, key)])

    # -- every second -----------------------------------------------------------------

    def look(self) -> None:
        """See that everything that is on is read and acted on, and clocks tick."""
        subscriptions = self.store.subscriptions()
        self._known = {one.id: one for one in subscriptions}
        self.dispatcher.follow(subscriptions)
        if self.readers.host is not None:
            self.readers.look(subscriptions)
        before, self._ticking = self._ticking, {}
        for one in subscriptions:
            if isinstance(one.spec.source, Schedule):
                since_s = before.get(one.id, self._clock.now_s())
                self._ticking[one.id] = since_s
                self._tick(one, one.spec.source, since_s)
        if self._clock.monotonic_s() >= self._forget_due_s:
            self._forget_due_s = self._clock.monotonic_s() + FORGET_S
            self.store.forget()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self.look()
            except AiosError as error:
                logger.error("events could not be looked at: %s", error.message)
            except Exception:
                logger.exception("events could not be looked at; the next look is soon")
            self._changed.wait(LOOK_S)
            self._changed.clear()

    def _tick(self, subscription: Subscription, schedule: Schedule, up_s: float) -> None:
        since_s = (subscription.position or {}).get("ticked_s", subscription.created_s)
        now_s = self._clock.now_s()
        ticks = due_ticks(schedule, since_s, now_s, up_s)
        if not ticks or self.store.waiting(subscription.id) >= MOST_WAITING:
            return
        reader = Reader(subscription.spec)
        read = [reader.read(tick(subscription.id, at_s)) for at_s in ticks]
        batch = [one for one in read if one is not None]
        self.counts[(subscription.id, "filtered")] += reader.filtered
        self._keep(subscription.id, batch, {"ticked_s": ticks[-1]})

    # -- asking endpoints -------------------------------------------------------------

    def _asking(self) -> Asking:
        """By a key of our own, which is made when it is first needed."""
        folder = self._settings.home / "keys"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / KEY_FILE
        plain = path.read_text().strip() if path.exists() else ""
        if not plain or not self._registry.knows_key(digest(plain)):
            plain, made = new_key(IDENTITY)
            with self._registry.change(
                actor="kernel", action="add_key", subject=IDENTITY
            ) as change:
                change.add_key(f"{IDENTITY}-{made[:8]}", IDENTITY, made, "viewer")
            write_private(path, plain)
            self._told()
        return Asking(f"http://127.0.0.1:{self._settings.http_port}", plain)
