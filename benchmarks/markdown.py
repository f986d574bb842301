"""The report as Markdown: for a README, a pull request, a terminal."""

from collections.abc import Iterable, Sequence

from benchmarks.figures import Spread, table
from benchmarks.goals import HEADINGS, Standings, row
from benchmarks.reading import MEASUREMENT, Reading


def markdown(
    results: Sequence[Reading], standings: Sequence[Standings], warnings: Sequence[str]
) -> str:
    """All of it.

    Args:
        standings: on each kind of machine, that of the newest result first.
    """
    parts = ["# Benchmarks", lead(results, standings)]
    parts += [f"> **{text}**" for text in warnings]
    for one in standings:
        if rows := measured_rows(one):
            parts += [f"## Goals{on(one, standings)}", as_table(HEADINGS, rows)]
    parts += ["Not measured:", as_table(OPEN, open_rows(standings[0]))]
    for result in results:
        parts += [f"## {result.benchmark}", about(result), *_figures(result)]
    parts += ["## Measured on", as_table(MACHINE, [machine_row(one) for one in results])]
    return "\n\n".join(parts) + "\n"


def on(one: Standings, standings: Sequence[Standings]) -> str:
    """Which machine, where there are several."""
    host = one.machine
    told = f"{host.get('cpu')}, {host.get('cores')} cores, {host.get('memory_gib')} GiB"
    return f" on {told}" if len(standings) > 1 else ""


def measured_rows(standings: Standings) -> list[list[str]]:
    """The goals that a result tells about."""
    return [row(one) for one in standings.all if one.found is not None]


OPEN = ("by", "goals")


def open_rows(standings: Standings) -> list[list[str]]:
    """The goals that no result tells about, by what would tell."""
    found: dict[str, list[str]] = {}
    for one in standings.all:
        if one.found is None:
            found.setdefault(one.aim.command, []).append(one.aim.text)
    return [[command, "; ".join(texts)] for command, texts in found.items()]


def lead(results: Sequence[Reading], standings: Sequence[Standings]) -> str:
    """One sentence."""
    newest = max(results, key=lambda one: one.at)
    host, goals = newest.machine, standings[0]
    return (
        f"{len(results)} results, the newest of {newest.at:%Y-%m-%d %H:%M} on {host.get('cpu')}, "
        f"{host.get('cores')} cores, {host.get('memory_gib')} GiB, commit {newest.commit}: "
        f"{goals.count('met')} goals met, {goals.count('missed')} missed, "
        f"{goals.count('not measured')} not measured."
    )


def about(result: Reading) -> str:
    """How it was measured."""
    told = ", ".join(
        name if value is True else f"{name.replace('_', ' ')} {_plain(value)}"
        for name, value in result.run.items()
        if name not in ("kind", "benchmark", "at", "machine", "suite")
        and value not in (None, False, [], {}, "")
    )
    notes = "".join(f" {note}" for note in result.notes)
    command = "plan" if result.benchmark == MEASUREMENT else f"bench {result.benchmark}"
    return f"`aios {command}`, {result.at:%Y-%m-%d %H:%M}: {told}.{notes}"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


FIGURE = ("figure", "median (smallest-largest)", "better", "rounds")


def figure_rows(result: Reading) -> list[list[str]]:
    """Of each figure its spread over the rounds."""
    return [
        [name, str(Spread.of(values)), better, str(len(values))]
        for (name, better), values in result.figures.items()
    ]


def _figures(result: Reading) -> list[str]:
    found = [table(result.rounds)] if result.rounds else []
    rows = figure_rows(result)
    found += [as_table(FIGURE, rows)] if rows else []
    found += [f"```\n{measured}\n```" for measured in result.measurements]
    return found


MACHINE = ("result", "measured", "commit", "cpu", "cores", "GiB", "load", "Python", "versions")


def machine_row(result: Reading) -> list[str]:
    """Where and when a result was measured."""
    host = result.machine
    versions = host.get("versions") or {}
    return [
        result.path.name,
        f"{result.at:%Y-%m-%d %H:%M}",
        str(result.commit),
        str(host.get("cpu")),
        str(host.get("cores")),
        str(host.get("memory_gib")),
        str(host.get("load_average_1min")),
        str(host.get("python")),
        ", ".join(f"{name} {found}" for name, found in versions.items() if found),
    ]


def as_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(_cell(one) for one in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
