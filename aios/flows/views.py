"""Flows, steps, queues and schedules of DBOS in our words."""

from typing import Any

from aios.flows.outcomes import Outcome, says
from aios.flows.requests import version_of_fork

STATUSES = {
    "ENQUEUED": "queued",
    "DELAYED": "delayed",
    "PENDING": "running",
    "SUCCESS": "finished",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}
UNDO = "undo "
"""Before the name of a step that is taken back; no function's name has a blank."""
ENDED = ("finished", "failed", "cancelled")


def shown(found: Any) -> dict[str, Any]:
    """What DBOS knows of a flow, in our words."""
    facts, status = found.attributes or {}, STATUSES[found.status]
    problem: dict[str, Any] | None = None
    error = found.error
    if found.status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
        text = f"its workers died {found.recovery_attempts} times while it ran"
        problem = {"code": "PermanentError", "detail": text, "details": {}}
    elif error is not None:
        problem = error.to_problem()
    details: dict[str, Any] = {} if problem is None else problem["details"]
    wanted = _wanted(found)
    return {
        "id": found.workflow_id,
        "flow": facts.get("flow") or wanted.partition(":")[0],
        "version": version_of_fork(found.workflow_id)
        or facts.get("version")
        or int(wanted.rpartition(":")[2] or 0),
        "status": status,
        "by": facts.get("by"),
        "attributes": facts.get("own", {}),
        "parent": facts.get("parent"),
        "schedule": found.schedule_name,
        "forked_from": found.forked_from,
        "queue": found.queue_name or facts.get("queue"),  # a cancelled one has left it
        "partition": found.queue_partition_key,
        "priority": found.priority,
        "worker": found.executor_id,
        "lives": found.recovery_attempts,
        "created_s": seconds(found.created_at),
        "begun_s": first_begun_s(found) or seconds(found.dequeued_at),
        "ended_s": seconds(found.completed_at),
        "error": None if problem is None else problem["detail"],
        "problem": problem,
        "undone": details.get("undone", []),
        "not_undone": details.get("not_undone", []),
    }


def first_begun_s(found: Any) -> float | None:
    """When the first worker of a flow that was taken over began it. A fork has the attributes of
    the flow that it came from, so they say whose begin it was."""
    first = (found.attributes or {}).get("begun")
    return first["at_s"] if first is not None and first["flow"] == found.workflow_id else None


def _wanted(found: Any) -> str:
    """`name:version` of what runs, of its input."""
    if not isinstance(found.input, dict):  # it cannot be read, and the flow fails for that
        return ""
    args = found.input["args"]
    return str(args[1]["ref"] if found.schedule_name else args[0])


def fits(view: dict[str, Any], name: str | None, attributes: dict[str, Any]) -> bool:
    own = view["attributes"]
    return name in (None, view["flow"]) and all(own.get(k) == v for k, v in attributes.items())


def step_shown(found: Any) -> dict[str, Any]:
    outcome: Outcome = found["output"] or {}
    begun, ended = found["started_at_epoch_ms"], found["completed_at_epoch_ms"]
    return {
        "step": found["function_id"],
        "name": found["function_name"],
        "begun_s": seconds(begun),
        "took_s": None if begun is None or ended is None else (ended - begun) / 1000,
        "error": says(outcome["failed"]) if "failed" in outcome else None,
        "result": outcome.get("value"),
        "bytes": outcome.get("bytes"),
    }


LATE = "late step "
"""Before the number of a step that ended after its flow was cancelled: an attribute of the flow."""


def late_steps_shown(found: Any) -> list[dict[str, Any]]:
    """Those of a flow; a fork has the attributes of the flow that it came from."""
    return [
        step_shown(
            {
                "function_id": int(attribute.removeprefix(LATE)),
                "function_name": f"{told['name']} (after the flow was cancelled)",
                "output": told["did"],
                "started_at_epoch_ms": None,
                "completed_at_epoch_ms": None,
            }
        )
        for attribute, told in (found.attributes or {}).items()
        if attribute.startswith(LATE) and told["flow"] == found.workflow_id
    ]


def queue_shown(found: Any) -> dict[str, Any]:
    return {
        "name": found.name,
        "concurrency": found._concurrency,
        "per_worker": found._worker_concurrency,
        "rate": _rate(found._limiter),
        "partition_concurrency": found._partition_concurrency,
        "partition_rate": _rate(found._partition_limiter),
    }


def _rate(limiter: Any) -> list[float] | None:
    return None if limiter is None else [limiter["limit"], limiter["period"]]


def schedule_shown(found: Any) -> dict[str, Any]:
    wanted = found["context"]
    return {
        "name": found["schedule_name"],
        "flow": wanted["ref"],
        "cron": found["schedule"],
        "timezone": found["cron_timezone"] or "UTC",
        "backfill": found["automatic_backfill"],
        "by": wanted["by"],
        "last_fired": found["last_fired_at"],
    }


def seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
