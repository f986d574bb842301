"""What stands before the control API: keys, sizes and sound JSON, checked before FastAPI reads.

FastAPI reads and parses a body before a route can ask for the key, bounds nothing, and takes
JSON that nothing else can hold (NaN, lone surrogates, NUL).
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, generate_latest

from aios.contracts.problems import MEDIA_TYPE, problem, retry_after_s
from aios.errors import (
    AiosError,
    Malformed,
    NotAllowed,
    PayloadTooLarge,
    Unauthenticated,
    Unsupported,
)
from aios.records.cloudevents import BATCH, STRUCTURED
from aios.security import Caller

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Identify = Callable[[str | None], Caller | None]

CALLER = "aios.caller"
"""Where the `Caller` stands in the ASGI scope of a request that needs a key."""
JSON_TYPES = ("application/json",)
MAX_BODY_BYTES = 4 * 2**20
"""Of a JSON body. Other bodies are bounded where they are read."""
MAX_IDEMPOTENCY_KEY_LENGTH = 256
_PRIVATE = ("/api/v1", "/metrics")
_EVENTS = "/feedback/events"
"""Below it JSON may also be named as CloudEvents name it."""
_BYTES = ("/api/v1/artifacts/", "/api/v1/data/")
"""Below these a body is no JSON."""
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class Strangers:
    """How many requests came without a valid key, as a Prometheus counter.

    They are only counted: anybody can send them, so an audit entry for each would be a way
    to fill the disk.
    """

    def __init__(self) -> None:
        self._collectors = CollectorRegistry()
        self._counter = Counter(
            "aios_api_unauthenticated",
            "Requests to the control API without a valid key",
            registry=self._collectors,
        )

    def count(self) -> None:
        """One more."""
        self._counter.inc()

    def text(self) -> str:
        """The counter in Prometheus's text format."""
        return generate_latest(self._collectors).decode()


class Front:
    """ASGI middleware of the control API.

    Args:
        identify: who holds the API key of an Authorization header; None if nobody does.
        strangers: counts requests without a valid key.
    """

    def __init__(self, app: App, identify: Identify, strangers: Strangers) -> None:
        self._app = app
        self._identify = identify
        self._strangers = strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            _check_head(scope, headers)
            if scope["path"].startswith(_PRIVATE):
                scope[CALLER] = self._caller(scope)
                if not scope["path"].startswith(_BYTES):
                    kinds: tuple[str, ...] = JSON_TYPES
                    if scope["path"].endswith(_EVENTS):
                        kinds = (*JSON_TYPES, BATCH, STRUCTURED)
                    receive = _replay(await _json_body(headers, receive, kinds))
        except AiosError as error:
            await _refuse(error, headers, send)
            return
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        # Two keys are no key: who reads the first and who reads the last would disagree.
        caller = self._identify(given[0].decode("latin-1")) if len(given) == 1 else None
        if caller is None:
            self._strangers.count()
            raise Unauthenticated(
                "a valid API key is needed: send `Authorization: Bearer <key>`; "
                "`aios up` prints one"
            )
        return caller


def _check_head(scope: Scope, headers: dict[bytes, bytes]) -> None:
    if "\x00" in scope["path"] or b"%00" in scope.get("query_string", b""):
        raise Malformed("the address holds a NUL character")
    given = headers.get(b"idempotency-key")
    if given is not None and not (
        0 < len(given) <= MAX_IDEMPOTENCY_KEY_LENGTH
        and given.isascii()
        and given.decode().isprintable()
    ):
        raise Malformed(
            f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} printable ASCII characters"
        )


async def _json_body(
    headers: dict[bytes, bytes], receive: Receive, kinds: tuple[str, ...]
) -> bytes:
    """The whole body, which is empty or JSON that can be stored anywhere."""
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    chunks: list[bytes] = []
    size_bytes = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Malformed("the client closed the connection before the body was complete")
        chunks.append(message.get("body", b""))
        size_bytes += len(chunks[-1])
        if size_bytes > MAX_BODY_BYTES:
            raise _too_large()
        more = message.get("more_body", False)
    body = b"".join(chunks)
    if body:
        _check_json(headers, body, kinds)
    return body


def _check_json(headers: dict[bytes, bytes], body: bytes, kinds: tuple[str, ...]) -> None:
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    if kind not in kinds:
        raise Unsupported(f"content type {kind[:60]!r} is not taken; send {' or '.join(kinds)}")
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {str(error)[:200]}") from None
    if _NUL.search(body):
        raise Malformed("a text in the body holds a NUL character, which cannot be stored")


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is over the limit of {MAX_BODY_BYTES} bytes")


def _replay(body: bytes) -> Receive:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    return receive


def answer_headers(error: BaseException) -> dict[str, str]:
    """The headers that go with a problem body."""
    headers = {"content-type": MEDIA_TYPE}
    wait_s = retry_after_s(error)
    if wait_s is not None:
        headers["retry-after"] = str(wait_s)
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="aios"'
    if isinstance(error, NotAllowed):
        headers["allow"] = str(error.details["allow"])
    return headers


async def _refuse(error: AiosError, headers: dict[bytes, bytes], send: Send) -> None:
    request_id = headers.get(b"x-request-id", b"").decode("latin-1")[:128]
    status, body = problem(error, request_id)
    raw = [(name.encode(), value.encode()) for name, value in answer_headers(error).items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
