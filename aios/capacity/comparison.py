"""Two results of one benchmark: which figures differ by more than chance."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from aios.capacity.measurement import SAME, same_machine
from aios.errors import UsageError
from aios.presentation import Rows, Shown

Better = Literal["higher", "lower"]
Verdict = Literal["better", "worse", "no difference", "cannot tell", "too few rounds"]
ROUND_FIGURES: dict[str, Better] = {
    "requests_per_s": "higher",
    "p50_ms": "lower",
    "p99_ms": "lower",
    "cpu_s_per_1000": "lower",
    "failed": "lower",
}
"""Of a line of kind `round`, as `benchmarks.endpoint` writes them."""
UNSURE = ("cannot tell", "too few rounds")


@dataclass(frozen=True)
class Result:
    """One run: what it was, where, and every figure's value in each round."""

    path: str
    benchmark: str
    machine: dict[str, Any]
    figures: dict[tuple[str, Better], list[float]]


@dataclass(frozen=True)
class Ratio:
    """A figure of the second result over that of the first, with its 95 % confidence interval;
    None without one. `zeros`: some round of either has a 0, so that the means are compared."""

    figure: str
    better: Better
    middle: float
    low: float | None
    high: float | None
    rounds: tuple[int, int]
    zeros: bool = False

    def verdict(self, tolerance: float) -> Verdict:
        """What the interval as a whole says; differences up to `tolerance` are none."""
        least, most = 1 / (1 + tolerance), 1 + tolerance
        low, high = (self.middle, self.middle) if self.zeros else (self.low, self.high)
        if low is None or high is None:
            return "too few rounds"
        above, below = low > most, high < least
        if not (above or below):
            return "no difference" if least <= low and high <= most else "cannot tell"
        return "better" if above == (self.better == "higher") else "worse"


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """All figures that both results have; `missing` has the names of those that only the first one
    has, `new` of those that only the second one has."""

    first: Result
    second: Result
    ratios: tuple[Ratio, ...]
    missing: tuple[str, ...]
    new: tuple[str, ...]
    tolerance: float

    @property
    def worse(self) -> list[str]:
        """Figures that got worse beyond doubt and tolerance, and those that are no longer there."""
        found = [one.figure for one in self.ratios if one.verdict(self.tolerance) == "worse"]
        return [*found, *self.missing]

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        title = (
            f"{self.second.path} over {self.first.path} ({self.first.benchmark}), "
            f"95 % confidence, differences up to {self.tolerance:.0%} are none"
        )
        unsure = [one for one in self.ratios if one.verdict(self.tolerance) in UNSURE]
        if unsure:
            title += f"\nof {len(unsure)} of {len(self.ratios)} figures only more rounds would tell"
        rows: list[list[str]] = [
            [
                one.figure,
                f"{one.middle:.3f}",
                "" if one.low is None else f"{one.low:.3f} to {one.high:.3f}",
                f"{one.better} is better",
                " / ".join(map(str, one.rounds)),
                one.verdict(self.tolerance),
            ]
            for one in self.ratios
        ]
        rows += [[one, "", "", "", "", "missing: worse"] for one in self.missing]
        rows += [[one, "", "", "", "", "new"] for one in self.new]
        return title, ["figure", "ratio", "interval", "", "rounds", "verdict"], rows


def compare(first: Result, second: Result, *, tolerance: float, force: bool = False) -> Comparison:
    """Compare by ratios, figure by figure.

    Raises:
        UsageError: they are of different benchmarks or, without `force`, machines; or have no
            figure in common.
    """
    if not 0 <= tolerance < 10:
        raise UsageError(f"the tolerance is a share such as 0.05, not {tolerance:g}")
    if first.benchmark != second.benchmark:
        raise UsageError(
            f"{first.path} is of {first.benchmark!r} and {second.path} of {second.benchmark!r}"
        )
    if not force and not same_machine(first.machine, second.machine):
        told = [
            ", ".join(f"{name} {one.machine.get(name)}" for name in SAME) for one in (first, second)
        ]
        raise UsageError(
            f"these are of different machines ({told[0]}; {told[1]}): their ratio says nothing "
            "about the code. With --force they are compared all the same"
        )
    shared = sorted(first.figures.keys() & second.figures.keys())
    if not shared:
        raise UsageError(f"{first.path} and {second.path} have no figure in common")
    ratios = tuple(ratio(*name, first.figures[name], second.figures[name]) for name in shared)
    missing, new = (
        tuple(sorted(name for name, _ in one.figures.keys() - other.figures.keys()))
        for one, other in ((first, second), (second, first))
    )
    return Comparison(first, second, ratios, missing, new, tolerance)


def ratio(figure: str, better: Better, first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Of the geometric means, with Welch's interval for the difference of the logarithms: rounds
    of a busy machine differ by factors, not by amounts (B. L. Welch, Biometrika 34, 1947)."""
    from scipy.stats import t as student

    if min(*first, *second) <= 0:  # which has no logarithm, as where nothing failed
        before, after = float(np.mean(first)), float(np.mean(second))
        times = 1.0 if before == after else math.inf if before <= 0 else max(0.0, after / before)
        return Ratio(figure, better, times, None, None, (len(first), len(second)), zeros=True)
    logs = [np.log(np.asarray(values, dtype=np.float64)) for values in (first, second)]
    middle = float(logs[1].mean() - logs[0].mean())
    counts = (len(first), len(second))
    if min(counts) < 2:
        return Ratio(figure, better, math.exp(middle), None, None, counts)
    parts = [float(one.var(ddof=1)) / one.size for one in logs]
    spread = math.sqrt(sum(parts))
    if spread == 0:
        return Ratio(figure, better, math.exp(middle), math.exp(middle), math.exp(middle), counts)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (one.size - 1) for part, one in zip(parts, logs, strict=True)
    )
    away = float(student.ppf(0.975, freedom)) * spread
    low, high = math.exp(middle - away), math.exp(middle + away)
    return Ratio(figure, better, math.exp(middle), low, high, counts)


def read_result(path: Path) -> Result:
    """A benchmark's JSON lines: one of kind `run` first, then `figure`s or `round`s.

    Raises:
        UsageError: it cannot be read, or is something else; names the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    found: dict[tuple[str, Better], list[float]] = {}
    run: dict[str, Any] | None = None
    for number, line in enumerate(lines, 1):
        try:
            entry = orjson.loads(line)
            if entry["kind"] == "run":
                run = {"benchmark": entry["benchmark"], "machine": dict(entry["machine"])}
            for name, value in _figures(entry):
                found.setdefault(name, []).append(value)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise UsageError(f"{path}, line {number}: no line of a benchmark's result") from None
    if run is None:
        raise UsageError(f"{path} is no result of a benchmark: it does not say of which")
    return Result(str(path), run["benchmark"], run["machine"], found)


def _figures(entry: dict[str, Any]) -> Iterator[tuple[tuple[str, Better], float]]:
    if entry["kind"] == "figure":
        better: Better = "higher" if entry["better"] == "higher" else "lower"
        yield (str(entry["name"]), better), float(entry["value"])
    if entry["kind"] == "round":
        of = f"{entry['contestant']}, {entry['connections']} connections, {entry['group']}"
        for figure, side in ROUND_FIGURES.items():
            yield (f"{of}: {figure}", side), float(entry[figure])
