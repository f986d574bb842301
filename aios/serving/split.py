"""Which keys a weight covers: a pure function of salt, key and weight."""

from hashlib import blake2b

_SCALE = float(2**64)


def position(salt: str, key: str) -> float:
    """Where `key` stands in [0, 1): uniform, and fixed for a salt.

    The canary takes the keys below its weight, so a growing weight only ever adds keys.
    """
    digest = blake2b(f"{salt}\x00{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _SCALE


def covered(salt: str, key: str, weight_fraction: float) -> bool:
    """Whether `key` belongs to the canary at this weight."""
    return weight_fraction > 0.0 and position(salt, key) < weight_fraction
