"""The decision: `step(plan, state, evidence, facts, now_s) -> (state, actions)`, pure.

The caller looks about once a second, stores the new state and carries out the actions, both
or neither. Asked again with the same state it decides the same, so a crash between two
looks costs nothing.

What is decided here and might be expected otherwise:
* A failed attempt counts as an error of the challenger whatever its kind, also
  "unavailable" while it restarts and also when stable rescued the request: users of a
  promoted version would have had no rescue. So a canary killed once goes on only if the
  kill cost so few requests that it is not "worse".
* A challenger that is down is waited for `recover_s`; a fourth fall in one stage is not.
* Undecided at the end of `max_stage_s` takes the traffic back with the outcome "undecided".
  This is no verdict against the challenger and not part of `error_probability`.
* Waiting for an approval ends no stage by time, but the rules go on judging; a no, or an answer
  that never came, aborts.
"""

from aios.monitoring.evidence import ArmEvidence, Evidence
from aios.rollout.judging import judge, missing_data
from aios.rollout.plans import BlueGreen, Canary, Shadow, Stage
from aios.rollout.sequential import Verdict, looks_harmful
from aios.rollout.state import (
    Action,
    AskApproval,
    Facts,
    Finish,
    Outcome,
    Promote,
    RollBack,
    SetTraffic,
    StartChallenger,
    State,
)

Plan = Canary | BlueGreen | Shadow
Step = tuple[State, list[Action]]

MAX_LOOK_S = 5.0
"""The longest time that passes between two looks: what is longer was a kernel that was down
or a clock that was set, and counts as this."""

STALE_S = 10.0
"""Evidence without a new report for so long is treated as none. Replicas report every
second, also without traffic."""

BASELINE_REQUESTS = 300
"""Requests on stable before a blue-green switch. They cannot be added to afterwards, so they
must suffice: a p95 has both bounds from about 150 on."""

MAX_FALLS = 3
"""How often in one stage a challenger may go down and come back."""


def begin(plan: Plan, rollout: str, now_s: float) -> Step:
    """The first state and actions of a rollout with the id `rollout`."""
    state = State(
        rollout=rollout,
        era=f"{rollout}/start",
        since_s=now_s,
        clock_s=now_s,
        reason="starting the challenger",
    )
    return state, [StartChallenger()]


def step(plan: Plan, state: State, evidence: Evidence | None, facts: Facts, now_s: float) -> Step:
    """One look: what is known now, and what to do.

    Args:
        plan: What the user asked for; the same throughout.
        state: What `begin` or the last `step` returned.
        evidence: Of `state.era`; None, or of another era, is no evidence.
        facts: What the kernel sees.
        now_s: Wall time; may jump.

    Returns:
        The next state and the actions that bring the world there, in order. No actions once
        the state is terminal.
    """
    if state.terminal:
        return state, []
    if facts.command == "abort":
        return _end(state, "aborted", facts.command_reason, now_s)
    if facts.command == "promote" and not isinstance(plan, Shadow):
        reason = facts.command_reason or "no reason given"
        state = state.model_copy(update={"commanded": reason})
    state, passed_s = _pass_time(state, facts, now_s)
    if state.stage == "starting":
        return _while_starting(plan, state, facts, now_s)
    if state.stage == "promoting":
        return _while_promoting(plan, state, facts, now_s)
    return _while_serving(plan, state, evidence, facts, passed_s, now_s)


def _while_starting(plan: Plan, state: State, facts: Facts, now_s: float) -> Step:
    if facts.challenger_failed is not None:
        reason = f"the challenger cannot start: {facts.challenger_failed}"
        return _end(state, "failed", reason, now_s)
    if facts.challenger_ready:
        ahead = 1.0 if state.commanded is not None else plan.stages()[0].weight_fraction
        held = _await_approval(plan, state, ahead, facts, now_s)
        if held is not None:
            return held
        if state.commanded is not None:
            return _promote(state, f"promoted by command: {state.commanded}", now_s)
        return _enter(plan, state, 0, now_s)
    if state.stage_s > plan.start_timeout_s:
        reason = f"the challenger was not ready within {plan.start_timeout_s:g} s"
        return _end(state, "failed", reason, now_s)
    waits = "; the promotion that was asked for waits" if state.commanded is not None else ""
    return _hold(state, f"starting the challenger{waits}")


