"""HTTP to the runtime: keys, operation ids, retries, and errors as aios errors."""

import itertools
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import orjson

from aios.errors import AiosError, ClusterUnavailable, Overloaded, UsageError, from_problem

if TYPE_CHECKING:
    import httpx

PATIENCE_S = 30.0
"""How long a control call is repeated while the control plane restarts (10 s at most)."""
RETRY_S = 0.25
CALL_S = 60.0
"""Bound of one exchange. An endpoint's own deadline answers long before."""
READY_S = 5.0


class Transport:
    """One connection pool to one runtime.

    Args:
        address: URL of the ingress.
        key: API key.
        patience_s: how long control calls wait for a runtime that does not answer.

    Raises:
        UsageError: the address is no http URL, or the key cannot be one.
    """

    def __init__(self, address: str, key: str | None, patience_s: float = PATIENCE_S) -> None:
        import httpx

        self.address = _checked(address)
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise UsageError("the API key has characters that no key has; copy it again")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(
            base_url=self.address, headers=headers, timeout=CALL_S, trust_env=False
        )
        self._patience_s = patience_s

    def get(self, path: str, **query: Any) -> Any:
        """Ask a question of the control API.

        Raises:
            AiosError: whatever the control plane raised.
            ClusterUnavailable: it did not answer for `patience_s`.
        """
        params = {name: value for name, value in query.items() if value is not None}
        return _result(self._patiently("GET", path, params=params))

    def change(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: bytes | None = None,
        operation_id: str | None = None,
    ) -> Any:
        """Ask for a change. Repeats carry the same operation id, so it happens once."""
        headers = {"idempotency-key": operation_id or uuid4().hex}
        if content is None:
            headers["content-type"] = "application/json"
            content = _encode(body)
        return _result(self._patiently(method, path, headers=headers, content=content))

    def predict(
        self, name: str, records: list[dict[str, Any]], headers: dict[str, str]
    ) -> tuple[dict[str, Any], float]:
        """Ask an endpoint; returns its answer and the seconds until it was here.

        An exchange that breaks, or that the ingress gives up without a reason (its replica
        died), is tried once more: a prediction changes nothing.
        """
        content = _encode({"records": records})
        headers = {**headers, "content-type": "application/json"}
        path = f"/v2/models/{name}/predict"
        started_s = time.perf_counter()
        try:
            answer = _result(self._send("POST", path, content=content, headers=headers))
        except ClusterUnavailable:
            answer = _result(self._send("POST", path, content=content, headers=headers))
        return answer, time.perf_counter() - started_s

    def ready(self) -> bool:
        """Whether ingress and control plane answer now."""
        try:
            return self._send("GET", "/v2/health/ready", timeout=READY_S).status_code == 200
        except ClusterUnavailable:
            return False

    def text(self, path: str) -> str:
        """A plain text answer, such as metrics."""
        return self._patiently("GET", path).text

    def _patiently(self, method: str, path: str, **more: Any) -> "httpx.Response":
        """A good answer, asked for again while the runtime is away or full."""
        _refuse_no_name(path)
        give_up_s = time.monotonic() + self._patience_s
        while True:
            try:
                answer = self._send(method, path, **more)
                if answer.status_code < 400:
                    return answer
                raise _error(answer)
            except (ClusterUnavailable, Overloaded):
                if time.monotonic() > give_up_s:
                    raise
            time.sleep(RETRY_S)

    def _send(self, method: str, path: str, **more: Any) -> "httpx.Response":
        """One exchange.

        Raises:
            ClusterUnavailable: it broke.
            UsageError: this connection was closed.
        """
        import httpx

        if self._client.is_closed:
            raise UsageError(f"the connection to {self.address} was closed; connect again")
        try:
            return self._client.request(method, path, **more)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ClusterUnavailable(
                f"no answer from {self.address}: {reason}; is the runtime up? `aios status`"
            ) from error

    def close(self) -> None:
        self._client.close()


def _checked(address: str) -> str:
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not address.isprintable() or " " in address:
        raise UsageError(f"{address[:80]!r} is no address; one looks like http://127.0.0.1:8000")
    return address.rstrip("/")


def _encode(body: Any) -> bytes:
    """Plain values and numpy's as JSON; NaN, which pandas uses for "missing", as null.

    Raises:
        UsageError: a value that JSON does not have.
    """
    try:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise UsageError(
            f"this cannot be sent as JSON: {error}; use plain values (texts, numbers, booleans, "
            "lists, None) or numpy's"
        ) from None


def _refuse_no_name(path: str) -> None:
    """Raises:
    UsageError: a name in the path is empty, so that something else would be asked for.
    """
    parts = path.split("/")
    for kind, name in itertools.pairwise(parts[1:]):
        if not name.strip():
            raise UsageError(f"{name!r} is no name or id; one of the {kind} is meant")


def _result(answer: "httpx.Response") -> Any:
    """The JSON of a good answer.

    Raises:
        AiosError: the error that a problem body describes.
        ClusterUnavailable: an answer that is not ours: the ingress has nobody to ask.
    """
    if answer.status_code >= 400:
        raise _error(answer)
    try:
        return answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ClusterUnavailable(
            f"what answers at {answer.url} is no aios: {answer.text[:80]!r}"
        ) from None


def _error(answer: "httpx.Response") -> AiosError:
    try:
        body = answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        body = None
    if isinstance(body, dict) and "code" in body:
        return from_problem(body)
    return ClusterUnavailable(
        f"the ingress answered {answer.status_code} without a reason: {answer.text[:200]!r}"
    )
