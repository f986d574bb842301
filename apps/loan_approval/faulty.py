"""Models that go wrong in production: the story's v4 and v5.

Both are Python classes that the runtime imports by path. Their scores are v1's, from a
formula in their configuration, so that nothing but the fault tells them from a good model.
"""

import time
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Scores = dict[str, npt.NDArray[np.float64]]


class Rows(Protocol):
    """What these models need of a batch."""

    def column(self, name: str) -> npt.NDArray[Any]: ...

    def matrix(self, names: list[str]) -> npt.NDArray[Any]: ...


class Linear:
    """A logistic regression written out: `training.linear_formula` gives its configuration."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._features = list(config["features"])
        self._weights = np.asarray(config["weights"], dtype=np.float64)
        self._medians = np.asarray(config["medians"], dtype=np.float64)
        self._intercept = float(config["intercept"])

    def predict(self, batch: Rows) -> Scores:
        """The probability of approval for each row, shape (rows,)."""
        values = np.asarray(batch.matrix(self._features), dtype=np.float64)
        values = np.where(np.isnan(values), self._medians, values)
        logits = self._intercept + values @ self._weights
        return {"approve": 0.5 * (1.0 + np.tanh(logits / 2.0))}


class RaisesOnSomeRows(Linear):
    """v4: has never seen applicants with obligations over `config["obrat_limit"]` %."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._limit = float(config["obrat_limit"])

    def predict(self, batch: Rows) -> Scores:
        """As `Linear`.

        Raises:
            ValueError: an applicant's obligations are over the limit.
        """
        highest = float(np.max(batch.column("obrat")))
        if highest > self._limit:
            raise ValueError(f"no bucket for obrat {highest:g}: the table ends at {self._limit:g}")
        return super().predict(batch)


class Sleeps(Linear):
    """v5: right, and `config["seconds"]` late."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._seconds = float(config["seconds"])

    def predict(self, batch: Rows) -> Scores:
        """As `Linear`, after a sleep."""
        time.sleep(self._seconds)
        return super().predict(batch)
