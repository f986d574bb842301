"""The endpoint's HTTP face: a raw ASGI application over `Endpoint`.

Routes below `/v2/models/<name>` (Open Inference Protocol v2, plus `/predict` for records):

    GET  /                      model metadata (public)
    GET  /ready                 200 once a plan is live (public)
    GET  /versions/<v>[/ready]  the same for one version
    POST /predict               JSON records of the contract
    POST /infer                 Open Inference Protocol, JSON and binary tensors
    POST /versions/<v>/infer    that version alone: no split, no fallback

A caller that sends `x-aios-outlier: 1` is told how unusual each record is beside those that the
version was made of: by `outlier` and `outlier_beyond` in a `/predict` answer, by the tensors
`aios-outlier` and `aios-outlier-beyond` in an `/infer` answer. Where that cannot be told the answer
comes without, and `outlier_reason` (a parameter of an `/infer` answer) says why.

FastAPI is not used here: parsing, routing and answering cost about as much as the model.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from aios.contracts import Batch, Codec
from aios.contracts.problems import problem, retry_after_s
from aios.errors import (
    ContractViolation,
    Malformed,
    NotAllowed,
    Unauthenticated,
    UnknownModel,
    UnknownName,
    Unsupported,
    UsageError,
)
from aios.serving.body import BodyReader, CallerGone, Message, Receive, unless_gone
from aios.serving.control_headers import REQUEST_ID, sound_request_id
from aios.serving.endpoint import Answer, Endpoint
from aios.serving.outliers import Unusual

Scope = Message
Send = Callable[[Message], Awaitable[None]]
Headers = dict[bytes, bytes]

BODY_S = 30.0
"""A body must be here by then: 16 MiB need 4.5 Mbit/s. A slower sender would hold a place."""
MAX_KEY_LENGTH = 256
OUTLIER = b"x-aios-outlier"
_METHODS = {
    "": "GET, HEAD",
    "/": "GET, HEAD",
    "/ready": "GET, HEAD",
    "/infer": "POST",
    "/predict": "POST",
}
_NOTHING: dict[str, Any] = {}
logger = logging.getLogger("aios.serving")
_JSON_TYPES = (b"", b"application/json", b"text/json")
_BINARY_TYPES = (*_JSON_TYPES, b"application/octet-stream", b"application/vnd.sagemaker-triton")


class EndpointApp:
    """ASGI application of one endpoint.

    Args:
        endpoint: the replica's logic.
        name: the endpoint's name, for the paths.
    """

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self._endpoint = endpoint
        self._name = name
        self._prefix = f"/v2/models/{name}"
        self._predict_path = f"{self._prefix}/predict"
        self._infer_path = f"{self._prefix}/infer"
        self.paths = (self._predict_path, self._infer_path)
        self._span_name = f"predict {name}"
        self._bodies = BodyReader(BODY_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        headers: Headers = dict(scope["headers"])
        request_id = _request_id(headers)
        try:
            status, answer_headers, body = await self._answer(scope, headers, receive, request_id)
        except CallerGone:
            return
        except Exception as error:
            status, answer_headers, body = _problem(error, request_id)
            if status == 500:
                logger.error("request %s failed", request_id, exc_info=error)
        answer_headers.append((b"x-aios-request-id", request_id.encode()))
        answer_headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": answer_headers})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    async def _answer(
        self,
        scope: Scope,
        headers: Headers,
        receive: Receive,
        request_id: str,
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        path, method = scope["path"], scope["method"]
        if method == "POST":
            if path == self._predict_path:
                return await self._infer(headers, receive, request_id, records=True)
            if path == self._infer_path:
                return await self._infer(headers, receive, request_id)
        version, rest = self._version_of(path)
        methods = _METHODS.get(rest)
        if methods is None or (rest == "/predict" and version is not None):
            raise UnknownName(
                f"{path[:200]} is not served here; this endpoint answers GET {self._prefix}, "
                "GET /ready, POST /predict, POST /infer, and below /versions/<v> the same "
                "without /predict"
            )
        if method not in methods.split(", "):
            raise NotAllowed(f"{path[:200]} takes {methods}, not {method[:20]}", allow=methods)
        if method == "POST":
            return await self._infer(headers, receive, request_id, version=version)
        return self._ready(version) if rest == "/ready" else self._metadata(version)

    def _version_of(self, path: str) -> tuple[int | None, str]:
        """The version in a path, if it names one, and what follows."""
        if not path.startswith(self._prefix):
            return None, path
        rest = path[len(self._prefix) :]
        if not rest.startswith("/versions/"):
            return None, rest
        text, slash, after = rest.removeprefix("/versions/").partition("/")
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise UnknownModel(f"version {text[:60]!r} is not a number")
        return int(text), slash + after

    def _metadata(self, version: int | None) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        live = self._endpoint.live
        served = self._endpoint.versions()
        self._check_served(version)
        versions = [str(v) for v in served if version is None or v == version]
        return _json(live.codec.metadata(self._name, versions))

    def _ready(self, version: int | None) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        self._check_served(version)
        return _json({"name": self._name, "ready": True})

    def _check_served(self, version: int | None) -> None:
        served = self._endpoint.versions()
        if version is not None and version not in served:
            raise UnknownModel(
                f"endpoint {self._name!r} does not serve version {version}; "
                f"it serves {', '.join(map(str, served))}"
            )

    async def _infer(
        self,
        headers: Headers,
        receive: Receive,
        request_id: str,
        *,
        records: bool = False,
        version: int | None = None,
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        endpoint = self._endpoint
        if not endpoint.authenticated(_bearer(headers)):
            raise Unauthenticated(
                "a valid API key is needed: send `Authorization: Bearer <key>`; "
                "`aios up` prints one"
            )
        _check_type(headers, binary=not records)
        declared = headers.get(b"content-length", b"")
        limit_bytes = endpoint.live.plan.spec.max_body_bytes
        body = await self._bodies.read(declared, receive, limit_bytes)
        # Only now: a client that sends slowly must not hold a place that others need.
        started_s = time.monotonic()
        live = endpoint.admit()
        failed = True
        try:
            if records:
                batch, request = live.codec.decode_records(body), None
            else:
                batch, request = live.codec.decode_v2(body, _header_length(headers))
            wants_outlier = OUTLIER in headers and _wants_outlier(headers)
            key = _split_key(headers, batch, request_id)
            parent = headers.get(b"traceparent", b"").decode("latin-1") or None
            with endpoint.tracer.span(self._span_name, parent, _NOTHING, server=True) as span:
                work = endpoint.predict(
                    live,
                    batch,
                    key,
                    request_id=request_id,
                    started_s=started_s,
                    version=version,
                    traceparent=span.traceparent if span is not None else parent,
                )
                at_once = live.runner.runs_inline(batch)
                answer = await (work if at_once else unless_gone(receive, work))
                if span is not None:
                    route = f"{self._prefix}/{'predict' if records else 'infer'}"
                    span.set(_facts(route, request_id, batch, answer))
            unusual = None
            if wants_outlier:
                unusual = await endpoint.outliers(live, batch, answer, started_s)
            if request is None:
                encoded = _records(live.codec, answer, request_id, unusual)
                kind = [(b"content-type", b"application/json")]
            else:
                beside = _outlier_tensors(unusual) if unusual is not None else ()
                version_name = str(answer.version)
                encoded, header_length = live.codec.encode_v2(
                    answer.outputs, request, self._name, version_name, request_id, *beside
                )
                kind = _v2_headers(header_length)
            failed = False
            return 200, _answer_headers(answer) + kind, encoded
        except (ContractViolation, Malformed) as error:
            failed = False
            endpoint.refused(error)
            raise
        except (UsageError, asyncio.CancelledError, CallerGone):
            failed = False  # the caller's mistake, or the caller went away
            raise
        finally:
            endpoint.release(live, time.monotonic() - started_s, failed=failed)


def _facts(route: str, request_id: str, batch: Batch, answer: Answer) -> dict[str, Any]:
    """What a span says of a request that was answered."""
    return {
        "http.request.method": "POST",
        "http.route": route,
        "http.response.status_code": 200,
        "aios.request_id": request_id,
        "aios.rows": batch.rows,
        "aios.version": answer.version,
        "aios.arm": answer.arm,
        "aios.degraded": answer.degraded,
    }


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


_ids: list[str] = []


def _request_id(headers: Headers) -> str:
    """The caller's id if it is printable and short, else a new one of 32 hex digits."""
    given = headers.get(REQUEST_ID)
    if given is not None and sound_request_id(given):
        return given.decode()
    if not _ids:  # a system call for each would cost as much as reading a body
        digits = os.urandom(16 * 256).hex()
        _ids.extend(digits[at : at + 32] for at in range(0, len(digits), 32))
    return _ids.pop()


