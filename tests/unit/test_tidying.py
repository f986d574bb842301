"""The prediction log kept small and young, while replicas go on writing it."""

import json
import multiprocessing
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from deltalake import DeltaTable

from aios.contracts import Codec, Contract, Number, Text
from aios.errors import StoreUnavailable, UnknownName, UsageError
from aios.monitoring import tidying
from aios.monitoring.recorded import find_answer, find_answers, write_feedback
from aios.monitoring.tidying import keys_in_use, tidy
from aios.records import DataSource
from aios.security.keyring import load_keyring
from aios.serving import recorder as recorder_module
from aios.serving.endpoint import Answer
from aios.serving.privacy import Privacy
from aios.serving.recorder import Recorder
from aios.training.sources import open_source, refuse_private

DAY_S = 86_400.0
CODEC = Codec(Contract(inputs={"a": Number(), "b": Text()}, outputs={"p": Number()}, key="id"))


@pytest.fixture
def ring(tmp_path):
    return load_keyring(tmp_path / "keys" / "log.json", encrypts=False)


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


def write(log, name, count=5, *, ago_s=0.0, ring=None, flushes=1):
    """Rows that were answered so long ago, in so many files."""
    import numpy as np

    recorder = Recorder(f"{log}/loan", 1.0, Privacy(ring))
    answer = Answer({"p": np.array([0.25])}, 1, "stable")
    clock = recorder_module.time
    at_s = time.time() - ago_s
    try:
        recorder_module.time = type("Clock", (), {"time": staticmethod(lambda: at_s)})
        for flush in range(flushes):
            for number in range(count):
                batch = CODEC.validate_records([{"a": number, "b": 'x,"y'}])
                request_id = f"{name}-{flush}-{number}"
                recorder.add(batch, answer, key="k", request_id=request_id, latency_s=0.1)
            recorder.flush()
    finally:
        recorder_module.time = clock


def ids(log, name="loan"):
    table = DeltaTable(f"{log}/{name}").to_pyarrow_table(columns=["request_id"])
    return sorted(table.column("request_id").to_pylist())


def files(log, name="loan"):
    return [Path(uri.removeprefix("file://")) for uri in DeltaTable(f"{log}/{name}").file_uris()]


def test_an_endpoint_without_a_log_has_nothing_to_tidy(log, ring):
    done = tidy(log, "loan", 90, ring)
    assert (done.files_before, done.files_after, done.rows_removed) == (0, 0, 0)


def test_small_files_become_one_and_no_row_is_lost(log, ring):
    write(log, "r", flushes=6)
    before = ids(log)
    done = tidy(log, "loan", 90, ring)
    assert (done.files_before, done.files_after) == (6, 1)
    assert ids(log) == before
    again = tidy(log, "loan", 90, ring)
    assert (again.files_before, again.files_after) == (1, 1)


def test_rows_older_than_they_are_kept_leave_and_feedback_with_them(log, ring):
    write(log, "old", ago_s=91 * DAY_S)
    write(log, "new", ago_s=89 * DAY_S)
    given = [
        {"seq": 1, "request_id": "old-0-0", "at_s": time.time() - 91 * DAY_S, "given": {"p": 1}},
        {"seq": 2, "request_id": "new-0-0", "at_s": time.time(), "given": {"p": 1}},
    ]
    write_feedback(log, "loan", given, ring)
    done = tidy(log, "loan", 90, ring)
    assert done.rows_removed == 6
    assert all(name.startswith("new") for name in ids(log))
    assert ids(log, "loan--feedback") == ["new-0-0"]


def test_for_ever_is_for_ever(log, ring):
    write(log, "old", ago_s=9_000 * DAY_S)
    assert tidy(log, "loan", None, ring).rows_removed == 0
    assert len(ids(log)) == 5


def test_a_version_read_before_stays_readable_for_a_week(log, ring):
    write(log, "r", flushes=3)
    version = DeltaTable(f"{log}/loan").version()
    tidy(log, "loan", 90, ring)
    assert DeltaTable(f"{log}/loan", version=version).to_pyarrow_table().num_rows == 15


def test_files_go_a_week_later_but_those_of_pinned_versions(log, ring, monkeypatch):
    write(log, "r", flushes=3)
    version = DeltaTable(f"{log}/loan").version()
    monkeypatch.setattr(tidying, "VACUUM_HOURS", 0)
    old = files(log)
    tidy(log, "loan", 90, ring, [(version, None), (999, 4)])
    assert all(file.exists() for file in old)
    tidy(log, "loan", 90, ring)
    assert not any(file.exists() for file in old)
    assert len(ids(log)) == 15


# -- keys ---------------------------------------------------------------------------------


