"""How unusual a record is: the stored isolation forest beside scikit-learn's own."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas
import pytest
from onnx_graphs import sample_rows, score_contract, write_model
from sklearn.ensemble import IsolationForest

from aios.contracts import Boolean, Category, Codec, Contract, Integer, Number, Tensor, Text
from aios.errors import ArtifactRejected
from aios.models import build, load_engine, load_outliers, verify
from aios.models import outliers as outliers_module
from aios.models.isolation_graph import average_path, isolation_graph
from aios.models.manifest import OutlierColumn, parse_manifest
from aios.models.outliers import FittedOutliers, fit_outliers
from aios.models.safety import check_onnx

OUT = {"p": Number(min=0, max=1)}
MIXED = Contract(
    inputs={
        "income": Number(nullable=True),
        "dependents": Integer(),
        "owner": Boolean(),
        "member": Boolean(nullable=True),
        "region": Category(["north", "south", "west"], nullable=True),
        "grade": Category([1, 2, 3], nullable=True),
        "note": Text(nullable=True),
        "place": Tensor([2]),
    },
    outputs=OUT,
)


def people(rows: int = 400) -> list[dict[str, Any]]:
    chance = np.random.default_rng(3)

    def maybe(value: Any) -> Any:
        return None if chance.random() < 0.1 else value

    return [
        {
            "income": maybe(float(chance.normal(50, 10))),
            "dependents": int(chance.integers(0, 4)),
            "owner": bool(chance.random() < 0.9),
            "member": maybe(bool(chance.random() < 0.5)),
            "region": maybe(str(chance.choice(["north", "south"], p=[0.8, 0.2]))),
            "grade": maybe(int(chance.choice([1, 2, 3]))),
            "note": "x",
            "place": [0.0, 1.0],
        }
        for _ in range(rows)
    ]


def fitted(background: Any, contract: Contract) -> FittedOutliers:
    found = fit_outliers(background, contract)
    assert isinstance(found, FittedOutliers), found
    return found


def detector(found: FittedOutliers, contract: Contract) -> outliers_module.OutlierDetector:
    return outliers_module.OutlierDetector(found.content, found.entry, contract, ref="test:1")


def by_hand(rows: list[dict[str, Any]]) -> np.ndarray:
    """The matrix as the manifest's words say it, with pandas."""
    frame = pandas.DataFrame(rows).drop(columns=["note", "place"])
    for name in ("income", "dependents", "owner", "member"):
        values = frame[name].astype("float64")
        frame[name] = values.fillna(values.median())
    for name in ("region", "grade"):
        spelled = frame[name].astype(object).where(frame[name].notna(), "null")
        frame[name] = spelled.map(spelled.value_counts(normalize=True))
    return frame.to_numpy(np.float32)


def test_scores_are_scikit_learns_on_the_same_matrix() -> None:
    rows = people()
    batch = Codec(MIXED).validate_records(rows)
    scores = detector(fitted(rows, MIXED), MIXED).score(batch).scores
    matrix = by_hand(rows)
    oracle = -IsolationForest(random_state=0).fit(matrix).score_samples(matrix)
    np.testing.assert_allclose(scores, oracle, atol=1e-6)
    assert np.ptp(oracle) > 0.2


@pytest.mark.parametrize("shape", [(100, 1), (300, 2), (2000, 30)])
@pytest.mark.parametrize("kind", ["normal", "integers", "huge", "constant"])
def test_no_row_changes_sides_in_32_bits(shape: tuple[int, int], kind: str) -> None:
    chance = np.random.default_rng(1)
    matrix = {
        "normal": chance.normal(size=shape),
        "integers": chance.integers(0, 3, shape).astype(float),
        "huge": chance.normal(size=shape) * 1e30,
        "constant": np.full(shape, 7.0),
    }[kind].astype(np.float32)
    forest = IsolationForest(random_state=4).fit(matrix)
    content = isolation_graph(forest)
    check_onnx(content, "forest")
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for rows in (matrix, matrix * 1.5, np.zeros_like(matrix)):
        ours = session.run(None, {"rows": rows})[0].reshape(-1)
        np.testing.assert_allclose(ours, -forest.score_samples(rows), atol=2e-6)


