"""What result files hold, read once for the report and the goals."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from hdrh.histogram import HdrHistogram

from aios.capacity.comparison import Better, read_result
from aios.capacity.confidence import confidence
from aios.capacity.fitting import fitted
from aios.capacity.load import BUSY_FRACTION
from aios.capacity.measurement import Measurement
from aios.cli.benching import CATALOGUE
from aios.errors import UsageError
from benchmarks.figures import Goal, Round, Spread
from benchmarks.results import UNFINISHED

BUSY_WITH_OTHERS = 0.5
"""Of all cores: with more than that taken by others, figures are theirs too."""


MEASUREMENT = "measurement"
"""In the place of a benchmark's name: what `rt.measure` or `aios plan` saved."""


@dataclass(frozen=True)
class Curve:
    """Latencies of one load: an encoded `HdrHistogram` of microseconds; failures are infinitely
    late."""

    name: str
    rate_per_s: float | None
    hdr: str
    failed: int = 0


@dataclass(frozen=True)
class Reading:
    """One result.

    Attributes:
        run: the line that says what was run: arguments, seed.
        figures: by name and which side is better, the value of each round; without those of
            `rounds`.
        rounds: those of the benchmarks that put load on servers.
        held_back: where and why the load generator was the slowest part.
        notes: what else the file tells in words.
    """

    path: Path
    benchmark: str
    at: datetime
    run: dict[str, Any]
    machine: dict[str, Any]
    figures: dict[tuple[str, Better], tuple[float, ...]]
    rounds: tuple[Round, ...] = ()
    goals: tuple[Goal, ...] = ()
    curves: tuple[Curve, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    held_back: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def commit(self) -> str | None:
        """As `aios.capacity.machine` writes it: with `+` if the tree had changes."""
        return self.machine.get("commit")

    @property
    def place(self) -> tuple[Any, ...]:
        """What newer results of the same make this one out of date."""
        kind = (self.machine.get("cpu"), self.machine.get("cores"))
        memory_gib = round(self.machine.get("memory_gib") or 0.0)
        return (self.benchmark, *kind, memory_gib, self.run.get("device"))

    @property
    def doubts(self) -> list[str]:
        """Why not to quote its figures."""
        return [*_of_the_tree(self.commit), *_of_the_machine(self), *self.held_back]


def _of_the_tree(commit: str | None) -> Iterator[str]:
    if commit is None:
        yield "of no commit: it was not measured in a checkout"
    elif commit.endswith("+"):
        yield f"the tree had changes beyond commit {commit[:-1]}"


def _of_the_machine(found: Reading) -> Iterator[str]:
    """What runs before a benchmark within a suite is in the load average for minutes, so there
    the load before the suite counts, and how busy others were just before."""
    suite = found.run.get("suite") or {}
    cores = found.machine.get("cores") or 1
    load = suite.get("load_average_1min", found.machine.get("load_average_1min")) or 0.0
    others = suite.get("others_cores", 0.0)
    if load > cores:
        yield f"the machine was busy: load average {load:g} on {cores} cores"
    elif others > BUSY_WITH_OTHERS * cores:
        yield f"the machine was busy: others took {others:.1f} of {cores} cores"


def read(path: Path) -> Reading:
    """One result, or a measurement that `rt.measure` or `aios plan` saved.

    Raises:
        UsageError: it cannot be read, or is something else; names the line.
    """
    if path.name.endswith(UNFINISHED):
        raise UsageError(f"{path} is no result: its benchmark was broken off")
    if path.suffix == ".json":
        return _of_a_measurement(path)
    result = read_result(path)
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    run = next(line for line in lines if line["kind"] == "run")
    try:
        rounds = tuple(_rounds(lines))
        told = {str(line["name"]) for line in _of(lines, "figure")}
        measurements = tuple(
            Measurement.read(path.with_name(line["file"])) for line in _of(lines, "measurement")
        )
        return Reading(
            path=path,
            benchmark=result.benchmark,
            at=datetime.fromisoformat(run["at"]),
            run=run,
            machine=result.machine,
            figures={
                name: tuple(values)
                for name, values in result.figures.items()
                if not rounds or name[0] in told
            },
            rounds=rounds,
            goals=tuple(_goal(line) for line in _of(lines, "goal")),
            curves=_curves(lines),
            measurements=measurements,
            held_back=tuple(_held_back(lines, measurements)),
            notes=tuple(
                str(line["text"]) for line in lines if "text" in line and "met" not in line
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no result of a benchmark: {error!r:.120}") from None


def every(folder: Path) -> tuple[list[Reading], list[str]]:
    """All results in a folder; and what was none, in words."""
    found, wrong = [], []
    for path in sorted(folder.glob("*.jsonl")):
        try:
            found.append(read(path))
        except UsageError as error:
            wrong.append(error.message)
    return found, wrong


def doubts_of(results: Iterable[Reading]) -> list[str]:
    """Each doubt once, behind the benchmarks that it is about."""
    whose: dict[str, list[str]] = {}
    for one in results:
        for doubt in one.doubts:
            whose.setdefault(doubt, []).append(one.benchmark)
    return [f"{', '.join(dict.fromkeys(names))}: {doubt}" for doubt, names in whose.items()]


def newest(results: Iterable[Reading]) -> list[Reading]:
    """That of each benchmark, kind of machine and device."""
    found = {one.place: one for one in sorted(results, key=lambda one: one.at)}
    known = {name: place for place, name in enumerate(CATALOGUE)}
    return sorted(found.values(), key=lambda one: known.get(one.benchmark, len(known)))


def _of_a_measurement(path: Path) -> Reading:
    measured = Measurement.read(path)
    return Reading(
        path=path,
        benchmark=MEASUREMENT,
        at=datetime.fromtimestamp(measured.at_s).astimezone(),
        run={"seed": measured.seed, "seconds": measured.seconds, "requests": measured.requests},
        machine=measured.machine,
        figures={},
        measurements=(measured,),
        held_back=tuple(_held_back([], [measured])),
        notes=tuple(_unlike(measured)),
    )


def _unlike(measured: Measurement) -> Iterator[str]:
    """Why a plan by this measurement is not to be trusted, beside what the figures show."""
    judged = confidence(measured, fitted(measured), measured.full_per_s, measured.p99_s)
    more = [one for one in judged.because if not any(d.startswith(one) for d in judged.doubts)]
    for told in (*judged.doubts, *more):
        yield f"{told[:1].upper()}{told[1:]}."


def _of(lines: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind]


def _rounds(lines: Sequence[dict[str, Any]]) -> Iterator[Round]:
    names = [field.name for field in fields(Round)]
    for line in _of(lines, "round"):
        if all(name in line for name in names):
            yield Round(**{name: line[name] for name in names})


def _goal(line: dict[str, Any]) -> Goal:
    names = [field.name for field in fields(Goal) if field.name in line]
    return Goal(**{**{name: line[name] for name in names}, "ratio": Spread(**line["ratio"])})


def _curves(lines: Sequence[dict[str, Any]]) -> tuple[Curve, ...]:
    """Histograms of one name and rate are those of its rounds, and are added up."""
    rounds: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for line in _of(lines, "histogram"):
        rounds.setdefault((line["name"], line.get("rate_per_s")), []).append(line)
    return tuple(
        Curve(
            name if rate is None else f"{name}, {rate:,.0f}/s",
            rate,
            _added(one["hdr"] for one in all_),
            sum(_failed(all_)),
        )
        for (name, rate), all_ in rounds.items()
    )


def _failed(lines: Sequence[dict[str, Any]]) -> Iterator[int]:
    return (int(line.get("failed", 0)) for line in lines)


def _added(encoded: Iterable[str]) -> str:
    first, *others = [HdrHistogram.decode(text) for text in encoded]
    for other in others:
        first.add(other)
    return str(first.encode().decode())


def _held_back(
    lines: Sequence[dict[str, Any]], measurements: Sequence[Measurement]
) -> Iterator[str]:
    """The first is told, and how many there are."""
    told = "the load generator could not keep up"
    for measured in measurements:
        held = [one for one in (measured.light, *measured.points) if one.held_back]
        if held:
            count, all_ = len(held), 1 + len(measured.points)
            yield (
                f"{told} at {count} of {all_} rates, first at {held[0].rate_per_s:,.0f}/s: "
                f"{held[0].held_back}"
            )
    reasons = [reason for reason in map(_reason, lines) if reason is not None]
    if reasons:
        more = f" (and {len(reasons) - 1} times more)" if len(reasons) > 1 else ""
        yield f"{told}: {reasons[0]}{more}"


def _reason(line: dict[str, Any]) -> str | None:
    name = line.get("name") or line.get("contestant")
    whose = f"{name}: " if name else ""
    if line.get("held_back"):
        return f"{whose}{line['held_back']}"
    used = line.get("client_cpu_fraction") or 0.0
    return f"{whose}it used {used:.0%} of a core" if used > BUSY_FRACTION else None
