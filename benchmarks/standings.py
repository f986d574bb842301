"""What the rounds of `benchmarks.servers` add up to: ratios, goals, figures and the table. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.figures import Goal, Round, Spread, ratios

HEADS = (
    "contestant",
    "workers",
    "req/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "CPU ms/req",
    "memory MiB: RSS, PSS",
    "aios / it",
    "goal",
)


@dataclass(frozen=True)
class Light:
    """An open stream of a light load: latencies from when a request was due, in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int


@dataclass(frozen=True)
class Visit:
    """One contestant in one round: as much as it can, then a light load.

    Attributes:
        memory_mib: of all its processes, after both, resident (what they share counts in each).
        shared_once_mib: the same with what they share counted once.
        held_back: why the figures are the generator's and not the contestant's, if they are.
    """

    workers: int
    number: int
    full: Round
    light: Light
    memory_mib: float
    shared_once_mib: float
    held_back: str | None = None

    @property
    def who(self) -> tuple[int, str]:
        return self.workers, self.full.contestant


@dataclass(frozen=True)
class LeftOut:
    """A peer without figures, and why."""

    workers: int
    contestant: str
    why: str

    @property
    def who(self) -> tuple[int, str]:
        return self.workers, self.contestant


def counted(visits: Sequence[Visit], left_out: Sequence[LeftOut]) -> list[Visit]:
    """The visits of those that lasted until the end: ratios need neighbours in every round."""
    gone = {entry.who for entry in left_out}
    return [visit for visit in visits if visit.who not in gone]


def figures(visit: Visit) -> Iterator[dict[str, Any]]:
    """What `aios bench compare` compares; an endless latency is no figure."""
    label = f"{visit.full.contestant}, {visit.full.group}"
    for name, value, better in (
        ("requests/s", visit.full.requests_per_s, "higher"),
        ("p50, ms", visit.light.p50_ms, "lower"),
        ("p99, ms", visit.light.p99_ms, "lower"),
        ("CPU ms per request", visit.full.cpu_s_per_1000, "lower"),
        ("memory (RSS), MiB", visit.memory_mib, "lower"),
        ("memory (PSS), MiB", visit.shared_once_mib, "lower"),
    ):
        if value != float("inf"):
            yield {
                "name": f"{label}: {name}",
                "value": value,
                "better": better,
                "round": visit.number,
            }


def ratio(visits: Sequence[Visit], one: str, other: str, workers: int) -> Spread | None:
    """Requests per second of `one` over those of `other`, round by round, with as many workers."""
    rounds = [visit.full for visit in visits if visit.workers == workers]
    if not rounds:
        return None
    return ratios(rounds, one, other, rounds[0].connections, "requests_per_s")


def goals(visits: Sequence[Visit], one: str, at_least: Mapping[str, float]) -> list[Goal]:
    """DESIGN section 7's ratios that this run can tell.

    Args:
        at_least: how many times the requests of each peer `one` shall answer.
    """
    found = []
    for workers, name in dict.fromkeys(visit.who for visit in visits):
        spread = ratio(visits, one, name, workers)
        if name in at_least and spread is not None:
            more = "" if workers == 1 else f", {told_workers(workers)}"
            text = f"{one} vs. {name}{more}, req/s"
            connections = next(v.full.connections for v in visits if v.who == (workers, name))
            found.append(Goal(text, connections, spread, at_least=at_least[name]))
    return found


def table(
    visits: Sequence[Visit], left_out: Sequence[LeftOut], one: str, at_least: Mapping[str, float]
) -> str:
    """All contestants as a Markdown table: median (smallest-largest) of their rounds."""
    lines = [_line(HEADS), _line(["---"] * len(HEADS))]
    for who in sorted({visit.who[0] for visit in visits} | {entry.workers for entry in left_out}):
        names = dict.fromkeys(visit.full.contestant for visit in visits if visit.workers == who)
        lines += [_line(_row(visits, one, name, who, at_least.get(name))) for name in names]
        for entry in left_out:
            if entry.workers == who:
                rest = [""] * (len(HEADS) - 3)
                lines.append(_line([entry.contestant, str(who), f"left out: {entry.why}", *rest]))
    return "\n".join(lines)


def _row(
    visits: Sequence[Visit], one: str, name: str, workers: int, at_least: float | None
) -> list[str]:
    mine = [visit for visit in visits if visit.who == (workers, name)]
    mine = [visit for visit in mine if visit.full.group == mine[0].full.group]
    spread = None if name == one else ratio(visits, one, name, workers)
    verdict = ""
    if spread is not None and at_least is not None:
        verdict = f">= {at_least:g}x: {'met' if spread.middle >= at_least else 'MISSED'}"
    return [
        name,
        str(workers),
        str(Spread.of(visit.full.requests_per_s for visit in mine)),
        *(
            str(Spread.of(getattr(visit.light, figure) for visit in mine))
            for figure in ("p50_ms", "p95_ms", "p99_ms")
        ),
        str(Spread.of(visit.full.cpu_s_per_1000 for visit in mine)),
        f"{median(v.memory_mib for v in mine):,.0f}, "
        f"{median(v.shared_once_mib for v in mine):,.0f}",
        "" if spread is None else f"{spread}x",
        verdict,
    ]


def told_workers(workers: int) -> str:
    """
    >>> told_workers(1), told_workers(2)
    ('1 worker', '2 workers')
    """
    return f"{workers} worker{'s' * (workers != 1)}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
