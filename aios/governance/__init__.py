"""Which versions may serve: gates, the policy of risk tiers, clearance, model cards.

For: `kernel`, which keeps what is found, and `training`, which runs the gates. Invariants:
every decision is a pure function of records and a time, so it can be made again from what
was stored; what cannot be judged is `not_enough_data` and never passes; a policy names only
gates that exist. Must not know: the registry's tables, Ray, HTTP.
"""

from aios.governance.candidate import Candidate, Context, Stable
from aios.governance.card import ModelCard, missing_declarations
from aios.governance.clearance import clearance, request_for, seal
from aios.governance.explanations import Contributions, contributions
from aios.governance.gates import GateKind, run_gates
from aios.governance.measures import metrics, metrics_by_group
from aios.governance.policy import Policy, Tier, UseRule, default_policy
from aios.governance.scoring import permutation_importance, score_frame

__all__ = [
    "Candidate",
    "Context",
    "Contributions",
    "GateKind",
    "ModelCard",
    "Policy",
    "Stable",
    "Tier",
    "UseRule",
    "clearance",
    "contributions",
    "default_policy",
    "metrics",
    "metrics_by_group",
    "missing_declarations",
    "permutation_importance",
    "request_for",
    "run_gates",
    "score_frame",
    "seal",
]
