"""Batches made up from a contract alone, to warm engines and to probe models without data."""

import math
import random
from typing import Any

import numpy as np

from aios.contracts import (
    Batch,
    Boolean,
    Category,
    Codec,
    Contract,
    Field,
    Integer,
    Number,
    Tensor,
    Text,
)


def synthetic_batch(contract: Contract, rows: int = 1, *, seed: int = 0) -> Batch:
    """A batch of `rows` records that the contract accepts; the same for the same seed.

    Numbers spread over their range (over one unit where a side is open), categories are all
    used, nothing is null: what it holds is valid, not likely.

    Raises:
        UsageError: fewer than one row.
    """
    return Codec(contract, max_rows=max(rows, 1)).validate_records(
        synthetic_records(contract, rows, seed=seed)
    )


def synthetic_records(contract: Contract, rows: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """The same as plain records, as a client would send them; without keys."""
    chance = random.Random(seed)
    return [
        {name: _value(field, chance) for name, field in contract.inputs.items()}
        for _ in range(rows)
    ]


def _value(field: Field, chance: random.Random) -> Any:
    match field:
        case Number():
            low, high = _span(field.min, field.max)
            return min(max(chance.uniform(low, high), low), high)
        case Integer():
            low, high = _span(field.min, field.max)
            return chance.randint(math.ceil(low), math.floor(high))
        case Boolean():
            return chance.random() < 0.5
        case Category():
            return chance.choice(field.values)
        case Text():
            return "a"[: field.max_length]
        case Tensor():
            return _tensor(field, chance)
        case _:
            return field.example()


def _span(low: float | None, high: float | None) -> tuple[float, float]:
    if low is None:
        return (0.0, 1.0) if high is None else (high - 1, high)
    return (low, low + 1) if high is None else (low, high)


def _tensor(field: Tensor, chance: random.Random) -> Any:
    if field.column_dtype.kind != "f":
        return field.example()
    source = np.random.default_rng(chance.randrange(2**32))
    return source.random(field.shape, dtype=np.float32).astype(field.column_dtype).tolist()
