"""Kafka and what speaks its protocol, by librdkafka (confluent-kafka)."""

from typing import Any

from aios.errors import TemporaryError, UsageError
from aios.events.consumer import Batch
from aios.events.reading import Message
from aios.records.cloudevents import STRUCTURED
from aios.records.events import Kafka

REQUEST_S = 10.0
FLUSH_S = 30.0
ANSWER_S = 5.0


def settings_of(kafka: Kafka, password: str | None) -> dict[str, Any]:
    """What librdkafka needs to reach the brokers."""
    found: dict[str, Any] = {
        "bootstrap.servers": kafka.servers,
        "security.protocol": _protocol(kafka),
        "socket.timeout.ms": int(REQUEST_S * 1000),
        "client.id": "aios",
        # Its own threads log to stderr by default; what matters is raised.
        "log_level": 2,
    }
    if kafka.user is not None:
        found |= {
            "sasl.mechanism": kafka.mechanism,
            "sasl.username": kafka.user,
            "sasl.password": password,
        }
    return found


def _protocol(kafka: Kafka) -> str:
    if kafka.user is not None:
        return "SASL_SSL" if kafka.tls else "SASL_PLAINTEXT"
    return "SSL" if kafka.tls else "PLAINTEXT"


def _library() -> Any:
    try:
        import confluent_kafka
    except ImportError:
        raise UsageError("Kafka needs its client: pip install 'aios[kafka]'") from None
    return confluent_kafka


class KafkaConsumer:
    """One member of a consumer group. Offsets are committed by `ack` alone."""

    def __init__(self, kafka: Kafka, group: str, password: str | None = None) -> None:
        self._library = _library()
        self._topic, self._servers = kafka.topic, kafka.servers
        self._held = False
        self._down: str | None = None
        settings = settings_of(kafka, password) | {
            "group.id": kafka.group or group,
            "enable.auto.commit": False,
            "auto.offset.reset": kafka.start,
            "enable.partition.eof": False,
            "session.timeout.ms": 10_000,
            "heartbeat.interval.ms": 1_000,
            "isolation.level": "read_committed",
            # What is read ahead and not yet asked for; 64 MiB by default for each partition.
            "queued.max.messages.kbytes": 16_384,
            "error_cb": self._failed,
        }
        self._consumer = self._library.Consumer(settings)
        self._consumer.subscribe([kafka.topic], on_revoke=self._revoked, on_lost=self._revoked)

    def poll(self, most: int, wait_s: float) -> Batch:
        self._go_on()
        try:
            found = self._consumer.consume(most, wait_s)
        except self._library.KafkaException as error:
            raise TemporaryError(f"Kafka: {error}") from None
        messages, ends = [], {}
        for one in found:
            if one.error() is not None:
                self._raise_unless_harmless(one.error())
                continue
            messages.append(_message(one))
            ends[one.partition()] = one.offset() + 1
        if messages:
            self._down = None
        return Batch(messages, ends, self._down)

    def ack(self, batch: Batch) -> None:
        kind = self._library.TopicPartition
        offsets = [kind(self._topic, number, end) for number, end in batch.mark.items()]
        mine = {one.partition for one in self._consumer.assignment()}
        offsets = [one for one in offsets if one.partition in mine]
        if not offsets:
            return  # another member has these partitions now, and reads them again
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except self._library.KafkaException as error:
            raise TemporaryError(f"Kafka did not commit: {error}") from None

    def idle(self) -> None:
        if not self._held:
            self._consumer.pause(self._consumer.assignment())
            self._held = True
        # A poll is what keeps a member in its group. What was assigned meanwhile is not paused:
        # its first message goes back.
        one = self._consumer.poll(0)
        if one is not None and one.error() is None:
            place = self._library.TopicPartition(one.topic(), one.partition(), one.offset())
            self._consumer.pause([place])
            self._consumer.seek(place)

    def lag(self) -> int | None:
        assigned = self._consumer.assignment()
        if not assigned:
            return None if self._down else 0
        try:
            committed = self._consumer.committed(assigned, timeout=REQUEST_S)
            total = 0
            for one in committed:
                low, high = self._consumer.get_watermark_offsets(one, timeout=REQUEST_S)
                total += max(0, high - (one.offset if one.offset >= 0 else low))
        except self._library.KafkaException:
            return None
        self._down = None
        return total

    def close(self) -> None:
        self._consumer.close()

    def _go_on(self) -> None:
        if self._held:
            self._consumer.resume(self._consumer.assignment())
            self._held = False

    def _failed(self, error: Any) -> None:
        """librdkafka goes on trying, and raises nothing for what it cannot reach."""
        if error.code() == self._library.KafkaError._ALL_BROKERS_DOWN:
            self._down = f"no broker of {self._servers} can be reached"

    def _revoked(self, consumer: Any, partitions: Any) -> None:
        """Nothing is kept of a partition: what was not committed its next reader reads again. Nor
        that it was held: librdkafka would hold it still when it comes back, and nobody lets it go.
        """
        consumer.resume(partitions)

    def _raise_unless_harmless(self, error: Any) -> None:
        if error.retriable() and not error.fatal():
            return
        if error.code() == self._library.KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise TemporaryError(f"Kafka has no topic {self._topic!r} yet")
        raise TemporaryError(f"Kafka: {error.str()}")