def test_rows_in_the_clear_and_under_old_keys_come_under_the_newest(log, ring):
    first = ring.encrypting(True)
    second = first.rotated()
    write(log, "plain", ago_s=3 * DAY_S, flushes=2)
    write(log, "first", ago_s=2 * DAY_S, ring=first, flushes=2)
    write(log, "second", ago_s=DAY_S, ring=second)
    entry = {"seq": 1, "request_id": "first-0-1", "at_s": time.time() - DAY_S}
    entry["given"] = {"p": 1}
    write_feedback(log, "loan", [entry], first)
    assert keys_in_use(log, ["loan", "other"]) == {"loan": sorted(second.ids), "other": []}
    before = ids(log)
    done = tidy(log, "loan", 90, second)
    assert (done.rows_resealed, done.rows_closed) == (21, 0)
    assert done.keys == (second.ids[-1],)
    assert ids(log) == before
    alone = second.without(first.ids[0])
    for request_id in ("plain-1-4", "first-0-1", "second-0-0"):
        found = find_answer(log, ["loan"], request_id, keyring=alone)
        assert (found.inputs["b"], found.outputs, found.key) == ('x,"y', {"p": 0.25}, "k")
    assert tidy(log, "loan", 90, alone).rows_resealed == 0


def test_rows_of_a_moment_ago_are_left_to_the_next_time(log, ring):
    first = ring.encrypting(True)
    write(log, "now", ring=first)
    done = tidy(log, "loan", 90, first.rotated())
    assert (done.rows_resealed, done.keys) == (0, tuple(first.ids))


def test_many_spans_are_written_one_after_the_other(log, ring, monkeypatch):
    monkeypatch.setattr(tidying, "SPAN_BYTES", 1)
    for days in range(1, 6):
        write(log, f"d{days}", ago_s=days * DAY_S)
    done = tidy(log, "loan", 90, ring.encrypting(True))
    assert (done.rows_resealed, len(ids(log))) == (25, 25)


def test_rows_under_a_missing_key_stay_and_are_counted(log, ring):
    first = ring.encrypting(True)
    write(log, "lost", ago_s=DAY_S, ring=first)
    write(log, "plain", ago_s=DAY_S)
    done = tidy(log, "loan", 90, ring.encrypting(True))
    assert (done.rows_closed, done.rows_resealed) == (5, 5)
    assert find_answer(log, ["loan"], "lost-0-0", keyring=first).inputs["a"] == 0.0


def test_a_missing_key_is_named_and_no_keys_at_all_too(log, ring):
    first = ring.encrypting(True)
    write(log, "r", ring=first)
    with pytest.raises(UsageError, match=f"key '{first.ids[0]}', and the keyring has none"):
        find_answer(log, ["loan"], "r-0-0", keyring=ring)
    with pytest.raises(UsageError, match="no keys were given"):
        find_answers(log, "loan", ["r-0-0"])


def test_an_encrypted_log_is_training_data_to_who_has_the_keys(log, ring):
    first = ring.encrypting(True)
    write(log, "plain", 2)
    write(log, "r", 3, ring=first)
    entries = [
        {"seq": 1, "request_id": f"{name}-0-1", "at_s": time.time(), "given": {"label": 1}}
        for name in ("r", "plain")
    ]
    write_feedback(log, "loan", entries, first)
    _, rows = open_source(DataSource(kind="predictions", location="loan"), log, first)
    found = [
        row for piece in rows.pieces for table in rows.read(piece) for row in table.to_pylist()
    ]
    assert len(found) == 2
    assert {row["request_id"]: (row["a"], row["label"], row["key"]) for row in found} == {
        "r-0-1": (1.0, 1, "k"),
        "plain-0-1": (1.0, 1, "k"),
    }
    with pytest.raises(UsageError, match=first.ids[0]):
        open_source(DataSource(kind="predictions", location="loan"), log, ring)


def test_private_inputs_cannot_be_trained_on_from_the_log():
    contract = Contract(
        inputs={"a": Number(private="omit"), "b": Text(private="hash"), "c": Number()},
        outputs={"p": Number()},
    )
    with pytest.raises(UsageError, match=r"does not hold a \(omit\), b \(hash\) as it was asked"):
        refuse_private(contract)
    refuse_private(CODEC.contract)


