"""The kernel keeps the prediction log: its keys, its age, and what cannot be done."""

import logging

import pytest
from kernel_fakes import World, make_template, make_world
from run_worlds import EVE
from sqlalchemy import select

from aios.config import Settings
from aios.errors import (
    Forbidden,
    IllegalTransition,
    StoreUnavailable,
    UnknownEndpoint,
    UsageError,
)
from aios.kernel.housekeeping import DAY_S
from aios.registry import Observed
from aios.security import Caller
from aios.store import tables

DONE = {
    "endpoint": "loan",
    "rows_removed": 3,
    "rows_resealed": 2,
    "rows_closed": 0,
    "files_before": 9,
    "files_after": 1,
    "set_aside": [],
    "keys": [],
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("template") / "home")


@pytest.fixture
def world(template, tmp_path) -> World:
    return make_world(template, tmp_path / "home")


@pytest.fixture
def encrypting(world) -> World:
    world.settings = Settings(home=world.settings.home, log_encryption=True)
    world.restart()
    return world


def entries(world):
    with world.kernel._database.reading() as connection:
        return len(connection.execute(select(tables.feedback.c.seq)).all())


def actions(world):
    return [entry["action"] for entry in world.do("audit", limit=20, subject="prediction log")]


# -- keys ---------------------------------------------------------------------------------


def test_a_rotation_is_noticed_by_replicas_and_is_in_the_audit_log(encrypting):
    before, _ = encrypting.kernel.plan_for("loan")
    ring = encrypting.kernel.log.keys.current()
    made = encrypting.do("rotate_log_key", "op-1")
    after, _ = encrypting.kernel.plan_for("loan")
    assert before != after
    assert encrypting.do("log")["keys"] == [*ring.ids, made["id"]]
    assert encrypting.do("rotate_log_key", "op-1") == made, "asked twice, done once"
    assert actions(encrypting) == ["rotate_log_key"]
    (entry,) = encrypting.do("audit", limit=20, subject="prediction log")
    assert entry["details"]["id"] == made["id"]


def test_keys_survive_a_restart_and_are_nowhere_in_the_database(encrypting):
    encrypting.do("rotate_log_key")
    ring = encrypting.kernel.log.keys.current()
    encrypting.restart()
    assert encrypting.kernel.log.keys.current().stamp == ring.stamp
    home = encrypting.settings.home
    secrets = [
        text for text in (home / "keys" / "log.json").read_text().split('"') if len(text) == 64
    ]
    assert len(secrets) == 3
    kept = b"".join(path.read_bytes() for path in home.glob("aios.db*"))
    assert not any(secret.encode() in kept for secret in secrets)
    assert not any(secret in str(encrypting.kernel.desired()) for secret in secrets)


def test_keys_that_others_can_read_stop_the_start(encrypting):
    (encrypting.settings.home / "keys" / "log.json").chmod(0o644)
    with pytest.raises(UsageError, match="can be read by others"):
        encrypting.restart()


def test_a_log_in_the_clear_has_no_key_to_rotate(world):
    with pytest.raises(UsageError, match="set log_encryption = true"):
        world.do("rotate_log_key")
    assert world.do("log") == {"encrypted": False, "keys": [], "keep_days": 90.0, "endpoints": []}


def test_only_an_admin_rotates(encrypting):
    with pytest.raises(Forbidden):
        encrypting.ask(EVE, "rotate_log_key")
    with pytest.raises(Forbidden):
        encrypting.ask(Caller("olga", "operator"), "compact_log", endpoint="loan")


def test_a_key_is_retired_when_no_row_is_under_it(encrypting):
    (old,) = encrypting.do("log")["keys"]
    with pytest.raises(UsageError, match="rotate first"):
        encrypting.do("retire_log_key", id=old)
    new = encrypting.do("rotate_log_key")["id"]
    encrypting.bench.gives["keys_in_use"] = {"loan": [old, new]}
    encrypting.clock.advance(120)
    with pytest.raises(IllegalTransition, match=f"rows of loan are under key {old}"):
        encrypting.do("retire_log_key", id=old)
    encrypting.bench.gives["keys_in_use"] = {"loan": [new]}
    assert encrypting.do("retire_log_key", id=old) == {"id": old}
    assert encrypting.do("log")["keys"] == [new]
    encrypting.restart()
    assert encrypting.do("log")["keys"] == [new]


def test_a_key_is_not_retired_while_replicas_may_still_write_with_it(encrypting):
    (old,) = encrypting.do("log")["keys"]
    encrypting.do("rotate_log_key")
    encrypting.bench.gives["keys_in_use"] = {}
    with pytest.raises(IllegalTransition, match="a moment ago"):
        encrypting.do("retire_log_key", id=old)
    assert len(encrypting.do("log")["keys"]) == 2


# -- housekeeping -------------------------------------------------------------------------


def test_every_log_there_ever_was_is_tidied(world):
    world.do("remove", name="loan")
    world.bench.gives["tidy"] = DONE
    world.kernel.log.housekeeping.tidy_all()
    assert [told["endpoint"] for name, told in world.bench.asked if name == "tidy"] == ["loan"]
    (found,) = world.do("log")["endpoints"]
    assert (found["files_after"], found["problem"]) == (1, None)
    world.kernel.log.housekeeping.tidy_all()
    told = world.do("metrics")
    assert 'aios_log_rows_removed_total{endpoint="loan"} 6.0' in told
    assert 'aios_log_files{endpoint="loan"} 1.0' in told
    assert world.do("status")["problem"] is None


