"""`rt.monitor` and its report: what an endpoint saw lately, beside what is normal for it."""

import io
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aios.errors import UsageError
from aios.presentation import Shown
from aios.runtime.cost import Costs
from aios.runtime.objects import Live
from aios.runtime.tables import Look
from aios.runtime.transport import Transport
from aios.runtime.watching import WatchStatus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FIELDS = 12
"""Fields drawn in a report: those that are furthest off."""
MOST_REFUSALS = 8
THEN, NOW = "#b9b9b9", "#2e6f9e"


class MonitorStatus(Shown):
    """What an endpoint's stable version saw lately, beside what is normal for it.

    Attributes:
        version: the version.
        normal: what it is compared with: `training data`, `its first answers`, or None as long as
            too few came.
        fields: inputs and outputs by name, furthest off first: `role`, `values`, `scores`, `bars`.
        windows: each window with its rows and PSI by field, oldest first.
        quality: measures on feedback over time, oldest first.
        feedback: how much feedback there is, and how much of it was joined.
        refused: requests that broke the contract since the kernel began, by field and kind of
            fault (`missing`, `unknown`, `wrong_type`, `out_of_range`, `unknown_category`, `null`;
            `malformed` under "" for bodies that could not be read).
        domain_auc: how well rows were told from what is normal, over time, where a watch asks for
            it: `end_s` and `auc`, oldest first.
        groups: how groups of people fare, by what tells them apart, the largest first: `group`,
            `rows`, `selection_rate`, `labels`, `accuracy` and their 95 % intervals.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self.endpoint: str = found["endpoint"]
        self.version: str = found["version"]
        self.normal: str | None = found["normal"]
        self.fields: dict[str, Any] = found["fields"]
        self.windows: list[dict[str, Any]] = found["windows"]
        self.quality: list[dict[str, Any]] = found["quality"]
        self.feedback: dict[str, Any] = found["feedback"]
        self.refused: dict[str, dict[str, int]] = found["refused"]
        self.domain_auc: list[dict[str, float]] = found["domain_auc"]
        self.groups: dict[str, list[dict[str, Any]]] = found["groups"]
        self.watches = [WatchStatus(row) for row in found["watches"]]

    @property
    def title(self) -> str:
        """One line: version, windows, what is normal."""
        rows = sum(window["rows"] for window in self.windows)
        beside = f"beside {self.normal}" if self.normal else "nothing to compare with yet"
        return (
            f"{self.endpoint} serves {self.version}: {rows:,} rows in {len(self.windows)} windows, "
            f"{beside}; {self.feedback['joined']:,} answers with feedback"
        )

    @property
    def refusals(self) -> str:
        """`income missing 120, age out_of_range 3`, most frequent first; "" if there are none."""
        counts = [
            (count, f"{field or 'body'} {kind}")
            for field, kinds in self.refused.items()
            for kind, count in kinds.items()
        ]
        counts.sort(key=lambda one: (-one[0], one[1]))
        told = ", ".join(f"{what} {count:,}" for count, what in counts[:MOST_REFUSALS])
        more = len(counts) - MOST_REFUSALS
        return f"{told} and {more} more" if more > 0 else told

    def _shown(self) -> Look:
        measures = ("psi", "ks", "wasserstein", "nulls", "outside")
        rows = [
            [
                name,
                field["role"],
                field["values"],
                *(_short(field["scores"].get(m)) for m in measures),
            ]
            for name, field in self.fields.items()
        ]
        title = f"{self.title}\nrefused: {self.refusals}" if self.refused else self.title
        return title, ["field", "role", "values", *measures], rows


class Monitor(Live):
    """What can be seen of an endpoint. Holds only its name; every call asks the runtime."""

    def __init__(self, transport: Transport, endpoint: str) -> None:
        self._transport = transport
        self.endpoint = endpoint

    def status(self) -> MonitorStatus:
        """Scores of all fields now."""
        return MonitorStatus(self._transport.get(f"/api/v1/endpoints/{self.endpoint}/monitor"))

    def report(self) -> "Report":
        """All of it as a page: distributions now and then, drift and quality over time, cost."""
        return Report(self.status(), Costs(self._transport.get("/api/v1/costs", by="arm")))

    def _named(self) -> str:
        return f"monitor of {self.endpoint} at {self._transport.address}"

    def _now(self) -> Shown:
        return self.status()


class Report:
    """A monitor's page, for a notebook (it shows itself) or a file (`save`)."""

    def __init__(self, status: MonitorStatus, costs: Costs) -> None:
        self.status = status
        self.costs = costs

    def distributions(self) -> "Figure":
        """The fields that are furthest off, now (blue) and then (grey), as a matplotlib figure."""
        shown = [
            (name, field)
            for name, field in self.status.fields.items()
            if field["bars"]["now"] is not None
        ][:MOST_FIELDS]
        figure = _figure(max(1, -(-len(shown) // 3)) * 1.9)
        for place, (name, field) in enumerate(shown):
            axes = figure.add_subplot(-(-len(shown) // 3), 3, place + 1)
            _draw_bars(axes, field["bars"])
            psi = field["scores"].get("psi")
            axes.set_title(f"{name}{f'  psi {psi:.2f}' if psi is not None else ''}", fontsize=9)
        return figure

    def over_time(self) -> "Figure":
        """PSI of the fields that moved most, and quality on feedback, over time."""
        windows = self.status.windows
        names = list(self.status.fields)[:5]
        figure = _figure(2.6)
        axes = figure.add_subplot(1, 2, 1)
        first_s = windows[0]["start_s"] if windows else 0.0
        for name in names:
            points = [
                ((window["end_s"] - first_s) / 60, window["psi"][name])
                for window in windows
                if name in window["psi"]
            ]
            axes.plot(*zip(*points, strict=True), label=name, lw=1.2) if points else None
        axes.axhline(0.2, color="#d1443c", lw=0.8, ls="--")
        axes.set(xlabel="minutes", ylabel="PSI by window", ylim=(0, None))
        if axes.lines[:-1]:
            axes.legend(fontsize=7)
        axes = figure.add_subplot(1, 2, 2)
        quality = self.status.quality
        for measure in ("accuracy", "brier", "mae", "rmse"):
            if quality and measure in quality[0]:
                places = [point["answers"] for point in quality]
                axes.plot(places, [point[measure] for point in quality], label=measure, lw=1.2)
        axes.set(xlabel="answers with feedback", ylabel="quality")
        if quality:
            axes.legend(fontsize=7)
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
        return (
            f"<h3>{escape(self.status.endpoint)}</h3>{_svg(self.over_time())}"
            f"<h4>now (blue) and {normal} (grey)</h4>{_svg(self.distributions())}"
            f"{self.status._repr_html_()}{self.costs.of(self.status.endpoint)}{watches}"
        )

    def __repr__(self) -> str:
        return f"report: {self.status.title}; save(path) writes a page"


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(9.5, height), layout="constrained")


def _draw_bars(axes: Any, bars: dict[str, Any]) -> None:
    if "names" in bars:
        places = list(range(len(bars["names"])))
        width, labels = 0.4, bars["names"]
        axes.set_xticks(places, [label[:10] for label in labels], rotation=60, fontsize=6)
    else:
        edges = bars["edges"]
        places = [(low + high) / 2 for low, high in pairwise(edges)]
        width = (edges[1] - edges[0]) / 2
    for side, colour, shift in (("then", THEN, -0.5), ("now", NOW, 0.5)):
        if bars[side] is not None:
            axes.bar([place + shift * width for place in places], bars[side], width, color=colour)
    axes.tick_params(labelsize=6)


def _svg(figure: "Figure") -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg")
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