# -- damage -------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path):
    """Damage a page and leave the footer whole."""
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, scribble, Path.unlink])
def test_a_damaged_file_is_set_aside_and_the_rest_goes_on(log, ring, damage):
    write(log, "good", flushes=2)
    write(log, "bad")
    victim = files(log)[0]
    lost = set(pa.parquet.read_table(victim).column("request_id").to_pylist())
    damage(victim)
    left = {"good-0-0", "good-1-0", "bad-0-0"} - lost
    assert set(find_answers(log, "loan", {"good-0-0", "good-1-0", "bad-0-0"})) == left
    with pytest.raises(UnknownName, match=r"1 files of the log are damaged, such as .*parquet"):
        find_answer(log, ["loan"], min(lost))
    done = tidy(log, "loan", 90, ring)
    assert done.files_after == 1
    assert set(ids(log)) & lost == set()
    assert len(ids(log)) == 10
    gone = damage is Path.unlink
    assert [Path(one).name for one in done.set_aside] == ([] if gone else [victim.name])
    write(log, "more")
    assert len(tidy(log, "loan", 90, ring).set_aside) == len(done.set_aside)
    assert len(ids(log)) == 15


def test_a_damaged_commit_is_told_and_nothing_is_touched(log, ring):
    write(log, "r", flushes=2)
    commit = sorted(Path(log, "loan", "_delta_log").glob("*.json"))[-1]
    whole = commit.read_bytes()
    commit.write_text("{ not json")
    for attempt in (
        lambda: tidy(log, "loan", 90, ring),
        lambda: find_answers(log, "loan", ["r-0-0"]),
        lambda: keys_in_use(log, ["loan"]),
    ):
        with pytest.raises(StoreUnavailable, match="loan"):
            attempt()
    commit.write_bytes(whole)
    assert len(ids(log)) == 10


def test_a_row_that_was_moved_to_another_request_is_passed_over(log, ring):
    first = ring.encrypting(True)
    write(log, "r", 2, ring=first)
    table = DeltaTable(f"{log}/loan")
    rows = table.to_pyarrow_table().to_pylist()
    rows[0]["outputs"], rows[1]["outputs"] = rows[1]["outputs"], rows[0]["outputs"]
    from deltalake import write_deltalake

    changed = pa.Table.from_pylist(rows, schema=table.to_pyarrow_table().schema)
    write_deltalake(table, changed, mode="overwrite")
    assert find_answers(log, "loan", ["r-0-0", "r-0-1"], keyring=first) == {}


# -- at once ------------------------------------------------------------------------------


def append_forever(log, name, ring, go_on, written):
    """A replica, in a process of its own."""
    flush = 0
    while go_on.is_set():
        write(log, f"{name}-{flush}", 3, ring=ring)
        flush += 1
    written.put((name, flush))


def test_two_replicas_write_while_the_log_is_tidied_and_no_row_is_lost(log, ring, monkeypatch):
    first = ring.encrypting(True)
    second = first.rotated()
    write(log, "old", ago_s=100 * DAY_S, flushes=5)
    write(log, "kept", ago_s=DAY_S, ring=first, flushes=5)
    spawned = multiprocessing.get_context("spawn")
    go_on, written = spawned.Event(), spawned.Queue()
    go_on.set()
    writers = [
        spawned.Process(target=append_forever, args=(log, name, second, go_on, written))
        for name in ("w0", "w1")
    ]
    for writer in writers:
        writer.start()
    try:
        give_up_s = time.monotonic() + 60
        while len(ids(log)) < 60 and time.monotonic() < give_up_s:
            time.sleep(0.1)  # both are there
        done = [tidy(log, "loan", 90, second) for _ in range(6)]
    finally:
        go_on.clear()
        counts = dict(written.get(timeout=60) for _ in writers)
        for writer in writers:
            writer.join(timeout=60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert done[0].rows_removed == 25
    assert done[0].rows_resealed == 25
    assert max(one.files_before - one.files_after for one in done) > 1
    found = ids(log)
    assert len(found) == len(set(found)) == 25 + 3 * sum(counts.values())
    assert min(counts.values()) > 3
    assert len(find_answers(log, "loan", found, keyring=second)) == len(found)


def test_threads_that_share_a_process_lose_none_either(log, ring):
    write(log, "old", ago_s=100 * DAY_S, flushes=3)
    recorders = [Recorder(f"{log}/loan", 1.0) for _ in range(2)]
    ended = threading.Event()

    def answer(number, recorder):
        import numpy as np

        batch = CODEC.validate_records([{"a": 1.0, "b": json.dumps("x")}])
        made = Answer({"p": np.array([0.25])}, 1, "stable")
        while not ended.is_set():
            recorder.add(batch, made, key="k", request_id=f"t{number}", latency_s=0.1)
            counts[number] += recorder.flush()

    counts = [0, 0]
    threads = [threading.Thread(target=answer, args=one) for one in enumerate(recorders)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        tidy(log, "loan", 90, ring)
    ended.set()
    for thread in threads:
        thread.join()
    assert [recorder.dropped for recorder in recorders] == [0, 0]
    assert len(ids(log)) == sum(counts)
