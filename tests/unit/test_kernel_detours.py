"""Detours to users that a review found: each goes around a gate or an approval, and is closed."""

from pathlib import Path
from typing import Any

import pytest
from kernel_fakes import CONTRACT, World, make_template, make_world
from run_worlds import (
    BOB,
    EVE,
    OTHER_POLICY,
    assessed,
    carried_out,
    govern,
    lay_stages,
    rolling,
    run,
    spec,
)

from aios.errors import Forbidden, IllegalTransition, NotApproved, UsageError
from aios.rollout import BlueGreen, Canary, Shadow

SLOW = Canary(steps=(0.1, 0.5, 1.0), bake_s=30, abort_when=("errors worse",), no_data_s=20)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template: Path, tmp_path: Path) -> World:
    made = make_world(template, tmp_path)
    made.do("add_key", identity="ann", role="deployer")
    lay_stages(made)
    return made


@pytest.fixture
def asked(world: World) -> World:
    """A world in which the version loan:4 waits for an approval."""
    govern(world)
    assert run(world)["status"] == "registered"
    return world


def approve(world: World) -> None:
    world.ask(BOB, "approve", subject="loan:4", reason="looked at it")


@pytest.mark.parametrize("plan", [SLOW, BlueGreen(bake_s=600)])
def test_traffic_goes_back_when_the_glass_is_whole_again(asked: World, plan: Any) -> None:
    asked.do("break_glass", name="loan", reason="quick", lasts_s=10)
    view = asked.until(asked.rollout(plan, "loan:4"))
    assert view["status"] == "aborted"
    assert "loan:4 waits for 1 approval" in view["reason"]
    assert asked.kernel.registry.plan("loan").challenger is None


def test_traffic_goes_back_when_the_policy_changes(asked: World) -> None:
    approve(asked)
    rollout = asked.rollout(SLOW, "loan:4")
    asked.tick(8)
    assert asked.kernel.registry.plan("loan").challenger.weight_fraction == 0.1
    asked.do("set_policy", text=OTHER_POLICY)
    view = asked.until(rollout)
    assert (view["status"], "the policy has changed" in view["reason"]) == ("aborted", True)


def test_a_shadow_of_a_prohibited_use_is_refused(world: World) -> None:
    govern(world, "toy")
    world.do("set_policy", text=OTHER_POLICY.replace("toy: {tier: free}", "toy: {tier: forbidden}"))
    with pytest.raises(UsageError, match="prohibited"):
        world.rollout(Shadow(duration_s=60), "loan:2")


def test_an_endpoints_name_does_not_come_back_with_an_ungoverned_model(asked: World) -> None:
    artifact = {"digest": "9" * 64, "engine": "onnx", "size_bytes": 10}
    asked.ask(EVE, "register", name="next", artifact=artifact, contract=CONTRACT.to_json())
    asked.ask(EVE, "remove", name="loan")
    with pytest.raises(Forbidden, match=r"served loan, which has gates to pass; next has none"):
        asked.ask(EVE, "deploy", spec={"name": "loan"}, version="next:1")
    asked.ask(EVE, "declare", name="next", use="credit")
    with pytest.raises(NotApproved):
        asked.ask(EVE, "deploy", spec={"name": "loan"}, version="next:1")
    asked.do("declare", name="next", use="toy")
    asked.do("deploy", spec={"name": "loan"}, version="next:1")  # by an administrator


def test_removing_an_endpoint_makes_no_gate_easier(world: World) -> None:
    govern(world)
    facts: list[dict[str, Any]] = []

    def judged(told: dict[str, Any]) -> dict[str, Any]:
        facts.append(told)
        return assessed(told, "f" * 64)

    world.bench.gives["assess"] = judged
    world.do("remove", name="loan")
    run(world)
    assert facts[0]["stable"]["ref"] == "loan:1"


def test_what_serves_and_would_not_be_let_is_in_the_status(world: World) -> None:
    assert world.do("status")["uncleared"] == []
    govern(world)
    (found,) = world.do("status")["uncleared"]
    assert (found["endpoint"], found["ref"]) == ("loan", "loan:1")
    assert "never assessed" in found["missing"][0]


def test_what_is_declared_while_the_gates_run_voids_what_they_found(world: World) -> None:
    govern(world)

    def judged(told: dict[str, Any]) -> dict[str, Any]:
        world.clock.advance(1)
        world.do("declare", name="loan", use="credit", protected=["sex"])
        world.clock.advance(1)
        return assessed(told, "f" * 64)

    world.bench.gives["assess"] = judged
    run(world)
    found = world.do("clearance", ref="loan:4")
    assert not found["allowed"]
    assert any("declared anew" in reason for reason in found["missing"])


def test_a_run_is_no_origin_of_bytes_that_it_did_not_make(asked: World) -> None:
    artifact = {"digest": "9" * 64, "engine": "onnx", "size_bytes": 10}
    honest = asked.do("model", ref="loan:4")["lineage"]
    asked.do(
        "register", name="loan", artifact=artifact, contract=CONTRACT.to_json(), lineage=honest
    )
    kinds = [node["kind"] for node in asked.do("lineage", ref="loan:5")["nodes"]]
    assert "run" not in kinds
    with pytest.raises(UsageError, match="registered by hand"):
        asked.do("reproduce", ref="loan:5")
    assert "run" in [node["kind"] for node in asked.do("lineage", ref="loan:4")["nodes"]]


def test_nothing_rolls_out_for_somebody_whose_key_is_gone(world: World) -> None:
    govern(world)
    key = world.do("add_key", identity="eve", role="deployer")
    started = world.ask(EVE, "start_run", spec=spec(rollout=rolling()))["id"]
    with carried_out(world, started, "waiting for approval"):
        world.do("revoke_key", id=key["id"])
        approve(world)
    view = world.do("run", id=started)
    assert view["rollout"] is None
    assert "eve, who asked for the rollout, has no key any more" in view["error"]


def test_a_yes_to_the_row_that_was_looked_at_is_none_to_what_is_asked_since(asked: World) -> None:
    (seen,) = asked.do("approvals")
    asked.do("set_policy", text=OTHER_POLICY)
    asked.clock.advance(5)
    run(asked, assesses="loan:4")
    answer = {"subject": "loan:4", "reason": "looked at it"}
    with pytest.raises(IllegalTransition, match="is an older one"):
        asked.ask(BOB, "approve", **answer, request=seen["id"])
    (now,) = asked.do("approvals")
    asked.ask(BOB, "approve", **answer, request=now["id"])
    assert asked.do("clearance", ref="loan:4")["allowed"]
