"""Who may answer, what is void, broken glass, prohibited uses, rollouts that wait for people."""

from pathlib import Path
from typing import Any

import pytest
from kernel_fakes import ANN, CONTRACT, World, make_template, make_world
from run_worlds import (
    BOB,
    EVE,
    OTHER_POLICY,
    POLICY,
    govern,
    lay_stages,
    run,
    spec,
    start,
    versions,
)

from aios.errors import (
    Forbidden,
    IllegalTransition,
    NotApproved,
    StoreUnavailable,
    UnknownModel,
    UnknownName,
    UsageError,
)
from aios.kernel.sealing import Sealing
from aios.rollout import BlueGreen, Canary
from aios.security import Caller
from aios.store.database import Database

DAN = Caller("dan", "approver")
ADMIN = Caller("root", "admin")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template: Path, tmp_path: Path) -> World:
    made = make_world(template, tmp_path)
    lay_stages(made)
    return made


@pytest.fixture
def asked(world: World) -> World:
    """A world in which the version loan:4 waits for an approval."""
    govern(world)
    assert run(world)["status"] == "registered"
    return world


def approve(world: World, caller: Caller = BOB, subject: str = "loan:4") -> Any:
    return world.ask(caller, "approve", subject=subject, reason="looked at it")


# -- approvals of versions ----------------------------------------------------------------


def test_a_yes_of_somebody_else_lets_a_version_serve(asked: World) -> None:
    with pytest.raises(NotApproved, match="loan:4 may not become stable"):
        asked.rollout(version="loan:4")
    found = approve(asked)
    assert [decision["by"] for decision in found["decisions"]] == ["bob"]
    assert asked.do("clearance", ref="loan:4")["allowed"]
    assert asked.do("approvals") == []
    assert asked.until(asked.rollout(version="loan:4"))["status"] == "promoted"
    (entry,) = asked.do("audit", limit=50, subject="loan:4")
    assert (entry["actor"], entry["action"]) == ("bob", "approved")
    assert entry["details"]["reason"] == "looked at it"


def test_nobody_answers_about_their_own(asked: World) -> None:
    for command in ("approve", "reject"):
        with pytest.raises(Forbidden, match="somebody else must"):
            asked.do(command, subject="loan:4", reason="mine is good")
    with pytest.raises(Forbidden, match="may not approve"):
        asked.ask(EVE, "approve", subject="loan:4", reason="I deploy")
    assert len(asked.do("approvals")) == 1


def test_what_a_rule_refuses_is_a_denied_attempt_too(asked: World) -> None:
    with pytest.raises(Forbidden):
        asked.do("approve", subject="loan:4", reason="mine")
    with pytest.raises(NotApproved):
        asked.rollout(version="loan:4")
    entries = asked.do("audit", limit=2, subject=None)
    assert [(one["action"], one["details"]["command"]) for one in entries] == [
        ("denied", "start_rollout"),
        ("denied", "approve"),
    ]
    assert "may not answer about it" in entries[1]["details"]["why"]
    assert "may not become stable" in entries[0]["details"]["why"]


def test_who_asked_for_the_assessment_may_not_answer_either(world: World) -> None:
    govern(world)
    assessing = world.ask(ADMIN, "start_run", spec=spec(assesses="loan:2"))["id"]
    world.flows.carry_out(assessing)
    with pytest.raises(Forbidden, match="asked for the approval"):
        approve(world, ADMIN, "loan:2")
    approve(world, BOB, "loan:2")
    assert world.do("clearance", ref="loan:2")["allowed"]


def test_an_answer_needs_a_reason_and_is_given_once(asked: World) -> None:
    for reason in ("", "  \n"):
        with pytest.raises(UsageError, match="give a reason"):
            asked.ask(BOB, "approve", subject="loan:4", reason=reason)
    approve(asked)
    with pytest.raises(IllegalTransition, match="approved and takes no more answers"):
        approve(asked, DAN)
    with pytest.raises(UnknownName, match="no approval of 'loan:3' was asked for"):
        approve(asked, subject="loan:3")


