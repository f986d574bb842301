"""New and changed files of a folder or bucket as a source, by fsspec."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from aios.errors import TemporaryError, UsageError, storable
from aios.events.consumer import Batch
from aios.events.reading import Message
from aios.records.events import Files

MOST_FILES = 1_000_000
"""Names that are kept in memory to know what is new."""
SHOWN_FILES = 3
_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated")


class FilesConsumer:
    """Looks into a folder now and then. What is new is known by path and etag (or size and time);
    what was taken before this reader began, the inbox knows."""

    def __init__(self, files: Files) -> None:
        import fsspec

        self._files = files
        try:
            self._system, self._folder = fsspec.core.url_to_fs(files.url)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{files.url} cannot be looked into: {str(error)[:200]}") from None
        self._before: dict[str, str] = {}
        self._taken: dict[str, str] = {}
        self._due_s = 0.0
        self._why: str | None = None
        self._skipped: dict[str, str] = {}

    def poll(self, most: int, wait_s: float) -> Batch:
        if time.monotonic() < self._due_s:
            time.sleep(min(wait_s, max(0.0, self._due_s - time.monotonic())))
            return Batch([], problem=self._why)
        found = self._listed()
        self._why = self._problem(found)
        told = {path: _etag(info) for path, info in found.items()}
        # One that is being written is another one at each look.
        still = [path for path, etag in told.items() if self._before.get(path) == etag]
        new = sorted(path for path in still if self._taken.get(path) != told[path])
        self._before = told
        if len(new) <= most:
            self._due_s = time.monotonic() + self._files.every_s
        batch = [_message(self._files, path, found[path], told[path]) for path in new[:most]]
        return Batch(batch, {path: told[path] for path in new[:most]}, self._why)

    def ack(self, batch: Batch) -> None:
        self._taken.update(batch.mark)

    def idle(self) -> None:
        """A folder does not mind."""

    def lag(self) -> int | None:
        return sum(self._taken.get(path) != etag for path, etag in self._before.items())

    def close(self) -> None:
        """Nothing is held."""

    def _problem(self, found: Mapping[str, Any]) -> str | None:
        """What is skipped, or a folder that is missing on a disk; object stores have no empty
        ones."""
        if self._skipped:
            first = sorted(self._skipped.items())[:SHOWN_FILES]
            told = [f"{storable(path)} ({why})" for path, why in first]
            more = len(self._skipped) - len(told)
            return f"{self._files.shown}: skipped {', '.join(told)}" + (
                f" and {more} more" if more else ""
            )
        if found or not self._on_disk or self._system.isdir(self._folder):
            return None
        return f"{self._files.shown}: there is no such folder yet"

    @property
    def _on_disk(self) -> bool:
        return "file" in self._system.protocol

    def _unfit(self, path: str, info: Mapping[str, Any]) -> str | None:
        """Why a name is not taken: no event can tell it; or, on a disk, who writes into the folder
        must not have a flow read what lies outside of it, nor wait for ever at a pipe."""
        if storable(path) != path:
            return "its name is not UTF-8"
        if not self._on_disk:
            return None
        if info.get("islink"):
            folder, target = os.path.realpath(self._folder), os.path.realpath(path)
            if os.path.commonpath([folder, target]) != folder:
                return "a link out of the folder"
            return None if os.path.isfile(target) else "a link to no regular file"
        return None if info["type"] == "file" else "no regular file"

    def _listed(self) -> dict[str, Mapping[str, Any]]:
        try:
            self._system.invalidate_cache()
            found = self._system.find(self._folder, detail=True)
        except FileNotFoundError:
            self._skipped = {}
            return {}
        except (OSError, ValueError) as error:
            raise TemporaryError(f"{self._files.shown} cannot be looked into: {error}") from None
        if len(found) > MOST_FILES:
            raise UsageError(
                f"{self._files.shown} has over {MOST_FILES:,} files; move away what was handled"
            )
        matching = {}
        self._skipped = {}
        for path, info in found.items():
            name = path.rpartition("/")[2]
            if name.startswith(".") or not fnmatchcase(name, self._files.pattern):
                continue
            unfit = self._unfit(path, info)
            if unfit is None:
                matching[path] = info
            else:
                self._skipped[path] = unfit
        return matching


def _etag(info: Mapping[str, Any]) -> str:
    stamp = next((info[name] for name in _STAMPS if info.get(name)), "")
    told = stamp.isoformat() if isinstance(stamp, datetime) else str(stamp).strip('"')
    return f"{told}-{info.get('size')}"


def _message(files: Files, path: str, info: Mapping[str, Any], etag: str) -> Message:
    scheme = files.url.partition("://")[0] + "://" if "://" in files.url else ""
    data = {"path": f"{scheme}{path}", "size_bytes": info.get("size"), "etag": etag}
    mtime = info.get("mtime")
    return Message(
        coordinates=f"{hashlib.sha256(path.encode()).hexdigest()[:32]}/{etag}",
        body=json.dumps(data).encode(),
        source=f"files:{files.url}",
        kind="file.seen",
        subject=path[:500],
        time_s=float(mtime) if isinstance(mtime, int | float) else None,
    )
