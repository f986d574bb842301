"""A training run as MLflow shows it: where data scientists look for their experiments.

MLflow gets a copy; the truth stays in the registry. One MLflow run stands for one aios run,
with its trials as nested runs, and one registered version for one aios version.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aios.contracts import Contract
from aios.errors import StoreUnavailable
from aios.models.manifest import MANIFEST_NAME, ONNX_FILE, Manifest, MatrixInput, parse_manifest
from aios.models.mlflow_server import check_location, connect, mlflow_errors, shown
from aios.records import GateResult, RunSpec, Snapshot, Trial

if TYPE_CHECKING:
    import mlflow
    from mlflow.entities import Metric

RUN_TAG = "aios.run"
TRIAL_TAG = "aios.trial"
VERSION_TAG = "aios.version"
MODEL_NAME = "model"
_BATCH_METRICS, _BATCH_PARAMS = 900, 100
"""What MLflow takes in one request: 1,000 entries, of which 100 parameters."""
_MAX_PARAM_CHARS, _MAX_TAG_CHARS, _MAX_KEY_CHARS = 6_000, 5_000, 250
_CONNECTIONS = 8
"""Trials are sent side by side, for each costs three round trips."""
_NOT_IN_A_NAME = re.compile(r"[^\w\-. /]")
_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "running": "RUNNING"}


@dataclass(frozen=True)
class RunFacts:
    """What a run was asked and what it found, gathered from the results of its stages.

    `started_s` must be the same whenever the same run is logged: times are taken from it.
    `config` is the chosen one. `artifact` is the folder of the registered `version` (its
    manifest and files) with the `contract` that it answers; all None where nothing was
    registered. `trials` says how each ended.
    """

    run: str
    spec: RunSpec
    started_s: float
    by: str = ""
    version: int | None = None
    snapshot: Snapshot | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    gates: Sequence[GateResult] = ()
    card: str = ""
    artifact: Path | None = None
    contract: Contract | None = None


def log_run(tracking_uri: str, facts: RunFacts) -> str:
    """Write the run, its trials, its gates, its card and its model to MLflow.

    The experiment and the registered model are called as the model. Parameters are the seed,
    the data's digest, the recipe's sha256, git's commit, and the chosen config; the gates'
    values are metrics; card, gates, recipe, environment and specification are artifacts.
    The model is of the flavor `onnx` with a signature if its engine is, else a folder that
    only aios reads. Its registered version has the tag `aios.version`.

    Each part is looked for by its tag before it is written, so the same run logged again, or
    again after it was cut short, makes nothing twice.

    A run must not fail because its copy could not be written: whoever calls this as a stage
    catches `AiosError` and stores its message beside the run. Nothing else is raised.

    Returns:
        The id of the MLflow run.

    Raises:
        UsageError: the extra `mlflow` is not installed, or MLflow does not take the call.
        ClusterUnavailable: MLflow does not answer.
        ArtifactRejected: MLflow would have the files written outside of its own storage.
        StoreUnavailable: the files to be sent cannot be read or written here.
    """
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri):
        experiment_id = _experiment(client, facts.spec.model)
        parent = _parent(client, experiment_id, facts)
        parent_id = str(parent.info.run_id)
        if parent.info.status == "FINISHED":
            return parent_id
        check_location(parent.info.artifact_uri, tracking_uri)
        _log_batch(client, parent_id, params=_params(facts), metrics=_measured(facts))
        _log_trials(client, experiment_id, parent_id, facts)
        _log_documents(client, parent_id, facts)
        if facts.artifact is not None and facts.contract is not None:
            with _temporary_folder() as folder:
                model_id = _log_model(
                    client, experiment_id, parent_id, facts, facts.artifact, facts.contract, folder
                )
            _register(client, parent_id, model_id, facts)
        client.set_terminated(parent_id, "FINISHED")
        return parent_id


def _experiment(client: "mlflow.MlflowClient", name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _parent(client: "mlflow.MlflowClient", experiment_id: str, facts: RunFacts) -> Any:
    found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{facts.run}'", max_results=1)
    if found:
        return found[0]
    gates = "passed" if all(gate.outcome == "passed" for gate in facts.gates) else "not passed"
    tags = {
        RUN_TAG: facts.run,
        VERSION_TAG: _ref(facts),
        "aios.gates": gates if facts.gates else "",
        "mlflow.user": facts.by,
        "mlflow.note.content": facts.card[:_MAX_TAG_CHARS],
        "mlflow.source.name": facts.spec.recipe.path,
    }
    return client.create_run(
        experiment_id, start_time=_ms(facts.started_s), tags=tags, run_name=facts.run
    )


def _params(facts: RunFacts) -> dict[str, Any]:
    spec = facts.spec
    plain: dict[str, Any] = {
        "seed": spec.seed,
        "trials": spec.trials,
        "recipe": spec.recipe.path,
        "recipe_sha256": spec.recipe.sha256,
        "data": shown(str(spec.data)),
    }
    if facts.snapshot is not None:
        plain["data_sha256"] = facts.snapshot.digest
        plain["data_rows"] = facts.snapshot.rows
    for key, value in _flat(spec.environment):
        if key.startswith("git"):
            plain[key] = value
    # A searched setting may be called `seed` too: it keeps apart from ours.
    return plain | {f"config.{key}": value for key, value in facts.config.items()}


def _flat(nested: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _measured(facts: RunFacts) -> "list[Metric]":
    gates = {f"gate.{gate.gate}": gate.value for gate in facts.gates if gate.value is not None}
    return _metrics({**facts.metrics, **gates}, _ms(facts.started_s))


def _metrics(values: Mapping[str, float], at_ms: int, step: int = 0) -> "list[Metric]":
    """At the time of the run, not of the call: MLflow then sees a second time as the same."""
    from mlflow.entities import Metric

    return [Metric(_name(key), float(value), at_ms, step) for key, value in values.items()]


def _log_batch(
    client: "mlflow.MlflowClient",
    run_id: str,
    *,
    params: Mapping[str, Any],
    metrics: "Sequence[Metric]",
) -> None:
    from mlflow.entities import Param

    named: list[Param] = [
        Param(_name(key), _text(value)[:_MAX_PARAM_CHARS]) for key, value in params.items()
    ]
    while named or metrics:
        client.log_batch(run_id, metrics[:_BATCH_METRICS], named[:_BATCH_PARAMS])
        metrics, named = metrics[_BATCH_METRICS:], named[_BATCH_PARAMS:]


def _log_trials(
    client: "mlflow.MlflowClient",
    experiment_id: str,
    parent_id: str,
    facts: RunFacts,
) -> None:
    known = _known_trials(client, experiment_id, parent_id)
    new = (None, "RUNNING")
    waiting = [trial for trial in facts.trials if known.get(trial.number, new)[1] == "RUNNING"]

    def send(trial: Trial) -> None:
        run_id, _ = known.get(trial.number, new)
        _log_trial(client, experiment_id, parent_id, run_id, trial, _ms(facts.started_s))

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        for _ in pool.map(send, waiting):
            pass


def _known_trials(
    client: "mlflow.MlflowClient", experiment_id: str, parent_id: str
) -> dict[int, tuple[str, str]]:
    """Trial number -> (MLflow run id, status)."""
    known: dict[int, tuple[str, str]] = {}
    token: str | None = ""
    while token is not None:
        page = client.search_runs(
            [experiment_id],
            f"tags.`mlflow.parentRunId` = '{parent_id}'",
            max_results=1_000,
            page_token=token or None,
        )
        for found in page:
            number = int(found.data.tags.get(TRIAL_TAG, -1))
            known[number] = (found.info.run_id, found.info.status)
        token = page.token or None
    return known


def _log_trial(
    client: "mlflow.MlflowClient",
    experiment_id: str,
    parent_id: str,
    run_id: str | None,
    trial: Trial,
    start_ms: int,
) -> None:
    if run_id is None:
        tags = {
            "mlflow.parentRunId": parent_id,
            TRIAL_TAG: str(trial.number),
            "aios.state": trial.state,
            "aios.error": (trial.error or "")[:_MAX_TAG_CHARS],
        }
        created = client.create_run(
            experiment_id, start_time=start_ms, tags=tags, run_name=f"trial {trial.number}"
        )
        run_id = str(created.info.run_id)
    values = dict(trial.metrics)
    if trial.value is not None:
        values["value"] = trial.value
    _log_batch(client, run_id, params=trial.config, metrics=_metrics(values, start_ms))
    status = _STATUS.get(trial.state, "FAILED")
    client.set_terminated(run_id, status, start_ms + _ms(trial.seconds or 0.0))


def _log_documents(client: "mlflow.MlflowClient", run_id: str, facts: RunFacts) -> None:
    spec = facts.spec.model_dump(mode="json", exclude={"tracking_uri", "recipe", "environment"})
    spec["data"]["location"] = shown(facts.spec.data.location)
    documents = {
        "card.md": facts.card,
        "gates.json": _json([gate.model_dump(mode="json") for gate in facts.gates]),
        "recipe.py": facts.spec.recipe.text,
        "environment.json": _json(facts.spec.environment),
        "spec.json": _json(spec),
    }
    with _temporary_folder() as folder:
        for name, text in documents.items():
            (folder / name).write_text(text, encoding="utf-8")
        client.log_artifacts(run_id, str(folder))


def _log_model(
    client: "mlflow.MlflowClient",
    experiment_id: str,
    parent_id: str,
    facts: RunFacts,
    artifact: Path,
    contract: Contract,
    folder: Path,
) -> str:
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    found = client.search_logged_models(
        [experiment_id],
        filter_string=f"name = '{MODEL_NAME}' AND source_run_id = '{parent_id}'",
        max_results=1,
    )
    if found and found[0].status == LoggedModelStatus.READY:
        return str(found[0].model_id)
    logged = (
        found[0]
        if found
        else client.create_logged_model(
            experiment_id, name=MODEL_NAME, source_run_id=parent_id, tags={RUN_TAG: facts.run}
        )
    )
    check_location(logged.artifact_location, client.tracking_uri)
    _write_model(folder / MODEL_NAME, logged, parent_id, artifact, contract)
    client.log_model_artifacts(logged.model_id, str(folder / MODEL_NAME))
    client.log_outputs(parent_id, [LoggedModelOutput(logged.model_id, 0)])
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def _write_model(into: Path, logged: Any, run_id: str, artifact: Path, contract: Contract) -> None:
    """A folder as `mlflow.onnx.load_model` and `mlflow.pyfunc.load_model` read it, with the
    artifact's own bytes; for other engines one that says what it holds and only aios reads."""
    from mlflow.models import Model

    manifest = parse_manifest((artifact / MANIFEST_NAME).read_bytes())
    model = Model(
        artifact_path=logged.artifact_location,
        run_id=run_id,
        model_id=logged.model_id,
        metadata={"aios": {"digest": manifest.digest, "contract": contract.to_json()}},
    )
    if manifest.engine == "onnx":
        import mlflow.onnx
        import onnx

        graph = onnx.load(str(artifact / ONNX_FILE))
        mlflow.onnx.save_model(
            graph,
            str(into),
            mlflow_model=model,
            signature=_signature(graph, manifest, contract),
            pip_requirements=["onnx", "onnxruntime"],
            save_as_external_data=False,
        )
        # Byte for byte what is served, not what protobuf made of it when written again.
        shutil.copyfile(artifact / ONNX_FILE, into / ONNX_FILE)
        return
    into.mkdir()
    shutil.copytree(artifact, into / "artifact")
    model.add_flavor("aios", engine=manifest.engine, data="artifact", digest=manifest.digest)
    model.save(str(into / "MLmodel"))


