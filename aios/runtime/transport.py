"""HTTP to the runtime: keys, operation ids, retries, and errors as aios errors."""

import json
import time
from typing import Any
from uuid import uuid4

import httpx
import orjson

from aios.errors import AiosError, ClusterUnavailable, Overloaded, from_problem

PATIENCE_S = 30.0
"""How long a control call is repeated while the control plane restarts (10 s at most)."""
RETRY_S = 0.25


class Transport:
    """One connection pool to one runtime.

    Args:
        address: URL of the ingress.
        key: API key.
        patience_s: how long control calls wait for a runtime that does not answer.
    """

    def __init__(self, address: str, key: str | None, patience_s: float = PATIENCE_S) -> None:
        self.address = address.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(
            base_url=self.address, headers=headers, timeout=60.0, trust_env=False
        )
        self._patience_s = patience_s

    def get(self, path: str, **query: Any) -> Any:
        """Ask a question of the control API.

        Raises:
            AiosError: whatever the control plane raised.
            ClusterUnavailable: it did not answer for `patience_s`.
        """
        params = {name: value for name, value in query.items() if value is not None}
        return self._patiently("GET", path, params=params)

    def change(self, method: str, path: str, body: Any = None, content: bytes | None = None) -> Any:
        """Ask for a change. Repeats carry the same operation id, so it happens once."""
        headers = {"idempotency-key": uuid4().hex}
        if content is not None:
            return self._patiently(method, path, headers=headers, content=content)
        return self._patiently(method, path, headers=headers, json=body)

    def predict(
        self, name: str, records: list[dict[str, Any]], headers: dict[str, str]
    ) -> tuple[dict[str, Any], float]:
        """Ask an endpoint; returns its answer and the seconds until it was here.

        A connection that breaks is tried once more: a prediction changes nothing.
        """
        content = _encode(records)
        headers = {**headers, "content-type": "application/json"}
        started_s = time.perf_counter()
        path = f"/v2/models/{name}/predict"
        try:
            try:
                answer = self._client.post(path, content=content, headers=headers)
            except httpx.TransportError:
                answer = self._client.post(path, content=content, headers=headers)
        except httpx.TransportError as error:
            raise ClusterUnavailable(
                f"no answer from {self.address}: {error!r}; is the runtime up? `aios status`"
            ) from error
        return _result(answer), time.perf_counter() - started_s

    def ready(self) -> bool:
        """Whether ingress and control plane answer now."""
        try:
            return self._client.get("/v2/health/ready", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    def text(self, path: str) -> str:
        """A plain text answer, such as metrics."""
        answer = self._client.get(path)
        if answer.status_code != 200:
            _result(answer)
        return answer.text

    def _patiently(self, method: str, path: str, **more: Any) -> Any:
        give_up_s = time.monotonic() + self._patience_s
        while True:
            try:
                return _result(self._client.request(method, path, **more))
            except httpx.TransportError as error:
                failure: AiosError = ClusterUnavailable(
                    f"no answer from {self.address}: {error!r}; is the runtime up? `aios status`"
                )
            except (ClusterUnavailable, Overloaded) as error:
                failure = error
            if time.monotonic() > give_up_s:
                raise failure
            time.sleep(RETRY_S)

    def close(self) -> None:
        self._client.close()


def _encode(records: list[dict[str, Any]]) -> bytes:
    """Plain values and numpy's as JSON; NaN, which pandas uses for "missing", as null."""
    return orjson.dumps({"records": records}, option=orjson.OPT_SERIALIZE_NUMPY)


def _result(answer: httpx.Response) -> Any:
    """The JSON of a good answer.

    Raises:
        AiosError: the error that a problem body describes.
        ClusterUnavailable: an answer that is not ours: the ingress has nobody to ask.
    """
    try:
        body = answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        body = None
    if answer.status_code < 400 and body is not None:
        return body
    if isinstance(body, dict) and "code" in body:
        raise from_problem(body)
    raise ClusterUnavailable(
        f"the ingress answered {answer.status_code} without a reason: {answer.text[:200]!r}"
    )
