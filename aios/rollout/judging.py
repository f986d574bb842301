"""From a plan's rules and the evidence to a verdict per rule."""

from typing import Any

from aios.monitoring.evidence import ArmEvidence, Evidence
from aios.rollout import sequential
from aios.rollout.plans import BlueGreen, Canary, Shadow, Stage
from aios.rollout.rules import AbortRule
from aios.rollout.sequential import Verdict


def judge(
    plan: Canary | BlueGreen | Shadow,
    stage: Stage,
    evidence: Evidence,
    baseline: dict[str, Any] | None,
) -> dict[str, Verdict]:
    """A verdict for every rule that this stage can judge, by the rule's text.

    `baseline` is stable's evidence from before (`ArmEvidence.to_json`), used at full weight,
    where stable answers only what the challenger failed on. A baseline stage judges nothing.
    """
    if not stage.judged:
        return {}
    challenger = evidence.arm(stage.arm)
    stable = evidence.arm("stable")
    if stage.kind == "baking":
        stable = ArmEvidence.from_json(baseline) if baseline is not None else None
    rules = [rule for rule in plan.rules() if rule.kind != "disagreement" or stage.kind == "shadow"]
    return {
        rule.text: _judge_rule(rule, challenger, stable, plan.alpha, plan.error_probability)
        for rule in rules
    }


def missing_data(stage: Stage, evidence: Evidence | None, verdicts: dict[str, Verdict]) -> str:
    """Which data a stage lacks; empty when it has all that it can expect.

    A KPI is never missed here: business values are fed back late, and `max_stage_s` bounds
    how long a stage waits for them.
    """
    if evidence is None:
        return "no fresh reports from the replicas"
    name = stage.arm if stage.judged else "stable"
    arm = evidence.arm(name)
    if arm is None or not arm.attempts:
        return f"no request on {name}"
    for rule, verdict in verdicts.items():
        if verdict.state == "no_data" and not rule.lstrip().startswith("kpi"):
            return f"{rule}: {verdict.explanation}"
    return ""


def _judge_rule(
    rule: AbortRule,
    challenger: ArmEvidence | None,
    stable: ArmEvidence | None,
    alpha: float,
    alpha_not_worse: float,
) -> Verdict:
    limit = rule.limit if rule.limit is not None else 0.0
    if challenger is None or stable is None:
        missing = "the challenger" if challenger is None else "stable"
        return Verdict(
            state="no_data", threshold=limit, explanation=f"no replica has reported {missing} yet"
        )
    shares = {"alpha": alpha, "alpha_not_worse": alpha_not_worse}
    if rule.kind == "errors":
        return sequential.compare_error_rates(challenger, stable, margin=limit, **shares)
    if rule.kind == "latency":
        return sequential.compare_latency(
            challenger,
            stable,
            quantile=rule.quantile,
            ratio=limit,
            floor_s=rule.floor_s,
            **shares,
        )
    if rule.kind == "drift":
        return sequential.compare_outputs(challenger, stable, tolerance=limit, **shares)
    if rule.kind == "kpi":
        return sequential.compare_means(challenger.kpi, stable.kpi, margin=rule.limit, **shares)
    return sequential.judge_disagreement(challenger, limit=limit, **shares)
