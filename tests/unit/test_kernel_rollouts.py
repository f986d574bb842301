"""Rollouts end to end in virtual time: a fake Serve, replicas that report, a real store."""

import threading
from pathlib import Path
from typing import Any

import pytest
from kernel_fakes import (
    QUICK,
    TWO_STEPS,
    FakeFlows,
    World,
    make_template,
    make_world,
)

from aios.clock import ManualClock
from aios.errors import IllegalTransition, StoreUnavailable
from aios.flows import FlowInterrupted
from aios.kernel.observations import Observations
from aios.kernel.rollouts import RolloutDriver
from aios.registry import Registry
from aios.rollout import BlueGreen, Canary, Shadow
from aios.store.database import Database


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template: Path, tmp_path: Path) -> World:
    return make_world(template, tmp_path)


def kpi(world: World, arm: str, value: float, count: int = 200) -> None:
    answers = [
        {"request_id": f"{arm}-{world.clock.now_s()}-{n}", "arm": arm, "kpi": value + n % 2 * 0.1}
        for n in range(count)
    ]
    assert world.do("feedback", endpoint="loan", answers=answers) == {"taken": count}


def decisions(world: World) -> list[dict[str, Any]]:
    entries = world.do("audit", limit=1000, subject="loan")
    return [entry["details"] for entry in reversed(entries) if entry["action"] == "advance_rollout"]


def test_a_good_canary_is_promoted(world: World) -> None:
    rollout = world.rollout(TWO_STEPS)
    view = world.until(rollout)
    assert (view["status"], view["stage"]) == ("promoted", "promoted")
    assert view["finished_s"] is not None
    endpoint = world.do("endpoint", name="loan")
    assert (endpoint["version"], endpoint["previous_version"]) == (2, 1)
    assert world.alias() == 2
    plans = world.do("plans", endpoint="loan")
    assert [plan["revision"] for plan in plans] == [1, 2, 3, 4]
    assert [plan["era"] for plan in plans[1:]] == [
        f"{rollout}/0",
        f"{rollout}/1",
        f"{rollout}/promoted",
    ]
    weights = [(plan["challenger"] or {}).get("weight_fraction") for plan in plans]
    assert weights == [None, 0.1, 0.5, None]
    assert [plan["stable"]["version"] for plan in plans] == [1, 1, 1, 2]
    assert {plan["salt"] for plan in plans[1:3]} == {rollout}
    assert world.kernel.registry.verify_audit() is None


def test_every_decision_is_one_transaction_with_its_audit_entry(world: World) -> None:
    rollout = world.rollout(TWO_STEPS)
    world.until(rollout)
    told = decisions(world)
    assert [one["stage"] for one in told] == [
        "canary 10%",
        "canary 50%",
        "promoting",
        "promoted",
    ]
    assert [one.get("revision") for one in told] == [2, 3, 4, None]
    assert {one["rollout"] for one in told} == {rollout}
    assert told[2]["verdicts"] == {"errors worse": "not_worse"}
    evidence = world.do("evidence", id=rollout)
    assert {item["payload"]["stage"] for item in evidence} >= {"canary 10%", "canary 50%"}
    assert world.kernel.registry.verify_audit() is None


def test_a_canary_that_raises_is_rolled_back_for_that_reason(world: World) -> None:
    for replica in world.replicas:
        replica.error_rate = {2: 0.2}
    rollout = world.rollout()
    view = world.until(rollout)
    assert (view["status"], view["rule"]) == ("rolled_back", "errors worse")
    assert view["reason"].startswith("errors worse: ")
    plan = world.plan()
    assert (plan.challenger, plan.stable.version) == (None, 1)
    assert world.alias() == 1
    assert world.do("endpoint", name="loan")["previous_version"] is None
    assert [one["stage"] for one in decisions(world)] == ["canary 20%", "rolled_back"]
    assert world.kernel.registry.verify_audit() is None


