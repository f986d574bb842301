"""API keys of the form `aios_<id>_<secret>`; the secret is 256 random bits in base64url."""

import hashlib
import re
import secrets

from aios.errors import UsageError

_SECRET_CHARACTERS = 43
_LONGEST = 128
_SHAPE = re.compile(r"aios_([a-z0-9-]{1,64})_([A-Za-z0-9_-]{43})", re.ASCII)


def new_key(identity: str) -> tuple[str, str]:
    """Make a key for an identity: (the plain key, its digest).

    Show the plain key once and store only the digest. The id in it is public: a readable
    form of the identity and 8 random hex digits, so that two keys of one identity can
    overlap while they are rotated. `key_id` reads it back.

    Raises:
        UsageError: the identity has no letter or digit in it.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", identity.lower()).strip("-")[:40].strip("-")
    if not readable:
        raise UsageError(f"no key can be made for identity {identity!r}: name a person or service")
    plain = f"aios_{readable}-{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
    return plain, digest(plain)


def key_id(plain: str) -> str:
    """The public id inside a key, by which it is listed and revoked.

    Raises:
        UsageError: this is not an aios key. The message does not repeat it.
    """
    match = _SHAPE.fullmatch(plain)
    if match is None:
        raise UsageError("this is not an aios key; keys look like aios_<id>_<43 characters>")
    return match[1]


def digest(plain: str) -> str:
    """sha256 of a key as hex: what is stored, and what travels in a traffic plan.

    A plain sha256 is enough here, where a password would need a slow hash: the secret has
    256 random bits, so there is no dictionary to try.
    """
    return hashlib.sha256(plain.encode("ascii")).hexdigest()


def allowed(plain: bytes | str | None, digests: frozenset[str]) -> bool:
    """Whether a key is one of those whose digests are given. Never raises.

    One sha256 and one set lookup, about a microsecond, whatever the number of keys. No
    constant-time comparison is needed: what is compared is not the secret but its sha256.
    Whoever measures how far the lookup got learns something about the digest of a guess,
    and to steer that digest towards a stored one would mean to invert sha256. Only the length
    and the prefix, which are public, are looked at before hashing.
    """
    if isinstance(plain, str):
        if not plain.isascii():
            return False
        plain = plain.encode("ascii")
    if plain is None or not _SECRET_CHARACTERS < len(plain) <= _LONGEST:
        return False
    return plain.startswith(b"aios_") and hashlib.sha256(plain).hexdigest() in digests
