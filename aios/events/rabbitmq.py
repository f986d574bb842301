"""RabbitMQ, by aio-pika: quorum queues, manual acknowledgement, publisher confirms.

aio-pika is asynchronous; an event loop in a thread of its own keeps the connection alive while the
caller waits for the kernel.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as TooLate
from typing import Any, TypeVar

from aios.errors import TemporaryError, UsageError
from aios.events.consumer import Batch
from aios.events.reading import Message
from aios.records.cloudevents import STRUCTURED
from aios.records.events import RabbitMQ

ANSWER_S = 30.0
CONNECT_S = 10.0
_Result = TypeVar("_Result")


def _library() -> Any:
    try:
        import aio_pika
    except ImportError:
        raise UsageError("RabbitMQ needs its client: pip install 'aios[rabbitmq]'") from None
    return aio_pika


class _Connection:
    """A connection, its channel, and the loop that keeps them."""

    def __init__(self, rabbit: RabbitMQ, password: str | None) -> None:
        self.library = _library()
        self.rabbit = rabbit
        self._password = password
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.connection: Any = None
        self.channel: Any = None

    def do(self, work: Coroutine[Any, Any, _Result], wait_s: float = ANSWER_S) -> _Result:
        """Carry something out on the loop.

        Raises:
            TemporaryError: the broker refused, is away, or did not answer.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(wait_s)
        except TooLate:
            future.cancel()
            raise TemporaryError(f"{self.rabbit.shown} did not answer in {wait_s:.0f} s") from None
        except (self.library.exceptions.AMQPError, OSError, RuntimeError) as error:
            told = str(error) or type(error).__name__
            raise TemporaryError(f"{self.rabbit.shown}: {told[:300]}") from None

    async def connect(self) -> None:
        from yarl import URL

        url = URL(self.rabbit.url)
        if self.rabbit.user is not None:  # without, the library is guest
            url = url.with_user(self.rabbit.user).with_password(self._password)
        try:
            self.connection = await self.library.connect(url, timeout=CONNECT_S)
        except self.library.exceptions.AMQPError as error:
            if "Connection.OpenOk" not in str(error):
                raise
            # It says why, and the library does not pass it on.
            vhost = url.path.removeprefix("/") or "/"
            told = f"{self.rabbit.shown}: no virtual host {vhost!r}, or none for this user"
            raise TemporaryError(told) from None
        self.channel = await self.opened()

    async def opened(self) -> Any:
        """A channel on which the broker confirms what it keeps, and returns what no queue takes."""
        return await self.connection.channel(publisher_confirms=True, on_return_raises=True)

    def close(self) -> None:
        try:
            if self.connection is not None:
                self.do(self.connection.close(), CONNECT_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CONNECT_S)
            self._loop.close()


async def _queue(channel: Any, rabbit: RabbitMQ) -> Any:
    """The queue, made as a quorum queue where there is none."""
    declared = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    return await channel.declare_queue(rabbit.queue, **declared)