def test_a_no_is_final(asked: World) -> None:
    asked.ask(BOB, "reject", subject="loan:4", reason="old data")
    with pytest.raises(IllegalTransition, match="rejected and takes no more answers"):
        approve(asked, DAN)
    with pytest.raises(NotApproved, match="reject"):
        asked.rollout(version="loan:4")


def test_an_expired_request_takes_no_answer_and_an_old_yes_lets_nothing_serve(
    asked: World,
) -> None:
    asked.clock.advance(3601)
    assert asked.do("approvals") == []
    with pytest.raises(IllegalTransition, match="expired and takes no more answers"):
        approve(asked)
    run(asked, assesses="loan:4")
    approve(asked)
    asked.clock.advance(3601)
    with pytest.raises(NotApproved, match="expired"):
        asked.rollout(version="loan:4")


@pytest.mark.parametrize("how", ["policy", "declared", "assessed"])
def test_what_is_void_takes_no_answer(asked: World, how: str) -> None:
    asked.clock.advance(1)
    if how == "policy":
        asked.do("set_policy", text=OTHER_POLICY)
    elif how == "declared":
        asked.do("declare", name="loan", use="credit", purpose="another one")
    else:
        lay_stages(asked, "artifact")
        run(asked, assesses="loan:4")
    with pytest.raises(IllegalTransition, match="void"):
        approve(asked)
    with pytest.raises(NotApproved):
        asked.rollout(version="loan:4")


def test_a_yes_to_one_version_is_none_to_the_next(asked: World) -> None:
    approve(asked)
    run(asked)
    with pytest.raises(NotApproved, match="loan:5"):
        asked.rollout(version="loan:5")
    approve(asked, subject="loan:5")
    assert asked.do("clearance", ref="loan:5")["allowed"]


# -- policy and prohibited uses -----------------------------------------------------------


def test_a_policy_that_cannot_be_read_is_refused_and_the_old_one_holds(world: World) -> None:
    before = world.do("policy")["digest"]
    for wrong, told in (
        (POLICY.replace("contract: {}", "horoscope: {}"), "no such gate"),
        (POLICY.replace("tier: high", "tier: higher"), "no tier 'higher'"),
        (POLICY.replace("approvals: 1", "approvals: -1"), "approvals"),
        ("{", "policy"),
        ("!!python/object:os.system {}", "policy"),
        ("", "policy"),
    ):
        with pytest.raises(UsageError, match=told):
            world.do("set_policy", text=wrong)
    assert world.do("policy")["digest"] == before
    with pytest.raises(Forbidden):
        world.ask(EVE, "set_policy", text=POLICY)
    assert world.do("set_policy", text=POLICY)["digest"] == world.do("policy")["digest"] != before


def test_a_prohibited_use_can_be_neither_declared_nor_trained_nor_registered(world: World) -> None:
    govern(world, "toy")
    with pytest.raises(UsageError, match=r"prohibited .*Article 5\(1\)\(c\)"):
        world.do("declare", name="loan", use="scoring_people")
    with pytest.raises(UsageError, match="knows no use 'loans'; known: credit"):
        world.do("declare", name="loan", use="loans")
    world.do("set_policy", text=POLICY.replace("toy: {tier: free}", "toy: {tier: forbidden}"))
    artifact = {"digest": "9" * 64, "engine": "onnx", "size_bytes": 10}
    with pytest.raises(UsageError, match="prohibited"):
        world.do("register", name="loan", artifact=artifact, contract=CONTRACT.to_json())
    with pytest.raises(UsageError, match="prohibited"):
        start(world)
    with pytest.raises(UsageError, match="prohibited"):
        start(world, assesses="loan:1")
    with pytest.raises(NotApproved, match="prohibited"):
        world.rollout(version="loan:2")
    world.do("break_glass", name="loan", reason="an outage")
    with pytest.raises(NotApproved, match="prohibited"):
        world.rollout(version="loan:2")
    assert versions(world) == 3
    assert world.do("runs") == []


# -- broken glass -------------------------------------------------------------------------


