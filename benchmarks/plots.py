"""The report's pictures: latency by load, the tail of latencies, cost by load, goals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from hdrh.histogram import HdrHistogram

from aios.capacity.fitting import fitted, rate_of_one_replica
from aios.capacity.measurement import Measurement, Point
from aios.capacity.planning import Demand, Node, Plan, plan
from aios.errors import UsageError
from apps.drawing import (
    WIDTH_IN,
    add_legend,
    blank_figure,
    colour,
    entitle,
    label_one_two_five,
    tidy,
)
from benchmarks.figures import Goal
from benchmarks.reading import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTILES = (("p50", "p50_s", "light"), ("p95", "p95_s", "middle"), ("p99", "p99_s", "deep"))
TICKS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
"""Of the tail's axis, where each nine takes the same room."""
TONES = ("stable", "canary", "shadow", "good", "warning", "bad", "deep", "light", "muted")
MOST_CURVES = len(TONES)
LOW, HIGH = 0.2, 100.0
"""Costs are drawn from this to that many times what one replica bears."""
COSTS = 40
FURTHEST = 20.0
"""A goal is drawn at most so many times beyond its bound, or short of it."""


# -- latency by load --------------------------------------------------------------------


def load(measurements: Sequence[Measurement]) -> "Figure":
    """p50, p95 and p99 against the offered load, with the budget and the knee: the largest rate
    whose p99 was within it, the median of all rounds."""
    figure = blank_figure(WIDTH_IN, 3.6)
    axes = figure.subplots()
    for number, measured in enumerate(measurements):
        points = sorted((measured.light, *measured.points), key=lambda one: one.rate_per_s)
        for name, field, tone in QUANTILES:
            _line(axes, points, field, colour(tone), name if number == 0 else None)
    _held_back(axes, [one for each in measurements for one in (each.light, *each.points)])
    axes.set_yscale("log")
    budget_ms = 1000 * measurements[0].p99_s
    axes.axhline(budget_ms, color=colour("bad"), lw=1.0, ls="--")
    axes.annotate(
        f"budget of the p99, {budget_ms:g} ms",
        (0.005, budget_ms),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
        color=colour("bad"),
    )
    knee = knee_of(measurements)
    if knee is not None:
        axes.axvline(knee, color=colour("good"), lw=1.0, ls=(0, (3, 2)))
        axes.annotate(
            f"knee, {knee:,.0f}/s",
            (knee, 0.02),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8,
            color=colour("good"),
        )
    label_one_two_five(axes)
    axes.set_xlabel("requests/s offered, arriving at random; each latency from when it was due")
    axes.set_ylabel("ms", color=colour("muted"), fontsize=8.5)
    tidy(axes)
    axes.margins(x=0.02)
    add_legend(axes)
    entitle(axes, "latency against offered load")
    return figure


def knee_of(measurements: Sequence[Measurement]) -> float | None:
    """The median of the rounds' knees; None if no rate of any was within the budget."""
    knees = [one.knee_per_s for one in measurements if one.knee_per_s is not None]
    return float(np.median(knees)) if knees else None


def _line(axes: "Axes", points: Sequence[Point], field: str, tone: str, name: str | None) -> None:
    """What failed too often has no quantile, and leaves a gap."""
    rates = [point.rate_per_s for point in points]
    taken = [getattr(point, field) for point in points]
    values = [math.nan if value is None else 1000 * value for value in taken]
    axes.plot(rates, values, color=tone, lw=1.4, marker="o", ms=4, label=name)


def _held_back(axes: "Axes", points: Sequence[Point]) -> None:
    held = [one for one in points if one.held_back and one.p99_s is not None]
    if held:
        axes.plot(
            [one.rate_per_s for one in held],
            [1000 * one.p99_s for one in held if one.p99_s is not None],
            "o",
            color=colour("bad"),
            fillstyle="none",
            ms=9,
            label="the generator could not keep up",
        )


# -- the tail ---------------------------------------------------------------------------


def curves_of(measurements: Sequence[Measurement]) -> list[Curve]:
    """Of the round with the middle knee: the light load, the knee and the first rate beyond."""
    measured = typical(measurements)
    kept, broken = measured.bounds(measured.p99_s)
    told = {measured.light.rate_per_s: "light load", kept: "knee", broken: "beyond the knee"}
    points = {one.rate_per_s: one for one in (measured.light, *measured.points)}
    return [
        Curve(f"{name}, {rate:,.0f}/s", rate, points[rate].took, points[rate].failed)
        for rate, name in told.items()
        if rate is not None and points[rate].good
    ]


