"""Windows of features: what a replica saw, once, in the window in which it was."""

import numpy as np
import pytest

from aios.contracts import Boolean, Category, Codec, Contract, Integer, Number, Tensor, Text
from aios.records.watching import WindowPart
from aios.serving import features
from aios.serving.features import FeatureWindows
from aios.telemetry import Summary

CONTRACT = Contract(
    inputs={
        "income": Number(nullable=True),
        "age": Integer(),
        "kind": Category(["a", "b"]),
        "grade": Category([1, 2, 3]),
        "new": Boolean(nullable=True),
        "note": Text(),
        "picture": Tensor((2,), "FP32"),
    },
    outputs={"p": Number(), "label": Text()},
)
RECORD = {
    "income": 1.5,
    "age": 40,
    "kind": "a",
    "grade": 2,
    "new": True,
    "note": "hi",
    "picture": [0.0, 1.0],
}
CODEC = Codec(CONTRACT, 10_000)
ANSWER = {"p": np.array([0.25]), "label": np.array(["yes"], dtype=object)}


def batch(*changes):
    return CODEC.validate_records([{**RECORD, **change} for change in changes])


def summaries(part: WindowPart) -> dict[str, Summary]:
    return {name: Summary.from_json(one) for name, one in (part.inputs | part.outputs).items()}


@pytest.fixture
def windows():
    return FeatureWindows("loan", "r1", 60.0)


def test_a_window_is_ready_when_its_time_has_passed(windows):
    windows.add("stable", 1, batch({}), ANSWER)
    assert windows.fold(windows.take(), 119.0) == []
    windows.add("stable", 1, batch({}), ANSWER)
    (part,) = windows.fold(windows.take(), 121.0)
    assert (part.start_s, part.end_s, part.rows, part.arm) == (60.0, 120.0, 1, "stable")
    (last,) = [one for one in windows.finish(125.0) if one.id != part.id]
    assert (last.start_s, last.rows) == (120.0, 1)


def test_every_kind_of_field_is_summarised_and_tensors_left_out(windows):
    windows.add("stable", 1, batch({"income": None}, {"kind": "b", "new": None}), None)
    windows.add("stable", 1, batch({"grade": 3, "new": False}), ANSWER)
    (part,) = windows.finish(10.0)
    found = summaries(part)
    assert sorted(found) == ["age", "grade", "income", "kind", "label", "new", "note", "p"]
    assert {name: one.kind for name, one in found.items() if one.kind == "number"} == dict.fromkeys(
        ("age", "grade", "income", "p"), "number"
    )
    assert (found["income"].count, found["income"].nulls) == (3, 1)
    assert found["kind"].texts == {"a": 2, "b": 1}
    assert found["new"].texts == {"false": 1, "true": 1}
    assert found["grade"].sketch.max == 3
    assert (found["p"].count, found["label"].texts) == (1, {"yes": 1})


def test_many_rows_at_once_are_the_same_as_one_by_one(windows):
    many = [{"income": float(n), "new": n % 2 == 0} for n in range(300)]
    windows.add("stable", 1, batch(*many), None)
    whole = summaries(windows.finish(0.0)[0])
    single = FeatureWindows("loan", "r2", 60.0)
    for change in many:
        single.add("stable", 1, batch(change), None)
    each = summaries(single.finish(0.0)[0])
    assert whole["new"].texts == each["new"].texts == {"false": 150, "true": 150}
    assert whole["income"].count == each["income"].count == 300
    assert whole["income"].sketch.quantile(0.5) == pytest.approx(150, abs=8)


def test_arms_and_versions_are_kept_apart(windows):
    windows.add("stable", 1, batch({}), ANSWER)
    windows.add("canary", 2, batch({}, {}), None)
    found = {(part.arm, part.version): part.rows for part in windows.finish(0.0)}
    assert found == {("stable", 1): 1, ("canary", 2): 2}


def test_what_the_kernel_did_not_confirm_is_given_again(windows):
    windows.add("stable", 1, batch({}), None)
    windows.fold(windows.take(), 10.0)
    first = windows.fold([], 70.0)
    assert windows.fold([], 80.0) == first
    windows.sent(first)
    assert windows.fold([], 90.0) == []


def test_too_much_between_two_folds_is_dropped_and_counted(windows, monkeypatch):
    monkeypatch.setattr(features, "MAX_PENDING_ROWS", 3)
    for _ in range(5):
        windows.add("stable", 1, batch({}), None)
    (part,) = windows.finish(0.0)
    assert (part.rows, part.dropped) == (3, 2)


def test_a_clock_that_was_set_back_opens_another_window(windows):
    windows.add("stable", 1, batch({}), None)
    windows.fold(windows.take(), 130.0)
    windows.add("stable", 1, batch({}), None)
    windows.fold(windows.take(), 10.0)
    assert sorted(part.start_s for part in windows.finish(11.0)) == [0.0, 120.0]
