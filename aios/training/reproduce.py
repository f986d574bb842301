"""Two runs of one specification, side by side: the same model, an equal one, or what differs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from aios.presentation import Rows, Shown
from aios.records import Record, RunSpec

Verdict = Literal["identical", "equal", "different"]


class Difference(Record):
    """One thing that was not the same in both runs."""

    what: str
    original: Any
    again: Any


class Reproduction(Shown, Record):
    """What making a version again showed.

    `identical`: the artifact has the same digest. `equal`: other bytes, and every metric within
    `tolerance`. `different`: a metric is not; `causes` are then where to look, and they are
    listed in any case. `metrics` are name -> (original, again).
    """

    ref: str
    verdict: Verdict
    tolerance: float
    metrics: dict[str, tuple[float | None, float | None]]
    causes: tuple[Difference, ...]

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        told = {
            "identical": "made again, byte for byte",
            "equal": f"made again, every metric within {self.tolerance:g}",
            "different": "not made again",
        }[self.verdict]
        rows: list[list[object]] = [
            [f"metric {name}", first, second] for name, (first, second) in self.metrics.items()
        ]
        rows += [[one.what, one.original, one.again] for one in self.causes]
        return f"{self.ref}: {told}", ("what", "original", "again"), rows


def compare(
    ref: str,
    original: tuple[RunSpec, Mapping[str, Any]],
    again: tuple[RunSpec, Mapping[str, Any]],
    *,
    tolerance: float = 1e-6,
) -> Reproduction:
    """Compare two runs by their specification and by the results of their stages.

    Args:
        ref: how the version is called.
        original: the run that made it.
        again: the run of the same specification now.
        tolerance: the absolute difference allowed in each metric. A metric that only one run
            has is never within it.
    """
    first, second = original[1].get("refit", {}), again[1].get("refit", {})
    ours, theirs = first.get("metrics", {}), second.get("metrics", {})
    metrics = {name: (ours.get(name), theirs.get(name)) for name in sorted({*ours, *theirs})}
    digests = [one.get("artifact", {}).get("digest") for one in (first, second)]
    verdict: Verdict = "different"
    if digests[0] is not None and digests[0] == digests[1]:
        verdict = "identical"
    elif metrics and all(_close(*pair, tolerance) for pair in metrics.values()):
        verdict = "equal"
    return Reproduction(
        ref=ref,
        verdict=verdict,
        tolerance=tolerance,
        metrics=metrics,
        causes=tuple(_differences(_facts(*original), _facts(*again))),
    )


def _close(first: float | None, second: float | None, tolerance: float) -> bool:
    if first is None or second is None:
        return False
    if math.isnan(first) and math.isnan(second):
        return True
    return abs(first - second) <= tolerance


def _facts(spec: RunSpec, results: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides what comes out, by the name it is told under."""
    refit = results.get("refit", {})
    machine = refit.get("environment") or spec.environment
    packages = machine.get("packages", {})
    return {
        "data digest": results.get("snapshot", {}).get("snapshot", {}).get("digest"),
        "recipe sha256": spec.recipe.sha256,
        "seed": spec.seed,
        "config": results.get("search", {}).get("config"),
        "python": machine.get("python"),
        "platform": machine.get("platform"),
        **{f"package {name}": version for name, version in packages.items()},
    }


def _differences(original: Mapping[str, Any], again: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(what=what, original=original.get(what), again=again.get(what))
        for what in dict.fromkeys((*original, *again))
        if original.get(what) != again.get(what)
    ]
