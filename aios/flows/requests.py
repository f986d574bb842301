"""How a start is told to DBOS."""

from typing import Any
from uuid import uuid4

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


def fork_with(version: int) -> str:
    """The id of a fork that goes on with another version of its flow: the id tells its workers."""
    return f"{uuid4().hex}~{version}"


def version_of_fork(flow_id: str) -> int | None:
    """Which version `fork_with` put into an id; None if it is another's."""
    version = flow_id.rpartition("~")[2]
    return int(version) if "~" in flow_id and version.isdecimal() else None
