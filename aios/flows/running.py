"""One flow while a worker runs it: every call of a step, child, sleep or question is written down.

Numbers of steps are drawn when they are called, in the order of the flow's own text, so that the
same call has the same number when the flow is run again. What is found under a number must be of
the same name; else the flow's text and its history are of different minds, and it ends there.
"""

import asyncio
import inspect
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import ModuleType
from typing import Any

from aios.errors import (
    MOST_TOLD,
    AiosError,
    DeadlineExceeded,
    FlowDiverged,
    PermanentError,
    UsageError,
    describe,
)
from aios.flows.around import Around
from aios.flows.durable import FlowInterrupted
from aios.flows.outcomes import Outcome, rebuilt, says, told
from aios.flows.views import UNDO
from aios.flows.writing import NO_DEFAULT, OPERATION, RUNNING, Asking, Flow, Step, own
from aios.packaging import exits_told, own_line, to_its_end
from aios.records import CodeSource
from aios.store.canonical import plain

LONGEST_PAUSE_S = 60.0
UNDO_RETRIES = 5
MOST_NESTED = 50
"""Flows that began one another: one that calls itself without an end would fill the database."""
_NESTED = re.compile(r"(?:\.\d+)+$")
"""What the ids of children add to that of the first flow."""


class DurableRun:
    """See `writing.Running`.

    Args:
        ref: `name:version` of the definition whose text runs, also that of its children.
        module: that text, loaded.
    """

    def __init__(
        self,
        around: Around,
        flow_id: str,
        ref: str,
        by: str,
        source: CodeSource,
        module: ModuleType,
        flow: Flow,
    ) -> None:
        self._around = around
        self.flow_id = flow_id
        self.ref = ref
        self.by = by
        self._source = source
        self._module = module
        self._flow = flow
        self._loop = asyncio.get_running_loop()
        self.module_name = module.__name__
        self.version = int(ref.rpartition(":")[2])
        self._undoable: dict[int, tuple[Step, Any, tuple[Any, ...], dict[str, Any]]] = {}
        self._not_awaited: dict[int, str] = {}
        self._steps_on: set[asyncio.Task[Any]] = set()
        self._children_on: dict[asyncio.Task[Any], str] = {}
        self._over = asyncio.Event()
        self._last = 0
        self._replayed = False
        self._diverged: FlowDiverged | None = None

    # -- the whole ---------------------------------------------------------------------

    async def carry_out(self, args: list[Any], kwargs: dict[str, Any]) -> Outcome:
        """Run the flow to its end.

        Raises:
            AiosError: it failed; `details` tell what was undone and what could not be.
        """
        token = RUNNING.set(self)
        try:
            self._flow.refuse_unfit(args, kwargs)
            result = await self._call(args, kwargs)
            if self._not_awaited:
                names = ", ".join(self._not_awaited.values())
                raise UsageError(f"{names} was called and not awaited: it never ran")
            await self._wait_for_rest()
            await self._refuse_rest()
            outcome = self._around.outcomes.of(result, f"what flow {self._flow.name!r} returns")
        except Exception as error:
            if self._diverged is not None:
                raise self._diverged from error
            raise await self._failed(error) from error
        finally:
            self._over.set()
            RUNNING.reset(token)
        if self._diverged is not None:
            raise self._diverged
        return outcome

    async def _call(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        with exits_told():
            if self._flow.asynchronous:
                return await self._flow.function(*args, **kwargs)
        # A thread of its own: it waits in every step.
        return await asyncio.to_thread(to_its_end, self._flow.function, args, kwargs)

    async def _wait_for_rest(self) -> None:
        """A flow has ended when its steps have. How those ended that it did not wait for is its
        own choice, as in asyncio, but for the signals that end the flow here."""
        while rest := [*self._steps_on, *self._children_on]:
            await asyncio.wait(rest)
            for task in rest:
                with suppress(Exception):
                    task.result()

    async def _failed(self, error: Exception) -> AiosError:
        """Undo what was done, and the error as it is stored. Steps that go on beside the one that
        failed end first: what they did is taken back too."""
        self._over.set()
        while self._steps_on:
            await asyncio.wait(self._steps_on)
        first, *others = _single(error)
        failed = told(first, self._source)
        failed["line"] = failed["line"] or own_line(error, self._source)
        undone, kept = [], []
        for task, name in list(self._children_on.items()):
            task.cancel()
            kept.append({"step": name, "error": "this flow goes on by itself"})
        for number in sorted(self._undoable, reverse=True):
            step, result, args, kwargs = self._undoable[number]
            try:
                await self._undo(step, result, args, kwargs)
                undone.append(f"{step.name} ({number})")
            except Exception as fault:  # noqa: BLE001 - told below, and the rest is undone
                if self._diverged is not None:
                    return self._diverged
                kept.append({"step": f"{step.name} ({number})", "error": describe(fault)[:500]})
        kind = type(first) if isinstance(first, AiosError) else PermanentError
        details = dict(first.details) if isinstance(first, AiosError) else {}
        more = {"flow": self.flow_id, "failed": failed, "undone": undone, "not_undone": kept}
        where = f" ({failed['line']})" if kind is PermanentError and failed["line"] else ""
        beside = "".join(f"; and {describe(one)}" for one in others[:MOST_TOLD])
        return kind(f"{says(failed)}{where}{beside}", **{**details, **more})

    async def _refuse_rest(self) -> None:
        """A history that is longer than what the text does belongs to another text."""
        if self._replayed and await self._around.steps_stored(self.flow_id) > self._last:
            self._diverged = FlowDiverged(
                f"flow {self.flow_id}: its history has more than the {self._last} steps that its "
                f"code does now; the code of {self.ref} is not always the same"
            )

    # -- what the flow's text calls ----------------------------------------------------

    def step(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._refuse_mixed(step.name, step.asynchronous)
        place, number = self._next()
        args, kwargs = own(args), own(kwargs)

        async def run() -> Any:
            attempts = self._attempts(step, args, kwargs, number)
            result = await self._step(place, number, step.name, attempts)
            if step.options.undo is not None:
                self._undoable[number] = (step, own(result), args, kwargs)
            return result

        def begin() -> asyncio.Task[Any]:
            task = asyncio.create_task(run())
            self._steps_on.add(task)
            task.add_done_callback(self._steps_on.discard)
            return task

        return self._promised(number, step.name, lambda: self._to_its_end(begin))

    def child(self, flow: Flow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._refuse_mixed(flow.name, flow.asynchronous)
        flow.refuse_unfit(args, kwargs)
        nested = _NESTED.search(self.flow_id)
        if nested is not None and nested[0].count(".") >= MOST_NESTED:
            raise UsageError(
                f"flow {flow.name!r} would be the last of more than {MOST_NESTED} flows that began "
                "one another; does it call itself without an end?"
            )
        place, number = self._next()
        waiting, last = self._next()
        child_id = f"{self.flow_id}.{number}"
        call = {"args": own(list(args)), "kwargs": own(kwargs)}

        async def start() -> Outcome:
            plain(call, f"an argument of flow {flow.name!r}")
            await asyncio.to_thread(self._around.start_child, child_id, self, flow, call)
            return {"value": child_id}

        async def run() -> Any:
            await self._step(place, number, flow.name, start)
            name = f"{flow.name}'s end"
            return await self._step(waiting, last, name, lambda: self._around.ended(child_id))

        def begin() -> asyncio.Task[Any]:
            task = asyncio.create_task(run())
            self._children_on[task] = f"{flow.name} {child_id}"
            task.add_done_callback(lambda _done: self._children_on.pop(task, None))
            return task

        return self._promised(number, flow.name, lambda: self._to_its_end(begin))

    def sleep(self, seconds: float) -> Any:
        place, number = self._next()

        async def until() -> Outcome:
            return {"value": time.time() + seconds}

        async def run() -> None:
            ends_s = await self._step(place, number, "sleep", until)
            await asyncio.sleep(max(0.0, ends_s - time.time()))

        return self._promised(number, "sleep", run)

    def ask(self, asking: Asking) -> Any:
        place, number = self._next()

        async def put() -> Outcome:
            form = None if asking.form is None else asking.form.model_json_schema()  # type: ignore[attr-defined]
            question = {
                "id": f"{self.flow_id}/{number}",
                "flow": self.flow_id,
                "text": asking.text,
                "form": form,
                "to": asking.to,
                "timeout_s": asking.timeout_s,
                "unanswered": _unanswered(asking),
                "asked_by": self.by,
            }
            return {"value": (await self._around.put_question(question))["id"]}

        async def run() -> Any:
            question_id = await self._step(place, number, "ask", put)
            return await self._answer(asking, question_id)

        return self._promised(number, "ask", run)

    # -- how ---------------------------------------------------------------------------

    async def _answer(self, asking: Asking, question_id: str) -> Any:
        """The answer, once there is one that fits."""
        from pydantic import ValidationError

        while True:
            place, number = self._next()

            async def wait() -> Outcome:
                return {"value": await self._around.answered(question_id)}

            found = await self._step(place, number, "answer", wait)
            if found["status"] != "answered":
                if asking.otherwise is NO_DEFAULT:
                    raise DeadlineExceeded(
                        f"nobody answered {asking.text!r:.200} within {asking.timeout_s:g} s"
                    )
                return asking.otherwise
            if asking.form is None:
                return found["answer"]
            try:
                return asking.form.model_validate(found["answer"])  # type: ignore[attr-defined]
            except ValidationError as error:
                fault = error.errors(include_url=False)[0]
                where = ".".join(map(str, fault["loc"]))
                problem = f"{where}: {fault['msg']}" if where else str(fault["msg"])
            place, number = self._next()

            async def refuse(problem: str = problem) -> Outcome:
                await self._around.refuse_answer(question_id, problem)
                return {"value": None}

            await self._step(place, number, "ask again", refuse)

    async def _undo(
        self, step: Step, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        undo = step.options.undo
        assert undo is not None
        function = getattr(undo, "function", undo)
        options = type(step.options)(retries=UNDO_RETRIES, backoff=step.options.backoff)
        taking_back = Step(function, options)
        place, number = self._drawn()
        attempts = self._attempts(taking_back, (result, *args), kwargs, number, undoing=True)
        await self._step(place, number, f"{UNDO}{step.name}", attempts)

    def _next(self) -> tuple[Any, int]:
        """The next number of a step, drawn now."""
        self._refuse_late()
        if self._diverged is not None:
            raise self._diverged
        return self._drawn()

    def _drawn(self) -> tuple[Any, int]:
        from dbos import DBOS

        place = DBOS.reserve_step()
        self._last = max(self._last, place.step_id)
        return place, int(place.step_id)

    def _promised(
        self, number: int, name: str, make: Callable[[], Coroutine[Any, Any, Any]]
    ) -> Any:
        """In an async flow something to await, in a plain one the result."""
        if not self._flow.asynchronous:
            return asyncio.run_coroutine_threadsafe(make(), self._loop).result()
        self._not_awaited[number] = name

        async def awaited() -> Any:
            self._refuse_late()
            self._not_awaited.pop(number, None)
            return await make()

        return awaited()

    async def _to_its_end(self, begin: Callable[[], asyncio.Task[Any]]) -> Any:
        """Wait for something that goes on however its waiter ends: what was begun is recorded."""
        return await asyncio.shield(begin())

    def _refuse_late(self) -> None:
        """A part of the flow that still runs when the flow is over does nothing more."""
        if self._over.is_set():
            raise asyncio.CancelledError(f"flow {self.flow_id} is over")

    def _refuse_mixed(self, name: str, asynchronous: bool) -> None:
        if asynchronous and not self._flow.asynchronous:
            raise UsageError(
                f"{name} is async: write `async def {self._flow.function.__name__}` and await it"
            )

    async def _step(
        self, place: Any, number: int, name: str, body: Callable[[], Awaitable[Outcome]]
    ) -> Any:
        """What the step gave, now or in an earlier life of this flow.

        Raises:
            FlowDiverged: under this number something else was done.
            FlowInterrupted: the lease is gone; nothing was begun, or nothing written down.
        """
        from dbos import error as faults

        ran, did = False, None

        async def fenced() -> Outcome:
            nonlocal ran, did
            ran = True
            token = RUNNING.set(None)
            try:
                self._refuse_fenced()
                self._around.steps[self.ref] += 1
                did = await body()
                self._refuse_fenced()
            except Exception as error:  # noqa: BLE001 - what the step raised is its outcome
                did = {"failed": told(error, self._source)}
            finally:
                RUNNING.reset(token)
            return did

        try:
            outcome = await place.run_async({"name": name}, fenced)
        except faults.DBOSUnexpectedStepError as error:
            raise self._diverges(number, name, error.inputs[3]) from None
        except faults.DBOSStepNondeterminismError:
            raise self._diverges(number, name, "another result") from None
        except faults.DBOSWorkflowConflictIDError:
            if did is not None:
                await self._around.tell_late(self.flow_id, number, name, did)
            raise
        self._replayed = self._replayed or not ran
        if "failed" in outcome:
            raise rebuilt(outcome["failed"], self._module)
        return self._around.outcomes.value(outcome)

    def _diverges(self, number: int, name: str, recorded: str) -> FlowDiverged:
        self._diverged = FlowDiverged(
            f"flow {self.flow_id}, step {number}: its history has {recorded!r}, and its code does "
            f"{name!r} now. What is not always the same belongs into steps. Mend the code, and go "
            f"on with rt.flow({self.flow_id!r}).fork(from_step={number}, flow=...)",
            step=number,
            expected=recorded,
            found=name,
        )
        return self._diverged

    def _refuse_fenced(self) -> None:
        if not self._around.lease.held:
            raise FlowInterrupted("this worker's lease is over; another one goes on")

    def _attempts(
        self,
        step: Step,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        number: int,
        *,
        undoing: bool = False,
    ) -> Callable[[], Awaitable[Outcome]]:
        """The step's body: tried until it gives something or its retries are used up."""
        operation = f"{self.flow_id}/{number}"

        async def body() -> Outcome:
            OPERATION.set(operation)
            pause_s = step.options.backoff
            for left in range(step.options.retries, -1, -1):
                try:
                    return await self._attempt(step, own(args), own(kwargs), operation)
                except PermanentError:
                    raise  # it says itself that another attempt is in vain
                except Exception:
                    if left == 0 or not await self._paused(pause_s, undoing):
                        raise
                pause_s *= 2
                self._refuse_fenced()
            raise AssertionError("the last attempt gives or raises")

        return body

    async def _paused(self, pause_s: float, undoing: bool) -> bool:
        """Whether there is another attempt after a pause: of what a flow that is over began only
        undoing is tried again."""
        bound_s = min(pause_s, LONGEST_PAUSE_S)
        if undoing:
            await asyncio.sleep(bound_s)
            return True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), bound_s)
        return not self._over.is_set()

    async def _attempt(
        self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any], operation: str
    ) -> Outcome:
        options, outcomes = step.options, self._around.outcomes
        hangs = options.timeout_s is not None and not step.asynchronous
        if (options.num_cpus or options.num_gpus or hangs) and self._around.elsewhere is not None:
            call = {"args": list(args), "kwargs": kwargs, "operation": operation}
            plain(call, f"an argument of step {step.name!r}")
            outcome = await self._around.elsewhere(self.ref, self._source, step, call, outcomes)
            if "failed" in outcome:
                raise rebuilt(outcome["failed"], self._module)
            return outcome
        try:
            async with asyncio.timeout(options.timeout_s) as bound:
                with exits_told():
                    if step.asynchronous:
                        result = await step.function(*args, **kwargs)
                    else:
                        result = await asyncio.to_thread(to_its_end, step.function, args, kwargs)
                    if inspect.isawaitable(result):
                        result = await result
        except TimeoutError:
            if not bound.expired():
                raise
            raise DeadlineExceeded(
                f"step {step.name} took longer than {options.timeout_s:g} s"
            ) from None
        text = plain(result, f"what step {step.name!r} returns")
        small = outcomes.small(text)
        return small if small is not None else await asyncio.to_thread(outcomes.written, text)


def _single(error: Exception) -> list[Exception]:
    """The errors in a group, as a task group raises one; else the error alone."""
    if not isinstance(error, ExceptionGroup):
        return [error]
    return [found for one in error.exceptions for found in _single(one)]


def _unanswered(asking: Asking) -> str:
    """What happens if nobody answers, in words."""
    if asking.timeout_s is None:
        return "it waits"
    return "it fails" if asking.otherwise is NO_DEFAULT else f"{asking.otherwise!r:.200}"