def _while_promoting(plan: Plan, state: State, facts: Facts, now_s: float) -> Step:
    if facts.plan_live:
        return _finish(state, "promoted", state.reason, now_s)
    if facts.challenger_failed is not None and state.down_s > plan.recover_s:
        reason = f"failed while it was promoted: {facts.challenger_failed}"
        return _end(state, "rolled_back", reason, now_s)
    if state.stage_s > plan.start_timeout_s:
        reason = f"the promotion did not reach every replica within {plan.start_timeout_s:g} s"
        return _end(state, "rolled_back", reason, now_s)
    return state, []


def _while_serving(
    plan: Plan,
    state: State,
    evidence: Evidence | None,
    facts: Facts,
    passed_s: float,
    now_s: float,
) -> Step:
    stage = plan.stages()[state.index]
    down = _is_down(facts)
    if state.commanded is not None and not down and _unapproved(plan, 1.0, facts) is None:
        return _promote(state, f"promoted by command: {state.commanded}", now_s)
    state, fresh = _take_reports(state, evidence, passed_s)
    verdicts = judge(plan, stage, fresh, state.baseline) if fresh is not None else {}
    state = _note(state, stage, fresh, verdicts, down, passed_s, now_s)

    for rule, verdict in verdicts.items():
        if verdict.state == "worse":
            reason = f"{rule}: {verdict.explanation}"
            return _end(state, "rolled_back", reason, now_s, rule)
    if state.down_s > plan.recover_s or state.falls > MAX_FALLS:
        cause = facts.challenger_failed or "not ready"
        often = (
            f"went down {state.falls} times"
            if state.falls > MAX_FALLS
            else (f"did not come back within {plan.recover_s:g} s")
        )
        return _end(state, "rolled_back", f"the challenger {often}: {cause}", now_s)
    if state.quiet_s > plan.quiet_limit_s(stage):
        missing = missing_data(stage, fresh, verdicts) or f"no new request on {stage.arm}"
        reason = f"no data for {state.quiet_s:.0f} s: {missing}"
        return _end(state, "rolled_back", reason, now_s)
    waiting = _waiting_for(plan, stage, state, fresh, verdicts, down)
    if not waiting or (state.commanded is not None and not down):
        ahead = 1.0 if state.commanded is not None else _ahead(plan, state)
        held = _await_approval(plan, state, ahead, facts, now_s)
        return held if held is not None else _leave(plan, stage, state, fresh, now_s)
    if state.stage_s > plan.stage_limit_s(stage):
        reason = f"undecided after {state.stage_s:.0f} s in the stage: {waiting}"
        return _end(state, "undecided", reason, now_s)
    return _hold(state, waiting)


def _waiting_for(
    plan: Plan,
    stage: Stage,
    state: State,
    fresh: Evidence | None,
    verdicts: dict[str, Verdict],
    down: bool,
) -> str:
    """What still keeps the stage from being left; empty when nothing does."""
    if down:
        return f"the challenger is down for {state.down_s:.0f} s"
    if fresh is None:
        return "no fresh reports from the replicas"
    if state.baked_s < stage.bake_s:
        open_rules = [rule for rule, verdict in verdicts.items() if verdict.state != "not_worse"]
        more = f"; not yet shown: {', '.join(open_rules)}" if open_rules else ""
        return f"baking for {stage.bake_s - state.baked_s:.0f} s more{more}"
    short = plan.min_requests - state.attempts_seen
    if short > 0:
        return f"needs {short} more requests of min_requests {plan.min_requests}"
    if isinstance(plan, Shadow):
        return ""
    if isinstance(plan, BlueGreen) and not stage.decides:
        stable = fresh.arm("stable")
        short = BASELINE_REQUESTS - (stable.attempts if stable is not None else 0)
        if short > 0:
            return f"needs {short} more requests on stable as a baseline"
    # A rule about shadow answers is judged nowhere else, so it must be settled here.
    required = {rule.text for rule in plan.rules() if stage.decides or rule.kind == "disagreement"}
    return "; ".join(
        _shortfall(rule, verdict)
        for rule, verdict in verdicts.items()
        if rule in required and verdict.state != "not_worse"
    )


