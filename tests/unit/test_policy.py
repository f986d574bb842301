"""Each look of a rollout decides what is stated, in any order of events."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aios.monitoring import ArmEvidence, Evidence, Moments
from aios.rollout import (
    Action,
    AskApproval,
    BlueGreen,
    Canary,
    Facts,
    Finish,
    Promote,
    RollBack,
    SetTraffic,
    Shadow,
    StartChallenger,
    State,
    begin,
    step,
)
from aios.rollout.policy import MAX_FALLS
from aios.telemetry import Sketch

Plan = Canary | BlueGreen | Shadow
LIVE = Facts(challenger_ready=True, plan_live=True)
DOWN = Facts(challenger_failed="killed by signal 9", plan_live=True)
QUICK = Canary(steps=(0.2, 1.0), bake_s=3, abort_when=("errors worse",), no_data_s=5)


def evidence(
    state: State, canary: tuple[int, int], stable: tuple[int, int] = (0, 10_000), reports: int = 0
) -> Evidence:
    def arm(errors: int, attempts: int) -> ArmEvidence:
        return ArmEvidence(version=1, attempts=attempts, errors={"unavailable": errors})

    arms = {"canary": arm(*canary), "stable": arm(*stable)}
    return Evidence(state.era, arms, 0.0, state.clock_s, 1, reports or int(state.clock_s * 10) + 1)


def serving(plan: Plan = QUICK) -> State:
    state, actions = begin(plan, "r", 0.0)
    assert actions == [StartChallenger()]
    state, actions = step(plan, state, None, LIVE, 1.0)
    assert len(actions) == 1
    return state


def look(
    state: State,
    canary: tuple[int, int] | None,
    facts: Facts = LIVE,
    plan: Plan = QUICK,
    after_s: float = 1.0,
) -> tuple[State, list[Action]]:
    seen = evidence(state, canary) if canary is not None else None
    return step(plan, state, seen, facts, state.clock_s + after_s)


def test_nothing_gets_weight_before_the_challenger_is_ready() -> None:
    state, _ = begin(QUICK, "r", 0.0)
    for second in range(1, 200):
        state, actions = step(QUICK, state, None, Facts(plan_live=True), float(second))
        assert actions == []
        assert state.stage == "starting"
    state, actions = step(QUICK, state, None, LIVE, 200.0)
    assert actions == [SetTraffic(arm="canary", weight_fraction=0.2, era="r/0")]


def test_a_challenger_that_never_becomes_ready_fails_without_touching_traffic() -> None:
    state, _ = begin(QUICK, "r", 0.0)
    for second in range(1, 310):
        state, actions = step(QUICK, state, None, Facts(), float(second))
        if actions:
            break
    assert state.outcome == "failed"
    assert "not ready within 300 s" in state.reason
    assert [type(action) for action in actions] == [Finish]


def test_worse_rolls_back_at_once_with_rule_and_numbers() -> None:
    state, actions = look(serving(), (10, 40))
    assert actions == [
        RollBack(reason=state.reason, rule="errors worse"),
        Finish(outcome="rolled_back", reason=state.reason),
    ]
    assert state.rule == "errors worse"
    assert "10 of 40 failed (25.0%) against 0 of 10000" in state.reason
    assert "unavailable 10" in state.reason
    assert state.harmed_since_s == 2.0


def test_a_good_canary_bakes_first_then_is_promoted_then_finishes() -> None:
    state = serving()
    for attempts in (1000, 2000):
        state, actions = look(state, (0, attempts))
        assert actions == []
        assert "baking for" in state.reason
    state, actions = look(state, (0, 3000))
    assert actions == [Promote(era="r/promoted")]
    state, actions = look(state, None, Facts(challenger_ready=True))
    assert (state.stage, actions) == ("promoting", [])
    state, actions = look(state, None)
    assert [type(action) for action in actions] == [Finish]
    assert state.outcome == "promoted"


def test_baking_waits_until_every_replica_runs_the_plan() -> None:
    state = serving()
    for index in range(10):
        state, actions = look(state, (0, 1000 * (index + 1)), Facts(challenger_ready=True))
        assert actions == []
    assert state.baked_s == 0


def test_undecided_says_how_many_more_and_gives_up_in_the_end() -> None:
    state = serving()
    for index in range(119):
        state, actions = look(state, (0, 100 + index))
        assert actions == []
    assert "errors worse: undecided, needs 2" in state.reason
    assert "more requests" in state.reason
    for index in range(3):
        state, actions = look(state, (0, 300 + index))
        if actions:
            break
    assert state.outcome == "undecided"
    assert [type(action) for action in actions] == [RollBack, Finish]
    assert "more requests" in state.reason


def test_an_intermediate_step_needs_its_minimum_of_requests() -> None:
    plan = Canary(steps=(0.1, 0.2, 1.0), bake_s=1, abort_when=("errors worse",), min_requests=50)
    state = serving(plan)
    state, actions = look(state, (0, 49), plan=plan)
    assert actions == []
    assert "needs 1 more requests of min_requests 50" in state.reason
    state, actions = look(state, (0, 50), plan=plan)
    assert actions == [SetTraffic(arm="canary", weight_fraction=0.2, era="r/1")]


def test_nobody_is_promoted_on_evidence_that_stopped_coming() -> None:
    plan = Canary(steps=(0.2, 1.0), bake_s=12, abort_when=("errors worse",), no_data_s=60)
    state = serving(plan)
    for _ in range(40):
        seen = evidence(state, (0, 5000), reports=7)
        state, actions = step(plan, state, seen, LIVE, state.clock_s + 1)
        assert actions == []
    assert state.reason == "no fresh reports from the replicas"


@pytest.mark.parametrize("kind", ["none", "frozen", "other era", "no attempts"])
def test_no_data_holds_then_rolls_back(kind: str) -> None:
    state = serving()
    held = 0
    seen = {
        "none": lambda: None,
        "frozen": lambda: evidence(state, (0, 5000), reports=7),
        "other era": lambda: replace(evidence(state, (0, 5000)), era="r/9"),
        "no attempts": lambda: evidence(state, (0, 0)),
    }[kind]
    for _ in range(30):
        facts = Facts(challenger_ready=True, plan_live=kind != "frozen")
        state, actions = step(QUICK, state, seen(), facts, state.clock_s + 1)
        if actions:
            break
        held += 1
    assert 5 <= held <= 7
    assert state.outcome == "rolled_back"
    assert "no data for" in state.reason


def test_a_rule_that_has_nothing_to_measure_counts_as_no_data() -> None:
    plan = Canary(steps=(0.2, 1.0), bake_s=3, no_data_s=5)
    state = serving(plan)
    for attempts in range(100, 1000, 100):
        state, actions = look(state, (0, attempts), plan=plan)
        if actions:
            break
    assert state.outcome == "rolled_back"
    assert "latency_p95 > 1.5x + 10ms: no latency from the challenger" in state.reason


def test_missing_business_values_hold_but_are_no_reason_to_turn_back_early() -> None:
    plan = Canary(steps=(0.2, 1.0), bake_s=3, abort_when=("kpi worse",), no_data_s=5)
    state = serving(plan)
    for attempts in range(100, 2000, 100):
        state, actions = look(state, (0, attempts), plan=plan)
        assert actions == []
    assert "kpi worse: no data, needs 100 more requests" in state.reason
    paid = Moments(2000, 2000.0, 2100.0)
    seen = evidence(state, (0, 3000)).with_kpi({"canary": paid, "stable": paid})
    state, actions = step(plan, state, seen, LIVE, state.clock_s + 1)
    assert actions == []
    paid = Moments(20_000, 20_000.0, 21_000.0)
    seen = evidence(state, (0, 4000)).with_kpi({"canary": paid, "stable": paid})
    _, actions = step(plan, state, seen, LIVE, state.clock_s + 1)
    assert actions == [Promote(era="r/promoted")]


def test_a_killed_challenger_is_waited_for_and_its_failures_count() -> None:
    state = serving()
    for index in range(10):
        state, actions = look(state, (1, 500 + index), DOWN)
        assert actions == []
        assert "the challenger is down" in state.reason
    state, actions = look(state, (1, 2000))
    assert (actions, state.falls) == ([], 1)
    state, actions = look(serving(), (30, 500), DOWN)
    assert state.rule == "errors worse"


def test_a_challenger_that_stays_down_or_falls_too_often_is_rolled_back() -> None:
    plan = QUICK.model_copy(update={"no_data_s": 60.0})
    state = serving(plan)
    for index in range(25):
        state, actions = look(state, (0, 400 + index), DOWN, plan)
        if actions:
            break
    assert state.reason == "the challenger did not come back within 20 s: killed by signal 9"
    state = serving(plan)
    for index in range(20):
        state, actions = look(state, (0, 100 + index), LIVE if index % 2 else DOWN, plan)
        if actions:
            break
    assert f"went down {MAX_FALLS + 1} times" in state.reason


def test_commands_work_at_any_time_and_are_recorded() -> None:
    promote = LIVE.model_copy(update={"command": "promote", "command_reason": "hotfix, by ana"})
    abort = LIVE.model_copy(update={"command": "abort"})
    state, actions = look(serving(), None, promote)
    assert actions == [Promote(era="r/promoted")]
    assert state.reason == "promoted by command: hotfix, by ana"
    state, actions = look(state, None, abort)
    assert [type(action) for action in actions] == [RollBack, Finish]
    assert state.outcome == "aborted"
    state, actions = step(QUICK, begin(QUICK, "r", 0.0)[0], None, abort, 1.0)
    assert [type(action) for action in actions] == [Finish]


def test_a_promotion_asked_for_too_early_waits_for_the_challenger() -> None:
    state, _ = begin(QUICK, "r", 0.0)
    state, actions = step(QUICK, state, None, Facts(command="promote"), 1.0)
    assert actions == []
    assert "waits" in state.reason
    state, actions = step(QUICK, state, None, LIVE, 2.0)
    assert actions == [Promote(era="r/promoted")]


def test_a_promotion_asked_for_while_the_challenger_is_down_waits() -> None:
    state, actions = look(serving(), None, DOWN.model_copy(update={"command": "promote"}))
    assert actions == []
    state, actions = look(state, None)
    assert actions == [Promote(era="r/promoted")]


def test_a_promotion_that_does_not_arrive_is_rolled_back() -> None:
    promote = LIVE.model_copy(update={"command": "promote"})
    state, _ = look(serving(), None, promote)
    for _ in range(100):
        state, actions = look(state, None, Facts(challenger_ready=True), after_s=5)
        if actions:
            break
    assert state.outcome == "rolled_back"
    assert "did not reach every replica" in state.reason


def test_clocks_that_jump_neither_end_nor_shorten_a_stage() -> None:
    state, _ = look(serving(), (0, 1000))
    for after_s in (-3600, 7200, -1, 86_400):
        before = state
        state, actions = look(
            state, (0, before.attempts_seen + 10), Facts(challenger_ready=True), after_s=after_s
        )
        assert actions == []
        assert 0 <= state.stage_s - before.stage_s <= 5


def test_a_restarted_kernel_that_lost_old_counts_goes_on() -> None:
    state, _ = look(serving(), (0, 1000))
    state, actions = look(state, (0, 600))
    assert (state.quiet_s, actions) == (0.0, [])


def test_the_same_look_decides_the_same() -> None:
    state = serving()
    assert look(state, (10, 40)) == look(state, (10, 40))
    text = json.loads(state.model_dump_json())
    assert State.model_validate(text) == state


# -- any order of events ------------------------------------------------------------------


class AnyRollout(RuleBasedStateMachine):
    """Facts, evidence, commands and clocks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.plan: Plan = QUICK
        self.state, self.actions = begin(QUICK, "r", 0.0)
        self.commanded = False
        self.ready = False
        self.counted = [0, 0, 0]
        self.terminal_actions = 0
        self.seen_ready = False

    @rule(
        plan=st.sampled_from(
            [
                QUICK,
                Canary(steps=(0.05, 0.25, 1.0), bake_s=3),
                BlueGreen(2, abort_when=("errors worse",)),
                Shadow(3),
            ]
        )
    )
    @precondition(lambda self: self.state.stage == "starting")
    def choose(self, plan: Plan) -> None:
        self.plan = plan
        self.state, self.actions = begin(plan, "r", 0.0)
        self.commanded = False

    @rule(ready=st.booleans())
    def challenger(self, ready: bool) -> None:
        self.ready = ready

    @rule(
        more=st.sampled_from([0, 10, 100, 5000]),
        bad=st.sampled_from([0.0, 0.0, 0.0, 0.1, 1.0]),
        missing=st.booleans(),
        live=st.sampled_from([True, True, False]),
        failed=st.sampled_from([None, None, None, "exit 1"]),
        after_s=st.sampled_from([1.0, 1.0, 4.0, 0.0, -100.0, 5000.0]),
        command=st.sampled_from([None] * 12 + ["promote", "abort"]),
    )
    def looks(
        self,
        more: int,
        bad: float,
        missing: bool,
        live: bool,
        failed: str | None,
        after_s: float,
        command: str | None,
    ) -> None:
        before = self.state
        self.counted[0] += more
        self.counted[1] += int(more * bad)
        self.counted[2] += 1
        facts = Facts(
            challenger_ready=self.ready,
            challenger_failed=failed,
            plan_live=live,
            command=command,  # type: ignore[arg-type]
        )
        self.seen_ready |= self.ready and failed is None
        self.commanded |= command == "promote"
        given = None if missing else self._evidence()
        self.state, actions = step(self.plan, before, given, facts, before.clock_s + after_s)
        self.actions += actions
        if before.terminal:
            assert actions == []
            assert self.state == before
        if self.state.era != before.era:
            self.counted = [0, 0, 0]
        if any(isinstance(action, Promote) for action in actions) and not self.commanded:
            assert given is not None
            verdicts = self.state.verdicts
            assert set(verdicts) == set(self.plan.abort_when)
            assert {verdict.state for verdict in verdicts.values()} == {"not_worse"}

    def _evidence(self) -> Evidence:
        attempts, errors, reports = self.counted
        values = Sketch()
        values.update_many(np.linspace(0.01, 0.02, min(attempts, 300)))
        outputs = {"approve": values} if attempts else {}
        challenger = ArmEvidence(2, attempts, {"deadline": errors}, 0, values, outputs)
        stable = ArmEvidence(1, attempts * 4, {}, 0, values, outputs)
        arms = {"canary": challenger, "shadow": challenger, "stable": stable}
        return Evidence(self.state.era, arms, 0.0, 0.0, 1, reports)

    @invariant()
    def holds(self) -> None:
        finishes = [action for action in self.actions if isinstance(action, Finish)]
        assert len(finishes) == int(self.state.terminal)
        assert (self.state.outcome is not None) == self.state.terminal
        weights = [a.weight_fraction for a in self.actions if isinstance(a, SetTraffic)]
        assert all(later >= earlier for earlier, later in pairwise(weights))
        promotions = sum(isinstance(action, Promote) for action in self.actions)
        assert promotions <= 1
        assert sum(isinstance(action, RollBack) for action in self.actions) <= 1
        if weights or promotions:
            assert self.seen_ready
        if self.state.outcome == "promoted":
            assert promotions == 1
            assert not any(isinstance(action, RollBack) for action in self.actions)
        if isinstance(self.plan, Shadow):
            assert promotions == 0
            assert not any(weights)
        State.model_validate_json(self.state.model_dump_json())


