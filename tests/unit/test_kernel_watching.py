"""A watch in the kernel: from windows and feedback to alarms, retrains and lineage."""

import threading
from typing import Any

import numpy as np
import pytest
from kernel_fakes import World, make_template, make_world
from run_worlds import EVE, POLICY, govern, lay_stages, rolling, spec
from sqlalchemy import select

from aios.contracts import Boolean, Category, Integer, Number, Tensor, Text
from aios.errors import (
    Forbidden,
    IllegalTransition,
    StoreUnavailable,
    UnknownEndpoint,
    UsageError,
)
from aios.kernel import watcher
from aios.kernel.governance_commands import GovernanceCommands
from aios.kernel.retraining import spent_by
from aios.kernel.watch_commands import begin_as, refuse_no_measure
from aios.monitoring.conditions import LABELLED, parse_condition
from aios.monitoring.watching import Spent
from aios.records import DataSource, RunSpec, TrainingRun
from aios.records.alerts import WebhookAlert
from aios.records.watching import RetrainBudget, WatchSpec, WindowPart
from aios.registry import Observed
from aios.security import Caller
from aios.store import audit
from aios.store import tables as t
from aios.telemetry import Summary
from tests.trace_collector import attributes, collector

RANDOM = np.random.default_rng(5)
PREDICTIONS = {"data": DataSource(kind="predictions", location="loan")}
PSI_ON_ANY = parse_condition("psi > 0.2 on any", "drift")


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


