"""Which of the project's goals are met, by the newest results of this machine?

    python -m benchmarks.goals [FOLDER]

Measures nothing: each benchmark writes what it can tell of the goals below into its result, and
here the newest of each goal is taken from the results (in `results/`, or FOLDER) that come from a
machine of this kind. The commit that was measured is told beside each, with `*` where it is not
the one of this checkout, and what is not measured yet with the command that does it.

Caveat: a goal that a short run tells about is told from few rounds.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from aios.capacity import machine
from aios.capacity.measurement import same_machine
from aios.cli.terminal import show
from aios.errors import UsageError
from aios.presentation import ALARM, Rows, Shown
from benchmarks.commands import begin, parser_of
from benchmarks.figures import Goal, Spread, wanted
from benchmarks.reading import Reading, doubts_of, every
from benchmarks.results import RESULTS

Verdict = Literal["met", "missed", "not measured"]


@dataclass(frozen=True)
class Aim:
    """A goal of the project.

    Attributes:
        text: what is measured; ratios say of what to what.
        also: goals with texts of this form tell about it too, under their own text.
        at_least, at_most: bounds, of which a goal has one.
        unit: after the figure; `x` for ratios.
        command: tells about it. Where that is no benchmark, it is a test that fails if the goal is
            missed, and no figure comes of it.
    """

    text: str
    command: str
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"
    also: str | None = None

    def is_told_by(self, text: str) -> bool:
        """Whether a goal of this text is about it."""
        return text == self.text or bool(self.also and re.fullmatch(self.also, text))


_PEERS = (("MLServer", 1.5), ("KServe", 1.5), ("LitServe", 2.5), ("BentoML", 4.0))
_MODES = ("aios, 10 % canary", "aios")
AIMS = (
    # DESIGN, section 7
    *(
        Aim(
            f"{one} vs. FastAPI, req/s",
            "aios bench endpoint",
            at_least=1.0,
            also=rf"{one} vs\. FastAPI, \d+ workers, req/s",
        )
        for one in _MODES
    ),
    *(
        Aim(
            f"aios, 10 % canary vs. {peer}, req/s",
            "aios bench peers",
            at_least=at_least,
            also=rf"aios, 10 % canary vs\. {peer}, \d+ workers, req/s",
        )
        for peer, at_least in _PEERS
    ),
    *(
        Aim(f"{one} vs. hand-made canary, req/s", "aios bench endpoint", at_least=20.0)
        for one in _MODES
    ),
    *(Aim(f"{one} vs. bare raw ASGI, CPU", "aios bench endpoint", at_most=1.15) for one in _MODES),
    Aim(
        "requests failed in promotions and rollbacks under load",
        "aios bench rollout",
        at_most=0.0,
        unit="",
    ),
    Aim(
        "requests failed in 20 rollouts whose canaries are killed",
        "make chaos",
        at_most=0.0,
        unit="",
    ),
    Aim("traffic shift, decision to last replica, at worst", "aios bench rollout", None, 0.5, " s"),
    Aim(
        "bad canary rolled back, of those tried",
        "pytest tests/unit/test_rollout_simulation.py",
        at_least=1.0,
    ),
    Aim(
        "good canary rolled back by mistake",
        "pytest tests/unit/test_rollout_simulation.py",
        at_most=0.05,
        unit="",
    ),
    Aim(
        "kernel killed: back, at the same stage",
        "pytest tests/integration/test_rollouts.py",
        at_most=10.0,
        unit=" s",
    ),
    Aim("head killed: answers again", "pytest tests/integration/test_head.py", None, 30.0, " s"),
    # the life of a model
    Aim("retrain of 20 trials vs. plain Optuna", "aios bench training", at_most=1.3),
    Aim("search of 20 trials of 2 s: speed-up of 2 workers", "aios bench training", at_least=1.7),
    Aim("search of 20 trials of 5 s: speed-up of 2 workers", "aios bench training", at_least=1.7),
    Aim("registering a version, after conversion", "aios bench training", None, 1.0, " s"),
    Aim("1,000,000 rows sketched and judged vs. Evidently", "aios bench drift", at_most=1.0),
    Aim("drift verdict on 200 features", "aios bench drift", None, 1.0, " s"),
    Aim("recording and sketching, CPU added to a request", "aios bench drift", None, 10.0, " %"),
    Aim("audit entry, added to a command at p99", "aios bench audit", None, 2.0, " ms"),
    # flows
    *(
        Aim(f"{what} vs. bare DBOS, {database}", f"aios bench flows{option}", at_least=0.9)
        for database, option in (("SQLite", ""), ("PostgreSQL", " --postgres URL"))
        for what in ("flows begun/s", "flows finished/s", "rate of steps")
    ),
    # how many machines
    Aim(
        "p99 planned off from simulated, 1 to 4 replicas, at worst",
        "aios bench capacity",
        None,
        25.0,
        " %",
    ),
    Aim(
        "p99 that the planner expects beside the measured one, 1 to 4 replicas",
        "aios bench scaling",
        at_most=1.25,
        also=r"p99 that the planner expects beside the measured one, 1 to \d+ replicas",
    ),
    Aim(
        "on a GPU: endpoint / engine, records/s",
        "aios bench throughput --device cuda",
        at_least=0.95,
        also=r".+, batch \d+: endpoint / engine, records/s",
    ),
)
"""All of them, and their bounds; what a benchmark tells about is found by its text."""


def goal(text: str, found: "Spread | Iterable[float]", connections: int | None = None) -> Goal:
    """What a benchmark found of the aim of this text."""
    (aim,) = (one for one in AIMS if one.text == text)
    ratio = found if isinstance(found, Spread) else Spread.of(found)
    return Goal(text, connections, ratio, aim.at_least, aim.at_most, aim.unit)


@dataclass(frozen=True)
class Standing:
    """How one aim stands: what was found, and in which result."""

    aim: Aim
    found: Goal | None = None
    result: Reading | None = None

    @property
    def verdict(self) -> Verdict:
        if self.found is None:
            return "not measured"
        return "met" if self.found.met else "missed"


@dataclass(frozen=True, repr=False)
class Standings(Shown):
    """How all aims stand on one kind of machine.

    Attributes:
        machine: `aios.capacity.machine.describe()` of it.
    """

    all: tuple[Standing, ...]
    machine: dict[str, Any]

    def count(self, verdict: Verdict) -> int:
        """How many stand so."""
        return sum(one.verdict == verdict for one in self.all)

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        commit = self.machine.get("commit")
        told = ", ".join(f"{self.count(one)} {one}" for one in ("met", "missed", "not measured"))
        title = (
            f"goals on {self.machine.get('cpu')}, {self.machine.get('cores')} cores, "
            f"commit {commit}: {told}"
        )
        results = {one.result.path: one.result for one in self.all if one.result}
        doubted = doubts_of(results.values())
        if any(_of_another(one, commit) for one in self.all):
            doubted.append(f"*: measured at another commit than {commit}")
        rows = [row(one, commit) for one in self.all]
        return "\n".join([title, *(f"{ALARM}{one}" for one in doubted)]), HEADINGS, rows


HEADINGS = ("goal", "conn.", "wanted", "found", "", "by")


def row(one: Standing, commit: str | None = None) -> list[str]:
    """Its cells, under `HEADINGS`.

    Args:
        commit: of this checkout; None: no other is marked.
    """
    aim = one.aim
    shown = one.found or Goal(aim.text, None, _NOTHING, aim.at_least, aim.at_most, aim.unit)
    by, found, connections = one.aim.command, "", ""
    if one.found is not None and one.result is not None:
        short = ", short" if one.result.run.get("short") else ""
        mark = "*" if _of_another(one, commit) else ""
        by = f"{one.result.benchmark} at {one.result.commit}{mark}{short}"
        found = f"{shown.ratio}{shown.unit}"
        connections = str(shown.connections or "")
    return [shown.text, connections, wanted(shown), found, one.verdict, by]


_NOTHING = Spread(0.0, 0.0, 0.0)


def _of_another(one: Standing, commit: str | None) -> bool:
    return one.result is not None and commit is not None and one.result.commit != commit


def collect(results: Sequence[Reading], here: dict[str, Any]) -> Standings:
    """How the aims stand by the results of machines like `here`: of each aim, and number of
    connections, the newest counts. Goals in results that are no aims are told behind them."""
    told: dict[tuple[str, int | None], Standing] = {}
    for result in sorted(results, key=lambda one: one.at):
        if same_machine(result.machine, here):
            for one in result.goals:
                aim = _aim_of(one, result)
                judged = replace(one, at_least=aim.at_least, at_most=aim.at_most, unit=aim.unit)
                told[(one.text, one.connections)] = Standing(aim, judged, result)
    found = []
    for aim in AIMS:
        found += [one for one in told.values() if one.aim is aim] or [Standing(aim)]
    found += [one for one in told.values() if one.aim not in AIMS]
    return Standings(tuple(found), here)


def _aim_of(found: Goal, result: Reading) -> Aim:
    """That of the catalogue, whose bounds of today judge; else one that the result made up."""
    command = f"aios bench {result.benchmark}"
    own = Aim(found.text, command, found.at_least, found.at_most, found.unit)
    return next((aim for aim in AIMS if aim.is_told_by(found.text)), own)


def main() -> None:
    """Print how they stand."""
    parser = parser_of("goals", __doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=RESULTS, help="of results")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder of results")
    results, wrong = every(folder)
    for text in wrong:
        print(f"left out: {text}", file=sys.stderr)
    show(collect(results, machine.describe()), narrow=True)


if __name__ == "__main__":
    begin(main)
