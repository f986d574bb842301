"""The monitor's page: distributions, drift, quality, groups and cost, drawn."""

import io
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aios.errors import UsageError
from aios.runtime.cost import Costs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from aios.runtime.monitor import MonitorStatus

MOST_FIELDS = 12
"""Fields drawn: those that are furthest off."""
MOST_LINES = 5
MOST_GROUPS = 10
THEN, NOW, ALARM = "#b9b9b9", "#2e6f9e", "#d1443c"
USUAL_PSI = 0.2
"""Where a PSI is usually called a shift; drawn where no watch has a limit of its own."""


class Report:
    """A monitor's page, for a notebook (it shows itself) or a file (`save`)."""

    def __init__(self, status: "MonitorStatus", costs: Costs) -> None:
        self.status = status
        self.costs = costs

    def distributions(self) -> "Figure":
        """The fields that are furthest off, now (blue) and then (grey), as a matplotlib figure."""
        shown = [
            (name, field)
            for name, field in self.status.fields.items()
            if field["bars"]["now"] is not None
        ][:MOST_FIELDS]
        lines = max(1, -(-len(shown) // 3))
        figure = _figure(lines * 1.9)
        for place, (name, field) in enumerate(shown):
            axes = figure.add_subplot(lines, 3, place + 1)
            _draw_bars(axes, field["bars"])
            psi = field["scores"].get("psi")
            told = f"  psi {psi:.2f}" if psi is not None else ""
            axes.set_title(f"{_plain(name)}{told}", fontsize=9)
        return figure

    def over_time(self) -> "Figure":
        """PSI of the fields that moved most, quality on feedback, and how well recorded rows can
        be told from those of the training, over time."""
        figure = _figure(2.6)
        drawn = [self._draw_psi, self._draw_quality]
        if self.status.domain_auc:
            drawn.append(self._draw_domain)
        for place, draw in enumerate(drawn):
            draw(figure.add_subplot(1, len(drawn), place + 1))
        return figure

    def groups(self) -> "Figure | None":
        """Selection rate and accuracy of each group with their 95 % intervals; None where nothing
        is known of groups."""
        found = {name: rows for name, rows in self.status.groups.items() if rows}
        if not found:
            return None
        most = max(len(rows[:MOST_GROUPS]) for rows in found.values())
        figure = _figure(1.1 + 0.32 * most)
        for place, (name, rows) in enumerate(found.items()):
            _draw_groups(figure.add_subplot(1, len(found), place + 1), name, rows[:MOST_GROUPS])
        return figure

    def save(self, path: str | Path) -> None:
        """Write it as one page of HTML that needs nothing else.

        Raises:
            UsageError: the file cannot be written.
        """
        page = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
            f"{escape(self.status.endpoint)}</title></head>"
            '<body style="font-family:sans-serif;margin:2em;max-width:1000px">'
            f"{self._repr_html_()}</body></html>\n"
        )
        try:
            Path(path).write_text(page, "utf-8")
        except OSError as error:
            raise UsageError(f"the report cannot be written to {path}: {error}") from None

    def _repr_html_(self) -> str:
        watches = "".join(watch._repr_html_() for watch in self.status.watches)
        normal = escape(self.status.normal or "nothing yet")
        groups = self.groups()
        people = "" if groups is None else f"<h4>groups</h4>{_svg(groups)}"
        return (
            f"<h3>{escape(self.status.endpoint)}</h3>{_svg(self.over_time())}"
            f"<h4>now (blue) and {normal} (grey)</h4>{_svg(self.distributions())}{people}"
            f"{self.status._repr_html_()}{self.costs.of(self.status.endpoint)}{watches}"
        )

    def __repr__(self) -> str:
        return f"report: {self.status.title}; save(path) writes a page"

    # -- what is drawn over time ------------------------------------------------------------

    def _draw_psi(self, axes: Any) -> None:
        windows = self.status.windows
        for name in list(self.status.fields)[:MOST_LINES]:
            points = [
                (self._minutes(window["end_s"]), window["psi"][name])
                for window in windows
                if name in window["psi"]
            ]
            if points:
                # A label that begins with an underscore would be left out of the legend.
                axes.plot(*zip(*points, strict=True), label=_plain(f" {name}"), lw=1.2)
        for limit in self._limits("psi") or (USUAL_PSI,):
            axes.axhline(limit, color=ALARM, lw=0.8, ls="--")
        axes.set(xlabel="minutes", ylabel="PSI by window", ylim=(0, None))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)

    def _draw_quality(self, axes: Any) -> None:
        quality = self.status.quality
        for measure in ("accuracy", "brier", "mae", "rmse"):
            if quality and measure in quality[0]:
                places = [point["answers"] for point in quality]
                axes.plot(places, [point[measure] for point in quality], label=measure, lw=1.2)
        axes.set(xlabel="answers with feedback", ylabel="quality")
        if axes.lines:
            axes.legend(fontsize=7)

    def _draw_domain(self, axes: Any) -> None:
        points = [
            (self._minutes(one["end_s"]), one["auc"])
            for one in self.status.domain_auc
            if one["auc"] is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), lw=1.2, color=NOW, marker=".")
        for limit in self._limits("domain_auc"):
            axes.axhline(limit, color=ALARM, lw=0.8, ls="--")
        axes.axhline(0.5, color=THEN, lw=0.8)
        axes.set(xlabel="minutes", ylabel="AUC, now against then", ylim=(0.3, 1.0))

    def _minutes(self, at_s: float) -> float:
        windows = self.status.windows
        return (at_s - windows[0]["start_s"]) / 60 if windows else 0.0

    def _limits(self, measure: str) -> list[float]:
        """Those of the watches' conditions."""
        return sorted(
            {
                one["limit"]
                for watch in self.status.watches
                for one in watch.fields["spec"]["conditions"]
                if one["measure"] == measure
            }
        )


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(9.5, height), layout="constrained")