def _ahead(plan: Plan, state: State) -> float:
    """The weight that comes after this stage; the promotion's, or none for a shadow, is last."""
    following = plan.stages()[state.index + 1 : state.index + 2]
    return following[0].weight_fraction if following else 1.0


def _unapproved(plan: Plan, weight: float, facts: Facts) -> float | None:
    """The lowest weight up to this one that people must still say yes to."""
    asked = [one for one in plan.approve_before if one <= weight and one not in facts.approved]
    return min(asked, default=None)


def _await_approval(
    plan: Plan, state: State, ahead: float, facts: Facts, now_s: float
) -> Step | None:
    """Hold where people must say yes first, and end when they said no; None to go on."""
    weight = _unapproved(plan, ahead, facts)
    if weight is None:
        return None
    if facts.rejected is not None:
        return _end(state, "aborted", f"not approved before {weight:.0%}: {facts.rejected}", now_s)
    asked: list[Action] = [] if state.asked == weight else [AskApproval(weight_fraction=weight)]
    reason = f"waits for an approval before {weight:.0%}"
    return state.model_copy(update={"asked": weight, "reason": reason}), asked


def _shortfall(rule: str, verdict: Verdict) -> str:
    needs = "more requests" if verdict.needed is None else f"{verdict.needed} more requests"
    return f"{rule}: {verdict.state.replace('_', ' ')}, needs {needs}"


def _leave(plan: Plan, stage: Stage, state: State, fresh: Evidence | None, now_s: float) -> Step:
    if isinstance(plan, Shadow):
        told = ", ".join(
            f"{rule}: {v.state.replace('_', ' ')}" for rule, v in state.verdicts.items()
        )
        return _finish(state, "finished", told, now_s)
    if stage.decides:
        return _promote(state, "no rule is broken, at the stated error probability", now_s)
    stable = fresh.arm("stable") if fresh is not None else None
    if isinstance(plan, BlueGreen) and stable is not None:
        state = state.model_copy(update={"baseline": stable.to_json()})
    return _enter(plan, state, state.index + 1, now_s)


def _pass_time(state: State, facts: Facts, now_s: float) -> tuple[State, float]:
    passed_s = min(max(now_s - state.clock_s, 0.0), MAX_LOOK_S)
    down = _is_down(facts)
    settled = facts.plan_live and not down
    changes = {
        "clock_s": now_s,
        "stage_s": state.stage_s + passed_s,
        "baked_s": state.baked_s + (passed_s if settled else 0.0),
        "down_s": state.down_s + passed_s if down else 0.0,
    }
    return state.model_copy(update=changes), passed_s


def _take_reports(
    state: State, evidence: Evidence | None, passed_s: float
) -> tuple[State, Evidence | None]:
    """Fresh evidence of this stage, or None. Fresh is what another report came for,
    so clocks of two machines need not agree."""
    if evidence is None or evidence.era != state.era or not evidence.replicas:
        return state.model_copy(update={"stale_s": state.stale_s + passed_s}), None
    moved = evidence.reports != state.reports_seen
    stale_s = 0.0 if moved else state.stale_s + passed_s
    changes = {"stale_s": stale_s, "reports_seen": evidence.reports}
    return state.model_copy(update=changes), evidence if stale_s <= STALE_S else None