def test_a_challenger_that_cannot_load_fails_and_stable_is_untouched(world: World) -> None:
    world.serve.broken[2] = "ArtifactRejected: digest differs"
    before = world.plan()
    view = world.until(world.rollout())
    assert view["status"] == "failed"
    assert "ArtifactRejected: digest differs" in view["reason"]
    assert world.plan() == before
    assert len(world.do("plans", endpoint="loan")) == 1


def test_a_challenger_that_never_gets_ready_fails_in_time(world: World) -> None:
    world.serve.slow = True
    plan = Canary(steps=(0.2, 1.0), bake_s=1, start_timeout_s=20)
    view = world.until(world.rollout(plan))
    assert view["status"] == "failed"
    assert "not ready within 20 s" in view["reason"]


def test_a_promotion_that_a_replica_refuses_is_rolled_back(world: World) -> None:
    world.replicas[1].refuses = {2: "ModelFailed: warm-up raised"}
    view = world.until(world.rollout(QUICK.model_copy(update={"recover_s": 3.0})))
    assert view["status"] == "rolled_back"
    assert "ModelFailed: warm-up raised" in view["reason"]
    assert world.plan().stable.version == 1
    assert world.do("endpoint", name="loan")["previous_version"] is None
    assert world.alias() == 1
    world.tick()
    assert world.do("endpoint", name="loan")["ready"]


def test_what_a_replica_refused_before_is_not_held_against_the_next_rollout(world: World) -> None:
    world.replicas[1].refuses = {2: "ModelFailed: warm-up raised"}
    world.until(world.rollout(QUICK.model_copy(update={"recover_s": 3.0})))
    # Both replicas die with the refusal as their last word and are replaced.
    for number, replica in enumerate(world.replicas):
        replica.refuses, replica.silent = {}, True
        replica.refused = "ModelFailed: warm-up raised"
        world.kernel.report(replica.report(world.clock.now_s()))
        world.replicas[number] = type(replica)("loan", f"new-{number}", 200 + number)
    view = world.until(world.rollout(version="loan:3"))
    assert view["status"] == "promoted", view["reason"]


def test_no_data_is_rolled_back(world: World) -> None:
    for replica in world.replicas:
        replica.requests_per_s = 10
    rollout = world.rollout()
    world.until(rollout, stage="canary 20%")
    for replica in world.replicas:
        replica.silent = True
    view = world.until(rollout)
    assert view["status"] == "rolled_back"
    assert "no data for" in view["reason"]


def test_a_shadow_gets_copies_and_ends_without_a_promotion(world: World) -> None:
    rollout = world.rollout(Shadow(3, abort_when=("errors worse",)))
    view = world.until(rollout, stage="shadow")
    assert world.plan().challenger.arm == "shadow"
    assert view["weight_fraction"] == 0
    assert world.until(rollout)["status"] == "finished"
    world.tick()
    assert world.plan().challenger is None
    assert world.do("endpoint", name="loan")["version"] == 1


def test_blue_green_keeps_its_baseline_over_a_restart(world: World) -> None:
    plan = BlueGreen(bake_s=2, baseline_s=2, abort_when=("errors worse",))
    rollout = world.rollout(plan)
    world.until(rollout, stage="baking")
    world.restart()
    assert world.until(rollout)["status"] == "promoted"


def test_a_bad_kpi_from_feedback_rolls_back(world: World) -> None:
    plan = Canary(
        steps=(0.5, 1.0), bake_s=30, abort_when=("kpi worse", "errors worse"), no_data_s=60
    )
    rollout = world.rollout(plan)
    world.until(rollout, stage="canary 50%")
    for _ in range(5):
        world.tick()
        kpi(world, "stable", 1.0)
        kpi(world, "canary", 0.2)
    view = world.until(rollout)
    assert (view["status"], view["rule"]) == ("rolled_back", "kpi worse")


