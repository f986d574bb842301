"""Recipes that do well, and recipes that do what recipes in the wild do."""

import time
from typing import Any

import aios


class Toy(aios.Recipe):
    """Learns, raises or takes its time, as `how` says."""

    label = "y"
    output = "p"

    def fit(self, config: Any, train: Any) -> Any:
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        how = config.get("how", "well")
        if how == "raises":
            raise ValueError("no convergence")
        time.sleep(10 if how == "slow" else 0.5)
        frame = train.frame()
        model = make_pipeline(SimpleImputer(), LogisticRegression(C=config.get("C", 1.0)))
        return model.fit(frame[train.features], frame[train.label])


class Raises(Toy):
    def fit(self, config: Any, train: Any) -> Any:
        raise ValueError("no convergence")


class ReturnsNothing(Toy):
    def fit(self, config: Any, train: Any) -> Any:
        train.frame()


class Hangs(Toy):
    def fit(self, config: Any, train: Any) -> Any:
        time.sleep(600)


class Leaks(Toy):
    label = "a"
    output = "p"


class Unknown(Toy):
    protected = ("gender",)
