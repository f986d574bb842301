"""A flow that is over as a trace: its own span, and one for each step that is stored of it.

Steps that another worker did before it died are among them. A child is in its parent's trace.
"""

import asyncio
import logging
import time
from typing import Any

from aios.flows.outcomes import says
from aios.telemetry.traces import Tracer, named

logger = logging.getLogger("aios.flows")


class FlowSpans:
    """Tells a collector what flows have done; nothing while tracing is off.

    Args:
        client: the DBOSClient that knows what is stored.
    """

    def __init__(self, tracer: Tracer, client: Any) -> None:
        self._tracer = tracer
        self._client = client

    async def over(self, flow_id: str, ref: str, by: str, error: str | None = None) -> None:
        """Tell of a flow that ends now. What cannot be told is logged: the flow has its end.

        Args:
            ref: `name:version` of the text that ran.
            error: why it failed, if it did.
        """
        if not self._tracer.enabled:
            return
        try:
            await asyncio.to_thread(self._over, flow_id, ref, by, error)
        except Exception:
            logger.exception("flow %s has ended, and no trace tells of it", flow_id)

    def _over(self, flow_id: str, ref: str, by: str, error: str | None) -> None:
        (found,) = self._statuses([flow_id])
        above = self._above(found)
        identity = named(f"flow {flow_id}", above)
        about = {"aios.flow": flow_id, "aios.definition": ref}
        for step in self._client.list_workflow_steps(flow_id):
            self._step(step, identity, about)
        self._tracer.record(
            f"flow {(found.attributes or {}).get('flow') or ref.partition(':')[0]}",
            identity,
            above,
            found.created_at / 1000,
            time.time(),
            {**about, "aios.lives": found.recovery_attempts, "enduser.id": by},
            error,
        )

    def _step(self, step: Any, identity: str, about: dict[str, Any]) -> None:
        begun_ms, ended_ms = step["started_at_epoch_ms"], step["completed_at_epoch_ms"]
        if begun_ms is None or ended_ms is None:
            return
        failed = (step["output"] or {}).get("failed")
        self._tracer.record(
            f"step {step['function_name']}",
            named(f"step {about['aios.flow']}/{step['function_id']}", identity),
            identity,
            begun_ms / 1000,
            ended_ms / 1000,
            {**about, "aios.step": step["function_id"]},
            None if failed is None else says(failed),
        )

    def _above(self, found: Any) -> str | None:
        """The span of the flow that began this one, if one did."""
        parent = (found.attributes or {}).get("parent")
        if parent is None:
            return None
        (above,) = self._statuses([parent])
        return named(f"flow {parent}", self._above(above))

    def _statuses(self, flow_ids: list[str]) -> Any:
        return self._client.list_workflows(
            workflow_ids=flow_ids, load_input=False, load_output=False
        )
