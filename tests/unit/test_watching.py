"""Alarms ring once, end once, and start at most the retrains that the watch may have."""

import pytest
from pydantic import ValidationError

from aios.errors import UsageError
from aios.monitoring.conditions import parse_condition
from aios.monitoring.watching import (
    Raised,
    Resolved,
    Spent,
    StartRetrain,
    began,
    blocks_kept,
    due,
    joined,
    judged,
    next_time,
    not_started,
    rows_due,
    set_back,
)
from aios.records import RunSpec
from aios.records.watching import Block, Finding, RetrainBudget, WatchSpec, WatchState

PSI = "psi > 0.2 on any"
DOMAIN = "domain_auc > 0.7 for 2 windows"
RUN = RunSpec(
    model="loan",
    recipe={"path": "m:R", "text": "", "sha256": "0" * 64},
    data={"kind": "predictions", "location": "loan"},
    contract={},
)
NOTHING = Spent(0, 0.0)


def watch(**more) -> WatchSpec:
    fields = {
        "endpoint": "loan",
        "conditions": (parse_condition(PSI, "drift"),),
        "cooldown_s": 100.0,
        "then": RUN,
    }
    return WatchSpec(**{**fields, **more})


def found(state: str) -> Finding:
    return Finding(condition=PSI, state=state, subject="obrat", score=0.31, reason="it drifted")


def alarmed() -> WatchState:
    return judged(WatchState(), [found("holds")], 10.0)[0]


def test_an_alarm_rings_once_and_ends_only_when_it_is_clear():
    state, told = WatchState(), []
    for now_s, what in enumerate(
        ("clear", "holds", "holds", "near", "holds", "not_enough_data", "clear", "clear", "holds")
    ):
        state, actions = judged(state, [found(what)], float(now_s))
        told += [(now_s, type(action)) for action in actions]
    assert told == [(1, Raised), (6, Resolved), (8, Raised)]
    assert [alarm.id for alarm in state.alarms] == ["alarm-2"]


def test_an_alarm_starts_one_retrain_and_the_next_after_the_cooldown():
    spec, state = watch(), alarmed()
    starts = []
    for now_s in range(10, 400, 10):
        state = state.model_copy(update={"looks": now_s})
        state, actions = due(
            spec, state, NOTHING, running="run r" if now_s < 60 else None, now_s=float(now_s)
        )
        starts += [(now_s, action.number) for action in actions]
    assert starts == [(60, 1), (160, 2), (260, 3), (360, 4)]


def test_an_alarm_about_which_nothing_more_was_judged_starts_no_other_retrain():
    spec = watch(schedule="0 3 * * *")
    state, actions = due(spec, alarmed(), NOTHING, None, 10.0)
    assert len(actions) == 1
    calm, actions = due(spec, state, NOTHING, None, 1_000.0)
    assert (actions, calm.held_back) == ([], "nothing was judged since the last retrain")
    for counter in ("looks", "row_looks", "label_looks"):
        judged_once = state.model_copy(update={counter: 1})
        assert len(due(spec, judged_once, NOTHING, None, 1_000.0)[1]) == 1
    (start,) = due(spec, calm, NOTHING, None, 3 * 3600.0)[1]
    assert start.finding.condition == "schedule 0 3 * * *"


def test_what_holds_a_retrain_back_is_said():
    spec, state = watch(budget=RetrainBudget(retrains=2, cpu_hours=1)), alarmed()
    told = [
        due(spec, state, spent, running, 20.0)[0].held_back
        for spent, running in (
            (NOTHING, "run r"),
            (Spent(2, 0.1), None),
            (Spent(1, 1.5), None),
            (NOTHING, None),
        )
    ]
    assert "one at a time" in told[0]
    assert "2 of 2 retrains" in told[1]
    assert "1.5 of 1 CPU hours" in told[2]
    assert told[3] is None


def test_a_clock_that_was_set_back_holds_nothing_for_longer_than_the_cooldown():
    state, actions = due(watch(), alarmed(), NOTHING, None, 1_000_000.0)
    assert isinstance(actions[0], StartRetrain)
    starts = []
    for now_s in range(10, 300, 10):
        state = set_back(state, float(now_s)).model_copy(update={"looks": now_s})
        state, actions = due(watch(), state, NOTHING, None, float(now_s))
        starts += [now_s for _ in actions]
    assert starts == [110, 210]


