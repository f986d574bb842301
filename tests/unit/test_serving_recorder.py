"""The prediction log: rows in Delta, bounded memory, counted losses."""

import json
import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import orjson
import pytest
from contract_strategies import contracts, fitting
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_fakes import rows

from aios.contracts import Codec, Contract, Integer, Number, Text
from aios.monitoring.recorded import opened
from aios.records import Artifact, EndpointSpec, ServedVersion, TrafficPlan
from aios.security.keyring import key_of, load_keyring
from aios.serving import recorder as recorder_module
from aios.serving.endpoint import Answer
from aios.serving.privacy import Privacy
from aios.serving.recorder import Recorder
from aios.serving.rows import as_table
from aios.store import delta


def add(recorder, count=1, batch=None, answer=None):
    batch = batch or rows(1.5, keys=["x"])
    answer = answer or Answer({"p": np.full(batch.rows, 0.25)}, 3, "stable")
    for i in range(count):
        recorder.add(batch, answer, key="x", request_id=f"r{i}", latency_s=0.01)


def table(path):
    return sorted(
        DeltaTable(str(path)).to_pyarrow_table().to_pylist(),
        key=lambda row: (row["request_id"], row["row"]),
    )


def test_each_record_of_a_request_becomes_a_row_in_delta(tmp_path):
    recorder = Recorder(str(tmp_path / "log"), 1.0)
    answer = Answer({"p": np.array([0.25, 0.5])}, 3, "canary", "cache")
    add(recorder, batch=rows(1.5, 2.5, keys=["x", None]), answer=answer)
    assert recorder.flush() == 2
    first, second = table(tmp_path / "log")
    assert {k: first[k] for k in ("request_id", "key", "row", "version", "arm", "degraded")} == {
        "request_id": "r0",
        "key": "x",
        "row": 0,
        "version": 3,
        "arm": "canary",
        "degraded": "cache",
    }
    assert json.loads(first["inputs"]) == {"a": 1.5}
    assert json.loads(second["outputs"]) == {"p": 0.5}
    assert second["row"] == 1
    assert first["at_s"] > 1e9
    assert recorder.flush() == 0
    add(recorder)
    recorder.flush()
    assert len(table(tmp_path / "log")) == 3


def test_two_replicas_may_write_one_table_from_its_first_row(tmp_path):
    recorders = [Recorder(str(tmp_path / "log"), 1.0) for _ in range(4)]
    for recorder in recorders:
        add(recorder, 5)
    threads = [threading.Thread(target=recorder.flush) for recorder in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(table(tmp_path / "log")) == 20
    assert sum(recorder.dropped for recorder in recorders) == 0


def test_a_table_is_opened_anew_now_and_then(tmp_path, monkeypatch):
    # One that stays open grows with each append, and so does what the next one costs.
    monkeypatch.setattr(delta, "KEPT", 3)
    opened_for = []
    monkeypatch.setattr(
        "deltalake.DeltaTable", lambda url: opened_for.append(url) or DeltaTable(url)
    )
    recorder = Recorder(str(tmp_path / "log"), 1.0)
    for _ in range(8):
        add(recorder)
        assert recorder.flush() == 1
    assert len(opened_for) == 4  # by the first (there is none), second, fifth and eighth
    assert len(table(tmp_path / "log")) == 8


def test_a_full_buffer_drops_the_oldest_and_counts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "MAX_BUFFERED", 10)
    recorder = Recorder(str(tmp_path / "log"), 1.0)
    add(recorder, 14)
    assert recorder.dropped == 4
    assert recorder.flush() == 10
    assert [row["request_id"] for row in table(tmp_path / "log")][-1] == "r9"
    assert "r0" not in [row["request_id"] for row in table(tmp_path / "log")]


def test_the_buffer_is_bounded_in_rows_too(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "MAX_BUFFERED_ROWS", 100)
    recorder = Recorder(str(tmp_path / "log"), 1.0)
    add(recorder, 5, batch=rows(*[1.0] * 40))
    assert recorder.dropped == 3
    assert recorder.flush() == 80
    add(recorder, 2, batch=rows(*[1.0] * 40))
    assert recorder.dropped == 3, "the count starts again after a flush"


