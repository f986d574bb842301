"""A challenger: one version in an application of its own, so that it can crash alone."""

import asyncio

from aios.contracts import Batch, Codec
from aios.errors import AiosError, ContractViolation, ModelFailed
from aios.serving.runner import Outputs, Runner, failure_kind
from aios.telemetry.traces import Tracer

Reply = tuple[Outputs, float] | tuple[str, str]
"""What crosses processes: outputs and service seconds, or the kind of failure and its
message. Exceptions are not sent: unpickling one needs the user's own classes."""


class ChallengerReplica:
    """Answers the endpoint's calls with one version.

    Callers decode with the stable version's contract. Where this version's is wider, rows are
    laid out anew: what it alone knows is null.

    Args:
        loaded: the warmed version.
        name: `loan:2`, for spans.
    """

    def __init__(self, loaded: tuple[Runner, Codec], tracer: Tracer, name: str) -> None:
        self._runner, self._codec = loaded
        self._tracer = tracer
        self._name = name

    async def infer(self, batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
        """Answer one batch within `timeout_s`."""
        with self._tracer.span(f"model {self._name}", traceparent, {"aios.rows": batch.rows}):
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._runner.run(self._fitted(batch))
            except (AiosError, TimeoutError) as error:
                return failure_kind(error), str(error)

    def _fitted(self, batch: Batch) -> Batch:
        if batch.layout == self._codec.layout:
            return batch
        fitted = self._codec.validate_records(batch.records())
        fitted.keys = batch.keys
        return fitted


def unpack(reply: Reply) -> tuple[Outputs, float]:
    """What `ChallengerReplica.infer` sent, as a result or the failure it stands for.

    Raises:
        ModelFailed, ContractViolation, TimeoutError, ConnectionError: by kind.
    """
    first, second = reply
    if isinstance(first, dict) and isinstance(second, float):
        return first, second
    message = str(second)
    if first == "model_failed":
        raise ModelFailed(message)
    if first == "bad_output":
        raise ContractViolation(message)
    if first == "deadline":
        raise TimeoutError(message)
    raise ConnectionError(message)
