"""Whole rollouts of simulated models: bad ones never get through, identical ones do."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from aios.monitoring import ArmEvidence, Evidence
from aios.rollout import (
    Action,
    BlueGreen,
    Canary,
    Facts,
    Finish,
    Promote,
    SetTraffic,
    Shadow,
    StartChallenger,
    State,
    begin,
    step,
)
from aios.telemetry import Sketch

Plan = Canary | BlueGreen | Shadow
LIVE = Facts(challenger_ready=True, plan_live=True)


@dataclass(frozen=True)
class Model:
    """How a simulated version behaves; `at` lets it change from second to second."""

    error_rate: float = 0.0
    latency_s: float = 0.05
    score: Callable[[np.random.Generator, int], np.ndarray] = lambda g, n: g.beta(2, 1, n)
    kind: str = "model_failed"
    answers: bool = True
    fails_at_init: bool = False
    bad_seconds: Callable[[int], bool] = lambda second: True


GOOD = Model()


@dataclass
class Arm:
    attempts: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latency: Sketch = field(default_factory=Sketch)
    outputs: Sketch = field(default_factory=Sketch)

    def serve(self, model: Model, count: int, second: int, generator: np.random.Generator) -> None:
        rate = model.error_rate if model.bad_seconds(second) else 0.0
        failed = int(generator.binomial(count, rate))
        self.attempts += count
        if failed:
            self.errors[model.kind] = self.errors.get(model.kind, 0) + failed
        self.latency.update_many(generator.gamma(4, model.latency_s / 4, count - failed))
        self.outputs.update_many(model.score(generator, count - failed))

    def evidence(self, version: int) -> ArmEvidence:
        outputs = {"approve": self.outputs} if self.outputs.count else {}
        latency = self.latency if self.latency.count else None
        return ArmEvidence(version, self.attempts, dict(self.errors), 0, latency, outputs)


@dataclass
class World:
    """Endpoint, traffic and kernel in one: applies actions, makes evidence, takes looks."""

    plan: Plan
    challenger: Model
    seed: int
    requests_per_s: int = 120
    stable: Model = GOOD
    actions: list[Action] = field(default_factory=list)

    def run(self, seconds: int = 400) -> State:
        generator = np.random.default_rng(self.seed)
        state, actions = begin(self.plan, "r", 0.0)
        arms: dict[str, Arm] = {}
        self.actions += actions
        for second in range(1, seconds):
            evidence = None
            stage = state.stage
            if stage not in ("starting", "promoting"):
                self._serve(state, arms, second, generator)
                made = {name: arm.evidence(1) for name, arm in arms.items()}
                evidence = Evidence(state.era, made, 0.0, float(second), 1, second)
            facts = LIVE if not self.challenger.fails_at_init else Facts(challenger_failed="boom")
            before = state.era
            text = state.model_dump_json()
            state, actions = step(
                self.plan, State.model_validate_json(text), evidence, facts, float(second)
            )
            self.actions += actions
            if state.era != before:
                arms = {}
            if state.terminal:
                return state
        return state

    def _serve(
        self, state: State, arms: dict[str, Arm], second: int, generator: np.random.Generator
    ) -> None:
        total = int(generator.poisson(self.requests_per_s))
        shadow = state.stage == "shadow"
        canary = total if shadow else int(generator.binomial(total, state.weight_fraction))
        name = "shadow" if shadow else "canary"
        arms.setdefault("stable", Arm())
        arms.setdefault(name, Arm())
        arms["stable"].serve(self.stable, total - (0 if shadow else canary), second, generator)
        if self.challenger.answers:
            arms[name].serve(self.challenger, canary, second, generator)


LOAN = Canary(steps=(0.05, 0.25, 1.0), bake_s=3, max_stage_s=120, no_data_s=5)

BAD = {
    "errors 20 %": Model(error_rate=0.2),
    "errors 5 %": Model(error_rate=0.05),
    "5x latency": Model(latency_s=0.25),
    "wrong answers": Model(score=lambda g, n: g.beta(1, 8, n)),
    "NaN": Model(error_rate=1.0, kind="bad_output"),
    "crash at init": Model(fails_at_init=True),
    "hang": Model(error_rate=1.0, kind="deadline"),
    "no data": Model(answers=False),
    "flapping": Model(error_rate=0.5, bad_seconds=lambda second: second // 2 % 2 == 0),
}


@pytest.mark.parametrize("name", BAD)
def test_no_bad_model_is_promoted(name: str) -> None:
    for seed in range(10):
        world = World(LOAN, BAD[name], seed)
        state = world.run()
        assert state.outcome == ("failed" if name == "crash at init" else "rolled_back"), state
        assert not any(isinstance(action, Promote) for action in world.actions)
        assert state.reason


def test_no_traffic_at_all_is_never_promoted() -> None:
    for seed in range(10):
        state = World(LOAN, GOOD, seed, requests_per_s=0).run()
        assert state.outcome == "rolled_back"
        assert "no data for" in state.reason
        assert state.clock_s <= 8


def test_an_identical_model_is_rolled_back_no_more_often_than_stated() -> None:
    outcomes = [World(LOAN, GOOD, seed, requests_per_s=300).run().outcome for seed in range(100)]
    assert outcomes.count("rolled_back") <= 5
    assert outcomes.count("promoted") >= 95


def test_a_blatantly_bad_model_is_gone_within_seconds() -> None:
    for name in ("errors 20 %", "5x latency", "NaN", "hang"):
        assert World(LOAN, BAD[name], 3, requests_per_s=200).run().clock_s <= 8, name


def test_blue_green_compares_with_stable_from_before_the_switch() -> None:
    plan = BlueGreen(bake_s=4, baseline_s=2)
    world = World(plan, GOOD, 1)
    assert world.run().outcome == "promoted"
    weights = [a.weight_fraction for a in world.actions if isinstance(a, SetTraffic)]
    assert weights == [0.0, 1.0]
    for name in ("errors 20 %", "5x latency", "wrong answers", "no data"):
        assert World(plan, BAD[name], 2).run().outcome == "rolled_back", name


def test_a_shadow_ends_with_verdicts_and_without_weight() -> None:
    plan = Shadow(5, no_data_s=5)
    world = World(plan, GOOD, 1)
    state = world.run()
    assert state.outcome == "finished"
    assert "errors worse: not worse" in state.reason
    assert [type(action) for action in world.actions] == [StartChallenger, SetTraffic, Finish]
    assert World(plan, BAD["errors 20 %"], 1).run().outcome == "rolled_back"
    assert World(plan, BAD["no data"], 1).run().outcome == "rolled_back"


def test_a_shadow_stage_comes_before_the_canary() -> None:
    plan = Canary(steps=(0.25, 1.0), bake_s=3, shadow_first_s=3)
    world = World(plan, GOOD, 4)
    assert world.run().outcome == "promoted"
    arms = [action.arm for action in world.actions if isinstance(action, SetTraffic)]
    assert arms == ["shadow", "canary"]
