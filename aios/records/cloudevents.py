"""CloudEvents 1.0 as they come over HTTP, in structured and in binary mode.

https://github.com/cloudevents/spec: `cloudevents/spec.md`, `formats/json-format.md` and
`bindings/http-protocol-binding.md`. What an event is about is not looked at here.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from pydantic import ConfigDict, Field

from aios.errors import UsageError
from aios.records.base import Record

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
LONGEST = 500
"""Characters of an attribute; the specification wants 64 KB for the whole event to be taken."""


class CloudEvent(Record):
    """One event. `source` and `id` together name it; `time_s` is when it happened."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # seen by who checks, not made null

    id: str = Field(min_length=1, max_length=LONGEST)
    source: str = Field(min_length=1, max_length=LONGEST)
    type: str = Field(min_length=1, max_length=LONGEST)
    subject: str | None = None
    time_s: float | None = None
    data: Any = None


def read_event(value: Any) -> CloudEvent:
    """An event from its JSON format.

    Raises:
        UsageError: it is none, or its data are no JSON.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"a CloudEvent is a JSON object, not {value!r:.60}")
    version = value.get("specversion")
    if version != "1.0":
        raise UsageError(f"specversion is {version!r:.20}; CloudEvents 1.0 are taken")
    subject = value.get("subject")
    return CloudEvent(
        id=_text(value, "id"),
        source=_text(value, "source"),
        type=_text(value, "type"),
        subject=None if subject is None else _text(value, "subject"),
        time_s=_time_s(value.get("time")),
        data=_data(value),
    )


def as_json(event: CloudEvent) -> dict[str, Any]:
    """An event in its JSON format, which `read_event` reads."""
    told: dict[str, Any] = {
        "specversion": "1.0",
        **event.model_dump(mode="json", exclude={"time_s"}, exclude_none=True),
        "datacontenttype": "application/json",
    }
    if event.time_s is not None:
        told["time"] = datetime.fromtimestamp(event.time_s, UTC).isoformat()
    return told


def structured(headers: Mapping[str, str], body: Any) -> dict[str, Any]:
    """A binary-mode event in its JSON format: attributes are `ce-` headers, the body is `data`.

    Args:
        headers: by their lower-case names.
    """
    attributes = {
        name.removeprefix("ce-"): unquote(value.strip('"'))
        for name, value in headers.items()
        if name.startswith("ce-")
    }
    return {**attributes, "data": body}


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or not 0 < len(found) <= LONGEST or not found.isprintable():
        raise UsageError(
            f"{name} is {found!r:.60}; a CloudEvent has one of 1 to {LONGEST} printable characters"
        )
    return found


def _time_s(value: Any) -> float | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None:
            raise ValueError("it has no offset from UTC")
        return found.timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"time is {value!r:.60}, which is no RFC 3339 time: {error}") from None


def _data(value: Mapping[str, Any]) -> Any:
    kind = str(value.get("datacontenttype") or "application/json").partition(";")[0].strip()
    if not (kind.lower().endswith("+json") or kind.lower() in ("application/json", "text/json")):
        raise UsageError(f"datacontenttype is {kind!r:.60}; data are taken as JSON")
    if "data_base64" not in value:
        return value.get("data")
    try:
        return json.loads(base64.b64decode(value["data_base64"], validate=True))
    except (TypeError, ValueError, RecursionError, binascii.Error) as error:
        raise UsageError(f"data_base64 holds no JSON: {error!s:.100}") from None
