"""A model from an MLflow registry, ready for `build`."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios.errors import UnknownModel, UsageError
from aios.models.mlflow_flavors import open_flavor
from aios.models.mlflow_server import connect, download, mlflow_errors, shown

_VERSION = re.compile(
    r"models:/(?P<name>[^/:@]{1,255})(/(?P<version>\d{1,9})|@(?P<alias>[\w.-]{1,255}))"
)
_LOGGED = re.compile(r"models:/(?P<id>m-[0-9a-f]{32})")
_RUN = re.compile(r"runs:/(?P<run>[\w-]{1,64})/(?P<path>\w[\w. -]*(/\w[\w. -]*)*)")
_TAKEN = "models:/name@alias, models:/name/3, models:/m-<id> or runs:/<run id>/model"


@dataclass(frozen=True)
class MlflowModel:
    """What `build` takes, and where it came from.

    `facts` is JSON for the version's lineage: `uri` as asked for, `tracking_uri` without
    credentials, `name`, `version`, `run_id`, `model_id` as resolved (None where there is none),
    `flavor`, `format`, `unpickled`, and `sha256` over the names and bytes of all its files.
    """

    model: Any
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Found:
    location: str
    run_id: str | None = None
    name: str | None = None
    version: str | None = None
    model_id: str | None = None


def is_mlflow_uri(model: object) -> bool:
    """Whether this is a text that names a model in MLflow."""
    return isinstance(model, str) and model.startswith(("models:/", "runs:/"))


def from_mlflow(
    uri: str, into: Path, *, tracking_uri: str | None = None, trust: bool = False
) -> MlflowModel:
    """Fetch a model of the flavors onnx, sklearn or pytorch.

    Args:
        uri: `models:/loan@champion`, `models:/loan/3`, `models:/m-<id>` or `runs:/<id>/model`.
        into: A folder of the caller's; the files stay in a new folder there.
        tracking_uri: The MLflow server, database or folder; None takes MLflow's own setting.
        trust: Whether code inside the model may run: pickles are refused without it.

    Raises:
        UsageError: the URI is malformed, MLflow is not installed or not named, or the model
            runs code when loaded and `trust` is not set.
        UnknownModel: no such model, version, alias or run, or its files are gone.
        Unsupported: none of the model's flavors is taken.
        ArtifactRejected: the files are damaged, too large, or lie where they must not be read.
        ClusterUnavailable: MLflow does not answer.
    """
    asked = next((match for p in (_LOGGED, _RUN, _VERSION) if (match := p.fullmatch(uri))), None)
    if asked is None:
        raise UsageError(f"{uri!r:.200} names no MLflow model; write {_TAKEN}")
    client = connect(tracking_uri)
    with mlflow_errors(client.tracking_uri):
        found = _resolve(client, asked.groupdict())
    folder = download(found.location, client.tracking_uri, into / "mlflow")
    digest = _digest(folder)
    model, opened = open_flavor(folder, uri, trust=trust)
    facts = {
        "uri": uri,
        "tracking_uri": shown(client.tracking_uri),
        "name": found.name,
        "version": found.version,
        "run_id": found.run_id,
        "model_id": found.model_id,
        **opened,
        "sha256": digest,
    }
    return MlflowModel(model, facts)


def _resolve(client: Any, asked: Mapping[str, str | None]) -> _Found:
    if "id" in asked:
        return _of_logged(client.get_logged_model(asked["id"]))
    if "run" in asked:
        return _of_run(client, str(asked["run"]), str(asked["path"]))
    name, alias = str(asked["name"]), asked["alias"]
    if alias:
        version = client.get_model_version_by_alias(name, alias)
    else:
        version = client.get_model_version(name, asked["version"])
    logged = _LOGGED.fullmatch(str(version.source or ""))
    return _Found(
        location=client.get_model_version_download_uri(name, version.version),
        run_id=version.run_id or None,
        name=name,
        version=str(version.version),
        model_id=logged["id"] if logged else None,
    )


def _of_run(client: Any, run_id: str, path: str) -> _Found:
    """MLflow 3 keeps a run's models beside the run; before, they were among its artifacts."""
    run = client.get_run(run_id)
    models = client.search_logged_models(
        [run.info.experiment_id],
        filter_string=f"name = '{path}' AND source_run_id = '{run.info.run_id}'",
        order_by=[{"field_name": "creation_time", "ascending": False}],
        max_results=1,
    )
    if models:
        return _of_logged(models[0])
    root = run.info.artifact_uri
    if not root:
        raise UnknownModel(f"the MLflow run {run_id} has no artifacts")
    return _Found(location=f"{root}/{path}", run_id=run.info.run_id)


def _of_logged(model: Any) -> _Found:
    return _Found(model.artifact_location, run_id=model.source_run_id, model_id=model.model_id)


def _digest(folder: Path) -> str:
    """sha256 over each file's path and sha256, in order of paths."""
    summed = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        summed.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return summed.hexdigest()
