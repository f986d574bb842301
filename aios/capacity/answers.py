"""HTTP answers as bytes: whether one is complete, and whether it is what was asked for."""

from collections.abc import Callable, Sequence

import orjson

Judge = Callable[[int, bytes, bytes], str | None]
"""`(number of the request, status, body) -> what is wrong, or None`."""
Place = str | Sequence[str | int]
"""Where the score is in an answer: the name of an output of its first record, as this runtime
answers; or keys and positions from the answer's top, as other servers answer."""
TOLERANCE = 1e-4
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_LAST_CHUNK = b"0\r\n\r\n"
_DEGRADED = b'"degraded":"'
_SHOWN_BYTES = 200


def answers_well(number: int, status: bytes, body: bytes) -> str | None:
    """Status 200, from a version: a fallback's answer is no evidence of what a version can do."""
    del number
    if status != b"200" or _DEGRADED in body:
        return f"{status.decode()} {body[:_SHOWN_BYTES].decode(errors='replace')}"
    return None


def scores_as(expected: Sequence[float], output: Place) -> Judge:
    """A judge that also compares the first record's score with the right one. An answer that has
    none is wrong."""
    way = ("outputs", 0, output) if isinstance(output, str) else tuple(output)

    def judged(number: int, status: bytes, body: bytes) -> str | None:
        if status == b"200":
            try:
                score = orjson.loads(body)
                for step in way:
                    score = score[step]
                if abs(score - expected[number]) <= TOLERANCE:
                    return None
            except (LookupError, TypeError, ValueError):
                pass
        return f"{status.decode()} {body[:_SHOWN_BYTES].decode(errors='replace')}"

    return judged


def complete(data: bytes) -> tuple[bytes, bytes] | None:
    """Status and body of a whole answer, or None while some of it is still to come.

    Raises:
        ValueError: the answer says neither its length nor that it comes in chunks.
    """
    end = data.find(_HEAD_END)
    if end < 0:
        return None
    head, start = data[:end].lower(), end + len(_HEAD_END)
    at = head.find(_LENGTH)
    if at >= 0:
        stop = head.find(b"\r", at)
        length = int(head[at + len(_LENGTH) : stop if stop >= 0 else None])
        return (data[9:12], data[start:]) if len(data) >= start + length else None
    if b"transfer-encoding: chunked" not in head:
        raise ValueError(f"an answer without a length: {data[:200]!r}")
    return (data[9:12], _joined(data[start:])) if data.endswith(_LAST_CHUNK) else None


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        body += rest[: int(size, 16)]
        chunks = rest[int(size, 16) + 2 :]
    return body