STAGES = ("starting", "shadow", "canary 10%", "canary 50%", "promoting")


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_kernel_goes_on_at_the_same_stage(world: World, stage: str) -> None:
    plan = Canary(
        steps=(0.1, 0.5, 1.0), bake_s=2, shadow_first_s=2, abort_when=("errors worse",), no_data_s=5
    )
    rollout = world.rollout(plan)
    if stage == "starting":
        world.serve.slow = True
        world.tick()
        world.tick()
    assert world.until(rollout, stage=stage)["stage"] == stage
    before = world.kernel.registry.rollout(rollout)
    world.restart()
    world.kernel.rollouts.start()
    assert world.flows.launched
    assert world.flows.started == [rollout]
    assert world.kernel.registry.rollout(rollout) == before
    assert world.kernel.rollouts.look(rollout) == before, "decided before Serve was seen"
    world.serve.slow = False
    world.tick(0)
    after = world.kernel.registry.rollout(rollout)
    assert after.state["falls"] == 0
    assert after.state["stage_s"] >= before.state["stage_s"] or after.stage != before.stage
    assert world.until(rollout)["status"] == "promoted"
    eras = [plan["era"] for plan in world.do("plans", endpoint="loan")]
    assert len(eras) == len(set(eras)) == 5
    assert world.kernel.registry.verify_audit() is None


def test_a_kernel_that_dies_every_second_is_not_blamed_on_the_challenger(world: World) -> None:
    rollout = world.rollout(TWO_STEPS)
    for _ in range(12):
        world.restart()
        world.kernel.rollouts.look(rollout)
        world.tick()
    view = world.do("rollout", id=rollout)
    assert view["status"] == "promoted", view["reason"]


def test_a_kernel_away_for_an_hour_does_not_end_a_stage(world: World) -> None:
    rollout = world.rollout(Canary(steps=(0.2, 1.0), bake_s=12, abort_when=("errors worse",)))
    world.until(rollout, stage="canary 20%")
    world.clock.advance(3600)
    world.restart()
    world.tick()
    assert world.do("rollout", id=rollout)["stage"] == "canary 20%"
    assert world.kernel.registry.rollout(rollout).state["stage_s"] <= 10
    assert world.until(rollout)["status"] == "promoted"


def test_nothing_is_decided_while_serve_was_never_seen(world: World) -> None:
    rollout = world.rollout()
    world.until(rollout, stage="canary 20%")
    world.restart()
    world.serve.outage = True
    for _ in range(10):
        world.tick(5)
    assert world.do("rollout", id=rollout)["status"] == "running"
    world.do("command_rollout", id=rollout, command="abort", reason="anyway")
    world.serve.outage = False
    world.tick()
    assert world.plan().challenger is None


def test_an_ended_rollout_decides_nothing_more(world: World) -> None:
    rollout = world.rollout()
    world.until(rollout)
    row = world.kernel.registry.rollout(rollout)
    assert world.kernel.rollouts.look(rollout) == row


def test_a_promotion_by_command_skips_the_waiting(world: World) -> None:
    rollout = world.rollout(Canary(steps=(0.1, 1.0), bake_s=3000))
    world.until(rollout, stage="canary 10%")
    done = world.do("command_rollout", id=rollout, command="promote", reason="sure")
    assert done["stage"] == "promoting"
    view = world.until(rollout)
    assert (view["status"], view["reason"]) == ("promoted", "promoted by command: ann: sure")


class Gate(ManualClock):
    """Stops the thread `looker` where it first asks for the time, until told to go on."""

    def __init__(self, now_s: float) -> None:
        super().__init__(now_s)
        self.armed = threading.Event()
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def now_s(self) -> float:
        if self.armed.is_set() and threading.current_thread().name == "looker":
            self.armed.clear()
            self.reached.set()
            self.go_on.wait(0.3)
        return super().now_s()


