"""Prometheus metrics of the prediction log's tables; see `kernel.metrics` for all others.

| name | type | labels |
| --- | --- | --- |
| aios_log_rows_removed_total, aios_log_rows_resealed_total | counter | endpoint |
| aios_log_tidy_failures_total | counter | endpoint |
| aios_log_files, aios_log_unreadable_files | gauge | endpoint |

They begin at zero with each kernel.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aios.kernel.housekeeping import Housekeeping

_COUNTERS = {
    "aios_log_rows_removed": ("rows_removed", "Rows that were older than rows are kept"),
    "aios_log_rows_resealed": ("rows_resealed", "Rows that came under the newest key"),
    "aios_log_tidy_failures": ("failures", "Times that a log could not be tidied"),
}


class LogMetrics(Collector):
    """What housekeeping did, when asked for."""

    def __init__(self, housekeeping: Housekeeping) -> None:
        self._housekeeping = housekeeping

    def collect(self) -> Iterator[Metric]:
        for metric, (name, text) in _COUNTERS.items():
            counter = CounterMetricFamily(metric, text, labels=["endpoint"])
            for endpoint, counts in dict(self._housekeeping.counts).items():
                counter.add_metric([endpoint], counts[name])
            yield counter
        files = GaugeMetricFamily("aios_log_files", "Files of a log", labels=["endpoint"])
        aside = GaugeMetricFamily(
            "aios_log_unreadable_files", "Files that were set aside", labels=["endpoint"]
        )
        for endpoint, last in dict(self._housekeeping.last).items():
            files.add_metric([endpoint], last.get("files_after", 0))
            aside.add_metric([endpoint], len(last.get("set_aside", ())))
        yield files
        yield aside
