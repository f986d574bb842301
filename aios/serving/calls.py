"""What a replica did for each arm since it began, over eras; made from its own reports."""

from typing import Any

from aios.records import WindowReport


class Calls:
    """Sums the calls of arms, which a report counts anew in each era.

    What happens between the last report of an era and its end, a second at most, is not seen.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._era = ""
        self._stable = 0

    def add(self, report: WindowReport) -> None:
        """Take a report; they come in order."""
        if report.era != self._era:
            self._era, self._before = report.era, {}
        for arm, one in report.arms.items():
            key = f"{arm}:{one.version}"
            grown = max(0, one.attempts - self._before.get(key, 0))
            self._counts[key] = self._counts.get(key, 0) + grown
            self._before[key] = one.attempts
        if "stable" in report.arms:
            self._stable = report.arms["stable"].version

    def told(self) -> dict[str, Any]:
        """As fields of a `ProcessUsage`."""
        return {"version": self._stable, "arm": "stable", "calls": dict(self._counts)}