def _draw_bars(axes: Any, bars: dict[str, Any]) -> None:
    if "names" in bars:
        places = list(range(len(bars["names"])))
        labels = [_plain(label[:10]) for label in bars["names"]]
        width = 0.4
        axes.set_xticks(places, labels, rotation=60, fontsize=6)
    else:
        edges = bars["edges"]
        places = [(low + high) / 2 for low, high in pairwise(edges)]
        width = (edges[1] - edges[0]) / 2
    for side, colour, shift in (("then", THEN, -0.5), ("now", NOW, 0.5)):
        if bars[side] is not None:
            axes.bar([place + shift * width for place in places], bars[side], width, color=colour)
    axes.tick_params(labelsize=6)


def _draw_groups(axes: Any, attribute: str, rows: Sequence[dict[str, Any]]) -> None:
    """A line for each group: a mark for each rate, as wide as its interval."""
    labels = [f"{_plain(str(row['group'])[:20])} ({row['rows']:,})" for row in rows]
    for measure, colour, shift in (("selection_rate", NOW, -0.12), ("accuracy", "#c98a2b", 0.12)):
        for place, row in enumerate(rows):
            value, interval = row[measure], row[f"{measure}_interval"]
            if value is None or interval is None:
                continue
            axes.plot(interval, [place + shift] * 2, color=colour, lw=1.4)
            name = measure.replace("_", " ")
            axes.plot([value], [place + shift], "o", color=colour, ms=4, label=name)
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    axes.set_title(_plain(attribute), fontsize=9)
    axes.tick_params(axis="x", labelsize=7)
    known = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if known:
        axes.legend(known.values(), known.keys(), fontsize=7)


def _plain(text: str) -> str:
    """As it is: matplotlib takes what stands between two dollars for a formula."""
    return text.replace("$", r"\$")


def _svg(figure: "Figure") -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg")
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]
