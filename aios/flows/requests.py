"""How a start is told to DBOS."""

from typing import Any

from aios.flows.place import FLOW


def options_of(flow_id: str, facts: dict[str, Any], *, queue: str, **more: Any) -> dict[str, Any]:
    """Options of an enqueued flow. `facts` are what lists of flows show and search.

    Args:
        more: priority, queue_partition_key, deduplication_id and the like; None is left out.
    """
    given = {name: value for name, value in more.items() if value is not None}
    return {
        "workflow_name": FLOW,
        "queue_name": queue,
        "workflow_id": flow_id,
        "attributes": facts,
        **given,
    }
