"""Prometheus metrics of events; see `kernel.metrics` for all others.

| name | type | labels | what |
| --- | --- | --- | --- |
| aios_events_total | counter | subscription, result | see below |
| aios_events_waiting | gauge | subscription | in the inbox, not acted on |
| aios_events_oldest_seconds | gauge | subscription | age of the oldest of them |
| aios_consumer_lag | gauge | subscription | messages at the source that were not read |
| aios_consumers | gauge | subscription | processes that read |
| aios_consumer_restarts_total | counter | subscription | of them, that began anew |
| aios_subscription_problem | gauge | subscription | 1 while nothing is read or acted on |
| aios_dead_letters | gauge | subscription | set aside and not replayed; `outbox`: not sent |
| aios_outbox_waiting | gauge | sink | events to send |
| aios_outbox_oldest_seconds | gauge | sink | age of the oldest of them |

`result` is taken, repeated (delivered before), filtered, refused (of webhooks, told the sender),
unreadable (set aside), done, retried or dead (set aside). Counters begin at zero with each kernel.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aios.clock import Clock
from aios.kernel.events import Events
from aios.records.events import SINK

_RESULTS = (*("taken", "repeated", "filtered", "refused", "unreadable", "done", "retried", "dead"),)


class EventMetrics(Collector):
    """What is known of events, when asked for."""

    def __init__(self, events: Events, clock: Clock) -> None:
        self._events = events
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        labels = ["subscription"]
        total = CounterMetricFamily(
            "aios_events", "Events by what became of them", labels=["subscription", "result"]
        )
        waiting = GaugeMetricFamily("aios_events_waiting", "Events to act on", labels=labels)
        oldest = GaugeMetricFamily(
            "aios_events_oldest_seconds", "Age of the oldest event to act on", labels=labels
        )
        problem = GaugeMetricFamily(
            "aios_subscription_problem", "1 while nothing is read or acted on", labels=labels
        )
        events, now_s = self._events, self._clock.now_s()
        backlog = events.store.backlog()
        for name in sorted(one.id for one in events.store.subscriptions()):
            for result in _RESULTS:
                key = (name, result)
                total.add_metric([name, result], events.counts[key] + events.dispatcher.counts[key])
            count, since_s = backlog.get(name, (0, now_s))
            waiting.add_metric([name], count)
            oldest.add_metric([name], max(0.0, now_s - since_s))
            readers = events.readers.readers.get(name)
            told = events.dispatcher.problem(name) or (readers and readers.problem)
            problem.add_metric([name], bool(told))
        yield from (total, waiting, oldest, problem)
        yield from self._readers()
        dead = GaugeMetricFamily("aios_dead_letters", "Events set aside", labels=labels)
        for name, count in sorted(events.store.dead_counts().items()):
            dead.add_metric([name], count)
        yield dead
        yield from self._outbox(now_s)

    def _readers(self) -> Iterator[Metric]:
        labels = ["subscription"]
        lag = GaugeMetricFamily("aios_consumer_lag", "Messages not read yet", labels=labels)
        number = GaugeMetricFamily("aios_consumers", "Processes that read", labels=labels)
        restarts = CounterMetricFamily(
            "aios_consumer_restarts", "Processes that began anew", labels=labels
        )
        for name, one in sorted(self._events.readers.readers.items()):
            number.add_metric([name], len(one.handles))
            restarts.add_metric([name], one.restarts)
            if one.lag is not None:
                lag.add_metric([name], one.lag)
        yield from (lag, number, restarts)

    def _outbox(self, now_s: float) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("aios_outbox_waiting", "Events to send", labels=["sink"])
        oldest = GaugeMetricFamily(
            "aios_outbox_oldest_seconds", "Age of the oldest event to send", labels=["sink"]
        )
        found: dict[str, tuple[int, float]] = {}
        for text, (count, since_s) in self._events.store.outgoing().items():
            shown = SINK.validate_json(text).shown
            known = found.get(shown, (0, now_s))
            found[shown] = (known[0] + count, min(known[1], since_s))
        for shown, (count, since_s) in sorted(found.items()):
            waiting.add_metric([shown], count)
            oldest.add_metric([shown], max(0.0, now_s - since_s))
        yield from (waiting, oldest)
