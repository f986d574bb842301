"""What identifies rows: a digest of their content that knows no order, and hashes of keys.

Each row becomes the same bytes whatever file it came from, and each set of rows the same digest
whatever their order or the number of files.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
Cells = dict[str, tuple[Bytes, Bytes]]

_WIDTH = 256
"""Bytes that a row's hash is widened to before summing. The cost of a forgery by Wagner's
generalised birthday attack grows with 2 ** (2 * sqrt(bits)): 2 ** 90 for these 2,048 bits, and
only 2 ** 32 if plain sha256 digests were added."""
_NUMBER = 8
_HASH = 32


class ContentDigest:
    """sha256 over a multiset of rows, in one pass, in constant memory, in any order.

    The sum modulo 2 ** 2048 of each row's SHAKE-128, sealed with schema and row count (AdHash:
    Bellare, Micciancio, "A new paradigm for collision-free hashing", EUROCRYPT 1997; as a
    multiset hash: Clarke et al., ASIACRYPT 2003; width: Wagner, CRYPTO 2002). A repeated row
    counts each time.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, rows: Bytes) -> Hashes:
        """Add what `row_bytes` gave; returns 64 bits of each row's hash."""
        wide = b"".join([hashlib.shake_128(row).digest(_WIDTH) for row in _each(rows)])
        words = np.frombuffer(wide, dtype="<u4").reshape(len(rows), _WIDTH // 4)
        sums = words.sum(axis=0, dtype=np.uint64).tolist()
        self._sum += sum(value << (32 * place) for place, value in enumerate(sums))
        self.rows += len(rows)
        return words.view("<u8")[:, 0].copy()

    def merge(self, other: "ContentDigest") -> None:
        """Add all that `other` has seen."""
        self.rows += other.rows
        self._sum += other._sum

    def hexdigest(self, schema: "pa.Schema") -> str:
        """64 hexadecimal digits. Columns count by name and type, not by their order."""
        columns = sorted([field.name, str(plain_type(field.type))] for field in schema)
        head = json.dumps({"columns": columns, "rows": self.rows}, ensure_ascii=False)
        total = self._sum % (1 << (8 * _WIDTH))
        sealed = head.encode() + b"\0" + total.to_bytes(_WIDTH, "little")
        return hashlib.sha256(sealed).hexdigest()


def encode(table: "pa.Table") -> Cells:
    """Of each column, by name: whether a row has a value (0 or 1), and its cell as bytes.

    A cell is 8 bytes of a number (of a time, in its unit), else 32 bytes of BLAKE2. All NaN are
    one; 0.0 and -0.0 are two.
    """
    return {name: _cells(table.column(name)) for name in sorted(table.column_names)}


def row_bytes(cells: Cells) -> Bytes:
    """Each row as bytes of one width: equal rows of one schema are equal, others differ."""
    found = cells.values()
    there = np.packbits(np.stack([there for there, _ in found], axis=1), axis=1)
    numbers = [cells.view("<u8")[:, 0] for _, cells in found if cells.shape[1] == _NUMBER]
    others = [cells for _, cells in found if cells.shape[1] != _NUMBER]
    if numbers:
        others.append(np.stack(numbers, axis=1).view(np.uint8))
    return np.concatenate([there, *others], axis=1)


def hashes(rows: Bytes, seed: int) -> Hashes:
    """64 evenly spread bits for each row's bytes, other ones for each seed."""
    salt = seed.to_bytes(8, "little", signed=True)
    found = [hashlib.blake2b(row, digest_size=8, salt=salt).digest() for row in _each(rows)]
    return np.frombuffer(b"".join(found), dtype="<u8")


def key_hashes(column: "pa.ChunkedArray", seed: int) -> Hashes:
    """64 evenly spread bits for each key; a key has the same ones wherever it stands."""
    import pyarrow as pa

    plain = column.cast(plain_type(column.type)).combine_chunks()
    encoded = plain.dictionary_encode(null_encoding="encode")
    there, cells = _cells(pa.chunked_array([encoded.dictionary]))
    known = hashes(np.concatenate([there.reshape(-1, 1), cells], axis=1), seed)
    spread: Hashes = known[encoded.indices.to_numpy()]
    return spread


def plain_type(kind: "pa.DataType") -> "pa.DataType":
    """The type of the values, whichever way the file keeps them."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def _cells(column: "pa.ChunkedArray") -> tuple[Bytes, Bytes]:
    """Where a column has values, and its cells as bytes of one width."""
    import pyarrow as pa
    import pyarrow.compute as pc

    there = pc.is_valid(column).to_numpy().astype(np.uint8)
    kind, types = plain_type(column.type), pa.types
    if kind != column.type:
        column = column.cast(kind)
    if types.is_null(kind):
        return there, np.zeros((len(column), 0), dtype=np.uint8)
    if types.is_floating(kind):
        numbers = column.to_numpy().astype("<f8")
        numbers[np.isnan(numbers)] = np.nan
        return there, _as_bytes(numbers)
    if types.is_boolean(kind) or types.is_integer(kind) or moment_width(kind):
        width = pa.uint64() if types.is_uint64(kind) or types.is_boolean(kind) else pa.int64()
        if moment_width(kind) == 32:
            column = column.cast(pa.int32())
        return there, _as_bytes(column.cast(width).fill_null(0).to_numpy())
    return there, _hashed(column, kind)


def moment_width(kind: "pa.DataType") -> int:
    """How many bits a date, a time or a timestamp has as an integer; 0 for anything else."""
    import pyarrow as pa

    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        return 32
    others = (pa.types.is_date64, pa.types.is_time64, pa.types.is_timestamp, pa.types.is_duration)
    return 64 if any(check(kind) for check in others) else 0


def _hashed(column: "pa.ChunkedArray", kind: "pa.DataType") -> Bytes:
    """32 bytes for each text, blob or nested value; a value that repeats is hashed once."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        column = column.cast(pa.binary())
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.string()).cast(pa.binary())
    elif pa.types.is_fixed_size_binary(kind):
        column = column.cast(pa.binary())
    elif not pa.types.is_binary(kind):
        spelled = [repr(value).encode() for value in column.to_pylist()]
        column = pa.chunked_array([pa.array(spelled, type=pa.binary())])
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    known = [
        hashlib.blake2b(value or b"", digest_size=_HASH).digest()
        for value in encoded.dictionary.to_pylist()
    ]
    cells = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), _HASH)
    spread: Bytes = cells[encoded.indices.to_numpy()]
    return spread


def _as_bytes(numbers: NDArray[Any]) -> Bytes:
    little = np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(len(numbers), _NUMBER)


def _each(rows: Bytes) -> list[bytes]:
    """Each row's bytes; slices of one object are twice as fast as rows of an array."""
    width = rows.shape[1]
    whole = rows.tobytes()
    return [whole[place * width : (place + 1) * width] for place in range(len(rows))]
