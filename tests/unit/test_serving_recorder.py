"""The prediction log: rows in Delta, bounded memory, counted losses."""

import json
import threading

import numpy as np
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from serving_fakes import rows

from aios.serving import recorder as recorder_module
from aios.serving.endpoint import Answer
from aios.serving.recorder import Recorder


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
