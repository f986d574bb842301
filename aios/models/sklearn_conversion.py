"""scikit-learn estimators and pipelines to ONNX, through skl2onnx.

ONNX computes in float32 where scikit-learn mostly computes in float64. For linear models
that is a rounding of about 1e-7. A decision tree can do worse: a value that lies within
float32 rounding of a split threshold may take the other branch, and then the answer jumps.
Features on a coarse grid (whole numbers, cents, halves) are exact in float32 and never meet
this; for continuous features it is rare, and the check on the sample shows how rare.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aios.contracts import Batch, Boolean, Category, Contract, Field, Integer, Number
from aios.errors import ArtifactRejected, Unsupported, UsageError
from aios.models.conversion import (
    Converted,
    OutputChoice,
    chosen_outputs,
    column_type,
    is_textual,
)
from aios.models.engine import Array
from aios.models.manifest import (
    ONNX_FILE,
    ColumnInput,
    ColumnsInput,
    MatrixInput,
    OutputSource,
)

MATRIX_NAME = "features"
CONFIDENCE = "confidence"
"""What `outputs=` may name beside label and probabilities: the probability of the label."""
_INSTEAD = (
    "export it to ONNX yourself and register the file, or register a Python class by import "
    'path ("module:Class" with predict(batch))'
)


def is_estimator(model: object) -> bool:
    """Whether this is a scikit-learn estimator, told without importing scikit-learn."""
    return any(
        base.__module__ == "sklearn.base" and base.__name__ == "BaseEstimator"
        for base in type(model).__mro__
    )


def convert_estimator(
    estimator: Any, contract: Contract, outputs: Mapping[str, OutputChoice] | None
) -> Converted:
    """The estimator as an ONNX graph.

    An estimator that reads named columns of different kinds (a ColumnTransformer, or any
    text input) gets one ONNX input per field; all others get one float32 matrix in the
    order in which they were fitted.

    Raises:
        UsageError: not fitted, or its features or classes differ from the contract's fields.
        Unsupported: neither classifier nor regressor, or skl2onnx has no converter for a part.
    """
    from sklearn.base import is_classifier, is_regressor

    estimator = getattr(estimator, "best_estimator_", estimator)
    what = type(_last_step(estimator)).__name__
    _check_fitted(estimator, what)
    classifies = bool(is_classifier(estimator))
    if not classifies and not is_regressor(estimator):
        raise Unsupported(f"{what} is neither a classifier nor a regressor; {_INSTEAD}")
    _refuse_lowercase(estimator)
    features = _features(estimator, contract, what)
    sources = _map_outputs(estimator, contract, outputs, classifies, what)
    inputs = _layout(estimator, contract, features)
    sure = any(source.name == CONFIDENCE for source in sources.values())
    content, names = _to_onnx(estimator, contract, inputs, classifies, what, sure=sure)
    return Converted(
        source=f"sklearn.{what}",
        engine="onnx",
        inputs=inputs,
        outputs={
            name: source.model_copy(update={"name": names[source.name]})
            for name, source in sources.items()
        },
        files={ONNX_FILE: content},
        original=_original(estimator, contract, inputs, sources),
        producers=_producers(),
        notes={"features": list(features)},
    )


def _refuse_lowercase(estimator: Any) -> None:
    """ONNX lowers letters by a locale that the next machine may not have."""
    for name, value in estimator.get_params(deep=True).items():
        if name.rpartition("__")[2] == "lowercase" and value:
            raise Unsupported(
                f"{name}=True depends on the locales of the machine that serves; fit with "
                "lowercase=False, and lower the texts before they are sent if that matters"
            )


def _last_step(estimator: Any) -> Any:
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def _first_step(estimator: Any) -> Any:
    while hasattr(estimator, "steps"):
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
        estimator = steps[0]
    return estimator


def _chain(estimator: Any) -> str:
    """The types of all steps, for messages."""
    if hasattr(estimator, "steps"):
        return " + ".join(_chain(step) for _, step in estimator.steps)
    return type(estimator).__name__


def _check_fitted(estimator: Any, what: str) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise UsageError(f"{what} is not fitted; call fit before registering it") from error
    except TypeError as error:
        raise Unsupported(f"{what} cannot predict; {_INSTEAD}") from error


def _features(estimator: Any, contract: Contract, what: str) -> tuple[str, ...]:
    """The contract's inputs in the order in which the estimator was fitted."""
    shaped = [name for name, field in contract.inputs.items() if field.shape]
    if shaped:
        raise UsageError(
            f"{what} takes scalar features, and the contract has the tensors {', '.join(shaped)}"
        )
    fitted = getattr(estimator, "feature_names_in_", None)
    if fitted is None:
        count = getattr(estimator, "n_features_in_", len(contract.inputs))
        if count != len(contract.inputs):
            raise UsageError(
                f"{what} was fitted on {count} features without names, and the contract has "
                f"{len(contract.inputs)} inputs"
            )
        return tuple(contract.inputs)
    known = [str(name) for name in fitted]
    needed = _needed(estimator, known)
    missing = [name for name in known if name in needed and name not in contract.inputs]
    unknown = [name for name in contract.inputs if name not in known]
    if missing or unknown:
        raise UsageError(
            f"{what} and the contract disagree about the inputs: the contract lacks "
            f"{missing or 'nothing'}, and {what} was not fitted on {unknown or 'nothing else'}; "
            f"it was fitted on {', '.join(known)}"
        )
    return tuple(name for name in known if name in contract.inputs)


