"""Serve is told what the registry says, only when that changed, and again until it took it."""

import threading
from pathlib import Path
from typing import Any

import pytest
from kernel_fakes import KEY, FakeServe, World, make_template, make_world

from aios.errors import ClusterUnavailable, UnknownEndpoint, UsageError
from aios.kernel.reconcile import Reconciler
from aios.kernel.rollouts import LINGER_S
from aios.kernel.serve_client import AppStatus, failure_reason
from aios.kernel.serve_config import challenger_app_name, challenger_of
from aios.records import Autoscale
from aios.records.cost import NodeSeen


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template: Path, tmp_path: Path) -> World:
    return make_world(template, tmp_path)


def test_the_same_state_gives_the_same_configuration_and_no_put(world: World) -> None:
    before = world.kernel.desired()
    puts = len(world.serve.puts)
    for _ in range(3):
        world.tick()
    assert world.kernel.desired() == before == world.serve.config
    assert len(world.serve.puts) == puts


def test_the_api_is_always_there_and_knows_the_key(world: World) -> None:
    world.do("remove", name="loan")
    world.tick()
    assert list(world.serve.apps) == ["aios--api"]
    (api,) = world.serve.apps["aios--api"]["deployments"]
    assert api["user_config"]["keys"] == {KEY[1]: [KEY[0], "admin"]}


def test_an_endpoint_gets_its_route_and_its_replicas_the_plan_with_the_keys(world: World) -> None:
    world.do(
        "deploy",
        version="loan:1",
        spec={"name": "loan", "replicas": {"min_replicas": 2, "max_replicas": 4}},
    )
    world.tick()
    app = world.serve.apps["loan"]
    assert app["route_prefix"] == "/v2/models/loan"
    assert world.plan().keys == (KEY[1],)
    assert world.plan().spec.replicas == Autoscale(2, 4)
    assert app["deployments"][0]["autoscaling_config"]["max_replicas"] == 4
    assert all("keys" not in plan for plan in world.do("plans", endpoint="loan"))


