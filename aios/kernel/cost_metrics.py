"""Prometheus metrics of what the cluster costs; see `kernel.metrics` for all others.

| name | type | labels |
| --- | --- | --- |
| aios_bill_total | counter | currency |
| aios_cost_total | counter | kind, endpoint, model, version, arm, currency |
| aios_core_seconds_total | counter | kind, endpoint, model, version, arm |

`model` is what a flow or a class of agents is called, too.

They begin at zero with each kernel; `rt.cost()` has what was before. What has no price is in
core-seconds alone.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aios.kernel.metering import Metering

_OWNER = ["kind", "endpoint", "model", "version", "arm"]


class CostMetrics(Collector):
    """Collects what the metering has counted."""

    def __init__(self, metering: Metering) -> None:
        self._metering = metering

    def collect(self) -> Iterator[Metric]:
        bill = CounterMetricFamily("aios_bill", "What all nodes cost", labels=["currency"])
        cost = CounterMetricFamily(
            "aios_cost", "What each part of the bill costs", labels=[*_OWNER, "currency"]
        )
        cores = CounterMetricFamily("aios_core_seconds", "CPU time by who had it", labels=_OWNER)
        bills, totals = self._metering.counted()
        for currency, amount in bills.items():
            if currency:
                bill.add_metric([currency], amount)
        seconds: dict[tuple[str, ...], float] = {}
        for (owner, currency), used in totals.items():
            labels = tuple(str(getattr(owner, name) or "") for name in _OWNER)
            seconds[labels] = seconds.get(labels, 0.0) + used.core_s
            if currency:
                cost.add_metric([*labels, currency], used.cost)
        for labels, core_s in seconds.items():
            cores.add_metric(list(labels), core_s)
        yield bill
        yield cost
        yield cores
