"""Feedback as it comes: from people and from event sources, late, twice, and out of order.

Of one request the last counts: the last to come, or, for events that say when they happened, the
last to happen. What was overtaken before it came is kept as history, and so is an event that says
what was known already, because its coordinates are what a repeat is known by.
"""

import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, text, update

from aios.clock import Clock
from aios.errors import UsageError
from aios.records import Buckets
from aios.registry.base import shown
from aios.store import tables as t
from aios.store.database import Database
from aios.telemetry import Histogram
from aios.telemetry.histogram import DELAY_BOUNDS_S

MOST_IDS = 500
"""Ids in one query; SQLite takes 32,766 values."""
LONGEST_GIVEN = 10_000
NOT_LOOKED_FOR = text("NOT looked_for")
NOT_EXPORTED = text("NOT exported")
"""As the indexes of waiting feedback spell it: SQLite does not know that `looked_for = 0`, which
SQLAlchemy makes of `~`, is the same, and reads every row."""
_TOTALS = ("given", "requests", "joined", "unknown", "history")


@dataclass(frozen=True)
class FeedbackEvent:
    """Feedback from an event source. `source` and `id` name the event, wherever and however often
    it is delivered (CloudEvents 1.0); `said_s` is when it happened, None if it does not say."""

    source: str
    id: str
    request_id: str
    values: Mapping[str, Any]
    said_s: float | None = None


@dataclass
class _Last:
    """What was last said of a request, and when that was."""

    said_s: float
    given: dict[str, Any]


