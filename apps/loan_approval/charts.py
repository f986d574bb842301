"""The report's charts, drawn with matplotlib."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from apps.drawing import (
    WIDTH_IN,
    add_legend,
    blank_figure,
    colour,
    entitle,
    label_one_two_five,
    tidy,
)
from apps.loan_approval.narrative import ArmSecond, Look, RolloutTold, Story
from apps.loan_approval.outcomes import ARMS, Outcomes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_BIN_S = 1.0
BINS = 240

Bins = npt.NDArray[np.float64]


NARROW_FRACTION = 0.08
"""A lane narrower than this share of the chart has room for the version alone; its colour
says how it ended."""


def timeline(story: Story) -> "Figure":
    """Traffic per arm, what went wrong, and latency, over one time axis with the rollouts."""
    figure = blank_figure(WIDTH_IN, 8.2)
    lanes, traffic, wrong, latency = figure.subplots(
        4, 1, sharex=True, height_ratios=(0.75, 2.2, 1.1, 2.0)
    )
    edges = _edges(story)
    _draw_lanes(lanes, story)
    _draw_traffic(traffic, story, edges)
    _draw_wrong(wrong, story, edges)
    _draw_latency(latency, story.outcomes, edges)
    for axes in (traffic, wrong, latency):
        _mark_rollouts(axes, story)
    latency.set_xlabel("seconds since the start")
    latency.set_xlim(edges[0], edges[-1])
    return figure


def evidence(rollout: RolloutTold) -> "Figure | None":
    """The sequential test's view of one rollout, a panel per rule; None without verdicts."""
    rules = rollout.rules
    if not rules:
        return None
    figure = blank_figure(WIDTH_IN, 2.5)
    panels = figure.subplots(1, max(len(rules), 3), squeeze=False)[0]
    for axes, rule in zip(panels, rules, strict=False):
        _draw_rule(axes, rollout, rule)
    for axes in panels[len(rules) :]:
        axes.set_visible(False)
    return figure


def _edges(story: Story) -> Bins:
    rows = story.outcomes
    ends = [r.finished_s - rows.started_s for r in story.rollouts]
    last_s = max([1.0, *ends, float(rows.answered_s.max()) if len(rows) else 1.0])
    step_s = max(MIN_BIN_S, float(np.ceil(last_s / BINS)))
    return np.arange(0.0, last_s + step_s, step_s)


def _per_second(edges: Bins, at_s: Any, weights: Any = None) -> Bins:
    counts, _ = np.histogram(at_s, edges, weights=weights)
    return counts / np.diff(edges)


def _draw_lanes(axes: "Axes", story: Story) -> None:
    """A bar per rollout with its versions, and a mark per event."""
    start_s = story.outcomes.started_s
    whole_s = max((r.finished_s for r in story.rollouts), default=start_s) - start_s
    for rollout in story.rollouts:
        left, width = rollout.started_s - start_s, rollout.finished_s - rollout.started_s
        axes.barh(0, width, left=left, height=0.72, color=_tone(rollout), alpha=0.22, lw=0)
        text = f"v{rollout.to_version}"
        if width > NARROW_FRACTION * whole_s:
            outcome = rollout.outcome.replace("_", " ")
            text = f"v{rollout.from_version} → v{rollout.to_version}\n{outcome}"
        axes.text(
            left + width / 2, 0, text, ha="center", va="center", fontsize=8, color=colour("ink")
        )
    for event in story.events:
        at_s = event.at_s - start_s
        axes.plot([at_s], [-0.62], marker="v", color=colour("bad"), markersize=6, clip_on=False)
        axes.annotate(
            event.text,
            (at_s, -0.62),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour("muted"),
        )
    axes.set_ylim(-0.95 if story.events else -0.5, 0.5)
    axes.set_axis_off()
    entitle(axes, "Rollouts")


def _tone(rollout: RolloutTold) -> str:
    if rollout.good:
        return colour("good")
    return colour("warning" if rollout.outcome == "undecided" else "bad")


def _mark_rollouts(axes: "Axes", story: Story) -> None:
    start_s = story.outcomes.started_s
    for rollout in story.rollouts:
        axes.axvline(rollout.started_s - start_s, color=colour("muted"), lw=0.6, ls=(0, (2, 3)))
        axes.axvline(rollout.finished_s - start_s, color=_tone(rollout), lw=1.2)
    for event in story.events:
        axes.axvline(event.at_s - start_s, color=colour("bad"), lw=0.8, ls=(0, (1, 2)))


def _draw_traffic(axes: "Axes", story: Story, edges: Bins) -> None:
    rows = story.outcomes
    good = ~rows.failed
    stacked = [
        _per_second(edges, rows.answered_s[good & (rows.arm == ARMS.index(arm))])
        for arm in ("stable", "canary")
    ]
    axes.stackplot(
        edges[:-1],
        *stacked,
        step="post",
        labels=["stable", "canary"],
        colors=[colour("stable"), colour("canary")],
        lw=0,
    )
    shadow = _arm_seconds(story, edges, "count", ("shadow",))
    if shadow.any():
        axes.step(
            edges[:-1],
            np.where(shadow > 0, shadow, np.nan),
            where="post",
            color=colour("shadow"),
            lw=1.6,
            label="copies to a shadow",
        )
    axes.set_ylim(0, max(1.0, float(np.sum(stacked, axis=0).max()) * 1.08))
    tidy(axes)
    entitle(axes, "Answers per second, by arm")
    add_legend(axes)


