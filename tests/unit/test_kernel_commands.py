"""Commands are carried out once, refused with a reason, and never end in a traceback."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_fakes import CONTRACT, NARROW, QUICK, FakeFlows, World, make_template, make_world

from aios.errors import (
    AiosError,
    IllegalTransition,
    StoreUnavailable,
    UnknownEndpoint,
    UnknownModel,
    UnknownName,
    UnknownRollout,
    UsageError,
)
from aios.rollout import Shadow

PLAN = QUICK.model_dump(mode="json")
ARTIFACT = {"digest": "f" * 64, "engine": "onnx", "size_bytes": 10}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template: Path, tmp_path: Path) -> World:
    return make_world(template, tmp_path)


def audited(world: World) -> int:
    return len(world.kernel.registry.audit(limit=1000))


def repeated(world: World, command: str, /, **arguments: Any) -> Any:
    """The result of a command given three times, once after a restart of the kernel."""
    first = world.do(command, "op-1", **arguments)
    entries = audited(world)
    assert world.do(command, "op-1", **arguments) == first
    world.restart()
    world.tick()
    assert world.do(command, "op-1", **arguments) == first
    assert audited(world) == entries
    assert world.kernel.registry.verify_audit() is None
    return first


def test_a_repeated_registration_makes_one_version(world: World) -> None:
    made = repeated(world, "register", name="other", artifact=ARTIFACT, contract=CONTRACT.to_json())
    assert made["version"] == 1
    assert [version["version"] for version in world.do("models", name="other")] == [1]


def test_a_repeated_deployment_publishes_one_plan(world: World) -> None:
    spec = {"name": "second", "deadline_s": 0.5}
    repeated(world, "deploy", version="loan:2", spec=spec)
    assert [plan["revision"] for plan in world.do("plans", endpoint="second")] == [1]


def test_a_repeated_removal_is_no_unknown_endpoint(world: World) -> None:
    assert repeated(world, "remove", name="loan") == {"name": "loan"}
    assert world.do("endpoints") == []


def test_who_puts_load_on_an_endpoint_is_in_the_audit_log(world: World) -> None:
    assert repeated(world, "measure", name="loan") == {"endpoint": "loan", "version": "loan:1"}
    entry = world.kernel.registry.audit(limit=1)[0]
    assert (entry.action, entry.actor, entry.subject) == ("measure", "ann", "loan")
    assert entry.details["version"] == "loan:1"


def test_a_repeated_rollback_goes_back_once(world: World) -> None:
    world.until(world.rollout())
    assert repeated(world, "rollback", endpoint="loan", reason="no")["version"] == 1
    assert world.do("endpoint", name="loan")["version"] == 1


def test_a_repeated_start_gives_the_same_rollout_even_when_it_is_over(world: World) -> None:
    request = {"endpoint": "loan", "version": "loan:2", "plan": PLAN}
    first = world.do("start_rollout", "op-1", **request)
    assert world.do("start_rollout", "op-1", **request) == first
    assert world.until(first["id"])["status"] == "promoted"
    assert world.do("start_rollout", "op-1", **request) == first
    assert len(world.do("rollouts")) == 1


def test_a_repeated_command_to_a_rollout_is_carried_out_once(world: World) -> None:
    rollout = world.rollout()
    world.tick()
    request = {"id": rollout, "command": "abort", "reason": "lunch"}
    assert repeated(world, "command_rollout", **request)["id"] == rollout
    assert world.do("rollout", id=rollout)["reason"] == "ann: lunch"


def test_an_operation_id_is_good_for_one_request_only(world: World) -> None:
    spec = {"name": "second"}
    world.do("deploy", "op-1", version="loan:2", spec=spec)
    with pytest.raises(UsageError, match="used for another request"):
        world.do("deploy", "op-1", version="loan:2", spec={**spec, "deadline_s": 3})
    other = {**ARTIFACT, "digest": "e" * 64}
    world.do("register", "op-2", name="x", artifact=ARTIFACT, contract=CONTRACT.to_json())
    with pytest.raises(UsageError, match="used for another request"):
        world.do("register", "op-2", name="x", artifact=other, contract=CONTRACT.to_json())


def test_a_start_whose_flow_was_not_stored_is_mended_by_its_repetition(world: World) -> None:
    class Away(FakeFlows):
        def start(self, flow: Any, *arguments: Any, flow_id: str) -> None:
            if self.launched:
                return super().start(flow, *arguments, flow_id=flow_id)
            raise StoreUnavailable("the flows' store is away")

    flows = Away()
    world.restart(flows)
    request = {"endpoint": "loan", "version": "loan:2", "plan": PLAN}
    with pytest.raises(StoreUnavailable):
        world.do("start_rollout", "op-1", **request)
    flows.launch()
    started = world.do("start_rollout", "op-1", **request)
    assert flows.started == [started["id"]]
    assert len(world.do("rollouts")) == 1


def test_a_second_rollout_on_one_endpoint_is_refused(world: World) -> None:
    first = world.rollout()
    with pytest.raises(IllegalTransition, match=f"{first}.*abort it"):
        world.rollout(version="loan:3")
    assert world.flows.started == [first]


def test_another_version_on_a_running_endpoint_is_a_rollouts_work(world: World) -> None:
    with pytest.raises(IllegalTransition, match=r'rt.rollout\("loan", "loan:2", aios.Canary'):
        world.deploy("loan:2")
    world.register("churn")
    with pytest.raises(IllegalTransition, match="serves loan:1"):
        world.deploy("churn:1")
    assert world.do("endpoint", name="loan")["version"] == 1


def test_a_spec_can_change_but_not_during_a_rollout(world: World) -> None:
    world.deploy("loan:1", deadline_s=0.25)
    assert world.plan().spec.deadline_s == 0.25
    world.rollout()
    with pytest.raises(IllegalTransition, match="a rollout runs"):
        world.deploy("loan:1", deadline_s=0.5)


def test_there_must_be_something_to_roll_back_to(world: World) -> None:
    with pytest.raises(IllegalTransition, match=r"serves version 1 and has no promotion to undo"):
        world.do("rollback", endpoint="loan")


def test_rollback_undoes_the_last_promotion(world: World) -> None:
    world.until(world.rollout())
    assert world.do("rollback", endpoint="loan", reason="odd scores")["version"] == 1
    world.tick()
    assert world.plan().stable.version == 1
    assert world.alias() == 1
    assert world.do("audit", limit=1)[0]["details"]["reason"] == "odd scores"


def test_a_second_rollback_does_not_bring_the_bad_version_back(world: World) -> None:
    world.until(world.rollout())
    assert world.do("rollback", endpoint="loan")["version"] == 1
    with pytest.raises(IllegalTransition, match="no promotion to undo"):
        world.do("rollback", endpoint="loan")
    assert world.plan().stable.version == 1


@pytest.mark.parametrize("outputs", [{"rep": 0.0}, {"approve": "much"}, {}])
def test_a_default_that_the_contract_forbids_is_refused_at_once(
    world: World, outputs: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="does not fit the outputs of loan"):
        world.deploy(fallback=[{"kind": "default", "outputs": outputs}])


def test_rollback_while_a_rollout_runs_aborts_it(world: World) -> None:
    rollout = world.rollout()
    world.until(rollout, stage="canary 20%")
    assert world.do("rollback", endpoint="loan", reason="calls")["version"] == 1
    view = world.do("rollout", id=rollout)
    assert (view["status"], view["reason"]) == ("aborted", "ann: calls")
    world.tick()
    assert world.plan().challenger is None


def test_rollback_during_the_promotion_tells_the_version_that_users_get(world: World) -> None:
    rollout = world.rollout()
    world.until(rollout, stage="promoting")
    assert world.plan().stable.version == 2
    assert world.do("rollback", endpoint="loan")["version"] == 1
    world.tick()
    assert world.plan().stable.version == 1
    assert world.alias() == 1


def test_an_endpoint_cannot_be_removed_during_a_rollout(world: World) -> None:
    rollout = world.rollout()
    with pytest.raises(IllegalTransition, match=f"{rollout}.*cannot be removed"):
        world.do("remove", name="loan")
    world.do("command_rollout", id=rollout, command="abort")
    world.do("remove", name="loan")
    world.tick()
    assert list(world.serve.apps) == ["aios--api", *world.serve.challengers]


def test_a_narrower_contract_is_refused_by_field(world: World) -> None:
    world.register(contract=NARROW)
    with pytest.raises(UsageError, match=r"loan:4 cannot replace loan:1.*\ba\b"):
        world.rollout(version="loan:4")


def test_unfit_versions_and_plans_are_refused(world: World) -> None:
    world.register("churn")
    with pytest.raises(UsageError, match="serves the model 'loan'; churn:1 is another model"):
        world.rollout(version="churn:1")
    with pytest.raises(UsageError, match="loan:1 is the stable version"):
        world.rollout(version="loan:1")
    start = {"endpoint": "loan", "version": "loan:2"}
    with pytest.raises(UsageError, match="nothing can stop"):
        world.do("start_rollout", **start, plan={**PLAN, "abort_when": []})
    with pytest.raises(UsageError, match="kinds are canary, blue_green and shadow"):
        world.do("start_rollout", **start, plan={"kind": "yolo"})
    assert world.do("rollouts") == []


def test_a_shadow_is_never_promoted_and_an_ended_rollout_takes_no_command(world: World) -> None:
    rollout = world.rollout(Shadow(5))
    promote = {"id": rollout, "command": "promote"}
    with pytest.raises(IllegalTransition, match="never promoted"):
        world.do("command_rollout", **promote)
    world.do("command_rollout", id=rollout, command="abort", reason="x")
    with pytest.raises(IllegalTransition, match="has ended: aborted"):
        world.do("command_rollout", **promote)


def test_unknown_names_list_what_exists(world: World) -> None:
    rollout = world.rollout()
    for command, arguments, error, told in (
        ("endpoint", {"name": "frod"}, UnknownEndpoint, "deployed: loan"),
        ("plans", {"endpoint": "frod"}, UnknownEndpoint, "deployed: loan"),
        ("remove", {"name": "frod"}, UnknownEndpoint, "deployed: loan"),
        ("rollback", {"endpoint": "frod"}, UnknownEndpoint, "deployed: loan"),
        ("rollouts", {"endpoint": "frod"}, UnknownEndpoint, "deployed: loan"),
        ("feedback", {"endpoint": "frod", "answers": []}, UnknownEndpoint, "deployed: loan"),
        ("model", {"ref": "lone:1"}, UnknownModel, "registered: loan"),
        ("model", {"ref": "loan:9"}, UnknownModel, "1 to 3"),
        ("models", {"name": "lone"}, UnknownModel, "registered: loan"),
        ("rollout", {"id": "r"}, UnknownRollout, rollout),
        ("evidence", {"id": "r"}, UnknownRollout, rollout),
        ("command_rollout", {"id": "r", "command": "abort"}, UnknownRollout, rollout),
        ("frobnicate", {}, UnknownName, "there are: add_key, agent, "),
    ):
        with pytest.raises(error, match=told):
            world.do(command, **arguments)


VALID: dict[str, dict[str, Any]] = {
    "register": {"name": "m", "artifact": ARTIFACT, "contract": CONTRACT.to_json()},
    "deploy": {"version": "loan:1", "spec": {"name": "loan"}},
    "remove": {"name": "nothing"},
    "start_rollout": {"endpoint": "loan", "version": "loan:2", "plan": PLAN},
    "command_rollout": {"id": "r", "command": "abort"},
    "rollback": {"endpoint": "loan"},
    "measure": {"name": "loan"},
    "models": {},
    "model": {"ref": "loan:1"},
    "endpoints": {},
    "endpoint": {"name": "loan"},
    "rollouts": {},
    "rollout": {"id": "r"},
    "evidence": {"id": "r"},
    "series": {"endpoint": "loan"},
    "plans": {"endpoint": "loan"},
    "audit": {"limit": 1},
    "status": {},
    "ps": {},
    "metrics": {},
    "feedback": {"endpoint": "loan", "answers": [{"request_id": "a", "arm": "stable", "kpi": 1}]},
}


@pytest.fixture(scope="module")
def fuzzed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(template, tmp_path_factory.mktemp("fuzzed"))


@pytest.mark.parametrize("command", VALID)
def test_missing_and_unexpected_arguments_are_named(fuzzed: World, command: str) -> None:
    with pytest.raises(UsageError, match=f"{command}: surprise: Extra inputs"):
        fuzzed.do(command, **VALID[command], surprise=1)
    optional = {"audit", "models", "rollouts"}
    for name in [] if command in optional else VALID[command]:
        rest = {key: value for key, value in VALID[command].items() if key != name}
        with pytest.raises(UsageError, match=f"{command}: {name}: Field required"):
            fuzzed.do(command, **rest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "name", "steps", "a"]) | st.text(), inner, max_size=3
        )
    ),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A valid call with one value, at any depth, replaced by any JSON."""
    command = draw(st.sampled_from([name for name in VALID if VALID[name]]))
    arguments = {**VALID[command]}
    at: dict[str, Any] = arguments
    while True:
        name = draw(st.sampled_from(sorted(at)))
        if isinstance(at[name], dict) and draw(st.booleans()):
            at[name] = at = {**at[name]}
            continue
        at[name] = draw(JSON)
        return command, arguments


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(call=mutated())
def test_no_arguments_end_in_a_traceback(fuzzed: World, call: tuple[str, dict[str, Any]]) -> None:
    command, arguments = call
    with suppress(AiosError):
        fuzzed.do(command, **arguments)
