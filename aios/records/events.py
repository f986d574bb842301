"""Where events come from and go to, and what is done with them: as users write it.

Nothing secret stands in a record: it is a reference, and the kernel reads what it names when it is
needed. What is wrong with one is told without repeating what was given, in case it was the secret.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, TypeAdapter, field_validator, model_validator

from aios.clock import CRON, TIME_ZONE, is_cron, is_time_zone
from aios.errors import UsageError
from aios.records.alerts import http_fault
from aios.records.base import Given, Name, Record
from aios.records.serving import Autoscale

_SECRET = re.compile(r"env:EVENTS_[A-Za-z0-9_]+|file:[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""No other variables and folders: who may subscribe names the host too, and could send there what
they hold."""
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:@/-]*")
_SERVER = re.compile(r"[A-Za-z0-9._-]+:[0-9]{1,5}")
_SLOT = re.compile(r"[a-z0-9_]{1,63}")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")


def _reference(given: str) -> str:
    if _SECRET.fullmatch(given) is None:
        raise ValueError(
            "holds a secret, which is not stored here; put it into an environment variable of the "
            'kernel\'s machine whose name begins with EVENTS_, and give its name: "env:EVENTS_X"; '
            'or into a file of the folder secrets in the runtime\'s home, and give that: "file:x"'
        )
    return given


def _http(given: str) -> str:
    fault = http_fault(given)
    if fault is not None:
        raise ValueError(f"{fault}; give one such as https://shop.example/hooks")
    return given


def _word(given: str) -> str:
    if _WORD.fullmatch(given) is None:
        raise ValueError("is 1 to 200 letters, digits and . _ : @ / -")
    return given


Secret = Annotated[str, AfterValidator(_reference), Field(max_length=200)]
Url = Annotated[str, AfterValidator(_http), Field(max_length=2000)]
Word = Annotated[str, AfterValidator(_word), Field(max_length=200)]


def _bare(given: str, schemes: tuple[str, ...], example: str) -> str:
    """An address without a password: that is given apart, as a reference."""
    try:
        parts = urlsplit(given)
        parts.port  # noqa: B018  reading it is what checks it
    except ValueError:
        raise ValueError(f"is no address; give one such as {example}") from None
    if parts.scheme not in schemes or not parts.hostname or not given.isprintable():
        raise ValueError(f"is no address that begins with {schemes[0]}://, such as {example}")
    if "@" in parts.netloc:
        raise ValueError(f"holds a user or a password; give user= and password=, and {example}")
    if parts.query:
        raise ValueError(f"holds settings after a question mark; give {example}")
    return given


class _Place(Given):
    """Where events come from or go to."""

    repeats_input: ClassVar[bool] = False


class Webhook(_Place):
    """Events that somebody posts to `/v1/events/<subscription>`, or, as a sink, that are posted to
    `url`; signed as Standard Webhooks 1.0 says.

    Args:
        secret: reference to `whsec_` and base64: `"env:EVENTS_SHOP"`, `"file:shop"`. A source needs
            one.
        url: https:// or http://; a sink needs one.
    """

    kind: Literal["webhook"] = "webhook"
    secret: Secret | None = None
    url: Url | None = None

    @property
    def shown(self) -> str:
        """For people: no more of the address than its host."""
        return f"webhook {urlsplit(self.url).hostname}" if self.url else "webhook"


