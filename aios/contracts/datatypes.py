"""The Open Inference Protocol's datatypes, and tensors as bytes.

Source: https://github.com/kserve/open-inference-protocol, "Tensor Data Types", and its
binary tensor data extension: little-endian elements in row-major order; each element of
BYTES is a 4-byte little-endian length followed by that many bytes.
"""

import struct
from typing import Any

import numpy as np

from aios.errors import Malformed

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<f4"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""In memory; BF16, which numpy lacks, is held as 32-bit floats."""

_LENGTH = struct.Struct("<I")


def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The dtype that holds the datatype in memory."""
    return DATATYPES[datatype]


def widens(sent: str, wanted: str) -> bool:
    """Whether every value of `sent` is exactly a value of `wanted`."""
    if sent == wanted:
        return True
    source, target = DATATYPES[sent], DATATYPES[wanted]
    if "O" in (source.kind, target.kind) or "b" in (source.kind, target.kind):
        return False
    if wanted == "BF16":
        return sent in ("INT8", "UINT8")
    if target.kind == "f" and sent in ("INT64", "UINT64"):
        return False
    return bool(np.can_cast(source, target, casting="safe"))


def element_bytes(datatype: str) -> int | None:
    """The bytes of one element on the wire; None for BYTES, which vary."""
    if datatype == "BYTES":
        return None
    return 2 if datatype == "BF16" else DATATYPES[datatype].itemsize


def from_bytes(name: str, datatype: str, raw: memoryview, count: int) -> np.ndarray[Any, Any]:
    """`count` elements as an array [count]; nothing is allocated before sizes agree.

    Raises:
        Malformed: there are fewer or more bytes than the elements need.
    """
    size = element_bytes(datatype)
    if size is None:
        return _texts_from_bytes(name, raw, count)
    if len(raw) != size * count:
        raise Malformed(
            f'tensor "{name}": {count} elements of {datatype} need {size * count} bytes, '
            f"and {len(raw)} came"
        )
    if datatype == "BF16":
        return (np.frombuffer(raw, dtype="<u2").astype("<u4") << 16).view("<f4")
    if datatype == "BOOL":
        flags = np.frombuffer(raw, dtype=np.uint8)
        if count and flags.max() > 1:
            raise Malformed(f'tensor "{name}": a BOOL byte must be 0 or 1')
        return flags.view(np.bool_)
    array: np.ndarray[Any, Any] = np.frombuffer(raw, dtype=DATATYPES[datatype])
    return array if array.flags.aligned else array.copy()


def _texts_from_bytes(name: str, raw: memoryview, count: int) -> np.ndarray[Any, Any]:
    if len(raw) < 4 * count:
        raise Malformed(
            f'tensor "{name}": {count} elements of BYTES need at least {4 * count} bytes, '
            f"and {len(raw)} came"
        )
    found = np.empty(count, dtype=object)
    position = 0
    for index in range(count):
        if position + 4 > len(raw):
            raise Malformed(f'tensor "{name}": element {index} of BYTES is cut off')
        (length,) = _LENGTH.unpack_from(raw, position)
        position += 4
        if position + length > len(raw):
            raise Malformed(
                f'tensor "{name}": element {index} says {length} bytes, '
                f"{len(raw) - position} are left"
            )
        try:
            found[index] = str(raw[position : position + length], "utf-8")
        except UnicodeDecodeError:
            raise Malformed(f'tensor "{name}": element {index} is not valid UTF-8') from None
        position += length
    if position != len(raw):
        raise Malformed(f'tensor "{name}": {len(raw) - position} bytes after the last element')
    return found


def to_bytes(datatype: str, array: np.ndarray[Any, Any]) -> bytes:
    """The elements in row-major order as the binary extension wants them."""
    if datatype == "BYTES":
        parts = []
        for element in array.ravel().tolist():
            raw = element.encode()
            parts.append(_LENGTH.pack(len(raw)))
            parts.append(raw)
        return b"".join(parts)
    if datatype == "BF16":
        return _bfloat16_bytes(array)
    return array.astype(DATATYPES[datatype], copy=False).tobytes()


def _bfloat16_bytes(array: np.ndarray[Any, Any]) -> bytes:
    # Round to nearest, ties to even, as IEEE 754 does when it drops the low 16 bits.
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2").tobytes()
