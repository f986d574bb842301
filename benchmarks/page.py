"""The report as a page that needs nothing but itself, and its pictures as files."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from aios.cli.benching import question_of
from apps import markup
from apps.drawing import as_svg, save_png
from benchmarks import plots
from benchmarks.figures import HEADS, table_rows
from benchmarks.goals import HEADINGS, Standings
from benchmarks.markdown import (
    FIGURE,
    MACHINE,
    OPEN,
    about,
    figure_rows,
    lead,
    machine_row,
    measured_rows,
    on,
    open_rows,
)
from benchmarks.reading import Curve, Reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Drawn = dict[tuple[str, str], Figure | str]

TONES = {"met": "good", "missed": "bad", "not measured": "warning"}
VERDICT = HEADINGS.index("")
TOGETHER = str.maketrans({" ": "\u00a0", "-": "\u2011"})
"""Figures with their spread and unit are not broken over lines."""
LOAD, TAIL, COST, LATENCIES = "load", "tail", "cost", "latencies"
GOALS = ("goals", "all")


def draw(results: Sequence[Reading], standings: Standings, price: plots.Price) -> "Drawn":
    """All pictures by the result's name and their kind, or why there is none."""
    found: Drawn = {}
    told = [one.found for one in standings.all if one.found is not None]
    if told:
        found[GOALS] = plots.goals(told)
    for place, result in enumerate(results):
        name = _named(results, place)
        if result.measurements:
            found[name, LOAD] = plots.load(result.measurements)
            curves = plots.curves_of(result.measurements)
            found[name, TAIL] = plots.distribution(curves, "how many requests took how long")
            found[name, COST] = plots.costs(plots.typical(result.measurements), price)
        for number, (title, curves) in enumerate(_drawings(result), 1):
            found[name, f"{LATENCIES}-{number}"] = plots.distribution(curves, title)
    return found


def _drawings(result: Reading) -> Iterator[tuple[str, Sequence[Curve]]]:
    """What closed loops saw, and open streams, as many curves in a picture as can be told apart."""
    loops = [one for one in result.curves if one.rate_per_s is None]
    streams = [one for one in result.curves if one.rate_per_s is not None]
    for what, curves in (("closed loop", loops), ("open stream", streams)):
        for start in range(0, len(curves), plots.MOST_CURVES):
            yield f"{result.benchmark}, {what}", curves[start : start + plots.MOST_CURVES]


def save(drawn: "Drawn", folder: Path) -> list[Path]:
    """Write the pictures as PNG; returns their paths."""
    return [
        save_png(picture, folder / f"report-{name}-{kind}.png")
        for (name, kind), picture in drawn.items()
        if not isinstance(picture, str)
    ]


def html(
    results: Sequence[Reading],
    standings: Sequence[Standings],
    drawn: "Drawn",
    warnings: Sequence[str],
) -> str:
    """The page.

    Args:
        standings: on each kind of machine, that of the newest result first.
        warnings: what speaks against the figures.
    """
    parts = [_loud(text) for text in warnings]
    parts += [f'<div class="tiles">{_tiles(results, standings[0])}</div>']
    for place, one in enumerate(standings):
        if not measured_rows(one):
            continue
        parts += [f"<h2>Goals{escape(on(one, standings))}</h2>"]
        parts += [_picture(drawn, GOALS)] if place == 0 else []
        parts += [_goals(one)]
    parts += ["<h3>not measured</h3>", markup.table(OPEN, open_rows(standings[0]))]
    for place, result in enumerate(results):
        parts += [_section(result, _named(results, place), drawn)]
    parts += ["<h2>Measured on</h2>", markup.table(MACHINE, [machine_row(one) for one in results])]
    foot = "Latency counts from when a request was due. Ratios are of neighbouring rounds."
    return markup.page("Benchmarks", lead(results, standings), "".join(parts), foot)


def _loud(text: str) -> str:
    return f'<p class="bad" style="font-weight:600">{escape(text)}</p>'


def _named(results: Sequence[Reading], place: int) -> str:
    """What a result's pictures are called: by its benchmark, numbered from the second on."""
    name = results[place].benchmark
    before = sum(one.benchmark == name for one in results[:place])
    return f"{name}-{before + 1}" if before else name


def _tiles(results: Sequence[Reading], standings: Standings) -> str:
    told = [
        ("goals met", f"{standings.count('met')}", f"{standings.count('missed')} missed"),
        ("results", f"{len(results)}", f"{sum(bool(one.doubts) for one in results)} with doubts"),
    ]
    measured = next((one.measurements for one in results if one.measurements), ())
    knee = plots.knee_of(measured) if measured else None
    if knee is not None:
        budget = f"requests/s with a p99 of {1000 * measured[0].p99_s:g} ms"
        told.append(("one endpoint bears", f"{knee:,.0f}", budget))
    return "".join(markup.tile(*one) for one in told)


def _goals(standings: Standings) -> str:
    rows = [
        [
            f'<b class="{TONES[one]}">{one}</b>' if place == VERDICT else one.translate(TOGETHER)
            for place, one in enumerate(cells)
        ]
        for cells in measured_rows(standings)
    ]
    return markup.table(HEADINGS, rows, raw=(VERDICT,), numbers=(1,))


def _section(result: Reading, name: str, drawn: "Drawn") -> str:
    parts = [
        f"<h2>{escape(name)}</h2>",
        f'<p class="lead">{escape(question_of(result.benchmark))}</p>',
    ]
    parts += [f"<p>{escape(about(result).replace('`', ''))}</p>"]
    parts += [_loud(text) for text in result.doubts]
    parts += [_picture(drawn, key) for key in drawn if key[0] == name]
    if result.rounds:
        parts += [markup.table(HEADS, table_rows(result.rounds), numbers=(1, 2, 3, 4, 5, 6, 8, 9))]
    if rows := figure_rows(result):
        parts += [markup.table(FIGURE, rows, numbers=(1, 3))]
    return "".join(parts)


def _picture(drawn: "Drawn", key: tuple[str, str]) -> str:
    picture = drawn.get(key)
    if picture is None:
        return ""
    if isinstance(picture, str):
        return f"<p>{escape(picture)}</p>"
    return f'<div class="chart" style="margin:1.2rem 0">{as_svg(picture, "-".join(key))}</div>'
