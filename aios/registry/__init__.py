"""What exists and what is wanted: versions, aliases, endpoints, traffic plans, rollouts, keys.

The kernel is the only writer; the control API reads. Invariants: every change happens inside
`Registry.change` and is one transaction with its audit entry and, if it has an operation id,
its remembered result; version numbers of a model and revisions of an endpoint have no gaps
and are never used twice; an endpoint has at most one running rollout. It must not know Ray,
HTTP, or how a model is loaded or a rollout decided.
"""

from aios.registry.change import Change
from aios.registry.registry import Registry
from aios.registry.rows import ApiKey, AuditEntry, EndpointState, Evidence, RolloutRow

__all__ = [
    "ApiKey",
    "AuditEntry",
    "Change",
    "EndpointState",
    "Evidence",
    "Registry",
    "RolloutRow",
]
