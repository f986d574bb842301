"""What a monitor shows of one version: each field now and then, drift and quality over time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aios.monitoring.drift import SCORES, score
from aios.monitoring.judging import Seen
from aios.records.watching import Window
from aios.telemetry import Summary

SHOWN_WINDOWS = 200
BARS = 24
_OVER_TIME = "psi"


def fields_view(reference: Seen, now: Seen) -> dict[str, Any]:
    """Each field with its scores and bars, `{"role", "kind", "scores", "bars"}` by name; the
    furthest off first."""
    found: dict[str, dict[str, Any]] = {}
    for role, before, after in (
        ("input", reference.inputs, now.inputs),
        ("output", reference.outputs, now.outputs),
    ):
        for name, summary in after.items():
            base = before.get(name)
            comparable = base is not None and base.kind == summary.kind
            scores = (
                {measure: _finite(score(measure, base, summary)) for measure in sorted(SCORES)}
                if base is not None and comparable
                else {"nulls": _finite(summary.null_share)}
            )
            found[name] = {
                "role": role,
                "kind": summary.kind,
                "values": summary.count,
                "scores": scores,
                "bars": _bars(base if comparable else None, summary),
            }
    return dict(sorted(found.items(), key=lambda item: -(item[1]["scores"].get("psi") or 0.0)))


def windows_view(reference: Seen | None, windows: Sequence[Window]) -> list[dict[str, Any]]:
    """Each window, oldest first: when, how many rows, and PSI by field where it is known."""
    found = []
    for window in windows[-SHOWN_WINDOWS:]:
        scores = {}
        for name, content in {**window.inputs, **window.outputs}.items():
            base = reference.chosen(name).get(name) if reference is not None else None
            now = Summary.from_json(content)
            if base is not None and base.kind == now.kind:
                scores[name] = _finite(score(_OVER_TIME, base, now))
        found.append(
            {
                "start_s": window.start_s,
                "end_s": window.end_s,
                "rows": window.rows,
                "dropped": window.dropped,
                "psi": {name: value for name, value in scores.items() if value is not None},
            }
        )
    return found


def _bars(base: Summary | None, now: Summary) -> dict[str, Any]:
    """Shares of both in the same bars: between two numbers each, or by text."""
    if now.kind == "text":
        names = list((base or now).texts)[:BARS]
        sides = [_shares(one, names) for one in (base, now)]
        return {"names": [*names, "others"], "then": sides[0], "now": sides[1]}
    both = [one for one in (base, now) if one is not None and one.present]
    if not both:
        return {"edges": [], "then": None, "now": None}
    low = min(one.sketch.quantile(0.005) for one in both)
    high = max(one.sketch.quantile(0.995) for one in both)
    edges = np.linspace(low, high if high > low else low + 1.0, BARS + 1)
    sides = []
    for one in (base, now):
        if one is None or not one.present:
            sides.append(None)
            continue
        shares = np.diff(one.sketch.cdf_many(edges))
        shares[0] += one.sketch.cdf(float(edges[0]))
        sides.append(shares.round(6).tolist())
    return {"edges": edges.tolist(), "then": sides[0], "now": sides[1]}


def _shares(summary: Summary | None, names: Sequence[str]) -> list[float] | None:
    if summary is None or not summary.present:
        return None
    texts = summary.texts
    known = [texts.get(name, 0) / summary.present for name in names]
    return [*known, max(0.0, 1.0 - sum(known))]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
