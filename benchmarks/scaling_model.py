"""A model that waits instead of computing: with it two cores hold four busy replicas."""

import math
import os
import time
from typing import Any

import numpy as np

from aios.contracts import Batch

OUTPUT = "score"


class Waits:
    """Answers each row after a time drawn anew, one row after the other.

    Args:
        config: `mean_s` and `variation` (standard deviation over mean) of the lognormal times,
            and `seed`; each process draws its own.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        sigma2 = math.log(1 + config["variation"] ** 2)
        self._sigma = math.sqrt(sigma2)
        self._mu = math.log(config["mean_s"]) - sigma2 / 2
        self._random = np.random.default_rng([config["seed"], os.getpid()])

    def predict(self, batch: Batch) -> dict[str, Any]:
        time.sleep(float(self._random.lognormal(self._mu, self._sigma, batch.rows).sum()))
        return {OUTPUT: np.full(batch.rows, 0.5)}
