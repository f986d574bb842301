"""What references to secrets stand for, read where and when they are needed."""

import os
from pathlib import Path

from aios.errors import UsageError
from aios.security.webhooks import webhook_key

FOLDER = "secrets"
"""In the runtime's home."""
LEAST_KEY = 16
"""Bytes; Standard Webhooks recommends 24 to 64."""


def secret(reference: str, home: Path) -> str:
    """What a reference stands for.

    Args:
        reference: `env:EVENTS_X`, or `file:x` of the folder `secrets` in `home`.

    Raises:
        UsageError: there is no such variable or file, or it is empty.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = os.environ.get(name, "").strip()
        if not value:
            raise UsageError(
                f"the kernel's machine has no environment variable {name}; set it and start the "
                "kernel again"
            )
        return value
    path = home / FOLDER / name
    try:
        value = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(f"the secret file {path} cannot be read: {told}") from None
    if not value:
        raise UsageError(f"the secret file {path} is empty")
    return value


def key_of_webhook(reference: str, home: Path) -> bytes:
    """The key by which messages of a webhook are signed.

    Raises:
        UsageError: as `secret`, or it holds no such key.
    """
    key = webhook_key(secret(reference, home))
    if key is None:
        raise UsageError(
            f"what {reference} holds is no secret of a webhook, which is whsec_ and then base64"
        )
    if len(key) < LEAST_KEY:
        raise UsageError(
            f"what {reference} holds, if it is a key, has {len(key)} bytes and could be guessed: "
            f"after whsec_ comes the base64 of {LEAST_KEY} to 64 random bytes"
        )
    return key
