"""Which events a subscription is about, and by what they keep their order: parsed, never evaluated.

amount > 100                                    a field of the event's data
order.total >= 20.5 and order.country = "DE"    below others; `and` binds before `or`
state = "open" or state = "new"
event.type = "order.created"                    the envelope: id, source, type, subject
refund missing                                  also `exists`
amount != null

A comparison of what is missing, or of two different kinds of value, does not hold; a text that is
a decimal number, as exact columns of databases are, compares with a number as one.
"""

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any, NoReturn

from aios.errors import UsageError

ENVELOPE = ("id", "source", "type", "subject")
LONGEST = 500
MOST_TOLD = 12
_EXAMPLE = "'amount > 100 and country = \"DE\"'"
_TOKEN = re.compile(
    r"\s*(?:(?P<text>\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)(?![\w.])"
    r"|(?P<sign><=|>=|!=|=|<|>)"
    r"|(?P<word>[A-Za-z_][\w-]*(?:\.[\w-]+)*))"
)
_DECIMAL = re.compile(r"-?\d{1,1000}(?:\.\d{1,1000})?")
_PATH = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*")
_WORDS = {"true": True, "false": False, "null": None}
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MISSING = object()


@dataclass(frozen=True)
class Comparison:
    """One condition on one field. `sign` may also be `exists` or `missing`."""

    path: str
    sign: str
    value: Any = None

    def holds(self, event: Mapping[str, Any]) -> bool:
        """Whether it holds for an event in its JSON format."""
        found = _looked_up(event, self.path)
        if self.sign in ("exists", "missing"):
            return (found is _MISSING) == (self.sign == "missing")
        if found is _MISSING:
            return False
        if isinstance(found, str) and _is_number(self.value) and _DECIMAL.fullmatch(found):
            found = Decimal(found)
        elif isinstance(found, float) and isinstance(self.value, Decimal):
            found = Decimal(repr(found))
        if self.sign in ("=", "!="):
            return _same(found, self.value) == (self.sign == "=")
        comparable = _is_number(found) and _is_number(self.value)
        comparable |= isinstance(found, str) and isinstance(self.value, str)
        return comparable and _ORDER[self.sign](found, self.value)


@dataclass(frozen=True)
class Filter:
    """Holds where all comparisons of any one of `either` hold."""

    text: str
    either: tuple[tuple[Comparison, ...], ...]

    def holds(self, event: Mapping[str, Any]) -> bool:
        """Whether it holds for an event in its JSON format."""
        return any(all(one.holds(event) for one in every) for every in self.either)


def parse_filter(text: str) -> Filter:
    """The condition that a text writes.

    >>> parse_filter('amount > 100 and country = "DE"').holds(
    ...     {"data": {"amount": 120, "country": "DE"}})
    True

    Raises:
        UsageError: it does not read like one; says where it stops to.
    """
    if not isinstance(text, str):
        raise UsageError(f"filter is a text such as {_EXAMPLE}, not {text!r:.60}")
    if len(text) > LONGEST:
        raise UsageError(f"filter has {len(text):,} characters, and {LONGEST} are enough")
    tokens = _tokens(text)
    either: list[tuple[Comparison, ...]] = []
    every: list[Comparison] = []
    while True:
        every.append(_comparison(text, tokens))
        joint = tokens.pop(0) if tokens else None
        if joint == ("word", "and"):
            continue
        either.append(tuple(every))
        every = []
        if joint is None:
            return Filter(" ".join(text.split()), tuple(either))
        if joint != ("word", "or"):
            _refuse(text, f"{joint[1]!r:.40} stands where `and` or `or` would")


def check_key(path: str) -> None:
    """Whether a text is a path into an event's data.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(path, str) or _PATH.fullmatch(path) is None:
        raise UsageError(
            f"key={path!r:.60} is no path to a field of the event's data, such as "
            '"ticket_id" or "order.customer"; "event.subject" is the envelope\'s'
        )


def key_of(event: Mapping[str, Any], path: str | None) -> str | None:
    """By what an event keeps its order: the field at `path`, by default the envelope's subject.

    Raises:
        UsageError: there is no such field, or it is no text, number or boolean.
    """
    if path is None:
        subject: str | None = event.get("subject")
        return subject
    found = _looked_up(event, path)
    if found is _MISSING and event.get("data") is None and event.get("subject"):
        return key_of(event, None)  # a tombstone has nothing but its own key
    if isinstance(found, bool | int | float):
        return json.dumps(found)
    if not isinstance(found, str) or not found:
        told = "missing" if found is _MISSING else f"{found!r:.60}" if found != "" else "empty"
        there = ", ".join(islice(_paths(event.get("data")), MOST_TOLD)) or "no fields"
        raise UsageError(
            f"the key {path} of the event is {told}; it is a text or a number. Its data has {there}"
        )
    return found[:500]


def _paths(data: Any, above: str = "") -> Iterator[str]:
    """Where the data has a value, in its own order."""
    for name, value in data.items() if isinstance(data, Mapping) else ():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"[:100]


def _looked_up(event: Mapping[str, Any], path: str) -> Any:
    first, *rest = path.split(".")
    if first == "event" and len(rest) == 1 and rest[0] in ENVELOPE:
        return event.get(rest[0], _MISSING)
    found = event.get("data")
    for part in (first, *rest):
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return found


def _tokens(text: str) -> list[tuple[str, str]]:
    found, place = [], 0
    while text[place:].strip():
        match = _TOKEN.match(text, place)
        if match is None:
            _refuse(text, f"what stands at {text[place:].strip()[:20]!r} cannot be read")
        found.append((str(match.lastgroup), match.group(str(match.lastgroup))))
        place = match.end()
    return found


def _comparison(text: str, tokens: list[tuple[str, str]]) -> Comparison:
    kind, path = tokens.pop(0) if tokens else ("", "")
    if kind != "word" or path in ("and", "or", *_WORDS):
        _refuse(text, f"a field is missing{f' before {path!r:.40}' if path else ' at the end'}")
    if path.startswith("event.") and path.removeprefix("event.") not in ENVELOPE:
        known = ", ".join(f"event.{name}" for name in ENVELOPE)
        _refuse(text, f"the envelope has no {path!r:.40}; there are {known}")
    kind, sign = tokens.pop(0) if tokens else ("", "")
    if (kind, sign) in (("word", "exists"), ("word", "missing")):
        return Comparison(path, sign)
    if kind != "sign":
        _refuse(text, f"after {path!r:.40} comes one of = != < <= > >= exists missing")
    kind, written = tokens.pop(0) if tokens else ("", "")
    if kind in ("text", "number"):
        try:
            value = json.loads(written, parse_float=Decimal)
        except ValueError:
            _refuse(text, f"{written:.40} is no value")
    elif written in _WORDS:
        value = _WORDS[written]
    else:
        _refuse(text, f'after {path:.40} {sign} comes a number, a "text", true, false or null')
    if sign in _ORDER and not (_is_number(value) or isinstance(value, str)):
        _refuse(text, f"{written} has no order; use = or !=")
    return Comparison(path, sign, value)


def _same(one: Any, other: Any) -> bool:
    if _is_number(one) and _is_number(other):
        return bool(one == other)
    return type(one) is type(other) and one == other


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _refuse(text: str, why: str) -> NoReturn:
    raise UsageError(f"filter={text[:80]!r}: {why}; for example {_EXAMPLE}")
