"""`rt.monitor`: what an endpoint saw lately, beside what is normal for it."""

from typing import Any

from aios.presentation import Shown
from aios.runtime.cost import Costs
from aios.runtime.objects import Live
from aios.runtime.report import Report
from aios.runtime.tables import Look
from aios.runtime.transport import Transport
from aios.runtime.watching import WatchStatus

MOST_REFUSALS = 8


class MonitorStatus(Shown):
    """What an endpoint's stable version saw lately, beside what is normal for it.

    Attributes:
        version: the version.
        normal: what it is compared with: `training data`, `its first answers`, or None as long as
            too few came.
        fields: inputs and outputs by name, furthest off first: `role`, `values`, `scores`, `bars`.
        windows: each window with its rows and PSI by field, oldest first.
        quality: measures on feedback over time, oldest first.
        feedback: how much feedback there is, and how much of it was joined.
        refused: requests that broke the contract since the kernel began, by field and kind of
            fault (`missing`, `unknown`, `wrong_type`, `out_of_range`, `unknown_category`, `null`;
            `malformed` under "" for bodies that could not be read).
        domain_auc: how well rows were told from what is normal, over time, where a watch asks for
            it: `end_s` and `auc`, oldest first.
        groups: how groups of people fare, by what tells them apart, the largest first: `group`,
            `rows`, `selection_rate`, `labels`, `accuracy` and their 95 % intervals.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self.endpoint: str = found["endpoint"]
        self.version: str = found["version"]
        self.normal: str | None = found["normal"]
        self.fields: dict[str, Any] = found["fields"]
        self.windows: list[dict[str, Any]] = found["windows"]
        self.quality: list[dict[str, Any]] = found["quality"]
        self.feedback: dict[str, Any] = found["feedback"]
        self.refused: dict[str, dict[str, int]] = found["refused"]
        self.domain_auc: list[dict[str, float]] = found["domain_auc"]
        self.groups: dict[str, list[dict[str, Any]]] = found["groups"]
        self.watches = [WatchStatus(row) for row in found["watches"]]

    @property
    def title(self) -> str:
        """One line: version, windows, what is normal."""
        rows = sum(window["rows"] for window in self.windows)
        beside = f"beside {self.normal}" if self.normal else "nothing to compare with yet"
        return (
            f"{self.endpoint} serves {self.version}: {rows:,} rows in {len(self.windows)} windows, "
            f"{beside}; {self.feedback['joined']:,} pieces of feedback on them"
        )

    @property
    def refusals(self) -> str:
        """`income missing 120, age out_of_range 3`, most frequent first; "" if there are none."""
        counts = [
            (count, f"{field or 'body'} {kind}")
            for field, kinds in self.refused.items()
            for kind, count in kinds.items()
        ]
        counts.sort(key=lambda one: (-one[0], one[1]))
        told = ", ".join(f"{what} {count:,}" for count, what in counts[:MOST_REFUSALS])
        more = len(counts) - MOST_REFUSALS
        return f"{told} and {more} more" if more > 0 else told

    def _shown(self) -> Look:
        measures = ("psi", "ks", "wasserstein", "nulls", "outside")
        rows = [
            [
                name,
                field["role"],
                field["values"],
                *(_short(field["scores"].get(m)) for m in measures),
            ]
            for name, field in self.fields.items()
        ]
        title = f"{self.title}\nrefused: {self.refusals}" if self.refused else self.title
        return title, ["field", "role", "values", *measures], rows


class Monitor(Live):
    """What can be seen of an endpoint. Holds only its name; every call asks the runtime."""

    def __init__(self, transport: Transport, endpoint: str) -> None:
        self._transport = transport
        self.endpoint = endpoint

    def status(self) -> MonitorStatus:
        """Scores of all fields now."""
        return MonitorStatus(self._transport.get(f"/api/v1/endpoints/{self.endpoint}/monitor"))

    def report(self) -> Report:
        """All of it as a page: distributions now and then, drift and quality over time, cost."""
        return Report(self.status(), Costs(self._transport.get("/api/v1/costs", by="arm")))

    def _named(self) -> str:
        return f"monitor of {self.endpoint} at {self._transport.address}"

    def _now(self) -> Shown:
        return self.status()


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
