"""What becomes of an event that was tried: done, tried again later, or set aside. Pure.

What is wrong with an event is counted, and after `MOST_ATTEMPTS` it is set aside. What is wrong
with what should act on it is not: while an endpoint is away, every event would be poison. But an
event that brings its endpoint down must not wait for ever either; so a failure of that kind counts
where others succeed meanwhile.
"""

from dataclasses import dataclass
from typing import Literal

from aios.errors import (
    AiosError,
    ContractViolation,
    Forbidden,
    Malformed,
    NotAllowed,
    PermanentError,
    TemporaryError,
    Unauthenticated,
    UnknownName,
    UsageError,
)

MOST_ATTEMPTS = 5
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0

Fault = Literal["event", "target"]


@dataclass(frozen=True)
class PutOff:
    """Try again at `due_s`."""

    attempts: int
    due_s: float


@dataclass(frozen=True)
class SetAside:
    """It is not tried again unless somebody says so."""

    attempts: int


def fault_of(error: BaseException) -> Fault:
    """Whose fault a failure is, as far as its kind tells.

    >>> fault_of(ContractViolation("age is -3")), fault_of(TemporaryError("away"))
    ('event', 'target')
    """
    if isinstance(error, ContractViolation | Malformed):
        return "event"
    if isinstance(error, TemporaryError | UnknownName | Unauthenticated | Forbidden | NotAllowed):
        return "target"
    if isinstance(error, UsageError | PermanentError):
        return "event"
    return "target" if isinstance(error, AiosError | OSError) else "event"


def after_failure(
    attempts: int, fault: Fault, others_succeed: bool, tries: int, now_s: float
) -> PutOff | SetAside:
    """What becomes of an event whose attempt failed.

    Args:
        attempts: how many counted before this one.
        others_succeed: whether another event was acted on since this one was last tried, or beside
            it.
        tries: how often it was tried before, counted or not; pauses grow by it.
    """
    counted = attempts + 1 if fault == "event" or others_succeed else attempts
    if counted >= MOST_ATTEMPTS:
        return SetAside(counted)
    return PutOff(counted, now_s + pause_after(max(tries, attempts)))


def pause_after(tries: int) -> float:
    """Seconds until the next attempt after so many earlier ones.

    >>> [pause_after(n) for n in (0, 1, 2, 3, 4, 5, 50)]
    [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    """
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries, 30)))
