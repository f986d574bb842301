"""One page of what benchmarks found: figures, goals, and pictures of latency and cost.

    python -m benchmarks.report [RESULT ...] [--out FOLDER] [--price 0.10 --currency EUR]

RESULT is a result (`.jsonl`), a measurement of `aios plan` (`.json`), or a folder, of which the
newest result of each benchmark, kind of machine and device is taken; by default `results/`. Into
`--out` (by default `results/`) go `report.html`, which needs nothing but itself, `report.md`, which
is printed too, and the pictures as PNG. The price is of a node by the hour; without it the one of
aios.toml is taken, and if there is none nodes are told instead of cost.

Caveat: what speaks against a figure is told above all figures; it does not go away by that.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from aios.capacity import machine
from aios.config import Settings
from aios.errors import UsageError
from benchmarks import page, plots
from benchmarks.commands import begin, parser_of, positive
from benchmarks.goals import Standings, collect
from benchmarks.markdown import markdown
from benchmarks.reading import Reading, doubts_of, every, newest, read
from benchmarks.results import RESULTS


def results_of(paths: Sequence[Path]) -> tuple[list[Reading], list[str]]:
    """What the paths name; and what in folders was no result.

    Raises:
        UsageError: there is nothing to report, or a file that was named is no result.
    """
    found: list[Reading] = []
    wrong: list[str] = []
    for path in paths:
        if path.is_dir():
            results, others = every(path)
            found += newest(results)
            wrong += others
        else:
            found.append(read(path))
    if not found:
        why = f": {wrong[0]}" if wrong else "; `aios bench all --short` makes some"
        raise UsageError(f"no result of a benchmark in {', '.join(map(str, paths))}{why}")
    return found, [f"left out: {text}" for text in wrong]


def write(
    results: Sequence[Reading], folder: Path, price: plots.Price, wrong: Sequence[str] = ()
) -> list[Path]:
    """Write page, Markdown and pictures; returns their paths, the page first.

    Args:
        wrong: to be told above all figures, beside the results' own doubts.

    Raises:
        UsageError: matplotlib is not installed, or the folder cannot be written to.
    """
    standings = standings_of(results)
    drawn = page.draw(results, standings[0], price)
    told = [*wrong, *warnings(results)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / "report.html", folder / "report.md"]
        written[0].write_text(page.html(results, standings, drawn, told), "utf-8")
        written[1].write_text(markdown(results, standings, told), "utf-8")
        return written + page.save(drawn, folder)
    except OSError as error:
        raise UsageError(f"the report cannot be written to {folder}: {error}") from None


def standings_of(results: Sequence[Reading]) -> list[Standings]:
    """How the goals stand on each kind of machine, that of the newest result first."""
    machines = {
        one.place[1:4]: one.machine for one in sorted(results, key=lambda one: one.at, reverse=True)
    }
    return [collect(results, host) for host in machines.values()]


def warnings(results: Sequence[Reading]) -> list[str]:
    """What speaks against the figures, in words."""
    found = doubts_of(results)
    if len({one.place[1:4] for one in results}) > 1:
        found.append("results of different machines stand side by side: no figure compares them")
    if len({one.commit for one in results}) > 1:
        found.append("results of different commits stand side by side")
    return found


def price_of(hour: float | None, currency: str | None) -> plots.Price:
    """As typed, or as aios.toml says."""
    prices = Settings.load().prices
    if hour is not None:
        return plots.Price(hour, currency or "")
    return plots.Price(prices.default_node_hour, prices.currency or "")


def main() -> None:
    """Read, write, print the table."""
    parser = parser_of("report", __doc__)
    parser.add_argument("results", nargs="*", type=Path, default=[RESULTS], metavar="RESULT")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder")
    parser.add_argument("--price", type=positive, help="of a node by the hour")
    parser.add_argument("--currency", help="of the price")
    asked = parser.parse_args()
    results, wrong = results_of(asked.results)
    written = write(results, asked.out, price_of(asked.price, asked.currency), wrong)
    print(written[1].read_text("utf-8"))
    for path in written:
        print(f"written: {path}", file=sys.stderr)
    here = machine.describe()
    if any(one.commit != here["commit"] for one in results):
        print(f"not all of it was measured at {here['commit']}", file=sys.stderr)


if __name__ == "__main__":
    begin(main)
