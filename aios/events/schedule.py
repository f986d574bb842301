"""A clock as a source: which ticks are due. Pure."""

from datetime import UTC, datetime

from aios.clock import cron_times
from aios.events.reading import Message
from aios.records.events import Schedule

MOST_TICKS = 1_000
"""Of one look; what was missed beyond that is made up for at the next."""
OLDEST_S = 366 * 86_400.0
"""Nothing older is made up for."""


def due_ticks(schedule: Schedule, since_s: float, now_s: float, up_s: float = 0.0) -> list[float]:
    """The times after `since_s` and up to `now_s` at which the cron line says so, oldest first.
    Without `backfill`, of those before `up_s`, when nobody was there to look, the newest alone.

    >>> due_ticks(Schedule("*/5 * * * *"), 0.0, 700.0)
    [300.0, 600.0]
    >>> due_ticks(Schedule("*/5 * * * *"), 0.0, 700.0, up_s=650.0)
    [600.0]
    """
    found = list[float]()
    since_s = max(since_s, now_s - OLDEST_S)
    if not schedule.backfill and up_s > since_s:
        last = cron_times(schedule.cron, min(up_s, now_s) + 0.001, schedule.timezone)
        at_s = last.get_prev(datetime).timestamp()
        if at_s > since_s:
            found.append(at_s)
        since_s = min(up_s, now_s)
    line = cron_times(schedule.cron, since_s, schedule.timezone)
    while len(found) < MOST_TICKS:
        at_s = line.get_next(datetime).timestamp()
        if at_s > now_s:
            break
        found.append(at_s)
    return found


def tick(subscription: str, at_s: float) -> Message:
    """The message of one tick."""
    time = datetime.fromtimestamp(at_s, UTC).isoformat()
    return Message(
        coordinates=f"tick/{time}",
        body=f'{{"scheduled": "{time}"}}'.encode(),
        source=f"schedule:{subscription}",
        kind="schedule.tick",
        time_s=at_s,
    )
