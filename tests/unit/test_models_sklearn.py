"""scikit-learn estimators become ONNX graphs that answer alike, or are refused with a reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from aios.contracts import Boolean, Category, Codec, Contract, Integer, Number, Tensor, Text
from aios.errors import ArtifactRejected, Unsupported, UsageError
from aios.models import Built, build, load_engine

NUMBERS = {"income": Number(), "dependents": Integer(min=0, max=4)}
SCORE = {"approve": Number(min=0, max=1)}
MIXED = {
    "income": Number(nullable=True),
    "dependents": Integer(),
    "region": Category(["north", "south", "west"]),
    "owner": Boolean(),
    "grade": Category([1, 2, 3]),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Histogram trees spin on all cores, which on a busy machine is slower than one."""
    with threadpool_limits(limits=1):
        yield


@pytest.fixture(scope="module")
def frame() -> pandas.DataFrame:
    chance, rows = np.random.default_rng(5), 300
    made = pandas.DataFrame(
        {
            "income": chance.normal(size=rows),
            "dependents": chance.integers(0, 5, rows),
            "region": chance.choice(["north", "south", "west"], rows),
            "owner": chance.random(rows) < 0.5,
            "grade": chance.choice([1, 2, 3], rows),
            "race": chance.choice(["a", "b"], rows),
        }
    )
    made["approve"] = (made.income + made.dependents / 3 + (made.region == "north") > 1) * 1
    return made


def numeric(estimator: Any, frame: pandas.DataFrame, target: Any = None) -> Any:
    return estimator.fit(frame[list(NUMBERS)], frame.approve if target is None else target)


def answers(built: Built, contract: Contract, records: list[dict[str, Any]]) -> dict[str, Any]:
    engine = load_engine(built.folder, built.artifact, contract)
    return engine.run(Codec(contract).validate_records(records))


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        GradientBoostingClassifier(n_estimators=15),
        HistGradientBoostingClassifier(max_iter=15),
        RandomForestClassifier(15),
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_classifier_gives_the_probability_of_the_positive_class(
    estimator: Any, frame: pandas.DataFrame, tmp_path: Path
) -> None:
    contract = Contract(inputs=NUMBERS, outputs=SCORE)
    built = build(numeric(estimator, frame), contract, frame, tmp_path)
    assert built.artifact.engine == "onnx"
    assert built.conversion["rows"] == 300
    assert 0 < built.conversion["largest_difference"] < 1e-5
    unseen = [{"income": 0.3, "dependents": n} for n in range(5)]
    expected = estimator.predict_proba(pandas.DataFrame(unseen))[:, 1]
    np.testing.assert_allclose(answers(built, contract, unseen)["approve"], expected, rtol=1e-4)


def test_the_order_of_features_is_the_estimators_not_the_contracts(
    frame: pandas.DataFrame, tmp_path: Path
) -> None:
    turned = Contract(inputs=dict(reversed(NUMBERS.items())), outputs=SCORE)
    estimator = numeric(LogisticRegression(), frame)
    built = build(estimator, turned, frame, tmp_path)
    assert built.conversion["features"] == ["income", "dependents"]
    row = {"income": 2.0, "dependents": 0}
    expected = estimator.predict_proba(pandas.DataFrame([row]))[0, 1]
    assert answers(built, turned, [row])["approve"][0] == pytest.approx(expected, rel=1e-5)


def test_building_twice_gives_the_same_digest(frame: pandas.DataFrame, tmp_path: Path) -> None:
    contract = Contract(inputs=NUMBERS, outputs=SCORE)
    estimator = numeric(GradientBoostingClassifier(n_estimators=5), frame)
    digests = {build(estimator, contract, frame, tmp_path).artifact.digest for _ in range(2)}
    assert len(digests) == 1


def column_transformer(**options: Any) -> ColumnTransformer:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return ColumnTransformer(
        [
            ("words", OneHotEncoder(handle_unknown="ignore"), ["region", "grade"]),
            ("numbers", numbers, ["income", "dependents"]),
        ],
        **options,
    )


def test_a_column_transformer_takes_texts_booleans_and_nulls(
    frame: pandas.DataFrame, tmp_path: Path
) -> None:
    holes = frame.assign(income=frame.income.where(frame.index % 7 != 0))
    estimator = make_pipeline(column_transformer(remainder="passthrough"), LogisticRegression())
    estimator.fit(holes[list(MIXED)], frame.approve)
    contract = Contract(inputs=MIXED, outputs=SCORE)
    built = build(estimator, contract, holes, tmp_path)
    row = {"income": None, "dependents": 2, "region": "west", "owner": True, "grade": 3}
    given = pandas.DataFrame([{**row, "income": np.nan}])
    assert answers(built, contract, [row])["approve"][0] == pytest.approx(
        estimator.predict_proba(given)[0, 1], rel=1e-5
    )


