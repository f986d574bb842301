"""Whether one contract can take another's place.

A new version must accept all that the old one accepted and give what it gave: inputs are
contravariant, outputs covariant.
"""

from collections.abc import Mapping

from aios.contracts.datatypes import widens
from aios.contracts.fields import Boolean, Category, Field, Integer, Number, Private, Text
from aios.contracts.tensor import Tensor

Fields = Mapping[str, Field]


def differences(
    old_inputs: Fields,
    old_outputs: Fields,
    old_key: str | None,
    new_inputs: Fields,
    new_outputs: Fields,
    new_key: str | None,
) -> list[str]:
    """Every reason against, as sentences that name the field; empty if there is none."""
    reasons = []
    if old_key is not None and new_key != old_key:
        reasons.append(f'key "{old_key}" is no longer the key')
    for name, old in old_inputs.items():
        if name not in new_inputs:
            reasons.append(f'input "{name}" is no longer known')
            continue
        reason = narrower(new_inputs[name], old)
        if reason is not None:
            reasons.append(f'input "{name}" {reason}')
    reasons += [
        f'input "{name}" is new and required; make it nullable'
        for name, field in new_inputs.items()
        if name not in old_inputs and not field.nullable
    ]
    for name, old in old_outputs.items():
        if name not in new_outputs:
            reasons.append(f'output "{name}" is no longer given')
            continue
        reason = _wider_output(old, new_outputs[name])
        if reason is not None:
            reasons.append(f'output "{name}" {reason}')
    return reasons


def exposed(old: Mapping[str, Private | None], new: Mapping[str, Private | None]) -> list[str]:
    """What was private and would be kept more openly: nobody should learn of that from the log.
    What is gone is told by `differences`."""
    strict = {None: 0, "hash": 1, "omit": 2}
    return [
        f"{name} is private ({private}) and may not become {_openly(new[name])}"
        for name, private in old.items()
        if name in new and strict[new[name]] < strict[private]
    ]


def _openly(private: Private | None) -> str:
    return "hashed only" if private else "open: its values would stand in the prediction log"


def _wider_output(old: Field, new: Field) -> str | None:
    if old.datatype != new.datatype or old.shape != new.shape:
        return f"was {old.datatype}{list(old.shape)} and is {new.datatype}{list(new.shape)}"
    if narrower(old, new) is not None:
        return f"may give {new.describe()}, and gave {old.describe()}"
    return None


def narrower(taker: Field, given: Field) -> str | None:
    """Why `taker` does not accept every value of `given`; None if it does."""
    if given.nullable and not taker.nullable:
        return "no longer takes null"
    if _takes_all(taker, given):
        return None
    return f"took {given.describe()} and takes only {taker.describe()}"


def _takes_all(taker: Field, given: Field) -> bool:
    if isinstance(taker, Tensor) or isinstance(given, Tensor):
        return (
            isinstance(taker, Tensor)
            and isinstance(given, Tensor)
            and taker.shape == given.shape
            and widens(given.dtype, taker.dtype)
        )
    if isinstance(given, Category):
        return all(_takes_value(taker, value) for value in given.values)
    if isinstance(taker, Number | Integer):
        if isinstance(given, Integer):
            return _spans(taker, given)
        return isinstance(taker, Number) and isinstance(given, Number) and _spans(taker, given)
    if isinstance(taker, Text):
        return isinstance(given, Text) and taker.max_length >= given.max_length
    if isinstance(given, Boolean):
        booleans = isinstance(taker, Category) and set(taker.values) == {True, False}
        return isinstance(taker, Boolean) or (booleans and taker.datatype == "BOOL")
    if isinstance(taker, Category) and isinstance(given, Integer):
        if given.min is None or given.max is None or given.max - given.min > len(taker.values):
            return False
        return taker.datatype == "INT64" and set(range(given.min, given.max + 1)) <= set(
            taker.values
        )
    return False


def _takes_value(taker: Field, value: object) -> bool:
    if isinstance(taker, Category):
        return any(type(value) is type(v) and value == v for v in taker.values)
    if isinstance(value, bool):
        return isinstance(taker, Boolean)
    if isinstance(value, str):
        return isinstance(taker, Text) and len(value) <= taker.max_length
    if isinstance(taker, Number | Integer) and isinstance(value, int):
        low, high = taker.limits
        return low <= value <= high
    return False


def _spans(taker: Number | Integer, given: Number | Integer) -> bool:
    if not ((taker.min is None and given.min is None) or taker.limits[0] <= given.limits[0]):
        return False
    return (taker.max is None and given.max is None) or taker.limits[1] >= given.limits[1]
