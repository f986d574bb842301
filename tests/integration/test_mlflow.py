"""Runs logged to a real MLflow server, and models taken from it."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import aios
from aios.errors import (
    ArtifactRejected,
    ClusterUnavailable,
    UnknownModel,
    Unsupported,
    UsageError,
)
from aios.models import build, from_mlflow
from aios.records import CodeSource, DataSource, GateResult, RunSpec, Snapshot, Trial
from aios.runtime.models import Models
from aios.training.mlflow_tracking import RunFacts, log_run
from tests.mlflow_server import running_mlflow

TEXT = "class Recipe: ..."
MARK = "AIOS_TEST_UNPICKLED"


class Payload:
    """What a pickle can do: it runs this when loaded."""

    def __reduce__(self):
        return mark, ()


def mark() -> None:
    os.environ[MARK] = "ran"


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with running_mlflow() as address:
        yield address


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    noise = np.random.default_rng(0)
    return pd.DataFrame({"a": noise.normal(size=200), "b": noise.normal(size=200)})


@pytest.fixture(scope="module")
def contract() -> aios.Contract:
    return aios.Contract(
        inputs={"a": aios.Number(), "b": aios.Number()}, outputs={"p": aios.Number(min=0, max=1)}
    )


@pytest.fixture(scope="module")
def estimator(frame: pd.DataFrame):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(frame, (frame.a + frame.b > 0).astype(int))


def network():
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x):
            return torch.sigmoid(self.layer(x))

    torch.manual_seed(0)
    return Network()


@pytest.fixture(scope="module")
def logged(uri: str, estimator, frame: pd.DataFrame) -> str:
    """The id of an MLflow run with a registered model of every flavor."""
    import mlflow.onnx
    import mlflow.pytorch
    import mlflow.sklearn
    import onnx
    from skl2onnx import to_onnx

    matrix = frame.to_numpy(dtype=np.float32)
    graph = to_onnx(estimator, matrix[:1], options={"zipmap": False})
    # One output [rows, 1], called as in the contract; weights large enough to be kept outside.
    wide = np.zeros((2, 300), dtype=np.float32)
    wide[:, 0] = estimator.coef_[0]
    node = onnx.helper.make_node
    graph = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                node("MatMul", ["x", "w"], ["z"]),
                node("ReduceSum", ["z", "axes"], ["s"], keepdims=1),
                node("Sigmoid", ["s"], ["p"]),
            ],
            "score",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 2])],
            [onnx.helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, ["rows", 1])],
            [
                onnx.numpy_helper.from_array(wide, "w"),
                onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "axes"),
            ],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )

    class Other(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("others")
    try:
        with mlflow.start_run() as run:
            for name, log, model, more in (
                ("inside", mlflow.onnx.log_model, graph, {"save_as_external_data": False}),
                ("outside", mlflow.onnx.log_model, graph, {}),
                ("skops", mlflow.sklearn.log_model, estimator, {}),
                ("pickled", mlflow.sklearn.log_model, estimator,
                 {"serialization_format": "cloudpickle"}),
                ("torch-pickled", mlflow.pytorch.log_model, network(),
                 {"serialization_format": "pickle"}),
                ("torch-exported", mlflow.pytorch.log_model, network(),
                 {"serialization_format": "pt2", "input_example": matrix[:5].copy()}),
            ):  # fmt: skip
                log(model, name=name, registered_model_name=name, pip_requirements=[], **more)
            mlflow.pyfunc.log_model(
                name="other", python_model=Other(), registered_model_name="other",
                pip_requirements=[],
            )  # fmt: skip
        mlflow.MlflowClient().set_registered_model_alias("inside", "champion", "1")
        return run.info.run_id
    finally:
        mlflow.set_tracking_uri(None)


# -- models taken from MLflow --------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "trust", "format"),
    [
        ("models:/inside@champion", False, "onnx"),
        ("models:/outside/1", False, "onnx"),
        ("runs:/{run}/inside", False, "onnx"),
        ("models:/skops/1", False, "skops"),
        ("models:/torch-exported/1", False, "pt2"),
        ("models:/pickled/1", True, "cloudpickle"),
        ("models:/torch-pickled/1", True, "pickle"),
    ],
)
def test_models_of_each_flavor_are_built(
    uri, logged, contract, frame, tmp_path, named, trust, format
):
    asked = named.format(run=logged)
    found = from_mlflow(asked, tmp_path, tracking_uri=uri, trust=trust)
    built = build(found.model, contract, frame, tmp_path / "artifacts")
    assert built.artifact.engine == "onnx"
    facts = found.facts
    assert facts["uri"] == asked
    assert facts["tracking_uri"] == uri
    assert facts["run_id"] == logged
    assert facts["version"] == (None if asked.startswith("runs:") else "1")
    assert (facts["format"], facts["unpickled"]) == (format, trust)
    assert re.fullmatch(r"[0-9a-f]{64}", facts["sha256"])
    json.dumps(facts)


def test_a_version_registered_from_mlflow_says_so_in_its_lineage(uri, logged, contract, frame):
    sent = []

    class Sent(Exception):
        """Stands for the kernel's answer: what it was asked is all that is looked at."""

    class Transport:
        def change(self, method, path, body=None, *, content=None):
            sent.append((method, path, body))
            if body is not None:
                raise Sent

    models = Models(Transport())
    with pytest.raises(Sent):
        models.register(
            "loan", "models:/inside@champion", contract=contract, sample=frame, tracking_uri=uri,
            lineage={"ticket": "T-1"},
        )  # fmt: skip
    lineage = sent[-1][2]["lineage"]
    assert lineage["ticket"] == "T-1"
    assert lineage["mlflow"]["run_id"] == logged


