"""Signatures of webhooks, made and checked after Standard Webhooks 1.0.

https://github.com/standard-webhooks/standard-webhooks, `spec/standard-webhooks.md`, "Signature
scheme": HMAC-SHA256 over `id.timestamp.body`, the bytes of the body as they came.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

from aios.errors import Malformed, Unauthenticated

TOLERANCE_S = 300.0
"""How far a message's time may be from ours: what was listened to is not replayed for long, and
within that time its id is known."""
LONGEST_ID = 200


def webhook_key(secret: str) -> bytes | None:
    """The key inside a secret, `whsec_` and base64; None if it holds none."""
    text = secret.removeprefix("whsec_")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True) or None
    except (binascii.Error, ValueError):
        return None


def webhook_headers(message_id: str, at_s: float, body: bytes, key: bytes | None) -> dict[str, str]:
    """The headers that let a receiver know the sender and refuse repeats.

    Args:
        at_s: time of this attempt in Unix seconds; receivers refuse what is minutes old.
        key: what `webhook_key` gives; None signs nothing.
    """
    stamp = str(int(at_s))
    headers = {"webhook-id": message_id, "webhook-timestamp": stamp}
    if key is not None:
        headers["webhook-signature"] = f"v1,{_signature(message_id, stamp, body, key)}"
    return headers


def verified_id(headers: Mapping[str, str], body: bytes, key: bytes, now_s: float) -> str:
    """The id of a message that whoever holds the key has signed lately.

    Args:
        headers: by their lower-case names.

    Raises:
        Malformed: a header is missing or is not what it should be.
        Unauthenticated: no signature fits, or the message is too old or from the future.
    """
    message_id = headers.get("webhook-id", "")
    stamp = headers.get("webhook-timestamp", "")
    if not (
        0 < len(message_id) <= LONGEST_ID and message_id.isascii() and message_id.isprintable()
    ):
        raise Malformed(f"the header webhook-id is 1 to {LONGEST_ID} printable ASCII characters")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise Malformed("the header webhook-timestamp is a time in whole Unix seconds")
    given = headers.get("webhook-signature", "")
    if not given:
        raise Unauthenticated("the header webhook-signature is missing: messages are signed")
    wanted = _signature(message_id, stamp, body, key).encode()
    # Several while a secret is exchanged. None is left out, so that time tells nothing.
    fits = [
        hmac.compare_digest(signature.encode("utf-8", "replace"), wanted)
        for version, _, signature in (one.partition(",") for one in given.split(" ")[:10])
        if version == "v1"
    ]
    if not any(fits):
        raise Unauthenticated(
            "no signature fits: the secret is another one, or the body was changed on its way"
        )
    if abs(now_s - int(stamp)) > TOLERANCE_S:
        raise Unauthenticated(
            f"the message is signed for a time that is over {TOLERANCE_S:.0f} s from now; sign "
            "each attempt anew, and set the clocks"
        )
    return message_id


def _signature(message_id: str, stamp: str, body: bytes, key: bytes) -> str:
    signed = f"{message_id}.{stamp}.".encode() + body
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