def test_a_log_that_cannot_be_tidied_is_told_counted_and_tried_again(world, caplog):
    world.bench.gives["tidy"] = StoreUnavailable("the bucket is away")
    with caplog.at_level(logging.WARNING):
        world.kernel.log.housekeeping.tidy_all()
    assert "the bucket is away" in world.do("status")["problem"]
    assert 'aios_log_tidy_failures_total{endpoint="loan"} 1.0' in world.do("metrics")
    world.bench.gives["tidy"] = RuntimeError("unforeseen")
    world.kernel.log.housekeeping.tidy_all()
    assert "unforeseen" in world.do("status")["problem"]
    world.bench.gives["tidy"] = DONE
    world.kernel.log.housekeeping.tidy_all()
    assert world.do("status")["problem"] is None


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            {"set_aside": ["/log/loan/_unreadable/x.parquet"]},
            "could not be read and were set aside",
        ),
        ({"rows_closed": 7}, "7 rows of the prediction log of 'loan' are encrypted with a key"),
    ],
)
def test_what_a_person_must_look_at_stays_in_the_status(world, found, told):
    world.bench.gives["tidy"] = {**DONE, **found}
    world.kernel.log.housekeeping.tidy_all()
    assert told in world.do("status")["problem"]
    assert world.do("log")["endpoints"][0]["counts"]["failures"] == 0


def test_a_log_is_tidied_when_somebody_asks(world):
    world.bench.gives["tidy"] = DONE
    asked = world.do("compact_log", endpoint="loan")
    world.kernel.log.housekeeping.start()
    try:
        for _ in range(100):
            found = world.do("log")["endpoints"]
            if found:
                break
            world.kernel.log.housekeeping._thread.join(0.05)
    finally:
        world.kernel.log.housekeeping.close()
    assert found[0]["at_s"] >= asked["asked_s"]
    with pytest.raises(UnknownEndpoint):
        world.do("compact_log", endpoint="laon")


def test_old_feedback_leaves_the_database_but_what_still_waits(world):
    observed = Observed(world.kernel._database, world.clock)
    for request_id in ("done", "not looked for", "not exported"):
        observed.add_feedback("loan", [(request_id, {"approve": 1})], "ann")
    rows = observed.feedback_to_export("loan")
    observed.exported(rows[1]["seq"], "loan")
    observed.looked_for({rows[0]["seq"]: None, rows[2]["seq"]: None})
    world.clock.advance(91 * DAY_S)
    observed.add_feedback("loan", [("new", {"approve": 1})], "ann")
    world.bench.gives["tidy"] = DONE
    world.kernel.log.housekeeping.tidy_all()
    waiting = observed.feedback_to_export("loan"), observed.feedback_to_look_for("loan")
    assert [[row["request_id"] for row in rows] for rows in waiting] == [
        ["not exported", "new"],
        ["not looked for", "new"],
    ]
    assert entries(world) == 3


def test_kept_for_ever_nothing_is_removed(world):
    world.settings = Settings(home=world.settings.home, log_keep_days=0)
    world.restart()
    observed = Observed(world.kernel._database, world.clock)
    observed.add_feedback("loan", [("r", {"approve": 1})], "ann")
    (row,) = observed.feedback_to_export("loan")
    observed.exported(row["seq"], "loan")
    observed.looked_for({row["seq"]: None})
    world.clock.advance(9_000 * DAY_S)
    world.bench.gives["tidy"] = DONE
    world.kernel.log.housekeeping.tidy_all()
    assert entries(world) == 1
    assert world.bench.asked[-1][1]["keep_days"] is None


def test_feedback_of_other_endpoints_goes_on_when_one_log_is_damaged(world):
    world.do("deploy", version="loan:1", spec={"name": "lend"})
    for endpoint in ("lend", "loan"):
        entry = {"request_id": f"r-{endpoint}", "values": {"approve": 1}}
        world.do("feedback", endpoint=endpoint, answers=[entry])

    def write(told):
        return StoreUnavailable("its commits are damaged") if told["endpoint"] == "lend" else {}

    world.bench.gives.update(write_feedback=write, find_answers={})
    world.kernel.watcher.follow_feedback()
    observed = Observed(world.kernel._database, world.clock)
    assert observed.feedback_to_export("loan") == []
    assert len(observed.feedback_to_export("lend")) == 1
    assert "feedback on 'lend' waits: its commits" in world.do("status")["problem"]
    world.bench.gives.update(write_feedback={})
    world.kernel.watcher.follow_feedback()
    assert world.do("status")["problem"] is None


def test_a_replica_that_cannot_record_is_in_the_status(world):
    replica = world.replicas[0]
    report = replica.report(world.clock.now_s())
    told = {"recorder_problem": "predictions are not recorded: No space left"}
    world.kernel.report(report.model_copy(update=told))
    assert "'loan': predictions are not recorded" in world.do("status")["problem"]
    world.kernel.report(replica.report(world.clock.now_s()))
    assert world.do("status")["problem"] is None


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), 1e9])
def test_days_that_make_no_sense_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match="log_keep_days"):
        Settings.load(home=tmp_path, log_keep_days=wrong)