def _message(one: Any) -> Message:
    headers = {
        str(name).lower(): (value or b"").decode("utf-8", "replace")
        for name, value in one.headers() or ()
    }
    key = one.key()
    kind, stamp_ms = one.timestamp()
    return Message(
        coordinates=f"{one.topic()}/{one.partition()}/{one.offset()}",
        body=one.value(),
        source=f"kafka:{one.topic()}",
        kind="kafka.tombstone" if one.value() is None else "kafka.message",
        subject=None if key is None else key.decode("utf-8", "replace")[:500],
        time_s=stamp_ms / 1000 if kind else None,
        headers=headers,
        content_type=headers.get("content-type", ""),
    )


class KafkaSender:
    """Writes events to a topic, in structured mode, each once per attempt and in order."""

    def __init__(self, kafka: Kafka, password: str | None = None) -> None:
        library = _library()
        self._topic, self._servers = kafka.topic, kafka.servers
        self._error = library.KafkaException
        settings = settings_of(kafka, password) | {
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": int(FLUSH_S * 1000),
            "linger.ms": 5,
        }
        self._producer = library.Producer(settings)
        try:
            # Said at once: a producer itself waits until its messages are too old.
            self._producer.list_topics(self._topic, timeout=ANSWER_S)
        except self._error as error:
            raise TemporaryError(
                f"no broker of {self._servers} answers: {error.args[0].str()}"
            ) from None

    def send(self, events: list[tuple[str, str | None, bytes]]) -> None:
        """Write (id, key, event) each; all have arrived when this returns.

        Raises:
            TemporaryError: one did not; those before it may have.
            UsageError: the broker does not take one, whatever is done.
        """
        failed: list[Any] = []

        def told(error: Any, _message: Any) -> None:
            if error is not None:
                failed.append(error)

        for _, key, event in events:
            try:
                self._producer.produce(
                    self._topic,
                    value=event,
                    key=None if key is None else key.encode(),
                    headers=[("content-type", STRUCTURED.encode())],
                    on_delivery=told,
                )
            except (BufferError, self._error) as error:
                raise _refused(error) from None
            self._producer.poll(0)
        if self._producer.flush(FLUSH_S) or failed:
            raise _refused(failed[0] if failed else None)

    def close(self) -> None:
        self._producer.flush(1.0)


def _refused(error: Any) -> Exception:
    found = error.args[0] if isinstance(error, Exception) and error.args else error
    name = found.name() if hasattr(found, "name") else ""
    told = found.str() if hasattr(found, "str") else found or "no answer"
    if name in ("MSG_SIZE_TOO_LARGE", "_INVALID_ARG", "INVALID_MSG"):
        return UsageError(f"Kafka does not take it: {told}")
    return TemporaryError(f"Kafka did not take it: {told}")