def _bearer(headers: Headers) -> bytes | None:
    value = headers.get(b"authorization")
    if value is None or value[:7].lower() != b"bearer ":
        return None
    return value[7:].strip()


def _check_type(headers: Headers, *, binary: bool) -> None:
    given = headers.get(b"content-type", b"")
    if given == b"application/json" and b"content-encoding" not in headers:
        return
    kind = given.partition(b";")[0].strip().lower()
    if kind not in (_BINARY_TYPES if binary else _JSON_TYPES):
        raise Unsupported(
            f"content type {kind.decode('latin-1')[:60]!r} is not taken; send application/json"
        )
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise Unsupported(
            f"content encoding {encoding.decode('latin-1')[:60]!r} is not taken; "
            "send the body uncompressed"
        )


def _header_length(headers: Headers) -> int | None:
    value = headers.get(b"inference-header-content-length")
    if value is None:
        return None
    if not (value.isdigit() and len(value) < 12):
        raise Malformed("Inference-Header-Content-Length is not a number of bytes")
    return int(value)


def _split_key(headers: Headers, batch: Batch, request_id: str) -> str:
    """What decides between stable and canary: `x-aios-key`, else the first record's key,
    else the request id. A batch is never split over arms."""
    given = headers.get(b"x-aios-key")
    if given:
        return given[:MAX_KEY_LENGTH].decode("latin-1")
    if batch.keys and batch.keys[0] is not None:
        return batch.keys[0]
    return request_id


