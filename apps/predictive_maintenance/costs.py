"""What standing still costs, in a simple model that is made up.

A machine that broke stands still for 16 hours and needs parts; a planned stop takes about 3 hours
(as long as it took, where aios stopped it). An hour of standstill costs the same whatever for.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from apps.predictive_maintenance.plant import TICKS_AN_HOUR, Life

HOUR_EUR = 400.0
BREAKDOWN_EUR = 5_000.0
STOP_EUR = 600.0


@dataclass(frozen=True)
class Bill:
    """Hours of standstill of all machines, and what they cost."""

    breakdowns: int
    breakdown_hours: float
    stops: int
    stop_hours: float

    @property
    def hours(self) -> float:
        return self.breakdown_hours + self.stop_hours

    @property
    def eur(self) -> float:
        parts = self.breakdowns * BREAKDOWN_EUR + self.stops * STOP_EUR
        return parts + self.hours * HOUR_EUR


def bill(lives: Iterable[Life]) -> Bill:
    """The bill of machines whose lives are over."""
    spans = [span for life in lives for span in life.spans]

    def hours(kind: str) -> float:
        return sum(one.end - one.begin for one in spans if one.kind == kind) / TICKS_AN_HOUR

    def count(kind: str) -> int:
        return sum(one.kind == kind for one in spans)

    return Bill(count("broken"), hours("broken"), count("stopped"), hours("stopped"))