def part(world: World, shift: float, rows: int = 400, version: int = 1) -> WindowPart:
    """The minute that begins now, in which feature `a` is shifted."""
    start_s = world.clock.now_s()
    return WindowPart(
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


def minutes(world: World, *shifts: float, rows: int = 400, version: int = 1) -> None:
    """Minutes in which feature `a` is shifted, each then looked at."""
    for shift in shifts:
        one = part(world, shift, rows, version)
        world.clock.advance(60)
        world.kernel.take_windows([one.model_dump()])
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


def test_alarm_run_and_rollout_are_one_trace_whichever_kernel_goes_on(
    template, tmp_path, monkeypatch
):
    with collector() as (address, received):
        monkeypatch.setenv("AIOS_OTLP_ENDPOINT", address)
        world = make_world(template, tmp_path / "home")
        world.clock.advance(60 - world.clock.now_s() % 60)
        world.do("add_key", identity="eve", role="deployer")
        lay_stages(world)
        watch(world, then=RunSpec.model_validate(spec(rollout=rolling())))
        minutes(world, 0, 0, 0, 2, 2)
        run_id = state(world)["run"]
        world.kernel._traces.close()
        world.restart()  # the alarm rang under a kernel that is no more
        world.kernel.runs.drive(run_id)
        world.flows.carry_out(run_id)
        rollout_id = world.do("run", id=run_id)["rollout"]
        world.until(rollout_id, stage="canary 20%")
        world.kernel._traces.close()
        world.restart()
        assert world.until(rollout_id)["status"] == "promoted"
        minutes(world, 2)
        world.kernel._traces._tracer.flush()
    spans = {span.name: span for _, span in received}
    assert len({span.trace_id for _, span in received}) == 1
    assert len({span.span_id for _, span in received}) == len(received)
    below = {
        name: next((n for n, one in spans.items() if one.span_id == span.parent_span_id), None)
        for name, span in spans.items()
    }
    stages = ("snapshot", "split", "search", "refit", "assess", "register", "rollout")
    assert below == {
        "alarm loan": None,
        "alarm over loan": "alarm loan",
        "run loan": "alarm loan",
        **{f"run stage {stage}": "run loan" for stage in stages},
        "rollout loan": "run loan",
        **{
            f"rollout stage {stage}": "rollout loan"
            for stage in ("starting", "canary 20%", "promoting")
        },
    }
    told = attributes(spans["run loan"])
    assert (told["aios.run"], told["aios.status"]) == (run_id, "registered")
    assert attributes(spans["alarm loan"])["aios.field"] == "a"
    assert attributes(spans["rollout loan"])["aios.status"] == "promoted"
    whole = spans["rollout loan"]
    for name in ("starting", "canary 20%", "promoting"):
        stage = spans[f"rollout stage {name}"]
        assert whole.start_time_unix_nano <= stage.start_time_unix_nano
        assert stage.end_time_unix_nano <= whole.end_time_unix_nano
    ring = spans["alarm over loan"]
    assert ring.end_time_unix_nano - ring.start_time_unix_nano > 1e9


def test_a_run_that_fails_and_a_rollout_that_goes_back_are_spans_with_errors(
    template, tmp_path, monkeypatch
):
    with collector() as (address, received):
        monkeypatch.setenv("AIOS_OTLP_ENDPOINT", address)
        world = make_world(template, tmp_path / "home")
        lay_stages(world)
        world.bench.gives["search"] = UsageError("no trial finished")
        run_id = world.do("start_run", spec=spec())["id"]
        world.flows.carry_out(run_id)
        rollout = world.rollout()
        for replica in world.replicas:
            replica.error_rate = {2: 0.5}
        assert world.until(rollout)["status"] == "rolled_back"
        world.kernel._traces._tracer.flush()
    wrong = {span.name: span.status.message for _, span in received if span.status.code == 2}
    assert wrong["run stage search"] == wrong["run loan"] == "search: no trial finished"
    assert "errors worse" in wrong["rollout loan"]
    assert "run stage split" not in wrong
    roots = {span.name for _, span in received if not span.parent_span_id}
    assert roots == {"run loan", "rollout loan"}, "nobody's alarm: each a trace of its own"


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
    looks = state(world)["looks"] + state(world)["label_looks"]
    assert looks > 0
    assert f"aios_watch_looks_total{labels} {looks}.0" in told
    assert f"aios_watch_problem{labels} 0.0" in told
    assert f"aios_alerts_undelivered{labels} 0.0" in told
    assert 'aios_feedback_total{endpoint="loan"} 30.0' in told
    assert 'aios_feedback_looked_for_total{endpoint="loan",found="joined"} 30.0' in told
    assert 'aios_feedback_delay_seconds_count{endpoint="loan"} 30.0' in told
    score = 'aios_drift_score{endpoint="loan",field="a",measure="psi"} '
    (line,) = [line for line in told.splitlines() if line.startswith(score)]
    assert float(line.removeprefix(score)) > 0.2


def test_an_alarm_is_over_when_its_endpoint_is_taken_down(world):
    watch(world, then=None, alerts=(WebhookAlert(url="http://127.0.0.1:9/"),))
    minutes(world, 0, 0, 0, 2, 2)
    world.do("remove", name="loan")
    assert "aios_alarms{" not in world.do("metrics")
    world.kernel.watcher.look()
    world.kernel.watcher.look()
    assert actions(world) == ["watch", "alarm", "alarm_over"]
    (found,) = world.do("watches")
    assert (found["state"]["alarms"], found["state"]["findings"]) == ([], [])
    world.deploy()
    assert 'aios_alarms{endpoint="loan"' in world.do("metrics")
    minutes(world, 2, 2)
    assert actions(world)[-1] == "alarm"


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


@pytest.mark.parametrize(
    ("field", "refused"),
    [
        (Number(min=0, max=1), set()),
        (Number(), {"accuracy", "brier", "estimated_accuracy", "log_loss"}),
        (Integer(), {"brier", "estimated_accuracy", "log_loss"}),
        (Boolean(), {"brier", "estimated_accuracy", "log_loss"}),
        (Category([1, 2, 3]), {"brier", "estimated_accuracy", "log_loss"}),
        (Category(["a", "b"]), {"brier", "estimated_accuracy", "log_loss", "mae", "rmse"}),
        (Text(), {"brier", "estimated_accuracy", "log_loss", "mae", "rmse"}),
        (Tensor((2,)), {*LABELLED, "estimated_accuracy"}),
    ],
)
def test_a_measure_that_an_output_has_not_is_refused(field, refused):
    texts = [f"{name} < 0.8" for name in ("accuracy", "estimated_accuracy")]
    texts += [f"{name} > 0.8" for name in ("brier", "log_loss", "mae", "rmse")] + ["error drift"]
    told = {}
    for text in texts:
        condition = parse_condition(text, "concept")
        try:
            refuse_no_measure(condition, "approve", field)
        except UsageError as error:
            told[condition.measure] = error.message
    assert told.keys() == refused
    advice = "write mae" if isinstance(field, Number) else "write accuracy"
    advice = "another output" if isinstance(field, Tensor) else advice
    for message in told.values():
        assert field.describe() in message
        assert advice in message


def test_the_estimate_is_about_the_output_that_is_watched(world):
    condition = parse_condition("estimated_accuracy < 0.8", "concept")
    watch(world, conditions=(condition,), then=None)
    (stored,) = world.do("watches", endpoint="loan")
    assert stored["spec"]["conditions"][0]["on"] == stored["spec"]["output"] == "approve"


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


def test_feedback_that_says_nothing_of_the_label_costs_no_look(world):
    condition = parse_condition("accuracy < 0.8", "concept")
    watch(world, conditions=(condition,), then=None, min_labels=200)
    answers = [{"request_id": f"r{n}", "values": {"kpi": 1.0}} for n in range(300)]
    world.do("feedback", endpoint="loan", answers=answers)
    answer = {"version": 1, "arm": "stable", "answered_s": 1.0, "outputs": [{"approve": 0.7}]}
    world.bench.gives["write_feedback"] = {}
    world.bench.gives["find_answers"] = {f"r{n}": answer for n in range(300)}
    world.kernel.watcher.follow_feedback()
    world.kernel.watcher.look()
    finding = state(world)["findings"][0]
    assert finding["state"] == "not_enough_data"
    assert finding["reason"].endswith("feedback never says 'approve', but kpi")
    assert state(world)["label_looks"] == 0
    feed(world, 0.95, 250, start=1000)
    assert state(world)["findings"][0]["state"] == "clear"
    assert state(world)["label_looks"] == 1


def compared(auc: float) -> dict[str, Any]:
    """What comparing rows of two windows gives."""
    last = ({"auc": auc, "pairs": 400}, {"auc": auc, "pairs": 800})
    told = {"windows": (auc, auc), "last": last, "rows": (400, 400), "telling": {"a": 0.2}}
    return {"reference": "its first answers", "reference_rows": 1000, **told}


def rows_looked_at(world: World, *shifts: float) -> None:
    """Minutes, and the looks at which their rows are asked about and then had."""
    minutes(world, *shifts)
    world.clock.advance(10)
    for _ in range(2):
        world.kernel.watcher.look()
        world.kernel.watcher.wait_for_rows(10)
    world.clock.advance(-10)


BY_ROWS = (
    parse_condition("domain_auc > 0.65 for 2 windows", "drift"),
    parse_condition("psi > 0.2 on any", "drift"),
)


def questions(world: World) -> list[dict[str, Any]]:
    return [told for name, told in world.bench.asked if name == "compare_rows"]


def test_rows_are_compared_beside_the_looks_and_each_windows_once(world):
    watch(world, conditions=BY_ROWS, then=None)
    world.bench.gives["compare_rows"] = compared(0.5)
    minutes(world, 0, 0, 0)
    rows_looked_at(world, 0, 0)
    asked = questions(world)
    assert [one["blocks"][-1]["end_s"] for one in asked] == [state(world)["rows_end_s"]]
    assert (asked[0]["version"], asked[0]["run"], len(asked[0]["blocks"])) == (1, None, 2)
    told = {one["condition"]: one["state"] for one in state(world)["findings"]}
    assert told == {BY_ROWS[0].text: "clear", BY_ROWS[1].text: "clear"}
    world.bench.gives["compare_rows"] = compared(0.9)
    rows_looked_at(world, 0)
    (alarm,) = state(world)["alarms"]
    assert (alarm["condition"], alarm["finding"]["subject"]) == (BY_ROWS[0].text, "inputs")
    assert state(world)["row_looks"] == len(questions(world)) == 2
    scores = [point["auc"] for point in world.do("monitor", endpoint="loan")["domain_auc"]]
    assert scores == [0.5, 0.9]


def test_a_comparison_that_takes_long_holds_up_nothing_and_is_not_begun_twice(world):
    watch(world, conditions=BY_ROWS, then=None)
    going_on, may_end = threading.Event(), threading.Event()

    def slowly(told: dict[str, Any]) -> dict[str, Any]:
        going_on.set()
        assert may_end.wait(30)
        return compared(0.9)

    world.bench.gives["compare_rows"] = slowly
    minutes(world, 0, 0, 0, 0, 0, 2)
    assert going_on.wait(10)
    assert [one["condition"] for one in state(world)["alarms"]] == [BY_ROWS[1].text]
    assert state(world)["row_looks"] == 0
    minutes(world, 2, 2)
    may_end.set()
    world.kernel.watcher.wait_for_rows(10)
    world.kernel.watcher.look()
    assert len(questions(world)) == 1
    assert state(world)["row_looks"] == 1
    assert len(state(world)["alarms"]) == 2


def test_a_kernel_killed_over_a_comparison_asks_again_and_counts_it_once(world, monkeypatch):
    watch(world, conditions=BY_ROWS[:1], then=None)
    world.bench.gives["compare_rows"] = compared(0.9)

    class Killed(BaseException):
        """As in the test of retrains."""

    def die(*arguments: Any, **more: Any) -> bool:
        raise Killed

    minutes(world, 0, 0, 0, 0, 0)
    world.clock.advance(10)
    world.kernel.watcher.look()
    world.kernel.watcher.wait_for_rows(10)
    monkeypatch.setattr(audit, "append", die)
    with pytest.raises(Killed):
        world.kernel.watcher.look()
    monkeypatch.undo()
    world.restart()
    for _ in range(3):
        world.kernel.watcher.look()
        world.kernel.watcher.wait_for_rows(10)
    first, second = questions(world)
    assert first == second
    assert state(world)["row_looks"] == 1
    assert actions(world) == ["watch", "alarm"]


def test_a_retrain_that_cannot_be_started_counts_for_nothing_and_is_tried_again(world):
    lay_stages(world)
    govern(world, use="toy")
    watch(world)
    minutes(world, 0, 0, 0, 2)
    world.do("set_policy", text=POLICY.replace("toy: {tier: free}", "toy: {tier: forbidden}"))
    minutes(world, 2)
    found = state(world)
    assert "could not be started: the use" in found["held_back"]
    assert (found["triggered"], found["run"], len(found["alarms"])) == (0, None, 1)
    world.do("set_policy", text=POLICY)
    minutes(world, 2, 2)
    assert state(world)["triggered"] == 1
    assert len(world.do("runs", name="loan")) == 1


def test_an_alarm_ends_and_the_next_is_told_though_the_log_is_full(world):
    lay_stages(world)
    told = (WebhookAlert(url="http://127.0.0.1:9/alarms"),)
    watch(world, alerts=told, then=RunSpec.model_validate(spec(**PREDICTIONS)))
    minutes(world, 0, 0, 0, 0)
    entry = {"request_id": "r1", "values": {"approve": 1}}
    world.do("feedback", endpoint="loan", answers=[entry])
    world.bench.gives["write_feedback"] = StoreUnavailable("the disk is full")
    minutes(world, 2, 2)
    assert len(state(world)["alarms"]) == 1
    minutes(world, 0, 0)
    assert state(world)["alarms"] == []
    minutes(world, 2, 2)
    assert actions(world) == ["watch", "alarm", "alarm_over", "alarm"]
    with world.kernel.registry._database.reading() as connection:
        ids = connection.execute(select(t.alerts.c.alert_id).order_by(t.alerts.c.seq)).scalars()
        assert [one.split("-alarm-")[1] for one in ids] == ["1-alarm", "1-alarm_over", "2-alarm"]


def test_watches_of_one_model_retrain_it_one_at_a_time(world):
    lay_stages(world)
    watch(world)
    watch(world, conditions=(parse_condition("psi > 0.3 on a for 2 windows", "drift"),))
    minutes(world, 0, 0, 0, 0, 2, 2)
    (run,) = world.do("runs", name="loan")
    told = [one["state"]["held_back"] for one in world.do("watches")]
    assert f"run {run['id']} is going on, and there is one at a time" in told


def test_a_retrain_on_predictions_waits_for_the_feedback_so_far_and_no_more(world):
    lay_stages(world)
    watch(world, then=RunSpec.model_validate(spec(**PREDICTIONS)))
    minutes(world, 0, 0, 0, 0, 2)

    def give(name: str) -> None:
        entry = {"request_id": name, "values": {"approve": 1}}
        world.do("feedback", endpoint="loan", answers=[entry])

    def write(told: dict[str, Any]) -> dict[str, Any]:
        if len(told["entries"]) == 1 and told["entries"][0]["request_id"] == "r1":
            give("r2")  # which came after the alarm
            return {}
        raise StoreUnavailable("the disk is full now")

    give("r1")
    minutes(world, 2)
    assert "feedback on 'loan' is written" in state(world)["held_back"]
    assert world.do("runs", name="loan") == []
    world.bench.gives.update(write_feedback=write, find_answers={})
    world.kernel.watcher.follow_feedback()
    world.kernel.watcher.look()
    assert len(world.do("runs", name="loan")) == 1


def test_time_in_which_a_run_waits_for_people_is_no_cpu_time(world):
    run = {"id": "r", "model": "loan", "stage": "rollout", "spec": spec(cpus=2.0)}
    runs = [TrainingRun(**run, created_s=now_s, created_by="eve") for now_s in (0.0, 50_000.0)]
    budget = RetrainBudget(per_s=86_400.0)
    assert spent_by(runs[:1], {}, budget, 36_000.0) == Spent(1, 20.0)
    assert spent_by(runs[:1], {"r": 1_800.0}, budget, 36_000.0) == Spent(1, 1.0)
    assert spent_by(runs, {"r": 51_800.0}, budget, 100_000.0) == Spent(1, 1.0)


def test_looks_read_neither_results_of_runs_nor_summaries_before_they_are_wanted(
    world, monkeypatch
):
    lay_stages(world)
    watch(world)
    read = []
    windows = Observed.windows

    def noted(self: Observed, *arguments: Any, content: bool = True, **more: Any) -> Any:
        read.append(content)
        return windows(self, *arguments, content=content, **more)

    monkeypatch.setattr(Observed, "windows", noted)
    minutes(world, 0, 0)
    assert read == [False, False]
    minutes(world, 0, 0, 2, 2)
    run_id = state(world)["run"]
    world.flows.carry_out(run_id)
    (run,) = world.kernel.registry.recent_runs("loan", 0.0, world.clock.now_s() + 60)
    assert (run.id, run.results, bool(run.spec.cause)) == (run_id, {}, True)
    assert world.kernel.registry.recent_runs("loan", 0.0, 1.0) == []


def test_an_endpoint_that_comes_back_with_another_model_begins_anew(world):
    watch_id = watch(world, then=None)
    minutes(world, 0, 0, 0, 0, 0, 2, 2)
    feed(world, 1.0, 30)
    assert len(state(world)["alarms"]) == 1
    world.do("remove", name="loan")
    world.register("house")
    world.do("deploy", version="house:1", spec={"name": "loan"})
    assert world.do("monitor", endpoint="loan")["windows"] == []
    world.kernel.watcher.look()
    assert world.do("watches") == []
    assert actions(world) == ["watch", "alarm", "unwatch", "alarm_over"]
    entry = world.do("audit", limit=1, subject="loan")[0]
    assert entry["details"]["reason"] == "endpoint 'loan' serves the model house now"
    assert entry["details"]["watch"] == watch_id
    watch(world, then=None)
    world.kernel.watcher.look()
    minutes(world, 3, 3, 3, 3, 3)
    assert (state(world)["looks"], state(world)["alarms"]) == (2, [])
    seen = world.do("monitor", endpoint="loan")
    assert [one["rows"] for one in seen["windows"]] == [400] * 5
    assert seen["quality"] == []


def test_an_endpoint_that_comes_back_with_its_model_keeps_what_was_seen(world):
    watch(world, then=None)
    minutes(world, 0, 0, 0, 0)
    world.do("remove", name="loan")
    world.do("deploy", version="loan:1", spec={"name": "loan"})
    minutes(world, 0, 2, 2)
    assert len(state(world)["alarms"]) == 1
    assert len(world.do("monitor", endpoint="loan")["windows"]) == 7


def test_blocks_that_come_together_are_judged_one_by_one(world):
    watch(world, then=None)
    minutes(world, 0, 0, 0, 0, 0)
    parts = []
    for shift in (4, 4, 4, 0, 0, 0):
        parts.append(part(world, shift))
        world.clock.advance(60)
    world.kernel.take_windows([one.model_dump() for one in parts])
    world.clock.advance(watcher.GRACE_S)
    world.kernel.watcher.look()
    assert actions(world) == ["watch", "alarm", "alarm_over"]
    assert (state(world)["looks"], state(world)["alarms"]) == (8, [])


def test_a_watch_that_is_taken_off_during_its_look_rings_and_starts_nothing(world, monkeypatch):
    lay_stages(world)
    watch_id = watch(world)
    minutes(world, 0, 0, 0, 0, 2)
    windows = Observed.windows

    def meanwhile(self: Observed, *arguments: Any, **more: Any) -> Any:
        found = windows(self, *arguments, **more)
        if world.do("watches"):
            world.do("unwatch", id=watch_id)
        return found

    monkeypatch.setattr(Observed, "windows", meanwhile)
    minutes(world, 2)
    assert actions(world) == ["watch", "unwatch"]
    assert world.do("runs", name="loan") == []


def test_a_run_whose_watch_was_taken_off_is_not_started(world):
    watch_id = watch(world)
    world.do("unwatch", id=watch_id)
    start = begin_as(GovernanceCommands(world.kernel.registry, world.kernel.runs, print).begin_run)
    caused = RunSpec.model_validate({**spec(), "cause": {"watch": watch_id}})
    with pytest.raises(IllegalTransition, match="taken off"):
        start(caused, EVE, "again")
    assert world.do("runs", name="loan") == []


def test_rows_that_cannot_be_read_are_told_and_other_conditions_go_on(world):
    watch(world, conditions=BY_ROWS, then=None)
    world.bench.gives["compare_rows"] = StoreUnavailable("the log is away")
    minutes(world, 0, 0, 0)
    rows_looked_at(world, 0, 0)
    told = {one["condition"]: one["reason"] for one in state(world)["findings"]}
    assert told[BY_ROWS[0].text] == "rows cannot be compared now: the log is away"
    assert "psi of" in told[BY_ROWS[1].text]
    assert (state(world)["row_looks"], len(questions(world))) == (0, 1)


def test_groups_that_fare_differently_raise_an_alarm_and_are_shown(world):
    condition = parse_condition("demographic_parity_difference > 0.2 on sex", "fairness")
    watch(world, conditions=(condition,), then=None, min_labels=200)
    misspelt = parse_condition("demographic_parity_difference > 0.2 on gender", "fairness")
    other = watch(world, conditions=(misspelt,), then=None, min_labels=200)
    answers = {f"r{number}": float(number % 4 == 0) for number in range(400)}
    entries = [
        {"request_id": name, "values": {"sex": "f" if int(name[1:]) % 2 else "m"}}
        for name in answers
    ]
    world.do("feedback", endpoint="loan", answers=entries)
    world.bench.gives["write_feedback"] = {}
    facts = {"version": 1, "arm": "stable", "answered_s": world.clock.now_s()}
    world.bench.gives["find_answers"] = {
        name: {**facts, "outputs": [{"approve": said}], "inputs": [{}]}
        for name, said in answers.items()
    }
    world.kernel.watcher.follow_feedback()
    world.kernel.watcher.look()
    told = {one["id"]: one["state"] for one in world.do("watches")}
    assert told.pop(other)["findings"][0]["reason"].endswith("never says 'gender', but sex")
    ((alarm,),) = (one["alarms"] for one in told.values())
    assert alarm["finding"]["subject"] == "sex"
    assert alarm["finding"]["score"] == pytest.approx(0.5, abs=0.05)
    asked = [told["inputs"] for name, told in world.bench.asked if name == "find_answers"]
    assert {name for names in asked for name in names} == {"gender", "sex"}
    shown = world.do("monitor", endpoint="loan")["groups"]["sex"]
    rates = {row["group"]: (row["rows"], row["selection_rate"]) for row in shown}
    assert rates == {"m": (200, 0.5), "f": (200, 0.0)}


def test_a_watch_sees_again_at_once_after_the_clock_was_set_back(world):
    watch(world, then=None)
    world.clock.advance(86_400)
    minutes(world, 0, 0, 0, 0, 0)
    looks = state(world)["looks"]
    world.clock.advance(-86_400)
    world.kernel.watcher.look()
    minutes(world, 2, 2)
    assert state(world)["looks"] == looks + 2
    assert len(state(world)["alarms"]) == 1


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


def test_feedback_stamped_by_a_clock_that_was_ahead_holds_up_no_other(world):
    world.clock.advance(86_400)
    ahead = [{"request_id": f"u{n}", "values": {"approve": 1}} for n in range(2_000)]
    world.do("feedback", endpoint="loan", answers=ahead)
    world.clock.advance(-86_400)
    feed(world, 1.0, 10)
    world.kernel.watcher.follow_feedback()
    found = world.do("monitor", endpoint="loan")["feedback"]
    assert (found["joined"], found["unknown"], found["waiting"]) == (10, 2_000, 0)


def test_a_log_that_is_damaged_holds_up_the_feedback_of_no_other_endpoint(world):
    world.do("deploy", version="loan:1", spec={"name": "aloan"})

    def damaged(told: dict[str, Any]) -> Any:
        broken = StoreUnavailable("the log of aloan is damaged")
        return broken if told["endpoint"] == "aloan" else {}

    entry = {"request_id": "r1", "values": {"approve": 1}}
    for name in ("aloan", "loan"):
        world.do("feedback", endpoint=name, answers=[entry])
    world.bench.gives.update(write_feedback=damaged, find_answers=damaged)
    world.kernel.watcher.follow_feedback()
    written = [told["endpoint"] for name, told in world.bench.asked if name == "write_feedback"]
    assert written == ["aloan", "loan"]
    assert "the log of aloan is damaged" in world.do("status")["problem"]
    world.bench.gives.update(write_feedback={}, find_answers={})
    world.kernel.watcher.follow_feedback()
    assert world.do("status")["problem"] is None


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"request_id": "r"}, "such as"),
        ({"request_id": "r", "values": 3}, "feedback is"),
        ({"request_id": "r", "values": {"approve": float("nan")}}, "JSON"),
        ({"request_id": "r", "valeus": {"approve": 1}}, "feedback is"),
        ({"values": {"approve": 1}}, "request id"),
        ({"request_id": "r", "values": {"kpi": "much"}}, "kpi is 'much'"),
        ({"request_id": "r", "values": {"kpi": 1e300}}, "at most 1e"),
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
        (
            {"conditions": (parse_condition("accuracy_difference > 0.1 on approve", "fairness"),)},
            UsageError,
            "no group of people",
        ),
        ({"conditions": (PSI_ON_ANY, PSI_ON_ANY)}, UsageError, "there twice"),
        (
            {"conditions": (PSI_ON_ANY.model_copy(update={"measure": "nonsense"}),)},
            UsageError,
            "no measure",
        ),
        (
            {"conditions": (PSI_ON_ANY.model_copy(update={"above": False, "limit": -1e9}),)},
            UsageError,
            "was sent as",
        ),
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