class RabbitConsumer:
    """One consumer of a queue. Messages are acknowledged by `ack` alone, up to a tag."""

    def __init__(self, rabbit: RabbitMQ, password: str | None = None) -> None:
        self._rabbit = rabbit
        self._connection = _Connection(rabbit, password)
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._queue: Any = None
        try:
            self._connection.do(self._begin())
        except BaseException:
            self._connection.close()
            raise

    async def _begin(self) -> None:
        await self._connection.connect()
        channel = self._connection.channel
        await channel.set_qos(prefetch_count=self._rabbit.prefetch)
        self._queue = await self._declared()
        if self._rabbit.exchange is not None:
            await self._queue.bind(self._rabbit.exchange, self._rabbit.routing_key)
        await self._queue.consume(self._arrived.put)

    async def _declared(self) -> Any:
        exceptions = self._connection.library.exceptions
        try:
            return await _queue(self._connection.channel, self._rabbit)
        except exceptions.ChannelPreconditionFailed:
            # It is there as another kind of queue. The refusal closed the channel.
            channel = await self._connection.connection.channel()
            await channel.set_qos(prefetch_count=self._rabbit.prefetch)
            self._connection.channel = channel
            return await channel.declare_queue(self._rabbit.queue, passive=True)

    def poll(self, most: int, wait_s: float) -> Batch:
        found = self._connection.do(self._gathered(most, wait_s))
        if not found and self._connection.channel.is_closed:
            raise TemporaryError(f"{self._rabbit.shown}: the connection is gone")
        return Batch([_message(one, self._rabbit) for one in found], found)

    async def _gathered(self, most: int, wait_s: float) -> list[Any]:
        found: list[Any] = []
        try:
            async with asyncio.timeout(wait_s):
                found.append(await self._arrived.get())
        except TimeoutError:
            return found
        while len(found) < most and not self._arrived.empty():
            found.append(self._arrived.get_nowait())
        return found

    def ack(self, batch: Batch) -> None:
        self._connection.do(batch.mark[-1].ack(multiple=True))

    def idle(self) -> None:
        """Nothing to do: the loop answers heartbeats, and the prefetch bounds what is sent."""

    def lag(self) -> int | None:
        async def count() -> int:
            # A channel of its own, as a refusal closes it.
            async with self._connection.connection.channel() as channel:
                found = await channel.declare_queue(self._rabbit.queue, passive=True)
                return int(found.declaration_result.message_count)

        try:
            return self._connection.do(count()) + self._arrived.qsize()
        except TemporaryError:
            return None

    def close(self) -> None:
        self._connection.close()


def _message(one: Any, rabbit: RabbitMQ) -> Message:
    headers = {
        str(name).lower(): value.decode("utf-8", "replace")
        if isinstance(value, bytes)
        else str(value)
        for name, value in (one.headers or {}).items()
    }
    return Message(
        coordinates=f"{rabbit.queue}/{one.message_id}" if one.message_id else "",
        body=one.body,
        source=f"rabbitmq:{rabbit.queue}",
        kind=one.type or "rabbitmq.message",
        subject=one.routing_key if one.routing_key != rabbit.queue else None,
        time_s=None if one.timestamp is None else one.timestamp.timestamp(),
        headers=headers,
        content_type=one.content_type or "",
    )


class RabbitSender:
    """Publishes events, each confirmed by the broker before the next batch."""

    def __init__(self, rabbit: RabbitMQ, password: str | None = None) -> None:
        self._rabbit = rabbit
        self._connection = _Connection(rabbit, password)
        self._exchange: Any = None
        try:
            self._connection.do(self._begin())
        except BaseException:
            self._connection.close()
            raise

    async def _begin(self) -> None:
        await self._connection.connect()
        channel, rabbit = self._connection.channel, self._rabbit
        if rabbit.exchange is None:
            exceptions = self._connection.library.exceptions
            try:
                await _queue(channel, rabbit)
            except exceptions.ChannelPreconditionFailed:
                channel = self._connection.channel = await self._connection.opened()
            self._exchange = channel.default_exchange
        else:
            self._exchange = await channel.get_exchange(rabbit.exchange)

    def send(self, events: list[tuple[str, str | None, bytes]]) -> None:
        """Publish (id, key, event) each, in order; all are confirmed when this returns.

        Raises:
            TemporaryError: one was not; those before it may have been.
        """
        self._connection.do(self._published(events))

    async def _published(self, events: list[tuple[str, str | None, bytes]]) -> None:
        library, rabbit = self._connection.library, self._rabbit
        route = rabbit.routing_key or rabbit.queue or ""
        try:
            await asyncio.gather(
                *(
                    self._exchange.publish(
                        library.Message(
                            event,
                            message_id=event_id,
                            content_type=STRUCTURED,
                            delivery_mode=library.DeliveryMode.PERSISTENT,
                        ),
                        routing_key=route,
                        mandatory=True,
                    )
                    for event_id, _, event in events
                )
            )
        except library.exceptions.PublishError:
            raise TemporaryError(
                f"{rabbit.shown}: no queue takes the routing key {route!r}; bind one to the "
                "exchange, and what waits is sent"
            ) from None

    def close(self) -> None:
        self._connection.close()
