"""The report's charts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.drawing import (
    WIDTH_IN,
    add_legend,
    blank_figure,
    colour,
    entitle,
    label_one_two_five,
    tidy,
)
from apps.support_triage.figures import Happened, Kpis, Outcome, trade_off
from apps.support_triage.triage import AT_LEAST, PERSON

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 60
FEWEST = 15
"""Tickets of a point: a share of fewer says little."""


def timeline(found: Sequence[Outcome], happened: Sequence[Happened]) -> "Figure":
    """Who answered, how long it took, and what happened meanwhile, over one time axis."""
    figure = blank_figure(WIDTH_IN, 7.4)
    lane, who, waits = figure.subplots(3, 1, sharex=True, height_ratios=(0.8, 2.0, 2.2))
    known = [one for one in found if one.answered_s is not None]
    last_s = max([1.0, *(one.answered_s or 0.0 for one in known)])
    _draw_happened(lane, happened, last_s)
    _draw_who(who, known, last_s)
    _draw_waits(waits, known)
    for axes in (who, waits):
        for one in happened:
            axes.axvline(one.at_s, color=colour("bad"), lw=0.8, ls=(0, (1, 2)))
    waits.set_xlabel("seconds since the desk opened")
    waits.set_xlim(0, last_s)
    return figure


def thresholds(found: Sequence[Outcome], versions: Sequence[int]) -> "Figure":
    """What each version of the classifier gives at each threshold of confidence."""
    figure = blank_figure(WIDTH_IN, 3.2)
    axes = figure.subplots()
    for version, name in zip(versions, ("stable", "canary"), strict=False):
        asked = sum(one.version == version for one in found)
        points = [one for one in trade_off(found, version) if one.answered * asked >= FEWEST]
        if not points:
            continue
        across = [one.answered for one in points]
        up = [one.right for one in points]
        axes.plot(across, up, color=colour(name), lw=1.6, label=f"version {version}")
        [chosen] = [one for one in points if abs(one.at_least - AT_LEAST) < 1e-9] or [points[-1]]
        axes.plot([chosen.answered], [chosen.right], "o", color=colour(name), markersize=6)
    axes.set_xlabel("share of its tickets that the classifier answers")
    axes.set_xlim(0, 1)
    tidy(axes)
    entitle(axes, f"How often it is right; the dot is the threshold, {AT_LEAST:g}")
    if axes.lines:
        add_legend(axes)
    return figure


def products(groups: dict[str, Kpis]) -> "Figure":
    """For each product who answered its tickets."""
    figure = blank_figure(WIDTH_IN, 0.32 * len(groups) + 0.9)
    axes = figure.subplots()
    names = list(groups)[::-1]
    parts = (
        ("answered right without a person", "good", [groups[name].right for name in names]),
        (
            "answered wrong without one",
            "bad",
            [groups[name].deflected - groups[name].right for name in names],
        ),
        ("answered by a person", "canary", [groups[name].escalated for name in names]),
        ("by nobody in time", "warning", [groups[name].unplaced for name in names]),
    )
    left = [0] * len(names)
    for label, tone, counts in parts:
        if any(counts):
            axes.barh(names, counts, left=left, color=colour(tone), height=0.7, label=label, lw=0)
        left = [low + more for low, more in zip(left, counts, strict=True)]
    tidy(axes)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right", frameon=False, fontsize=8.5, labelcolor=colour("ink"))
    entitle(axes, "Tickets by product")
    return figure


def _draw_happened(axes: "Axes", happened: Sequence[Happened], last_s: float) -> None:
    for place, one in enumerate(happened):
        height = -place
        axes.plot([one.at_s], [height], marker="v", color=colour("bad"), markersize=6)
        right = one.at_s > 0.6 * last_s
        axes.annotate(
            one.text if len(one.text) < 60 else f"{one.text[:57]}...",
            (one.at_s, height),
            xytext=(-6 if right else 6, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=8,
            color=colour("muted"),
        )
    axes.set_ylim(0.4 - max(3, len(happened)), 0.6)
    axes.set_axis_off()


def _draw_who(axes: "Axes", known: Sequence[Outcome], last_s: float) -> None:
    """Answers a second: by rule, by each version, by a person."""
    groups: dict[str, list[float]] = {}
    for one in sorted(known, key=lambda one: (one.by or "", one.version or 0)):
        name = f"version {one.version}" if one.by == "model" else f"{one.by}"
        groups.setdefault(name, []).append(one.answered_s or 0.0)
    tones = {"rule": "shadow", PERSON: "warning", "version 1": "stable", "version 2": "canary"}
    order = [name for name in tones if name in groups]
    order += [name for name in groups if name not in tones]
    width_s = max(1.0, last_s / BINS)
    if order:
        axes.hist(
            [groups[name] for name in order],
            bins=[width_s * place for place in range(round(last_s / width_s) + 2)],
            weights=[[1 / width_s] * len(groups[name]) for name in order],
            stacked=True,
            color=[colour(tones.get(name, "muted")) for name in order],
            label=order,
            lw=0,
        )
    tidy(axes)
    axes.margins(y=0.2)
    entitle(axes, "Answers per second, by whom")
    _legend(axes, len(order))


def _draw_waits(axes: "Axes", known: Sequence[Outcome]) -> None:
    for name, tone, picked in (
        ("without a person", "stable", [one for one in known if one.deflected]),
        ("by a person", "warning", [one for one in known if not one.deflected]),
    ):
        across = [one.answered_s or 0.0 for one in picked]
        up = [max(one.took_s or 0.0, 0.01) for one in picked]
        axes.plot(across, up, ".", color=colour(tone), markersize=3.5, alpha=0.6, label=name)
    axes.set_yscale("log")
    label_one_two_five(axes)
    tidy(axes)
    entitle(axes, "Response time of each ticket, seconds (log scale)")
    _legend(axes, 2)


def _legend(axes: "Axes", columns: int) -> None:
    add_legend(axes)
    legend = axes.get_legend()
    if legend is not None:
        legend.set_ncols(max(1, columns))
