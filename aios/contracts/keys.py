"""The key of a record: what it may be."""

from typing import Any

import numpy as np

from aios.contracts.fields import sound_text
from aios.contracts.violations import MOST_TOLD, Faults

KEY_MAX_LENGTH = 256
"""Long enough for any id; bounds what caches and logs hold per record."""

KEY_ALLOWED = f"a text of 1 to {KEY_MAX_LENGTH} characters, an integer, or null"


def read_keys(name: str, values: list[Any], faults: Faults) -> list[str | None] | None:
    """Keys as texts; None where no record carries one. Integers become their digits."""
    keys: list[str | None] = []
    refused = 0
    for row, value in enumerate(values):
        key = _read_key(value)
        if key is None and value is not None:
            refused += 1
            if refused > MOST_TOLD:
                faults.truncate()
                break
            faults.add(row, name, value, "cannot be a key", KEY_ALLOWED, -1)
        keys.append(key)
    return keys if any(key is not None for key in keys) else None


def _read_key(value: Any) -> str | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
        return str(value)
    if isinstance(value, str) and 0 < len(value) <= KEY_MAX_LENGTH and sound_text(value):
        return str(value)
    return None