def test_a_row_that_lies_on_a_cut_stays_on_its_side() -> None:
    matrix = np.random.default_rng(2).normal(size=(256, 1)).astype(np.float32)
    forest = IsolationForest(random_state=0).fit(matrix)
    trees = [estimator.tree_ for estimator in forest.estimators_]
    cuts = np.concatenate([tree.threshold[tree.children_left >= 0] for tree in trees])
    rows = cuts.astype(np.float32).reshape(-1, 1)
    assert (rows[:, 0] > cuts).mean() > 0.4
    import onnxruntime

    content = isolation_graph(forest)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    ours = session.run(None, {"rows": rows})[0].reshape(-1)
    np.testing.assert_allclose(ours, -forest.score_samples(rows), atol=2e-6)


def test_the_average_path_is_the_papers() -> None:
    from sklearn.ensemble._iforest import _average_path_length

    rows = np.arange(1, 500)
    np.testing.assert_allclose(average_path(rows), _average_path_length(rows), rtol=1e-12)


def test_what_is_far_off_scores_above_what_is_ordinary_and_says_how_far() -> None:
    rows = people(1000)
    found = detector(fitted(rows, MIXED), MIXED)
    usual = {**rows[0], "income": 50.0, "dependents": 1, "owner": True, "region": "north"}
    usual = {**usual, "member": True, "grade": 1}
    odd = {**usual, "income": 900.0, "dependents": 40, "owner": False, "region": "west"}
    told = found.score(Codec(MIXED).validate_records([usual, odd]))
    assert told.scores[0] < 0.45
    assert told.scores[1] > 0.6
    assert told.beyond[0] < 0.5
    assert told.beyond[1] > 0.99


def test_beyond_is_the_share_of_training_rows_that_are_less_unusual() -> None:
    rows = people(2000)
    batch = Codec(MIXED).validate_records(rows)
    told = detector(fitted(rows, MIXED), MIXED).score(batch)
    shares = (told.scores[:, None] > told.scores[None, :]).mean(axis=1)
    # Steps of half a percent; the rest is ties.
    assert np.abs(told.beyond - shares).max() < 0.01


def test_rows_that_are_all_alike_are_neither_usual_nor_unusual() -> None:
    contract = Contract(inputs={"a": Number(), "b": Number(nullable=True)}, outputs=OUT)
    found = detector(fitted([{"a": 1.0, "b": None}] * 200, contract), contract)
    told = found.score(Codec(contract).validate_records([{"a": 1.0}, {"a": 5.0, "b": 2.0}]))
    assert told.beyond.tolist() == [0.5, 0.5]


def test_null_is_the_median_of_a_number_and_a_category_of_its_own() -> None:
    columns = {one.field: one for one in fitted(people(), MIXED).entry.columns}
    present = [row["income"] for row in people() if row["income"] is not None]
    assert columns["income"] == OutlierColumn(field="income", fill=float(np.median(present)))
    shares = dict(columns["region"].shares or ())
    assert shares.keys() == {"north", "south", None}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert set(columns) == set(MIXED.inputs) - {"note", "place"}


def test_one_row_alone_scores_as_it_does_among_others() -> None:
    rows = people()
    found = detector(fitted(rows, MIXED), MIXED)
    together = found.score(Codec(MIXED).validate_records(rows)).scores
    alone = [found.score(Codec(MIXED).validate_records([row])).scores[0] for row in rows[:30]]
    np.testing.assert_allclose(alone, together[:30], atol=1e-7)


def test_a_field_that_the_batch_does_not_have_is_null() -> None:
    rows = people()
    found = detector(fitted(rows, MIXED), MIXED)
    narrow = Contract(
        inputs={n: f for n, f in MIXED.inputs.items() if n not in ("income", "region")},
        outputs=OUT,
    )
    kept = {name: rows[0][name] for name in narrow.inputs}
    without = found.score(Codec(narrow).validate_records([kept])).scores
    nulls = found.score(Codec(MIXED).validate_records([{**kept, "income": None, "region": None}]))
    assert without.tolist() == nulls.scores.tolist()


