"""Prometheus metrics of all endpoints, one scrape target for the whole runtime.

They are made from the replicas' reports when asked for, so they cost the hot path nothing. Names
stay; a name that must go is told in the release before.

| name | type | labels | what |
| --- | --- | --- | --- |
| aios_requests_total | counter | endpoint | answered or refused |
| aios_requests_failed_total | counter | endpoint | got a 5xx answer |
| aios_requests_rejected_total | counter | endpoint | refused, too many were in flight |
| aios_request_latency_seconds | histogram | endpoint | whole requests inside a replica |
| aios_arm_latency_seconds | histogram | endpoint, arm, version | queueing and running a model |
| aios_arm_attempts_total | counter | endpoint, arm, version | calls of an arm |
| aios_arm_errors_total | counter | endpoint, arm, version, kind | failed calls |
| aios_contract_violations_total | counter | endpoint, field, kind | broke the contract |
| aios_degraded_total | counter | endpoint, arm, version | answers by a fallback |
| aios_arm_weight | gauge | endpoint, arm, version | share of keys, 0 to 1 |
| aios_shadow_dropped_total | counter | endpoint | copies that the shadow was too slow for |
| aios_recorder_dropped_total | counter | endpoint | predictions that were not recorded |
| aios_outliers_missed_total | counter | endpoint | scores asked for and not told |
| aios_in_flight | gauge | endpoint | requests being answered |
| aios_in_flight_limit | gauge | endpoint | how many may be, over the replicas there are |
| aios_queue_waiting | gauge | endpoint | calls that wait for stable's model |
| aios_replicas | gauge | endpoint | replicas that reported in the last 5 s |
| aios_drift_score | gauge | endpoint, measure, field | the 20 fields that drifted most |
| aios_alarms | gauge | endpoint, watch | conditions that hold now |
| aios_alerts_undelivered | gauge | endpoint, watch | alerts that have not arrived |
| aios_watch_looks_total | counter | endpoint, watch | judgements of windows or feedback |
| aios_watch_problem | gauge | endpoint, watch | 1 while it cannot be looked at |
| aios_retrains_total | counter | endpoint, watch | retrains that a watch has started |
| aios_feedback_total | counter | endpoint | entries kept |
| aios_feedback_looked_for_total | counter | endpoint, found | joined to an answer, or unknown |
| aios_feedback_waiting | gauge | endpoint | entries whose answer is still looked for |
| aios_feedback_lag_seconds | gauge | endpoint | age of the oldest of them |
| aios_feedback_delay_seconds | histogram | endpoint | from an answer to its feedback |
| aios_feedback_events_total | counter | endpoint, result | from event sources, see below |
| aios_log_rows_removed_total | counter | endpoint | rows of the prediction log, by age |
| aios_log_rows_resealed_total | counter | endpoint | rows that came under the newest key |
| aios_log_tidy_failures_total | counter | endpoint | times that tidying the log failed |
| aios_log_files, aios_log_unreadable_files | gauge | endpoint | files of the prediction log |
| aios_api_unauthenticated_total | counter | | calls of the control API without a valid key |

**Counters and histograms** are exact, also over restarts of replicas, whose reports are
cumulative: what a replica that is killed had not yet reported (1 s) is lost, and of arms what it
had not when a stage of a rollout ends. They begin anew with the kernel, but for feedback, which is
counted in the store. Gauges are as of the replicas' last reports, 1 s. What waits in a
challenger's own process is not known here; it is in aios_arm_latency_seconds.

**Labels** are bounded: per endpoint the 30 arms and versions that served last; `kind` is
model_failed, bad_output, deadline or unavailable; `result` is taken, repeated, history, ahead (of
the clock; also counted as one of the former) or refused. Watches and metrics of endpoints that
were taken down are gone.

    scrape_configs:                     # prometheus.yml
      - job_name: aios
        authorization: {credentials_file: /etc/prometheus/aios.key}  # of a viewer: aios keys add
        static_configs: [{targets: ["127.0.0.1:8000"]}]
    rule_files: [aios/telemetry/prometheus/alerts.yaml]

What the cluster costs has a table of its own in `kernel.cost_metrics`, agents in
`kernel.agent_metrics`.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aios.kernel.alerts import Alerts
from aios.kernel.observations import Observations
from aios.kernel.watcher import Watcher
from aios.monitoring import EndpointTotals
from aios.registry import EndpointState, Observed, Registry
from aios.telemetry.histogram import DELAY_BOUNDS_S, cumulative

_COUNTERS = {
    "aios_requests": ("requests", "Requests answered or refused"),
    "aios_requests_failed": ("failed", "Requests that got a 5xx answer"),
    "aios_requests_rejected": ("rejected", "Requests refused because too many were in flight"),
    "aios_shadow_dropped": ("shadow_dropped", "Copies dropped because the shadow was behind"),
    "aios_recorder_dropped": ("recorder_dropped", "Predictions that were not recorded"),
    "aios_outliers_missed": ("outliers_missed", "Outlier scores asked for and not told"),
}
_GAUGES = {
    "aios_in_flight": ("in_flight", "Requests being answered"),
    "aios_queue_waiting": ("queued", "Calls that wait for the model of stable"),
    "aios_replicas": ("replicas", "Replicas that reported in the last 5 seconds"),
}
_ARM = ["endpoint", "arm", "version"]


def render(
    registry: Registry,
    observations: Observations,
    observed: Observed,
    watcher: Watcher,
    alerts: Alerts,
    *more: Collector,
) -> str:
    """All metrics in Prometheus's text format; `more` are collectors of other modules."""
    collectors = CollectorRegistry()
    endpoints = registry.endpoints()
    totals = {one.spec.name: observations.totals(one.spec.name) for one in endpoints}
    for part in (
        _endpoints(registry, endpoints, totals),
        _arms(totals),
        _watches(observed, watcher, alerts, set(totals)),
        _feedback(observed, list(totals)),
    ):
        collectors.register(_Collected(list(part)))
    for collector in more:
        collectors.register(collector)
    return generate_latest(collectors).decode()