def test_broken_glass_lets_a_model_serve_for_a_quarter_of_an_hour(asked: World) -> None:
    for caller in (BOB, EVE):
        with pytest.raises(Forbidden, match="admin"):
            asked.ask(caller, "break_glass", name="loan", reason="I want to")
    for wrong in (" ", ""):
        with pytest.raises(UsageError, match="give a reason"):
            asked.do("break_glass", name="loan", reason=wrong)
    with pytest.raises(UsageError, match="lasts_s"):
        asked.do("break_glass", name="loan", reason="long", lasts_s=901)
    with pytest.raises(UnknownModel):
        asked.do("break_glass", name="lone", reason="no such model")
    broken = asked.do("break_glass", name="loan", reason="stable answers wrongly")
    assert asked.do("status")["broken_glass"] == [broken]
    assert broken["until_s"] - broken["from_s"] == 900
    asked.clock.advance(899)
    assert asked.do("clearance", ref="loan:4")["cleared_by"] == {"break_glass": broken["id"]}
    asked.clock.advance(2)
    assert asked.do("status")["broken_glass"] == []
    with pytest.raises(NotApproved):
        asked.rollout(version="loan:4")
    asked.do("break_glass", name="loan", reason="again")
    assert asked.until(asked.rollout(version="loan:4"))["status"] == "promoted"
    serving = asked.do("history", endpoint="loan")[-1]
    assert list(serving["cleared_by"]) == ["break_glass"]
    actions = [entry["action"] for entry in asked.do("audit", limit=100, subject="loan")]
    assert actions.count("break_glass") == 2
    assert actions.count("denied") == 3, "two of a role, one of a missing approval"


def test_glass_that_is_whole_again_before_the_promotion_aborts_the_rollout(asked: World) -> None:
    asked.do("break_glass", name="loan", reason="quick", lasts_s=3)
    plan = Canary(steps=(0.2, 1.0), bake_s=8, abort_when=("errors worse",), no_data_s=4)
    rollout = asked.rollout(plan, "loan:4")
    view = asked.until(rollout)
    assert view["status"] == "aborted"
    assert "loan:4 may serve no longer" in view["reason"]
    assert asked.do("endpoint", name="loan")["version"] == 1


# -- rollouts -----------------------------------------------------------------------------

WAITING = Canary(
    steps=(0.1, 0.5, 1.0),
    bake_s=2,
    abort_when=("errors worse",),
    no_data_s=4,
    approve_before=(0.5, 1.0),
)


def weight(world: World) -> float:
    challenger = world.plan().challenger
    return 0.0 if challenger is None else challenger.weight_fraction


def until_asked(world: World, share: str) -> None:
    for _ in range(20):
        if any(one["subject"].endswith(share) for one in world.do("approvals")):
            return
        world.tick()
    pytest.fail(f"nobody was asked about {share}")


def test_a_rollout_asks_before_the_steps_that_were_named(world: World) -> None:
    rollout = world.rollout(WAITING)
    until_asked(world, "@0.5")
    (request,) = world.do("approvals")
    assert (request["subject"], request["author"]) == (f"{rollout}@0.5", "ann")
    for _ in range(10):
        world.tick()
    assert weight(world) == 0.1
    with pytest.raises(Forbidden):
        world.do("approve", subject=rollout, reason="mine")
    approve(world, BOB, rollout)
    world.tick()
    assert weight(world) == 0.5
    until_asked(world, "@1")
    world.do("command_rollout", id=rollout, command="promote", reason="now")
    world.tick(2)
    assert world.do("endpoint", name="loan")["version"] == 1
    approve(world, DAN, f"{rollout}@1")
    assert world.until(rollout)["status"] == "promoted"
    assert world.do("endpoint", name="loan")["version"] == 2


def test_a_no_takes_the_traffic_back(world: World) -> None:
    rollout = world.rollout(WAITING)
    until_asked(world, "@0.5")
    world.ask(BOB, "reject", subject=rollout, reason="not before Monday")
    world.tick()
    view = world.until(rollout)
    assert view["status"] == "aborted"
    assert "bob: not before Monday" in view["reason"]
    assert weight(world) == 0.0
    assert world.do("endpoint", name="loan")["version"] == 1


