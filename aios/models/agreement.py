"""Whether a converted model answers as the original did."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aios.errors import ArtifactRejected
from aios.models.engine import Array


def check_agreement(
    original: Mapping[str, Array],
    converted: Mapping[str, Array],
    *,
    tolerance: float,
    what: str,
) -> float:
    """The largest difference between two sets of answers to the same rows.

    Numbers agree if |original - converted| <= tolerance + tolerance * |original|, two NaN
    agree; labels and texts agree if they are equal.

    Args:
        original: The original's outputs, [rows, ...] each.
        converted: The artifact's outputs, by the same names.
        tolerance: Both the absolute and the relative difference allowed.
        what: What was converted to what, for the message.

    Raises:
        ArtifactRejected: an output disagrees; `details` holds output, row, original,
            converted, difference and the number of rows that differ.
    """
    largest = 0.0
    for name, expected in original.items():
        found = np.asarray(converted[name])
        expected = np.asarray(expected)
        if found.shape != expected.shape:
            raise ArtifactRejected(
                f"{what}: output {name!r} has shape {found.shape}, the original's has "
                f"{expected.shape}",
                output=name,
            )
        excess, difference = _differences(expected, found, tolerance)
        largest = max(largest, float(difference.max(initial=0.0)))
        if (excess > 0).any():
            raise _disagreement(what, name, expected, found, excess, difference, tolerance)
    return largest


def _differences(expected: Array, found: Array, tolerance: float) -> tuple[Array, Array]:
    """Per row: how far over the tolerance, and the difference; infinity for what has none."""
    rows = len(expected)
    if expected.dtype.kind not in "fiub" or found.dtype.kind not in "fiub":
        unequal = (expected.astype(str) != found.astype(str)).reshape(rows, -1).any(axis=1)
        difference = np.where(unequal, np.inf, 0.0)
        return difference, difference
    exact, given = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(exact - given)
        apart[(exact == given) | (np.isnan(exact) & np.isnan(given))] = 0.0
        apart[np.isnan(apart)] = np.inf
        over = apart - (tolerance + tolerance * np.nan_to_num(np.abs(exact)))
    over[apart == 0] = -1.0
    return over.reshape(rows, -1).max(axis=1, initial=-1.0), apart.reshape(rows, -1).max(
        axis=1, initial=0.0
    )


def _disagreement(
    what: str,
    name: str,
    expected: Array,
    found: Array,
    excess: Array,
    difference: Array,
    tolerance: float,
) -> ArtifactRejected:
    row = int(excess.argmax())
    count = int((excess > 0).sum())
    details: dict[str, Any] = {
        "output": name,
        "row": row,
        "original": _shown(expected[row]),
        "converted": _shown(found[row]),
        "difference": float(difference[row]) if np.isfinite(difference[row]) else None,
        "rows_differing": count,
    }
    return ArtifactRejected(
        f"{what} answers otherwise than the original: output {name!r}, worst at row {row}: "
        f"original {details['original']!r}, converted {details['converted']!r}, difference "
        f"{difference[row]:.3g} over a tolerance of {tolerance:g} ({count} of {len(expected)} "
        "rows differ); give a larger tolerance if that is harmless, or register a Python class "
        "by import path",
        **details,
    )


def _shown(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, np.ndarray):
        return str(plain.ravel()[:8].tolist())
    if isinstance(plain, float) and not np.isfinite(plain):
        return str(plain)
    return plain
