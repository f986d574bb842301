"""PostgreSQL's logical replication messages, protocol version 1, as changes of rows. Pure.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

EPOCH_S = 946_684_800
"""PostgreSQL counts microseconds from 2000-01-01."""
_INTEGERS, _FLOATS, _NUMERIC, _BOOLEAN, _JSON = (20, 21, 23, 26), (700, 701), 1700, 16, (114, 3802)
_TEXT, _DIGITS = 25, 15
"""So many digits a JSON number holds, whatever they are: `numeric` of more, or of any number of
them, is text, all of a column alike."""
_OPERATIONS = {"I": "insert", "U": "update", "D": "delete", "T": "truncate"}


@dataclass(frozen=True)
class Change:
    """A row that was changed, by the `index`-th change of the transaction that ends at `end_lsn`.

    `row` is what it is now (of a deleted one: its key), `key` the columns that name it. Columns of
    large values that did not change are not told by PostgreSQL, and not in `row`.
    """

    end_lsn: int
    index: int
    committed_s: float
    operation: str
    table: str
    row: dict[str, Any]
    old: dict[str, Any] | None
    key: dict[str, Any]


@dataclass
class _Relation:
    name: str
    columns: list[tuple[str, int, bool]]


@dataclass
class Decoder:
    """Makes changes of messages; a transaction's come together with its end."""

    _relations: dict[int, _Relation] = field(default_factory=dict)
    _open: list[tuple[str, str, dict[str, Any], dict[str, Any] | None, dict[str, Any]]] = field(
        default_factory=list
    )

    def decode(self, messages: Iterable[bytes]) -> list[Change]:
        """The changes of all transactions that end among these messages."""
        found: list[Change] = []
        for message in messages:
            found += self._one(_Bytes(message))
        return found

    def _one(self, data: "_Bytes") -> list[Change]:
        kind = data.char()
        if kind == "B":
            self._open = []
        elif kind == "R":
            self._relate(data)
        elif kind in _OPERATIONS:
            self._change(kind, data)
        elif kind == "C":
            return self._committed(data)
        return []  # origins and types say nothing of rows

    def _relate(self, data: "_Bytes") -> None:
        number, schema, name = data.integer("I"), data.text(), data.text()
        data.integer("B")
        columns = []
        for _ in range(data.integer("H")):
            flags, column, kind = data.integer("B"), data.text(), data.integer("I")
            modifier = data.integer("i")
            exact = kind == _NUMERIC and not 0 < (modifier - 4) >> 16 <= _DIGITS
            columns.append((column, _TEXT if exact else kind, bool(flags & 1)))
        self._relations[number] = _Relation(f"{schema}.{name}", columns)

    def _change(self, kind: str, data: "_Bytes") -> None:
        if kind == "T":
            count = data.integer("I")
            data.integer("B")
            for _ in range(count):
                relation = self._relations[data.integer("I")]
                self._open.append((_OPERATIONS[kind], relation.name, {}, None, {}))
            return
        relation = self._relations[data.integer("I")]
        old: dict[str, Any] | None = None
        row: dict[str, Any] = {}
        while data.left:
            part = data.char()
            if part in ("K", "O"):
                old = self._row(relation, data, key_only=part == "K")
            else:
                row = self._row(relation, data)
        now = row if kind != "D" else (old or {})
        key = {name: now.get(name) for name, _, is_key in relation.columns if is_key}
        before = old if kind == "U" else None
        self._open.append((_OPERATIONS[kind], relation.name, now, before, key))

    def _row(
        self, relation: _Relation, data: "_Bytes", *, key_only: bool = False
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for place in range(data.integer("H")):
            name, kind, is_key = relation.columns[place]
            how = data.char()
            if how == "t":
                found[name] = _value(kind, data.sized())
            elif how == "n" and (is_key or not key_only):
                found[name] = None
        return found

    def _committed(self, data: "_Bytes") -> list[Change]:
        data.integer("B")
        data.integer("Q")
        end_lsn, at_us = data.integer("Q"), data.integer("q")
        at_s = EPOCH_S + at_us / 1e6
        found = [Change(end_lsn, index, at_s, *one) for index, one in enumerate(self._open)]
        self._open = []
        return found


class _Bytes:
    """A message, read from its beginning on."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def left(self) -> bool:
        return self._place < len(self._data)

    def char(self) -> str:
        return chr(self.integer("B"))

    def integer(self, form: str) -> int:
        (found,) = struct.unpack_from(f">{form}", self._data, self._place)
        self._place += struct.calcsize(f">{form}")
        return int(found)

    def text(self) -> str:
        end = self._data.index(0, self._place)
        found = self._data[self._place : end].decode("utf-8", "replace")
        self._place = end + 1
        return found

    def sized(self) -> str:
        size = self.integer("I")
        found = self._data[self._place : self._place + size].decode("utf-8", "replace")
        self._place += size
        return found


def _value(kind: int, text: str) -> Any:
    """A column's text as JSON has it. What a JSON number does not hold, such as NaN, stays text."""
    try:
        if kind in _INTEGERS:
            return int(text)
        if kind == _BOOLEAN:
            return text == "t"
        if kind in _JSON:
            return json.loads(text)
        if kind in _FLOATS or kind == _NUMERIC:
            number = float(text)
            return number if math.isfinite(number) else text
    except ValueError:
        return text
    return text


def lsn_text(lsn: int) -> str:
    """A place in PostgreSQL's log as it writes it.

    >>> lsn_text(0x16B374D848)
    '16/B374D848'
    """
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