def test_columns_that_a_transformer_drops_need_not_be_in_the_contract(
    frame: pandas.DataFrame, tmp_path: Path
) -> None:
    estimator = make_pipeline(column_transformer(), LogisticRegression())
    estimator.fit(frame.drop(columns="approve"), frame.approve)
    assert "race" in estimator.feature_names_in_
    used = {name: MIXED[name] for name in ("region", "grade", "dependents", "income")}
    built = build(estimator, Contract(inputs=used, outputs=SCORE), frame, tmp_path)
    assert set(built.conversion["features"]) == set(used)


def test_labels_and_named_classes_come_beside_each_other(
    frame: pandas.DataFrame, tmp_path: Path
) -> None:
    estimator = numeric(LogisticRegression(), frame, frame.region)
    contract = Contract(
        inputs=NUMBERS,
        outputs={"west": Number(min=0, max=1), "north": Number(), "region": MIXED["region"]},
    )
    built = build(estimator, contract, frame, tmp_path)
    given = frame[list(NUMBERS)].head(9)
    found = answers(built, contract, given.to_dict("records"))
    probabilities = estimator.predict_proba(given)
    np.testing.assert_allclose(found["west"], probabilities[:, 2], atol=1e-5)
    np.testing.assert_allclose(found["north"], probabilities[:, 0], atol=1e-5)
    assert list(found["region"]) == list(estimator.predict(given))


def test_a_classifier_tells_how_sure_it_is_of_its_label(
    frame: pandas.DataFrame, tmp_path: Path
) -> None:
    estimator = numeric(LogisticRegression(), frame, frame.region)
    contract = Contract(
        inputs=NUMBERS, outputs={"sure": Number(min=0, max=1), "region": MIXED["region"]}
    )
    chosen = {"sure": "confidence", "region": "label"}
    built = build(estimator, contract, frame, tmp_path, outputs=chosen)
    given = frame[list(NUMBERS)].head(9)
    found = answers(built, contract, given.to_dict("records"))
    largest = estimator.predict_proba(given).max(axis=1)
    np.testing.assert_allclose(found["sure"], largest, atol=1e-5)
    assert list(found["region"]) == list(estimator.predict(given))
    with pytest.raises(UsageError, match="no output 'confidence'"):
        build(
            numeric(LinearSVC(), frame, frame.region),
            contract,
            frame,
            tmp_path,
            outputs=chosen,
        )


def test_a_regressor_gives_values_one_per_output(frame: pandas.DataFrame, tmp_path: Path) -> None:
    one = Contract(inputs=NUMBERS, outputs={"amount": Number()})
    estimator = numeric(HistGradientBoostingRegressor(max_iter=10), frame, frame.income * 10)
    assert answers(build(estimator, one, frame, tmp_path), one, [{"income": 1.0, "dependents": 1}])[
        "amount"
    ].shape == (1,)
    two = Contract(inputs=NUMBERS, outputs={"low": Number(), "high": Number()})
    both = numeric(LinearRegression(), frame, np.stack([frame.income, -frame.income], axis=1))
    found = answers(build(both, two, frame, tmp_path), two, [{"income": 2.0, "dependents": 0}])
    assert found["low"] == pytest.approx(2.0, abs=1e-4)
    assert found["high"] == pytest.approx(-2.0, abs=1e-4)


def test_a_classifier_without_probabilities_gives_its_label(
    frame: pandas.DataFrame, tmp_path: Path
) -> None:
    estimator = numeric(LinearSVC(), frame)
    labelled = Contract(inputs=NUMBERS, outputs={"approve": Category([0, 1])})
    built = build(estimator, labelled, frame, tmp_path)
    found = answers(built, labelled, frame[list(NUMBERS)].to_dict("records"))["approve"]
    assert found.tolist() == estimator.predict(frame[list(NUMBERS)]).tolist()
    with pytest.raises(UsageError, match="has no predict_proba"):
        build(estimator, Contract(inputs=NUMBERS, outputs=SCORE), frame, tmp_path)


def test_values_between_two_float32_may_take_another_branch_and_are_found(tmp_path: Path) -> None:
    # Both values are the same float32, and float64 splits between them.
    values = np.array([[1.0], [1.0 + 1e-9]] * 20)
    estimator = HistGradientBoostingRegressor(min_samples_leaf=1, max_iter=20)
    estimator.fit(values, np.array([0.0, 100.0] * 20))
    contract = Contract(inputs={"x": Number()}, outputs={"y": Number()})
    with pytest.raises(ArtifactRejected, match="answers otherwise than the original") as caught:
        build(estimator, contract, values, tmp_path)
    assert caught.value.details["difference"] > 10
    assert caught.value.details["rows_differing"] == 20
    assert list(tmp_path.iterdir()) == []


def test_a_contract_that_allows_null_is_tried_with_null(
    frame: pandas.DataFrame, tmp_path: Path
) -> None:
    nullable = {**NUMBERS, "income": Number(nullable=True)}
    with pytest.raises(
        ArtifactRejected, match="itself raised ValueError on rows that the contract"
    ):
        build(
            numeric(LogisticRegression(), frame),
            Contract(inputs=nullable, outputs=SCORE),
            frame,
            tmp_path,
        )
    trees = numeric(HistGradientBoostingClassifier(max_iter=5), frame)
    built = build(trees, Contract(inputs=nullable, outputs=SCORE), frame, tmp_path)
    assert built.conversion["rows"] == 301


def refusal(estimator: Any, inputs: dict[str, Any], outputs: Any, sample: Any, into: Path) -> str:
    with pytest.raises((UsageError, Unsupported)) as caught:
        build(estimator, Contract(inputs=inputs, outputs=outputs), sample, into)
    assert list(into.iterdir()) == []
    return caught.value.message


def test_estimators_and_contracts_that_disagree_say_where(
    frame: pandas.DataFrame, tmp_path: Path
) -> None:
    fitted = numeric(LogisticRegression(), frame)
    unnamed = LogisticRegression().fit(frame[list(NUMBERS)].to_numpy(), frame.approve)
    three = {**NUMBERS, "grade": Number()}
    renamed = {"income": Number(), "grade": Integer()}
    cases = [
        (LogisticRegression(), NUMBERS, SCORE, "is not fitted; call fit"),
        (fitted, three, SCORE, "was not fitted on ['grade']"),
        (fitted, renamed, SCORE, "the contract lacks ['dependents']"),
        (unnamed, three, SCORE, "fitted on 2 features without names"),
        (fitted, NUMBERS, {"y": Category([0, 2])}, "predicts [1], which the output 'y'"),
        (fitted, NUMBERS, {"y": Text()}, "predicts [0, 1], which the output 'y'"),
        (numeric(LogisticRegression(), frame, frame.grade), NUMBERS, SCORE, "any of 3 classes"),
        (numeric(LinearRegression(), frame), NUMBERS, {"y": Category([0, 1])}, "is a regressor"),
    ]
    for estimator, inputs, outputs, message in cases:
        assert message in refusal(estimator, inputs, outputs, frame, tmp_path)


def test_estimators_that_cannot_be_converted_say_what_to_do(
    frame: pandas.DataFrame, tmp_path: Path
) -> None:
    logarithm = make_pipeline(FunctionTransformer(np.abs), LogisticRegression())
    message = refusal(numeric(logarithm, frame), NUMBERS, SCORE, frame, tmp_path)
    assert "cannot convert FunctionTransformer + LogisticRegression" in message
    assert "export it to ONNX yourself" in message
    assert "register a Python class by import path" in message
    forest = numeric(IsolationForest(n_estimators=5), frame)
    assert "neither a classifier nor" in refusal(forest, NUMBERS, SCORE, frame, tmp_path)
    fitted = numeric(LogisticRegression(), frame)
    assert "give a sample" in refusal(fitted, NUMBERS, SCORE, None, tmp_path)
    image = {**NUMBERS, "image": Tensor((2, 2))}
    rows = [{"income": 0.0, "dependents": 1, "image": [[0, 0], [0, 0]]}]
    assert "the tensors image" in refusal(fitted, image, SCORE, rows, tmp_path)


def test_outputs_can_be_chosen(frame: pandas.DataFrame, tmp_path: Path) -> None:
    estimator = numeric(LogisticRegression(), frame)
    contract = Contract(inputs=NUMBERS, outputs={"refuse": Number(), "decision": Integer()})
    chosen = {"refuse": ("probabilities", 0), "decision": "label"}
    built = build(estimator, contract, frame, tmp_path, outputs=chosen)
    row = {"income": 9.0, "dependents": 4}
    found = answers(built, contract, [row])
    assert found["refuse"][0] < 0.1
    assert found["decision"].tolist() == [1]
    with pytest.raises(UsageError, match="no output 'value'; there are label, probabilities"):
        build(estimator, contract, frame, tmp_path, outputs={**chosen, "decision": "value"})


def words(lowercase: bool) -> Any:
    """A fitted classifier of texts."""
    texts = pandas.DataFrame({"text": ["late fee on card", "late card", "house loan", "loan due"]})
    vectorizer = TfidfVectorizer(lowercase=lowercase, token_pattern="[a-zA-Z]+")
    columns = ColumnTransformer([("words", vectorizer, "text")])
    return make_pipeline(columns, LogisticRegression()).fit(texts, ["card", "card", "loan", "loan"])


def test_a_classifier_of_texts_splits_them_into_words(tmp_path: Path) -> None:
    contract = Contract(
        inputs={"text": Text(max_length=100)}, outputs={"about": Category(["card", "loan"])}
    )
    records = [{"text": "a card, and a fee"}, {"text": "loan? loan!"}, {"text": ""}]
    built = build(words(False), contract, records, tmp_path)
    assert answers(built, contract, records)["about"].tolist()[:2] == ["card", "loan"]
    with pytest.raises(Unsupported, match="lowercase=True depends on the locales"):
        build(words(True), contract, records, tmp_path)