class FeedbackStore:
    """The part of `Observed` that takes feedback and counts it."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._events: Counter[tuple[str, str]] = Counter()
        self._delays: dict[str, Histogram] = {}
        self._counting = threading.Lock()

    def add_feedback(
        self, endpoint: str, entries: Sequence[tuple[str, Mapping[str, Any]]], by: str
    ) -> int:
        """Keep feedback on requests; on disk when this returns.

        Args:
            entries: (request id, values) each. Of one request the last counts, all are kept.

        Returns:
            How many said something new.
        """
        now_s, rows = self._clock.now_s(), []
        with self._database.transaction() as connection:
            last = _last_said(connection, endpoint, [request_id for request_id, _ in entries])
            before = len(last)
            for request_id, values in entries:
                given = json.loads(json.dumps(dict(values)))
                known = last.get(request_id)
                if known is not None and known.given == given:
                    continue
                # What comes now is said last, also by a clock that was set back.
                said_s = now_s if known is None else max(now_s, known.said_s)
                last[request_id] = _Last(said_s, given)
                rows.append(_row(endpoint, request_id, given, by, now_s, said_s))
            _insert(connection, endpoint, rows, len(last) - before)
        return len(rows)

    def add_feedback_events(
        self, endpoint: str, events: Sequence[FeedbackEvent], by: str
    ) -> dict[str, int]:
        """Keep feedback from an event source; on disk when this returns.

        An event counts once, however often it is delivered, for as long as its row is kept. Of one
        request the event that happened last counts; one that says no time, or a time that is yet to
        come, happened when it came.

        Returns:
            How many of the events were `taken`, `repeated` (delivered before), and `history`: kept,
            but overtaken by a later one or saying nothing new; and how many of these were `ahead`
            of the clock.
        """
        now_s, rows, told = self._clock.now_s(), [], Counter[str]()
        with self._database.transaction() as connection:
            delivered = _delivered(connection, endpoint, events)
            last = _last_said(connection, endpoint, [event.request_id for event in events])
            before = len(last)
            for event in events:
                if (event.source, event.id) in delivered:
                    told["repeated"] += 1
                    continue
                delivered.add((event.source, event.id))
                given = json.loads(json.dumps(dict(event.values)))
                known = last.get(event.request_id)
                told["ahead"] += event.said_s is not None and event.said_s > now_s
                said_s = _said_s(event, known, now_s)
                overtaken = known is not None and said_s < known.said_s
                history = overtaken or (known is not None and known.given == given)
                if not overtaken:
                    last[event.request_id] = _Last(said_s, given)
                told["history" if history else "taken"] += 1
                row = _row(endpoint, event.request_id, given, by, now_s, said_s)
                # What is history is neither joined nor exported: there only the last counts.
                done = {"history": history, "looked_for": history, "exported": history}
                rows.append({**row, **done, "source": event.source, "event_id": event.id})
            _insert(connection, endpoint, rows, len(last) - before)
        with self._counting:
            for result, count in told.items():
                self._events[(endpoint, result)] += count
        return {name: told[name] for name in ("taken", "repeated", "history", "ahead")}

    def refused_feedback_events(self, endpoint: str, count: int) -> None:
        """So many events were not fit to be kept."""
        with self._counting:
            self._events[(endpoint, "refused")] += count

    def feedback_events(self, endpoint: str) -> dict[str, int]:
        """How many events came since this process began, by what became of them; see
        `add_feedback_events`."""
        results = ("taken", "repeated", "history", "ahead", "refused")
        with self._counting:
            return {result: self._events[(endpoint, result)] for result in results}

    def looked_for(self, answers: Mapping[int, dict[str, Any] | None]) -> None:
        """What was found for feedback, by its seq; None where there is no such answer."""
        f = t.feedback.c
        found: dict[str, Counter[str]] = {}
        delays: dict[str, list[float]] = {}
        with self._database.transaction() as connection:
            for some in _chunks(list(answers)):
                query = select(f.seq, f.endpoint, f.at_s).where(f.seq.in_(some), ~f.looked_for)
                for row in connection.execute(query).all():
                    answer = answers[row.seq]
                    values = {"answer": answer, "looked_for": True}
                    connection.execute(update(t.feedback).where(f.seq == row.seq).values(**values))
                    counts = found.setdefault(row.endpoint, Counter())
                    counts["unknown" if answer is None else "joined"] += 1
                    if answer is not None:
                        delay_s = row.at_s - answer["answered_s"]
                        delays.setdefault(row.endpoint, []).append(max(0.0, delay_s))
            for endpoint, counts in found.items():
                _count(connection, endpoint, counts)
        with self._counting:
            for endpoint, values_s in delays.items():
                known = self._delays.setdefault(endpoint, Histogram(DELAY_BOUNDS_S))
                known.update_many(values_s)

    def feedback_counts(self, endpoint: str) -> dict[str, Any]:
        """How much feedback there is: `given`, `requests`, `joined`, `waiting`, `unknown` (no such
        answer is in the log), `history` (overtaken, or told again by another event).

        Kept beside the feedback, in the same transactions, so that to ask costs no scan.
        """
        f = t.feedback.c
        totals = select(t.feedback_totals).where(t.feedback_totals.c.endpoint == endpoint)
        waiting = (
            select(func.count())
            .select_from(t.feedback)
            .where(f.endpoint == endpoint, NOT_LOOKED_FOR)
        )
        with self._database.reading() as connection:
            row = connection.execute(totals).first()
            found = {name: int(getattr(row, name)) if row else 0 for name in _TOTALS}
            return {**found, "waiting": int(connection.execute(waiting).scalar() or 0)}

    def feedback_lag_s(self, endpoint: str) -> float:
        """Age in seconds of the oldest feedback whose answer has not been looked for; 0 if none
        waits."""
        f = t.feedback.c
        oldest = select(f.at_s).where(f.endpoint == endpoint, NOT_LOOKED_FOR).order_by(f.seq)
        with self._database.reading() as connection:
            at_s = connection.execute(oldest.limit(1)).scalar()
        return 0.0 if at_s is None else max(0.0, self._clock.now_s() - float(at_s))

    def feedback_delays(self) -> dict[str, Buckets]:
        """Seconds from an answer to its feedback, by endpoint, of what was joined since this
        process began; in the buckets of `DELAY_BOUNDS_S`."""
        with self._counting:
            return {endpoint: one.buckets() for endpoint, one in self._delays.items()}


def check_given(request_id: Any, values: Any) -> tuple[str, dict[str, Any]]:
    """One entry of feedback as it can be kept.

    Raises:
        UsageError: the id is no text, or the values are no short JSON object of plain values.
    """
    if not isinstance(request_id, str) or not 0 < len(request_id) <= 200:
        raise UsageError(
            f"feedback needs a request id of 1 to 200 characters, not {request_id!r:.80}"
        )
    if not isinstance(values, Mapping) or not values:
        raise UsageError(
            f"feedback on {shown(request_id)} is an object such as {{'approve': 1}}, not "
            f"{values!r:.80}"
        )
    for name, value in values.items():
        if not isinstance(name, str) or not _plain(value):
            raise UsageError(
                f"feedback on {shown(request_id)}: {name!r:.60} is {_told(value)}; values are "
                "finite numbers (whole ones of 64 bits), texts, true, false or null"
            )
    if len(json.dumps(dict(values))) > LONGEST_GIVEN:
        raise UsageError(
            f"feedback on {shown(request_id)} is longer than {LONGEST_GIVEN:,} characters"
        )
    return request_id, dict(values)


def _plain(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value is None or isinstance(value, str) or _finite(value)


def _finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _told(value: Any) -> str:
    # Python refuses to write a whole number of more than 4,300 digits.
    large = isinstance(value, int) and not -(2**63) <= value < 2**63
    return "too large" if large else f"{value!r:.60}"


def _said_s(event: FeedbackEvent, known: _Last | None, now_s: float) -> float:
    if event.said_s is not None:
        return min(event.said_s, now_s)
    return now_s if known is None else max(now_s, known.said_s)


def _row(
    endpoint: str, request_id: str, given: dict[str, Any], by: str, at_s: float, said_s: float
) -> dict[str, Any]:
    return {
        "endpoint": endpoint,
        "request_id": request_id,
        "given": given,
        "at_s": at_s,
        "said_s": said_s,
        "by": by,
        "answer": None,
        "looked_for": False,
        "exported": False,
        "history": False,
        "source": None,
        "event_id": None,
    }


def _insert(
    connection: Connection, endpoint: str, rows: list[dict[str, Any]], requests: int
) -> None:
    if rows:
        connection.execute(insert(t.feedback), rows)
        history = sum(row["history"] for row in rows)
        told = {"given": len(rows), "requests": requests, "history": history}
        _count(connection, endpoint, told)


def _count(connection: Connection, endpoint: str, more: Mapping[str, int]) -> None:
    totals = t.feedback_totals
    mine = totals.c.endpoint == endpoint
    raised = {name: totals.c[name] + count for name, count in more.items()}
    if not connection.execute(update(totals).where(mine).values(**raised)).rowcount:
        none = dict.fromkeys(_TOTALS, 0)
        connection.execute(insert(totals).values(**{**none, **more}, endpoint=endpoint))


def _last_said(
    connection: Connection, endpoint: str, request_ids: Sequence[str]
) -> dict[str, _Last]:
    """What was last said of each request, where anything was."""
    f = t.feedback.c
    said_s = func.coalesce(f.said_s, f.at_s).label("said_s")
    found: dict[str, _Last] = {}
    for some in _chunks(request_ids):
        query = select(f.request_id, f.given, said_s)
        query = query.where(f.endpoint == endpoint, f.request_id.in_(some))
        for row in connection.execute(query.order_by(said_s, f.seq)):
            found[row.request_id] = _Last(row.said_s, row.given)
    return found


def _delivered(
    connection: Connection, endpoint: str, events: Iterable[FeedbackEvent]
) -> set[tuple[str, str]]:
    """Which of these events have a row."""
    f = t.feedback.c
    by_source: dict[str, list[str]] = {}
    for event in events:
        by_source.setdefault(event.source, []).append(event.id)
    found = set()
    for source, ids in by_source.items():
        for some in _chunks(ids):
            query = select(f.event_id).where(
                f.endpoint == endpoint, f.source == source, f.event_id.in_(some)
            )
            found |= {(source, str(one)) for one in connection.execute(query).scalars()}
    return found


def _chunks(values: Sequence[Any]) -> Iterable[list[Any]]:
    for start in range(0, len(values), MOST_IDS):
        yield list(values[start : start + MOST_IDS])
