"""The store of observations: told twice, kept once; old windows roll up."""

import pytest
from sqlalchemy import event

from aios.clock import ManualClock
from aios.errors import UsageError
from aios.monitoring.conditions import parse_condition
from aios.records.watching import Block, Watch, WatchSpec, WatchState, WindowPart
from aios.registry import Observed, Registry, check_given
from aios.store.database import Database
from aios.telemetry import Summary

DAY_S = 86_400.0


@pytest.fixture
def world(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/aios.db")
    database.upgrade()
    clock = ManualClock(1_000_000.0)
    yield Observed(database, clock), Registry(database, clock), clock
    database.close()


def part(name: str, start_s: float, values, version: int = 1) -> WindowPart:
    summary = Summary("number")
    summary.add(values)
    return WindowPart(
        id=name,
        endpoint="loan",
        arm="stable",
        version=version,
        start_s=start_s,
        end_s=start_s + 60,
        rows=len(values),
        inputs={"x": summary.to_json()},
        outputs={},
    )


def test_parts_of_all_replicas_become_one_window_and_each_counts_once(world):
    observed, _, _ = world
    first, second = part("a", 60.0, [1.0, 2.0]), part("b", 60.0, [3.0])
    observed.add_parts([first, second])
    observed.add_parts([second, first])
    (window,) = observed.windows("loan")
    assert window.rows == 3
    assert Summary.from_json(window.inputs["x"]).sketch.max == 3.0
    (bare,) = observed.windows("loan", content=False)
    assert (bare.rows, bare.inputs) == (3, {})


def test_windows_are_chosen_by_version_and_time(world):
    observed, _, _ = world
    observed.add_parts([part(str(n), 60.0 * n, [1.0], version=1 + n % 2) for n in range(6)])
    assert [w.start_s for w in observed.windows("loan", version=2)] == [60.0, 180.0, 300.0]
    assert [w.start_s for w in observed.windows("loan", since_s=120, until_s=240)] == [120.0, 180.0]
    assert observed.windows("other") == []


def test_old_windows_become_hours_then_days_and_lose_no_row(world):
    observed, _, clock = world
    start_s = clock.now_s() - clock.now_s() % DAY_S
    observed.add_parts([part(str(n), start_s + 60.0 * n, [float(n)]) for n in range(180)])
    clock.advance(start_s + 10 * 3600 - clock.now_s())
    observed.roll_up()
    hours = observed.windows("loan")
    assert [(w.rows, w.end_s - w.start_s) for w in hours] == [(60, 3600.0)] * 3
    assert Summary.from_json(hours[2].inputs["x"]).sketch.max == 179.0
    clock.advance(9 * DAY_S)
    observed.roll_up()
    assert observed.roll_up() == 0
    (day,) = observed.windows("loan")
    assert (day.rows, day.start_s, day.end_s) == (180, start_s, start_s + DAY_S)
    clock.advance(500 * DAY_S)
    observed.roll_up()
    assert observed.windows("loan") == []


def test_hours_in_which_a_block_of_a_watch_begins_or_ends_stay_while_it_is_needed(world):
    observed, registry, clock = world
    start_s = clock.now_s() - clock.now_s() % DAY_S
    observed.add_parts([part(str(n), start_s + 60.0 * n, [float(n)]) for n in range(240)])
    clock.advance(start_s + 10 * 3600 - clock.now_s())
    spec = WatchSpec(endpoint="loan", conditions=(parse_condition("psi > 0.2", "drift"),))
    block = Block(start_s=start_s, end_s=start_s + 5400, rows=90)
    state = WatchState(blocks=(block,), open_s=start_s + 9000)
    watch = Watch(id="w", spec=spec, state=state, created_s=1.0, created_by="ann")
    with registry.change(actor="ann", action="watch", subject="loan") as change:
        change.add_watch(watch)
    observed.roll_up()
    assert [w.rows for w in observed.windows("loan")] == [60, *[1] * 120, 60]
    mine = observed.windows("loan", since_s=block.start_s, until_s=block.end_s)
    assert sum(w.rows for w in mine) == block.rows
    assert sum(w.rows for w in observed.windows("loan", since_s=state.open_s)) == 90
    with registry.change(actor="ann", action="unwatch", subject="loan") as change:
        change.end_watch(watch.id)
    observed.roll_up()
    assert [w.rows for w in observed.windows("loan")] == [60] * 4


def test_feedback_is_kept_with_its_history_and_the_last_one_counts(world):
    observed, _, _ = world
    assert (
        observed.add_feedback("loan", [("r1", {"y": 0}), ("r1", {"y": 0}), ("r2", {"y": 1})], "ann")
        == 2
    )
    assert observed.add_feedback("loan", [("r1", {"y": 0})], "bob") == 0
    assert observed.add_feedback("loan", [("r1", {"y": 1})], "bob") == 1
    rows = observed.feedback_to_look_for("loan")
    assert [(row["request_id"], row["given"]) for row in rows] == [
        ("r1", {"y": 0}),
        ("r2", {"y": 1}),
        ("r1", {"y": 1}),
    ]
    answer = {"version": 3, "arm": "stable", "answered_s": 5.0, "outputs": [{"y": 0.7}]}
    observed.looked_for({rows[0]["seq"]: answer, rows[1]["seq"]: None, rows[2]["seq"]: answer})
    (outcome,) = observed.outcomes("loan")
    assert (outcome.request_id, outcome.given, outcome.version) == ("r1", {"y": 1}, 3)
    assert observed.outcomes("loan", version=2) == []
    assert observed.feedback_counts("loan") == {
        "given": 3,
        "requests": 2,
        "joined": 2,
        "waiting": 0,
        "unknown": 1,
        "history": 0,
    }


def test_live_quality_is_found_among_other_versions_and_other_feedback(world):
    observed, _, _ = world
    entries = [(f"r{n}", {"y": 1} if n < 40 else {"kpi": 3.5}) for n in range(120)]
    observed.add_feedback("loan", entries, "ann")
    rows = observed.feedback_to_look_for("loan")
    answer = {"arm": "stable", "answered_s": 5.0, "outputs": [{"y": 0.7}]}
    observed.looked_for(
        {row["seq"]: {**answer, "version": 1 + n % 2} for n, row in enumerate(rows)}
    )
    found = observed.outcomes("loan", version=2, most=10, about={"y"})
    assert [one.request_id for one in found] == [f"r{n}" for n in range(21, 40, 2)]
    assert len(observed.outcomes("loan", version=2, most=100)) == 60


def test_what_waits_is_found_by_index_and_not_by_reading_every_row(world):
    observed, _, _ = world
    observed.add_feedback("loan", [("r1", {"y": 0})], "ann")
    asked: list[tuple[str, object]] = []
    event.listen(
        observed._database._engine,
        "before_cursor_execute",
        lambda connection, cursor, text, values, *_: asked.append((text, values)),
    )
    observed.feedback_counts("loan")
    observed.feedback_lag_s("loan")
    observed.feedback_to_export("loan")
    observed.feedback_to_look_for("loan")
    observed.endpoints_with_feedback_waiting()
    queries = [(text, values) for text, values in asked if "FROM feedback " in f"{text} "]
    assert len(queries) == 5
    with observed._database.reading() as connection:
        for text, values in queries:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all()
            how = [row.detail for row in plan if " feedback" in row.detail]
            assert how
            assert all("INDEX feedback_to_" in one for one in how), (text, how)


def test_feedback_is_exported_once(world):
    observed, _, _ = world
    observed.add_feedback("loan", [("r1", {"y": 0}), ("r2", {"y": 1})], "ann")
    waiting = observed.feedback_to_export("loan", most=1)
    observed.exported(waiting[-1]["seq"], "loan")
    assert [row["request_id"] for row in observed.feedback_to_export("loan")] == ["r2"]
    assert observed.endpoints_with_feedback_waiting() == ["loan"]


@pytest.mark.parametrize(
    ("request_id", "values"),
    [
        ("", {"y": 1}),
        (3, {"y": 1}),
        ("r" * 201, {"y": 1}),
        ("r", {}),
        ("r", 1),
        ("r", {"y": float("nan")}),
        ("r", {"y": float("inf")}),
        ("r", {"y": [1]}),
        ("r", {"y": 2**63}),
        ("r", {"y": -(10**5000)}),
        ("r", {"y": "x" * 10_001}),
    ],
)
def test_feedback_that_cannot_be_kept_is_refused(request_id, values):
    with pytest.raises(UsageError, match="feedback"):
        check_given(request_id, values)


def test_a_watch_is_kept_until_it_is_taken_off(world):
    observed, registry, _ = world
    spec = WatchSpec(endpoint="loan", conditions=(parse_condition("psi > 0.2", "drift"),))
    watch = Watch(id="loan-watch-1", spec=spec, created_s=1.0, created_by="ann")
    with registry.change(actor="ann", action="watch", subject="loan") as change:
        change.add_watch(watch)
    assert observed.watches("loan") == [watch]
    assert observed.save_watch(watch.id, WatchState(looks=3))
    assert registry.watch(watch.id).state.looks == 3
    with registry.change(actor="ann", action="unwatch", subject="loan") as change:
        change.end_watch(watch.id)
    assert observed.watches() == []
    assert not observed.save_watch(watch.id, WatchState(looks=4))


def test_a_baseline_stays_as_it_was_first(world):
    observed, _, _ = world
    assert observed.baseline("loan", 1) is None
    observed.put_baseline("loan", 1, {"a": 1})
    observed.put_baseline("loan", 1, {"a": 2})
    assert observed.baseline("loan", 1) == {"a": 1}
