"""The compiled path: one generated function checks small batches row by row.

For a handful of rows, numpy's fixed cost per column is most of the time. The generated
function has one short branch per field and no loop over fields. It is allowed to give up
(return None) on anything unusual; the caller then takes the vectorised path, which decides
and names the faults. It must never take what the reference refuses.
"""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from aios.contracts.fields import (
    EXACT_INTEGER_MAX,
    MISSING,
    Boolean,
    Category,
    Field,
    Integer,
    Number,
    RefusedValue,
    Text,
    sound_text,
)
from aios.contracts.keys import KEY_MAX_LENGTH
from aios.contracts.tensor import Tensor

RowReader = Callable[[list[Any]], tuple[list[tuple[Any, ...]], list[str | None] | None] | None]


def compile_rows(inputs: Mapping[str, Field], key: str | None) -> RowReader:
    """A function `records -> (values, keys) | None` for records of these inputs.

    `keys` is None where no record carries one. None instead of a pair means: ask the
    vectorised path.
    """
    names = list(inputs)
    space: dict[str, Any] = {
        "MISSING": MISSING,
        "KNOWN": frozenset(names) | ({key} if key is not None else set()),
        "GET": itemgetter(*names),
        "KEY": key,
        "sound_text": sound_text,
        **{f"NAME_{i}": name for i, name in enumerate(names)},
    }
    lines = [
        "def read(records):",
        "    values = []",
        "    keys = []",
        "    for record in records:",
        "        if type(record) is not dict: return None",
        "        try:",
        f"            {', '.join(f'v{i}' for i in range(len(names)))} = GET(record)",
        "        except KeyError:",
        "            if not record.keys() <= KNOWN: return None",
        *(
            f"            v{i} = record.get(NAME_{i}, {'None' if f.nullable else 'MISSING'})"
            for i, f in enumerate(inputs.values())
        ),
        "        else:",
        *_size_check(len(names), key),
    ]
    if key is not None:
        lines += _key_check()
    for index, field in enumerate(inputs.values()):
        lines += _field_check(index, field, space)
    lines += [
        f"        values.append(({', '.join(f'v{i}' for i in range(len(names)))},))",
        "    return values, (keys if any(key is not None for key in keys) else None)"
        if key is not None
        else "    return values, None",
    ]
    exec("\n".join(lines), space)  # built from this module's text and indices only
    reader: RowReader = space["read"]
    return reader


def _size_check(count: int, key: str | None) -> list[str]:
    expected = f"{count}" if key is None else f"{count} + (KEY in record)"
    return [f"            if len(record) != {expected}: return None"]


def _key_check() -> list[str]:
    return [
        "        key = record.get(KEY)",
        "        if type(key) is str:",
        f"            if not 0 < len(key) <= {KEY_MAX_LENGTH} or not sound_text(key): return None",
        "        elif key is not None:",
        "            if type(key) is not int or key.bit_length() > 64: return None",
        "            key = str(key)",
        "        keys.append(key)",
    ]


def _field_check(index: int, field: Field, space: dict[str, Any]) -> list[str]:
    name = f"v{index}"
    indent = " " * 8
    lines = []
    if field.nullable:
        lines.append(f"{indent}if {name} is not None:")
        indent += " " * 4
    lines += [indent + line for line in _value_check(index, name, field, space)]
    return lines


def _value_check(index: int, name: str, field: Field, space: dict[str, Any]) -> list[str]:
    if isinstance(field, Number):
        low, high = field.limits
        return [
            f"if type({name}) is not float:",
            f"    if type({name}) is not int or {name}.bit_length() > 1000: return None",
            f"    {name} = float({name})",
            f"if not {low!r} <= {name} <= {high!r}: return None",
        ]
    if isinstance(field, Integer):
        least, most = field.limits
        return [
            *_whole_check(name),
            f"if not {least!r} <= {name} <= {most!r}: return None",
        ]
    if isinstance(field, Boolean):
        return [f"if {name} is not True and {name} is not False: return None"]
    if isinstance(field, Text):
        return [
            f"if type({name}) is not str or len({name}) > {field.max_length}: return None",
            f"if not sound_text({name}): return None",
        ]
    if isinstance(field, Category):
        space[f"SET_{index}"] = frozenset(field.values)
        kind = field.value_type
        first = (
            _whole_check(name)
            if kind is int
            else [f"if type({name}) is not {kind.__name__}: return None"]
        )
        return [*first, f"if {name} not in SET_{index}: return None"]
    if isinstance(field, Tensor):
        space[f"TENSOR_{index}"] = _tensor_reader(field)
        return [f"{name} = TENSOR_{index}({name})", f"if {name} is None: return None"]
    return ["return None"]


def _whole_check(name: str) -> list[str]:
    return [
        f"if type({name}) is not int:",
        f"    if type({name}) is not float or not {name}.is_integer(): return None",
        f"    if not -{EXACT_INTEGER_MAX} <= {name} <= {EXACT_INTEGER_MAX}: return None",
        f"    {name} = int({name})",
    ]


def _tensor_reader(field: Tensor) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        try:
            return field.check(value)
        except RefusedValue:
            return None

    return read
