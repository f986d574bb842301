"""The torch engine: runs a `torch.export` archive on the CPU, or on a GPU as CUDA graphs."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from aios.contracts import Batch, Contract
from aios.errors import ArtifactRejected, UsageError
from aios.models.engine import Array, EngineBase, Outputs, column_values
from aios.models.manifest import ColumnsInput, Manifest, MatrixInput
from aios.models.pt2 import check_archive
from aios.models.torch_graphs import MOST_ROWS, FixedPlaces


class TorchEngine(EngineBase):
    """Runs an exported program. `threads` sets torch's intra-op threads for the process,
    because torch has no such setting per model; 0 leaves them as they are."""

    def __init__(
        self,
        content: bytes,
        manifest: Manifest,
        contract: Contract,
        *,
        ref: str,
        device: str,
        threads: int,
    ) -> None:
        import torch

        super().__init__(contract, ref=ref, device=device)
        if device != "cpu" and not torch.cuda.is_available():
            raise UsageError(
                f"device {device!r} was asked for, and torch sees no CUDA device here; load with "
                'device="cpu"'
            )
        check_archive(content, "the torch archive")
        if threads:
            torch.set_num_threads(threads)
        self._torch = torch
        self._inputs = manifest.inputs
        self._outputs = Outputs(manifest.outputs)
        self._answer = _answering(_load(content, ref, device), self._outputs.wanted)
        self._places: FixedPlaces | None = None
        if device != "cpu":
            row = shapes_of_a_row(manifest.inputs)
            self._places = FixedPlaces(self._answer, row, device)

    def run(self, batch: Batch) -> dict[str, Array]:
        torch = self._torch
        try:
            arrays = positional(self._inputs, batch)
            if self._places is not None and batch.rows <= MOST_ROWS:
                found = self._places.run(arrays)
            else:
                tensors = [torch.from_numpy(value).to(self.device) for value in arrays]
                with torch.inference_mode():
                    named = self._answer(*tensors)
                found = {name: value.cpu().numpy() for name, value in named.items()}
            return self._outputs.pick([found[name] for name in self._outputs.wanted], batch.rows)
        except Exception as error:
            raise self._failed(error, batch.rows) from error

    def warm(self, rows: int = 1) -> None:
        if self._places is not None:
            try:
                self._places.prepare()
            except Exception as error:
                raise self._failed(error, MOST_ROWS) from error
        super().warm(rows)

    def close(self) -> None:
        del self._answer, self._places
        if self.device != "cpu":
            self._torch.cuda.empty_cache()


def positional(inputs: Any, batch: Batch) -> list[Array]:
    """The arguments of the module's forward, in order."""
    if isinstance(inputs, MatrixInput):
        return [_owned(batch.matrix(inputs.features, np.dtype(inputs.dtype).type))]
    if not isinstance(inputs, ColumnsInput):
        raise ArtifactRejected("a torch module cannot take a whole batch; register it again")
    return [_owned(column_values(batch, column)) for column in inputs.columns]


def shapes_of_a_row(inputs: Any) -> list[tuple[tuple[int, ...], str]]:
    """Shape and type of one row of each argument."""
    if isinstance(inputs, MatrixInput):
        return [((len(inputs.features),), inputs.dtype)]
    return [(column.shape, column.dtype) for column in inputs.columns]


def _owned(value: Array) -> Array:
    # torch shares numpy's memory and may write to it; a batch may be a view of a request.
    return np.require(value, requirements=["C", "W"])


def _answering(module: Any, wanted: list[str]) -> Callable[..., dict[str, Any]]:
    def answer(*inputs: Any) -> dict[str, Any]:
        named = name_outputs(module(*inputs))
        return {name: named[name] for name in wanted}

    return answer


def name_outputs(result: Any) -> dict[str, Any]:
    """What a forward returned, by name: a dict's keys, else `output_0`, `output_1`, ..."""
    if isinstance(result, dict):
        return dict(result)
    if isinstance(result, list | tuple):
        return {f"output_{index}": value for index, value in enumerate(result)}
    return {"output_0": result}


def _load(content: bytes, ref: str, device: str) -> Any:
    import torch

    try:
        program = torch.export.load(io.BytesIO(content))
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()
    except Exception as error:
        reason = type(error).__name__
        raise ArtifactRejected(f"{ref}: torch cannot load the archive ({reason})") from error
