"""The story in a terminal while it runs; plain lines where there is no terminal."""

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from apps.predictive_maintenance.outcome import Look
from apps.predictive_maintenance.plant import TICKS_AN_HOUR

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LINE_EVERY_S = 5.0
REFRESH_PER_S = 4
STRIP = 60
_GLYPHS = {"running": ("━", "green"), "stopped": ("▒", "yellow"), "broken": ("█", "red")}


class Screen:
    """A live view of the machines and what is done about them. Use as a context manager.

    Args:
        site: the machines; see `stream.Site`.
    """

    def __init__(self, site: Any, console: "Console") -> None:
        self._site = site
        self._console = console
        self._live: Live | None = None
        self._began_s = time.monotonic()
        self._printed_s = 0.0
        self._figures = ""
        self._strips: dict[str, list[str]] = {machine: [] for machine in site.lives}
        self._told: dict[str, str] = {}

    def __enter__(self) -> Self:
        from rich.live import Live

        self._began_s = time.monotonic()
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

        line = Text(f"{time.monotonic() - self._began_s:6.1f} s  ", style="dim")
        self._console.print(line.append(text, style=style), soft_wrap=True)

    def show(self, look: Look, flows: list[dict[str, Any]], asked: int) -> None:
        """The stream and the interventions as they are now."""
        for machine, life in self._site.lives.items():
            self._strips[machine] = [*self._strips[machine], life.state][-STRIP:]
        for flow in reversed(flows):
            self._tell(flow)
        states = Counter(life.state for life in self._site.lives.values())
        self._figures = (
            f"hour {look.tick / TICKS_AN_HOUR:.0f}: {look.sent:,} readings sent, "
            f"{look.lag + look.waiting} on their way; {states['running']} machines run, "
            f"{states['stopped']} are stopped, {states['broken']} broken; {asked} questions wait"
        )
        if self._live is None and time.monotonic() - self._printed_s >= LINE_EVERY_S:
            self._printed_s = time.monotonic()
            self.say(self._figures)

    def _tell(self, flow: dict[str, Any]) -> None:
        """A line where an intervention began or ended."""
        before, now = self._told.get(flow["id"]), flow["status"]
        self._told[flow["id"]] = now
        if before is None:
            self.say(f"intervention {flow['id']} is opened", "cyan")
        if now != before and now == "finished":
            self.say(f"intervention {flow['id']}: repaired, and the machine runs again", "green")
        elif now != before and now == "failed":
            self.say(f"intervention {flow['id']}: no yes, so its reservation is undone", "yellow")

    def _render(self) -> "RenderableType":
        from rich.panel import Panel
        from rich.text import Text

        lines = Text()
        for machine, strip in self._strips.items():
            lines.append(f"{machine} ")
            for state in strip:
                glyph, style = _GLYPHS[state]
                lines.append(glyph, style=style)
            lines.append("\n")
        lines.append(self._figures)
        return Panel(lines, title="machines, one mark a second", title_align="left", width=100)
