"""Artifact folders by digest, on any file system that fsspec knows.

An artifact is a flat folder with a `manifest.json` that states the sha256 of every other
file; the artifact's digest is the sha256 of the manifest's bytes. In a local store a folder
appears by one rename; in a remote one, which has no rename, the manifest is written last and
its presence makes the artifact exist.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aios.errors import AiosError, ArtifactRejected, PayloadTooLarge, StoreUnavailable, UsageError
from aios.store import tar
from aios.store.sealed import MANIFEST_NAME, check_folder, file_names

_DIGEST = re.compile(r"[0-9a-f]{64}")
_HIDDEN = ".incoming-"


class ArtifactStore:
    """Puts, fetches, packs and unpacks artifacts; what is visible is whole and as stated.

    Args:
        url: a folder, or an fsspec URL (`s3://bucket/path`).
        cache: local folder for what is fetched from a remote store; unused by a local one.
        max_bytes: limit for one artifact that comes as a tar, all files together; 2 GiB, as
            ONNX in a single file (protobuf) cannot be larger.

    Raises:
        UsageError: no file system is installed for this URL.
    """

    def __init__(self, url: str, cache: Path, max_bytes: int = 2 * 2**30) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UsageError(f"artifacts cannot be kept at {url!r}: {error}") from None
        self.url = url
        self.max_bytes = max_bytes
        self._is_local = isinstance(self._files, LocalFileSystem)
        self._folder = Path(self._root) if self._is_local else Path(cache)

    def exists(self, digest: str) -> bool:
        """Whether the artifact is in the store (not whether its files are still sound)."""
        if self._is_local:
            return (self._local(digest) / MANIFEST_NAME).is_file()
        return bool(self._remotely(lambda: self._files.exists(self._remote(digest, MANIFEST_NAME))))

    def put(self, folder: Path, digest: str) -> None:
        """Add a folder under its digest; nothing happens if it is there and sound.

        A folder in a local store that was damaged meanwhile is replaced.

        Raises:
            ArtifactRejected: the folder is not what the digest says.
            StoreUnavailable: the disk is full, or the store cannot be reached.
        """
        self._local(digest)
        check_folder(Path(folder), digest)
        if not self._is_local:
            if not self.exists(digest):
                self._remotely(lambda: self._upload(Path(folder), digest))
            return
        if not _is_sound(self._local(digest), digest):
            with _Incoming(self._folder) as incoming:
                for name in file_names(Path(folder)):
                    shutil.copyfile(folder / name, incoming / name)
                check_folder(incoming, digest)
                _publish(incoming, self._local(digest), digest)

    def fetch(self, digest: str) -> Path:
        """A local folder with the artifact: the store's own if that is local, else a copy.

        A remote artifact is checked against its digest; a local one is not, because whoever
        loads it must check it in any case.

        Raises:
            ArtifactRejected: it is not in the store, or what is there is damaged.
            StoreUnavailable: the store cannot be reached.
        """
        local = self._local(digest)
        if not self._is_local and _is_sound(local, digest):
            return local
        if not self.exists(digest):
            raise ArtifactRejected(
                f"artifact {digest} is not in {self.url}; register the model again"
            )
        if not self._is_local:
            with _Incoming(self._folder) as incoming:
                self._remotely(lambda: self._download(digest, incoming))
                check_folder(incoming, digest)
                _publish(incoming, local, digest)
        return local

    def read_tar(self, digest: str) -> bytes:
        """The artifact as a plain tar; the same artifact always gives the same bytes.

        Raises:
            ArtifactRejected: it is not in the store, or is damaged.
            PayloadTooLarge: it is over `max_bytes`.
        """
        folder = self.fetch(digest)
        check_folder(folder, digest)
        files = {name: folder / name for name in file_names(folder)}
        size_bytes = sum(path.stat().st_size for path in files.values())
        if size_bytes > self.max_bytes:
            raise PayloadTooLarge(
                f"artifact {digest} has {size_bytes} bytes, over the {self.max_bytes} of a transfer"
            )
        return tar.pack({name: path.read_bytes() for name, path in files.items()})

    def write_tar(self, content: bytes, digest: str) -> None:
        """Add an artifact that came as a tar. It becomes visible only after every check.

        Raises:
            ArtifactRejected: not a plain tar of regular files with flat names, or the files are
                not what the manifest and the digest say.
            PayloadTooLarge: over `max_bytes`.
            StoreUnavailable: the disk is full, or the store cannot be reached.
        """
        self._local(digest)
        if len(content) > self.max_bytes:
            raise PayloadTooLarge(
                f"artifact {digest[:12]} has {len(content)} bytes; the limit is {self.max_bytes}"
            )
        with _Incoming(self._folder) as incoming:
            for name, file in tar.unpack(content).items():
                (incoming / name).write_bytes(file)
            if self._is_local:
                check_folder(incoming, digest)
                _publish(incoming, self._local(digest), digest)
            else:
                self.put(incoming, digest)

    def _local(self, digest: str) -> Path:
        return self._folder / _checked(digest)

    def _remote(self, digest: str, name: str) -> str:
        return f"{self._root.rstrip('/')}/{_checked(digest)}/{name}"

    def _upload(self, folder: Path, digest: str) -> None:
        self._files.makedirs(self._remote(digest, "").rstrip("/"), exist_ok=True)
        for name in file_names(folder):
            self._files.put_file(str(folder / name), self._remote(digest, name))

    def _download(self, digest: str, folder: Path) -> None:
        self._files.get_file(self._remote(digest, MANIFEST_NAME), str(folder / MANIFEST_NAME))
        for name in file_names(folder):
            if name != MANIFEST_NAME:
                self._files.get_file(self._remote(digest, name), str(folder / name))

    def _remotely(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except AiosError:
            raise
        except FileNotFoundError as error:
            raise ArtifactRejected(
                f"a file of an artifact is missing in {self.url}: {error}"
            ) from None
        except Exception as error:
            # Each fsspec backend has errors of its own, with no base class in common.
            raise StoreUnavailable(
                f"artifacts at {self.url} cannot be used now: {error}"
            ) from error


class _Incoming:
    """A hidden folder beside the artifacts, removed at the end if it was not renamed."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    def __enter__(self) -> Path:
        try:
            self._parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=self._parent))
        except OSError as error:
            raise _unwritable(self._parent, error) from error
        self._folder.chmod(0o755)
        return self._folder

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unwritable(self._parent, error) from error


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ArtifactRejected(f"{digest[:80]!r} is no digest: 64 hex digits are needed")
    return digest


def _unwritable(folder: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"artifacts cannot be written to {folder}: {error}. Nothing was added.")


def _publish(incoming: Path, final: Path, digest: str) -> None:
    """Make a checked folder visible by one rename; an equal one that came first may stay."""
    for name in file_names(incoming):
        _sync(incoming / name)
    _sync(incoming)
    if final.exists() and not _is_sound(final, digest):
        # Renamed, not overwritten: a process that has the old files open keeps them.
        final.rename(incoming.with_name(incoming.name + "-damaged"))
        shutil.rmtree(incoming.with_name(incoming.name + "-damaged"), ignore_errors=True)
    try:
        incoming.rename(final)
    except OSError:
        if not _is_sound(final, digest):
            raise
    _sync(final.parent)


def _is_sound(folder: Path, digest: str) -> bool:
    try:
        check_folder(folder, digest)
    except ArtifactRejected:
        return False
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