def test_a_folder_that_cannot_be_written_is_counted_and_told(tmp_path):
    (tmp_path / "log").write_text("a file where the folder should be")
    recorder = Recorder(str(tmp_path / "log"), 1.0)
    add(recorder, 3)
    with pytest.raises(DeltaError, match="Invalid table location"):
        recorder.flush()
    assert recorder.dropped == 3
    (tmp_path / "log").unlink()
    add(recorder, 2)
    assert recorder.flush() == 2


@pytest.mark.parametrize(
    ("fraction", "low", "high"), [(0.0, 0, 0), (0.3, 200, 400), (1.0, 1000, 1000)]
)
def test_only_the_wanted_share_is_kept(fraction, low, high):
    recorder = Recorder("nowhere", fraction)
    add(recorder, 1000)
    assert low <= len(recorder._buffer) <= high
    assert recorder.dropped == 0


def test_requests_that_come_during_a_flush_are_not_lost(tmp_path):
    recorder = Recorder(str(tmp_path / "log"), 1.0)
    written, stop = [], threading.Event()

    def flush():
        while not stop.is_set():
            written.append(recorder.flush())

    thread = threading.Thread(target=flush)
    thread.start()
    for _ in range(20):
        add(recorder, 50)
    stop.set()
    thread.join()
    written.append(recorder.flush())
    assert sum(written) == 1000
    assert recorder.dropped == 0


def test_the_kinds_of_versions_long_gone_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "_MOST_KINDS", 3)
    recorder = Recorder(str(tmp_path / "log"), 1.0)
    for number in range(5):
        add(recorder, answer=Answer({f"p{number}": np.array([0.25])}, number, "stable"))
    assert recorder.flush() == 5
    assert recorder._kinds == []
    add(recorder, answer=Answer({"p9": np.array([0.25])}, 9, "stable"))
    assert recorder.flush() == 1
    outputs = {row["outputs"] for row in table(tmp_path / "log")}
    assert outputs == {f'{{"p{number}":0.25}}' for number in (0, 1, 2, 3, 4, 9)}


# -- what is private ----------------------------------------------------------------------


PRIVATE = Contract(
    inputs={
        "name": Text(private="hash"),
        "income": Number(private="omit"),
        "age": Integer(nullable=True, private="hash"),
        "where": Text(),
    },
    outputs={"p": Number(), "risk": Number(private="hash"), "note": Number(private="omit")},
    key="id",
    private_key="hash",
)


def private_world(tmp_path, *, encrypts=False, contract=PRIVATE):
    ring = load_keyring(tmp_path / "keys" / "log.json", encrypts=encrypts)
    privacy = Privacy(ring)
    artifact = Artifact(digest="1" * 64, engine="onnx", size_bytes=1)
    served = ServedVersion(version=3, artifact=artifact, contract=contract.to_json())
    spec = EndpointSpec(name="log", model="toy")
    privacy.learn(TrafficPlan(revision=1, spec=spec, stable=served))
    return ring, Recorder(str(tmp_path / "log"), 1.0, privacy)


def ask(recorder, *records, key="x", request_id="r0", version=3):
    batch = Codec(PRIVATE).validate_records(list(records))
    half = np.full(batch.rows, 0.5)
    answer = Answer({"p": half, "risk": half, "note": half}, version, "stable")
    recorder.add(batch, answer, key=key, request_id=request_id, latency_s=0.01)


ANN = {"id": "ann", "name": 'Ann, "A"', "income": 7.0, "age": 40, "where": "x"}


