"""The little language of abort rules: parsed here, never evaluated as code.

errors worse [by 0.02]          the canary's error rate exceeds stable's by more than this
latency_p95 > 1.5x [+ 20ms]     its p95 exceeds so many times stable's, plus so much (or 10ms)
output drift [> 0.25]           the distribution of an output differs by more (KS distance)
kpi worse [by 0.01]             the mean fed-back business value is lower by more
disagreement > 0.1              share of shadow answers that differ from stable's
"""

import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from aios.errors import UsageError
from aios.records import Record

RuleKind = Literal["errors", "latency", "drift", "kpi", "disagreement"]

ERROR_MARGIN = 0.01
"""One request in a hundred: below it, telling two rates apart takes thousands of requests."""

LATENCY_FLOOR_S = 0.010
"""Ten milliseconds come on top of the ratio unless a rule says otherwise: for a model of
under a millisecond even a tenfold difference is less than what a network hop varies by."""

DRIFT_TOLERANCE = 0.3
"""A Kolmogorov-Smirnov distance that a retrained model stays well below and that a model
with shuffled labels, a wrong scale or a constant answer exceeds."""

FORMS = (
    "errors worse",
    "errors worse by 0.02",
    "latency_p95 > 1.5x",
    "latency_p99 > 2x + 20ms",
    "output drift",
    "output drift > 0.25",
    "kpi worse",
    "kpi worse by 0.01",
    "disagreement > 0.1",
)


class AbortRule(Record):
    """One parsed rule. `limit` is the margin, ratio, distance or share; None for a KPI rule
    means a tenth of stable's standard deviation. `quantile` and `floor_s` are latency's."""

    text: str
    kind: RuleKind
    limit: float | None
    quantile: float = 0.95
    floor_s: float = LATENCY_FLOOR_S


@dataclass
class _Token:
    text: str
    position: int


_TOKEN = re.compile(r"\s*(?P<token>latency_p\d+|[A-Za-z_]+|\d+(?:\.\d+)?|\.\d+|\S)")
_LATENCY = re.compile(r"latency_p(\d+)")


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [_Token(m["token"], m.start("token")) for m in _TOKEN.finditer(text)]
        self._next = 0

    def peek(self) -> str:
        return self._tokens[self._next].text if self._next < len(self._tokens) else ""

    def take(self, *expected: str) -> str:
        if self.peek() not in expected:
            self.refuse(" or ".join(repr(word) for word in expected))
        self._next += 1
        return self._tokens[self._next - 1].text

    def optional(self, word: str) -> bool:
        if self.peek() != word:
            return False
        self._next += 1
        return True

    def number(self, low: float, high: float, meaning: str) -> float:
        try:
            value = float(self.peek())
        except ValueError:
            self.refuse(f"a number ({meaning})")
        if not low < value <= high:
            self.refuse(f"{meaning} above {low:g} and at most {high:g}")
        self._next += 1
        return value

    def end(self) -> None:
        if self.peek():
            self.refuse("the end of the rule")

    def refuse(self, expected: str) -> NoReturn:
        at = self._tokens[self._next].position if self.peek() else len(self._text)
        found = repr(self.peek()) if self.peek() else "the end"
        raise UsageError(
            f"abort rule {self._text!r}: expected {expected} at position {at}, found {found}; "
            f"forms are: {'; '.join(FORMS)}",
            rule=self._text,
            position=at,
            forms=list(FORMS),
        )


def parse_rule(text: str) -> AbortRule:
    """The rule that `text` writes, with its defaults filled in.

    >>> parse_rule("latency_p99 > 2x + 20ms").floor_s
    0.02

    Raises:
        UsageError: It is none of `FORMS`; says at which position, and lists them.
    """
    if not isinstance(text, str):
        raise UsageError(f"an abort rule is a text such as {FORMS[0]!r}, not {text!r}")
    reader = _Reader(text)
    latency = _LATENCY.fullmatch(reader.peek())
    if latency is not None:
        rule = _latency_rule(text, reader, int(latency[1]))
    else:
        rule = _plain_rule(text, reader)
    reader.end()
    return rule


def _plain_rule(text: str, reader: _Reader) -> AbortRule:
    first = reader.take("errors", "output", "kpi", "disagreement")
    if first == "output":
        reader.take("drift")
        limit = DRIFT_TOLERANCE
        if reader.optional(">"):
            limit = reader.number(0, 1, "a distance")
        return AbortRule(text=text, kind="drift", limit=limit)
    if first == "disagreement":
        reader.take(">")
        return AbortRule(
            text=text, kind="disagreement", limit=reader.number(0, 1, "a share of answers")
        )
    reader.take("worse")
    by = reader.optional("by")
    if first == "errors":
        limit = reader.number(0, 1, "a difference of rates") if by else ERROR_MARGIN
        return AbortRule(text=text, kind="errors", limit=limit)
    margin = reader.number(0, 1e15, "a difference of means") if by else None
    return AbortRule(text=text, kind="kpi", limit=margin)


def _latency_rule(text: str, reader: _Reader, percent: int) -> AbortRule:
    if not 1 <= percent <= 99:
        reader.refuse("latency_p1 to latency_p99")
    reader.take(reader.peek())
    reader.take(">")
    ratio = reader.number(0, 1000, "a ratio to stable")
    reader.take("x")
    floor_s = LATENCY_FLOOR_S
    if reader.optional("+"):
        duration = reader.number(-1e-9, 3.6e6, "a duration")
        floor_s = duration / 1000 if reader.take("ms", "s") == "ms" else duration
    return AbortRule(
        text=text, kind="latency", limit=ratio, quantile=percent / 100, floor_s=floor_s
    )
