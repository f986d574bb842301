"""What every converter hands to `build`, and the type names shared by them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aios.contracts import Batch, Contract, Field
from aios.errors import UsageError
from aios.models.engine import Array
from aios.models.manifest import (
    BatchInput,
    ColumnsInput,
    ColumnType,
    MatrixInput,
    OutputSource,
    PythonSource,
)
from aios.records import EngineName

OutputChoice = str | tuple[str, int]
"""The name of a model's output, or the name and the column of a matrix output."""


@dataclass(frozen=True)
class Converted:
    """A model ready to be written: its files, and how a batch flows through them.

    `original` computes the contract's outputs with the model as the user gave it; None
    where the model was taken as it is, so that there is nothing to compare.
    """

    source: str
    engine: EngineName
    inputs: MatrixInput | ColumnsInput | BatchInput
    outputs: dict[str, OutputSource]
    files: dict[str, bytes] = field(default_factory=dict)
    original: Callable[[Batch], Mapping[str, Array]] | None = None
    python: PythonSource | None = None
    producers: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def column_type(item: Field) -> ColumnType:
    """The dtype in which a field's column goes to a model that takes columns.

    Null needs a float, so nullable integers and booleans go as float32.
    """
    kind = item.column_dtype.kind
    if kind == "O":
        return "str"
    if kind == "b":
        return "bool"
    if kind in "iu":
        return "int64"
    if item.shape and item.datatype == "FP64":
        return "float64"
    return "float32"


def is_textual(item: Field) -> bool:
    """Whether the field's values are texts."""
    return item.column_dtype.kind == "O"


def chosen_outputs(
    choices: Mapping[str, OutputChoice], contract: Contract, available: Mapping[str, int | None]
) -> dict[str, OutputSource]:
    """The mapping that the user gave, checked.

    Args:
        choices: Contract output -> model output, or (model output, column).
        contract: Whose outputs must all be chosen.
        available: The model's outputs with their number of columns, None if not known.

    Raises:
        UsageError: an output of the contract is not chosen, or a name or column does not exist.
    """
    there = ", ".join(available)
    unknown = sorted(set(choices) - set(contract.outputs))
    missing = sorted(set(contract.outputs) - set(choices))
    if unknown or missing:
        raise UsageError(
            f"outputs= must name each output of the contract ({', '.join(contract.outputs)}) once: "
            f"missing {missing}, unknown {unknown}"
        )
    found = {}
    for name, choice in choices.items():
        source, column = (choice, None) if isinstance(choice, str) else choice
        if source not in available:
            raise UsageError(f"outputs= for {name!r}: no output {source!r}; there are {there}")
        width = available[source]
        if column is not None and width is not None and not 0 <= column < width:
            raise UsageError(f"outputs= for {name!r}: {source!r} has {width} columns, no {column}")
        found[name] = OutputSource(name=source, column=column)
    return found
