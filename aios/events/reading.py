"""From a message of a broker to an event, or to the reason why it cannot be one. Pure.

CloudEvents 1.0 in structured and binary mode (Kafka protocol binding 1.0.2, AMQP binding 1.0.2);
any other JSON becomes the data of an event that is named by where it came from.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from aios.errors import UsageError
from aios.events.filters import Filter, key_of, parse_filter
from aios.records.cloudevents import STRUCTURED, CloudEvent, as_json, read_event
from aios.records.events import Incoming, SubscriptionSpec

MOST_BYTES = 4 * 2**20
"""Of one event. It is kept in the database, given to a flow, and shown to people."""
RAW_CHARACTERS = 2_000
LONGEST_COORDINATES = 500


class Message(NamedTuple):
    """What a broker delivered.

    Attributes:
        coordinates: what names it there, wherever and however often it is delivered; "" where it
            has no name, so that only a CloudEvent can be told from its repeat.
        body: its bytes; None for a tombstone.
        source: of events that do not name one themselves.
        kind: the type of such events.
        subject: the broker's own key of it.
        time_s: when it was sent.
        headers: by lower-case names.
        content_type: as it was declared.
        named: whether the coordinates name it even if it is a CloudEvent.
    """

    coordinates: str
    body: bytes | None
    source: str
    kind: str
    subject: str | None = None
    time_s: float | None = None
    headers: Mapping[str, str] = {}
    content_type: str = ""
    named: bool = False


@dataclass
class Reader:
    """Reads messages for one subscription. `filtered` counts those that it is not about."""

    spec: SubscriptionSpec
    filtered: int = 0
    _filter: Filter | None = field(init=False)

    def __post_init__(self) -> None:
        self._filter = None if self.spec.filter is None else parse_filter(self.spec.filter)

    def read(self, message: Message) -> Incoming | None:
        """What is kept of a message; None if the subscription is not about it."""
        try:
            event, coordinates = _event(message)
            told = as_json(event)
            if self._filter is not None and not self._filter.holds(told):
                self.filtered += 1
                return None
            kept = {"coordinates": _clean(coordinates), "event": orjson.dumps(told).decode()}
            try:
                return Incoming(**kept, key=kept_key(told, self.spec.key))
            except UsageError as error:
                return Incoming(**kept, reason=_clean(error.message)[:1000])
        except (UsageError, ValueError, RecursionError) as error:
            raw = None if message.body is None else message.body[: 4 * RAW_CHARACTERS]
            text = None if raw is None else raw.decode("utf-8", "replace")[:RAW_CHARACTERS]
            return Incoming(
                coordinates=_clean(message.coordinates or f"unnamed:{_digest(message.body)}"),
                reason=_clean(f"{error}")[:1000],
                raw=None if text is None else _clean(text),
            )


def kept_key(event: Mapping[str, Any], path: str | None) -> str | None:
    """By what an event keeps its order, as it is stored; see `key_of`."""
    key = key_of(event, path)
    return None if key is None else _clean(key)


def _event(message: Message) -> tuple[CloudEvent, str]:
    """The event of a message, and what names it. A CloudEvent is named by itself: it is the same
    one when its producer sends it again."""
    body = message.body
    if body is not None and len(body) > MOST_BYTES:
        raise UsageError(
            f"the message has {len(body):,} bytes, and {MOST_BYTES:,} are taken; put what is large "
            "into a store and send where it is"
        )
    content_type = message.content_type.partition(";")[0].strip().lower()
    binary = {
        name.removeprefix("ce_").removeprefix("ce-").removeprefix("cloudevents:"): value
        for name, value in message.headers.items()
        if name.startswith(("ce_", "ce-", "cloudevents:"))
    }
    value = _value(body, content_type)
    told: dict[str, Any] | None = None
    if binary:
        told = {**binary, "data": value}
    elif content_type == STRUCTURED or (isinstance(value, dict) and "specversion" in value):
        told = value
    if told is not None:
        event = read_event(told)
        return event, message.coordinates if message.named else _name(event)
    if not message.coordinates:
        raise UsageError(
            "the message has neither a message id nor is it a CloudEvent, so that it could not be "
            "told from its repeat; set one"
        )
    event = CloudEvent(
        id=message.coordinates,
        source=message.source,
        type=message.kind,
        subject=message.subject or None,
        time_s=message.time_s,
        data=value,
    )
    return event, message.coordinates


def _value(body: bytes | None, content_type: str) -> Any:
    if body is None or body == b"":
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        told = f", declared as {content_type[:60]}" if content_type else ""
        raise UsageError(f"the message is no JSON{told}: {str(error)[:200]}") from None


def _name(event: CloudEvent) -> str:
    name = json.dumps([event.source, event.id], ensure_ascii=False)
    return name if len(name) <= LONGEST_COORDINATES else f"sha256:{_digest(name.encode())}"


def _digest(body: bytes | None) -> str:
    return hashlib.sha256(body or b"").hexdigest()


def _clean(text: str) -> str:
    """Without what no database holds: NUL, lone surrogates."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