def test_an_answer_that_never_comes_takes_the_traffic_back(world: World) -> None:
    rollout = world.rollout(BlueGreen(bake_s=2, no_data_s=4, approve_before=(1.0,)))
    until_asked(world, "@1")
    world.clock.advance(8 * 86_400)
    view = world.until(rollout)
    assert (view["status"], weight(world)) == ("aborted", 0.0)
    assert "nobody answered in time" in view["reason"]


def test_a_restarted_kernel_keeps_waiting_and_asks_once(world: World) -> None:
    rollout = world.rollout(WAITING)
    until_asked(world, "@0.5")
    world.restart()
    for _ in range(10):
        world.tick()
    assert (weight(world), len(world.do("approvals"))) == (0.1, 1)
    approve(world, BOB, rollout)
    world.tick(2)
    assert weight(world) == 0.5


def test_a_policy_that_changes_during_a_rollout_stops_the_promotion(asked: World) -> None:
    approve(asked)
    rollout = asked.rollout(version="loan:4")
    asked.tick()
    asked.do("set_policy", text=OTHER_POLICY)
    view = asked.until(rollout)
    assert view["status"] == "aborted"
    assert "the policy has changed since loan:4 was assessed" in view["reason"]
    assert weight(asked) == 0.0
    assert asked.do("endpoint", name="loan")["version"] == 1
    assert asked.kernel.registry.verify_audit() is None


def test_a_rollback_needs_nobodys_leave(asked: World) -> None:
    approve(asked)
    assert asked.until(asked.rollout(version="loan:4"))["status"] == "promoted"
    asked.do("set_policy", text=OTHER_POLICY)
    operator = Caller("olga", "operator")
    assert asked.ask(operator, "rollback", endpoint="loan", reason="wrong")["version"] == 1
    causes = [(one["version"], one["cause"]) for one in asked.do("history", endpoint="loan")]
    assert causes == [(1, "deploy"), (4, "rollout"), (1, "rollback")]


# -- what is asked about it all -----------------------------------------------------------


def test_what_served_at_a_time_can_be_asked(asked: World) -> None:
    approve(asked)
    before_s = asked.clock.now_s()
    asked.until(asked.rollout(version="loan:4"))
    (then,) = asked.do("history", endpoint="loan", at_s=before_s)
    (now,) = asked.do("history", endpoint="loan", at_s=asked.clock.now_s())
    assert (then["version"], now["version"]) == (1, 4)
    assert asked.do("history", endpoint="loan", at_s=1.0) == []


def test_questions_about_what_is_not_there_are_answered_clearly(world: World) -> None:
    with pytest.raises(UnknownName, match=r"loan:1 was never assessed; run rt\.assess"):
        world.do("assessment", ref="loan:1")
    with pytest.raises(UnknownModel):
        world.do("clearance", ref="lone:1")
    with pytest.raises(UnknownName, match="no training run"):
        world.do("run", id="none")
    assert world.do("profile", name="lone")["use"] == "undeclared"
    assert world.kernel.execute("clearance", {"ref": "loan:1"}, ANN, None)["allowed"]


# -- sealing ------------------------------------------------------------------------------


def test_the_audit_log_is_sealed_and_proven(asked: World) -> None:
    verdict = asked.do("audit_verify")
    assert verdict["sound"] is True
    assert asked.do("status")["problem"] is None


def test_sealing_goes_on_after_a_full_disk_and_status_tells(world: World) -> None:
    sealing = Sealing(world.settings, Database(world.settings.store_url), world.clock)
    problems: list[str | None] = []
    for error in (StoreUnavailable("the disk is full"), OSError("input/output error"), None):

        def seal(error: Exception | None = error) -> int:
            if error is not None:
                raise error
            return 0

        sealing._try(seal)
        problems.append(sealing.problem)
    assert problems == [
        "the disk is full",
        "sealing failed: OSError: input/output error",
        None,
    ]
