"""What a step or flow gave, as JSON: its value, where a large value is, or how it failed."""

import builtins
import contextlib
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from aios.errors import (
    AiosError,
    PermanentError,
    StoreCorrupt,
    StoreUnavailable,
    UsageError,
    describe,
)
from aios.errors import from_problem as error_of_problem
from aios.packaging import own_line
from aios.records import CodeSource
from aios.store.canonical import plain

LARGE_BYTES = 256 * 1024
"""What is larger as JSON goes to a file beside the database, which holds its address."""
LONGEST_TEXT = 2_000
"""Of what an error says, in characters."""
Outcome = dict[str, Any]
"""`{"value"}`, `{"file", "sha256", "bytes"}` or `{"failed"}`; see `Outcomes` and `told`."""


@dataclass(frozen=True)
class Outcomes:
    """Makes outcomes of values and gives them back. Picklable, holds no data.

    Args:
        url: folder of large values; a path or an fsspec URL that every node reaches.
    """

    url: str

    def of(self, value: Any, what: str) -> Outcome:
        """Raises:
        UsageError: the value is not JSON.
        StoreUnavailable: it is large and the folder cannot be written now.
        """
        text = plain(value, what)
        return self.small(text) or self.written(text)

    def small(self, text: bytes) -> Outcome | None:
        """The outcome of a value as `plain` gives it; None if it is large."""
        return {"value": json.loads(text)} if len(text) <= LARGE_BYTES else None

    def written(self, text: bytes) -> Outcome:
        """The outcome of a large value.

        Raises:
            StoreUnavailable: the folder cannot be written now.
        """
        digest = hashlib.sha256(text).hexdigest()
        name = f"{digest[:2]}/{digest}.json"
        self._write(name, text)
        return {"file": name, "sha256": digest, "bytes": len(text)}

    def value(self, outcome: Outcome) -> Any:
        """Raises:
        StoreCorrupt: a large value's file is gone or is not what it was.
        StoreUnavailable: it cannot be read now.
        """
        if "file" not in outcome:
            return outcome["value"]
        text = self._read(outcome["file"])
        if text is None or hashlib.sha256(text).hexdigest() != outcome["sha256"]:
            raise StoreCorrupt(f"{outcome['file']} in {self.url} is gone or damaged")
        return json.loads(text)

    def _files(self) -> tuple[Any, str]:
        import fsspec

        files, root = fsspec.core.url_to_fs(self.url)
        return files, str(root).rstrip("/")

    def _write(self, name: str, content: bytes) -> None:
        try:
            files, root = self._files()
            target = f"{root}/{name}"
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            if files.protocol not in ("file", ("file", "local")):
                files.pipe_file(target, content)  # object stores show an object when it is whole
                return
            part = Path(f"{target}.{os.getpid()}.{os.urandom(4).hex()}.part")
            part.write_bytes(content)
            part.replace(target)
        except Exception as error:
            # Each fsspec backend has errors of its own, with no base class in common.
            raise StoreUnavailable(f"{name} in {self.url} cannot be written: {error}") from error

    def _read(self, name: str) -> bytes | None:
        try:
            files, root = self._files()
            return bytes(files.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise StoreUnavailable(f"{name} in {self.url} cannot be read: {error}") from error


def told(error: Exception, source: CodeSource | None = None) -> dict[str, Any]:
    """An error as JSON, of which `rebuilt` makes one of the same class where it can."""
    line = "" if source is None else own_line(error, source)
    if isinstance(error, AiosError):
        return {"problem": error.to_problem(), "line": line}
    arguments = list(error.args)
    says = describe(error)[:LONGEST_TEXT]
    try:
        plain(arguments, "what an error was made of")
    except UsageError:
        arguments = [says.partition(": ")[2]]
    return {"type": type(error).__name__, "args": arguments, "says": says, "line": line}


def rebuilt(failed: dict[str, Any], module: ModuleType | None = None) -> Exception:
    """The error that `told` described: one of ours, of Python's, or of the flow's own text; else
    a PermanentError that says what it was."""
    if "problem" in failed:
        return error_of_problem(failed["problem"])
    kind = getattr(module, failed["type"], None) or getattr(builtins, failed["type"], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        # It may want other arguments than it keeps; `except` and `str` need none of them.
        for make in (kind, functools.partial(kind.__new__, kind)):
            with contextlib.suppress(TypeError):
                return make(*failed["args"])
    return PermanentError(failed["says"])


def says(failed: dict[str, Any]) -> str:
    """A told error in one line."""
    return str(failed["problem"]["detail"] if "problem" in failed else failed["says"])
