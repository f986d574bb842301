"""Training runs end to end in the kernel: a fake workbench, a real store, virtual time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from kernel_fakes import NARROW, QUICK, FakeFlows, World, make_template, make_world
from run_worlds import (
    BOB,
    EVE,
    OTHER_POLICY,
    POLICY,
    carried_out,
    govern,
    lay_stages,
    rolling,
    run,
    spec,
    stages_of,
    start,
    versions,
)

from aios.errors import (
    AiosError,
    ClusterUnavailable,
    IllegalTransition,
    ModelFailed,
    NotApproved,
    UnknownEndpoint,
    UnknownModel,
    UsageError,
)
from aios.flows import FlowInterrupted
from aios.records import TrainingRun

STAGES = ("snapshot", "split", "search", "refit", "assess", "track")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template: Path, tmp_path: Path) -> World:
    made = make_world(template, tmp_path)
    made.do("add_key", identity="ann", role="deployer")
    lay_stages(made)
    return made


def untouched(world: World) -> None:
    """Nothing of a run is in the registry."""
    assert versions(world) == 3
    assert world.do("approvals") == []
    assert world.kernel.registry.verify_audit() is None


def audited(world: World, action: str) -> list[dict[str, Any]]:
    entries = world.do("audit", limit=1000, subject="loan")
    return [entry for entry in entries if entry["action"] == action]


def test_a_run_goes_through_its_stages_and_registers_all_at_once(world: World) -> None:
    govern(world)
    view = run(world, tracking_uri="http://tracker")
    assert stages_of(world) == ["snapshot", "split", "search", "refit", "assess", "track"]
    assert (view["status"], view["version"], view["error"]) == ("registered", 4, None)
    assert view["done"] == view["stages"]
    version = world.do("model", ref="loan:4")
    assert (version["metrics"], version["created_by"]) == ({"auc": 0.8}, "ann")
    assert version["lineage"]["run"] == view["id"]
    assessment = world.do("assessment", ref="loan:4")
    assert [result["gate"] for result in assessment["results"]] == ["artifact", "contract"]
    assert assessment["card"] == "# loan:4"
    snapshot = world.kernel.registry.snapshot(assessment["snapshot_digest"])
    assert snapshot.rows == 100
    (request,) = world.do("approvals")
    assert (request["subject"], request["digest"]) == ("loan:4", assessment["digest"])
    (entry,) = audited(world, "register")[:1]
    told = entry["details"]
    assert (told["version"], told["assessment"]) == (4, assessment["digest"])
    assert told["request"] == request["id"]


def test_gates_are_run_against_what_is_declared_and_what_serves(world: World) -> None:
    govern(world)
    run(world)
    (told,) = [told for stage, told in world.bench.asked if stage == "assess"]
    assert told["policy"]["tier"] == "high"
    assert list(told["gates"]) == ["artifact", "contract"]
    assert told["profile"]["use"] == "credit"
    assert told["stable"]["ref"] == "loan:1"
    assert told["by"] == "ann"


def test_a_version_whose_gates_failed_is_kept_and_cannot_serve(world: World) -> None:
    govern(world)
    lay_stages(world, "artifact")
    view = run(world, rollout=rolling())
    assert (view["status"], view["version"], view["rollout"]) == ("refused", 4, None)
    assert world.do("approvals") == []
    with pytest.raises(NotApproved, match=r"gate artifact failed \(as laid\)"):
        world.rollout(version="loan:4")
    with pytest.raises(NotApproved, match="gate artifact failed"):
        world.do("deploy", version="loan:4", spec={"name": "other"})
    missing = world.do("clearance", ref="loan:4")["missing"]
    assert any("gate artifact" in one for one in missing)
    assert world.do("endpoint", name="loan")["version"] == 1


def test_undeclared_models_need_nobodys_yes(world: World) -> None:
    view = run(world, rollout=rolling())
    assert view["status"] == "registered"
    assert world.do("approvals") == []
    assert world.until(view["rollout"])["status"] == "promoted"
    assert world.do("endpoint", name="loan")["version"] == 4


def test_the_rollout_of_a_run_begins_when_somebody_says_yes(world: World) -> None:
    govern(world)
    started = start(world, rollout=rolling())
    with carried_out(world, started, "waiting for approval"):
        assert world.do("run", id=started)["version"] == 4
        assert world.do("rollouts") == []
        world.ask(BOB, "approve", subject="loan:4", reason="looked at the card")
    view = world.do("run", id=started)
    assert view["status"] == "registered"
    rollout = world.until(view["rollout"])
    assert (rollout["status"], rollout["created_by"]) == ("promoted", "ann")
    (now,) = world.do("history", endpoint="loan")[-1:]
    assert now["version"] == 4
    assert now["cleared_by"]["approvers"] == ["bob"]


@pytest.mark.parametrize("how", ["rejected", "expired", "policy", "declared", "assessed"])
def test_no_rollout_begins_without_the_yes(world: World, how: str) -> None:
    govern(world)
    started = start(world, rollout=rolling())
    reasons = {"policy": "the policy changed", "declared": "declared anew", "assessed": "again"}
    with carried_out(world, started, "waiting for approval"):
        if how == "rejected":
            world.ask(BOB, "reject", subject="loan:4", reason="too old data")
        elif how == "policy":
            world.do("set_policy", text=OTHER_POLICY)
        elif how == "expired":
            world.clock.advance(3601)
        elif how == "declared":
            world.clock.advance(1)
            world.do("declare", name="loan", use="credit", purpose="something else")
        else:
            lay_stages(world, "artifact")
            run(world, assesses="loan:4")
        world.kernel.runs.wake()
    view = world.do("run", id=started)
    assert (view["status"], view["rollout"]) == ("registered", None)
    assert world.do("rollouts") == []
    told = world.kernel.registry.run(started).results["rollout"]["reason"]
    assert reasons.get(how, how) in told


def test_a_policy_that_changes_between_assessing_and_registering_asks_nobody(world: World) -> None:
    govern(world)
    gives = world.bench.gives["assess"]

    def changed(told: dict[str, Any]) -> Any:
        world.do("set_policy", text=OTHER_POLICY)
        return gives(told)

    world.bench.gives["assess"] = changed
    view = run(world, rollout=rolling())
    assert (view["status"], view["version"], view["rollout"]) == ("registered", 4, None)
    assert world.do("approvals") == []
    assert "policy" in world.kernel.registry.run(view["id"]).results["rollout"]["error"]


def test_an_error_in_a_stage_ends_the_run_and_names_the_stage(world: World) -> None:
    for stage in STAGES[:-1]:
        gives, world.bench.gives[stage] = world.bench.gives[stage], UsageError("no column income")
        view = run(world)
        assert (view["status"], view["stage"]) == ("failed", stage)
        assert view["error"] == f"{stage}: no column income"
        assert stages_of(world)[-1] == stage
        assert audited(world, "end_run")[0]["details"]["error"] == view["error"]
        world.bench.gives[stage] = gives
    untouched(world)


def test_an_error_that_nobody_foresaw_ends_the_run_too(world: World) -> None:
    world.bench.gives["refit"] = KeyError("artifact")
    view = run(world)
    assert view["status"] == "failed"
    assert view["error"].startswith("refit: unexpected KeyError: 'artifact'")
    world.bench.gives["refit"] = {"artifact": "is no artifact"}
    assert run(world)["error"].startswith("register: ")
    untouched(world)


def test_what_goes_wrong_after_the_version_exists_fails_no_run(world: World) -> None:
    for error in (ModelFailed("the tracker said no"), RuntimeError("no route")):
        world.bench.gives["track"] = error
        view = run(world, tracking_uri="http://tracker")
        assert view["status"] == "registered"
        assert view["error"].startswith("track: ")
        told = world.kernel.registry.run(view["id"]).results["track"]["error"]
        assert str(error.args[0]) in told
    assert versions(world) == 5


def failing(world: World, count: int, result: Any) -> Any:
    """A stage that fails `count` times with what may pass; nobody waits between them."""
    left = [ClusterUnavailable("no node answers")] * count

    def stage(told: dict[str, Any]) -> Any:
        world.kernel.runs.wake()
        return left.pop() if left else result

    return stage


def test_a_stage_is_begun_again_after_an_error_that_passes(world: World) -> None:
    world.bench.gives["refit"] = failing(world, 5, world.bench.gives["refit"])
    assert run(world)["status"] == "registered"
    assert stages_of(world).count("refit") == 6
    assert stages_of(world).count("search") == 1
    assert versions(world) == 4


def test_an_error_that_does_not_pass_ends_the_run(world: World) -> None:
    world.bench.gives["split"] = failing(world, 100, {})
    assert run(world)["error"] == "split: no node answers"
    assert stages_of(world).count("split") == 6
    untouched(world)


@contextmanager
def full_disk(world: World, statement: str, count: int) -> Iterator[list[str]]:
    """SQLite finds no room for this statement, so many times; the list has one item for each."""
    met: list[str] = []

    def limit(conn: Any, _cursor: Any, text: str, *_rest: Any) -> None:
        if text.startswith(statement):
            pages = 1 if len(met) < count else 2**30
            met.append(text)
            conn.connection.cursor().execute(f"PRAGMA max_page_count={pages}")
            world.kernel.runs.wake()

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", limit)
    try:
        yield met
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", limit)


def test_a_full_disk_while_registering_leaves_nothing_half_done(world: World) -> None:
    govern(world)
    lay_stages(world, card="evidence " * 100_000)
    before = versions(world)
    started = start(world)
    seen: list[int] = []
    with full_disk(world, "INSERT INTO assessments", 8) as met:
        world.bench.gives["track"] = {}
        thread = threading.Thread(target=world.flows.carry_out, args=(started,), daemon=True)
        while len(met) < 9:
            if not thread.is_alive() and not met:
                thread.start()
            seen.append(versions(world))
            world.kernel.runs.wake()
        thread.join(10)
    view = world.do("run", id=started)
    assert (view["status"], view["version"]) == ("registered", 4)
    assert set(seen[:-1]) <= {before, before + 1}
    assert versions(world) == before + 1
    assert len(world.do("approvals")) == 1
    assert world.kernel.registry.verify_audit() is None


def test_a_run_that_is_cancelled_in_a_stage_registers_nothing(world: World) -> None:
    def cancelled(told: dict[str, Any]) -> Any:
        world.do("cancel_run", id=started)
        return gives(told) if callable(gives) else gives

    for stage in STAGES[:-1]:
        started = start(world)
        gives = world.bench.gives[stage]
        world.bench.gives[stage] = cancelled
        assert world.flows.carry_out(started) == "cancelled"
        world.bench.gives[stage] = gives
        view = world.do("run", id=started)
        assert (view["status"], view["error"]) == ("cancelled", "cancelled by ann")
        assert world.bench.cancelled[-1] == started
        assert stages_of(world)[-1] == stage
        with pytest.raises(IllegalTransition, match="has ended"):
            world.do("cancel_run", id=started)
    untouched(world)


def test_a_result_that_cannot_be_kept_ends_the_run_and_is_not_made_again(world: World) -> None:
    world.bench.gives["refit"] = {**world.bench.gives["refit"], "metrics": {"auc": float("nan")}}
    view = run(world)
    assert view["status"] == "failed"
    assert "refit" in view["error"]
    assert stages_of(world).count("refit") == 1
    untouched(world)


def test_the_process_of_a_run_is_given_back_however_it_ends(world: World) -> None:
    done = start(world)
    world.flows.carry_out(done)
    world.bench.gives["search"] = UsageError("no")
    failed = start(world)
    world.flows.carry_out(failed)
    assert world.bench.released == [done, failed]


def test_a_run_that_is_cancelled_as_it_begins_to_register_registers_nothing(world: World) -> None:
    started = start(world)

    def cancel(conn: Any, _cursor: Any, text: str, parameters: Any, *_rest: Any) -> None:
        if text.startswith("UPDATE runs") and "register" in parameters:
            sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", cancel)
            worker = threading.Thread(target=lambda: world.do("cancel_run", id=started))
            workers.append(worker)
            worker.start()

    workers: list[threading.Thread] = []
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", cancel)
    world.flows.carry_out(started)
    workers[0].join(10)
    view = world.do("run", id=started)
    # Either came first; never a cancelled run with a version.
    assert (view["status"], versions(world)) in (("cancelled", 3), ("registered", 4))


def test_a_run_that_waits_for_people_can_be_cancelled_and_its_version_stays(world: World) -> None:
    govern(world)
    started = start(world, rollout=rolling())
    with carried_out(world, started, "waiting for approval"):
        world.do("cancel_run", id=started)
    view = world.do("run", id=started)
    assert (view["status"], view["version"]) == ("cancelled", 4)
    world.ask(BOB, "approve", subject="loan:4", reason="fine")
    assert world.do("rollouts") == []


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed_at(statement: str, having: str = "") -> Iterator[None]:
    """The process ends as it is about to write this."""

    def kill(conn: Any, _cursor: Any, text: str, parameters: Any, *_rest: Any) -> None:
        if text.startswith(statement) and having in str(parameters):
            raise Killed

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", kill)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", kill)


def test_a_kernel_killed_at_every_stage_goes_on_there_and_registers_once(world: World) -> None:
    govern(world)
    started = start(world, tracking_uri="http://tracker")
    for stage in STAGES:
        # Once before it has given its result, and once before that is on disk.
        gives = world.bench.gives[stage]
        world.bench.gives[stage] = killing
        with pytest.raises(Killed):
            world.flows.carry_out(started)
        world.bench.gives[stage] = gives
        for _ in range(2):
            world.restart()
            assert world.flows.started == []
            world.kernel.runs.start()
            assert world.flows.started == [started]
            if _ == 0:
                with killed_at("UPDATE runs", f'"{stage}":'):
                    world.flows.carry_out(started)
    world.flows.carry_out(started)
    view = world.do("run", id=started)
    assert (view["status"], view["version"]) == ("registered", 4)
    assert stages_of(world) == [stage for stage in STAGES for _ in range(3)]
    registered_once(world)


def killing(told: dict[str, Any]) -> Any:
    raise Killed


def test_a_kernel_killed_in_the_middle_of_registering_registers_once(world: World) -> None:
    govern(world)
    started = start(world)
    tables = ("snapshots", "versions", "assessments", "approvals", "audit", "operations")
    for table in tables:
        with killed_at(f"INSERT INTO {table} "):
            world.flows.carry_out(started)
        assert versions(world) == 3
        world.restart()
        world.kernel.runs.start()
    world.flows.carry_out(started)
    assert world.do("run", id=started)["version"] == 4
    registered_once(world)


def registered_once(world: World) -> None:
    assert versions(world) == 4
    assert len(world.do("approvals")) == 1
    assert len(audited(world, "register")) == 4
    assert world.kernel.registry.verify_audit() is None


def test_a_restarted_kernel_goes_on_waiting_for_people(world: World) -> None:
    govern(world)
    started = start(world, rollout=rolling())
    with carried_out(world, started, "waiting for approval"):
        world.kernel.runs.close()
    assert world.kernel.registry.run(started).status == "running"
    world.restart()
    world.kernel.runs.start()
    with carried_out(world, started, "waiting for approval"):
        world.ask(BOB, "approve", subject="loan:4", reason="fine")
    assert world.do("run", id=started)["rollout"] is not None
    assert versions(world) == 4


def test_a_closed_kernel_begins_no_stage(world: World) -> None:
    started = start(world)

    def closing(told: dict[str, Any]) -> Any:
        world.kernel.runs.close()
        return {"task": "binary"}

    world.bench.gives["split"] = closing
    with pytest.raises(FlowInterrupted):
        world.flows.carry_out(started)
    assert stages_of(world) == ["snapshot", "split"]
    found = world.kernel.registry.run(started)
    assert found.status == "running"
    assert set(found.results) == {"snapshot", "split"}


def test_a_stage_that_closing_ended_is_no_failure(world: World) -> None:
    started = start(world)

    def ended(told: dict[str, Any]) -> Any:
        world.kernel.runs.close()
        return IllegalTransition("cancelled in search")

    world.bench.gives["search"] = ended
    with pytest.raises(FlowInterrupted):
        world.flows.carry_out(started)
    assert world.kernel.registry.run(started).status == "running"


class LossyFlows(FakeFlows):
    """Loses the checkpoint of each stage, once."""

    def step(self, name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            if arguments not in lost:
                lost.append(arguments)
                for waiting in function.__self__._woken.values():
                    waiting.set()
                raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("disk full"))
            return result

        lost: list[Any] = []
        return call


def test_a_checkpoint_that_is_lost_costs_no_stage(world: World) -> None:
    world.restart(LossyFlows())
    assert run(world)["status"] == "registered"
    assert stages_of(world) == ["snapshot", "split", "search", "refit", "assess"]
    assert versions(world) == 4


def test_a_run_of_a_store_that_was_put_back_is_left_alone(world: World) -> None:
    started = start(world)
    with world.kernel._database.transaction() as connection:
        connection.execute(sqlalchemy.text("DELETE FROM runs"))
    assert world.flows.carry_out(started) == "unknown"


def test_a_run_whose_start_is_repeated_runs_once(world: World) -> None:
    first = start(world, "op-1")
    # The kernel died, or its disk was full, between the row and the flow.
    world.restart()
    assert start(world, "op-1") == first
    assert world.flows.started == [first]
    assert len(world.do("runs")) == 1


def test_assessing_a_version_trains_nothing_and_asks_for_approval(world: World) -> None:
    govern(world)
    world.do("declare", name="loan", use="credit")
    view = run(world, assesses="loan")
    assert stages_of(world) == ["snapshot", "split", "assess"]
    assert (view["status"], view["version"]) == ("registered", 3)
    assert versions(world) == 3
    assert world.do("assessment", ref="loan:3")["artifact_digest"] == f"{2:064x}"
    (request,) = world.do("approvals")
    world.ask(BOB, "approve", subject=request["subject"], reason="fine")
    assert world.do("clearance", ref="loan:3")["allowed"]


def test_the_version_to_assess_is_the_one_that_the_alias_stood_for_then(world: World) -> None:
    started = start(world, assesses="loan@stable")
    rollout = world.rollout(QUICK, "loan:2")
    assert world.until(rollout)["status"] == "promoted"
    world.flows.carry_out(started)
    view = world.do("run", id=started)
    assert (view["version"], world.alias()) == (1, 2)


def test_reproducing_registers_nothing(world: World) -> None:
    first = run(world, trials=3, rollout=rolling())
    again = world.do("reproduce", ref="loan:4")["id"]
    world.bench.asked.clear()
    world.flows.carry_out(again)
    assert stages_of(world) == ["snapshot", "split", "refit"]
    view = world.do("run", id=again)
    assert (view["status"], view["config"]) == ("finished", first["config"])
    assert world.do("reproduction", id=again)["verdict"] == "identical"
    assert versions(world) == 4
    with pytest.raises(UsageError, match="registered by hand"):
        world.do("reproduce", ref="loan:1")


def test_a_version_whose_lineage_names_a_wrong_run_cannot_be_reproduced(world: World) -> None:
    assessing = run(world, assesses="loan:1")
    artifact = {"digest": "9" * 64, "engine": "onnx", "size_bytes": 10}
    contract = spec()["contract"]
    for named in (assessing["id"], "loan-run-none"):
        world.do(
            "register", name="loan", artifact=artifact, contract=contract, lineage={"run": named}
        )
        with pytest.raises(UsageError, match="registered by hand and not made by a run"):
            world.do("reproduce", ref="loan")
    with pytest.raises(IllegalTransition, match="reproduced nothing"):
        world.do("reproduction", id=assessing["id"])


WRONG: list[tuple[dict[str, Any], type[AiosError], str]] = [
    ({"assesses": "loan:9"}, UnknownModel, "has no version 9"),
    ({"model": "other", "assesses": "loan:1"}, UsageError, "no version of the model other"),
    ({"rollout": {"endpoint": "loan"}}, UsageError, "endpoint's name and a plan"),
    ({"rollout": {"endpoint": "loan", "plan": {"kind": "odd"}}}, UsageError, "no rollout plan"),
    ({"rollout": {"endpoint": "loan", "plan": 3}}, UsageError, "no rollout plan"),
    ({"rollout": {**rolling(), "endpoint": "lone"}}, UnknownEndpoint, "lone"),
    ({"rollout": rolling(), "model": "other"}, UsageError, "serves the model 'loan'"),
    ({"rollout": rolling(), "contract": NARROW}, UsageError, "narrower"),
    ({"rollout": rolling(), "assesses": "loan:1"}, UsageError, "trains nothing new"),
]


def test_what_could_only_fail_later_is_refused_at_once(world: World) -> None:
    for fields, error, told in WRONG:
        with pytest.raises(error, match=told):
            start(world, **fields)
    assert world.do("runs") == []


def test_a_use_that_comes_to_be_prohibited_registers_nothing(world: World) -> None:
    govern(world)
    gives = world.bench.gives["assess"]

    def prohibited(told: dict[str, Any]) -> Any:
        world.do("set_policy", text=POLICY.replace("tier: high", "tier: forbidden"))
        return gives(told)

    world.bench.gives["assess"] = prohibited
    view = run(world)
    assert view["status"] == "failed"
    assert view["error"].startswith("register: the use 'credit' of model loan is prohibited")
    untouched(world)


def test_who_may_not_train_starts_no_run_and_an_operator_may_end_one(world: World) -> None:
    with pytest.raises(AiosError, match="may not start_run"):
        world.ask(BOB, "start_run", spec=spec())
    started = world.ask(EVE, "start_run", spec=spec())["id"]
    world.flows.carry_out(started)
    found = world.kernel.registry.run(started)
    assert isinstance(found, TrainingRun)
    assert found.created_by == "eve"
    assert world.do("model", ref="loan:4")["created_by"] == "eve"
