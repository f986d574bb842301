"""How far a plan can be trusted: what speaks against it, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aios.capacity.fitting import Fitted
from aios.capacity.measurement import Measurement
from aios.presentation import duration

Level = Literal["good", "fair", "weak"]
FEW = 1000
"""Requests in the point that decided: fewer than ten of them lay beyond the p99."""
GOOD_ERROR, FAIR_ERROR = 0.15, 0.4
"""Of a p99 that was predicted from the other points."""
FAR = 4.0
"""Times the largest rate that was tried: what else becomes scarce there was not measured."""


@dataclass(frozen=True)
class Confidence:
    """`doubts` are so strong that each makes the answer weak; `because` has all that is to say."""

    level: Level
    because: tuple[str, ...]
    doubts: tuple[str, ...]


def is_checked(fit: Fitted) -> bool:
    """Whether the formula agrees with what was seen, so that more can be read off it."""
    return fit.usual_error_fraction is not None and fit.usual_error_fraction <= FAIR_ERROR


def confidence(
    measured: Measurement,
    fit: Fitted,
    rate_per_s: float,
    p99_s: float,
    more: Sequence[str] = (),
) -> Confidence:
    """Judge a measurement as the ground of a plan; `more` are doubts about something else."""
    doubts = (*_doubts(measured, fit), *more)
    cautions = tuple(_cautions(measured, fit, rate_per_s, p99_s))
    level: Level = "weak" if doubts else "fair" if cautions else "good"
    told = (_agreement(fit), *cautions, *(one.partition(":")[0] for one in doubts))
    return Confidence(level, tuple(one for one in told if one), doubts)


def _agreement(fit: Fitted) -> str:
    if fit.usual_error_fraction is None or fit.error_fraction is None:
        return ""
    return (
        f"p99s predicted from the other points are off by {fit.usual_error_fraction:.0%} (median), "
        f"{fit.error_fraction:.0%} at worst"
    )


def _doubts(measured: Measurement, fit: Fitted) -> "list[str]":
    found = []
    load, cores = measured.machine.get("load_average_1min"), measured.machine.get("cores")
    if isinstance(load, int | float) and isinstance(cores, int) and load > cores:
        found.append(
            f"the machine was busy with something else: load average {load:g} on {cores} cores "
            "before the measurement began; measure again on a quiet one"
        )
    held = [point for point in (measured.light, *measured.points) if point.held_back]
    if held:
        found.append(
            f"the load generator could not keep up: at {held[0].rate_per_s:,.0f}/s "
            f"{held[0].held_back}; the endpoint may do better than this"
        )
    if fit.usual_error_fraction is None:
        found.append(
            "nothing checks the formula: fewer than two of the rates that were tried can; measure "
            "again with more --steps"
        )
    elif fit.usual_error_fraction > FAIR_ERROR:
        found.append(
            "the formula does not fit: p99s predicted from other points are off by "
            f"{fit.usual_error_fraction:.0%}"
        )
    return found


def _cautions(measured: Measurement, fit: Fitted, rate_per_s: float, p99_s: float) -> "list[str]":
    found = []
    tried = (measured.light, *measured.points)
    knee = measured.bounds(p99_s)[0]
    decided = next((point for point in tried if point.rate_per_s == knee), measured.light)
    count = decided.good + decided.failed
    low_s, high_s = decided.p99_between()
    if count < FEW:
        found.append(f"the p99 at {decided.rate_per_s:,.0f}/s rests on {count} requests only")
    if high_s > p99_s:
        found.append(
            f"the p99 at {decided.rate_per_s:,.0f}/s is {duration(low_s)} to "
            f"{duration(high_s) if high_s != float('inf') else 'more'}"
        )
    if GOOD_ERROR < (fit.usual_error_fraction or 0.0) <= FAIR_ERROR:
        found.append("the formula fits roughly")
    if measured.same_machine:
        found.append("the load generator shared the machine with the endpoint")
    most = max(point.rate_per_s for point in tried)
    if rate_per_s > FAR * most:
        found.append(
            f"{rate_per_s:,.0f}/s is {rate_per_s / most:.0f} times what was tried: network"
            " and HAProxy were not measured there"
        )
    return found
