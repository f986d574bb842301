"""Time, passed in rather than looked up, so that pure code can be tested without sleeping; and cron
lines, which mean the same wherever one is given."""

import time
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from croniter import croniter

MOST_FIELDS = 6
CRON = 'five fields, such as "*/5 * * * *", or six with seconds first'
TIME_ZONE = 'no time zone, such as "Europe/Berlin"'
"""For messages."""


def is_cron(line: str) -> bool:
    """Whether it is a cron line that comes round: not `0 0 30 2 *`, and none of a year alone.

    >>> [is_cron(line) for line in ("0 0 29 2 *", "@daily", "0 0 30 2 *", "0 0 0 1 1 * 2020")]
    [True, True, False, False]
    """
    from croniter import CroniterError, croniter

    if not isinstance(line, str) or len(line.split()) > MOST_FIELDS:
        return False
    if not croniter.is_valid(line, second_at_beginning=True):
        return False
    try:
        cron_times(line, 0.0).get_next(float)
    except CroniterError:
        return False
    return True


def is_time_zone(name: str) -> bool:
    """Whether this machine knows the time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def cron_times(line: str, since_s: float, timezone: str = "UTC") -> "croniter":
    """The times of a cron line from a moment on, by the clock of a time zone.

    >>> cron_times("30 */5 * * * *", 0.0).get_next(float)
    30.0
    """
    from croniter import croniter

    begin = datetime.fromtimestamp(since_s, ZoneInfo(timezone))
    return croniter(line, begin, second_at_beginning=True)


class Clock(Protocol):
    """`now_s` is wall time in Unix seconds; `monotonic_s` never goes backwards."""

    def now_s(self) -> float: ...

    def monotonic_s(self) -> float: ...


class SystemClock:
    """The machine's clock."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to; for simulations and tests of users."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds
