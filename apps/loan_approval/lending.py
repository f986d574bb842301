"""The recipe of the third act: who pays a business loan back."""

from typing import Any

from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

import aios


class BusinessLoan(aios.Recipe):
    """Gradient boosting over what an application says."""

    label = "repaid"
    metric = "auc"

    def fit(self, config: dict[str, Any], train: Any) -> Any:
        frame = train.frame()
        encoder = OrdinalEncoder(categories=[["no", "unknown", "yes"]])
        model = make_pipeline(
            make_column_transformer((encoder, ["revolving"]), remainder="passthrough"),
            HistGradientBoostingClassifier(max_iter=config.get("max_iter", 60), random_state=0),
        )
        return model.fit(frame[train.features], frame.repaid)
