"""The content-addressed folder of an artifact: written once, verified at each load."""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aios.errors import ArtifactRejected
from aios.models.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    parse_manifest,
)
from aios.records import Artifact

_CHUNK_BYTES = 2**20


def describe_files(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """What a manifest says about these files."""
    return {
        name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        for name, content in files.items()
    }


def to_artifact(manifest: Manifest) -> Artifact:
    """The record that names this artifact everywhere else."""
    return Artifact(digest=manifest.digest, engine=manifest.engine, size_bytes=manifest.size_bytes)


@contextmanager
def staged(manifest: Manifest, files: Mapping[str, bytes], into: Path) -> Iterator[Path]:
    """A folder with these files, for checks; it takes its place as `into/<digest>` when the
    block ends without an error, and is removed when it ends with one.

    Raises:
        ArtifactRejected: `into/<digest>` exists already and is damaged.
    """
    into.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=into))
    try:
        for name, content in {**files, MANIFEST_NAME: manifest.to_bytes()}.items():
            with open(staging / name, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        yield staging
        staging.chmod(0o755)
        target = into / manifest.digest
        try:
            staging.rename(target)
        except OSError:
            # It was built before, or by someone else at the same time.
            verify(target, manifest.digest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def verify(folder: Path, digest: str) -> Manifest:
    """The manifest of an artifact whose every byte is what its digest says.

    All files are hashed again. Nothing in the folder is parsed before it was hashed, and no
    link is followed.

    Raises:
        ArtifactRejected: the folder is missing, or a file is missing, extra, changed, a link
            or not a plain file, or the manifest has another digest; says which.
    """
    present = _plain_files(folder)
    manifest = _manifest(folder, present, digest)
    expected = {MANIFEST_NAME, *manifest.files}
    for name in sorted(expected - present):
        raise _rejected(folder, f"the file {name!r} is missing")
    for name in sorted(present - expected):
        raise _rejected(folder, f"the file {name[:80]!r} is not in the manifest")
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry)
    return manifest


def read_manifest(folder: Path, digest: str) -> Manifest:
    """The manifest of this digest; the other files are not looked at. For who needs one of them
    only, and takes it by `read_verified`.

    Raises:
        ArtifactRejected: the folder or its manifest is missing, or has another digest.
    """
    return _manifest(folder, _plain_files(folder), digest)


def _manifest(folder: Path, present: set[str], digest: str) -> Manifest:
    if MANIFEST_NAME not in present:
        raise _rejected(folder, f"{MANIFEST_NAME} is missing")
    content = _read(folder, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise _rejected(
            folder, f"{MANIFEST_NAME} has the digest {found[:12]}..., not {digest[:12]}..."
        )
    return parse_manifest(content)


def read_verified(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The bytes of one file, hashed as they are handed out, so that what is loaded is what
    was verified even if the folder changes in between.

    Raises:
        ArtifactRejected: the file is missing or not what the manifest says.
    """
    entry = manifest.files.get(name)
    if entry is None:
        raise _rejected(folder, f"the manifest names no file {name!r}")
    content = _read(folder, name, entry.size_bytes)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise _rejected(folder, f"the file {name!r} was changed")
    return content


def _rejected(folder: Path, reason: str) -> ArtifactRejected:
    return ArtifactRejected(
        f"artifact {folder.name[:20]} is not what was registered: {reason}; restore the folder "
        "from a copy, or register the model again",
        reason=reason,
    )


def _plain_files(folder: Path) -> set[str]:
    if folder.is_symlink() or not folder.is_dir():
        raise _rejected(folder, "there is no such folder")
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                raise _rejected(folder, f"{entry.name[:80]!r} is a link, folder or device")
            names.add(entry.name)
    return names


def _open(folder: Path, name: str) -> BinaryIO:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.fdopen(os.open(folder / name, flags), "rb")
    except OSError as error:
        raise _rejected(folder, f"the file {name!r} cannot be read: {error.strerror}") from error


def _read(folder: Path, name: str, limit_bytes: int) -> bytes:
    with _open(folder, name) as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise _rejected(folder, f"the file {name!r} is larger than {limit_bytes} bytes")
    return content


def _check_file(folder: Path, name: str, entry: FileEntry) -> None:
    hashed, size_bytes = hashlib.sha256(), 0
    with _open(folder, name) as file:
        while chunk := file.read(_CHUNK_BYTES):
            hashed.update(chunk)
            size_bytes += len(chunk)
            if size_bytes > entry.size_bytes:
                break
    if size_bytes != entry.size_bytes:
        raise _rejected(
            folder, f"the file {name!r} does not have the {entry.size_bytes} bytes it had"
        )
    if hashed.hexdigest() != entry.sha256:
        raise _rejected(folder, f"the file {name!r} was changed")