def _draw_wrong(axes: "Axes", story: Story, edges: Bins) -> None:
    rows = story.outcomes
    hidden = _arm_seconds(story, edges, "errors", ("canary", "shadow"))
    degraded = _per_second(edges, rows.answered_s[(rows.degraded > 0) & ~rows.failed])
    failed = _per_second(edges, rows.answered_s[rows.failed])
    width = float(edges[1] - edges[0])
    for values, name, text in (
        (hidden, "canary", "challenger failed, stable answered"),
        (degraded, "warning", "degraded answers"),
        (failed, "bad", "failed requests"),
    ):
        total = round(float(values.sum() * width))
        axes.stairs(values, edges, fill=True, color=colour(name), label=f"{text}: {total:,}", lw=0)
    axes.set_ylim(0, max(1.0, float(max(hidden.max(), degraded.max(), failed.max())) * 1.15))
    tidy(axes)
    entitle(axes, "What went wrong, per second")
    add_legend(axes)


def _arm_seconds(story: Story, edges: Bins, field: str, arms: tuple[str, ...]) -> Bins:
    chosen: list[ArmSecond] = [second for second in story.arm_seconds if second.arm in arms]
    at_s = [second.at_s + 0.5 - story.outcomes.started_s for second in chosen]
    return _per_second(edges, at_s, [getattr(second, field) for second in chosen])


def _draw_latency(axes: "Axes", rows: Outcomes, edges: Bins) -> None:
    good = ~rows.failed
    bins = np.digitize(rows.answered_s[good], edges) - 1
    latency_s = rows.latency_s[good]
    order = np.argsort(bins, kind="stable")
    cuts = np.searchsorted(bins[order], np.arange(len(edges)))
    found = np.full((3, len(edges) - 1), np.nan)
    for place in range(len(edges) - 1):
        part = latency_s[order[cuts[place] : cuts[place + 1]]]
        if len(part):
            found[:, place] = np.percentile(part, (50, 95, 99)) * 1000
    for values, name, text in zip(
        found, ("light", "middle", "deep"), ("p50", "p95", "p99"), strict=True
    ):
        axes.plot(edges[:-1], values, color=colour(name), lw=1.6, label=text)
    axes.set_yscale("log")
    label_one_two_five(axes)
    tidy(axes)
    entitle(axes, "Latency seen by clients, ms (log scale)")
    add_legend(axes)


def _draw_rule(axes: "Axes", rollout: RolloutTold, rule: str) -> None:
    """Estimate and confidence sequence per era, against the threshold."""
    bottom, top = _limits(rollout, rule)
    state = "no data"
    for era in dict.fromkeys(look.era for look in rollout.evidence):
        looks = [look for look in rollout.evidence if look.era == era]
        state = _draw_era(axes, rollout, looks, rule, (bottom, top)) or state
    axes.set_ylim(bottom, top)
    if (rollout.finished_s - rollout.started_s) > 0:
        axes.set_xlim(0, rollout.finished_s - rollout.started_s)
    for at_s, stage in rollout.stages:
        _mark_stage(axes, at_s - rollout.started_s, stage)
    tidy(axes)
    axes.set_xlabel("seconds", fontsize=8, color=colour("muted"))
    axes.set_title(rule, loc="left", fontsize=9.5, color=colour("ink"))
    tone = {"worse": "bad", "not_worse": "good"}.get(state, "muted")
    axes.set_title(state.replace("_", " "), loc="right", fontsize=9, color=colour(tone))


def _draw_era(
    axes: "Axes", rollout: RolloutTold, looks: list[Look], rule: str, limits: tuple[float, float]
) -> str | None:
    found = [
        (look.at_s - rollout.started_s, verdict)
        for look in looks
        for verdict in look.verdicts
        if verdict.rule == rule
    ]
    if not found:
        return None
    at_s = [at for at, _ in found]
    known = [verdict.estimate is not None for _, verdict in found]
    lower = [limits[0] if verdict.lower is None else verdict.lower for _, verdict in found]
    upper = [limits[1] if verdict.upper is None else verdict.upper for _, verdict in found]
    axes.fill_between(at_s, lower, upper, where=known, color=colour("stable"), alpha=0.18, lw=0)
    estimates = [np.nan if v.estimate is None else v.estimate for _, v in found]
    marker = "o" if len(found) < 3 else None
    axes.plot(at_s, estimates, color=colour("stable"), lw=1.6, marker=marker, markersize=3)
    thresholds = [verdict.threshold for _, verdict in found]
    axes.plot(at_s, thresholds, color=colour("bad"), lw=1.2, ls=(0, (4, 2)))
    return found[-1][1].state


def _limits(rollout: RolloutTold, rule: str) -> tuple[float, float]:
    """Heights that show threshold and estimate; a wide early band may leave the panel."""
    verdicts = [v for look in rollout.evidence for v in look.verdicts if v.rule == rule]
    last = verdicts[-1]
    known = [v.estimate for v in verdicts if v.estimate is not None]
    tops = [2.2 * v.threshold for v in verdicts] + [1.3 * value for value in known]
    if last.upper is not None and last.upper < 4 * max(tops):
        tops.append(1.1 * last.upper)
    bottom = min([0.0, *(1.3 * value for value in (*known, last.threshold))])
    return bottom, max([*tops, 1e-6])


def _mark_stage(axes: "Axes", at_s: float, stage: str) -> None:
    axes.axvline(at_s, color=colour("muted"), lw=0.6, ls=(0, (2, 3)))
    axes.annotate(
        stage.removeprefix("canary "),
        (at_s, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(2, -9),
        textcoords="offset points",
        fontsize=7,
        color=colour("muted"),
    )
