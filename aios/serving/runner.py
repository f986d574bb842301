"""Runs one version's engine: on the event loop when fast, else in a thread with batching."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from aios.contracts import Batch, Codec
from aios.errors import AiosError, ContractViolation, ModelFailed, Overloaded
from aios.models import Engine
from aios.telemetry.traces import Tracer

INLINE_LIMIT_S = 0.001
"""A model below this runs on the event loop: a thread hand-over costs about 0.1 ms and a
wake-up of the loop, more than such a model itself."""

Outputs = dict[str, np.ndarray]


@dataclass(slots=True)
class _Waiting:
    batch: Batch
    answer: asyncio.Future[Outputs]
    taken_s: float = 0.0
    together: tuple[int, int] = (0, 0)
    """When its batch was begun, and how many rows and calls that had."""


class Runner:
    """One loaded version, ready to answer.

    A slow engine gets one worker thread. What queued while the last batch ran becomes the
    next batch, up to `max_batch_rows`: batches grow with load and an idle engine never
    waits for company. A call that is cancelled while queued is skipped; one that is
    running cannot be stopped, so a stuck engine holds one thread and its queue is refused
    beyond `max_waiting` calls.

    Args:
        tracer: gets a span of each run, below the one that is open; with the attributes `about`.
    """

    def __init__(
        self,
        engine: Engine,
        codec: Codec,
        *,
        max_batch_rows: int = 256,
        max_waiting: int = 1024,
        tracer: Tracer | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self._engine = engine
        self._codec = codec
        self._max_batch_rows = max_batch_rows
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._tracer = tracer if tracer is not None and tracer.enabled else None
        self._about = dict(about or {})
        self._busy = False
        self._closed = False
        self._holders = 0
        self._scalars = {name: not field.shape for name, field in codec.contract.outputs.items()}
        # On a GPU a batch costs hardly more than a row: a thread lets calls gather meanwhile.
        self.inline = engine.device == "cpu" and engine.service_time_s < INLINE_LIMIT_S
        self._thread = (
            None if self.inline else ThreadPoolExecutor(1, thread_name_prefix="aios-engine")
        )

    async def run(self, batch: Batch) -> tuple[Outputs, float]:
        """The contract's outputs by name, `[rows]` each (`[rows, *shape]` for a tensor), and
        the seconds from call to answer.

        Raises:
            ModelFailed: the model raised.
            ContractViolation: its answer does not fit the contract.
            Overloaded: too many calls wait already.
        """
        started = time.perf_counter()
        if self._tracer is not None:
            outputs = await self._traced(self._tracer, batch, started)
        elif self.runs_inline(batch):
            outputs = self._call(batch)
        else:
            outputs = await self._queue(batch).answer
        self._codec.check_outputs(outputs, batch.rows)
        return self._conformed(outputs), time.perf_counter() - started

    def runs_inline(self, batch: Batch) -> bool:
        """Whether this batch runs on the event loop, where no timeout can reach it."""
        return self.inline and batch.rows <= self._max_batch_rows

    @property
    def queued(self) -> int:
        """How many calls wait until the model has finished with those before them."""
        return sum(not waiting.answer.done() for waiting in self._waiting)

    def _conformed(self, outputs: Outputs) -> Outputs:
        """One value per row for scalars: a column vector would not line up with the other
        arm's plain vector when they are compared."""
        found = {}
        for name, scalar in self._scalars.items():
            values = outputs[name]
            found[name] = values.reshape(-1) if scalar and values.ndim > 1 else values
        return found

    def _call(self, batch: Batch) -> Outputs:
        """One run of the engine. Whatever escapes it, a model's `sys.exit()` included, is
        the model's failure and must not end the replica."""
        try:
            return self._engine.run(batch)
        except AiosError:
            raise
        except (Exception, SystemExit) as error:
            raise ModelFailed(f"the model raised {type(error).__name__}") from error

    async def _traced(self, tracer: Tracer, batch: Batch, started: float) -> Outputs:
        with tracer.span("engine run", None, self._about) as span:
            assert span is not None
            if self.runs_inline(batch):
                span.set({"aios.batch.rows": batch.rows, "aios.queue_wait_s": 0.0})
                return self._call(batch)
            waiting = self._queue(batch)
            outputs = await waiting.answer
            rows, calls = waiting.together
            span.set(
                {
                    "aios.batch.rows": rows,
                    "aios.batch.calls": calls,
                    "aios.queue_wait_s": waiting.taken_s - started,
                }
            )
            return outputs

    def _queue(self, batch: Batch) -> _Waiting:
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded("too many requests wait for this model", retry_after_s=1.0)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(batch, loop.create_future())
        self._waiting.append(waiting)
        if not self._busy:
            self._start_batch(loop)
        return waiting

    def _start_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        taken: list[_Waiting] = []
        rows = 0
        while self._waiting:
            head = self._waiting[0]
            if head.answer.done():
                self._waiting.popleft()
                continue
            if taken and rows + head.batch.rows > self._max_batch_rows:
                break
            taken.append(self._waiting.popleft())
            rows += head.batch.rows
        if not taken:
            return
        self._busy = True
        now = time.perf_counter()
        for waiting in taken:
            waiting.taken_s, waiting.together = now, (rows, len(taken))
        if self._thread is None:  # an inline engine with a batch too large for the loop
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="aios-engine")
        batches = [waiting.batch for waiting in taken]
        running = loop.run_in_executor(self._thread, self._run_together, batches)
        running.add_done_callback(lambda done: self._finish_batch(loop, taken, done))

    def _run_together(self, batches: list[Batch]) -> list[Outputs | ModelFailed]:
        """In the thread: one call for all; if that fails, one by one, so that a row that
        breaks the model fails its own request and no other."""
        try:
            if len(batches) == 1:
                return [self._call(batches[0])]
            outputs = self._call(Batch.concat(batches))
        except ModelFailed as failure:
            if len(batches) == 1:
                return [failure]
            return [self._run_together([batch])[0] for batch in batches]
        parts: list[Outputs | ModelFailed] = []
        start = 0
        for batch in batches:
            stop = start + batch.rows
            parts.append({name: values[start:stop] for name, values in outputs.items()})
            start = stop
        return parts

    def _finish_batch(
        self,
        loop: asyncio.AbstractEventLoop,
        taken: list[_Waiting],
        done: "asyncio.Future[list[Outputs | ModelFailed]]",
    ) -> None:
        self._busy = False
        failure = done.exception()
        parts = [failure] * len(taken) if failure is not None else done.result()
        for waiting, part in zip(taken, parts, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(part, BaseException):
                waiting.answer.set_exception(part)
            else:
                waiting.answer.set_result(part)
        self._start_batch(loop)
        self._unload_if_done()

    def hold(self) -> None:
        """Keep the engine until `let_go`, even if `close` is called between."""
        self._holders += 1

    def let_go(self) -> None:
        self._holders -= 1
        self._unload_if_done()

    def close(self) -> None:
        """Unload the engine as soon as nobody holds it and nothing runs."""
        self._closed = True
        self._unload_if_done()

    def _unload_if_done(self) -> None:
        if self._closed and not self._busy and not self._holders:
            if self._thread is not None:
                self._thread.shutdown(wait=False)
            self._engine.close()


def failure_kind(error: BaseException) -> str:
    """How an arm's failed attempt is counted."""
    if isinstance(error, ModelFailed):
        return "model_failed"
    if isinstance(error, ContractViolation):
        return "bad_output"
    if isinstance(error, TimeoutError):
        return "deadline"
    return "unavailable"