def _note(
    state: State,
    stage: Stage,
    fresh: Evidence | None,
    verdicts: dict[str, Verdict],
    down: bool,
    passed_s: float,
    now_s: float,
) -> State:
    """Keep what this look showed: verdicts, whether data came, falls, first harm."""
    arm = _measured(stage, fresh)
    attempts = arm.attempts if arm is not None else state.attempts_seen
    # Fewer than before is news too: a restarted kernel no longer knows of dead replicas.
    has_data = attempts != state.attempts_seen and not missing_data(stage, fresh, verdicts)
    harmful = down or looks_harmful(verdicts)
    harmed_since_s = state.harmed_since_s if state.harmed_since_s is not None else now_s
    return state.model_copy(
        update={
            "attempts_seen": attempts,
            "quiet_s": 0.0 if has_data else state.quiet_s + passed_s,
            "is_down": down,
            "falls": state.falls + (down and not state.is_down),
            "verdicts": {**state.verdicts, **verdicts},
            "harmed_since_s": harmed_since_s if harmful else None,
        }
    )


def _measured(stage: Stage, fresh: Evidence | None) -> ArmEvidence | None:
    if fresh is None:
        return None
    return fresh.arm(stage.arm if stage.judged else "stable")


def _is_down(facts: Facts) -> bool:
    return facts.challenger_failed is not None or not facts.challenger_ready


def _enter(plan: Plan, state: State, index: int, now_s: float) -> Step:
    stage = plan.stages()[index]
    era = f"{state.rollout}/{index}"
    shadow_rules = {rule.text for rule in plan.rules() if rule.kind == "disagreement"}
    kept = {rule: verdict for rule, verdict in state.verdicts.items() if rule in shadow_rules}
    entered = _fresh_stage(state, now_s).model_copy(
        update={
            "stage": stage.kind,
            "index": index,
            "era": era,
            "weight_fraction": stage.weight_fraction,
            "verdicts": kept,
            "reason": f"baking for {stage.bake_s:g} s",
        }
    )
    return entered, [SetTraffic(arm=stage.arm, weight_fraction=stage.weight_fraction, era=era)]


def _fresh_stage(state: State, now_s: float) -> State:
    return state.model_copy(
        update={
            "since_s": now_s,
            "clock_s": now_s,
            "stage_s": 0.0,
            "baked_s": 0.0,
            "quiet_s": 0.0,
            "down_s": 0.0,
            "is_down": False,
            "stale_s": 0.0,
            "falls": 0,
            "attempts_seen": 0,
            "reports_seen": None,
            "harmed_since_s": None,
        }
    )


def _promote(state: State, reason: str, now_s: float) -> Step:
    era = f"{state.rollout}/promoted"
    changes = {"stage": "promoting", "era": era, "weight_fraction": 1.0, "reason": reason}
    return _fresh_stage(state, now_s).model_copy(update=changes), [Promote(era=era)]


def _hold(state: State, reason: str) -> Step:
    return state.model_copy(update={"reason": reason}), []


def _end(
    state: State, outcome: Outcome, reason: str, now_s: float, rule: str | None = None
) -> Step:
    """Over, with the traffic back on stable; there is none to take back before it began."""
    taken: list[Action] = []
    if state.stage != "starting":
        taken = [RollBack(reason=reason, rule=rule)]
    done, actions = _finish(state, outcome, reason, now_s)
    return done.model_copy(update={"rule": rule, "weight_fraction": 0.0}), [*taken, *actions]


def _finish(state: State, outcome: Outcome, reason: str, now_s: float) -> Step:
    changes = {"stage": "done", "outcome": outcome, "reason": reason, "clock_s": now_s}
    return state.model_copy(update=changes), [Finish(outcome=outcome, reason=reason)]
