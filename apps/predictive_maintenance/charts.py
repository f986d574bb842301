"""The report's pictures: every machine's time, what standing still cost, and the stream."""

from typing import TYPE_CHECKING

from apps.drawing import WIDTH_IN, add_legend, blank_figure, colour, entitle, tidy
from apps.predictive_maintenance.outcome import Intervention, MachineTold, Outcome
from apps.predictive_maintenance.plant import TICKS_AN_HOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = {
    "repaired": ("^", "good", "approved and repaired"),
    "refused": ("X", "canary", "refused"),
    "unanswered": ("o", "shadow", "nobody answered"),
    "too late": ("v", "bad", "approved too late"),
    "open": ("s", "muted", "still open"),
}
LANE_IN = 0.36


def timeline(found: Outcome) -> "Figure":
    """A lane for each machine: what it did, what was seen, and what was done about it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    count = len(found.machines)
    figure = blank_figure(WIDTH_IN, 1.2 + LANE_IN * count)
    axes = figure.subplots()
    for place, told in enumerate(found.machines):
        _lane(axes, place, told, found.ticks)
    for one in found.interventions:
        place = next(n for n, told in enumerate(found.machines) if told.plan.machine == one.machine)
        _mark(axes, place, one)
    for kill in found.kills:
        at = kill.tick / TICKS_AN_HOUR
        axes.axvline(at, color=colour("ink"), lw=1.0, ls=(0, (3, 2)))
        axes.annotate(
            f"SIGKILL {kill.what}",
            (at, -0.75),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=7.5,
            color=colour("ink"),
            va="center",
        )
    axes.set_yticks(range(count), [told.plan.machine for told in found.machines])
    axes.set_ylim(count - 0.4, -1.1)
    axes.set_xlim(0, found.ticks / TICKS_AN_HOUR)
    axes.set_xlabel("hours of the machines' time")
    tidy(axes)
    axes.grid(visible=False)
    used = dict.fromkeys(one.became for one in found.interventions)
    handles: list[object] = [
        Patch(color=colour("warning"), alpha=0.3, lw=0, label="wearing out"),
        Patch(color=colour("bad"), lw=0, label="broken"),
        Patch(color=colour("stable"), lw=0, label="planned stop"),
        Line2D([], [], color=colour("ink"), marker="|", ls="", ms=7, label="judged anomalous"),
    ]
    handles += [
        Line2D(
            [], [], color=colour(MARKS[one][1]), marker=MARKS[one][0], ls="", label=MARKS[one][2]
        )
        for one in MARKS
        if one in used
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=4,
        frameon=False,
        fontsize=8.5,
        labelcolor=colour("ink"),
    )
    return figure


def _lane(axes: "Axes", place: int, told: MachineTold, ticks: int) -> None:
    axes.plot([0, ticks / TICKS_AN_HOUR], [place, place], color=colour("grid"), lw=1, zorder=0)
    for wear in told.life.wears:
        begin, end = wear.begin / TICKS_AN_HOUR, wear.end / TICKS_AN_HOUR
        axes.barh(place, end - begin, left=begin, height=0.8, color=colour("warning"), alpha=0.3)
    for span in told.life.spans:
        begin, end = span.begin / TICKS_AN_HOUR, span.end / TICKS_AN_HOUR
        tone = "bad" if span.kind == "broken" else "stable"
        axes.barh(place, end - begin, left=begin, height=0.5, color=colour(tone))
    at = [
        tick / TICKS_AN_HOUR
        for tick, verdict in zip(told.ticks, told.verdicts, strict=False)
        if verdict == "anomalous"
    ]
    axes.vlines(at, place + 0.12, place + 0.4, color=colour("ink"), lw=0.5, alpha=0.7)


def _mark(axes: "Axes", place: int, one: Intervention) -> None:
    marker, tone, _ = MARKS[one.became]
    at = one.tick / TICKS_AN_HOUR
    axes.plot(at, place - 0.12, marker, color=colour(tone), ms=8, mec=colour("surface"), mew=0.8)


def standstill(found: Outcome) -> "Figure":
    """Hours of standstill by policy."""
    figure = blank_figure(WIDTH_IN, 1.9)
    axes = figure.subplots()
    names = list(found.bills)
    broken = [found.bills[name].breakdown_hours for name in names]
    stopped = [found.bills[name].stop_hours for name in names]
    axes.barh(names, broken, color=colour("bad"), height=0.6, label="breakdowns")
    axes.barh(
        names, stopped, left=broken, color=colour("stable"), height=0.6, label="planned stops"
    )
    for place, name in enumerate(names):
        bill = found.bills[name]
        axes.annotate(
            f"{bill.hours:.0f} h, {bill.eur:,.0f} EUR",
            (bill.hours, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour("ink"),
        )
    axes.set_xlim(0, 1.25 * max(1.0, *(one.hours for one in found.bills.values())))
    axes.invert_yaxis()
    axes.set_xlabel("hours of standstill, all machines")
    tidy(axes)
    axes.grid(visible=False)
    add_legend(axes)
    entitle(axes, "what standing still cost")
    return figure


def stream(found: Outcome) -> "Figure":
    """What was on its way, and how fast interventions were opened."""
    figure = blank_figure(WIDTH_IN, 2.6)
    way, speed = figure.subplots(1, 2, width_ratios=(2, 1))
    at = [look.tick * found.tick_s for look in found.looks]
    way.fill_between(
        at, [look.lag for look in found.looks], color=colour("stable"), lw=0, label="in Kafka"
    )
    way.fill_between(
        at,
        [look.lag for look in found.looks],
        [look.lag + look.waiting for look in found.looks],
        color=colour("light"),
        lw=0,
        label="taken, not yet judged",
    )
    for kill in found.kills:
        way.axvline(kill.tick * found.tick_s, color=colour("ink"), lw=1.0, ls=(0, (3, 2)))
    way.set_xlabel("seconds of the replay; dashed: a process is killed")
    tidy(way)
    add_legend(way)
    entitle(way, "readings on their way")
    speed.hist([one.response_s for one in found.interventions], bins=12, color=colour("middle"))
    speed.set_xlabel("seconds from the reading to the intervention")
    tidy(speed)
    entitle(speed, "response")
    return figure
