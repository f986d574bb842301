"""What of an MLflow model is refused before any of it is used; no server, no MLflow import."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from aios.errors import ArtifactRejected, Unsupported, UsageError
from aios.models import from_mlflow, is_mlflow_uri
from aios.models.mlflow_flavors import open_flavor
from aios.models.mlflow_server import check_location, shown
from tests.unit.onnx_graphs import score_model

SERVER = "https://ann:secret@mlflow.example:8443/base"


def model_folder(folder: Path, **flavors: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))
    return folder


def test_only_uris_of_mlflow_are_taken_for_such():
    assert is_mlflow_uri("models:/loan@champion")
    assert is_mlflow_uri("runs:/abc/model")
    assert not any(map(is_mlflow_uri, ("loan.onnx", "module:Class", Path("models:/loan/1"), None)))


@pytest.mark.parametrize(
    "uri",
    ["models:/", "models:/loan", "models:/loan/latest", "models:/loan/Production", "models:/a/b/1",
     "models:/loan@a b", "models:/loan/1\n", "models://host/loan/1", "runs:/abc", "runs:/abc/../x",
     "runs:/abc/a' OR 1=1", "runs:/abc/a/../../b", "models:/loan/" + "9" * 20],
)  # fmt: skip
def test_a_malformed_uri_says_what_to_write(uri, tmp_path):
    with pytest.raises(UsageError, match="write models:/name@alias"):
        from_mlflow(uri, tmp_path, tracking_uri="http://127.0.0.1:9")


@pytest.mark.parametrize(
    "location",
    ["file:///etc", "/etc", "", "http://169.254.169.254/latest", "https://mlflow.example:8443/x",
     "mlflow-artifacts://169.254.169.254/x", "mlflow-artifacts://mlflow.example/x", "ftp://h/x",
     "mlflow-artifacts://ann@evil/x", "sftp://h/x", "hdfs://h/x", "dbfs:/x", "models:/loan/1",
     "FILE:///etc", "wasbs://c@evil.example/x", "abfss://c@evil.example/x"],
)  # fmt: skip
def test_a_remote_server_leads_only_to_its_own_storage(location):
    with pytest.raises(ArtifactRejected, match="not its own storage") as refused:
        check_location(location, SERVER)
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    "location",
    ["mlflow-artifacts:/1/models/m-1/artifacts", "mlflow-artifacts://mlflow.example:8443/1",
     "s3://bucket/1", "gs://bucket/1"],
)  # fmt: skip
def test_its_own_storage_and_object_stores_are_followed(location):
    check_location(location, SERVER)


def test_a_database_here_keeps_its_files_here():
    check_location("file:///data/mlruns/1", "sqlite:////data/mlflow.db")
    check_location("/data/mlruns/1", "/data/mlruns")
    for location in ("http://169.254.169.254/", "file://evil/share", "//evil/share"):
        with pytest.raises(ArtifactRejected):
            check_location(location, "sqlite:////data/mlflow.db")


def test_credentials_are_never_shown():
    assert shown(SERVER + "?token=x#y") == "https://mlflow.example:8443/base"
    assert shown("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"


@pytest.mark.parametrize("path", ["../secret.onnx", "/etc/passwd", "missing.onnx", None, 7, "."])
def test_a_path_that_leads_out_of_the_folder_is_refused(path, tmp_path):
    (tmp_path / "secret.onnx").write_bytes(score_model().SerializeToString())
    folder = model_folder(tmp_path / "model", onnx={"data": path})
    with pytest.raises(ArtifactRejected):
        open_flavor(folder, "models:/loan/1", trust=True)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "secret.onnx").write_bytes(score_model().SerializeToString())
    folder = model_folder(tmp_path / "model", onnx={"data": "model.onnx"})
    (folder / "model.onnx").symlink_to(tmp_path / "secret.onnx")
    with pytest.raises(ArtifactRejected, match="not in the model's folder"):
        open_flavor(folder, "models:/loan/1", trust=False)


@pytest.mark.parametrize("text", [None, "{", "[]", "flavors: 3", "!!python/object:os.system x"])
def test_an_unreadable_description_is_refused(text, tmp_path):
    if text is not None:
        (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(ArtifactRejected, match="MLmodel"):
        open_flavor(tmp_path, "models:/loan/1", trust=True)


def test_a_flavor_that_is_not_taken_is_named(tmp_path):
    folder = model_folder(tmp_path, xgboost={}, python_function={})
    with pytest.raises(Unsupported, match="python_function, xgboost; aios takes onnx, sklearn"):
        open_flavor(folder, "models:/loan/1", trust=True)


def test_onnx_is_taken_byte_for_byte(tmp_path):
    folder = model_folder(tmp_path, onnx={"data": "model.onnx"})
    content = score_model().SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    path, opened = open_flavor(folder, "models:/loan/1", trust=False)
    assert path.read_bytes() == content
    assert opened == {"flavor": "onnx", "format": "onnx", "unpickled": False}


def test_tensors_kept_beside_the_file_are_put_in(tmp_path):
    folder = model_folder(tmp_path, onnx={"data": "model.onnx"})
    onnx.save_model(
        score_model(), folder / "model.onnx", save_as_external_data=True, size_threshold=0
    )
    path, _ = open_flavor(folder, "models:/loan/1", trust=False)
    joined = onnx.load(path, load_external_data=False)
    expected = onnx.numpy_helper.to_array(score_model().graph.initializer[0])
    assert np.array_equal(onnx.numpy_helper.to_array(joined.graph.initializer[0]), expected)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", "missing.bin"])
def test_tensors_outside_of_the_folder_are_refused(location, tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    folder = model_folder(tmp_path / "model", onnx={"data": "model.onnx"})
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    model = score_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactRejected):
        open_flavor(folder, "models:/loan/1", trust=False)


@pytest.mark.parametrize("kept", ["pickle", "cloudpickle", "joblib", None])
def test_no_format_but_skops_is_opened_without_trust(kept, tmp_path):
    settings = {"pickled_model": "model.pkl", "serialization_format": kept}
    folder = model_folder(tmp_path, sklearn=settings)
    (folder / "model.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError, match="runs whatever code"):
        open_flavor(folder, "models:/loan/1", trust=False)


def test_the_list_of_trusted_types_inside_the_model_is_not_believed(tmp_path):
    import skops.io
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    settings = {
        "pickled_model": "model.skops",
        "serialization_format": "skops",
        "skops_trusted_types": ["sklearn.tree._tree.Tree"],
    }
    folder = model_folder(tmp_path, sklearn=settings)
    skops.io.dump(tree, folder / "model.skops")
    with pytest.raises(UsageError, match=r"objects of sklearn\.tree\._tree\.Tree.*trust=True"):
        open_flavor(folder, "models:/loan/1", trust=False)
    found, opened = open_flavor(folder, "models:/loan/1", trust=True)
    assert list(found.predict([[0.0], [1.0]])) == [0, 1]
    assert opened["unpickled"]


def test_a_damaged_skops_file_is_refused(tmp_path):
    settings = {"pickled_model": "model.skops", "serialization_format": "skops"}
    folder = model_folder(tmp_path, sklearn=settings)
    (folder / "model.skops").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ArtifactRejected, match="not a skops file"):
        open_flavor(folder, "models:/loan/1", trust=False)


def test_an_exported_archive_with_a_pickled_weight_needs_trust(tmp_path):
    folder = model_folder(tmp_path, pytorch={"model_data": "data"})
    (folder / "data").mkdir()
    archive = io.BytesIO()
    graph = {"graph_module": {"module_call_graph": []}}
    weights = {"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}
    with zipfile.ZipFile(archive, "w") as entries:
        entries.writestr("model/models/model.json", json.dumps(graph))
        entries.writestr("model/data/weights/weight_0", b"\x80\x04.")
        entries.writestr("model/data/weights/model_weights_config.json", json.dumps(weights))
        entries.writestr("model/data/sample_inputs/model.pt", b"\x80\x04.")
    (folder / "data" / "model.pt2").write_bytes(archive.getvalue())
    with pytest.raises(UsageError, match=r"as pickled.*trust=True"):
        open_flavor(folder, "models:/loan/1", trust=False)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip"])
def test_a_damaged_archive_is_refused(content, tmp_path):
    folder = model_folder(tmp_path, pytorch={"model_data": "data"})
    (folder / "data").mkdir()
    (folder / "data" / "model.pt2").write_bytes(content)
    with pytest.raises(UsageError, match="damaged or cut short"):
        open_flavor(folder, "models:/loan/1", trust=False)
