"""Rollout: how an endpoint moves to another version, decided purely.

Called by the kernel, which once a second hands `step` the plan, the persisted state, the
evidence and the facts, stores the new state together with the actions in one transaction,
and lets its reconciler carry them out. Also called by the SDK, to build plans.

Invariants: nothing gets weight before the challenger is ready; nothing is promoted without
a "not worse" on every rule, unless a person commands it; no data never promotes; a finished
rollout does nothing more. Must not know Ray, the database, HTTP, or the time other than as
`now_s`.
"""

from aios.rollout.plans import BlueGreen, Canary, RolloutPlan, Shadow, parse_plan
from aios.rollout.policy import begin, step
from aios.rollout.rules import AbortRule, parse_rule
from aios.rollout.sequential import Verdict
from aios.rollout.state import (
    Action,
    AskApproval,
    Facts,
    Finish,
    Promote,
    RollBack,
    SetTraffic,
    StartChallenger,
    State,
)

__all__ = [
    "AbortRule",
    "Action",
    "AskApproval",
    "BlueGreen",
    "Canary",
    "Facts",
    "Finish",
    "Promote",
    "RollBack",
    "RolloutPlan",
    "SetTraffic",
    "Shadow",
    "StartChallenger",
    "State",
    "Verdict",
    "begin",
    "parse_plan",
    "parse_rule",
    "step",
]
