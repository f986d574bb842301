"""Rows of the prediction log, many at once: columns of values as texts of JSON objects."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from aios.contracts.batch import Layout
from aios.contracts.fields import Private
from aios.security.keyring import Sealer, context
from aios.serving.privacy import Privacy, Rules

if TYPE_CHECKING:
    import pyarrow as pa

Row = tuple[
    float, str, str, int, int, str, str | None, float, int, tuple[Any, ...], tuple[Any, ...]
]
"""at_s, request_id, key, row, version, arm, degraded, latency_s, number of its kind, values of
its inputs, an array of one row for each output."""
MOST_ROWS = 5_000
MOST_TEXT = 2**27
"""Rows made at a time, and about how many bytes of JSON: Arrow's texts end at 2 GiB."""


class Kind(NamedTuple):
    """The names of a row's inputs and outputs, and which inputs are numbers or booleans."""

    layout: Layout
    outputs: tuple[str, ...]
    plain: tuple[bool, ...]

    @classmethod
    def of(cls, layout: Layout, outputs: tuple[str, ...]) -> "Kind":
        """The kind of these inputs and outputs."""
        told = zip(layout.dtypes, layout.shapes, strict=True)
        return cls(layout, outputs, tuple(dtype != "|O" and not shape for dtype, shape in told))


def as_table(
    rows: Sequence[Row], kinds: Sequence[Kind], privacy: Privacy, endpoint: str
) -> "tuple[pa.Table, int]":
    """Rows in the log's schema, without what is private, encrypted if the keyring says so; and
    how many were left out because a value has no JSON."""
    import pyarrow as pa

    sealer = privacy.keyring.sealer() if privacy.keyring is not None else None
    schema = log_schema(sealed=sealer is not None)
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row[8], row[4]), []).append(row)
    parts, lost = [], 0
    for (kind, version), group in groups.items():
        for some in _slices(group):
            made = _Made(kinds[kind], privacy, privacy.rules(version))
            inputs, outputs, whole = made.texts(some)
            lost += len(some) - len(whole)
            parts.append(_batch(whole, inputs, outputs, made.keys(whole), sealer, endpoint))
    return pa.Table.from_batches(parts, schema=schema), lost


