"""The Ed25519 key that signs the audit log's checkpoints (RFC 8032), in PEM files."""

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from aios.errors import StoreUnavailable, UsageError

_LARGEST_FILE_BYTES = 10_000


class PublicKey:
    """Tells whether a signature is of the key whose public half this is."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.id = _id(key)

    def verifies(self, content: bytes, signature: str) -> bool:
        """Whether `signature`, in hex, is this key's over the content. Never raises."""
        try:
            self._key.verify(bytes.fromhex(signature), content)
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """Signs. `id` names the key in what it signed: 16 hex digits, from the public half."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())
        self.id = self.public.id

    def sign(self, content: bytes) -> str:
        """The signature over the content, 128 hex digits."""
        return self._key.sign(content).hex()


def signing_key(path: Path) -> SigningKey:
    """Load a signing key, or make one where there is none yet.

    The public half is written beside it, with `.pub` added to the name. Give that file to
    whoever is to check signatures, and keep a copy where this machine cannot change it.

    Raises:
        UsageError: others than its owner may read the key; it is no Ed25519 key; only its
            public half is there, or one that is not its own.
        StoreUnavailable: the files cannot be read or written now.
    """
    try:
        if not path.exists():
            _make(path)
        return _load(path)
    except OSError as error:
        raise StoreUnavailable(f"the signing key {path} cannot be used: {error}") from error


def public_key(path: Path) -> PublicKey:
    """Read a public key from a PEM file.

    Raises:
        UsageError: there is no such file, or it holds no Ed25519 public key.
    """
    try:
        key = load_pem_public_key(_read(path))
    except OSError as error:
        raise UsageError(f"the public key {path} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(
            f"{path} holds no public key in PEM; give the file ending in .pub"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path} holds a public key of another kind; an Ed25519 key is needed")
    return PublicKey(key)


def _make(path: Path) -> None:
    if _public_path(path).exists():
        raise UsageError(
            f"the signing key {path} is gone, but its public half is there: put the key back. To "
            f"start with a new key, move {_public_path(path).name} and the checkpoints away; "
            "they are needed to check the entries so far"
        )
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _place(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _load(path: Path) -> SigningKey:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UsageError(
            f"the signing key {path} can be read by others (mode {mode:04o}): find out who could "
            f"have copied it, then chmod 600 {path}"
        )
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError(f"{path} holds no private key in plain PEM; put the key back") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} holds a key of another kind; an Ed25519 key is needed")
    made = SigningKey(key)
    beside = _public_path(path)
    if not beside.exists():
        _place(
            beside, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    if public_key(beside).id != made.id:
        raise UsageError(
            f"{beside} is not the public half of {path}: one of the two was replaced; put the "
            "right one back"
        )
    return made


def _place(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all; one that another process made stays."""
    handle, fresh = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        os.unlink(fresh)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST_FILE_BYTES)


def _public_path(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _id(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