class _Collected:
    """Metrics that were made already, as the client library takes them."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _endpoints(
    registry: Registry, endpoints: list[EndpointState], totals: dict[str, EndpointTotals]
) -> Iterator[Metric]:
    for metric, (field, text) in _COUNTERS.items():
        counter = CounterMetricFamily(metric, text, labels=["endpoint"])
        for name, total in totals.items():
            counter.add_metric([name], getattr(total, field))
        yield counter
    for metric, (field, text) in _GAUGES.items():
        gauge = GaugeMetricFamily(metric, text, labels=["endpoint"])
        for name, total in totals.items():
            gauge.add_metric([name], getattr(total, field))
        yield gauge
    limit = GaugeMetricFamily(
        "aios_in_flight_limit",
        "Requests that may be answered at a time, over the replicas there are",
        labels=["endpoint"],
    )
    for state in endpoints:
        most = state.spec.max_queued * totals[state.spec.name].replicas
        limit.add_metric([state.spec.name], most)
    yield limit
    took = HistogramMetricFamily(
        "aios_request_latency_seconds", "Whole requests inside a replica", labels=["endpoint"]
    )
    for name, total in totals.items():
        took.add_metric([name], cumulative(total.took), total.took.sum_s)
    yield took
    yield _violations(totals)
    yield _weights(registry, list(totals))


def _arms(totals: dict[str, EndpointTotals]) -> Iterator[Metric]:
    attempts = CounterMetricFamily("aios_arm_attempts", "Calls of an arm", labels=_ARM)
    degraded = CounterMetricFamily("aios_degraded", "Answers by a fallback", labels=_ARM)
    errors = CounterMetricFamily(
        "aios_arm_errors", "Failed calls of an arm, by kind", labels=[*_ARM, "kind"]
    )
    service = HistogramMetricFamily(
        "aios_arm_latency_seconds", "Queueing and running the model of an arm", labels=_ARM
    )
    for name, total in totals.items():
        for (which, version), count in total.attempts.items():
            attempts.add_metric([name, which, str(version)], count)
        for (which, version), count in total.degraded.items():
            degraded.add_metric([name, which, str(version)], count)
        for (which, version, kind), count in total.errors.items():
            errors.add_metric([name, which, str(version), kind], count)
        for (which, version), took in total.service.items():
            service.add_metric([name, which, str(version)], cumulative(took), took.sum_s)
    yield from (attempts, degraded, errors, service)


def _violations(totals: dict[str, EndpointTotals]) -> Metric:
    labels = ["endpoint", "field", "kind"]
    family = CounterMetricFamily(
        "aios_contract_violations", "Requests that broke the contract", labels=labels
    )
    for name, total in totals.items():
        for field, kinds in total.violations.items():
            for kind, count in kinds.items():
                family.add_metric([name, field, kind], count)
    return family


def _weights(registry: Registry, names: list[str]) -> Metric:
    weights = GaugeMetricFamily("aios_arm_weight", "Share of keys", labels=_ARM)
    for name in names:
        plan = registry.plan(name)
        if plan is None:
            continue
        rest = 1.0
        if plan.challenger is not None:
            rest -= plan.challenger.weight_fraction
            labels = [name, plan.challenger.arm, str(plan.challenger.served.version)]
            weights.add_metric(labels, plan.challenger.weight_fraction)
        weights.add_metric([name, "stable", str(plan.stable.version)], rest)
    return weights


def _watches(
    observed: Observed, watcher: Watcher, alerts: Alerts, deployed: set[str]
) -> Iterator[Metric]:
    """What watches found last, and whether they can look."""
    labels = ["endpoint", "watch"]
    alarms = GaugeMetricFamily("aios_alarms", "Conditions that hold now", labels=labels)
    undelivered = GaugeMetricFamily(
        "aios_alerts_undelivered", "Alerts that have not arrived", labels=labels
    )
    looks = CounterMetricFamily(
        "aios_watch_looks", "Judgements of windows or feedback", labels=labels
    )
    problem = GaugeMetricFamily(
        "aios_watch_problem", "1 while the watch cannot be looked at", labels=labels
    )
    retrains = CounterMetricFamily(
        "aios_retrains", "Retrains that a watch has started", labels=labels
    )
    scores: dict[tuple[str, str, str], float] = {}
    for watch in observed.watches():
        if watch.spec.endpoint not in deployed:
            continue
        who, state = [watch.spec.endpoint, watch.id], watch.state
        alarms.add_metric(who, len(state.alarms))
        undelivered.add_metric(who, len(alerts.undelivered(watch.id)))
        looks.add_metric(who, state.looks + state.label_looks)
        problem.add_metric(who, watch.id in watcher.problems)
        retrains.add_metric(who, state.triggered)
        scores |= _scores(watch)
    drift = GaugeMetricFamily(
        "aios_drift_score",
        "Score of a watched field in the last windows",
        labels=["endpoint", "measure", "field"],
    )
    for which, value in sorted(scores.items()):
        drift.add_metric(list(which), value)
    yield from (alarms, undelivered, looks, problem, retrains, drift)


def _scores(watch: Any) -> dict[tuple[str, str, str], float]:
    """By endpoint, measure and field; a finding keeps those of 20 fields at most."""
    measures = {one.text: one.measure for one in watch.spec.conditions}
    found = {}
    for finding in watch.state.findings:
        scores = finding.evidence.get("scores") or (
            {finding.subject: finding.score} if finding.score is not None else {}
        )
        for field, value in scores.items():
            found[(watch.spec.endpoint, measures.get(finding.condition, ""), field)] = value
    return found


def _feedback(observed: Observed, names: list[str]) -> Iterator[Metric]:
    given = CounterMetricFamily("aios_feedback", "Entries of feedback kept", labels=["endpoint"])
    looked_for = CounterMetricFamily(
        "aios_feedback_looked_for",
        "Entries of feedback joined to their answer, or on an unknown one",
        labels=["endpoint", "found"],
    )
    waiting = GaugeMetricFamily(
        "aios_feedback_waiting", "Entries whose answer is still looked for", labels=["endpoint"]
    )
    lag = GaugeMetricFamily(
        "aios_feedback_lag_seconds",
        "Age of the oldest feedback whose answer is still looked for",
        labels=["endpoint"],
    )
    delay = HistogramMetricFamily(
        "aios_feedback_delay_seconds", "From an answer to its feedback", labels=["endpoint"]
    )
    events = CounterMetricFamily(
        "aios_feedback_events",
        "Feedback events by what became of them",
        labels=["endpoint", "result"],
    )
    delays = observed.feedback_delays()
    for name in names:
        counts = observed.feedback_counts(name)
        given.add_metric([name], counts["given"])
        for found in ("joined", "unknown"):
            looked_for.add_metric([name, found], counts[found])
        waiting.add_metric([name], counts["waiting"])
        lag.add_metric([name], observed.feedback_lag_s(name))
        if name in delays:
            buckets = cumulative(delays[name], DELAY_BOUNDS_S)
            delay.add_metric([name], buckets, delays[name].sum_s)
        for result, count in observed.feedback_events(name).items():
            events.add_metric([name, result], count)
    yield from (given, looked_for, waiting, lag, delay, events)
