"""A story in a terminal while it runs; plain lines where there is no terminal."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

REFRESH_PER_S = 4
LINE_EVERY_S = 5.0
"""Without a terminal, how often a line of figures is printed at most."""
_STATE_STYLES = {"worse": "bold red", "not_worse": "green"}


class Screen(ABC):
    """A live view of what goes on. Use as a context manager.

    `say` tells what happened and stays; `tick` says that something may have changed, which
    a terminal sees by itself.

    Args:
        console: where to; standard output if not given.
    """

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console

        self.console = console or Console(highlight=False)
        self._live: Live | None = None
        self._printed_s = -LINE_EVERY_S
        self._printed_stage = ""

    @property
    @abstractmethod
    def elapsed_s(self) -> float:
        """Seconds since the start."""

    @abstractmethod
    def stage(self) -> str:
        """What goes on now, in a few words."""

    @abstractmethod
    def figures(self) -> str:
        """How it goes, in one line."""

    @abstractmethod
    def render(self) -> "RenderableType":
        """What a terminal shows."""

    def __enter__(self) -> Self:
        from rich.live import Live

        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self.render,
                console=self.console,
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

        line = Text(f"{self.elapsed_s:6.1f} s  ", style="dim")
        self.console.print(line.append(text, style=style), soft_wrap=True)

    def tick(self) -> None:
        """Print a line if there is no terminal and the stage changed, or it is time for one."""
        if self._live is not None:
            return
        stage, now_s = self.stage(), time.monotonic()
        if stage == self._printed_stage and now_s - self._printed_s < LINE_EVERY_S:
            return
        self._printed_stage, self._printed_s = stage, now_s
        self.say(f"{stage}: {self.figures()}")


def verdict_line(verdict: Mapping[str, Any]) -> "RenderableType":
    """A rule of a rollout as it stands."""
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
