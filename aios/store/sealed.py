"""Checking that a folder is the artifact that its digest names."""

import hashlib
import re
from pathlib import Path

import orjson

from aios.errors import ArtifactRejected, StoreUnavailable

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 4 * 2**20
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""Flat, so that no name leads out of the folder; 100 characters is what a tar header holds."""

_BLOCK_BYTES = 2**20


def check_folder(folder: Path, digest: str) -> None:
    """Check every byte of a folder against the digest of its manifest.

    Raises:
        ArtifactRejected: the manifest has another digest, a file differs from it, is missing,
            is not listed, or is not a regular file.
        StoreUnavailable: the folder cannot be read.
    """
    try:
        _check(folder, digest)
    except OSError as error:
        raise StoreUnavailable(f"artifact {digest[:12]} cannot be read: {error}") from error


def _check(folder: Path, digest: str) -> None:
    manifest = folder / MANIFEST_NAME
    if not _is_plain(manifest) or manifest.stat().st_size > MAX_MANIFEST_BYTES:
        raise ArtifactRejected(f"artifact {digest[:12]} has no {MANIFEST_NAME} in {folder}")
    content = manifest.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise ArtifactRejected(
            f"{MANIFEST_NAME} in {folder} has the digest {found[:12]}, not {digest[:12]}: it was "
            "changed after registration, or belongs to another artifact"
        )
    stated = parse(content)
    present = {path.name for path in folder.iterdir()} - {MANIFEST_NAME}
    if odd := present ^ set(stated):
        raise ArtifactRejected(
            f"artifact {digest[:12]} does not have the files its manifest lists; "
            f"they differ in {sorted(odd)[0]!r}"
        )
    for name, sha256 in stated.items():
        if not _is_plain(folder / name) or _sha256(folder / name) != sha256:
            raise ArtifactRejected(
                f"file {name!r} of artifact {digest[:12]} is not what its manifest states; "
                "register the model again"
            )


def file_names(folder: Path) -> list[str]:
    """The files that a folder's manifest lists, and then the manifest itself.

    Raises:
        ArtifactRejected: the manifest cannot be read.
    """
    manifest = folder / MANIFEST_NAME
    if not _is_plain(manifest) or manifest.stat().st_size > MAX_MANIFEST_BYTES:
        raise ArtifactRejected(f"there is no {MANIFEST_NAME} in {folder}")
    return [*sorted(parse(manifest.read_bytes())), MANIFEST_NAME]


def parse(manifest: bytes) -> dict[str, str]:
    """The sha256 of each file, from `{"files": {name: {"sha256": ..., "size_bytes": ...}}}`.

    Raises:
        ArtifactRejected: it is not such a manifest, or a name is not a flat file name.
    """
    try:
        files = orjson.loads(manifest)["files"]
        stated = {name: str(entry["sha256"]) for name, entry in files.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactRejected(f"{MANIFEST_NAME} cannot be read: {error!r:.200}") from None
    for name in stated:
        if not FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
            raise ArtifactRejected(f"{MANIFEST_NAME} lists {name[:80]!r}, which is no file name")
    return stated


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _sha256(path: Path) -> str:
    seal = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            seal.update(block)
    return seal.hexdigest()
