"""The story in a terminal while it runs; plain lines where there is no terminal."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import aios
from apps.loan_approval.outcomes import Stats
from apps.loan_approval.replay import Replay

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

WINDOW_S = 2.0
"""Rates and latency are over the last two seconds: steady, and soon after a change."""

REFRESH_PER_S = 4
RUN_LOOK_S = 0.5
LINE_EVERY_S = 5.0
"""Without a terminal, how often a line of figures is printed at most."""

BAR_WIDTH = 40
_ARM_STYLES = {"stable": "blue", "canary": "dark_orange"}
_STATE_STYLES = {"worse": "bold red", "not_worse": "green"}


class Screen:
    """A live view of the traffic and of the rollout that runs.

    Use as a context manager. `say` tells what happened and stays; `show` says what the
    rollout looks like now and is replaced by the next.

    Args:
        replay: whose figures to show.
        console: where to; standard output if not given.
    """

    def __init__(self, replay: Replay, console: "Console | None" = None) -> None:
        from rich.console import Console

        self._replay = replay
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._rollout: Mapping[str, Any] | None = None
        self._about = ""
        self._printed_s = -LINE_EVERY_S
        self._printed_stage = ""

    def __enter__(self) -> Self:
        from rich.live import Live

        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=REFRESH_PER_S,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str, style: str = "") -> None:
        """One line that stays, with the seconds since the start."""
        from rich.text import Text

        line = Text(f"{self._replay.elapsed_s:6.1f} s  ", style="dim")
        self._console.print(line.append(text, style=style), soft_wrap=True)

    def show(self, rollout: Mapping[str, Any] | None, about: str = "") -> None:
        """The rollout as it is now, or None between rollouts.

        Args:
            rollout: `RolloutStatus.fields`.
            about: what is special about the new version.
        """
        self._rollout, self._about = rollout, about
        if self._live is None:
            self._print_line()

    def _print_line(self) -> None:
        stage = _stage(self._rollout)
        now_s = time.monotonic()
        if stage == self._printed_stage and now_s - self._printed_s < LINE_EVERY_S:
            return
        self._printed_stage, self._printed_s = stage, now_s
        self.say(f"{stage}: {_figures(self._replay, self._replay.stats(WINDOW_S))}")

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        recent = self._replay.stats(WINDOW_S)
        parts: list[RenderableType] = [
            *_arm_lines(recent),
            Text(_figures(self._replay, recent)),
        ]
        verdicts = self._rollout["verdicts"] if self._rollout else ()
        parts += [_verdict_line(verdict) for verdict in verdicts]
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


def _verdict_line(verdict: Mapping[str, Any]) -> "RenderableType":
    from rich.text import Text

    line = Text(f"{verdict['rule']:<28} ")
    state = str(verdict["state"])
    line.append(f"{state.replace('_', ' '):<10}", style=_STATE_STYLES.get(state, "dim"))
    line.append(
        f" {_number(verdict.get('estimate'))} in "
        f"[{_number(verdict.get('lower'))}, {_number(verdict.get('upper'))}]"
        f", limit {_number(verdict['threshold'])}"
    )
    if state == "undecided" and verdict.get("needed"):
        line.append(f", needs {verdict['needed']:,} more", style="dim")
    return line


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


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