def log_schema(*, sealed: bool) -> "pa.Schema":
    """The log's columns; with `sealed_with` where rows are encrypted."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    columns = [
        ("at_s", number),
        ("request_id", text),
        ("key", text),
        ("row", pa.int32()),
        ("version", pa.int32()),
        ("arm", text),
        ("degraded", text),
        ("latency_s", number),
        ("inputs", text),
        ("outputs", text),
    ]
    return pa.schema(columns + ([("sealed_with", text)] if sealed else []))


def _slices(rows: list[Row]) -> Iterator[list[Row]]:
    """Few enough that their JSON fits, going by the first one's."""
    about = sum(len(str(value)) for value in rows[0][9] if isinstance(value, str)) + 24 * sum(
        np.size(value) for value in rows[0][9]
    )
    step = max(1, min(MOST_ROWS, MOST_TEXT // max(about, 1)))
    return (rows[start : start + step] for start in range(0, len(rows), step))


class _Made:
    """Makes the JSON of rows of one kind and version."""

    def __init__(self, kind: Kind, privacy: Privacy, rules: Rules) -> None:
        self._kind = kind
        self._privacy = privacy
        self._rules = rules

    def texts(self, rows: list[Row]) -> tuple[Any, Any, list[Row]]:
        """Inputs and outputs as arrays of texts, and the rows that they are of."""
        try:
            return *self._texts(rows), rows
        except (orjson.JSONEncodeError, ValueError):
            # One of many cannot be encoded, or arrays do not fit together: find out which.
            whole, made = [], []
            for row in rows:
                try:
                    made.append(self._texts([row]))
                    whole.append(row)
                except (orjson.JSONEncodeError, ValueError):
                    continue
            import pyarrow as pa

            empty = pa.array([], pa.string())
            inputs, outputs = (
                pa.concat_arrays([empty, *(one[side] for one in made)]) for side in (0, 1)
            )
            return inputs, outputs, whole

    def _texts(self, rows: list[Row]) -> tuple[Any, Any]:
        names = self._kind.layout.names
        columns = zip(*(row[9] for row in rows), strict=True)
        found = zip(names, columns, self._kind.plain, strict=True)
        inputs = self._objects(found, self._rules.inputs, len(rows))
        arrays = map(np.concatenate, zip(*(row[10] for row in rows), strict=True))
        answers = (
            (name, array.tolist(), array.ndim == 1 and array.dtype.kind in "fiub")
            for name, array in zip(self._kind.outputs, arrays, strict=True)
        )
        return inputs, self._objects(answers, self._rules.outputs, len(rows))

    def _objects(
        self,
        columns: Iterable[tuple[str, Sequence[Any], bool]],
        private: Mapping[str, Private],
        rows: int,
    ) -> "pa.Array":
        """JSON objects from columns, put together by Arrow, which lets other threads run.

        Args:
            columns: name, values, and whether these are numbers, booleans and None only.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        parts: list[Any] = []
        for name, values, plain in columns:
            kept: Sequence[Any] | None = values
            if name in private:
                plain = False
                kept = self._privacy.kept(private[name], [_plain_value(one) for one in values])
            if kept is not None:
                opening = "," if parts else "{"
                told = pa.scalar(f"{opening}{orjson.dumps(name).decode()}:")
                parts += [told, _numbers(kept) if plain else _json(kept)]
        if not parts:
            return pa.array(["{}"] * rows, pa.string())
        return pc.binary_join_element_wise(*parts, "}", "")

    def keys(self, rows: list[Row]) -> list[str | None]:
        """The column of keys. Where a request has none its id stands, which hides nothing."""
        if self._rules.key is None:
            return [row[2] for row in rows]
        kept = self._privacy.kept(self._rules.key, [row[2] for row in rows])
        if kept is None:
            return [row[1] for row in rows]
        return [row[1] if row[1] == row[2] else one for row, one in zip(rows, kept, strict=True)]


def _numbers(values: Sequence[Any]) -> "pa.Array":
    """Each number's JSON, written all at once and cut at the commas between them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.split_pattern(pa.array([orjson.dumps(values)[1:-1]], pa.string()), ",").values


def _json(values: Sequence[Any]) -> "pa.Array":
    """Each value's JSON; of a text that comes often it is written once."""
    import pyarrow as pa

    if set(map(type, values)) <= {str, type(None)}:
        coded = pa.array(values, pa.string()).dictionary_encode()
        known = pa.array(map(orjson.dumps, coded.dictionary.to_pylist()), pa.string())
        return known.take(coded.indices).fill_null("null")
    return pa.array([orjson.dumps(value, default=_plain_value) for value in values], pa.string())


def _plain_value(value: Any) -> Any:
    """Numpy scalars and arrays as plain JSON values; what orjson writes itself stays."""
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _batch(
    rows: list[Row],
    inputs: "pa.Array",
    outputs: "pa.Array",
    keys: "list[str | None]",
    sealer: "Sealer | None",
    endpoint: str,
) -> "pa.RecordBatch":
    import pyarrow as pa

    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * 11
    at_s, request_id, _, number, version, arm, degraded, latency_s, *_ = columns
    told = [at_s, request_id, keys, number, version, arm, degraded, latency_s, inputs, outputs]
    if sealer is not None:
        for place, name in ((2, "key"), (8, "inputs"), (9, "outputs")):
            texts = told[place] if place == 2 else told[place].to_pylist()
            told[place] = [
                sealer.seal(text.encode(), context(endpoint, request, row, name))
                for text, request, row in zip(texts, request_id, number, strict=True)
            ]
        told.append([sealer.tag] * len(rows))
    schema = log_schema(sealed=sealer is not None)
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, kind)
        for values, kind in zip(told, schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