def _needed(estimator: Any, known: list[str]) -> set[str]:
    """The columns really read: a ColumnTransformer that drops the remainder reads only those
    it names, so that a frame with forbidden columns in it can be used for fitting."""
    first = _first_step(estimator)
    if not hasattr(first, "transformers_"):
        return set(known)
    read: set[str] = set()
    for _, transformer, columns in first.transformers_:
        if isinstance(transformer, str) and transformer == "drop":
            continue
        read |= {known[name] if isinstance(name, int) else str(name) for name in columns}
    return read


def _layout(
    estimator: Any, contract: Contract, features: tuple[str, ...]
) -> MatrixInput | ColumnsInput:
    by_column = hasattr(_first_step(estimator), "transformers_")
    if not by_column and not any(is_textual(contract.inputs[name]) for name in features):
        return MatrixInput(name=MATRIX_NAME, features=features)
    return ColumnsInput(
        columns=tuple(
            ColumnInput(field=name, name=name, dtype=column_type(contract.inputs[name]), shape=(1,))
            for name in features
        )
    )


def _initial_types(inputs: MatrixInput | ColumnsInput) -> list[tuple[str, Any]]:
    from skl2onnx.common import data_types

    if isinstance(inputs, MatrixInput):
        shape = [None, len(inputs.features)]
        return [(inputs.name, data_types.FloatTensorType(shape))]
    kinds = {
        "str": data_types.StringTensorType,
        "int64": data_types.Int64TensorType,
        "bool": data_types.BooleanTensorType,
        "float32": data_types.FloatTensorType,
    }
    return [(column.name, kinds[column.dtype]([None, 1])) for column in inputs.columns]


