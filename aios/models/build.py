"""From a user's model to a checked artifact on disk."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from aios.contracts import Batch, Codec, Contract
from aios.errors import ArtifactRejected, ContractViolation, ModelFailed, Unsupported, UsageError
from aios.models.agreement import check_agreement
from aios.models.artifact import describe_files, staged, to_artifact
from aios.models.conversion import Converted, OutputChoice
from aios.models.engine import Array, Engine
from aios.models.loading import load_engine
from aios.models.manifest import (
    FILE_PATTERN,
    MANIFEST_NAME,
    OUTLIERS_FILE,
    BatchInput,
    Manifest,
    OutputSource,
    PythonSource,
)
from aios.models.onnx_conversion import convert_file
from aios.models.outliers import FittedOutliers, fit_outliers
from aios.models.python_engine import import_class, source_digest, takes_config
from aios.models.safety import MAX_FILE_BYTES, refuse_pickle
from aios.models.sample import sample_batch, with_null_rows
from aios.models.sklearn_conversion import convert_estimator, is_estimator
from aios.models.synthetic import synthetic_batch
from aios.models.torch_conversion import convert_module, is_module
from aios.records import Artifact, EngineName

_IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
_TAKEN = (
    "a fitted scikit-learn estimator or pipeline, a torch.nn.Module, a path to an .onnx file, or "
    'a Python class by import path ("module:Class" or PythonModel)'
)


@dataclass(frozen=True)
class PythonModel:
    """A model that is a Python class: trusted code, named by import path.

    The class has `predict(batch) -> {output: array [rows]}`. It is made with `config=` if
    its constructor has a parameter of that name; `load(folder)` is called next if it has
    it, with the folder that holds `files`; `close()` at the end if it has it.

    Args:
        path: `module:Class`, importable wherever the model is served.
        config: JSON values handed to the constructor.
        files: Files to carry in the artifact, flat, by their names; pickles are refused.
    """

    path: str
    config: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path | str, ...] = ()


@dataclass(frozen=True)
class Built:
    """An artifact that was built and checked.

    `conversion` is JSON: `source`, `engine`, `rows` compared, `tolerance`,
    `largest_difference` (None where there was no original), `trusted_code`,
    `service_time_s`, what the converter has to say, and `outliers`.
    """

    artifact: Artifact
    folder: Path
    conversion: dict[str, Any]


def build(
    model: Any,
    contract: Contract,
    sample: Any,
    into: Path,
    *,
    tolerance: float = 1e-4,
    outputs: Mapping[str, OutputChoice] | None = None,
    background: Any = None,
    engine: EngineName | None = None,
) -> Built:
    """Convert a model, check that it still answers the same, and write its artifact.

    The artifact answers the sample through its engine, as in production. Each answer must
    equal the original's within `tolerance` and fit the contract. For each nullable input
    that the sample never has null, one row with it null is added. Trees over continuous
    features may differ where float32 puts a value on the other side of a split; see
    `aios.models.sklearn_conversion`. Nothing is left on disk after an error.

    Args:
        model: A fitted scikit-learn estimator or pipeline, a torch module, a path to an
            ONNX file, or a Python class by import path (`"module:Class"`, `PythonModel`).
        contract: What the model takes and gives.
        sample: Rows to compare on: a DataFrame, records, a dict of columns, a 2-D array or a
            Batch. None only for ONNX files and Python classes, which have no original to
            compare with: then made-up rows show that it runs.
        into: The folder of artifacts; this one becomes `into/<digest>`.
        tolerance: The absolute and the relative difference allowed.
        outputs: Contract output -> model output, or (model output, column), where names do
            not say it. Estimators give `label`, `probabilities` (one column per class) and
            `value`; torch modules `output_0`, ... or the keys of a dict.
        background: Rows that the model was trained on, in the forms of a sample. Requests can
            then be told how unusual they are beside these (`aios.models.outliers`); where that
            cannot be, `conversion["outliers"]["reason"]` says why.
        engine: "onnx" or "torch": what a torch module must become; None tries them in this order.

    Raises:
        UsageError: the model, sample or contract do not go together; says where.
        Unsupported: the model is of a kind that cannot be taken; says which can.
        ArtifactRejected: the file is unsafe, the sample or an answer does not fit the
            contract, or an answer differs from the original's; `details` has the worst row.
        ModelFailed: the artifact raises on the sample.
    """
    if not (isinstance(tolerance, int | float) and math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"tolerance must be a number of 0 or more, not {tolerance!r}")
    batch = _rows(sample, model, contract)
    converted = _convert(model, contract, batch, outputs, engine)
    outliers = _outliers(background, contract, converted)
    files = converted.files
    if isinstance(outliers, FittedOutliers):
        files = {**files, OUTLIERS_FILE: outliers.content}
    manifest = Manifest(
        engine=converted.engine,
        files=describe_files(files),
        inputs=converted.inputs,
        outputs=converted.outputs,
        python=converted.python,
        trusted_code=converted.python is not None,
        producers=converted.producers,
        outliers=outliers.entry if isinstance(outliers, FittedOutliers) else None,
    )
    artifact = to_artifact(manifest)
    with staged(manifest, files, Path(into)) as folder:
        loaded = load_engine(folder, artifact, contract, threads=0, ref=converted.source)
        try:
            largest = _check(loaded, converted, contract, batch, sample is not None, tolerance)
        finally:
            loaded.close()
    conversion = {
        "source": converted.source,
        "engine": converted.engine,
        "rows": batch.rows,
        "sample": sample is not None,
        "tolerance": tolerance,
        "largest_difference": largest,
        "trusted_code": manifest.trusted_code,
        "service_time_s": loaded.service_time_s,
        **converted.notes,
        "outliers": {"reason": outliers} if isinstance(outliers, str) else outliers.notes,
    }
    return Built(artifact=artifact, folder=Path(into) / artifact.digest, conversion=conversion)


def _outliers(background: Any, contract: Contract, converted: Converted) -> FittedOutliers | str:
    if OUTLIERS_FILE in converted.files:
        return f"the model has a file of its own that is called {OUTLIERS_FILE}"
    return fit_outliers(background, contract)


def _rows(sample: Any, model: Any, contract: Contract) -> Batch:
    if sample is not None:
        return with_null_rows(sample_batch(sample, contract), contract)
    if is_estimator(model) or is_module(model):
        raise UsageError(
            f"give a sample: the conversion of {type(model).__name__} is checked on it, and "
            "without one nothing could be compared"
        )
    return synthetic_batch(contract, rows=3)


def _convert(
    model: Any,
    contract: Contract,
    batch: Batch,
    outputs: Mapping[str, OutputChoice] | None,
    engine: EngineName | None,
) -> Converted:
    if engine is not None and (not is_module(model) or engine not in ("onnx", "torch")):
        raise UsageError(
            f'engine={engine!r}: a torch module can be had as "onnx" or "torch", anything else in '
            "one way only: leave it out"
        )
    if is_estimator(model):
        return convert_estimator(model, contract, outputs)
    if is_module(model):
        return convert_module(model, contract, batch, outputs, engine)
    if isinstance(model, str) and _IMPORT_PATH.match(model):
        model = PythonModel(model)
    if isinstance(model, PythonModel):
        if outputs is not None:
            raise UsageError("a Python class names its outputs itself; leave out outputs=")
        return _python(model, contract)
    if isinstance(model, str | Path):
        path = Path(model)
        if path.suffix.lower() != ".onnx":
            refuse_pickle(b"", path.name)
            raise Unsupported(f"the file {path.name!r} cannot be taken; aios takes {_TAKEN}")
        return convert_file(path, contract, outputs)
    if isinstance(model, type):
        raise Unsupported(
            f"a class cannot be taken as such; give its import path: "
            f'"{model.__module__}:{model.__qualname__}"'
        )
    raise Unsupported(f"a {type(model).__name__} cannot be taken; aios takes {_TAKEN}")


def _python(model: PythonModel, contract: Contract) -> Converted:
    if not _IMPORT_PATH.match(model.path):
        raise UsageError(f'{model.path!r} is not an import path of the form "module:Class"')
    config = dict(model.config)
    try:
        plain = orjson.loads(orjson.dumps(config))
    except (orjson.JSONEncodeError, TypeError) as error:
        raise UsageError(f"the config of {model.path} must be JSON: {error}") from error
    if plain != config:
        raise UsageError(
            f"the config of {model.path} changes when written as JSON (NaN, tuples, or objects)"
        )
    found = import_class(model.path)
    if config and not takes_config(found):
        raise UsageError(f"{model.path} was given a config, and its constructor takes no `config`")
    source = PythonSource(path=model.path, config=plain, source_sha256=source_digest(found))
    return Converted(
        source=f"python {model.path}",
        engine="python",
        inputs=BatchInput(),
        outputs={name: OutputSource(name=name) for name in contract.outputs},
        files=_read_files(model),
        python=source,
    )


def _read_files(model: PythonModel) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for path in map(Path, model.files):
        if not re.match(FILE_PATTERN, path.name) or path.name == MANIFEST_NAME:
            raise UsageError(f"{model.path}: a file cannot be called {path.name!r} in an artifact")
        if path.name in files:
            raise UsageError(f"{model.path}: two files are called {path.name!r}")
        try:
            with open(path, "rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error
        if len(content) > MAX_FILE_BYTES:
            raise UsageError(f"{path.name!r} is larger than {MAX_FILE_BYTES} bytes")
        refuse_pickle(content, path.name)
        files[path.name] = content
    return files


def _check(
    engine: Engine,
    converted: Converted,
    contract: Contract,
    batch: Batch,
    real: bool,
    tolerance: float,
) -> float | None:
    """The largest difference to the original, None where there is none to compare with."""
    original = converted.original(batch) if converted.original is not None else None
    largest = None
    try:
        answers = engine.run(batch)
        _check_single_row(engine, converted, answers, batch, tolerance)
        if original is not None:
            what = f"{converted.source} converted for the engine {converted.engine}"
            largest = check_agreement(original, answers, tolerance=tolerance, what=what)
        Codec(contract, max_rows=batch.rows).check_outputs(answers, batch.rows)
    except ContractViolation as error:
        if real:
            raise ArtifactRejected(
                f"{converted.source} gives answers that its contract forbids: {error.message}",
                **error.details,
            ) from error
    except ModelFailed:
        # Made-up rows are possible but not likely ones: a model may refuse some of them, and
        # loading it has shown that it answers others.
        if real:
            raise
    return largest


def _check_single_row(
    engine: Engine,
    converted: Converted,
    answers: Mapping[str, Array],
    batch: Batch,
    tolerance: float,
) -> None:
    """One row alone must get the answer that it got among others: serving joins the rows of
    several requests into one batch. Python classes may be random, and answer for themselves."""
    alone = engine.run(batch.slice(0, 1))
    if converted.engine == "python":
        return
    try:
        check_agreement(
            {name: value[:1] for name, value in answers.items()},
            alone,
            tolerance=max(tolerance, 1e-4),
            what=converted.source,
        )
    except ArtifactRejected as error:
        raise ArtifactRejected(
            f"{converted.source} answers a row differently alone and among {batch.rows} rows "
            f"(output {error.details['output']!r}), and serving joins requests into batches: the "
            "model must treat each row on its own",
            **error.details,
        ) from error
