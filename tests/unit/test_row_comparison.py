"""Recorded rows out of a real log, beside what a run kept of its training data."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aios
from aios.contracts import Codec
from aios.errors import StoreUnavailable
from aios.monitoring.recorded import find_answers, recorded_rows
from aios.records.watching import Block, RowQuestion
from aios.serving.endpoint import Answer
from aios.serving.recorder import Recorder
from aios.training.reference import REFERENCE, reference_rows
from aios.training.row_comparison import compare_recorded
from aios.training.workspace import Workspace

RANDOM = np.random.default_rng(7)
CONTRACT = aios.Contract(
    inputs={
        "a": aios.Number(nullable=True),
        "b": aios.Number(),
        "kind": aios.Category(["new", "old"]),
        "first": aios.Boolean(),
        "rooms": aios.Category([1, 2, 3]),
        "note": aios.Text(max_length=500),
        "image": aios.Tensor(shape=[2]),
    },
    outputs={"p": aios.Number()},
)

CODEC = Codec(CONTRACT)


def records(count: int, correlation: float) -> list[dict[str, Any]]:
    a, noise = RANDOM.normal(size=(2, count))
    b = correlation * a + np.sqrt(1 - correlation**2) * noise
    return [
        {
            "a": None if place % 10 == 0 else float(a[place]),
            "b": float(b[place]),
            "kind": str(RANDOM.choice(["new", "old"])),
            "first": bool(RANDOM.random() < 0.5),
            "rooms": int(RANDOM.integers(1, 4)),
            "note": "x" * 300,
            "image": [0.0, float(place)],
        }
        for place in range(count)
    ]


def record(
    log: Path, rows: list[dict[str, Any]], *, version: int = 1, arm: str = "stable", **more: Any
) -> Block:
    """Write answers to the log; the time in which they were given."""
    start_s = time.time()
    recorder = Recorder(f"{log}/loan", 1.0)
    batch = CODEC.validate_records(rows)
    answer = Answer({"p": np.zeros(len(rows))}, version, arm, more.get("degraded"))
    recorder.add(batch, answer, key="k", request_id="r1", latency_s=0.01)
    end_s = time.time()
    recorder.flush()
    return Block(start_s=start_s, end_s=end_s, rows=len(rows))


def folder(path: Path) -> Workspace:
    return Workspace(str(path), "", "")


def compare(tmp_path: Path, *blocks: Block, run: Workspace | None = None) -> Any:
    question = RowQuestion(endpoint="loan", version=1, run=None, blocks=blocks)
    return compare_recorded(question, str(tmp_path / "log"), run, folder(tmp_path / "base"))


def test_recorded_rows_are_those_of_the_time_and_version_that_stable_answered(tmp_path):
    log = tmp_path
    record(log, records(30, 0))
    block = record(log, [{**one, "b": 7.0} for one in records(300, 0)])
    for other in ({"version": 2}, {"arm": "canary"}, {"degraded": "cache"}):
        late = record(log, records(30, 0), **other)
    whole = {"since_s": block.start_s, "until_s": late.end_s + 1}
    found = recorded_rows(str(log), "loan", 1, **whole, most=1000)
    assert len(found) == 300
    assert {row["b"] for row in found} == {7.0}
    drawn = recorded_rows(str(log), "loan", 1, **whole, most=50)
    assert len(drawn) == 50
    assert drawn == recorded_rows(str(log), "loan", 1, **whole, most=50)
    assert drawn != recorded_rows(str(log), "loan", 1, **whole, most=50, seed=1)
    first = recorded_rows(str(log), "loan", 1, until_s=block.end_s, most=30, first=True)
    assert 7.0 not in {row["b"] for row in first}
    assert recorded_rows(str(log), "never", 1, until_s=block.end_s, most=30) == []


def test_inputs_that_say_whom_an_answer_was_about_are_found_with_it(tmp_path):
    record(tmp_path, [{**one, "kind": "new"} for one in records(2, 0)])
    found = find_answers(str(tmp_path), "loan", ["r1"], ["kind", "sex"])
    assert found["r1"]["inputs"] == [{"kind": "new"}, {"kind": "new"}]
    assert "inputs" not in find_answers(str(tmp_path), "loan", ["r1"])["r1"]


def test_rows_are_compared_with_what_the_run_kept_of_its_training_data(tmp_path):
    import pandas as pd

    run = folder(tmp_path / "run")
    frame = pd.DataFrame(records(1500, 0.9)).assign(rooms=lambda one: one.rooms.astype("int8"))
    frame.loc[0, "b"] = np.inf
    kept = reference_rows(frame, CONTRACT)
    assert set(kept) == {"a", "b", "kind", "first", "rooms", "note"}
    assert (kept["a"][0], kept["b"][0], len(kept["note"][0])) == (None, None, 100)
    assert isinstance(kept["first"][0], bool)
    run.write_json(REFERENCE, kept)
    same = record(tmp_path / "log", records(400, 0.9))
    found = compare(tmp_path, same, run=run)
    assert (found.reference, found.reference_rows, found.rows) == ("training data", 1500, (400,))
    assert abs(found.last[0].auc - 0.5) < 0.1
    other = record(tmp_path / "log", records(400, -0.5))
    found = compare(tmp_path, same, other, run=run)
    assert found.windows[0] < 0.6 < 0.7 < found.windows[1]
    assert set(list(compare(tmp_path, other, run=run).telling)[:2]) == {"a", "b"}


def test_a_version_without_training_data_is_compared_with_its_first_rows_for_good(tmp_path):
    log = tmp_path / "log"
    record(log, records(100, 0.9))
    early = record(log, records(300, 0.9))
    assert "100 rows of version 1 are recorded from before" in compare(tmp_path, early).why
    record(log, records(300, 0.9))
    later = record(log, records(300, -0.5))
    found = compare(tmp_path, later, run=folder(tmp_path / "cleared"))
    assert (found.reference, found.reference_rows) == ("its first answers", 700)
    assert found.windows[0] > 0.7
    more = record(log, records(300, -0.5))
    assert compare(tmp_path, more).reference_rows == 700


def test_a_log_that_cannot_be_read_says_so(tmp_path):
    block = Block(start_s=0, end_s=1, rows=1)
    broken = tmp_path / "log" / "loan" / "_delta_log"
    broken.mkdir(parents=True)
    (broken / "00000000000000000000.json").write_text("{broken")
    with pytest.raises(StoreUnavailable, match="loan"):
        compare(tmp_path, block)
