"""An endpoint as what acts on events: asked over its own ingress, as any client asks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from aios.errors import ClusterUnavailable, ContractViolation, UsageError, from_problem

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 60.0
"""Bound of one exchange; the endpoint's own deadline answers long before."""


class Asking:
    """Asks endpoints. Threads may share it.

    Args:
        address: URL of the ingress.
        key: API key to ask with.
    """

    def __init__(self, address: str, key: str) -> None:
        import httpx

        self._client = httpx.Client(
            base_url=address,
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            timeout=TIMEOUT_S,
            trust_env=False,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=64),
        )
        self._broken = httpx.TransportError

    def ask(
        self, endpoint: str, event: Mapping[str, Any], key: str | None, request_id: str
    ) -> dict[str, Any]:
        """The endpoint's answer to an event's data, as a record of its contract.

        Args:
            key: decides between the arms of a rollout, so that a key stays on its version.
            request_id: the same whenever the same event is asked about.

        Raises:
            AiosError: as the endpoint says.
            ClusterUnavailable: it did not answer.
        """
        record = event.get("data")
        if not isinstance(record, dict):
            raise ContractViolation(
                f"the data of the event are {record!r:.60}, and endpoint {endpoint!r} takes an "
                "object of its contract's inputs"
            )
        headers = {"x-request-id": request_id}
        if key is not None and key.isascii() and key.isprintable():
            headers["x-aios-key"] = key
        body = orjson.dumps({"records": [record]})
        path = f"/v2/models/{endpoint}/predict"
        try:
            answer = self._client.post(path, content=body, headers=headers)
        except self._broken as error:
            told = str(error) or type(error).__name__
            raise ClusterUnavailable(f"no answer from endpoint {endpoint!r}: {told}") from None
        return _result(endpoint, answer)

    def close(self) -> None:
        self._client.close()


def _result(endpoint: str, answer: "httpx.Response") -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.status_code < 400 and isinstance(body, dict):
        return body
    if isinstance(body, dict) and "code" in body:
        raise from_problem(body)
    if 400 <= answer.status_code < 500:
        raise UsageError(f"endpoint {endpoint!r} answered {answer.status_code}")
    raise ClusterUnavailable(
        f"endpoint {endpoint!r} answered {answer.status_code} without a reason"
    )
