"""Packing a few flat files into a plain tar, and unpacking one that nobody vouches for.

Reading uses the standard library for a header at a time and walks the archive itself:
`tarfile.open` follows extension headers, sparse maps and negative offsets, which has made it
loop for ever on crafted archives (CVE-2025-8194, not mended in every Python that we run on).
What `pack` writes needs none of that, so everything else is refused.
"""

import io
import tarfile

from aios.errors import ArtifactRejected
from aios.store.sealed import FILE_NAME

_BLOCK = tarfile.BLOCKSIZE
_MOST_FILES = 1000


def pack(files: dict[str, bytes]) -> bytes:
    """A tar of these files in the order of their names, without owner, mode or time."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    return target.getvalue()


def unpack(content: bytes) -> dict[str, bytes]:
    """The files of a plain tar, in memory; never larger than the tar itself.

    Raises:
        ArtifactRejected: it is compressed, cut off or damaged, or has anything but regular
            files with flat names, each once.
    """
    files: dict[str, bytes] = {}
    at = 0
    while content[at : at + _BLOCK].strip(b"\0"):
        member = _member(content[at : at + _BLOCK])
        start, end = at + _BLOCK, at + _BLOCK + member.size
        if end > len(content):
            raise ArtifactRejected(f"the tar ends in the middle of {member.name!r}")
        if member.name in files or len(files) == _MOST_FILES:
            raise ArtifactRejected(
                f"the tar has {member.name!r} twice, or more than {_MOST_FILES} files"
            )
        files[member.name] = content[start:end]
        at = end + -end % _BLOCK
    if not files:
        raise ArtifactRejected("the tar is empty")
    if content[at:].strip(b"\0"):
        raise ArtifactRejected("the tar has something after its end")
    return files


def _member(header: bytes) -> tarfile.TarInfo:
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise ArtifactRejected(f"this is not a plain tar: {error}") from None
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise ArtifactRejected(f"{member.name[:80]!r} in the tar is not a regular file")
    if member.size < 0 or not FILE_NAME.fullmatch(member.name):
        raise ArtifactRejected(f"{member.name[:80]!r} in the tar is no plain file name")
    return member
