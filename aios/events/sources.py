"""Which reader reads which source."""

from typing import Any

from aios.errors import UsageError
from aios.events.consumer import Consumer
from aios.events.files import FilesConsumer
from aios.events.kafka import KafkaConsumer
from aios.events.postgres_cdc import PostgresConsumer
from aios.events.rabbitmq import RabbitConsumer
from aios.records.events import Files, Kafka, PostgresCDC, RabbitMQ, SubscriptionSpec


def open_consumer(
    spec: SubscriptionSpec, password: str | None, position: dict[str, Any] | None
) -> Consumer:
    """Begin to read.

    Raises:
        UsageError: the client is not installed, or nobody reads this kind.
        TemporaryError: the source cannot be reached.
    """
    match spec.source:
        case Kafka() as kafka:
            return KafkaConsumer(kafka, spec.id, password)
        case RabbitMQ() as rabbit:
            return RabbitConsumer(rabbit, password)
        case PostgresCDC() as postgres:
            return PostgresConsumer(postgres, spec.id, password)
        case Files() as files:
            return FilesConsumer(files)
        case _:
            raise UsageError(f"{spec.source.shown} comes by itself, and is not read")