class Kafka(_Place):
    """A topic of Kafka, or of what speaks its protocol.

    Args:
        servers: `host:port`, or several with commas between.
        topic: read from as a source, written to as a sink.
        group: the consumer group; default: the subscription's id.
        start: where a group begins that has read nothing yet.
        user, password: SASL (`mechanism`); the password is a reference. Only with `tls`, or on
            this machine.
        tls: encrypt, and check the broker's certificate.
    """

    kind: Literal["kafka"] = "kafka"
    servers: str = Field(max_length=2000)
    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")
    group: Word | None = None
    start: Literal["earliest", "latest"] = "earliest"
    user: str | None = Field(default=None, min_length=1, max_length=200)
    password: Secret | None = None
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    tls: bool = False

    def __init__(self, servers: str, **more: Any) -> None:
        more.update(servers=servers)
        super().__init__(**more)

    @field_validator("servers")
    @classmethod
    def _are_servers(cls, given: str) -> str:
        if not all(_SERVER.fullmatch(one.strip()) for one in given.split(",")):
            raise ValueError("is host:port, or several with commas between")
        return ",".join(one.strip() for one in given.split(","))

    @model_validator(mode="after")
    def _logs_in_whole(self) -> "Kafka":
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.password is not None and not self.tls and not _is_here(self.servers):
            raise ValueError("a password must not be sent in the clear; give tls=True")
        return self

    @property
    def shown(self) -> str:
        """For people."""
        return f"kafka {self.servers}/{self.topic}"


class RabbitMQ(_Place):
    """A queue of RabbitMQ (made as a quorum queue where there is none), or, as a sink, an exchange.

    Args:
        url: `amqp://host:5672/vhost` or `amqps://...`, without user and password.
        queue: read from as a source; as a sink without `exchange`, where events go.
        exchange, routing_key: where a sink publishes; a source's queue is bound to them if given.
        user, password: the password is a reference; without them, as guest, which RabbitMQ lets
            in on its own machine alone.
        prefetch: how many messages may be on their way unacknowledged, to one consumer.
    """

    kind: Literal["rabbitmq"] = "rabbitmq"
    url: str = Field(max_length=2000)
    queue: Word | None = None
    exchange: Word | None = None
    routing_key: str = Field(default="", max_length=255)
    user: str | None = Field(default=None, min_length=1, max_length=200)
    password: Secret | None = None
    prefetch: int = Field(default=500, ge=1, le=10_000)

    def __init__(self, url: str, **more: Any) -> None:
        more.update(url=url)
        super().__init__(**more)

    @field_validator("url")
    @classmethod
    def _is_bare(cls, given: str) -> str:
        return _bare(given, ("amqp", "amqps"), "amqp://localhost:5672/")

    @model_validator(mode="after")
    def _is_whole(self) -> "RabbitMQ":
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.queue is None and self.exchange is None:
            raise ValueError("queue is missing; a sink may name an exchange instead")
        return self

    @property
    def shown(self) -> str:
        """For people."""
        return f"rabbitmq {urlsplit(self.url).netloc}/{self.queue or self.exchange}"