def test_private_fields_are_hashed_or_left_out(tmp_path):
    ring, recorder = private_world(tmp_path)
    ask(recorder, ANN, key="ann")
    ask(recorder, ANN, {**ANN, "age": None, "id": "bob"}, key="ann", request_id="r1")
    recorder.flush()
    first, second, third = table(tmp_path / "log")
    inputs = json.loads(first["inputs"])
    assert inputs == {"name": ring.hashed(ANN["name"]), "age": ring.hashed(40), "where": "x"}
    assert json.loads(first["outputs"]) == {"p": 0.5, "risk": ring.hashed(0.5)}
    assert (first["key"], third["key"]) == (ring.hashed("ann"), ring.hashed("bob"))
    assert second["inputs"] == first["inputs"], "equal values stay equal"
    assert json.loads(third["inputs"])["age"] is None
    files = b"".join(one.read_bytes() for one in (tmp_path / "log").rglob("*") if one.is_file())
    assert b"Ann" not in files
    assert b"ann" not in files


def test_an_omitted_key_is_the_requests_id(tmp_path):
    contract = Contract(PRIVATE.inputs, PRIVATE.outputs, key="id", private_key="omit")
    _, recorder = private_world(tmp_path, contract=contract)
    ask(recorder, ANN, key="ann")
    recorder.flush()
    assert [row["key"] for row in table(tmp_path / "log")] == ["r0"]


def test_a_request_without_a_key_keeps_its_id_there(tmp_path):
    _, recorder = private_world(tmp_path)
    ask(recorder, {**ANN, "id": None}, key="r0")
    recorder.flush()
    assert table(tmp_path / "log")[0]["key"] == "r0"


def test_without_keys_what_should_be_hashed_is_left_out(tmp_path):
    _, recorder = private_world(tmp_path)
    recorder.privacy.keyring = None
    ask(recorder, ANN, key="ann")
    recorder.flush()
    (row,) = table(tmp_path / "log")
    assert json.loads(row["inputs"]) == {"where": "x"}
    assert row["key"] == "r0"


def test_each_answer_goes_by_the_contract_of_the_version_that_gave_it(tmp_path):
    _, recorder = private_world(tmp_path)
    ask(recorder, ANN, version=3)
    ask(recorder, ANN, version=2, request_id="r1")
    recorder.flush()
    private, plain = table(tmp_path / "log")
    assert "income" not in json.loads(private["inputs"])
    assert json.loads(plain["inputs"])["name"] == ANN["name"], "an older version was open"


# -- encryption ---------------------------------------------------------------------------


def test_encrypted_rows_show_what_was_given_to_who_has_the_key(tmp_path):
    ring, recorder = private_world(tmp_path, encrypts=True)
    ask(recorder, ANN, key="ann")
    recorder.flush()
    (row,) = table(tmp_path / "log")
    assert row["request_id"] == "r0", "searches need it"
    assert (row["arm"], row["version"]) == ("stable", 3)
    for name in ("key", "inputs", "outputs"):
        assert "hmac" not in row[name]
        assert "{" not in row[name]
    found = opened(ring, "log", row)
    assert json.loads(found["inputs"])["where"] == "x"
    assert found["key"] == ring.hashed("ann")


def test_encryption_may_begin_and_end_in_the_middle_of_a_log(tmp_path):
    ring, recorder = private_world(tmp_path)
    plain = recorder.privacy.keyring
    for number, keyring in enumerate((plain, ring.encrypting(True), plain)):
        recorder.privacy.keyring = keyring
        ask(recorder, ANN, request_id=f"r{number}")
        assert recorder.flush() == 1
    assert [row["sealed_with"] is None for row in table(tmp_path / "log")] == [True, False, True]


def test_a_rotated_key_is_used_by_the_next_flush(tmp_path):
    ring, recorder = private_world(tmp_path, encrypts=True)
    ask(recorder, ANN)
    recorder.flush()
    ask(recorder, ANN, request_id="r1")
    recorder.privacy.keyring = rotated = ring.rotated()
    recorder.flush()
    rows = table(tmp_path / "log")
    assert [key_of(row["sealed_with"]) for row in rows] == rotated.ids
    assert all(json.loads(opened(rotated, "log", row)["inputs"]) for row in rows)


# -- what goes wrong ----------------------------------------------------------------------


