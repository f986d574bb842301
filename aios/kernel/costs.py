"""Questions about money: what was spent, by whom, and what an endpoint brought."""

from typing import Any

from pydantic import Field

from aios.clock import Clock
from aios.errors import UsageError
from aios.kernel.commands import Queries
from aios.kernel.metering import Metering
from aios.monitoring.roi import Asked, roi
from aios.monitoring.spending import RunFacts, check_by, spending
from aios.presentation import moment
from aios.records import Record
from aios.records.cost import Owner, Prices, Used
from aios.registry import Registry
from aios.registry.usage import DAY_S, HOURS_KEPT_S, UsageStore

HOUR_S = 3600.0
COST_S = 7 * DAY_S
ROI_S = 30 * DAY_S
LATEST_S = 4e9
"""Seconds; a larger time is no time."""


class CostQuery(Record):
    """What was spent between two times (Unix seconds); default the last 7 days."""

    since_s: float | None = Field(default=None, ge=0, le=LATEST_S)
    until_s: float | None = Field(default=None, ge=0, le=LATEST_S)
    by: str = "endpoint"


class RoiQuery(Record):
    """What an endpoint brought and cost between two times; default the last 30 days."""

    endpoint: str
    since_s: float | None = Field(default=None, ge=0, le=LATEST_S)
    until_s: float | None = Field(default=None, ge=0, le=LATEST_S)
    value_per_kpi: float = Field(default=1.0, allow_inf_nan=False)
    maintenance_per_month: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    extrapolate: bool = False


class Costs:
    """Answers from what the metering has stored, which is asked to store the rest first."""

    def __init__(
        self,
        registry: Registry,
        store: UsageStore,
        metering: Metering,
        prices: Prices,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._store = store
        self._metering = metering
        self._currency = prices.currency or ""
        self._clock = clock
        self.queries: Queries = {
            "costs": (CostQuery, self.costs),
            "roi": (RoiQuery, self.roi),
        }

    def costs(self, since_s: float | None, until_s: float | None, by: str) -> dict[str, Any]:
        """The bill of a window and its parts; see `monitoring.spending`."""
        check_by(by)
        since_s, until_s = self._window(since_s, until_s, COST_S)
        rows, bills = self._store.used(since_s, until_s), self._store.billed(since_s, until_s)
        found = spending(rows, bills, by=by, currency=self._currency, made=self._made(rows))
        first_s = min((place.start_s for place, _ in bills), default=None)
        return {"since_s": since_s, "until_s": until_s, "first_s": first_s, **found}

    def roi(self, endpoint: str, **asked: Any) -> dict[str, Any]:
        """What an endpoint brought; see `monitoring.roi`.

        Raises:
            UnknownEndpoint: it is not deployed.
        """
        model = self._registry.endpoint(endpoint).spec.model
        since_s, until_s = self._window(asked.pop("since_s"), asked.pop("until_s"), ROI_S)
        rows, bills = self._store.used(since_s, until_s), self._store.billed(since_s, until_s)
        # What was before the metering has no cost that is known, so its value is not counted.
        first_s = min((place.start_s for place, _ in bills), default=since_s)
        used: dict[Owner, Used] = {}
        for place, owner, one in rows:
            if place.currency == self._currency:
                used[owner] = used.get(owner, Used()) + one
        from_s = max(since_s, first_s)
        found = roi(
            Asked(from_s, until_s, **asked),
            used,
            self._store.kpis(endpoint, from_s, until_s),
            endpoint=endpoint,
            model=model,
            made=self._made(rows),
        )
        spec = self._registry.endpoint(endpoint).spec
        told = {"endpoint": endpoint, "model": model, "currency": self._currency or None}
        return {**told, "record_fraction": spec.record_fraction, **found}

    def _window(
        self, since_s: float | None, until_s: float | None, default_s: float
    ) -> tuple[float, float]:
        """From the start of an hour, or of a day where only days are kept.

        Raises:
            UsageError: it ends before it begins.
        """
        self._metering.save()
        now_s = self._clock.now_s()
        until_s = min(now_s, now_s if until_s is None else until_s)
        since_s = max(0.0, until_s - default_s) if since_s is None else since_s
        if since_s >= until_s:
            raise UsageError(
                f"the window ends before it begins: since {moment(since_s)}, until "
                f"{moment(until_s)} (it ends now at the latest)"
            )
        width_s = HOUR_S if since_s > now_s - HOURS_KEPT_S else DAY_S
        return since_s - since_s % width_s, until_s

    def _made(self, rows: list[Any]) -> dict[str, RunFacts]:
        wanted = {owner.run for _, owner, _ in rows if owner.run}
        if not wanted:
            return {}
        return {
            run.id: RunFacts(run.model, run.version, (run.spec.cause or {}).get("watch"))
            for run in self._registry.runs()
            if run.id in wanted
        }