def _signature(graph: Any, manifest: Manifest, contract: Contract) -> Any:
    """As the graph has it: one matrix, or the contract's names where it takes columns.

    A matrix is not described by its columns' names (the contract in the model's metadata has
    them): MLflow would then hand its loader a DataFrame, and that fails on every classifier
    with a label and a matrix of probabilities.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec
    from onnx.helper import tensor_dtype_to_np_dtype

    def spec(value: Any, name: str | None) -> Any:
        tensor = value.type.tensor_type
        sizes = [int(d.dim_value) if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        dtype = np.dtype(tensor_dtype_to_np_dtype(tensor.elem_type))
        return TensorSpec(np.dtype("str") if dtype.kind == "O" else dtype, (-1, *sizes[1:]), name)

    outputs = Schema([spec(value, value.name) for value in graph.graph.output])
    if isinstance(manifest.inputs, MatrixInput):
        inputs = [TensorSpec(np.dtype(manifest.inputs.dtype), (-1, len(contract.inputs)))]
    else:
        inputs = [spec(value, value.name) for value in graph.graph.input]
    return ModelSignature(Schema(inputs), outputs)


def _register(client: "mlflow.MlflowClient", run_id: str, model_id: str, facts: RunFacts) -> None:
    from mlflow.exceptions import MlflowException

    name = facts.spec.model
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if not client.search_model_versions(f"name = '{name}' AND run_id = '{run_id}'"):
        tags = {VERSION_TAG: _ref(facts), RUN_TAG: facts.run}
        client.create_model_version(
            name, f"models:/{model_id}", run_id=run_id, model_id=model_id, tags=tags
        )


def _ref(facts: RunFacts) -> str:
    return f"{facts.spec.model}:{facts.version}" if facts.version else ""


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder for what is sent. What the disk refuses must not look like MLflow's refusal."""
    try:
        with tempfile.TemporaryDirectory(prefix="aios-mlflow-") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno is None:  # one of requests': mlflow_errors knows it
            raise
        raise StoreUnavailable(f"the files for MLflow cannot be prepared: {error}") from error


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _name(key: str) -> str:
    """MLflow takes letters, digits, and a few signs, and no path that leads up."""
    return _NOT_IN_A_NAME.sub("_", key).replace("..", "__").strip("/")[:_MAX_KEY_CHARS] or "_"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=str)
