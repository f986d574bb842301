"""Whether what people need to judge a candidate is there: its explanation and its card."""

import math

from aios.governance.candidate import Candidate, Context
from aios.governance.gates.params import CardParams, ExplanationParams
from aios.governance.gates.verdicts import verdict
from aios.records import GateResult


def judge_explanation(
    candidate: Candidate, context: Context, params: ExplanationParams
) -> GateResult:
    """A permutation importance is stored for every input, all are finite, and at least
    `min_features` are above 0 (see `aios.governance.scoring`)."""
    stored = candidate.importances
    if stored is None:
        reason = "no permutation importances are stored; compute them at registration"
        return verdict("explanation", "failed", reason, None, params.min_features)
    inputs = list(candidate.contract.inputs)
    missing = [name for name in inputs if name not in stored]
    broken = [name for name, value in stored.items() if not math.isfinite(value)]
    count = sum(stored.get(name, 0.0) > 0 for name in inputs)
    evidence = {"importances": dict(stored), "missing": missing, "not_finite": broken}
    reason = ""
    if missing:
        reason = f"no importance is stored for {', '.join(missing)}"
    elif broken:
        reason = f"the importance of {', '.join(broken)} is not a finite number"
    elif count < params.min_features:
        reason = (
            f"{count} of {len(inputs)} inputs matter, fewer than {params.min_features}: the model "
            "answers the same whatever they are"
        )
    if reason:
        return verdict("explanation", "failed", reason, count, params.min_features, **evidence)
    first = max(inputs, key=lambda name: stored[name])
    told = f"{count} of {len(inputs)} inputs matter, {first} the most"
    return verdict("explanation", "passed", told, count, params.min_features, **evidence)


def judge_card(candidate: Candidate, context: Context, params: CardParams) -> GateResult:
    """The model card has all sections that are required of it (M. Mitchell et al., 2019,
    "Model cards for model reporting", FAT*)."""
    missing = list(candidate.card_missing)
    if missing:
        reason = f"the card lacks {', '.join(missing)}; declare them with rt.declare"
        return verdict("card", "failed", reason, len(missing), 0, missing=missing)
    return verdict("card", "passed", "all required sections are there", 0, 0, missing=[])
