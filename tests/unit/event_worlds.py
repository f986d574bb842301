"""Events without brokers: a kernel's inbox and lines, with doubles of what acts."""

import base64
import threading
from typing import Any

import orjson

from aios.clock import ManualClock
from aios.config import Settings
from aios.events.consumer import Batch
from aios.events.reading import Message
from aios.kernel.event_commands import EventCommands
from aios.records.events import Incoming, Kafka, SubscriptionSpec, Webhook
from aios.registry import Registry
from aios.security import Caller
from aios.security.webhooks import webhook_headers
from aios.store.database import Database

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
KEY = b"k" * 32
KAFKA = Kafka("127.0.0.1:9", topic="orders")


class Starts:
    """Begins flows in memory, each id once. `fails` makes those of an event's data fail."""

    def __init__(self) -> None:
        self.begun: dict[str, Any] = {}
        self.asked: list[str] = []
        self.fails: dict[Any, Exception] = {}
        self._lock = threading.Lock()

    def begin(self, ref: str, arguments: list[Any], flow_id: str, by: str) -> None:
        [event] = arguments
        with self._lock:
            self.asked.append(flow_id)
            for part, error in self.fails.items():
                if part in str(event["data"]):
                    raise error
            self.begun.setdefault(flow_id, event)

    @property
    def data(self) -> list[Any]:
        return [event["data"] for event in self.begun.values()]


class Tells:
    """Mailboxes in memory, each operation once. `fails` makes those of an agent's id fail."""

    def __init__(self) -> None:
        self.told: dict[str, tuple[str, Any]] = {}
        self.fails: dict[str, Exception] = {}
        self._lock = threading.Lock()

    def tell_event(self, name: str, agent_id: str, event: Any, operation: str, by: str) -> None:
        with self._lock:
            if agent_id in self.fails:
                raise self.fails[agent_id]
            self.told.setdefault(operation, (f"{name}/{agent_id}", event))

    @property
    def data(self) -> list[Any]:
        return [(ref, event["data"]) for ref, event in self.told.values()]


class EventWorld:
    """Inbox, lines and outbox on a SQLite file, second by second."""

    def __init__(self, home: Any, now_s: float = 1_700_000_000.0) -> None:
        self.home = home
        self.clock = ManualClock(now_s)
        self.starts = Starts()
        self.tells = Tells()
        self.settings = Settings(home=home)
        self.restart()

    def restart(self) -> None:
        """As after SIGKILL: nothing of the kernel before is closed."""
        database = Database(self.settings.store_url)
        database.upgrade()
        registry = Registry(database, self.clock)
        self.commands = EventCommands(
            self.settings, registry, database, self.clock, lambda: None, self.starts, self.tells
        )
        self.registry = registry
        self.events = self.commands.events
        self.store = self.events.store
        self.events.changed()

    def replay(self, letter_id: int) -> None:
        """As the command does, by what subscriptions name as their keys now."""
        with self.registry.change(actor="ann", action="replay", subject="x") as change:
            assert change.replay([letter_id], self.commands._key) == 1

    def discard(self, letter_id: int) -> None:
        with self.registry.change(actor="ann", action="discard", subject="x") as change:
            assert change.discard([letter_id]) == 1

    def subscribe(self, **fields: Any) -> SubscriptionSpec:
        told = {"id": "orders", "source": KAFKA, "flow": "refund", **fields}
        if told.get("endpoint") or told.get("agent"):
            told["flow"] = None
        spec = SubscriptionSpec(**told)
        with self.registry.change(actor="ann", action="subscribe", subject=spec.id) as change:
            change.subscribe(spec)
        self.events.changed()
        return spec

    def line(self, name: str = "orders") -> Any:
        [one] = [one for one in self.store.subscriptions() if one.id == name]
        return self.events.dispatcher.line(one)

    def take(self, *data: Any, key: str | None = None, first: int = 0) -> Any:
        batch = [coming(first + n, one, key) for n, one in enumerate(data)]
        return self.events.take("orders", batch, 0)

    def post(self, body: bytes, name: str = "m1", **headers: str) -> bool:
        signed = webhook_headers(name, self.clock.now_s(), body, KEY)
        return self.events.take_webhook("hook", {**signed, **headers}, body.decode())

    def webhook(self, **fields: Any) -> None:
        (self.home / "secrets").mkdir(exist_ok=True)
        (self.home / "secrets" / "hook").write_text(SECRET)
        self.subscribe(id="hook", source=Webhook(secret="file:hook"), **fields)


def coming(number: int, data: Any, key: str | None = None) -> Incoming:
    """A message of a broker, read."""
    event = {"specversion": "1.0", "id": f"orders/0/{number}", "source": "kafka:orders"}
    event |= {"type": "kafka.message", "data": data}
    if key is None and isinstance(data, dict):
        key = data.get("key")
    return Incoming(coordinates=f"orders/0/{number}", event=orjson.dumps(event).decode(), key=key)


def message(number: int, body: bytes | None, **more: Any) -> Message:
    """A message of a broker."""
    told = {"source": "kafka:orders", "kind": "kafka.message", **more}
    return Message(coordinates=f"orders/0/{number}", body=body, **told)


class Log:
    """A broker's log read from its last acknowledged place; `read` opens a consumer."""

    def __init__(self, bodies: list[bytes]) -> None:
        self.bodies = bodies
        self.committed = 0
        self.idled = 0

    def read(self) -> "LogConsumer":
        return LogConsumer(self)


class LogConsumer:
    """One reader of a `Log`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._place = log.committed

    def poll(self, most: int, wait_s: float) -> Batch:
        bodies = self._log.bodies[self._place : self._place + most]
        found = [message(self._place + n, body) for n, body in enumerate(bodies)]
        self._place += len(bodies)
        return Batch(found, self._place)

    def ack(self, batch: Batch) -> None:
        self._log.committed = max(self._log.committed, batch.mark)

    def idle(self) -> None:
        self._log.idled += 1

    def lag(self) -> int:
        return len(self._log.bodies) - self._log.committed

    def close(self) -> None:
        pass


EVE = Caller("eve", "admin")
