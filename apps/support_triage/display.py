"""The desk in a terminal while it works."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apps import screen
from apps.screen import verdict_line
from apps.support_triage.figures import Kpis, Outcome, Times, kpis, outcomes
from apps.support_triage.traffic import Desk

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

RECENT_S = 20.0
BAR_WIDTH = 40


class Screen(screen.Screen):
    """A live view of tickets, answers and the rollout that runs.

    Args:
        desk: whose figures to show.
        tickets: how many there will be.
        console: where to; standard output if not given.
    """

    def __init__(self, desk: Desk, tickets: int, console: "Console | None" = None) -> None:
        super().__init__(console)
        self._desk = desk
        self._tickets = tickets
        self._rollout: Mapping[str, Any] | None = None

    @property
    def elapsed_s(self) -> float:
        return self._desk.elapsed_s

    def show(self, rollout: Mapping[str, Any] | None) -> None:
        """The rollout as it is now (`RolloutStatus.fields`), or None where none runs."""
        self._rollout = rollout
        self.tick()

    def stage(self) -> str:
        if self._rollout is None:
            return "tickets come in"
        return f"version {self._rollout['to_version']}, {self._rollout['stage']}"

    def figures(self) -> str:
        return told(kpis(outcomes(self._desk)))

    def render(self) -> "RenderableType":
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        every = outcomes(self._desk)
        recent = [one for one in every if (one.answered_s or 0) > self.elapsed_s - RECENT_S]
        found = kpis(every)
        parts: list[RenderableType] = [_bar(recent), Text(told(found)), Text(_waits(found))]
        verdicts = self._rollout["verdicts"] if self._rollout else ()
        parts += [verdict_line(one) for one in verdicts]
        title = f"{self.stage()} · {found.tickets:,} of {self._tickets:,} tickets"
        return Panel(Group(*parts), title=Text(title), title_align="left", width=100)


def told(found: Kpis) -> str:
    """The figures in one line."""
    waiting = found.tickets - found.answered
    return (
        f"{found.answered:,} of {found.tickets:,} answered ({waiting:,} wait), "
        f"deflected {_percent(found.deflection)}, right {_percent(found.accuracy)}"
    )


def _waits(found: Kpis) -> str:
    return f"response without a person {_times(found.quick)}, with one {_times(found.slow)}"


def _times(found: Times) -> str:
    return f"p50 {found.p50_s:.1f} s, p95 {found.p95_s:.1f} s" if found.count else "–"


def _percent(value: float) -> str:
    return "–" if value != value else f"{value:.0%}"


def _bar(recent: list[Outcome]) -> "RenderableType":
    """Who answered lately."""
    from rich.text import Text

    line = Text("answers by  ")
    for name, style in (("rule", "cyan"), ("model", "blue"), ("a person", "dark_orange")):
        count = sum(one.by == name for one in recent)
        width = round(BAR_WIDTH * count / max(1, len(recent)))
        line.append("█" * width, style=style)
        line.append(f" {name} {count}  " if count else "")
    return line