TestAnyRollout = AnyRollout.TestCase
TestAnyRollout.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


ASKING = Canary(
    steps=(0.2, 0.5, 1.0),
    bake_s=3,
    abort_when=("errors worse",),
    no_data_s=5,
    max_stage_s=10,
    approve_before=(0.5, 1.0),
)


def until_asked(plan: Plan = ASKING) -> State:
    state, asked = serving(plan), False
    for second in range(1, 8):
        state, actions = look(state, (0, 2_000 * second), plan=plan)
        asked = asked or actions == [AskApproval(weight_fraction=0.5)]
    assert asked
    return state


def test_a_step_that_needs_an_approval_is_not_entered_without_one_however_good() -> None:
    state = until_asked()
    for second in range(1, 100):
        state, actions = look(state, (0, 20_000 + 2_000 * second), plan=ASKING)
        assert actions == []
    assert (state.stage, state.weight_fraction) == ("canary", 0.2)
    assert state.reason == "waits for an approval before 50%"
    yes = LIVE.model_copy(update={"approved": (0.5,)})
    state, actions = look(state, (0, 900_000), yes, ASKING)
    assert actions == [SetTraffic(arm="canary", weight_fraction=0.5, era="r/1")]


def test_rules_go_on_judging_while_an_approval_is_awaited() -> None:
    state, actions = look(until_asked(), (9_000, 20_000), plan=ASKING)
    assert state.outcome == "rolled_back"
    assert isinstance(actions[0], RollBack)


def test_a_no_aborts_and_gives_the_traffic_back() -> None:
    no = LIVE.model_copy(update={"rejected": "carol: too few applications"})
    state, actions = look(until_asked(), (0, 20_000), no, ASKING)
    assert state.outcome == "aborted"
    assert isinstance(actions[0], RollBack)
    assert state.reason == "not approved before 50%: carol: too few applications"


def test_promote_does_not_go_around_an_approval() -> None:
    command = LIVE.model_copy(update={"command": "promote", "command_reason": "I want to"})
    state, actions = look(until_asked(), (0, 20_000), command, ASKING)
    assert (state.weight_fraction, actions) == (0.2, []), "it asked before 50 % and waits"
    later = LIVE.model_copy(update={"approved": (1.0,)})
    state, actions = look(state, (0, 25_000), later, ASKING)
    assert (state.weight_fraction, actions) == (0.2, []), "a yes to 100 % is none to 50 %"
    yes = LIVE.model_copy(update={"approved": (0.5, 1.0)})
    state, actions = look(state, (0, 30_000), yes, ASKING)
    assert actions == [Promote(era="r/promoted")]
