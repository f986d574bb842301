"""A rollout for people: one line per fact, or a rich table."""

from typing import TYPE_CHECKING

from aios.rollout.plans import BlueGreen, Canary, Shadow
from aios.rollout.sequential import Verdict
from aios.rollout.state import State

if TYPE_CHECKING:
    from rich.table import Table

_MARKS = {
    "worse": "worse",
    "not_worse": "not worse",
    "undecided": "undecided",
    "no_data": "no data",
}
_COLOURS = {"worse": "red", "not_worse": "green", "undecided": "yellow", "no_data": "dim"}


def status_lines(plan: Canary | BlueGreen | Shadow, state: State) -> list[str]:
    """Plain text: where the rollout stands, why, and each rule's verdict."""
    lines = [_headline(plan, state)]
    if state.reason:
        lines.append(f"  {state.reason}")
    for rule, verdict in state.verdicts.items():
        lines.append(f"  {rule}: {' · '.join(_cells(verdict))}")
    return lines


def describe(plan: Canary | BlueGreen | Shadow, state: State) -> "Table":
    """The same as a rich table; its title holds the stage, its caption the reason."""
    from rich.table import Table

    table = Table(title=_headline(plan, state), caption=state.reason or None)
    for column in ("rule", "verdict", "estimate", "bounds", "limit", "needs"):
        table.add_column(column)
    for rule, verdict in state.verdicts.items():
        mark, *others = _cells(verdict)
        colour = _COLOURS[verdict.state]
        table.add_row(rule, f"[{colour}]{mark}[/{colour}]", *others)
    return table


def _headline(plan: Canary | BlueGreen | Shadow, state: State) -> str:
    kind = plan.kind.replace("_", "-")
    if state.outcome is not None:
        return f"{kind} {state.rollout}: {state.outcome.replace('_', ' ')}"
    count = len(plan.stages())
    where = f"stage {state.index + 1} of {count}, " if 0 <= state.index < count else ""
    weight = f"{state.weight_fraction:.0%} of traffic"
    return f"{kind} {state.rollout}: {where}{state.stage}, {weight}, {state.stage_s:.0f} s"


def _cells(verdict: Verdict) -> tuple[str, str, str, str, str]:
    needs = "" if verdict.needed is None else f"{verdict.needed} more requests"
    return (
        _MARKS[verdict.state],
        _number(verdict.estimate),
        f"{_number(verdict.lower)} to {_number(verdict.upper)}",
        f"limit {verdict.threshold:.3g}",
        needs,
    )


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