def _to_onnx(
    estimator: Any,
    contract: Contract,
    inputs: MatrixInput | ColumnsInput,
    classifies: bool,
    what: str,
    *,
    sure: bool,
) -> tuple[bytes, dict[str, str]]:
    """The graph's bytes, and the graph's names of `label`, `probabilities` and `value`; with
    `sure` it has a `confidence` too."""
    from skl2onnx import convert_sklearn

    _mend_histogram_trees()
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
    try:
        graph = convert_sklearn(
            estimator, name=what, initial_types=_initial_types(inputs), options=options
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        raise Unsupported(
            f"skl2onnx cannot convert {_chain(estimator)} ({reason}); {_INSTEAD}"
        ) from error
    found = [output.name for output in graph.graph.output]
    roles = ("label", "probabilities") if classifies else ("value",)
    if sure:
        _add_confidence(graph, found[1])
        found, roles = [*found, CONFIDENCE], (*roles, CONFIDENCE)
    content: bytes = graph.SerializeToString(deterministic=True)
    return content, dict(zip(roles, found, strict=False))


def _add_confidence(graph: Any, probabilities: str) -> None:
    """Let the graph give the largest of a row's probabilities, [rows], beside all of them."""
    from onnx import TensorProto, helper

    largest = {"keepdims": 0, "name": CONFIDENCE}
    version = next(one.version for one in graph.opset_import if one.domain == "")
    if version < 18:  # what is reduced over was an attribute before
        node = helper.make_node("ReduceMax", [probabilities], [CONFIDENCE], axes=[1], **largest)
    else:
        axes = helper.make_tensor("confidence_axes", TensorProto.INT64, [1], [1])
        graph.graph.initializer.append(axes)
        node = helper.make_node("ReduceMax", [probabilities, axes.name], [CONFIDENCE], **largest)
    graph.graph.node.append(node)
    told = helper.make_tensor_value_info(CONFIDENCE, TensorProto.FLOAT, [None])
    graph.graph.output.append(told)


def _mend_histogram_trees() -> None:
    """Let histogram trees convert: skl2onnx 1.20 gives a Python bool for "missing goes left" of
    a leaf, which protobuf's integers no longer take."""
    from skl2onnx.common._registration import get_converter, register_converter

    for alias in ("SklearnHistGradientBoostingClassifier", "SklearnHistGradientBoostingRegressor"):
        original = get_converter(alias)
        if not getattr(original._fct, "gives_whole_numbers", False):
            register_converter(
                alias, _mended(original._fct), overwrite=True, options=original._options
            )


def _mended(original: Callable[..., None]) -> Callable[..., None]:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        original(scope, operator, _WholeNumbers(container))

    convert.gives_whole_numbers = True  # type: ignore[attr-defined]
    return convert


class _WholeNumbers:
    """A converter's container that turns booleans in a node's attributes into 0 and 1."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, kind: str, inputs: Any, outputs: Any, **attributes: Any) -> Any:
        whole = {
            name: [int(item) if isinstance(item, bool | np.bool_) else item for item in value]
            if isinstance(value, list)
            else value
            for name, value in attributes.items()
        }
        return self._container.add_node(kind, inputs, outputs, **whole)


def _map_outputs(
    estimator: Any,
    contract: Contract,
    outputs: Mapping[str, OutputChoice] | None,
    classifies: bool,
    what: str,
) -> dict[str, OutputSource]:
    """Contract output -> `label`, a column of `probabilities`, `confidence`, or `value`."""
    classes = [_plain(value) for value in estimator.classes_] if classifies else []
    scores = hasattr(estimator, "predict_proba")
    if outputs is not None:
        offered: dict[str, int | None] = {"value": None}
        if classifies:
            scored = {"probabilities": len(classes), CONFIDENCE: 1} if scores else {}
            offered = {"label": 1, **scored}
        return chosen_outputs(outputs, contract, offered)
    if not classifies:
        return _regressor_outputs(contract, what)
    found = {}
    for name, field in contract.outputs.items():
        if isinstance(field, Number):
            if not scores:
                raise UsageError(
                    f"{what} has no predict_proba for the output {name!r}; wrap it in "
                    "CalibratedClassifierCV, or declare the label as a Category"
                )
            column = _class_column(name, classes, len(contract.outputs))
            found[name] = OutputSource(name="probabilities", column=column, at_most=1.0)
        else:
            _check_label(name, field, classes, what)
            found[name] = OutputSource(name="label")
    return found


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _class_column(name: str, classes: list[Any], count: int) -> int:
    """The class whose probability an output is: the one it is named after, or the second of
    two (scikit-learn's positive class)."""
    labels = [str(value) for value in classes]
    if name in labels:
        return labels.index(name)
    if len(classes) == 2:
        return 1
    raise UsageError(
        f"the output {name!r} could be the probability of any of {len(classes)} classes: name "
        f"outputs after the classes {', '.join(labels[:12])}, or give "
        f'outputs={{{name!r}: ("probabilities", index)}}'
    )


def _check_label(name: str, field: Field, classes: list[Any], what: str) -> None:
    if isinstance(field, Category):
        strange = [value for value in classes if value not in field.values]
    elif isinstance(field, Boolean):
        strange = [value for value in classes if value not in (0, 1)]
    elif isinstance(field, Integer):
        strange = [value for value in classes if not isinstance(value, int)]
    else:
        strange = [value for value in classes if not isinstance(value, str)]
    if strange:
        raise UsageError(
            f"{what} predicts {strange[:5]!r}, which the output {name!r} does not allow "
            f"({field.describe()})"
        )


def _regressor_outputs(contract: Contract, what: str) -> dict[str, OutputSource]:
    names = list(contract.outputs)
    for name in names:
        if not isinstance(contract.outputs[name], Number):
            raise UsageError(
                f"{what} is a regressor: declare the output {name!r} as a Number, not as "
                f"{contract.outputs[name].describe()}"
            )
    if len(names) == 1:
        return {names[0]: OutputSource(name="value")}
    return {name: OutputSource(name="value", column=index) for index, name in enumerate(names)}


def _original(
    estimator: Any,
    contract: Contract,
    inputs: MatrixInput | ColumnsInput,
    sources: Mapping[str, OutputSource],
) -> Callable[[Batch], dict[str, Array]]:
    def answer(batch: Batch) -> dict[str, Array]:
        rows = _rows_for(estimator, inputs, batch)
        raw: dict[str, Array] = {}
        needed = {source.name for source in sources.values()}
        try:
            if needed & {"probabilities", CONFIDENCE}:
                raw["probabilities"] = np.asarray(estimator.predict_proba(rows))
                raw[CONFIDENCE] = raw["probabilities"].max(axis=1)
            if needed & {"label", "value"}:
                raw["label"] = raw["value"] = np.asarray(estimator.predict(rows))
        except Exception as error:
            raise ArtifactRejected(
                f"{type(_last_step(estimator)).__name__} itself raised {type(error).__name__} on "
                f"rows that the contract allows: {str(error)[:200]}; mend the model, or narrow "
                "the contract (nullable, ranges)"
            ) from error
        return {
            name: raw[source.name][:, source.column]
            if source.column is not None and raw[source.name].ndim > 1
            else raw[source.name].reshape(batch.rows)
            for name, source in sources.items()
        }

    return answer


def _rows_for(estimator: Any, inputs: MatrixInput | ColumnsInput, batch: Batch) -> Any:
    """The batch as the estimator was fitted: a frame where it knows names, else an array."""
    named = getattr(estimator, "feature_names_in_", None)
    if isinstance(inputs, MatrixInput):
        matrix = batch.matrix(inputs.features, np.float64)
        if named is None:
            return matrix
        import pandas

        return pandas.DataFrame(matrix, columns=list(inputs.features))
    import pandas

    columns = {column.field: batch.column(column.field) for column in inputs.columns}
    frame = pandas.DataFrame(
        {name: pandas.Series(value, dtype=value.dtype) for name, value in columns.items()}
    )
    return frame if named is not None else frame.to_numpy(dtype=object)


def _producers() -> dict[str, str]:
    import onnx
    import skl2onnx
    import sklearn

    return {
        "scikit-learn": sklearn.__version__,
        "skl2onnx": skl2onnx.__version__,
        "onnx": onnx.__version__,
    }