def typical(measurements: Sequence[Measurement]) -> Measurement:
    """That with the middle knee."""
    ordered = sorted(measurements, key=lambda one: one.knee_per_s or 0.0)
    return ordered[len(ordered) // 2]


def tail(curve: Curve) -> tuple[list[float], list[float]]:
    """Shares of all requests, and the milliseconds that so many did not exceed; failures take for
    ever. Less than the last request has no share of its own."""
    histogram = HdrHistogram.decode(curve.hdr)
    total = histogram.get_total_count() + curve.failed
    shares, values_ms = [0.0], [histogram.get_min_value() / 1000]
    seen = 0
    for one in histogram.get_recorded_iterator():
        seen += one.count_added_in_this_iter_step
        shares.append(min(seen, total - 1) / total)
        values_ms.append(one.value_iterated_to / 1000)
    return shares, values_ms


def distribution(curves: Sequence[Curve], title: str) -> "Figure":
    """Latency by share of requests, each nine as wide as the last.

    Args:
        curves: at most `MOST_CURVES`.
    """
    figure = blank_figure(WIDTH_IN, 3.4)
    axes = figure.subplots()
    furthest = 0.9
    for curve, tone in zip(curves, TONES, strict=False):
        shares, values_ms = tail(curve)
        furthest = max(furthest, shares[-1])
        axes.plot(_nines(shares), values_ms, color=colour(tone), lw=1.5, label=curve.name)
    ticks = [tick for tick in TICKS if tick <= furthest]
    axes.set_xticks(_nines(ticks), [f"{100 * tick:g} %" for tick in ticks])
    axes.set_yscale("log")
    label_one_two_five(axes)
    axes.set_xlabel("share of requests that took at most so long")
    axes.set_ylabel("ms", color=colour("muted"), fontsize=8.5)
    tidy(axes)
    axes.grid(axis="x", color=colour("grid"), lw=0.8)
    axes.legend(loc="lower right", frameon=False, fontsize=8.5, labelcolor=colour("ink"))
    entitle(axes, title)
    return figure


def _nines(shares: Sequence[float]) -> list[float]:
    return [-math.log10(1 - share) for share in shares]


# -- cost -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Price:
    """What a node costs by the hour; without one, nodes are told."""

    hour: float | None = None
    currency: str = ""


def plans(measured: Measurement, price: Price) -> list[Plan]:
    """From less than one replica's load to a hundred times that, with one spare node.

    Raises:
        UsageError: no number of machines keeps the budget.
    """
    node = Node(hour_price=price.hour, currency=price.currency)
    fit = fitted(measured)
    one_per_s = rate_of_one_replica(measured, fit, measured.p99_s) or 1.0
    rates = [float(rate) for rate in np.geomspace(LOW, HIGH, COSTS) * one_per_s]
    return [plan(measured, Demand(rate, measured.p99_s), node, fit) for rate in rates]


def cost(found: Sequence[Plan], price: Price) -> "Figure":
    """Cost by the month against the rate, or nodes where nobody said what one costs."""
    from matplotlib.ticker import NullLocator

    figure = blank_figure(WIDTH_IN, 3.2)
    axes = figure.subplots()
    rates = [one.demand.rate_per_s for one in found]
    values = [one.nodes if one.month_cost is None else one.month_cost for one in found]
    axes.step(rates, values, where="post", color=colour("stable"), lw=1.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    label_one_two_five(axes)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axes.xaxis.set_minor_locator(NullLocator())
    p99_ms = 1000 * found[0].demand.p99_s
    axes.set_xlabel(f"requests/s with a p99 of {p99_ms:g} ms; one node is spare")
    told = "nodes" if price.hour is None else f"{price.currency} a month".strip()
    axes.set_ylabel(told, color=colour("muted"), fontsize=8.5)
    tidy(axes)
    if price.hour is None:
        entitle(axes, "nodes against rate")
    else:
        entitle(axes, f"cost against rate, a node at {price.hour:g} {price.currency} an hour")
    return figure


# -- goals ------------------------------------------------------------------------------


def distance(goal: Goal, value: float) -> float:
    """How many times better than its bound a value is; below 1 it misses.

    >>> from benchmarks.figures import Spread
    >>> goal = Goal("cost", None, Spread(2.0, 1.0, 4.0), at_most=2.0)
    >>> distance(goal, 1.0), distance(goal, 4.0)
    (2.0, 0.5)
    """
    if goal.at_least is not None:
        return value / goal.at_least if goal.at_least else math.inf
    assert goal.at_most is not None
    if value <= 0:
        return math.inf
    return goal.at_most / value


def goals(found: Sequence[Goal]) -> "Figure":
    """Each goal's distance from its bound, with its spread: right of the line it is met."""
    figure = blank_figure(WIDTH_IN, 0.9 + 0.27 * len(found))
    axes = figure.subplots()
    for place, goal in enumerate(found):
        tone = colour("good" if goal.met else "bad")
        ends = [_drawn(goal, value) for value in (goal.ratio.least, goal.ratio.most)]
        middle = _drawn(goal, goal.ratio.middle)
        axes.plot(ends, [place, place], color=tone, lw=2.0, alpha=0.5)
        axes.plot([middle], [place], "o", color=tone, ms=7)
    axes.axvline(1.0, color=colour("ink"), lw=1.0)
    axes.set_xscale("log")
    axes.set_xlim(1 / FURTHEST / 1.2, 1.2 * FURTHEST)
    axes.set_xticks(
        [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20],
        ["1/20", "1/10", "1/5", "1/2", "goal", "2x", "5x", "10x", "20x"],
    )
    axes.minorticks_off()
    labels = [
        one.text if one.connections is None else f"{one.text} ({one.connections} conn.)"
        for one in found
    ]
    axes.set_yticks(range(len(found)), labels)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("missed by, and met with so much to spare; the line is all rounds")
    tidy(axes)
    axes.tick_params(axis="y", labelsize=8, labelcolor=colour("ink"))
    return figure


def _drawn(goal: Goal, value: float) -> float:
    return min(max(distance(goal, value), 1 / FURTHEST), FURTHEST)


def costs(measured: Measurement, price: Price) -> "Figure | str":
    """The cost's picture, or why there is none."""
    try:
        return cost(plans(measured, price), price)
    except UsageError as error:
        return error.message
