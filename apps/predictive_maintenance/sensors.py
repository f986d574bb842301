"""The readings: nine sensors of a Space Shuttle's radiators, in the order of the published file.

The first six tenths are history, whose faults are known and of which the model is made; the rest is
what machines send. See `supplies.SHUTTLE`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aios
from apps import supplies

if TYPE_CHECKING:
    import pandas as pd

SENSORS = tuple(f"f{number}" for number in range(1, 10))
LABEL = "anomaly"
KEY = "machine"
HISTORY = 0.6
SEED = 7
LIMITS: dict[str, tuple[float, float]] = {
    "f1": (0, 200),
    "f2": (-10_000, 10_000),
    "f3": (0, 200),
    "f4": (-10_000, 10_000),
    "f5": (-500, 500),
    "f6": (-30_000, 30_000),
    "f7": (-200, 200),
    "f8": (-500, 500),
    "f9": (-500, 500),
}
"""What each sensor can show at all. No reading of the file is beyond: that is a broken sensor."""

Row = dict[str, float | None]


@dataclass(frozen=True)
class Readings:
    """The later part of the file, dealt out in its order."""

    normal: list[Row]
    anomalous: list[Row]

    def pour(self) -> "Poured":
        """From the beginning."""
        return Poured(_again(self.normal, "normal"), _again(self.anomalous, "anomalous"))


@dataclass(frozen=True)
class Poured:
    """Readings, each once, in the file's order."""

    normal: Iterator[Row]
    anomalous: Iterator[Row]

    def next(self, anomalous: bool) -> Row:
        """The next one of a kind."""
        return dict(next(self.anomalous if anomalous else self.normal))


def load(cache: Path = supplies.CACHE) -> "pd.DataFrame":
    """All readings: `SENSORS` and `LABEL` (1 where something was wrong).

    Raises:
        aios.UsageError: they cannot be fetched, or are not the file that they should be.
    """
    return supplies.read(supplies.SHUTTLE, cache)


def split(frame: "pd.DataFrame") -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """History, and what comes later."""
    end = int(len(frame) * HISTORY)
    return frame.iloc[:end], frame.iloc[end:]


def readings(later: "pd.DataFrame") -> Readings:
    """What machines send, apart by whether something was wrong."""
    rows = later[list(SENSORS)].astype(float).to_dict("records")
    wrong = later[LABEL].to_numpy() == 1
    return Readings(
        [row for row, is_wrong in zip(rows, wrong, strict=True) if not is_wrong],
        [row for row, is_wrong in zip(rows, wrong, strict=True) if is_wrong],
    )


def contract() -> aios.Contract:
    """What the anomaly endpoint takes and gives."""
    inputs: Mapping[str, Any] = {
        name: aios.Number(min=low, max=high) for name, (low, high) in LIMITS.items()
    }
    return aios.Contract(inputs=inputs, outputs={LABEL: aios.Number(min=0, max=1)})


def train(history: "pd.DataFrame") -> tuple[Any, dict[str, float]]:
    """A classifier of readings, and its figures on the last fifth of history, which a first one
    did not see. The one that serves has seen all of history.

    Labels are there, so they are used: on the later part the classifier finds every anomaly with
    one false alarm, where an isolation forest without labels misses 4 % (AUC 1.000 and 0.997).
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import precision_score, recall_score, roc_auc_score

    end = int(len(history) * 0.8)
    seen, held = history.iloc[:end], history.iloc[end:]

    def fitted(rows: "pd.DataFrame") -> Any:
        model = HistGradientBoostingClassifier(max_iter=60, random_state=SEED)
        return model.fit(rows[list(SENSORS)].astype(float), rows[LABEL])

    scores = fitted(seen).predict_proba(held[list(SENSORS)].astype(float))[:, 1]
    measured = {
        "auc": float(roc_auc_score(held[LABEL], scores)),
        "precision": float(precision_score(held[LABEL], scores >= 0.5)),
        "recall": float(recall_score(held[LABEL], scores >= 0.5)),
    }
    return fitted(history), measured


def _again(rows: list[Row], kind: str) -> Iterator[Row]:
    yield from rows
    raise aios.UsageError(
        f"the file has {len(rows):,} {kind} readings for the machines, and more are asked for: "
        "replay fewer"
    )
