"""A watch in the kernel: from windows and feedback to alarms, retrains and lineage."""

from typing import Any

import numpy as np
import pytest
from kernel_fakes import World, make_template, make_world
from run_worlds import EVE, govern, lay_stages, spec

from aios.errors import Forbidden, IllegalTransition, UnknownEndpoint, UsageError
from aios.kernel import watcher
from aios.monitoring.conditions import parse_condition
from aios.records import RunSpec
from aios.records.watching import WatchSpec, WindowPart
from aios.registry import Observed
from aios.security import Caller
from aios.telemetry import Summary

RANDOM = np.random.default_rng(5)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("template") / "home")


@pytest.fixture
def world(template, tmp_path) -> World:
    world = make_world(template, tmp_path / "home")
    world.clock.advance(60 - world.clock.now_s() % 60)
    return world


def summary(values: Any) -> dict[str, Any]:
    found = Summary("number")
    found.add(values)
    return found.to_json()


def watch(world: World, caller: Caller = EVE, **fields: Any) -> str:
    made = {
        "endpoint": "loan",
        "conditions": (parse_condition("psi > 0.2 on any for 2 windows", "drift"),),
        "then": RunSpec.model_validate(spec()),
        **fields,
    }
    told = WatchSpec(**made).model_dump(mode="json")
    return str(world.ask(caller, "watch", spec=told)["id"])


def minutes(world: World, *shifts: float, rows: int = 400, version: int = 1) -> None:
    """Minutes in which feature `a` is shifted, each then looked at."""
    for shift in shifts:
        start_s = world.clock.now_s()
        part = WindowPart(
            id=f"r1-{start_s}",
            endpoint="loan",
            arm="stable",
            version=version,
            start_s=start_s,
            end_s=start_s + 60,
            rows=rows,
            inputs={"a": summary(RANDOM.normal(shift, 1, rows))},
            outputs={"approve": summary(RANDOM.uniform(0, 1, rows))},
        )
        world.clock.advance(60)
        world.kernel.take_windows([part.model_dump()])
        world.clock.advance(watcher.GRACE_S)
        world.kernel.watcher.look()
        world.clock.advance(-watcher.GRACE_S)


def state(world: World) -> dict[str, Any]:
    (found,) = world.do("watches", endpoint="loan")
    assert found["problem"] is None
    return dict(found["state"])


def actions(world: World) -> list[str]:
    wanted = ("alarm", "alarm_over", "start_run", "watch", "unwatch")
    entries = world.do("audit", limit=1000, subject="loan")
    return [entry["action"] for entry in reversed(entries) if entry["action"] in wanted]


def test_drift_raises_one_alarm_and_starts_one_retrain_whose_version_says_why(world):
    lay_stages(world)
    watch(world)
    minutes(world, 0, 0, 0, 0, 0)
    assert state(world)["looks"] == 2  # the first 1,000 rows are what is normal
    assert state(world)["findings"][0]["state"] == "clear"
    minutes(world, 2, 2, 2)
    found = state(world)
    (alarm,) = found["alarms"]
    assert alarm["finding"]["subject"] == "a"
    assert actions(world) == ["watch", "alarm", "start_run"]
    world.flows.carry_out(found["run"])
    run = world.do("run", id=found["run"])
    assert (run["status"], run["created_by"]) == ("registered", "eve")
    lineage = world.do("lineage", ref=f"loan:{run['version']}")
    assert lineage["because"].startswith(f"loan:{run['version']} exists because psi of a was ")
    assert lineage["nodes"][0]["kind"] == "watch"
    assert [lineage["nodes"][0]["id"], lineage["nodes"][1]["id"]] in lineage["edges"]
    assert world.do("model", ref="loan")["lineage"]["cause"]["subject"] == "a"


