"""Prometheus metrics of all endpoints, one scrape target for the whole runtime.

They are made from the replicas' reports when asked for, so they cost the hot path nothing.

| name | type | labels |
| --- | --- | --- |
| aios_requests_total | counter | endpoint |
| aios_requests_failed_total | counter | endpoint |
| aios_requests_rejected_total | counter | endpoint |
| aios_arm_attempts_total | counter | endpoint, arm, version |
| aios_arm_errors_total | counter | endpoint, arm, version, kind |
| aios_contract_violations_total | counter | endpoint, field, kind |
| aios_degraded_total | counter | endpoint, arm, version |
| aios_shadow_dropped_total, aios_recorder_dropped_total | counter | endpoint |
| aios_outliers_missed_total | counter | endpoint |
| aios_request_latency_seconds | summary | endpoint, quantile |
| aios_in_flight, aios_replicas | gauge | endpoint |
| aios_arm_weight | gauge | endpoint, arm, version |
| aios_drift_score | gauge | endpoint, measure, field |
| aios_alarms | gauge | endpoint, watch |
| aios_retrains_total | counter | endpoint, watch |
| aios_feedback_requests | gauge | endpoint, state (joined, waiting, unknown) |
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric, SummaryMetricFamily

from aios.kernel.observations import Observations
from aios.registry import Observed, Registry

QUANTILES = (0.5, 0.95, 0.99)
_COUNTERS = {
    "aios_requests": ("requests", "Requests answered or refused"),
    "aios_requests_failed": ("failed", "Requests that got a 5xx answer"),
    "aios_requests_rejected": ("rejected", "Requests refused because too many were in flight"),
    "aios_shadow_dropped": ("shadow_dropped", "Copies dropped because the shadow was behind"),
    "aios_recorder_dropped": ("recorder_dropped", "Predictions that were not recorded"),
    "aios_outliers_missed": ("outliers_missed", "Outlier scores asked for and not told"),
}


def render(registry: Registry, observations: Observations, observed: Observed) -> str:
    """All metrics in Prometheus's text format."""
    collectors = CollectorRegistry()
    collectors.register(_Collector(registry, observations))
    collectors.register(_Watched(registry, observed))
    return generate_latest(collectors).decode()


class _Collector:
    def __init__(self, registry: Registry, observations: Observations) -> None:
        self._registry = registry
        self._observations = observations

    def collect(self) -> Iterator[Metric]:
        names = [state.spec.name for state in self._registry.endpoints()]
        totals = {name: self._observations.totals(name) for name in names}
        for metric, (field, text) in _COUNTERS.items():
            counter = CounterMetricFamily(metric, text, labels=["endpoint"])
            for name, total in totals.items():
                counter.add_metric([name], getattr(total, field))
            yield counter
        for metric, field in (("aios_in_flight", "in_flight"), ("aios_replicas", "replicas")):
            gauge = GaugeMetricFamily(metric, f"Now: {field}", labels=["endpoint"])
            for name, total in totals.items():
                gauge.add_metric([name], getattr(total, field))
            yield gauge
        yield from self._arms(totals)
        yield _violations(totals)
        yield self._latency(totals)
        yield self._weights(names)

    def _arms(self, totals: dict[str, Any]) -> Iterator[Metric]:
        arm = ["endpoint", "arm", "version"]
        attempts = CounterMetricFamily("aios_arm_attempts", "Calls of an arm", labels=arm)
        degraded = CounterMetricFamily("aios_degraded", "Answers by a fallback", labels=arm)
        errors = CounterMetricFamily(
            "aios_arm_errors", "Failed calls of an arm, by kind", labels=[*arm, "kind"]
        )
        for name, total in totals.items():
            for (which, version), count in total.attempts.items():
                attempts.add_metric([name, which, str(version)], count)
            for (which, version), count in total.degraded.items():
                degraded.add_metric([name, which, str(version)], count)
            for (which, version, kind), count in total.errors.items():
                errors.add_metric([name, which, str(version), kind], count)
        yield attempts
        yield degraded
        yield errors

    def _latency(self, totals: dict[str, Any]) -> Metric:
        family = SummaryMetricFamily(
            "aios_request_latency_seconds", "Whole requests inside a replica", labels=["endpoint"]
        )
        for name, total in totals.items():
            if total.latency is None:
                continue
            for quantile in QUANTILES:
                family.add_sample(
                    "aios_request_latency_seconds",
                    {"endpoint": name, "quantile": str(quantile)},
                    total.latency.quantile(quantile),
                )
        return family

    def _weights(self, names: list[str]) -> Metric:
        weights = GaugeMetricFamily(
            "aios_arm_weight", "Share of keys", labels=["endpoint", "arm", "version"]
        )
        for name in names:
            plan = self._registry.plan(name)
            if plan is None:
                continue
            rest = 1.0
            if plan.challenger is not None:
                rest -= plan.challenger.weight_fraction
                labels = [name, plan.challenger.arm, str(plan.challenger.served.version)]
                weights.add_metric(labels, plan.challenger.weight_fraction)
            weights.add_metric([name, "stable", str(plan.stable.version)], rest)
        return weights


def _violations(totals: dict[str, Any]) -> Metric:
    labels = ["endpoint", "field", "kind"]
    family = CounterMetricFamily(
        "aios_contract_violations", "Requests that broke the contract", labels=labels
    )
    for name, total in totals.items():
        for field, kinds in total.violations.items():
            for kind, count in kinds.items():
                family.add_metric([name, field, kind], count)
    return family


class _Watched:
    """What watches found last, and how much feedback there is."""

    def __init__(self, registry: Registry, observed: Observed) -> None:
        self._registry = registry
        self._observed = observed

    def collect(self) -> Iterator[Metric]:
        scores = GaugeMetricFamily(
            "aios_drift_score",
            "Score of a watched field in the last windows",
            labels=["endpoint", "measure", "field"],
        )
        alarms = GaugeMetricFamily(
            "aios_alarms", "Conditions that hold now", labels=["endpoint", "watch"]
        )
        retrains = CounterMetricFamily(
            "aios_retrains", "Retrains that a watch has started", labels=["endpoint", "watch"]
        )
        seen: dict[tuple[str, str, str], float] = {}
        for watch in self._observed.watches():
            endpoint = watch.spec.endpoint
            alarms.add_metric([endpoint, watch.id], len(watch.state.alarms))
            retrains.add_metric([endpoint, watch.id], watch.state.triggered)
            measures = {one.text: one.measure for one in watch.spec.conditions}
            for finding in watch.state.findings:
                found = finding.evidence.get("scores") or (
                    {finding.subject: finding.score} if finding.score is not None else {}
                )
                for field, value in found.items():
                    seen[(endpoint, measures.get(finding.condition, ""), field)] = value
        for labels, value in sorted(seen.items()):
            scores.add_metric(list(labels), value)
        yield scores
        yield alarms
        yield retrains
        feedback = GaugeMetricFamily(
            "aios_feedback_requests", "Requests with feedback", labels=["endpoint", "state"]
        )
        for state in self._registry.endpoints():
            counts = self._observed.feedback_counts(state.spec.name)
            for name in ("joined", "waiting", "unknown"):
                feedback.add_metric([state.spec.name, name], counts[name])
        yield feedback
