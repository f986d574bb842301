"""Summaries: constant memory, mergeable, and the same after a round trip."""

import numpy as np
import pytest

from aios.errors import StoreCorrupt, UsageError
from aios.telemetry import Summary, merged


def numbers(values) -> Summary:
    summary = Summary("number")
    summary.add(values)
    return summary


def texts(values) -> Summary:
    summary = Summary("text")
    summary.add(values)
    return summary


def test_nulls_are_counted_and_left_out_of_the_distribution():
    summary = numbers([1.0, None, float("nan"), 3.0])
    assert (summary.count, summary.nulls, summary.present) == (4, 2, 2)
    assert (summary.sketch.min, summary.sketch.max) == (1.0, 3.0)


def test_texts_are_counted_by_how_they_are_spelled():
    summary = texts(["a", "b", "a", None, True, np.True_, 3])
    assert summary.nulls == 1
    assert summary.texts == {"a": 2, "true": 2, "3": 1, "b": 1}
    assert summary.distinct == 4


def test_merging_parts_gives_what_all_values_at_once_give():
    values = np.random.default_rng(1).normal(size=150)
    parts = merged([{"x": numbers(values[:70])}, {"x": numbers(values[70:])}, {}])
    whole = numbers(values)
    assert parts["x"].count == 150
    assert np.array_equal(parts["x"].sketch.steps[0], whole.sketch.steps[0])


def test_a_feature_that_changed_its_kind_starts_anew():
    found = merged([{"x": numbers([1.0, 2.0])}, {"x": texts(["a"])}])
    assert (found["x"].kind, found["x"].count) == ("text", 1)
    with pytest.raises(UsageError, match="cannot be added"):
        numbers([1.0]).merge(texts(["a"]))


@pytest.mark.parametrize("made", [numbers([1.0, None, 2.5]), texts(["a", None, "b", "a"])])
def test_a_round_trip_through_json_keeps_everything(made):
    back = Summary.from_json(made.to_json())
    assert back.to_json() == made.to_json()
    assert (back.count, back.nulls, back.texts, back.distinct) == (
        made.count,
        made.nulls,
        made.texts,
        made.distinct,
    )


@pytest.mark.parametrize(
    "broken",
    [{}, {"kind": "number", "count": 1, "nulls": 0, "sketch": "QUJD"}, {"kind": "colour"}],
)
def test_what_is_no_summary_is_refused(broken):
    with pytest.raises(StoreCorrupt):
        Summary.from_json(broken)


def test_size_does_not_grow_with_the_values():
    random = np.random.default_rng(2)
    small, large = numbers(random.normal(size=10_000)), numbers(random.normal(size=1_000_000))
    assert len(str(large.to_json())) < 1.5 * len(str(small.to_json())) < 9_000
    many = texts([f"word {n}" for n in range(100_000)])
    assert len(str(many.to_json())) < 6_000
    assert many.distinct == pytest.approx(100_000, rel=0.15)


def test_more_texts_than_can_be_named_are_all_counted_by_hash():
    words = [f"word {n}" for n in range(1000)]
    made, other = texts(words), texts(words[:100])
    assert not made.named
    assert made.buckets.sum() == made.present == 1000
    back = Summary.from_json(made.to_json())
    back.merge(other)
    assert back.buckets.tolist() == (made.buckets + other.buckets).tolist()
    assert texts(["a", "b", None]).named


def test_a_summary_of_texts_without_buckets_is_of_an_older_aios_and_is_still_read():
    old = {k: v for k, v in texts(["a", "b"]).to_json().items() if k != "buckets"}
    back = Summary.from_json(old)
    assert back.buckets is None
    back.merge(texts(["a"]))
    assert (back.texts, back.buckets) == ({"a": 2, "b": 1}, None)
