"""An engine alone: one batch after the other in a plain loop of this process, nothing around it.

onnxruntime runs the file that is served, with the session's options that aios sets; torch runs the
module itself. Inputs lie ready as arrays; on a GPU they are sent there and answers fetched, as they
must be. Nothing is checked, and no two batches are joined.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios.capacity.generator import new_histogram
from aios.contracts import Batch
from aios.models import Manifest
from aios.models.engine import Outputs, column_values
from aios.models.manifest import ONNX_FILE, ColumnsInput, MatrixInput
from aios.models.onnx_engine import open_session
from aios.models.torch_engine import name_outputs, positional

Call = Callable[[], list[Any]]
WARM_UPS = 3


class Alone:
    """An engine in this process; one for all sizes of batch.

    Args:
        folder: of the artifact that is served, and its manifest.
        source: the model as it was registered.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, source: Any, *, device: str, threads: int
    ) -> None:
        self._inputs = manifest.inputs
        self._outputs = Outputs(manifest.outputs)
        self._device = device
        if manifest.engine == "onnx":
            content = (folder / ONNX_FILE).read_bytes()
            self._session = open_session(content, "the model", device, threads)
            self._prepare: Callable[[Batch], Call] = self._for_session
        else:
            import torch

            torch.set_num_threads(threads)
            self._module = source.eval().to(device)
            self._prepare = self._for_module

    def asked(self, batches: Sequence[Batch]) -> "EngineLoop":
        """Ready to be asked for these batches of one size."""
        return EngineLoop(
            [self._prepare(batch) for batch in batches], batches[0].rows, self._outputs
        )

    def _for_session(self, batch: Batch) -> Call:
        inputs, wanted, session = self._inputs, self._outputs.wanted, self._session
        if isinstance(inputs, MatrixInput):
            feed = {inputs.name: batch.matrix(inputs.features, inputs.dtype)}
        else:
            assert isinstance(inputs, ColumnsInput)
            feed = {one.name: column_values(batch, one) for one in inputs.columns}
        return lambda: list(session.run(wanted, feed))

    def _for_module(self, batch: Batch) -> Call:
        import torch

        given = [torch.from_numpy(array) for array in positional(self._inputs, batch)]

        def call() -> list[Any]:
            with torch.inference_mode():
                named = name_outputs(self._module(*(one.to(self._device) for one in given)))
                return [named[name].cpu().numpy() for name in self._outputs.wanted]

        return call


class EngineLoop:
    """A plain loop over some batches.

    Attributes:
        answers: what is right: the contract's outputs for each batch.
    """

    def __init__(self, calls: Sequence[Call], rows: int, outputs: Outputs) -> None:
        self._calls = calls
        self._rows = rows
        self.answers = [outputs.pick(call(), rows) for call in calls]

    def loop(self, seconds: float) -> "Looped":
        """Ask in turn for so long."""
        for number in range(WARM_UPS):
            self._calls[number % len(self._calls)]()
        took, runs, clock = new_histogram(), 0, time.perf_counter_ns
        begin_cpu_s = time.process_time()
        begin_ns = now_ns = clock()
        while now_ns - begin_ns < seconds * 1e9:
            self._calls[runs % len(self._calls)]()
            before_ns, now_ns = now_ns, clock()
            took.record_value(max((now_ns - before_ns) // 1000, 1))
            runs += 1
        cpu_s = time.process_time() - begin_cpu_s
        return Looped(took.encode().decode(), runs, (now_ns - begin_ns) / 1e9, cpu_s)


@dataclass(frozen=True)
class Looped:
    """What a loop came to: how long runs took, as an encoded HdrHistogram of microseconds, how many
    there were in how many seconds, and the CPU seconds of this process meanwhile."""

    took: str
    runs: int
    window_s: float
    cpu_s: float
