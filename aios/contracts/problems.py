"""Errors as HTTP answers: RFC 9457 problem details, and the one table of statuses."""

import math
from typing import Any

import orjson

from aios.errors import (
    AiosError,
    ArtifactRejected,
    ClusterUnavailable,
    ContractViolation,
    DeadlineExceeded,
    Forbidden,
    IllegalTransition,
    Malformed,
    ModelFailed,
    NotAllowed,
    NotApproved,
    NotEnoughEvidence,
    Overloaded,
    PayloadTooLarge,
    PermanentError,
    TemporaryError,
    Unauthenticated,
    UnknownName,
    Unsupported,
    UsageError,
)

MEDIA_TYPE = "application/problem+json"

STATUSES: dict[type[AiosError], int] = {
    Malformed: 400,
    UsageError: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotApproved: 403,
    UnknownName: 404,
    NotAllowed: 405,
    IllegalTransition: 409,
    NotEnoughEvidence: 409,
    PayloadTooLarge: 413,
    Unsupported: 415,
    ContractViolation: 422,
    ArtifactRejected: 422,
    # The model stands behind the endpoint as an upstream server stands behind a gateway:
    # 502 tells an operator that our side works and the model's does not.
    ModelFailed: 502,
    ClusterUnavailable: 503,
    Overloaded: 503,
    TemporaryError: 503,
    DeadlineExceeded: 504,
    PermanentError: 500,
    AiosError: 500,
}
"""Error class -> HTTP status; a class that is not here has its nearest ancestor's."""

_TITLES = {
    400: "the request is wrong",
    401: "no valid key came with the request",
    403: "the key may not do this",
    404: "nothing has this name",
    405: "this address does not take this method",
    409: "this is not possible in the present state",
    413: "the request is too large",
    415: "this kind of body is not taken",
    422: "the content does not fit",
    500: "something is broken on our side",
    502: "the model failed",
    503: "try again later",
    504: "the answer was not ready in time",
}


def status_of(error: BaseException) -> int:
    """The HTTP status for an error; 500 for whatever was not raised on purpose."""
    for ancestor in type(error).__mro__:
        if ancestor in STATUSES:
            return STATUSES[ancestor]
    return 500


def retry_after_s(error: BaseException) -> int | None:
    """Whole seconds for the Retry-After header; None where the answer needs none."""
    if isinstance(error, Overloaded):
        wanted = error.retry_after_s
        return max(1, math.ceil(wanted)) if math.isfinite(wanted) else 1
    return 1 if status_of(error) == 503 else None


def problem(error: BaseException, request_id: str) -> tuple[int, bytes]:
    """The status and the `application/problem+json` body for an error.

    `aios.errors.from_problem` turns the body back into the error. What was not raised on
    purpose is told as an internal error with the request id and nothing else, because its
    text may hold paths, values or secrets.
    """
    status = status_of(error)
    body: dict[str, Any] = {
        "type": "urn:aios:problem:InternalError",
        "title": _TITLES[status],
        "status": status,
        "detail": f"an internal error; the log has it under request {request_id}",
        "code": "InternalError",
        "request_id": request_id,
    }
    if isinstance(error, AiosError):
        body |= error.to_problem()
        body["type"] = f"urn:aios:problem:{body['code']}"
        if isinstance(error, ContractViolation):
            body["violations"] = list(error.violations)
    return status, _dump(body)


def _dump(body: dict[str, Any]) -> bytes:
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(body, default=str, option=options)
    except TypeError:
        # A lone surrogate, a huge integer or too deep nesting in the details.
        detail = str(body["detail"]).encode("utf-8", "backslashreplace").decode()
        return orjson.dumps({**body, "detail": detail, "details": {}, "violations": []})
