"""The machines in a terminal while they run; plain lines where there is no terminal."""

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from apps import screen
from apps.predictive_maintenance.outcome import Look
from apps.predictive_maintenance.plant import TICKS_AN_HOUR

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

STRIP = 80
_GLYPHS = {"running": ("━", "green"), "stopped": ("▒", "yellow"), "broken": ("█", "red")}


class Screen(screen.Screen):
    """A live view of the machines and what is done about them.

    Args:
        site: the machines; see `stream.Site`.
    """

    def __init__(self, site: Any, console: "Console") -> None:
        super().__init__(console)
        self._site = site
        self._began_s = time.monotonic()
        self._look = Look(0, 0, 0, 0)
        self._asked = 0
        self._strips: dict[str, list[str]] = {machine: [] for machine in site.lives}
        self._told: dict[str, str] = {}

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def stage(self) -> str:
        return f"day {self._look.tick / TICKS_AN_HOUR / 24:.0f}"

    def figures(self) -> str:
        states = Counter(life.state for life in self._site.lives.values())
        return (
            f"hour {self._look.tick / TICKS_AN_HOUR:.0f}, {self._look.sent:,} readings sent, "
            f"{self._look.lag + self._look.waiting} on their way; {states['running']} machines "
            f"run, {states['stopped']} are stopped, {states['broken']} broken; {self._asked} "
            "questions wait"
        )

    def render(self) -> "RenderableType":
        from rich.panel import Panel
        from rich.text import Text

        lines = Text()
        for machine, strip in self._strips.items():
            lines.append(f"{machine} ")
            for state in strip:
                glyph, style = _GLYPHS[state]
                lines.append(glyph, style=style)
            lines.append("\n")
        lines.append(self.figures())
        return Panel(lines, title="machines, a mark a second", title_align="left", width=100)

    def show(self, look: Look, flows: list[dict[str, Any]], asked: int) -> None:
        """The stream and the interventions as they are now."""
        self._look, self._asked = look, asked
        for machine, life in self._site.lives.items():
            self._strips[machine] = [*self._strips[machine], life.state][-STRIP:]
        for flow in reversed(flows):
            self._tell(flow)
        self.tick()

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
