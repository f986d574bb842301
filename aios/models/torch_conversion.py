"""torch modules to ONNX; to a `torch.export` archive where ONNX cannot express them."""

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aios.contracts import Batch, Contract
from aios.errors import Unsupported, UsageError
from aios.models.conversion import Converted, OutputChoice, chosen_outputs, column_type
from aios.models.engine import Array
from aios.models.manifest import (
    ONNX_FILE,
    TORCH_FILE,
    ColumnInput,
    ColumnsInput,
    ColumnType,
    MatrixInput,
    OutputSource,
)
from aios.models.pt2 import check_archive
from aios.models.safety import check_onnx
from aios.models.torch_engine import name_outputs, positional
from aios.records import EngineName

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_EXPORT_ROWS = 3
"""torch.export takes a size of 0 or 1 for a constant, so it must see more rows."""


def is_module(model: object) -> bool:
    """Whether this is a torch module, told without importing torch."""
    return any(
        base.__module__ == "torch.nn.modules.module" and base.__name__ == "Module"
        for base in type(model).__mro__
    )


def convert_module(
    module: Any,
    contract: Contract,
    batch: Batch,
    outputs: Mapping[str, OutputChoice] | None,
    engine: EngineName | None = None,
) -> Converted:
    """The module in evaluation mode as an ONNX graph, else as a `torch.export` archive, or as the
    one that `engine` names.

    `forward` takes either all scalar inputs as one float32 matrix [rows, n] in contract
    order, or one argument per input, called as in the contract ([rows] each, [rows, *shape]
    for tensors). It returns a tensor, a tuple of tensors, or a dict of them.

    Raises:
        UsageError: forward's arguments or results do not fit the contract.
        Unsupported: no export, or not the one that is wanted, can express the module.
    """
    import torch

    what = type(module).__name__
    inputs = _layout(module, contract, what)
    with _evaluating(module):
        arguments = _arguments(inputs, batch)
        named = _answers(module, arguments, what)
        sources = _map_outputs(named, contract, outputs, what)
        kind, content, reason = _export(module, arguments, inputs, list(named), what, engine)
    notes = {"why_not_onnx": reason} if reason else {}
    return Converted(
        source=f"torch.{what}",
        engine=kind,
        inputs=inputs,
        outputs=sources,
        files={ONNX_FILE if kind == "onnx" else TORCH_FILE: content},
        original=_original(module, inputs, sources),
        producers={"torch": torch.__version__},
        notes=notes,
    )


def answer_module(module: Any, contract: Contract, batch: Batch) -> dict[str, Array]:
    """The contract's outputs as the module itself gives them, without a conversion.

    Raises:
        UsageError: forward's arguments or results do not fit the contract.
    """
    what = type(module).__name__
    inputs = _layout(module, contract, what)
    with _evaluating(module):
        named = _answers(module, _arguments(inputs, batch), what)
        sources = _map_outputs(named, contract, None, what)
    return _original(module, inputs, sources)(batch)


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    import torch

    trained = {name: part.training for name, part in module.named_modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for name, part in module.named_modules():
            part.training = trained[name]


def _layout(module: Any, contract: Contract, what: str) -> MatrixInput | ColumnsInput:
    names = _argument_names(module, what)
    textual = [n for n, field in contract.inputs.items() if field.column_dtype.kind == "O"]
    if textual:
        raise UsageError(
            f"{what}: a torch module cannot take the texts {', '.join(textual)}; encode them as an "
            "Integer or a Category of integers, or register a Python class by import path"
        )
    if set(names) == set(contract.inputs):
        chosen = {name: name for name in names}
    elif len(names) == 1 and len(contract.inputs) == 1:
        chosen = {names[0]: next(iter(contract.inputs))}
    elif len(names) == 1 and not any(field.shape for field in contract.inputs.values()):
        return MatrixInput(name=names[0], features=tuple(contract.inputs))
    else:
        raise UsageError(
            f"{what}.forward takes {', '.join(names)}, and the contract gives "
            f"{', '.join(contract.inputs)}: name them alike, or take one matrix of all inputs"
        )
    if len(chosen) == 1 and not contract.inputs[chosen[names[0]]].shape:
        return MatrixInput(name=names[0], features=(chosen[names[0]],))
    return ColumnsInput(
        columns=tuple(
            ColumnInput(
                field=field,
                name=name,
                dtype=_tensor_type(contract, field),
                shape=contract.inputs[field].shape,
            )
            for name, field in chosen.items()
        )
    )


def _tensor_type(contract: Contract, name: str) -> ColumnType:
    field = contract.inputs[name]
    return "int32" if field.datatype == "INT32" else column_type(field)


def _argument_names(module: Any, what: str) -> list[str]:
    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind == parameter.VAR_POSITIONAL for parameter in parameters):
        raise UsageError(f"{what}.forward takes *args; give it named arguments")
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def _arguments(inputs: MatrixInput | ColumnsInput, batch: Batch) -> tuple[Any, ...]:
    import torch

    repeated = Batch.concat([batch.slice(0, 1)] * _EXPORT_ROWS) if batch.rows < 2 else batch
    return tuple(torch.from_numpy(value) for value in positional(inputs, repeated.slice(0, 64)))