class PostgresCDC(_Place):
    """Rows that are inserted, updated and deleted in tables of PostgreSQL, in the order in which
    transactions commit, by logical replication (pgoutput). It needs `wal_level=logical`.

    The data of an event are `{"op": "insert", "table": "public.orders", "key": {"id": 7}, "row":
    {...}, "old": None}`; `op` may be update, delete and truncate too. So keys and filters begin
    with `row.`: `key="row.id"`. `row` is what the row is now, of a deleted one what names it, of
    a truncated table nothing: those lack other keys, and are dead letters unless a filter passes
    them over (`op = "insert" or op = "update"`). Large texts that did not change are not told.
    `numeric` columns of up to 15 digits, such as `numeric(12, 2)`, are numbers, and all others
    exact text, which filters compare as numbers too. `lag` is in bytes of PostgreSQL's log.

    Slot and publication, both `aios_<id of the subscription>` or `slot`, are made where there are
    none. While nobody reads, also while the subscription is off, the slot keeps PostgreSQL's log on
    its disk. To end it for good: `SELECT pg_drop_replication_slot('...')` and `DROP PUBLICATION`.
    A slot that is lost, or a table that is dropped, means changes that are lost, and is an error
    that a person must answer, never begun anew silently.

    Args:
        url: `postgresql://host:5432/database`, without user and password.
        tables: such as `("orders", "crm.customers")`. Each needs a primary key, or a replica
            identity (`ALTER TABLE orders REPLICA IDENTITY FULL`), without which PostgreSQL would
            refuse to update its rows.
        slot: its name; default: made of the subscription's id.
        user, password: the password is a reference. The user needs REPLICATION.
    """

    kind: Literal["postgres_cdc"] = "postgres_cdc"
    url: str = Field(max_length=2000)
    tables: tuple[str, ...] = Field(min_length=1, max_length=100)
    slot: str | None = None
    user: str | None = Field(default=None, min_length=1, max_length=200)
    password: Secret | None = None

    def __init__(self, url: str, **more: Any) -> None:
        more.update(url=url)
        super().__init__(**more)

    @field_validator("url")
    @classmethod
    def _is_bare(cls, given: str) -> str:
        found = _bare(given, ("postgresql", "postgres"), "postgresql://localhost:5432/shop")
        if not urlsplit(found).path.strip("/"):
            raise ValueError("names no database; give postgresql://localhost:5432/shop")
        return found

    @field_validator("tables", mode="before")
    @classmethod
    def _are_tables(cls, given: Any) -> Any:
        listed = isinstance(given, list | tuple)
        if not listed or not all(isinstance(one, str) and _TABLE.fullmatch(one) for one in given):
            raise ValueError('are names of tables, such as ("orders", "crm.customers")')
        if len(set(given)) < len(given):
            raise ValueError("has a table twice; name each once")
        return given

    @field_validator("slot")
    @classmethod
    def _is_slot(cls, given: str | None) -> str | None:
        if given is not None and _SLOT.fullmatch(given) is None:
            raise ValueError("is 1 to 63 small letters, digits and _")
        return given

    @property
    def shown(self) -> str:
        """For people."""
        return f"postgres_cdc {urlsplit(self.url).netloc}{urlsplit(self.url).path}"


class Schedule(_Place):
    """A clock: an event whenever a cron line says so.

    Args:
        cron: five fields, or six with seconds first.
        timezone: by whose clock, such as `Europe/Berlin`.
        backfill: whether each time that was missed while the runtime was down is made up for; else
            the newest of them alone is.
    """

    kind: Literal["schedule"] = "schedule"
    repeats_input: ClassVar[bool] = True
    cron: str = Field(max_length=200)
    timezone: str = "UTC"
    backfill: bool = False

    def __init__(self, cron: str, **more: Any) -> None:
        more.update(cron=cron)
        super().__init__(**more)

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, given: str) -> str:
        if not is_cron(given):
            raise ValueError(f"is no cron line: {CRON}")
        return given

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, given: str) -> str:
        if not is_time_zone(given):
            raise ValueError(f"is {TIME_ZONE}")
        return given

    @property
    def shown(self) -> str:
        """For people."""
        return f"schedule {self.cron!r} {self.timezone}"


class Files(_Place):
    """New and changed files in a folder or bucket, or, as a sink, a file for each event.

    Args:
        url: a folder of this machine, from here if it is relative, or an fsspec URL such as
            `s3://bucket/in`. What a URL needs to log in is in the environment of the kernel's
            machine.
        pattern: which names, such as `*.csv`.
        every_s: how often is looked. A file counts once its size and time were the same at two
            looks.
    """

    kind: Literal["files"] = "files"
    url: str = Field(min_length=1, max_length=2000)
    pattern: str = Field(default="*", min_length=1, max_length=200)
    every_s: float = Field(default=10.0, ge=0.1, le=86_400)

    def __init__(self, url: str | Path, **more: Any) -> None:
        place = str(url)
        # The folder in which the kernel was started is nothing that a user knows.
        more.update(url=place if not place or "://" in place else os.path.abspath(place))
        super().__init__(**more)

    @field_validator("url")
    @classmethod
    def _holds_no_secret(cls, given: str) -> str:
        if not given.isprintable() or "@" in given.partition("://")[2].partition("/")[0]:
            raise ValueError("holds a user or a password, or characters that no address has")
        protocol, remote, _ = given.partition("://")
        if remote:
            import fsspec

            if protocol not in fsspec.available_protocols():
                raise ValueError(f"has an unknown protocol, {protocol!r}; one is s3, gs or file")
        return given.rstrip("/")

    @property
    def shown(self) -> str:
        """For people."""
        return f"files {self.url}/{self.pattern}"