def test_a_command_during_a_look_is_not_lost(template: Path, tmp_path: Path) -> None:
    gate = Gate(1_000_000.0)
    world = make_world(template, tmp_path, gate)
    rollout = world.rollout(Canary(steps=(0.1, 1.0), bake_s=3000))
    world.until(rollout, stage="canary 10%")
    look = threading.Thread(target=world.kernel.rollouts.look, args=(rollout,), name="looker")
    gate.armed.set()
    look.start()
    assert gate.reached.wait(5)
    world.do("command_rollout", id=rollout, command="promote", reason="now")
    gate.go_on.set()
    look.join(5)
    assert world.do("rollout", id=rollout)["stage"] == "promoting"
    assert world.until(rollout)["status"] == "promoted"


def test_commands_and_looks_from_many_threads_leave_one_outcome(world: World) -> None:
    rollout = world.rollout(Canary(steps=(0.1, 1.0), bake_s=3000))
    world.until(rollout, stage="canary 10%")
    refused: list[IllegalTransition] = []

    def act(command: str) -> None:
        try:
            world.do("command_rollout", id=rollout, command=command, reason=command)
        except IllegalTransition as error:
            refused.append(error)

    threads = [
        threading.Thread(target=act, args=(command,)) for command in ("promote", "abort") * 4
    ] + [threading.Thread(target=world.kernel.rollouts.look, args=(rollout,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert world.until(rollout)["status"] == "aborted"
    assert all("has ended" in str(error) for error in refused)
    world.tick()
    assert world.plan().stable.version == 1
    assert world.kernel.registry.verify_audit() is None


class FlakyRegistry(Registry):
    """Cannot be read or written `outages` times."""

    outages = 0

    def rollout(self, rollout_id: str) -> Any:
        if self.outages > 0:
            self.outages -= 1
            raise StoreUnavailable("the disk is full")
        return super().rollout(rollout_id)


def driver_of(world: World, registry: Registry) -> RolloutDriver:
    return RolloutDriver(
        registry,
        Observations(world.clock),
        world.kernel.reconciler,
        FakeFlows(),
        world.clock,
        world.kernel._traces,
    )


def test_looks_that_fail_do_not_end_the_stage(world: World) -> None:
    rollout = world.rollout()
    registry = FlakyRegistry(Database(world.settings.store_url), world.clock)
    registry.outages = 5
    driver = driver_of(world, registry)
    results: list[dict[str, Any]] = []
    flow = threading.Thread(
        target=lambda: results.append(driver._until_stage_ends(rollout)), daemon=True
    )
    flow.start()
    for _ in range(200):
        if registry.outages == 0:
            break
        driver.wake(rollout)
        flow.join(0.02)
    assert flow.is_alive()
    world.do("command_rollout", id=rollout, command="abort", reason="enough")
    driver.wake(rollout)
    flow.join(5)
    assert results == [{"stage": "aborted", "outcome": "aborted"}]


def test_a_checkpoint_that_fails_does_not_end_the_flow(world: World) -> None:
    class Forgetful(FakeFlows):
        def step(self, name: str, function: Any) -> Any:
            def call(*arguments: Any) -> Any:
                function(*arguments)
                if not driver_failures:
                    return function(*arguments)
                raise driver_failures.pop()

            return call

    driver_failures: list[Exception] = [OSError("the flows' disk is full")]
    rollout = world.rollout()
    world.do("command_rollout", id=rollout, command="abort", reason="enough")
    driver = RolloutDriver(
        world.kernel.registry,
        Observations(world.clock),
        world.kernel.reconciler,
        Forgetful(),
        world.clock,
        world.kernel._traces,
    )
    assert driver._drive(rollout) == "aborted"
    assert not driver_failures


def test_closing_interrupts_the_flow_and_leaves_the_row(world: World) -> None:
    rollout = world.rollout()
    world.until(rollout, stage="canary 20%")
    driver = world.kernel.rollouts
    ended: list[FlowInterrupted] = []

    def run() -> None:
        try:
            driver._drive(rollout)
        except FlowInterrupted as error:
            ended.append(error)

    flow = threading.Thread(target=run, daemon=True)
    flow.start()
    world.kernel.close()
    flow.join(5)
    assert len(ended) == 1
    world.restart()
    assert world.until(rollout)["status"] == "promoted"
