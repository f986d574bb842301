"""The story in a terminal while it runs; plain lines where there is no terminal."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import aios
from apps import screen
from apps.loan_approval.outcomes import Stats
from apps.loan_approval.replay import Replay
from apps.screen import REFRESH_PER_S, verdict_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WINDOW_S = 2.0
"""Rates and latency are over the last two seconds: steady, and soon after a change."""

RUN_LOOK_S = 0.5

BAR_WIDTH = 40
_ARM_STYLES = {"stable": "blue", "canary": "dark_orange"}


class Screen(screen.Screen):
    """A live view of the traffic and of the rollout that runs.

    `show` says what the rollout looks like now and is replaced by the next.

    Args:
        replay: whose figures to show.
        console: where to; standard output if not given.
    """

    def __init__(self, replay: Replay, console: "Console | None" = None) -> None:
        super().__init__(console)
        self._replay = replay
        self._rollout: Mapping[str, Any] | None = None
        self._about = ""

    @property
    def elapsed_s(self) -> float:
        return self._replay.elapsed_s

    def show(self, rollout: Mapping[str, Any] | None, about: str = "") -> None:
        """The rollout as it is now, or None between rollouts.

        Args:
            rollout: `RolloutStatus.fields`.
            about: what is special about the new version.
        """
        self._rollout, self._about = rollout, about
        self.tick()

    def stage(self) -> str:
        return _stage(self._rollout)

    def figures(self) -> str:
        return _figures(self._replay, self._replay.stats(WINDOW_S))

    def render(self) -> "RenderableType":
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        recent = self._replay.stats(WINDOW_S)
        parts: list[RenderableType] = [
            *_arm_lines(recent),
            Text(_figures(self._replay, recent)),
        ]
        verdicts = self._rollout["verdicts"] if self._rollout else ()
        parts += [verdict_line(verdict) for verdict in verdicts]
        title = _stage(self._rollout) + (f" · {self._about}" if self._about else "")
        return Panel(Group(*parts), title=Text(title), title_align="left", width=100)


def _stage(rollout: Mapping[str, Any] | None) -> str:
    if rollout is None:
        return "steady traffic"
    return f"v{rollout['from_version']} → v{rollout['to_version']}: {rollout['stage']}"


def _figures(replay: Replay, recent: Stats) -> str:
    latency = "–" if recent.p95_s != recent.p95_s else f"{recent.p95_s * 1000:.1f} ms"
    return (
        f"{recent.rate_per_s:.0f} requests/s, p95 {latency}, "
        f"sent {replay.counts.sent:,}, failed {replay.counts.failed:,}, "
        f"degraded {replay.counts.degraded:,}"
    )


def _arm_lines(recent: Stats) -> "list[RenderableType]":
    from rich.text import Text

    lines: list[RenderableType] = []
    for arm in ("stable", "canary"):
        share = recent.by_arm.get(arm, 0) / max(recent.answered, 1)
        width = round(share * BAR_WIDTH)
        if share > 0:
            width = max(width, 1)
        line = Text(f"{arm:<8}")
        line.append("█" * width, style=_ARM_STYLES[arm])
        line.append(" " * (BAR_WIDTH - width) + f" {share * recent.rate_per_s:6.0f}/s")
        lines.append(line)
    return lines


def watch_run(run: aios.Run, about: str, console: "Console") -> Any:
    """Show a training run until its version is registered, or it ended otherwise.

    On a terminal its trials come up one by one; else a line per stage.
    """
    from rich.live import Live

    status = run.status()
    with Live(status, console=console, refresh_per_second=REFRESH_PER_S, transient=True) as live:
        stage = ""
        while not status.registered:
            if not console.is_terminal and status.stage != stage:
                stage = status.stage
                console.print(f"{about}: {stage}")
            live.update(status)
            time.sleep(RUN_LOOK_S)
            status = run.status()
    return status
