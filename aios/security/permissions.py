"""Who may do what: roles, permissions, and the one function that decides.

Deny by default: a role, permission or command that is not in these tables is never permitted.

| role | for | may |
| --- | --- | --- |
| viewer | a service or a colleague | read, predict, answer what a flow asks of them |
| operator | whoever is on call | also explain, start flows, tell agents, load-test, stop harm |
| deployer | a data scientist or a pipeline | also register, train, watch, declare, deploy |
| approver | who answers for a model | read, predict, explain, approve or answer, verify the log |
| auditor | who checks all others | read, explain, verify the audit log; no predictions |
| admin | who runs the installation | everything |
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

Role = Literal["admin", "approver", "auditor", "deployer", "operator", "viewer"]
Permission = Literal[
    "act",
    "answer",
    "approve",
    "audit",
    "break_glass",
    "declare",
    "deploy",
    "explain",
    "keys",
    "policy",
    "predict",
    "read",
    "register",
    "rollout",
    "stop",
    "train",
]
_DEPLOYING = frozenset[Permission]({"declare", "deploy", "register", "rollout", "train"})

ROLES: Mapping[str, frozenset[Permission]] = {
    "admin": frozenset(get_args(Permission)),
    "approver": frozenset({"answer", "approve", "audit", "explain", "predict", "read"}),
    "auditor": frozenset({"audit", "explain", "read"}),
    "deployer": frozenset({"act", "answer", "explain", "predict", "read", "stop", *_DEPLOYING}),
    "operator": frozenset({"act", "answer", "explain", "predict", "read", "stop"}),
    "viewer": frozenset({"answer", "predict", "read"}),
}
"""What each role may do. An approver cannot also change what is approved, nor an auditor
anything that is audited. An explanation shows what somebody asked, so a viewer gets none."""

COMMANDS: Mapping[str, Permission] = {
    "add_key": "keys",
    "agent": "read",
    "agent_counts": "read",
    "agent_hosts": "read",
    "agent_log": "read",
    "agent_plans": "read",
    "agent_reply": "act",
    "agent_versions": "read",
    "agents": "read",
    "answer": "answer",
    "approvals": "read",
    "approve": "approve",
    "ask_agent": "act",
    "assess": "train",
    "assessment": "read",
    "audit": "read",
    "audit_verify": "audit",
    "break_glass": "break_glass",
    "cancel_flow": "stop",
    "cancel_run": "stop",
    "card": "read",
    "clearance": "read",
    "command_rollout": "rollout",
    "compact_log": "deploy",
    "costs": "read",
    "dead_letters": "explain",
    "dead_mail": "read",
    "declare": "declare",
    "define_agent": "train",
    "define_flow": "deploy",
    "deploy": "deploy",
    "discard": "deploy",
    "emit": "deploy",
    "end_schedule": "act",
    "endpoint": "read",
    "endpoints": "read",
    "evidence": "read",
    "explain": "explain",
    "feedback": "predict",
    "feedback_events": "predict",
    "flow": "read",
    "flow_outcome": "read",
    "flow_steps": "read",
    "flow_versions": "read",
    "flows": "read",
    "fork_flow": "act",
    "give_up": "deploy",
    "grant_agent": "train",
    "history": "read",
    "inbox": "read",
    "keys": "keys",
    "kill_agent": "stop",
    "lineage": "read",
    "log": "read",
    "measure": "act",
    "metrics": "read",
    "model": "read",
    "models": "read",
    "monitor": "read",
    "outbox": "read",
    "plans": "read",
    "policy": "read",
    "profile": "read",
    "ps": "read",
    "queues": "read",
    "register": "register",
    "reject": "approve",
    "remove": "deploy",
    "replay": "deploy",
    "reproduce": "train",
    "reproduction": "read",
    "retire_log_key": "keys",
    "revive_agent": "act",
    "revive_mail": "act",
    "revoke_key": "keys",
    "roi": "read",
    "roll_back_agent": "stop",
    "roll_out_agent": "rollout",
    "rollback": "stop",
    "rollout": "read",
    "rollouts": "read",
    "rotate_log_key": "keys",
    "run": "read",
    "runs": "read",
    "schedules": "read",
    "series": "read",
    "set_policy": "policy",
    "set_queue": "act",
    "set_schedule": "act",
    "spawn_agent": "train",
    "start_flow": "act",
    "start_rollout": "rollout",
    "start_run": "train",
    "status": "read",
    "subscribe": "deploy",
    "subscriptions": "read",
    "take_webhook": "predict",
    "tell_agents": "act",
    "unsubscribe": "stop",
    "unwatch": "stop",
    "upload": "register",
    "watch": "train",
    "watches": "read",
}
"""The permission that each command and query of the kernel needs."""


class Caller(NamedTuple):
    """Who calls: the identity and the role of an API key."""

    identity: str
    role: str


def permits(role: str, permission: str) -> bool:
    """Whether a role has a permission: the only place where that is decided."""
    return permission in ROLES.get(role, frozenset())


def needed(command: str, arguments: Mapping[str, Any]) -> Permission | None:
    """The permission that a command needs; None if there is none that would do.

    To abort a rollout is to stop harm, and easier than to promote one. An agent whose class comes
    along is code that will run; of one that is known already it is only one more.
    """
    if command == "command_rollout" and arguments.get("command") == "abort":
        return "stop"
    if command == "spawn_agent" and arguments.get("source") is None:
        return "act"
    return COMMANDS.get(command)


def holders(permission: str) -> list[str]:
    """The roles that have a permission, for messages."""
    return [role for role in ROLES if permits(role, permission)]