def test_a_kernel_killed_before_a_look_is_saved_starts_the_retrain_once(world, monkeypatch):
    lay_stages(world)
    watch(world)
    minutes(world, 0, 0, 0, 0, 2)

    class Killed(BaseException):
        """Not an error that anybody handles, as SIGKILL is none."""

    def die(*arguments: Any) -> bool:
        raise Killed

    monkeypatch.setattr(Observed, "save_watch", die)
    with pytest.raises(Killed):
        minutes(world, 2)
    monkeypatch.undo()
    world.restart()
    world.kernel.watcher.look()
    assert actions(world).count("start_run") == 1
    assert actions(world).count("alarm") == 1
    assert len(world.do("runs", name="loan")) == 1
    assert state(world)["run"] == world.do("runs", name="loan")[0]["id"]


def test_a_retrain_waits_for_the_one_before_and_for_the_cooldown(world):
    lay_stages(world)
    watch(world, cooldown_s=600.0)
    minutes(world, 0, 0, 0, 2, 2, 2)
    first = state(world)["run"]
    assert "one at a time" in state(world)["held_back"]
    world.flows.carry_out(first)
    minutes(world, 2)
    assert "s left" in state(world)["held_back"]
    minutes(world, *[2] * 10)
    assert state(world)["run"] != first
    assert actions(world).count("alarm") == 1


def test_scores_alarms_and_feedback_are_metrics(world):
    watch_id = watch(world, then=None)
    minutes(world, 0, 0, 0, 2, 2)
    feed(world, 1.0, 30)
    told = world.do("metrics")
    labels = f'{{endpoint="loan",watch="{watch_id}"}}'
    assert f"aios_alarms{labels} 1.0" in told
    assert f"aios_retrains_total{labels} 0.0" in told
    assert 'aios_feedback_requests{endpoint="loan",state="joined"} 30.0' in told
    score = 'aios_drift_score{endpoint="loan",field="a",measure="psi"} '
    (line,) = [line for line in told.splitlines() if line.startswith(score)]
    assert float(line.removeprefix(score)) > 0.2


def test_an_alarm_is_over_when_it_is_calm_again(world):
    watch(world, then=None)
    minutes(world, 0, 0, 0, 2, 2, 0, 0)
    assert state(world)["alarms"] == []
    assert actions(world) == ["watch", "alarm", "alarm_over"]
    minutes(world, 2, 2)
    assert actions(world)[-1] == "alarm"


def test_windows_of_a_few_rows_are_judged_together(world):
    watch(world, then=None)
    minutes(world, 0, 0, 0)
    minutes(world, *[0.0] * 99, rows=3)
    assert state(world)["looks"] == 1
    assert state(world)["blocks"][0]["rows"] >= 200


def test_training_data_is_what_is_normal_where_there_is_some(world):
    govern(world, use="toy")
    lay_stages(world)
    reference = {
        "inputs": {"a": summary(RANDOM.normal(5, 1, 3000))},
        "outputs": {"approve": summary(RANDOM.uniform(0, 1, 3000))},
    }
    world.bench.gives["refit"]["reference"] = reference
    run_id = world.do("start_run", spec=spec())["id"]
    world.flows.carry_out(run_id)
    version = world.do("run", id=run_id)["version"]
    world.until(world.rollout(version=f"loan:{version}"))
    assert world.do("endpoint", name="loan")["version"] == version
    watch(world, then=None)
    world.clock.advance(60 - world.clock.now_s() % 60)
    world.kernel.watcher.look()
    minutes(world, 5, 5, 5, version=version)
    assert state(world)["findings"][0]["state"] == "clear"
    minutes(world, 0, 0, version=version)
    assert state(world)["findings"][0]["state"] == "holds"
    seen = world.do("monitor", endpoint="loan")
    assert seen["normal"] == "training data"
    assert next(iter(seen["fields"])) == "a"
    assert seen["fields"]["a"]["scores"]["psi"] > 0.2
    assert [window["rows"] for window in seen["windows"]] == [400] * 5


