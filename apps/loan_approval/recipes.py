"""Three ways to train the mortgage model, which differ in what they may look at.

Race and sex are inputs of none. What a model may see decides how it treats people all the
same: a mark in the credit file is more frequent in groups that were lent to on worse terms.
"""

from typing import Any

import aios

ABILITY = ["obrat", "hrat", "loanprc"]
"""Obligations and housing expense per income, and loan per price of the home."""

HISTORY_MARKS = ["gdlin", "unver", "pubrec"]
"""Credit history meets the guidelines, information not verified, bankruptcy on record."""


class Mortgage(aios.Recipe):
    """What the three share: a logistic regression on some of the columns."""

    label = "approve"
    protected = ("black", "hispan", "male")
    key = "application_id"
    holdout_fraction = 0.4
    split_seed = 7

    def columns(self, features: list[str]) -> list[str]:
        """Which of the contract's inputs the model looks at."""
        raise NotImplementedError

    def fit(self, config: dict[str, Any], train: Any) -> Any:
        """Takes all inputs of the contract and drops those that it must not look at, so that
        every version answers the same requests."""
        from sklearn.compose import ColumnTransformer
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        frame, features = train.frame(), list(train.features)
        prepared = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        estimator = make_pipeline(
            ColumnTransformer([("seen", prepared, self.columns(features))]),
            LogisticRegression(C=config.get("C", 1.0)),
        )
        return estimator.fit(frame[features], frame[self.label])


class AbilityToPay(Mortgage):
    """Three ratios and nothing else."""

    def columns(self, features: list[str]) -> list[str]:
        return ABILITY


class Everything(Mortgage):
    """All that the lenders knew."""

    def columns(self, features: list[str]) -> list[str]:
        return features


class WithoutHistoryMarks(Mortgage):
    """All but three yes-or-no marks of the credit file."""

    def columns(self, features: list[str]) -> list[str]:
        return [name for name in features if name not in HISTORY_MARKS]
