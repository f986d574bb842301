"""How a torch program runs on a GPU: each size of batch in a place of its own, captured once.

Starting a small model's kernels one by one takes longer than the kernels do. A CUDA graph starts
them all at once, and wants the same memory and the same shapes each time. So the rows of a batch
are copied through pinned memory into fixed tensors of the next power of two, and what was computed
for the rows beyond them is cut off. Source: PyTorch, "CUDA semantics", section "CUDA Graphs".
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from aios.models.engine import Array

MOST_ROWS = 256
"""As many as a replica puts into one batch of its own accord; larger ones run without a graph."""
_WARM_RUNS = 3
"""Before a capture, so that libraries have chosen their kernels and taken their memory."""

Compute = Callable[[], dict[str, Any]]
Capture = Callable[[Compute], Compute]
"""Makes of a computation one that gives the same tensors, filled anew, at each call."""
logger = logging.getLogger("aios.models")


def padded_rows(rows: int) -> int:
    """The size of the place that so many rows go to.

    >>> [padded_rows(rows) for rows in (1, 2, 3, 5, 256)]
    [1, 2, 4, 8, 256]
    """
    return 1 << (rows - 1).bit_length()


def captured(compute: Compute) -> Compute:
    """As a CUDA graph; as it is where it cannot be one, as where a model looks at its values."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_RUNS):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        # A version that serves meanwhile in another thread must neither disturb nor be disturbed.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = compute()
    except RuntimeError as error:
        logger.warning("the model cannot be a CUDA graph and runs without: %s", error)
        return compute

    def replay() -> dict[str, Any]:
        graph.replay()
        return outputs

    return replay


class FixedPlaces:
    """Runs batches of up to `MOST_ROWS` rows, one at a time.

    Args:
        answer: from the inputs in their order to the outputs by name; on the device already.
        row: shape and type of one row of each input.
        device: `cuda`, or `cpu` where this logic is tested.
        capture: see `Capture`.
    """

    def __init__(
        self,
        answer: Callable[..., dict[str, Any]],
        row: Sequence[tuple[tuple[int, ...], str]],
        device: str,
        capture: Capture = captured,
    ) -> None:
        self._answer = answer
        self._device = device
        self._capture = capture
        self._row = row
        self._places: dict[int, _Place] = {}
        self._one_at_a_time = threading.Lock()

    def prepare(self) -> None:
        """Capture all sizes, so that no request waits for it."""
        with self._one_at_a_time:
            for rows in (1 << power for power in range(padded_rows(MOST_ROWS).bit_length())):
                self._place(rows)

    def run(self, arrays: Sequence[Array]) -> dict[str, Array]:
        """The outputs by name, [rows, ...] each."""
        rows = len(arrays[0])
        with self._one_at_a_time:
            return self._place(padded_rows(rows)).run(arrays, rows)

    def _place(self, rows: int) -> "_Place":
        if rows not in self._places:
            self._places[rows] = _Place(self, rows)
        return self._places[rows]


class _Place:
    """Memory for one size of batch, and the computation on it."""

    def __init__(self, owner: FixedPlaces, rows: int) -> None:
        import torch

        self._torch = torch
        pinned = owner._device != "cpu"
        with torch.inference_mode():
            self._host = [
                torch.zeros((rows, *shape), dtype=getattr(torch, dtype), pin_memory=pinned)
                for shape, dtype in owner._row
            ]
            self._inputs = [one.to(owner._device, copy=True) for one in self._host]
            self._compute = owner._capture(lambda: owner._answer(*self._inputs))

    def run(self, arrays: Sequence[Array], rows: int) -> dict[str, Array]:
        with self._torch.inference_mode():
            for array, host, there in zip(arrays, self._host, self._inputs, strict=True):
                host[:rows].copy_(self._torch.from_numpy(array))
                there[:rows].copy_(host[:rows], non_blocking=True)
            return {
                name: one[:rows].to("cpu", copy=True).numpy()
                for name, one in self._compute().items()
            }
