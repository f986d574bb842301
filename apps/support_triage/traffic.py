"""Tickets come in by a signed webhook and by RabbitMQ, turn by turn; replies are taken off a queue.

Senders are as senders are: one that does not know whether its ticket arrived sends it again, and
every REPEAT_EVERY-th ticket is sent twice in any case. What was sent and what came back is kept in
`Desk`, by which everything is counted.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import aios
from apps.support_triage.tickets import Ticket

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel

WEBHOOK, RABBITMQ = "webhook", "rabbitmq"
REPEAT_EVERY = 50
ATTEMPTS, PAUSE_S = 8, 0.5
"""Of a webhook that is not answered with success; the pause doubles."""
HELD_LOOK_S = 0.1
QUORUM = {"x-queue-type": "quorum"}


@dataclass(frozen=True)
class Broker:
    """A RabbitMQ and the queues of one run there."""

    url: str
    tickets: str
    replies: str


@dataclass(frozen=True)
class Sent:
    """A ticket that was sent: when, in seconds since the desk opened, and by which way."""

    ticket: Ticket
    at_s: float
    way: str


@dataclass(frozen=True)
class Reply:
    """A message on the queue of replies: what `triage.send_reply` says, and when it was there."""

    ticket: str
    at_s: float
    told: dict[str, Any]


@dataclass
class Desk:
    """What was sent and what came back."""

    opened_s: float = field(default_factory=time.monotonic)
    sent: dict[str, Sent] = field(default_factory=dict)
    replies: list[Reply] = field(default_factory=list)
    answered: dict[str, Reply] = field(default_factory=dict)
    repeats: int = 0
    retries: int = 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.opened_s

    def take(self, told: dict[str, Any]) -> Reply:
        """Keep a reply. Every one counts, also a second one to the same ticket."""
        reply = Reply(told["ticket"], self.elapsed_s, told)
        self.replies.append(reply)
        self.answered.setdefault(reply.ticket, reply)
        return reply


class Background(ABC):
    """Works in a thread of its own until the block ends; `failed` is what it ended with."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self.failed: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)

    def _run(self) -> None:
        try:
            self.work()
        except Exception as error:  # noqa: BLE001  the story tells it and ends
            self.failed = error

    @abstractmethod
    def work(self) -> None:
        """What is done, until `_stopping` is set."""


class Traffic(Background):
    """Sends tickets and takes replies, in a thread of its own.

    Args:
        desk: where it is kept.
        broker: where half of them go, and where replies are.
        hook: URL of the webhook.
        secret: by which its messages are signed.
        rate: tickets a second.

    Attributes:
        held: no ticket is sent while this is set; those that are due then come later.
    """

    def __init__(
        self, desk: Desk, tickets: list[Ticket], broker: Broker, hook: str, secret: str, rate: float
    ) -> None:
        super().__init__()
        self._desk = desk
        self._tickets = tickets
        self._hook, self._key = hook, key_of(secret)
        self._broker = broker
        self._rate_per_s = rate
        self.held = False

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        import aio_pika
        import httpx

        async with (
            await aio_pika.connect(self._broker.url) as connection,
            httpx.AsyncClient(timeout=20, trust_env=False) as client,
        ):
            channel = await connection.channel(publisher_confirms=True)
            replies, _ = [
                await channel.declare_queue(name, durable=True, arguments=QUORUM)
                for name in (self._broker.replies, self._broker.tickets)
            ]
            taking = asyncio.create_task(self._take(replies))
            await self._send_all(client, channel)
            while not self._stopping.is_set():
                if taking.done():
                    taking.result()
                await asyncio.sleep(0.1)
            taking.cancel()
            await asyncio.wait([taking])

    async def _take(self, queue: Any) -> None:
        async with queue.iterator() as messages:
            async for message in messages:
                self._desk.take(json.loads(message.body)["data"])
                await message.ack()

    async def _send_all(self, client: Any, channel: "AbstractChannel") -> None:
        begun_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, ticket in enumerate(self._tickets):
                due_s = begun_s + number / self._rate_per_s
                while (left_s := due_s - time.monotonic()) > 0:
                    await asyncio.sleep(min(left_s, 0.2))
                while self.held and not self._stopping.is_set():
                    await asyncio.sleep(HELD_LOOK_S)
                    begun_s += HELD_LOOK_S
                if self._stopping.is_set():
                    return
                way = (WEBHOOK, RABBITMQ)[number % 2]
                self._desk.sent[ticket.id] = Sent(ticket, self._desk.elapsed_s, way)
                group.create_task(self._send(client, channel, ticket, way))
                if number % REPEAT_EVERY == REPEAT_EVERY - 1:
                    self._desk.repeats += 1
                    group.create_task(self._send(client, channel, ticket, way))

    async def _send(self, client: Any, channel: Any, ticket: Ticket, way: str) -> None:
        body = json.dumps({"ticket": ticket.id, "text": ticket.text}).encode()
        if way == WEBHOOK:
            await self._post(client, ticket.id, body)
        else:
            await _publish(channel, self._broker.tickets, ticket.id, body)

    async def _post(self, client: Any, message_id: str, body: bytes) -> None:
        """Post until it is answered with success, as Standard Webhooks wants.

        Raises:
            UsageError: it never was.
        """
        import httpx

        for attempt in range(ATTEMPTS):
            headers = signed(message_id, int(time.time()), body, self._key)
            try:
                answer = await client.post(self._hook, content=body, headers=headers)
                if answer.is_success:
                    return
                why = f"{answer.status_code} {answer.text[:200]}"
            except httpx.TransportError as error:
                why = repr(error)
            self._desk.retries += 1
            await asyncio.sleep(PAUSE_S * 2**attempt)
        raise aios.UsageError(f"the webhook does not take ticket {message_id}: {why}")


def reach(url: str) -> None:
    """Whether a RabbitMQ answers.

    Raises:
        UsageError: it does not, or that is no address of one.
    """
    aios.RabbitMQ(url, queue="any")

    async def connected() -> None:
        import aio_pika

        async with await aio_pika.connect(url, timeout=10):
            pass

    try:
        asyncio.run(connected())
    except (OSError, TimeoutError) as error:
        raise aios.UsageError(f"no RabbitMQ answers at {url}: {error}") from None


def drop(broker: Broker) -> None:
    """Delete the queues of a run."""

    async def deleted() -> None:
        import aio_pika

        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            for name in (broker.tickets, broker.replies):
                await channel.queue_delete(name)

    asyncio.run(deleted())


async def _publish(channel: "AbstractChannel", queue: str, message_id: str, body: bytes) -> None:
    import aio_pika

    lasting = aio_pika.DeliveryMode.PERSISTENT
    message = aio_pika.Message(body, message_id=message_id, delivery_mode=lasting)
    await channel.default_exchange.publish(message, routing_key=queue)


def key_of(secret: str) -> bytes:
    """The key inside a secret, `whsec_` and base64."""
    return base64.b64decode(secret.removeprefix("whsec_"))


def signed(message_id: str, at_s: int, body: bytes, key: bytes) -> dict[str, str]:
    """The headers of a message, signed as Standard Webhooks 1.0 says: HMAC-SHA256 over
    `id.timestamp.body` (github.com/standard-webhooks/standard-webhooks, spec)."""
    text = f"{message_id}.{at_s}.".encode() + body
    digest = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{digest}",
    }
