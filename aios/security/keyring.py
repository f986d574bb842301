"""The keys of the prediction log: one that hashes private values, and those that encrypt rows.

They are in one file under the runtime's home that its owner alone may read, and nowhere else on
disk: not in the database, a log, a configuration or the environment. Keep a copy of it elsewhere:
without it encrypted rows cannot be read by anyone.
"""

import base64
import binascii
import hmac
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aios.errors import StoreCorrupt, StoreUnavailable, UsageError

HASHED = "hmac:"
"""What stands before the hash of a private value."""
_HASH_CHARACTERS = 32
_KEY_BYTES, _SALT_BYTES, _NONCE_BYTES = 32, 16, 12
_DRAWN = 256
_EXACT = 2.0**53
_MOST_CIPHERS = 4096


class Keyring:
    """Keys as they are at one time; immutable. Printing it shows no key.

    Args:
        hash_key: 32 bytes; never changed, or equal values would no longer be equal.
        keys: id -> 32 bytes, oldest first.
        encrypts: whether new rows are encrypted, by the newest key.
    """

    def __init__(self, hash_key: bytes, keys: Mapping[str, bytes], encrypts: bool) -> None:
        self._hash_key = hash_key
        self._keys = dict(keys)
        self.encrypts = encrypts
        self._ciphers: dict[str, AESGCM] = {}

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._keys) or 'no keys'})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Keyring, (self._hash_key, self._keys, self.encrypts)

    @property
    def ids(self) -> list[str]:
        """The ids of the keys, oldest first. An id says nothing about its key."""
        return list(self._keys)

    @property
    def stamp(self) -> str:
        """Differs whenever the keyring does, and gives no key away."""
        material = b"".join([self._hash_key, *self._keys.values(), bytes([self.encrypts])])
        return hmac.digest(self._hash_key, material, "sha256").hex()

    def hashed(self, value: Any) -> str | None:
        """HMAC-SHA256 of a value's JSON, cut to 128 bits: equal values give equal texts, and who
        lacks the key cannot try values out. 2 and 2.0 are equal; None, and NaN, stay None."""
        if value is None or value != value:
            return None
        if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
            value = int(value)
        text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
        return HASHED + hmac.digest(self._hash_key, text, "sha256").hex()[:_HASH_CHARACTERS]

    def hashed_all(self, values: Sequence[Any]) -> list[str | None]:
        """`hashed` of each; what comes often is hashed once."""
        try:
            known = {value: self.hashed(value) for value in set(values)}
        except TypeError:  # lists, of tensors
            return [self.hashed(value) for value in values]
        return [known[value] if value == value else None for value in values]

    def sealer(self) -> "Sealer | None":
        """Encrypts the rows of one batch; None where rows are not encrypted."""
        if not self.encrypts or not self._keys:
            return None
        newest = self.ids[-1]
        tag = f"{newest}.{secrets.token_hex(_SALT_BYTES)}"
        return Sealer(tag, self._cipher(tag))

    def open(self, tag: str, sealed: str, context: str) -> bytes:
        """What a `Sealer` encrypted.

        Raises:
            UsageError: the keyring lacks the key; names it.
            StoreCorrupt: it was changed, or belongs elsewhere.
        """
        cipher = self._cipher(tag)
        try:
            content = base64.b64decode(sealed, validate=True)
            return cipher.decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError):
            raise StoreCorrupt(
                f"a value of the prediction log was changed, or is of another row, or key "
                f"{key_of(tag)} is not the one that encrypted it"
            ) from None

    def _cipher(self, tag: str) -> AESGCM:
        """The cipher of one batch. Its key is derived from the keyring's and the batch's salt
        (HKDF, RFC 5869), so that random nonces of 96 bits suffice for any number of rows: NIST
        SP 800-38D allows 2^32 of them for one key, which one busy endpoint uses up in weeks."""
        found = self._ciphers.get(tag)
        if found is None:
            name, _, salt = tag.partition(".")
            if name not in self._keys:
                raise UsageError(
                    f"the prediction log is encrypted with key {name!r}, and the keyring has "
                    f"{', '.join(self._keys) or 'none'}: put the file of keys back that has it"
                )
            info = b"aios prediction log"
            derived = HKDF(SHA256(), _KEY_BYTES, bytes.fromhex(salt), info).derive(self._keys[name])
            while len(self._ciphers) >= _MOST_CIPHERS:
                self._ciphers.pop(next(iter(self._ciphers)))
            found = self._ciphers[tag] = AESGCM(derived)
        return found

    def rotated(self) -> "Keyring":
        """With one more key, which encrypts from now on; rows of the others stay readable."""
        fresh = {secrets.token_hex(4): secrets.token_bytes(_KEY_BYTES)}
        return Keyring(self._hash_key, {**self._keys, **fresh}, self.encrypts)

    def without(self, name: str) -> "Keyring":
        """Without a key that nothing needs any more.

        Raises:
            UsageError: there is none of this id, or it is the one in use.
        """
        if name not in self._keys:
            known = ", ".join(self._keys) or "none"
            raise UsageError(
                f"there is no key {name[:40]!r} of the prediction log; there are: {known}"
            )
        if name == self.ids[-1]:
            raise UsageError(f"key {name} is the newest one: rotate first, then retire it")
        rest = {one: key for one, key in self._keys.items() if one != name}
        return Keyring(self._hash_key, rest, self.encrypts)

    def encrypting(self, encrypts: bool) -> "Keyring":
        """The same keys, with at least one if new rows are to be encrypted."""
        made = Keyring(self._hash_key, self._keys, encrypts)
        return made.rotated() if encrypts and not self._keys else made

    def _to_json(self) -> dict[str, Any]:
        keys = [{"id": name, "key": key.hex()} for name, key in self._keys.items()]
        return {"hash_key": self._hash_key.hex(), "keys": keys}