def test_a_clock_that_was_set_back_neither_blinds_a_watch_nor_stops_its_schedule():
    blocks = tuple(Block(start_s=n, end_s=n + 60, rows=300) for n in (40, 5_000, 9_000))
    ahead = WatchState(since_s=30.0, open_s=9_060.0, rows_end_s=9_060.0, blocks=blocks, looks=3)
    back = set_back(ahead, 150.0)
    assert (back.open_s, back.rows_end_s, back.since_s) == (150.0, 150.0, 30.0)
    assert (back.blocks, back.looks) == (blocks[:1], 3)
    assert set_back(back, 151.0) is back

    spec, day_s = watch(conditions=(), schedule="0 3 * * *", cooldown_s=0), 86_400.0
    state, _ = due(spec, WatchState(), NOTHING, None, 400 * day_s)
    starts = []
    for now_s in range(0, int(day_s), 1800):
        state, actions = due(spec, set_back(state, float(now_s)), NOTHING, None, float(now_s))
        starts += [now_s for _ in actions]
    assert starts == [3 * 3600]


def test_a_retrain_that_could_not_be_started_keeps_its_time_and_waits_a_minute():
    spec, state = watch(conditions=(), schedule="0 3 * * 1", cooldown_s=0), WatchState()
    state, _ = due(spec, state, NOTHING, None, 0.0)
    monday_s = state.scheduled_s
    _, actions = due(spec, state, NOTHING, None, monday_s)
    assert [action.number for action in actions] == [1]
    state = not_started(state, "the store is busy", monday_s)
    assert (state.triggers, state.triggered, state.scheduled_s) == ((), 0, monday_s)
    state, actions = due(spec, state, NOTHING, None, monday_s + 59)
    assert actions == []
    assert "the store is busy" in state.held_back
    assert due(spec, state, NOTHING, None, monday_s + 60)[1][0].number == 1
    back_s = 100.0  # the clock was set back: the pause is not until the old time is there again
    alarm = alarmed().model_copy(update={"retry_s": 9_000.0})
    assert due(watch(), alarm, NOTHING, None, back_s)[1][0].number == 1


def test_as_many_blocks_are_kept_as_are_needed_and_those_whose_rows_come_later():
    blocks = tuple(Block(start_s=4 * n, end_s=4 * n + 4, rows=300) for n in range(200))
    kept = blocks_kept(blocks, 2, 800.0)
    assert kept == blocks[-5:]
    assert rows_due(WatchState(blocks=kept), [parse_condition(DOMAIN, "drift")], 800.0)
    assert blocks_kept(blocks, 2, 900.0) == blocks[-2:]
    assert len(blocks_kept(blocks, 500, 900.0)) == 100


def test_rows_are_compared_once_they_are_logged_and_not_twice():
    blocks = tuple(Block(start_s=60 * n, end_s=60 * n + 60, rows=300) for n in range(4))
    one, two, nine = (
        parse_condition(f"domain_auc > 0.7 for {n} windows", "drift") for n in (1, 2, 9)
    )
    state = WatchState(blocks=blocks)
    assert rows_due(state, [two], 60.0) == rows_due(state, [two], 70.0) == ()
    assert rows_due(state, [one, two], 70.0) == blocks[:1]
    assert rows_due(state, [two], 190.0) == rows_due(state, [two], 249.0) == blocks[1:3]
    assert rows_due(state, [two, nine], 250.0) == blocks
    assert rows_due(state.model_copy(update={"rows_end_s": 240.0}), [two], 900.0) == ()


def test_no_alarm_no_retrain_and_alarms_alone_without_then():
    assert due(watch(), WatchState(), NOTHING, None, 10.0)[1] == []
    assert due(watch(then=None), alarmed(), NOTHING, None, 10.0)[1] == []


def test_a_schedule_starts_a_retrain_when_its_time_comes_and_not_twice():
    spec = watch(conditions=(), schedule="0 3 * * *", cooldown_s=0)
    day_s, state, starts = 86_400.0, WatchState(), []
    for now_s in range(0, int(3 * day_s), 1800):
        state, actions = due(spec, state, NOTHING, None, float(now_s))
        starts += [now_s for _ in actions]
    assert starts == [int(3 * 3600 + day * day_s) for day in range(3)]


@pytest.mark.parametrize("wrong", ["", "every day", "61 * * * *", "0 0 30 2 *"])
def test_a_schedule_that_is_no_cron_line_is_refused(wrong):
    with pytest.raises(UsageError, match="cron"):
        next_time(wrong, 0.0)


def test_another_version_ends_what_was_found_about_the_one_before():
    state, actions = began(alarmed(), 8, 50.0)
    assert [type(action) for action in actions] == [Resolved]
    assert (state.alarms, state.blocks, state.version, state.open_s) == ((), (), 8, 50.0)


def test_small_windows_are_joined_until_they_can_be_judged():
    windows = [
        Block(start_s=n, end_s=n + 1, rows=rows) for n, rows in enumerate((3, 90, 10, 250, 7))
    ]
    blocks, open_s = joined(windows, 0.0, 100)
    assert [(block.start_s, block.end_s, block.rows) for block in blocks] == [
        (0, 3, 103),
        (3, 4, 250),
    ]
    assert open_s == 4


def test_a_watch_without_a_cause_is_refused():
    with pytest.raises(ValidationError, match="needs a condition"):
        WatchSpec(endpoint="loan")
