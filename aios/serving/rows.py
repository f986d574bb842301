"""Rows of the prediction log, many at once: their inputs and outputs as texts of JSON objects."""

from collections.abc import Iterator, Mapping, Sequence
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
_AT_ONCE = 64
"""Rows that are objects at a time: few enough for the processor's cache, and for the garbage
collector not to look at them."""


class Kind(NamedTuple):
    """The names of a row's inputs and outputs."""

    layout: Layout
    outputs: tuple[str, ...]


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

    def texts(self, rows: list[Row]) -> tuple[list[bytes], list[bytes], list[Row]]:
        """The JSON of inputs and of outputs, and the rows that they are of."""
        try:
            return *self._texts(rows), rows
        except (orjson.JSONEncodeError, ValueError):
            # One of many cannot be encoded, or arrays do not fit together: find out which.
            inputs: list[bytes] = []
            outputs: list[bytes] = []
            whole: list[Row] = []
            for row in rows:
                try:
                    made = self._texts([row])
                except (orjson.JSONEncodeError, ValueError):
                    continue
                inputs += made[0]
                outputs += made[1]
                whole.append(row)
            return inputs, outputs, whole

    def _texts(self, rows: list[Row]) -> tuple[list[bytes], list[bytes]]:
        arrays = map(np.concatenate, zip(*(row[10] for row in rows), strict=True))
        answers = list(zip(*(array.tolist() for array in arrays), strict=True)) or [()] * len(rows)
        inputs = self._objects(
            self._kind.layout.names, [row[9] for row in rows], self._rules.inputs
        )
        return inputs, self._objects(self._kind.outputs, answers, self._rules.outputs)

    def _objects(
        self,
        names: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
        private: Mapping[str, Private],
    ) -> list[bytes]:
        """JSON objects of rows of values, without what is private."""
        if private:
            columns: dict[str, Sequence[Any]] = dict(
                zip(names, zip(*rows, strict=True), strict=True)
            )
            for name in private.keys() & columns.keys():
                values = [_plain_value(one) for one in columns.pop(name)]
                kept = self._privacy.kept(private[name], values)
                if kept is not None:
                    columns[name] = kept
            names = [name for name in names if name in columns]
            rows = list(zip(*(columns[name] for name in names), strict=True)) or [()] * len(rows)
        return [
            text
            for start in range(0, len(rows), _AT_ONCE)
            for text in _encoded(
                [dict(zip(names, row, strict=True)) for row in rows[start : start + _AT_ONCE]]
            )
        ]

    def keys(self, rows: list[Row]) -> list[str | None]:
        """The column of keys. Where a request has none its id stands, which hides nothing."""
        if self._rules.key is None:
            return [row[2] for row in rows]
        kept = self._privacy.kept(self._rules.key, [row[2] for row in rows])
        if kept is None:
            return [row[1] for row in rows]
        return [row[1] if row[1] == row[2] else one for row, one in zip(rows, kept, strict=True)]


def _encoded(records: list[dict[str, Any]]) -> list[bytes]:
    """Each record's JSON. A call for each takes five times as long as one for all of them."""
    whole = orjson.dumps(records, default=_plain_value)
    found = whole[2:-2].split(b"},{")
    if len(found) == len(records):
        return [b"{%b}" % one for one in found]
    # A text holds what stands between two records.
    return [orjson.dumps(record, default=_plain_value) for record in records]


def _plain_value(value: Any) -> Any:
    """Numpy scalars and arrays as plain JSON values; what orjson writes itself stays."""
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _batch(
    rows: list[Row],
    inputs: list[bytes],
    outputs: list[bytes],
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
            texts = [(key or "").encode() for key in keys] if place == 2 else told[place]
            told[place] = [
                sealer.seal(text, context(endpoint, request, row, name))
                for text, request, row in zip(texts, request_id, number, strict=True)
            ]
        told.append([sealer.tag] * len(rows))
    schema = log_schema(sealed=sealer is not None)
    arrays = [pa.array(values, kind) for values, kind in zip(told, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
