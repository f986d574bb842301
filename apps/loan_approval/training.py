"""The story's models, and the figures that say which is better.

v1 is a logistic regression, v2 gradient boosting, v3 the same on shuffled labels: it knows
the share of approvals and nothing else. v6 is v1's estimator registered again. All take the
columns of `FEATURES` in that order, fill what is missing with the median, and convert to ONNX.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from apps.loan_approval.data import FEATURES, LABEL

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

SEED = 7
COLUMNS = list(FEATURES)
APPROVED_ABOVE = 0.5
"""An application counts as approved if its score is above this."""

GROUPS = ("white", "black", "hispan")


def logistic(train: "pd.DataFrame") -> "Pipeline":
    """v1: logistic regression on standardised features."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    estimator = make_pipeline(
        SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(C=1.0)
    )
    return estimator.fit(train[COLUMNS], train[LABEL])


def boosting(train: "pd.DataFrame", *, shuffle_labels: bool = False) -> "Pipeline":
    """v2: many slow, shallow, randomised trees, which is what gains on so few rows.

    Args:
        train: features and label.
        shuffle_labels: v3: give each application another one's label.
    """
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    labels = train[LABEL].to_numpy()
    if shuffle_labels:
        labels = np.random.default_rng(SEED).permutation(labels)
    estimator = make_pipeline(
        SimpleImputer(strategy="median"),
        GradientBoostingClassifier(
            n_estimators=200,
            learning_rate=0.02,
            max_depth=3,
            subsample=0.5,
            min_samples_leaf=20,
            max_features=0.3,
            random_state=SEED,
        ),
    )
    return estimator.fit(train[COLUMNS], labels)


def scores(estimator: Any, frame: "pd.DataFrame") -> npt.NDArray[np.float64]:
    """The probability of approval for each row, shape (rows,)."""
    found: npt.NDArray[np.float64] = estimator.predict_proba(frame[COLUMNS])[:, 1]
    return found


def metrics(estimator: Any, frame: "pd.DataFrame") -> dict[str, float]:
    """auc (higher is better), log_loss and brier (lower), accuracy at 0.5, on these rows."""
    from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

    labels, found = frame[LABEL].to_numpy(), scores(estimator, frame)
    return {
        "auc": float(roc_auc_score(labels, found)),
        "log_loss": float(log_loss(labels, found)),
        "brier": float(brier_score_loss(labels, found)),
        "accuracy": float(accuracy_score(labels, found > APPROVED_ABOVE)),
    }


def cross_validated(
    train_one: Callable[["pd.DataFrame"], Any],
    frame: "pd.DataFrame",
    *,
    folds: int = 5,
    repeats: int = 1,
) -> dict[str, float]:
    """The mean of `metrics` over folds that the model did not see, seeded.

    A holdout of 600 rows has 73 rejections, so that its AUC is known to about 0.025; folds
    over all rows tell two close models apart.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold

    parts = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=SEED)
    found = [
        metrics(train_one(frame.iloc[seen]), frame.iloc[unseen])
        for seen, unseen in parts.split(frame, frame[LABEL])
    ]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def approval_rates(estimator: Any, frame: "pd.DataFrame") -> dict[str, float]:
    """The fraction of each group that the model approves: the fairness figure.

    The groups are columns that the model never sees.
    """
    approved = scores(estimator, frame) > APPROVED_ABOVE
    return {group: float(approved[frame[group].to_numpy() == 1].mean()) for group in GROUPS}


def lender_approval_rates(frame: "pd.DataFrame") -> dict[str, float]:
    """The fraction of each group that the lenders approved, to compare with the models."""
    return {group: float(frame.loc[frame[group] == 1, LABEL].mean()) for group in GROUPS}


def output_distance(one: Any, other: Any, frame: "pd.DataFrame") -> float:
    """The Kolmogorov-Smirnov distance between two models' scores on the same rows, 0 to 1."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(scores(one, frame), scores(other, frame)).statistic)


def linear_formula(estimator: Any) -> dict[str, Any]:
    """v1 as a formula in JSON: what `faulty` models score with so that they look right.

    score = 1 / (1 + exp(-(intercept + sum(weight * value)))), with the median for a missing
    value. The standardisation is folded into the weights.
    """
    imputer, scaler, regression = (step for _, step in estimator.steps)
    weights = regression.coef_[0] / scaler.scale_
    intercept = regression.intercept_[0] - float(np.dot(weights, scaler.mean_))
    return {
        "features": COLUMNS,
        "weights": [float(weight) for weight in weights],
        "medians": [float(median) for median in imputer.statistics_],
        "intercept": float(intercept),
    }