@pytest.mark.parametrize("name", ["pickled", "torch-pickled"])
def test_a_pickle_is_refused_and_the_message_says_what_it_would_run(uri, logged, tmp_path, name):
    with pytest.raises(UsageError, match=r"runs whatever code.*trust=True"):
        from_mlflow(f"models:/{name}/1", tmp_path, tracking_uri=uri)


def test_nothing_runs_before_trust_was_given(uri, tmp_path):
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    client = mlflow.MlflowClient(uri, uri)
    poisoned = LogisticRegression()
    poisoned.payload = Payload()
    mlflow.sklearn.save_model(
        poisoned, tmp_path / "m", serialization_format="pickle", pip_requirements=[]
    )
    experiment = client.create_experiment("poisoned")
    run = client.create_run(experiment)
    client.log_artifacts(run.info.run_id, str(tmp_path / "m"), "model")
    where = f"runs:/{run.info.run_id}/model"
    os.environ.pop(MARK, None)
    with pytest.raises(UsageError, match="trust=True"):
        from_mlflow(where, tmp_path / "no", tracking_uri=uri)
    assert MARK not in os.environ
    from_mlflow(where, tmp_path / "yes", tracking_uri=uri, trust=True)
    assert os.environ.pop(MARK) == "ran"


@pytest.mark.parametrize(
    "named",
    ["models:/inside@nobody", "models:/inside/9", "models:/nothing/1", "runs:/abc/model",
     "runs:/{run}/nothing", "models:/m-00000000000000000000000000000000"],
)  # fmt: skip
def test_what_is_not_there_is_named(uri, logged, tmp_path, named):
    with pytest.raises(UnknownModel, match="MLflow"):
        from_mlflow(named.format(run=logged), tmp_path, tracking_uri=uri)


def test_a_flavor_that_is_not_taken_is_named(uri, logged, tmp_path):
    with pytest.raises(Unsupported, match="python_function; aios takes onnx, sklearn, pytorch"):
        from_mlflow("models:/other/1", tmp_path, tracking_uri=uri, trust=True)


def test_a_server_that_is_away_is_told_at_once(tmp_path):
    with pytest.raises(
        ClusterUnavailable, match=r"no MLflow server answers at http://127.0.0.1:9/"
    ):
        from_mlflow("models:/a/1", tmp_path, tracking_uri="http://u:secret@127.0.0.1:9/")


def test_another_kind_of_server_is_no_traceback(tmp_path):
    class Web(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever, 0.05)
        try:
            with pytest.raises((ClusterUnavailable, UsageError), match="MLflow at http"):
                from_mlflow(
                    "models:/a/1", tmp_path, tracking_uri=f"http://127.0.0.1:{server.server_port}"
                )
        finally:
            server.shutdown()


# -- runs logged to MLflow -----------------------------------------------------------------


@pytest.fixture
def facts(contract, estimator, frame, tmp_path) -> RunFacts:
    built = build(estimator, contract, frame, tmp_path)
    run = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    spec = RunSpec(
        model=f"loan-{run}",
        recipe=CodeSource(
            path="recipes:Recipe", text=TEXT, sha256=hashlib.sha256(TEXT.encode()).hexdigest()
        ),
        data=DataSource(kind="parquet", location="s3://bucket/loans.parquet?sig=secret"),
        contract=contract.to_json(),
        trials=3,
        seed=7,
        environment={"git": {"commit": "abc", "dirty": True}, "packages": {"numpy": "2"}},
        tracking_uri="http://ann:secret@mlflow/",
    )
    return RunFacts(
        run=run,
        spec=spec,
        started_s=1_700_000_000.0,
        by="ann",
        version=2,
        snapshot=Snapshot(
            kind="parquet", location="x", rows=200, columns={}, digest="a" * 64, taken_s=0
        ),
        config={"C": 0.5, "penalty": "l2"},
        trials=[
            Trial(number=0, config={"C": 1.0}, state="finished", value=0.8, seconds=2.0),
            Trial(number=1, config={"C": 0.5}, state="finished", value=0.9, metrics={"r@1": 0.1}),
            Trial(number=2, config={"C": 9.0}, state="failed", error="ValueError: no"),
        ],
        metrics={"auc": 0.9},
        gates=[
            GateResult(gate="quality", outcome="passed", value=0.02, threshold=0.0, reason="ok")
        ],
        card="# Card",
        artifact=built.folder,
        contract=contract,
    )