def _answers(module: Any, arguments: tuple[Any, ...], what: str) -> dict[str, Any]:
    import torch

    try:
        named = name_outputs(module(*arguments))
    except Exception as error:
        raise UsageError(
            f"{what}.forward raised {type(error).__name__} on the sample: {str(error)[:300]}"
        ) from error
    strange = [name for name, value in named.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise UsageError(f"{what}.forward must return tensors; {', '.join(strange)} is none")
    return named


def _map_outputs(
    named: Mapping[str, Any],
    contract: Contract,
    outputs: Mapping[str, OutputChoice] | None,
    what: str,
) -> dict[str, OutputSource]:
    widths = {name: int(t.shape[1]) if t.dim() == 2 else None for name, t in named.items()}
    names = list(contract.outputs)
    if outputs is not None:
        return chosen_outputs(outputs, contract, widths)
    if set(names) <= set(named):
        return {name: OutputSource(name=name) for name in names}
    if len(named) == 1 and len(names) > 1:
        ((only, width),) = widths.items()
        if width == len(names):
            return {name: OutputSource(name=only, column=i) for i, name in enumerate(names)}
    fitting = len(named) == len(names) and all(
        widths[only] in (None, 1) or contract.outputs[name].shape
        for name, only in zip(names, named, strict=True)
    )
    if fitting and all(name.startswith("output_") for name in named):
        return {name: OutputSource(name=only) for name, only in zip(names, named, strict=True)}
    shapes = {name: list(tensor.shape) for name, tensor in named.items()}
    raise UsageError(
        f"{what}.forward returns {shapes}, and the contract promises {', '.join(names)}: return a "
        "dict of these names, or give outputs="
    )


def _export(
    module: Any,
    arguments: tuple[Any, ...],
    inputs: MatrixInput | ColumnsInput,
    names: list[str],
    what: str,
    engine: EngineName | None,
) -> tuple[EngineName, bytes, str | None]:
    reason = "not asked for"
    if engine != "torch":
        try:
            with _quiet():
                content = _to_onnx(module, arguments, inputs, names)
            check_onnx(content, what)
        except Exception as error:
            reason = _first_line(error)
            if engine == "onnx":
                raise Unsupported(f"{what} cannot be exported to ONNX: {reason}") from error
        else:
            return "onnx", content, None
    try:
        with _quiet():
            content = _to_archive(module, arguments, inputs)
        check_archive(content, what)
    except Exception as error:
        raise Unsupported(
            f"{what} can be exported neither to ONNX ({reason}) nor as a torch.export archive "
            f"({_first_line(error)}); register a Python class by import path"
        ) from error
    return "torch", content, reason


def _to_onnx(
    module: Any, arguments: tuple[Any, ...], inputs: MatrixInput | ColumnsInput, names: list[str]
) -> bytes:
    import torch

    program = torch.onnx.export(
        module,
        arguments,
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=_input_names(inputs),
        output_names=names,
        dynamic_shapes=_dynamic_shapes(inputs),
    )
    graph = program.model_proto
    _strip(graph)
    content: bytes = graph.SerializeToString(deterministic=True)
    return content


def _strip(graph: Any) -> None:
    """Take out what tells about the exporting machine: source paths and stack traces."""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    for part in (
        *graph.graph.node,
        *graph.graph.input,
        *graph.graph.output,
        *graph.graph.value_info,
        *graph.graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""


def _to_archive(
    module: Any, arguments: tuple[Any, ...], inputs: MatrixInput | ColumnsInput
) -> bytes:
    import torch

    program = torch.export.export(module, arguments, dynamic_shapes=_dynamic_shapes(inputs))
    # Sample inputs would be pickled, guards are source code, and stack traces name paths.
    program._example_inputs = None
    program._guards_code = []
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
            node.meta.pop(key, None)
    archive = io.BytesIO()
    torch.export.save(program, archive)
    return archive.getvalue()


def _dynamic_shapes(inputs: MatrixInput | ColumnsInput) -> tuple[Any, ...]:
    import torch

    rows = torch.export.Dim("rows", min=1)
    return tuple({0: rows} for _ in _input_names(inputs))


def _input_names(inputs: MatrixInput | ColumnsInput) -> list[str]:
    if isinstance(inputs, MatrixInput):
        return [inputs.name]
    return [column.name for column in inputs.columns]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters print: notes on absent packages, and whole graphs on failure."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        spoken = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(spoken),
            contextlib.redirect_stderr(spoken),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    """The first cause's first line: exporters wrap it in advice of many screens."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = _COLOUR.sub("", str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _original(
    module: Any, inputs: MatrixInput | ColumnsInput, sources: Mapping[str, OutputSource]
) -> Callable[[Batch], dict[str, Array]]:
    def answer(batch: Batch) -> dict[str, Array]:
        import torch

        with _evaluating(module):
            arguments = [torch.from_numpy(value) for value in positional(inputs, batch)]
            named = name_outputs(module(*arguments))
        found = {}
        for name, source in sources.items():
            value = named[source.name].numpy()
            if source.column is not None:
                value = value[:, source.column]
            elif value.ndim == 2 and value.shape[1] == 1:
                value = value[:, 0]
            found[name] = value
        return found

    return answer
