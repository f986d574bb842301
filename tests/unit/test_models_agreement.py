"""When a converted model counts as the same, and how a difference is told."""

import numpy as np
import pytest

from aios.errors import ArtifactRejected
from aios.models.agreement import check_agreement


def compare(original: object, converted: object, tolerance: float = 1e-3) -> float:
    return check_agreement(
        {"y": np.asarray(original)},
        {"y": np.asarray(converted)},
        tolerance=tolerance,
        what="a converted model",
    )


def test_the_largest_difference_within_tolerance_is_returned() -> None:
    assert compare([0.0, 0.5], [0.0, 0.5004]) == pytest.approx(0.0004)


def test_the_tolerance_is_absolute_and_relative() -> None:
    compare([0.0], [0.0009])
    compare([1e6], [1e6 + 999])
    with pytest.raises(ArtifactRejected):
        compare([0.0], [0.0011])
    with pytest.raises(ArtifactRejected):
        compare([1e6], [1e6 + 1100])


def test_the_worst_row_is_told_with_both_values() -> None:
    with pytest.raises(
        ArtifactRejected, match=r"worst at row 2: original 0\.3, converted 0\.9"
    ) as e:
        compare([0.1, 0.2, 0.3, 0.4], [0.1, 0.3, 0.9, 0.5])
    assert e.value.details == {
        "output": "y",
        "row": 2,
        "original": 0.3,
        "converted": 0.9,
        "difference": pytest.approx(0.6),
        "rows_differing": 3,
    }


def test_the_worst_row_is_the_one_furthest_over_its_own_tolerance() -> None:
    with pytest.raises(ArtifactRejected, match="worst at row 1"):
        compare([1e6, 0.0], [1e6 + 900, 0.5])


def test_nan_agrees_only_with_nan() -> None:
    assert compare([np.nan, 1.0], [np.nan, 1.0]) == 0.0
    for pair in (([np.nan], [1.0]), ([1.0], [np.nan]), ([np.inf], [1.0]), ([1.0], [-np.inf])):
        with pytest.raises(ArtifactRejected):
            compare(*pair)
    assert compare([np.inf], [np.inf]) == 0.0


def test_labels_must_be_equal_whatever_their_dtype() -> None:
    assert compare(["a", "b"], np.array(["a", "b"], dtype=object)) == 0.0
    assert compare([True, False], [1, 0]) == 0.0
    with pytest.raises(ArtifactRejected, match="worst at row 1: original 'b', converted 'a'"):
        compare(["a", "b"], ["a", "a"])


def test_tensors_are_compared_per_row_and_shapes_must_agree() -> None:
    with pytest.raises(ArtifactRejected, match="worst at row 1"):
        compare(np.zeros((2, 3)), [[0, 0, 0], [0, 0, 1]])
    with pytest.raises(ArtifactRejected, match="has shape"):
        compare([1.0, 2.0], [[1.0], [2.0]])