class Sealer:
    """Encrypts values (AES-256-GCM) under one batch's key; `tag` names it and goes with them."""

    def __init__(self, tag: str, cipher: AESGCM) -> None:
        self.tag = tag
        self._cipher = cipher
        self._nonces: Iterator[bytes] = iter(())

    def seal(self, text: bytes, context: str) -> bytes:
        """Nonce, ciphertext and authentication tag in base64. `context` is where the value
        belongs; it opens nowhere else."""
        nonce = next(self._nonces, None)
        if nonce is None:  # many are drawn at once: a call of the system takes as long as AES
            drawn = os.urandom(_NONCE_BYTES * _DRAWN)
            places = range(0, len(drawn), _NONCE_BYTES)
            self._nonces = iter([drawn[start : start + _NONCE_BYTES] for start in places])
            nonce = next(self._nonces)
        sealed = self._cipher.encrypt(nonce, text, context.encode())
        return binascii.b2a_base64(nonce + sealed, newline=False)


def key_of(tag: str) -> str:
    """The id of the key that a batch was encrypted with."""
    return tag.partition(".")[0]


def context(endpoint: str, request_id: str, row: int, column: str) -> str:
    """Where a value of the log belongs. An endpoint's name has no bar, nor have the last two."""
    return f"{endpoint}|{request_id}|{row}|{column}"


def load_keyring(path: Path, *, encrypts: bool) -> Keyring:
    """Read the file of keys, or make one where there is none yet.

    Raises:
        UsageError: others than its owner may read it, or it holds no keys.
        StoreUnavailable: it cannot be read or written now.
    """
    try:
        if not path.exists():
            ring = Keyring(secrets.token_bytes(_KEY_BYTES), {}, False)
            save_keyring(path, ring, replace=False)
        ring = _read(path)
        made = ring.encrypting(encrypts)
        if made.ids != ring.ids:
            save_keyring(path, made)
        return made
    except OSError as error:
        raise StoreUnavailable(f"the keys {path} cannot be used: {error}") from error


def save_keyring(path: Path, ring: Keyring, *, replace: bool = True) -> None:
    """Write the file: whole, or not at all; with `replace=False` one that is there stays.

    Raises:
        StoreUnavailable: it cannot be written now.
    """
    fresh = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, fresh = tempfile.mkstemp(dir=path.parent)  # only its owner may read it
        with os.fdopen(handle, "w") as file:
            json.dump(ring._to_json(), file, indent=1)
            file.flush()
            os.fsync(handle)
        if replace:
            os.replace(fresh, path)
            fresh = None
        elif not path.exists():
            os.link(fresh, path)
    except FileExistsError:
        pass  # another process was first
    except OSError as error:
        raise StoreUnavailable(f"the keys {path} cannot be written: {error}") from error
    finally:
        if fresh is not None:
            os.unlink(fresh)


def _read(path: Path) -> Keyring:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UsageError(
            f"the keys {path} can be read by others (mode {mode:04o}): find out who could have "
            f"copied them, then chmod 600 {path}, and rotate"
        )
    try:
        content = json.loads(path.read_text("utf-8"))
        keys = {str(one["id"]): bytes.fromhex(one["key"]) for one in content["keys"]}
        hash_key = bytes.fromhex(content["hash_key"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} holds no keys of the prediction log; put the file back") from None
    if any(len(key) != _KEY_BYTES for key in (hash_key, *keys.values())):
        raise UsageError(f"{path} holds a key that is not of {_KEY_BYTES} bytes; put the file back")
    return Keyring(hash_key, keys, False)
