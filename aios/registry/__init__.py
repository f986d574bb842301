"""What exists and what is wanted: versions, aliases, endpoints, traffic plans, rollouts, keys;
what rules go by: profiles, policies, assessments, approvals, training runs, servings, watches;
the flows and agents that users wrote;
and, beside the log, what endpoints saw and what was fed back (`Observed`), what people are
to be told (`Outbox`), which events wait and go out (`EventStore`), and what it all cost
(`UsageStore`).

The kernel is the only writer; the control API reads. Invariants: every change happens inside
`Registry.change` and is one transaction with its audit entry and, if it has an operation id,
its remembered result; version numbers of a model and revisions of an endpoint have no gaps
and are never used twice; an endpoint has at most one running rollout and, while
deployed, one open serving; nothing becomes stable that the guard does not clear, except in a
rollback to what was cleared before. It must not know Ray, HTTP, how a model is loaded, a
rollout decided, or what a policy asks for.
"""

from aios.registry.alerts import Outbox, QueuedAlert
from aios.registry.change import Change, Guard
from aios.registry.events import EventStore
from aios.registry.feedback import FeedbackEvent, check_given
from aios.registry.observed import Observed
from aios.registry.reads import Reads
from aios.registry.registry import Registry
from aios.registry.rows import ApiKey, AuditEntry, EndpointState, Evidence, RolloutRow
from aios.registry.usage import UsageStore

__all__ = [
    "ApiKey",
    "AuditEntry",
    "Change",
    "EndpointState",
    "EventStore",
    "Evidence",
    "FeedbackEvent",
    "Guard",
    "Observed",
    "Outbox",
    "QueuedAlert",
    "Reads",
    "Registry",
    "RolloutRow",
    "UsageStore",
    "check_given",
]
