"""Asks endpoints as everybody does: over the ingress."""

import asyncio
from typing import Any

import orjson

from aios.errors import ClusterUnavailable, PermanentError, Unauthenticated, from_problem
from aios.telemetry.traces import OFF, Tracer

ANSWER_S = 60.0
"""Bound of one exchange; an endpoint's own deadline answers long before."""
ATTEMPTS = 5
PAUSE_S = 0.5


class Ingress:
    """Predictions over HTTP, with one pool of connections.

    Args:
        address: URL of the ingress on this node.
        key: API key that may predict.
        tracer: says under which span an endpoint answers.
    """

    def __init__(self, address: str, key: str, tracer: Tracer = OFF) -> None:
        import httpx

        self._tracer = tracer
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._client = httpx.AsyncClient(
            base_url=address, headers=headers, timeout=ANSWER_S, trust_env=False
        )

    async def predict(self, endpoint: str, rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
        """What the endpoint answered. An exchange that breaks is tried again, since a prediction
        changes nothing; so is one whose key is too new to be known everywhere.

        Raises:
            AiosError: whatever the endpoint raised.
        """
        content = orjson.dumps({"records": rows})
        headers = {"x-aios-key": key}
        if (above := self._tracer.traceparent) is not None:
            headers["traceparent"] = above
        for attempt in range(ATTEMPTS):
            try:
                return await self._once(f"/v2/models/{endpoint}/predict", content, headers)
            except (ClusterUnavailable, Unauthenticated):
                if attempt == ATTEMPTS - 1:
                    raise
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("the last attempt returned or raised")

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _once(self, path: str, content: bytes, headers: dict[str, str]) -> dict[str, Any]:
        import httpx

        try:
            answer = await self._client.post(path, content=content, headers=headers)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ClusterUnavailable(f"the ingress does not answer: {reason}") from error
        try:
            body = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            body = None
        if answer.status_code < 400 and isinstance(body, dict):
            return body
        if isinstance(body, dict) and "code" in body:
            raise from_problem(body)
        if answer.status_code >= 500:
            raise ClusterUnavailable(f"the ingress answered {answer.status_code}")
        raise PermanentError(f"the ingress answered {answer.status_code} to {path}")
