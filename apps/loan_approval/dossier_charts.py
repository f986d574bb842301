"""The governed act's charts, in the colours of `drawing.PALETTE`."""

import math
from typing import TYPE_CHECKING

from apps.drawing import (
    WIDTH_IN,
    blank_figure,
    colour,
    entitle,
    tidy,
)
from apps.loan_approval.dossier import Candidate, Explained, Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Z_95 = 1.959964
"""The normal distribution's 97.5 % point."""
SHOWN_SHARES = 12
ROOM_FRACTION = 0.3
"""Free space beside the longest bar, for its label."""


def trials(candidates: tuple[Candidate, ...]) -> "Figure":
    """What each search tried: a dot per trial, and the best so far."""
    figure = blank_figure(WIDTH_IN, 2.6)
    panels = figure.subplots(1, len(candidates), squeeze=False)[0]
    for axes, candidate in zip(panels, candidates, strict=True):
        _draw_trials(axes, candidate)
    panels[-1].legend(loc="lower right", frameon=False, fontsize=8, labelcolor=colour("ink"))
    return figure


def fairness(candidates: tuple[Candidate, ...]) -> "Figure":
    """The fraction of each group that a version approves, with 95 % confidence intervals."""
    figure = blank_figure(WIDTH_IN, 3.3)
    panels = figure.subplots(1, len(candidates), squeeze=False, sharey=True)[0]
    for axes, candidate in zip(panels, candidates, strict=True):
        _draw_groups(axes, candidate)
    return figure


def explanation(explained: Explained) -> "Figure":
    """What each feature added to one answer, the greatest first, with standard errors."""
    counted = [share for share in explained.shares if share.added]
    shares = sorted(counted, key=lambda share: -abs(share.added))[:SHOWN_SHARES]
    figure = blank_figure(WIDTH_IN, 1.1 + 0.27 * len(shares))
    axes = figure.subplots()
    places = range(len(shares))
    axes.barh(
        places,
        [share.added for share in shares],
        xerr=[share.error for share in shares],
        height=0.66,
        color=[colour("good" if share.added > 0 else "bad") for share in shares],
        ecolor=colour("muted"),
        error_kw={"lw": 1},
    )
    reach = max((abs(share.added) + share.error for share in shares), default=0.0) or 1.0
    for place, share in zip(places, shares, strict=True):
        up = share.added >= 0
        axes.annotate(
            f"{share.added:+.3f}",
            (share.added + math.copysign(share.error, share.added), place),
            xytext=(5 if up else -5, 0),
            textcoords="offset points",
            ha="left" if up else "right",
            va="center",
            fontsize=8,
            color=colour("ink"),
        )
    axes.set_yticks(places, [f"{share.feature} = {share.value}" for share in shares])
    axes.invert_yaxis()
    _tidy_bars(axes)
    axes.set_xlim(-(1 + ROOM_FRACTION) * reach, (1 + ROOM_FRACTION) * reach)
    axes.axvline(0, color=colour("muted"), lw=0.8)
    entitle(axes, f"From the usual {explained.base:.3f} to this applicant's {explained.score:.3f}")
    return figure


def wilson(rate: float, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share seen in so many rows.

    E. B. Wilson (1927), "Probable inference, the law of succession, and statistical
    inference", Journal of the American Statistical Association 22, 209-212.

    >>> [round(bound, 3) for bound in wilson(0.9, 100)]
    [0.826, 0.945]
    """
    shrink = 1 + Z_95**2 / rows
    middle = (rate + Z_95**2 / (2 * rows)) / shrink
    half = Z_95 / shrink * math.sqrt(rate * (1 - rate) / rows + Z_95**2 / (4 * rows**2))
    return middle - half, middle + half


def _draw_trials(axes: "Axes", candidate: Candidate) -> None:
    known = [(trial.number, trial.value) for trial in candidate.trials if trial.value is not None]
    numbers, values = [number for number, _ in known], [value for _, value in known]
    best = [max(values[: place + 1]) for place in range(len(values))]
    axes.step(numbers, best, where="post", color=colour("light"), lw=1.6, label="best so far")
    axes.plot(numbers, values, "o", color=colour("middle"), markersize=5, label="trial")
    tidy(axes)
    axes.margins(x=0.06, y=0.25)
    axes.set_xticks(numbers)
    axes.set_xlabel("trial")
    entitle(axes, f"{candidate.ref}: {candidate.metric}")


def _draw_groups(axes: "Axes", candidate: Candidate) -> None:
    groups = candidate.groups
    tone = colour("bad" if "fairness" in candidate.not_passed else "stable")
    intervals = [wilson(group.rate, group.rows) for group in groups]
    axes.barh(
        range(len(groups)),
        [group.rate for group in groups],
        xerr=[
            [group.rate - low for group, (low, _) in zip(groups, intervals, strict=True)],
            [high - group.rate for group, (_, high) in zip(groups, intervals, strict=True)],
        ],
        height=0.62,
        color=tone,
        alpha=0.75,
        ecolor=colour("ink"),
        error_kw={"lw": 1.1, "capsize": 2.5},
    )
    axes.set_yticks(range(len(groups)), [_named(group) for group in groups])
    axes.invert_yaxis()
    _tidy_bars(axes)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25 %", "50 %", "75 %", "100 %"])
    entitle(axes, f"{candidate.ref} approves")
    gate = candidate.gate("fairness")
    if gate is not None and gate.value is not None and gate.threshold is not None:
        sign = "≤" if gate.value <= gate.threshold else ">"
        axes.set_xlabel(
            f"largest gap may be {gate.value:.3f} {sign} {gate.threshold:g}: "
            f"{gate.outcome.replace('_', ' ')}"
        )


def _named(group: Group) -> str:
    whole = group.name.removesuffix(".0")
    word = {"0": "not ", "1": ""}.get(whole)
    name = f"{group.attribute} {group.name}" if word is None else f"{word}{group.attribute}"
    return f"{name} ({group.rows})"


def _tidy_bars(axes: "Axes") -> None:
    tidy(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=colour("grid"), lw=0.8)
