"""What a policy may set of each gate. A default is what the gate does unasked, with its reason.

Shares and probabilities are fractions from 0 to 1; nothing is negative or NaN.
"""

from typing import Annotated, Literal

from pydantic import Field

from aios.records import Given

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Confidence = Annotated[float, Field(ge=0.5, lt=1, allow_inf_nan=False)]
Threshold = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

FairnessMetric = Literal["demographic_parity", "equalised_odds", "equal_opportunity"]


class QualityParams(Given):
    """`margin` is how much worse than stable is still as good, in the metric's unit (for rmse
    and mae: as a fraction of stable's). `metric` overrides the one that search was for; of a
    metric for the other kind of label the usual one is taken, auc or rmse. `min_class_rows` of
    each class are needed to judge at all. `decision_threshold` is for accuracy."""

    margin: Amount = 0.01
    confidence: Confidence = 0.95
    metric: Literal["auc", "log_loss", "brier", "accuracy", "rmse", "mae", "r2"] | None = None
    min_class_rows: Count = 20
    decision_threshold: Threshold = 0.5


class FairnessParams(Given):
    """`max` bounds each of `metrics`, for each protected attribute, with `confidence`.

    A group of fewer than `min_group_size` rows, or a rate over fewer than `min_rate_rows` of
    a group, is not judged. `favourable` is the label that people want to get.
    `decision_threshold` is the score from which on the answer is yes, as it is used.
    """

    metrics: tuple[FairnessMetric, ...] = Field(default=("demographic_parity",), min_length=1)
    max: Share = 0.2
    confidence: Confidence = 0.95
    min_group_size: Count = 30
    min_rate_rows: Count = 10
    favourable: Literal[0, 1] = 1
    decision_threshold: Threshold = 0.5


class CalibrationParams(Given):
    """`max` bounds the expected calibration error over `bins` bins of equally many rows;
    `by_group` also within each group of a protected attribute with `min_group_size` rows."""

    max: Share = 0.1
    bins: int = Field(default=10, ge=2, le=100)
    by_group: bool = False
    min_group_size: Count = 100


class RobustnessParams(Given):
    """`noise` is in standard deviations of each number; `max_flipped` is the share of
    decisions that such noise may turn, where a score from `decision_threshold` on is a yes."""

    noise: Amount = 0.01
    max_flipped: Share = 0.02
    decision_threshold: Threshold = 0.5


class LatencyParams(Given):
    """The measured p95 of one row must be within `budget_s`, or without it within `share` of
    the endpoint's deadline: the rest is for the network, the queue and the fallback."""

    budget_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    share: float = Field(default=0.5, gt=0, le=1, allow_inf_nan=False)
    runs: int = Field(default=200, ge=20, le=10_000)


class ContractParams(Given):
    """`allow_breaking` takes a contract that refuses what stable's accepts; it needs every
    caller to change. `allow_protected` takes a protected attribute as an input."""

    allow_breaking: bool = False
    allow_protected: bool = False


class ArtifactParams(Given):
    """`allow_trusted_code` takes models that are a Python class by import path."""

    allow_trusted_code: bool = False


class DataQualityParams(Given):
    """Limits on the snapshot and the holdout. `max_single_auc` is how well one input alone
    may rank the label (for regression: its rank correlation) before it counts as a leak."""

    min_rows: Count = 100
    max_null_share: Share = 0.5
    max_duplicate_share: Share = 0.05
    max_out_of_range_share: Share = 0.0
    max_single_auc: float = Field(default=0.98, gt=0.5, le=1, allow_inf_nan=False)


class ExplanationParams(Given):
    """At least `min_features` inputs must matter."""

    min_features: Count = 1


class CardParams(Given):
    """Nothing to set: the sections are the policy's."""