def test_a_record_that_has_no_json_is_dropped_alone_and_counted(tmp_path):
    recorder = Recorder(str(tmp_path / "log"), 1.0)
    bad = np.array(["a lone surrogate \ud800"], dtype=object)
    add(recorder, 2)
    recorder.add(rows(1.5), Answer({"p": bad}, 3, "stable"), key="x", request_id="b", latency_s=0.1)
    assert recorder.flush() == 2
    assert dict(recorder.drops) == {"not encodable": 1}
    assert [row["request_id"] for row in table(tmp_path / "log")] == ["r0", "r1"]


def test_a_full_disk_drops_and_says_so_and_is_over_when_there_is_room(tmp_path, monkeypatch):
    recorder = Recorder(str(tmp_path / "log"), 1.0)
    add(recorder, 1)
    recorder.flush()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("deltalake.write_deltalake", full)
        add(recorder, 3)
        with pytest.raises(OSError, match="No space"):
            recorder.flush()
    assert (recorder.dropped, recorder.drops["not written"]) == (3, 3)
    assert "No space left" in recorder.problem
    add(recorder, 2)
    assert recorder.flush() == 2
    assert (recorder.problem, recorder.dropped) == (None, 3)
    assert len(table(tmp_path / "log")) == 3


@pytest.mark.skipif(not Path("/bin/mount").exists() or os.geteuid() != 0, reason="needs root")
def test_a_disk_that_is_really_full_harms_nothing_that_was_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=False
    ).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        recorder = Recorder(str(disk / "log"), 1.0)
        add(recorder, 5)
        recorder.flush()
        (disk / "filler").write_bytes(b"x" * (256 * 1024 - 48 * 1024))
        noise = [str(number) * 9 for number in np.random.default_rng(0).random(2000)]
        contract = Contract(inputs={"a": Text()}, outputs={"p": Number()})
        batch = Codec(contract).validate_records([{"a": text} for text in noise])
        answer = Answer({"p": np.full(len(noise), 0.5)}, 3, "stable")
        recorder.add(batch, answer, key="x", request_id="big", latency_s=0.01)
        with pytest.raises((OSError, DeltaError)):
            recorder.flush()
        assert recorder.drops["not written"] == 1
        (disk / "filler").unlink()
        add(recorder, 2)
        assert recorder.flush() == 2
        assert len(table(disk / "log")) == 7
    finally:
        subprocess.run(["/bin/umount", str(disk)], check=True)


def test_a_clock_that_is_set_back_loses_nothing(tmp_path, monkeypatch):
    recorder = Recorder(str(tmp_path / "log"), 1.0)
    for now_s in (2e9, 1e9, 3e9):
        monkeypatch.setattr(recorder_module.time, "time", lambda now_s=now_s: now_s)
        add(recorder, 1)
    assert recorder.flush() == 3
    assert sorted(row["at_s"] for row in table(tmp_path / "log")) == [1e9, 2e9, 3e9]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_is_written_is_what_orjson_would_write(data):
    contract = data.draw(contracts())
    codec = Codec(contract)
    fields = {name: fitting(field) for name, field in contract.inputs.items()}
    records = data.draw(st.lists(st.fixed_dictionaries(fields), min_size=1, max_size=4))
    batch = codec.validate_records(records)
    answer = Answer({"p": np.arange(batch.rows) / 3}, 1, "stable")
    recorder = Recorder("nowhere", 1.0)
    recorder.add(batch, answer, key="k", request_id="r", latency_s=0.0)
    made = [row for entry in recorder._buffer for row in recorder_module._taken_apart(entry)]
    found, lost = as_table(made, recorder._kinds, Privacy(), "log")
    assert lost == 0
    assert [orjson.loads(text) for text in found.column("inputs").to_pylist()] == [
        orjson.loads(orjson.dumps(record, default=lambda one: one.tolist()))
        for record in batch.records()
    ]
    assert [orjson.loads(text) for text in found.column("outputs").to_pylist()] == [
        {"p": value} for value in answer.outputs["p"].tolist()
    ]