def _wants_outlier(headers: Headers) -> bool:
    value = headers[OUTLIER].strip()
    if value not in (b"0", b"1"):
        raise Malformed(
            "x-aios-outlier is 1 to be told how unusual each record is, or 0, or absent"
        )
    return value == b"1"


def _records(codec: Codec, answer: Answer, request_id: str, unusual: Unusual | None) -> bytes:
    meta: dict[str, Any] = {
        "version": answer.version,
        "arm": answer.arm,
        "request_id": request_id,
        "degraded": answer.degraded,
    }
    if unusual is not None:
        told = unusual.told
        meta["outlier"] = told.scores.tolist() if told is not None else None
        meta["outlier_beyond"] = told.beyond.tolist() if told is not None else None
        meta["outlier_reason"] = unusual.reason
    return codec.encode_records(answer.outputs, meta)


def _outlier_tensors(unusual: Unusual) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and tensors of an answer. The protocol's parameters are single values, so that
    the scores of rows are tensors."""
    if unusual.told is None:
        return {"outlier_reason": unusual.reason}, {}
    return {}, {"aios-outlier": unusual.told.scores, "aios-outlier-beyond": unusual.told.beyond}


def _answer_headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"x-aios-version", str(answer.version).encode()),
        (b"x-aios-arm", answer.arm.encode()),
    ]
    if answer.degraded is not None:
        headers.append((b"x-aios-degraded", answer.degraded.encode()))
    return headers


def _v2_headers(header_length: int | None) -> list[tuple[bytes, bytes]]:
    if header_length is None:
        return [(b"content-type", b"application/json")]
    return [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", str(header_length).encode()),
    ]


def _json(value: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return 200, [(b"content-type", b"application/json")], orjson.dumps(value)


def _problem(error: Exception, request_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    status, body = problem(error, request_id)
    headers = [(b"content-type", b"application/problem+json")]
    wait_s = retry_after_s(error)
    if wait_s is not None:
        headers.append((b"retry-after", str(wait_s).encode()))
    if isinstance(error, NotAllowed):
        headers.append((b"allow", str(error.details["allow"]).encode()))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="aios"'))
    return status, headers, body
