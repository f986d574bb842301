"""Python models for tests: taken by import path, as a user's own would be."""

from pathlib import Path

import numpy as np

from aios.contracts import Batch
from aios.models.engine import Array

CLOSED: list[str] = []


class Halves:
    """The simplest model there can be."""

    def predict(self, batch: Batch) -> dict[str, Array]:
        return {"score": np.full(batch.rows, 0.5)}


class Configured:
    """Has a config, a file and something to let go of."""

    def __init__(self, config: dict[str, float]) -> None:
        self.factor = config["factor"]
        self.offset = 0.0

    def load(self, folder: Path) -> None:
        self.offset = float((folder / "offset.txt").read_text())

    def predict(self, batch: Batch) -> dict[str, Array]:
        income = batch.column("income")
        return {"score": np.clip(income * self.factor + self.offset, 0, 1)}

    def close(self) -> None:
        CLOSED.append("configured")


class RefusesDebt:
    """Raises on some rows, with a text that must not travel."""

    def predict(self, batch: Batch) -> dict[str, Array]:
        if (batch.column("debt") > 1.5).any():
            raise ValueError("secret 4111-1111")
        return {"score": np.zeros(batch.rows)}


class AlwaysRaises:
    def predict(self, batch: Batch) -> dict[str, Array]:
        raise RuntimeError("secret 4111-1111")


class CannotLoad:
    def __init__(self) -> None:
        raise OSError("secret path")

    def predict(self, batch: Batch) -> dict[str, Array]:
        return {}


class WrongName:
    def predict(self, batch: Batch) -> dict[str, Array]:
        return {"scores": np.zeros(batch.rows)}


class WrongShape:
    def predict(self, batch: Batch) -> dict[str, Array]:
        return {"score": np.zeros(batch.rows + 1)}


class NotADict:
    def predict(self, batch: Batch) -> Array:
        return np.zeros(batch.rows)


class OutOfRange:
    def predict(self, batch: Batch) -> dict[str, Array]:
        return {"score": np.full(batch.rows, 1.5)}


class NotAModel:
    """Has no predict."""