@pytest.mark.parametrize(
    ("contract", "background", "told"),
    [
        (MIXED, None, "no rows"),
        (MIXED, people(99), "100 rows are needed"),
        (Contract(inputs={"t": Text(), "x": Tensor([2])}, outputs=OUT), [{}] * 200, "no input is"),
        (MIXED, [{**people(1)[0], "dependents": "many"}] * 200, "is not an integer"),
        (MIXED, "nonsense", "cannot be read"),
    ],
)
def test_where_there_is_none_there_is_a_reason(
    contract: Contract, background: Any, told: str
) -> None:
    reason = fit_outliers(background, contract)
    assert isinstance(reason, str)
    assert told in reason


def test_whatever_fails_is_a_reason_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, rows: Any) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(IsolationForest, "fit", broken)
    assert fit_outliers(people(), MIXED) == "RuntimeError: out of luck"


def test_a_forest_that_answers_otherwise_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        IsolationForest, "score_samples", lambda self, rows: np.full(len(rows), -0.5)
    )
    reason = fit_outliers(people(), MIXED)
    assert isinstance(reason, str)
    assert "answers otherwise than the original" in reason


def test_an_artifact_carries_it_and_verifies_it(tmp_path: Path) -> None:
    path, rows = write_model(tmp_path), sample_rows(150)
    plain = build(path, score_contract(), rows, tmp_path / "a")
    built = build(path, score_contract(), rows, tmp_path / "a", background=rows)
    again = build(path, score_contract(), rows, tmp_path / "b", background=rows)
    assert built.artifact == again.artifact != plain.artifact
    assert built.conversion["outliers"]["fields"] == ["income", "debt", "age"]
    assert plain.conversion["outliers"] == {"reason": "no rows to learn from were given"}
    manifest = verify(built.folder, built.artifact.digest)
    assert sorted(manifest.files) == ["model.onnx", "outliers.onnx"]
    load_engine(built.folder, built.artifact, score_contract()).close()
    found = load_outliers(built.folder, built.artifact, score_contract())
    assert found is not None
    told = found.score(Codec(score_contract()).validate_records(rows))
    assert told.scores.shape == told.beyond.shape == (150,)
    assert load_outliers(plain.folder, plain.artifact, score_contract()) is None

    content = bytearray((built.folder / "outliers.onnx").read_bytes())
    content[-1] ^= 1
    (built.folder / "outliers.onnx").write_bytes(content)
    with pytest.raises(ArtifactRejected, match="was changed"):
        load_outliers(built.folder, built.artifact, score_contract())


def test_artifacts_of_before_keep_their_digests(tmp_path: Path) -> None:
    built = build(write_model(tmp_path), score_contract(), sample_rows(), tmp_path / "a")
    content = (built.folder / "manifest.json").read_bytes()
    assert b"outliers" not in content
    assert parse_manifest(content).digest == built.artifact.digest


def test_a_python_class_has_one_where_rows_are_given(tmp_path: Path) -> None:
    rows = sample_rows(150)
    built = build("python_models:Halves", score_contract(), None, tmp_path, background=rows)
    assert load_outliers(built.folder, built.artifact, score_contract()) is not None


def test_a_graph_that_does_not_fit_its_manifest_is_refused() -> None:
    found = fitted(sample_rows(150), score_contract())
    entry = found.entry.model_copy(update={"columns": found.entry.columns[:2]})
    with pytest.raises(ArtifactRejected, match="does not take the 2 columns"):
        outliers_module.OutlierDetector(found.content, entry, score_contract(), ref="x")
    model = onnx.load_model_from_string(found.content)
    model.graph.node[0].domain = "evil.ops"
    with pytest.raises(ArtifactRejected, match=r"evil\.ops.*; allowed"):
        outliers_module.OutlierDetector(
            model.SerializeToString(), found.entry, score_contract(), ref="x"
        )


def test_making_one_takes_a_moment() -> None:
    rows = people(500)
    fit_outliers(rows, MIXED)
    begin_s = time.process_time()
    found = fitted(rows, MIXED)
    assert time.process_time() - begin_s < 3.0
    assert len(found.content) < 600_000
