"""Counts per arm, in memory, cumulative since the era began."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from aios.records import ArmReport
from aios.telemetry.histogram import Histogram
from aios.telemetry.sketches import Sketch

SHADOW_TOLERANCE = 0.1
"""A shadow's numeric output further than this from stable's counts as a disagreement."""


class ArmWindow:
    """What one arm did. Appending is all the hot path pays; `report` folds into sketches."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._attempts = 0
        self._errors: dict[str, int] = defaultdict(int)
        self._degraded = 0
        self._pending_latency_s: list[float] = []
        self._pending_outputs: list[Mapping[str, np.ndarray]] = []
        self._pending_pairs: list[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]] = []
        self._latency = Sketch()
        self._service = Histogram()
        self._outputs: dict[str, Sketch] = {}
        self._agreement = {"pairs": 0.0, "sum": 0.0, "over_tolerance": 0.0}

    def succeeded(self, service_s: float, outputs: Mapping[str, np.ndarray]) -> None:
        self._attempts += 1
        self._pending_latency_s.append(service_s)
        self._pending_outputs.append(outputs)

    def failed(self, kind: str) -> None:
        self._attempts += 1
        self._errors[kind] += 1

    def degraded(self) -> None:
        self._degraded += 1

    def compared(self, outputs: Mapping[str, np.ndarray], stable: Mapping[str, np.ndarray]) -> None:
        self._pending_pairs.append((outputs, stable))

    def report(self) -> ArmReport:
        """Fold what is pending into the sketches and return the cumulative counts."""
        self._fold()
        return ArmReport(
            version=self.version,
            attempts=self._attempts,
            errors=dict(self._errors),
            degraded=self._degraded,
            latency=self._latency.to_bytes(),
            service=self._service.buckets(),
            outputs={name: sketch.to_bytes() for name, sketch in self._outputs.items()},
            agreement=dict(self._agreement) if self._agreement["pairs"] else {},
        )

    def _fold(self) -> None:
        latencies, self._pending_latency_s = self._pending_latency_s, []
        answers, self._pending_outputs = self._pending_outputs, []
        pairs, self._pending_pairs = self._pending_pairs, []
        if latencies:
            seconds = np.asarray(latencies)
            self._latency.update_many(seconds)
            self._service.update_many(seconds)
        for name in answers[0] if answers else ():
            values = np.concatenate([answer[name].ravel() for answer in answers])
            if values.dtype.kind in "fiub":
                sketch = self._outputs.setdefault(name, Sketch())
                sketch.update_many(values.astype(np.float64))
        for outputs, stable in pairs:
            for name in outputs.keys() & stable.keys():
                self._compare(outputs[name], stable[name])

    def _compare(self, values: np.ndarray, stable: np.ndarray) -> None:
        """Numbers both arms gave; a newer version may give outputs that stable has not."""
        numeric = values.dtype.kind in "fiub" and stable.dtype.kind in "fiub"
        if not numeric or values.shape != stable.shape:
            return
        distance = np.abs(values.astype(np.float64) - stable.astype(np.float64))
        distance = distance[np.isfinite(distance)]
        self._agreement["pairs"] += distance.size
        self._agreement["sum"] += float(distance.sum())
        self._agreement["over_tolerance"] += int((distance > SHADOW_TOLERANCE).sum())