def test_replicas_get_a_gpu_and_threads_where_the_endpoint_wants_them(world: World) -> None:
    def options(name: str) -> dict[str, float]:
        found: dict[str, float] = world.serve.apps[name]["deployments"][0]["ray_actor_options"]
        return found

    world.tick()
    assert options("loan") == {"num_cpus": 0.1}
    world.do("deploy", version="loan:1", spec={"name": "loan", "gpus": 0.5, "threads": 3})
    world.rollout()
    world.tick()
    (challenger,) = (app for name, app in world.serve.apps.items() if name.startswith("loan--"))
    assert options("loan") == options(challenger["name"]) == {"num_cpus": 0.1, "num_gpus": 0.5}
    assert challenger["args"]["settings"]["threads"] == 3
    assert world.plan().spec.threads == 3
    for wrong in ({"gpus": 2}, {"gpus": -1}, {"threads": 0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            world.do("deploy", version="loan:1", spec={"name": "other", **wrong})


def test_a_gpu_that_no_node_has_is_refused_at_once_and_one_that_is_there_is_not(
    world: World,
) -> None:
    def deploy(gpus: float) -> None:
        world.do("deploy", version="loan:1", spec={"name": "loan", "gpus": gpus})

    for there, asked in ((0.0, 0.0), (1.0, 1.0)):
        world.kernel.metering.look([NodeSeen(id="n", cores=2.0, gpus=there)])
        deploy(asked)
    world.kernel.metering.look([NodeSeen(id="n", cores=2.0)])
    with pytest.raises(UsageError, match=r"no GPU here: endpoint 'loan' asks for gpus=0\.25"):
        deploy(0.25)


def test_a_whole_rollout_changes_no_running_application(world: World) -> None:
    world.do("deploy", version="loan:1", spec={"name": "second"})
    world.tick()
    start = len(world.serve.puts)
    assert world.until(world.rollout())["status"] == "promoted"
    world.tick(LINGER_S + 1)
    configs = [
        {app["name"]: app for app in config["applications"]}
        for config in world.serve.puts[start - 1 :]
    ]
    assert [len(config) for config in configs] == [3, 4, 3]
    for config in configs:
        assert {name: config[name] for name in configs[0]} == configs[0]


def test_the_stamp_of_a_plan_changes_with_the_plan_only(world: World) -> None:
    told: list[str] = []
    world.kernel.on_change(lambda: told.append(world.kernel.plan_for("loan")[0]))
    first = world.kernel.plan_for("loan")
    world.tick()
    assert world.kernel.plan_for("loan") == first
    rollout = world.rollout()
    assert told == [first[0]]
    world.until(rollout, stage="canary 20%")
    assert told[-1] == world.kernel.plan_for("loan")[0] != first[0], "told after the commit"
    world.restart()
    assert world.kernel.plan_for("loan")[0] == told[-1]
    with pytest.raises(UnknownEndpoint, match="deployed: loan"):
        world.kernel.plan_for("frod")


def test_a_challengers_application_never_changes_and_lingers(world: World) -> None:
    rollout = world.rollout()
    (app,) = world.kernel.rollouts.challengers("loan")
    assert challenger_of(app) == ("loan", 2)
    seen = []
    while world.do("rollout", id=rollout)["status"] == "running":
        world.tick()
        seen.append(world.serve.apps[app])
    assert all(one == seen[0] for one in seen)
    assert seen[0]["route_prefix"] is None
    assert seen[0]["args"]["served"]["version"] == 2
    world.tick(LINGER_S - 0.5)
    assert world.serve.challengers == [app]
    world.tick(1)
    assert world.serve.challengers == []


def test_two_rollouts_of_one_version_have_different_applications(world: World) -> None:
    first = world.rollout()
    world.tick()
    world.do("command_rollout", id=first, command="abort")
    second = world.rollout()
    world.tick()
    names = {challenger_app_name("loan", 2, rollout) for rollout in (first, second)}
    assert set(world.serve.challengers) == names
    assert len(names) == 2


def test_only_challengers_are_taken_for_challengers() -> None:
    assert challenger_of("loan--v12-abcdef01") == ("loan", 12)
    for name in ("loan", "aios--api", "a--vb", "a--v", "loan-v2"):
        assert challenger_of(name) is None


def test_after_a_restart_serve_is_told_once_more_and_the_same(world: World) -> None:
    world.rollout()
    world.tick()
    config, puts = world.serve.config, len(world.serve.puts)
    world.restart()
    world.tick(0)
    assert world.serve.config == config
    assert len(world.serve.puts) == puts + 1


def test_a_put_that_failed_is_repeated_until_taken() -> None:
    serve = FakeServe()
    reconciler = Reconciler(lambda: {"applications": []}, serve)
    serve.outage = True
    for _ in range(2):
        with pytest.raises(ClusterUnavailable):
            reconciler.once()
    assert not reconciler.has_looked
    serve.outage = False
    assert reconciler.once()
    assert not reconciler.once()
    assert reconciler.has_looked
    assert len(serve.puts) == 1


def test_going_back_after_a_put_with_an_unknown_end_needs_another_put() -> None:
    serve = FakeServe()
    wanted = [{"applications": []}]
    reconciler = Reconciler(lambda: wanted[-1], serve)
    reconciler.once()
    wanted.append({"applications": [{"name": "loan--v2-x", "args": {}}]})
    serve.lose_answers = True
    with pytest.raises(ClusterUnavailable):
        reconciler.once()
    serve.lose_answers = False
    wanted.append({"applications": []})
    assert reconciler.once()
    assert serve.config == {"applications": []}


class Counting(FakeServe):
    """Tells when it was asked for the n-th time."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = threading.Semaphore(0)

    def statuses(self) -> dict[str, AppStatus]:
        found = super().statuses()
        self.looks.release()
        return found


def test_the_loop_survives_a_broken_registry_and_wakes_at_once() -> None:
    serve, broken = Counting(), threading.Event()
    failed = threading.Event()
    version = [0]

    def desired() -> dict[str, Any]:
        if broken.is_set():
            failed.set()
            raise RuntimeError("the store is odd")
        return {"applications": [], "version": version[0]}

    reconciler = Reconciler(desired, serve)
    reconciler.start()
    try:
        assert serve.looks.acquire(timeout=5)
        broken.set()
        reconciler.changed()
        assert failed.wait(timeout=0.5), "a change waits for the next look"
        broken.clear()
        version[0] = 1
        reconciler.changed()
        assert serve.looks.acquire(timeout=0.5)
        assert serve.config["version"] == 1
    finally:
        reconciler.stop()
    assert reconciler.problem is None or "odd" not in reconciler.problem


def test_a_problem_is_told_until_it_is_over() -> None:
    serve = Counting()
    serve.outage = True
    reconciler = Reconciler(lambda: {"applications": []}, serve)
    assert reconciler.problem is None
    reconciler.start()
    try:
        reconciler.changed()
        for _ in range(200):
            if reconciler.problem:
                break
            threading.Event().wait(0.01)
        assert reconciler.problem == "Serve is away"
        serve.outage = False
        reconciler.changed()
        assert serve.looks.acquire(timeout=2)
    finally:
        reconciler.stop()
    assert reconciler.problem is None


def test_a_loop_that_never_started_can_be_stopped() -> None:
    Reconciler(dict, FakeServe()).stop()


def test_applications_that_serve_lost_are_put_again() -> None:
    serve = FakeServe()
    wanted = {"applications": [{"name": "loan", "args": {}}]}
    reconciler = Reconciler(lambda: wanted, serve)
    assert reconciler.once()
    assert not reconciler.once()
    serve.puts.append({"applications": []})
    assert not reconciler.once()
    assert reconciler.once()
    assert list(serve.apps) == ["loan"]


def test_the_reason_of_a_failure_is_its_last_error_line() -> None:
    trace = "Deploying\nTraceback (most recent call last):\n  File\nArtifactRejected: bad\nRetrying"
    assert failure_reason(trace) == "ArtifactRejected: bad"
    assert failure_reason("something else") == "something else"
    assert failure_reason("") == "no reason was given"
