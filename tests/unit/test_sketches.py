"""Sketches keep a distribution to within their stated rank error, and survive the wire."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.errors import StoreCorrupt, UsageError
from aios.telemetry import Sketch

_numbers = st.lists(st.floats(-1e6, 1e6, width=32), max_size=60)


def _sketch(values: "list[float] | np.ndarray") -> Sketch:
    sketch = Sketch()
    sketch.update_many(values)
    return sketch


def test_quantiles_and_cdf_stay_within_the_rank_error() -> None:
    values = np.random.default_rng(1).lognormal(size=100_000)
    sketch = _sketch(values)
    assert 0 < sketch.rank_error < 0.01
    for q in (0.01, 0.5, 0.9, 0.95, 0.99):
        assert np.mean(values <= sketch.quantile(q)) == pytest.approx(q, abs=2 * sketch.rank_error)
        x = float(np.quantile(values, q))
        assert sketch.cdf(x) == pytest.approx(q, abs=2 * sketch.rank_error)
    assert sketch.min == pytest.approx(values.min())
    assert sketch.max == pytest.approx(values.max())
    assert len(sketch.to_bytes()) < 6000


@given(_numbers)
def test_small_sketches_are_exact_and_round_trip(values: list[float]) -> None:
    sketch = Sketch.from_bytes(_sketch(values).to_bytes())
    assert sketch.count == len(values)
    assert sketch.rank_error == 0.0
    for x in values:
        assert sketch.cdf(x) == pytest.approx(np.mean(np.asarray(values) <= x))
        assert sketch.quantile(sketch.cdf(x)) == x


@given(_numbers, _numbers)
def test_merging_equals_having_seen_both(left: list[float], right: list[float]) -> None:
    merged, other = _sketch(left), _sketch(right)
    merged.quantile(0.5)
    merged.merge(other)
    both = _sketch(left + right)
    assert merged.count == both.count
    assert other.count == len(right)
    for q in (0.0, 0.3, 0.5, 1.0):
        assert merged.quantile(q) == pytest.approx(both.quantile(q), nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=2, max_size=6), st.sampled_from([200, 400]))
def test_merged_sketches_of_any_sizes_keep_all_their_weight(sizes: list[int], k: int) -> None:
    draws = np.random.default_rng(sum(sizes))
    merged, every = Sketch(k), []
    for size in sizes:
        part, values = Sketch(k), draws.normal(size=size)
        part.update_many(values)
        merged.merge(Sketch.from_bytes(part.to_bytes()))
        every.append(values)
    whole = np.concatenate(every)
    values, cumulative = merged.steps
    assert cumulative[-1] == 1.0
    assert (np.diff(values) > 0).all()
    assert (np.diff(cumulative, prepend=0.0) > 0).all()
    # Of each example with 99 % confidence; twice of that is surely enough.
    for x in (-1.0, 0.0, 1.5):
        apart = abs(merged.cdf(x) - np.mean(whole <= x))
        assert apart <= 3 * merged.rank_error + 1e-9


def test_values_that_are_not_finite_are_left_out_and_shapes_flattened() -> None:
    sketch = _sketch(np.array([[1.0, np.nan], [np.inf, 3.0]]))
    assert (sketch.count, sketch.min, sketch.max) == (2, 1.0, 3.0)


def test_values_beyond_single_precision_stay_finite() -> None:
    assert np.isfinite(_sketch([1e300, -1e300]).max)


def test_an_empty_sketch_knows_nothing() -> None:
    sketch = Sketch.from_bytes(b"")
    assert sketch.count == 0
    assert np.isnan([sketch.min, sketch.max, sketch.quantile(0.5), sketch.cdf(1.0)]).all()


def test_a_quantile_beyond_the_sample_is_unbounded() -> None:
    assert _sketch([1.0]).quantile(1.01) == np.inf
    assert _sketch([1.0]).quantile(-0.01) == -np.inf


@settings(max_examples=200)
@given(st.data())
def test_damaged_bytes_are_refused_and_do_not_crash(data: st.DataObject) -> None:
    whole = _sketch(np.arange(50.0)).to_bytes()
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(StoreCorrupt, match="not a whole sketch"):
        Sketch.from_bytes(whole[:cut])
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 + data.draw(st.integers(0, 254))
    with pytest.raises(StoreCorrupt):
        Sketch.from_bytes(bytes(damaged))


def test_an_impossible_accuracy_is_refused() -> None:
    with pytest.raises(UsageError, match="between 8 and 65535"):
        Sketch(k=3)