Source = Annotated[
    Webhook | Kafka | RabbitMQ | PostgresCDC | Schedule | Files, Field(discriminator="kind")
]
Sink = Annotated[Webhook | Kafka | RabbitMQ | Files, Field(discriminator="kind")]
SINK: TypeAdapter[Sink] = TypeAdapter(Sink)
"""Reads one from JSON."""
SOURCES = (Webhook, Kafka, RabbitMQ, PostgresCDC, Schedule, Files)
SINKS = (Webhook, Kafka, RabbitMQ, Files)


def check_source(given: Any) -> None:
    """Whether something can be read from.

    Raises:
        UsageError: it is no source, or lacks what one needs.
    """
    if not isinstance(given, SOURCES):
        names = ", ".join(f"aios.{one.__name__}" for one in SOURCES)
        raise UsageError(f"the source is {type(given).__name__}; give one of {names}")
    if isinstance(given, Webhook) and given.secret is None:
        raise UsageError("Webhook: secret: a source needs one, by which senders sign")
    if isinstance(given, RabbitMQ) and given.queue is None:
        raise UsageError("RabbitMQ: queue: a source needs one, from which is read")


def check_sink(given: Any) -> None:
    """Whether something can be written to.

    Raises:
        UsageError: it is no sink, or lacks what one needs.
    """
    if not isinstance(given, SINKS):
        names = ", ".join(f"aios.{one.__name__}" for one in SINKS)
        raise UsageError(f"to: {type(given).__name__} is no sink; give one of {names}")
    if isinstance(given, Webhook) and given.url is None:
        raise UsageError("Webhook: url: a sink needs one, to which is posted")


def _is_here(servers: str) -> bool:
    hosts = {one.rpartition(":")[0] for one in servers.split(",")}
    return hosts <= {"localhost", "127.0.0.1"}


class SubscriptionSpec(Record):
    """What `rt.on` asks for: whichever of `flow`, `endpoint`, `agent` is given acts on each event.

    `key`: path in the event's data; events of one key are acted on one after the other, in the
    order in which they came. `filter`: see `events.filters`. `consumers`: how many processes read.
    """

    id: Name
    source: Source
    flow: str | None = Field(default=None, max_length=200)
    endpoint: Name | None = None
    agent: Name | None = None
    to: Sink | None = None
    key: str | None = Field(default=None, max_length=200)
    filter: str | None = Field(default=None, max_length=500)
    consumers: Autoscale = Autoscale(1, 1)

    @property
    def target(self) -> str:
        """For people."""
        if self.agent:
            return f"agents {self.agent}"
        return f"endpoint {self.endpoint}" if self.endpoint else f"flow {self.flow}"


class Subscription(Record):
    """A subscription as it is kept. One that is off takes nothing and starts nothing; what waits
    in its inbox goes on when it is on again."""

    spec: SubscriptionSpec
    active: bool = True
    position: dict[str, Any] | None = None
    created_s: float
    created_by: str

    @property
    def id(self) -> str:
        return self.spec.id


class Incoming(Record):
    """One message of a source, read: an event as JSON, or why it cannot be acted on.

    Args:
        coordinates: what names it at its source, wherever and however often it is delivered.
        event: the CloudEvent in its JSON format; None if it cannot be read.
        key: events of one key keep their order; None has no order.
        reason: why it cannot be read, or has not the key that its subscription names.
        raw: how it began, for people, of one that cannot be read.
    """

    coordinates: str
    event: str | None = None
    key: str | None = None
    reason: str | None = None
    raw: str | None = None


class DeadLetter(Record):
    """An event that was set aside, and why.

    `id` is for `rt.replay`; `event` is None for what could not be read, whose beginning is `raw`.
    """

    id: int
    subscription: str
    coordinates: str
    event: dict[str, Any] | None
    raw: str | None
    reason: str
    trace: str
    attempts: int
    at_s: float
    replayed_s: float | None = None
