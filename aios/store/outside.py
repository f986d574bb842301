"""A file of checkpoints outside of the database, one JSON line each, only ever appended to."""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aios.errors import StoreCorrupt, StoreUnavailable, UsageError

LONGEST_LINE_BYTES = 16_384
"""Twice the longest checkpoint."""

_TAIL_BYTES = 8 * LONGEST_LINE_BYTES


class Outside:
    """Where checkpoints are out of reach of whoever can write to the database.

    Put it on another volume or under another user where there is one; the file may be made
    append-only for everybody (`chattr +a`), as nothing here ever shortens or rewrites it.

    Args:
        path: of the file; it and its folder are made when the first checkpoint is written.
    """

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._path = path

    @contextmanager
    def writing(self) -> Iterator["OpenOutside"]:
        """The file, open and locked against other processes.

        Raises:
            StoreUnavailable: it cannot be opened or written now.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
            with os.fdopen(os.open(self._path, flags, 0o600), "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield OpenOutside(file, self.place)
        except OSError as error:
            raise StoreUnavailable(
                f"checkpoints of the audit log cannot be written to {self.place}: {error}"
            ) from error

    def lines(self) -> Iterator[str]:
        """All lines that are there now but those that a crash cut short, for a check. One that
        is too long is given cut, and ends the reading.

        Raises:
            UsageError: there is no such file, or it cannot be read.
        """
        try:
            file = self._path.open("rb")
        except OSError as error:
            raise UsageError(f"checkpoints {self.place} cannot be read: {error.strerror}") from None
        return _untorn(_bounded(file, os.fstat(file.fileno()).st_size))


class OpenOutside:
    """The file while it is locked."""

    def __init__(self, file: BinaryIO, place: str) -> None:
        self._file = file
        self._place = place

    def newest(self) -> str | None:
        """The last line that was written whole; None if there is none yet.

        Raises:
            StoreCorrupt: something else than checkpoints was written to the file.
        """
        size_bytes = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size_bytes - _TAIL_BYTES))
        lines = self._file.read().decode("ascii", "replace").split("\n")
        whole = [line for line in lines if _is_whole(line)]
        if not whole and size_bytes > _TAIL_BYTES:
            raise StoreCorrupt(f"{self._place} ends with what is no checkpoint; look at it")
        # The first one may have lost its beginning, but only one of many lines can be it.
        return whole[-1] if whole else None

    def append(self, lines: Sequence[str]) -> None:
        """Write lines and wait until they are on disk. A line that was cut short stays, on a
        line of its own: it is the beginning of the next one, which tells it from an edit."""
        size_bytes = self._file.seek(0, os.SEEK_END)
        begun = False
        if size_bytes:
            self._file.seek(size_bytes - 1)
            begun = self._file.read(1) != b"\n"
        content = ("\n" if begun else "") + "".join(line + "\n" for line in lines)
        rest = memoryview(content.encode("ascii"))
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())


def _is_whole(line: str) -> bool:
    # Canonical JSON of a flat object: no beginning of it ends with a brace.
    return line.startswith("{") and line.endswith("}")


def _bounded(file: BinaryIO, size_bytes: int) -> Iterator[str]:
    with file:
        while size_bytes > 0 and (line := file.readline(min(size_bytes, LONGEST_LINE_BYTES))):
            size_bytes -= len(line)
            yield line.decode("ascii", "replace")
            if len(line) == LONGEST_LINE_BYTES:
                return


def _untorn(lines: Iterable[str]) -> Iterator[str]:
    held = ""
    for line in lines:
        text = line.removesuffix("\n")
        if held and not (text.startswith(held) or held.startswith(text)):
            yield held
            held = ""
        if _is_whole(text):
            held = ""
            yield text
        elif line.endswith("\n") or len(line) >= LONGEST_LINE_BYTES:
            held = max(held, text, key=len)
    if held:
        yield held
