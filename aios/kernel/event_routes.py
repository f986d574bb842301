"""Routes of subscriptions, dead letters and emitted events; and the webhooks themselves.

`POST /v1/events/<subscription>` needs no API key: who sends signs, as Standard Webhooks 1.0 says.

| answer | what it means | what a sender does with it |
| --- | --- | --- |
| 200 | on disk; `repeated` says whether it was before | goes on |
| 400, 413 | never to be taken as it is: headers, JSON, the event's key | gives up |
| 401 | no signature fits, or it is over 5 minutes old | mends the secret or the clock |
| 404 | no webhook has this name, or it is off | gives up |
| 503 | too much waits, or the kernel starts; nothing was kept | sends again, signed anew |
"""

from typing import Any

from fastapi import APIRouter, Request

from aios.errors import Malformed, PayloadTooLarge
from aios.events.reading import MOST_BYTES
from aios.kernel.calls import PREFIX, Body, call
from aios.security import Caller

WEBHOOK = Caller("webhook", "viewer")
"""As whom a message comes to the kernel, which asks for its signature."""
_KEPT = ("content-type", "ce-", "webhook-")
router = APIRouter()


class SubscriptionBody(Body):
    """A subscription as wanted; see `records.events.SubscriptionSpec`."""

    spec: dict[str, Any]


class EmitBody(Body):
    """An event in its JSON format, and where it goes."""

    sink: dict[str, Any]
    event: dict[str, Any]
    key: str | None = None


class LettersBody(Body):
    """Ids of dead letters."""

    ids: list[int]


class GiveUpBody(Body):
    """The sink that is given up."""

    sink: dict[str, Any]


@router.post("/v1/events/{subscription}")
async def webhook(request: Request, subscription: str) -> Any:
    """Take a signed message; durable before the answer."""
    body = await _body(request)
    headers = {name: value for name, value in request.headers.items() if name.startswith(_KEPT)}
    told = {"subscription": subscription, "headers": headers, "body": body}
    return await request.app.state.execute("take_webhook", told, WEBHOOK, None)


@router.post(f"{PREFIX}/subscriptions", status_code=201)
async def subscribe(request: Request, body: SubscriptionBody) -> Any:
    return await call(request, "subscribe", spec=body.spec)


@router.get(f"{PREFIX}/subscriptions")
async def subscriptions(request: Request) -> Any:
    return await call(request, "subscriptions")


@router.delete(PREFIX + "/subscriptions/{subscription}")
async def unsubscribe(request: Request, subscription: str) -> Any:
    return await call(request, "unsubscribe", id=subscription)


@router.get(f"{PREFIX}/dead-letters")
async def dead_letters(
    request: Request, subscription: str | None = None, replayed: bool = False, limit: int = 1_000
) -> Any:
    told = {"subscription": subscription, "replayed": replayed, "limit": limit}
    return await call(request, "dead_letters", **told)


@router.get(f"{PREFIX}/outbox")
async def outbox(request: Request) -> Any:
    return await call(request, "outbox")


@router.post(f"{PREFIX}/dead-letters/replay")
async def replay(request: Request, body: LettersBody) -> Any:
    return await call(request, "replay", ids=body.ids)


@router.post(f"{PREFIX}/dead-letters/discard")
async def discard(request: Request, body: LettersBody) -> Any:
    return await call(request, "discard", ids=body.ids)


@router.post(f"{PREFIX}/outbox/give-up")
async def give_up(request: Request, body: GiveUpBody) -> Any:
    return await call(request, "give_up", sink=body.sink)


@router.post(f"{PREFIX}/events", status_code=201)
async def emit(request: Request, body: EmitBody) -> Any:
    return await call(request, "emit", sink=body.sink, event=body.event, key=body.key)


async def _body(request: Request) -> str:
    """The body as it came, as text.

    Raises:
        PayloadTooLarge, Malformed: it is too large, or no UTF-8.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > MOST_BYTES:
        raise _too_large()
    chunks, size_bytes = [], 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > MOST_BYTES:
            raise _too_large()
        chunks.append(chunk)
    try:
        return b"".join(chunks).decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("the body is not UTF-8") from None


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"the event is over the limit of {MOST_BYTES} bytes")
