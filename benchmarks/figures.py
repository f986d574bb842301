"""What rounds add up to: percentiles, medians with their spread, ratios and the table. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from aios.errors import UsageError

GROUP_ORDER = ("connections", "contestant")


@dataclass(frozen=True)
class Round:
    """One contestant under one load for one window.

    `cpu_s` are CPU seconds by role: those of the window, and those spent after it on what
    the window left behind (writing the prediction log). `client_cpu_fraction` is the share of
    one core that the load generator used.
    """

    contestant: str
    connections: int
    group: str
    requests: int
    failed: int
    window_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_s: dict[str, float]
    canary_fraction: float
    client_cpu_fraction: float

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.window_s

    @property
    def cpu_s_per_1000(self) -> float:
        """CPU seconds of all roles per 1,000 requests; CPU milliseconds per request."""
        return 1000 * sum(self.cpu_s.values()) / self.requests


@dataclass(frozen=True)
class Spread:
    """A median with the smallest and the largest value.

    >>> str(Spread.of([3.0, 1.0, 2.0])), str(Spread.of([0.5]))
    ('2.00 (1.00-3.00)', '0.50')
    """

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        found = list(values)
        if not found:
            raise UsageError("no value to take a median of")
        return cls(median(found), min(found), max(found))

    def __str__(self) -> str:
        if self.least == self.most:
            return _short(self.middle)
        return f"{_short(self.middle)} ({_short(self.least)}-{_short(self.most)})"


@dataclass(frozen=True)
class Goal:
    """A figure that the project wants to reach, as found in this run; most are ratios.

    `ratio` holds one quotient per round, of neighbours in time; `at_least` or `at_most`
    bounds its median. `connections` is None where there are none.
    """

    text: str
    connections: int | None
    ratio: Spread
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"

    @property
    def met(self) -> bool:
        above = self.at_least is None or self.ratio.middle >= self.at_least
        return above and (self.at_most is None or self.ratio.middle <= self.at_most)


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The smallest value that at least `fraction` of the values do not exceed (nearest rank).

    >>> percentile([10, 20, 30, 40], 0.5), percentile([10, 20, 30, 40], 0.99)
    (20, 40)

    Args:
        ordered: values in ascending order, at least one.
        fraction: between 0 and 1.
    """
    if not ordered:
        raise UsageError("no value to take a percentile of")
    rank = -(-len(ordered) * fraction // 1)
    return ordered[min(max(int(rank), 1), len(ordered)) - 1]


def ratios(
    rounds: Sequence[Round], one: str, other: str, connections: int, figure: str
) -> Spread | None:
    """`figure` of `one` over that of `other`, round by round, or None if one did not run.

    Round i of one is divided by round i of the other: they ran next to each other, so what
    else the machine did then is mostly in both.

    Args:
        figure: an attribute of `Round`, such as `requests_per_s`.
    """
    groups = [
        {r.group for r in rounds if r.contestant == name and r.connections == connections}
        for name in (one, other)
    ]
    shared = groups[0] & groups[1]
    if not shared:
        return None
    values = [
        [
            getattr(r, figure)
            for r in rounds
            if r.contestant == name and r.connections == connections and r.group in shared
        ]
        for name in (one, other)
    ]
    return Spread.of(a / b for a, b in zip(*values, strict=True))


HEADS = (
    *("contestant", "conn.", "req/s", "p50 ms", "p95 ms", "p99 ms", "CPU s / 1,000 req"),
    *("of which", "requests", "failed"),
)


def table(rounds: Sequence[Round]) -> str:
    """All rounds as a Markdown table: median (smallest-largest) per contestant and load."""
    return "\n".join(_row(cells) for cells in [HEADS, ["---"] * len(HEADS), *table_rows(rounds)])


def table_rows(rounds: Sequence[Round]) -> list[list[str]]:
    """The cells of that table, under `HEADS`. Who ran in several groups is told with its group."""
    grouped = _grouped(rounds)
    return [
        [
            f"{name} ({group})"
            if sum(key[1:] == (connections, name) for key in grouped) > 1
            else name,
            str(connections),
            *(
                str(Spread.of(getattr(r, figure) for r in found))
                for figure in ("requests_per_s", "p50_ms", "p95_ms", "p99_ms")
            ),
            str(Spread.of(r.cpu_s_per_1000 for r in found)),
            _by_role(found),
            f"{sum(r.requests for r in found):,}",
            str(sum(r.failed for r in found)),
        ]
        for (group, connections, name), found in grouped.items()
    ]


def goals_table(goals: Sequence[Goal]) -> str:
    """The goals as a Markdown table."""
    lines = [_row(["goal", "conn.", "wanted", "found", ""]), _row(["---"] * 5)]
    for goal in goals:
        connections = "" if goal.connections is None else str(goal.connections)
        verdict = "met" if goal.met else "MISSED"
        lines.append(
            _row([goal.text, connections, wanted(goal), f"{goal.ratio}{goal.unit}", verdict])
        )
    return "\n".join(lines)


def wanted(goal: Goal) -> str:
    """The bound, in words.

    >>> wanted(Goal("speed", None, Spread(1, 1, 1), at_most=0.5, unit=" s"))
    '<= 0.5 s'
    """
    sign, bound = (">=", goal.at_least) if goal.at_least is not None else ("<=", goal.at_most)
    assert bound is not None
    return f"{sign} {bound:g}{goal.unit}"


def _grouped(rounds: Sequence[Round]) -> Mapping[tuple[str, int, str], list[Round]]:
    found: dict[tuple[str, int, str], list[Round]] = {}
    for entry in rounds:
        found.setdefault((entry.group, entry.connections, entry.contestant), []).append(entry)
    return dict(sorted(found.items(), key=lambda item: item[0][:2]))


def _by_role(rounds: Sequence[Round]) -> str:
    requests = sum(r.requests for r in rounds)
    roles = dict.fromkeys(role for r in rounds for role in r.cpu_s)
    cpu_s = {role: sum(r.cpu_s.get(role, 0.0) for r in rounds) for role in roles}
    return ", ".join(f"{role} {1000 * used / requests:.3f}" for role, used in cpu_s.items())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    if 0 < value < 0.1:
        return f"{value:.3g}"  # 0.00158 CPU seconds are not 0.00
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