def feed(world: World, right: float, count: int, start: int = 0) -> None:
    """Feedback on answers of version 1, of which a share is right, joined at once."""
    answers = {}
    for number in range(start, start + count):
        said = float(number % 2)
        answers[f"r{number}"] = said if RANDOM.random() < right else 1 - said
    entries = [
        {"request_id": name, "values": {"approve": float(int(name[1:]) % 2)}} for name in answers
    ]
    world.do("feedback", endpoint="loan", answers=entries)
    world.bench.gives["write_feedback"] = {}
    world.bench.gives["find_answers"] = {
        name: {
            "version": 1,
            "arm": "stable",
            "answered_s": world.clock.now_s(),
            "outputs": [{"approve": said}],
        }
        for name, said in answers.items()
    }
    world.kernel.watcher.follow_feedback()
    world.kernel.watcher.look()


def test_accuracy_on_feedback_raises_an_alarm(world):
    condition = parse_condition("accuracy < 0.8", "concept")
    watch(world, conditions=(condition,), then=None, min_labels=200)
    feed(world, 0.95, 250)
    assert state(world)["findings"][0]["state"] == "clear"
    feed(world, 0.4, 250, start=1000)
    (alarm,) = state(world)["alarms"]
    assert alarm["finding"]["score"] < 0.6
    seen = world.do("monitor", endpoint="loan")
    assert seen["feedback"]["joined"] == 500
    assert seen["quality"][0]["accuracy"] > 0.8 > seen["quality"][-1]["accuracy"]


def test_feedback_on_answers_that_nobody_gave_is_counted_after_a_while(world):
    world.bench.gives.update(write_feedback={}, find_answers={})
    entry = {"request_id": "never", "values": {"approve": 1}}
    assert world.do("feedback", endpoint="loan", answers=[entry]) == {"taken": 1}
    assert world.do("feedback", endpoint="loan", answers=[entry]) == {"taken": 0}
    world.kernel.watcher.follow_feedback()
    assert world.do("monitor", endpoint="loan")["feedback"]["waiting"] == 1
    world.clock.advance(120)
    world.kernel.watcher.follow_feedback()
    found = world.do("monitor", endpoint="loan")["feedback"]
    assert (found["waiting"], found["unknown"]) == (0, 1)
    written = [told for name, told in world.bench.asked if name == "write_feedback"]
    assert [row["request_id"] for row in written[0]["entries"]] == ["never"]
    assert len(written) == 1


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"request_id": "r"}, "such as"),
        ({"request_id": "r", "values": 3}, "feedback is"),
        ({"request_id": "r", "values": {"approve": float("nan")}}, "JSON"),
        ({"request_id": "r", "valeus": {"approve": 1}}, "feedback is"),
        ({"values": {"approve": 1}}, "request id"),
    ],
)
def test_feedback_that_cannot_be_kept_is_refused_whole(world, entry, told):
    good = {"request_id": "good", "values": {"approve": 1}}
    with pytest.raises(UsageError, match=told):
        world.do("feedback", endpoint="loan", answers=[good, entry])
    assert world.do("feedback", endpoint="loan", answers=[good]) == {"taken": 1}


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        ({"endpoint": "nowhere"}, UnknownEndpoint, "nowhere"),
        ({"conditions": (parse_condition("psi > 1 on b", "drift"),)}, UsageError, "no such field"),
        ({"schedule": "sometimes"}, UsageError, "cron"),
        ({"output": "declined"}, UsageError, "none of loan:1"),
    ],
)
def test_a_watch_that_could_never_work_is_refused(world, fields, error, told):
    with pytest.raises(error, match=told):
        watch(world, **fields)
    assert world.do("watches") == []


def test_who_may_not_train_may_not_watch_and_operators_take_watches_off(world):
    with pytest.raises(Forbidden):
        watch(world, Caller("oscar", "operator"))
    watch_id = watch(world)
    world.ask(Caller("oscar", "operator"), "unwatch", id=watch_id)
    assert world.do("watches") == []
    with pytest.raises(IllegalTransition, match="taken off"):
        world.do("unwatch", id=watch_id)


def test_nobody_but_a_watch_may_give_a_run_a_cause(world):
    with pytest.raises(UsageError, match="cause"):
        world.do("start_run", spec={**spec(), "cause": {"watch": "me"}})