def test_a_run_is_logged_whole_and_its_model_can_be_used_and_taken_back(
    uri, facts, contract, frame, tmp_path
):
    import mlflow

    run_id = log_run(uri, facts)
    client = mlflow.MlflowClient(uri, uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["aios.run"] == facts.run
    assert run.data.metrics == {"auc": 0.9, "gate.quality": 0.02}
    assert run.data.params["seed"] == "7"
    assert run.data.params["git.commit"] == "abc"
    assert run.data.params["config.C"] == "0.5"
    assert run.data.params["data_sha256"] == "a" * 64
    assert "secret" not in str(run.data.params)

    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    by_number = {int(one.data.tags["aios.trial"]): one for one in nested}
    assert sorted(by_number) == [0, 1, 2]
    assert by_number[1].data.metrics == {"value": 0.9, "r_1": 0.1}
    assert by_number[0].data.params == {"C": "1.0"}
    assert by_number[2].info.status == "FAILED"
    assert by_number[2].data.tags["aios.error"] == "ValueError: no"

    names = {entry.path for entry in client.list_artifacts(run_id)}
    assert {"card.md", "gates.json", "recipe.py", "environment.json", "spec.json"} <= names
    saved = Path(client.download_artifacts(run_id, "spec.json", str(tmp_path))).read_text()
    assert "secret" not in saved

    (version,) = client.search_model_versions(f"name = '{facts.spec.model}'")
    assert version.tags["aios.version"] == f"{facts.spec.model}:2"
    found = from_mlflow(
        f"models:/{facts.spec.model}/{version.version}", tmp_path / "back", tracking_uri=uri
    )
    assert Path(found.model).read_bytes() == (facts.artifact / "model.onnx").read_bytes()
    assert found.facts["run_id"] == run_id

    local = mlflow.pyfunc.load_model(str(Path(found.model).parent))
    answers = local.predict(frame.head(3).astype("float32"))
    assert answers["probabilities"].shape == (3, 2)
    assert aios.Contract.from_json(local.metadata.metadata["aios"]["contract"]) == contract


def test_logging_a_run_again_makes_nothing_twice(uri, facts):
    import mlflow

    client = mlflow.MlflowClient(uri, uri)

    def counts() -> tuple[int, int, int]:
        experiment = client.get_experiment_by_name(facts.spec.model).experiment_id
        return (
            len(client.search_runs([experiment])),
            len(client.search_logged_models([experiment])),
            len(client.search_model_versions(f"name = '{facts.spec.model}'")),
        )

    # Cut short: a run that logged two trials and no model, and was not ended.
    first = log_run(uri, replace(facts, trials=facts.trials[:2], artifact=None, contract=None))
    assert counts() == (3, 0, 0)
    client.update_run(first, status="RUNNING")
    assert log_run(uri, facts) == first
    assert counts() == (4, 1, 1)
    client.update_run(first, status="RUNNING")
    assert log_run(uri, facts) == first
    assert log_run(uri, facts) == first
    assert counts() == (4, 1, 1)
    assert len(client.get_metric_history(first, "auc")) == 1


def test_a_model_of_another_engine_is_logged_as_a_folder(uri, facts, contract, tmp_path):
    from tests.unit.onnx_graphs import sample_rows, score_contract

    built = build(
        "tests.unit.python_models:Halves", score_contract(), sample_rows(), tmp_path / "python"
    )
    log_run(uri, replace(facts, artifact=built.folder, contract=score_contract()))
    with pytest.raises(Unsupported, match="has the flavors aios;"):
        from_mlflow(f"models:/{facts.spec.model}/1", tmp_path / "back", tracking_uri=uri)


def test_a_run_is_not_written_where_the_server_points_on_this_machine(uri, facts, tmp_path):
    import mlflow

    outside = tmp_path / "outside"
    outside.mkdir()
    client = mlflow.MlflowClient(uri, uri)
    client.create_experiment(facts.spec.model, artifact_location=f"file://{outside}")
    with pytest.raises(ArtifactRejected, match="not its own storage"):
        log_run(uri, facts)
    assert not any(outside.iterdir())
