"""The onnxruntime engine. `run` is the hot path of serving: what it adds to the session's
own run is a few microseconds, spent on making the input array and picking outputs."""

from typing import Any

import numpy as np

from aios.contracts import Batch, Contract
from aios.errors import ArtifactRejected, UsageError
from aios.models.engine import Array, EngineBase, Outputs, column_values
from aios.models.manifest import ColumnInput, Manifest, MatrixInput


class OnnxEngine(EngineBase):
    """Runs an ONNX graph on the CPU or, where onnxruntime has its provider, on CUDA."""

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
        super().__init__(contract, ref=ref, device=device)
        self._outputs = Outputs(manifest.outputs)
        session = open_session(content, ref, device, threads)
        # The public `run` checks names on each call; they are checked once, here.
        _check_names(session, manifest, ref)
        self._run = session._sess.run
        self._session = session
        self._wanted = self._outputs.wanted
        self._matrix: tuple[str, tuple[str, ...], Any] | None = None
        self._columns: tuple[ColumnInput, ...] = ()
        if isinstance(manifest.inputs, MatrixInput):
            inputs = manifest.inputs
            self._matrix = inputs.name, inputs.features, np.dtype(inputs.dtype).type
        elif manifest.inputs.kind == "columns":
            self._columns = manifest.inputs.columns

    def run(self, batch: Batch) -> dict[str, Array]:
        try:
            if self._matrix is not None:
                name, features, dtype = self._matrix
                feed = {name: batch.matrix(features, dtype)}
            else:
                feed = {column.name: column_values(batch, column) for column in self._columns}
            values = self._run(self._wanted, feed, None)
            return self._outputs.pick(values, batch.rows)
        except Exception as error:
            raise self._failed(error, batch.rows) from error

    def close(self) -> None:
        del self._run, self._session


def open_session(content: bytes, ref: str, device: str, threads: int) -> Any:
    """An onnxruntime session of a graph that `check_onnx` has passed.

    Raises:
        ArtifactRejected: onnxruntime does not take it.
        UsageError: the device is not here.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    # Spinning threads take the CPU from the other replicas of the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ArtifactRejected(f"{ref}: onnxruntime does not take the graph: {reason}") from error
    if device != "cpu" and "CUDAExecutionProvider" not in session.get_providers():
        raise UsageError(
            f"{ref}: onnxruntime could not start CUDA on {device!r}; check the driver, or load "
            'with device="cpu"'
        )
    return session


def _providers(device: str, available: list[str]) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        raise UsageError(
            f"device {device!r} was asked for, and this onnxruntime has no CUDA provider; install "
            'onnxruntime-gpu, or load with device="cpu"'
        )
    index = int(device.partition(":")[2] or 0)
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]


def _check_names(session: Any, manifest: Manifest, ref: str) -> None:
    inputs = {value.name for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    if manifest.inputs.kind == "matrix":
        fed = {manifest.inputs.name}
    elif manifest.inputs.kind == "columns":
        fed = {column.name for column in manifest.inputs.columns}
    else:
        raise ArtifactRejected(f"{ref}: an ONNX graph cannot take a whole batch; register again")
    if fed != inputs:
        raise ArtifactRejected(
            f"{ref}: the graph takes {sorted(inputs)}, the manifest {sorted(fed)}"
        )
    missing = {source.name for source in manifest.outputs.values()} - outputs
    if missing:
        raise ArtifactRejected(f"{ref}: the graph has no output {sorted(missing)}")
