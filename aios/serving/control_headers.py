"""Keeps callers away from Ray Serve's controls, before Serve itself reads the headers.

Serve lets any caller switch its timeout off, keep work running after a disconnect and choose a
multiplexed model, and answers 500 where one of its headers is not UTF-8. None of that is used
here, so none of it is let through. Serve calls `middlewares` in every process that takes HTTP
(`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`, see `kernel.environment`), which is also where a
replica can answer before Serve does anything for a request: `answer_directly`.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.middleware import Middleware

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

REQUEST_ID = b"x-request-id"
MAX_REQUEST_ID_LENGTH = 128
_STRIPPED = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve-multiplexed-model-id",
        b"x-session-id",
    }
)
_STRIPPED_PREFIX = b"x-serve-"

_direct: dict[str, App] = {}


def answer_directly(app: App | None, paths: Iterable[str]) -> None:
    """From now on `app` answers POSTs to these paths of this process, and Serve is not asked.

    Serve's tasks, queues, ids and metrics for a request cost more than an endpoint's own work, and
    the endpoint counts, bounds and times its requests itself. Serve does not see such requests: it
    cannot scale by them. None gives the paths back to Serve.
    """
    for path in paths:
        if app is None:
            _direct.pop(path, None)
        else:
            _direct[path] = app


class ControlHeaders:
    """ASGI middleware that drops Serve's control headers, and request ids that are not
    printable ASCII of at most 128 characters. What is answered directly passes untouched."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            direct = _direct.get(scope["path"])
            if direct is not None and scope["method"] == "POST":
                await direct(scope, receive, send)
                return
        if scope["type"] in ("http", "websocket"):
            scope["headers"] = [
                (name, value) for name, value in scope["headers"] if _passes(name, value)
            ]
        await self._app(scope, receive, send)


def _passes(name: bytes, value: bytes) -> bool:
    if name == REQUEST_ID:
        return sound_request_id(value)
    plain = name.replace(b"_", b"-")
    return plain not in _STRIPPED and not plain.startswith(_STRIPPED_PREFIX)


def sound_request_id(value: bytes) -> bool:
    """Whether a caller's request id can stand in headers, logs and tables."""
    return (
        0 < len(value) <= MAX_REQUEST_ID_LENGTH and value.isascii() and value.decode().isprintable()
    )


def middlewares() -> "list[Middleware]":
    """What Ray Serve puts around every application that takes HTTP."""
    from starlette.middleware import Middleware

    return [Middleware(ControlHeaders)]
