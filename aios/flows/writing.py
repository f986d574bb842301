"""What users write flows with: `flow`, `step`, `sleep`, `ask`, `operation_id`.

A function under one of the decorators stays a function: called outside of a flow a step just
runs, and a flow runs with all its steps in this process and nothing durable, so that both can be
tested. In a worker the same calls go to the `Running` flow, which stores what each step gave.
"""

import asyncio
import functools
import inspect
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol, TypeVar, overload
from uuid import uuid4

from aios.errors import DeadlineExceeded, UsageError
from aios.flows.facts import facts_of
from aios.records import Name, Record

Function = TypeVar("Function", bound=Callable[..., Any])
NO_DEFAULT: Any = object()
"""`otherwise` of a question that nothing stands for."""


class Running(Protocol):
    """The flow that is running here. In an async flow each call gives an awaitable, in a plain
    one its result."""

    def step(self, step: "Step", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def child(self, flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def sleep(self, seconds: float) -> Any: ...

    def ask(self, asking: "Asking") -> Any: ...


RUNNING: ContextVar[Running | None] = ContextVar("aios_running_flow", default=None)
OPERATION: ContextVar[str | None] = ContextVar("aios_operation_id", default=None)


class _Named(Record):
    name: Name


@dataclass(frozen=True)
class StepOptions:
    """How a step is carried out; see `step`."""

    retries: int = 0
    backoff: float = 1.0
    timeout_s: float | None = None
    num_cpus: float = 0
    num_gpus: float = 0
    undo: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.retries, int) and not isinstance(self.retries, bool)
        if not whole or not 0 <= self.retries <= 1000:
            raise UsageError(f"retries={self.retries!r}: give a whole number from 0 to 1000")
        for name, least in (("backoff", 0.0), ("num_cpus", 0.0), ("num_gpus", 0.0)):
            _refuse_no_number(name, getattr(self, name), least)
        if self.timeout_s is not None:
            _refuse_no_number("timeout_s", self.timeout_s, 0.001)
        if self.undo is not None and not callable(self.undo):
            raise UsageError(f"undo={self.undo!r:.60} is no function")


class Step:
    """A function whose result is kept: what `@aios.step` makes."""

    def __init__(self, function: Callable[..., Any], options: StepOptions) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.options = options
        self.asynchronous = inspect.iscoroutinefunction(function)
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise UsageError(f"the step {function.__name__} yields; a step returns once")

    @property
    def name(self) -> str:
        return str(self.function.__name__)

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        running = RUNNING.get()
        if running is None:
            return self.function(*args, **kwargs)
        return running.step(self, args, kwargs)


class Flow:
    """A function that goes on after a crash: what `@aios.flow` makes."""

    def __init__(self, function: Callable[..., Any], name: str | None) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.asynchronous = inspect.iscoroutinefunction(function)
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise UsageError(f"the flow {function.__name__} yields; a flow returns once")
        self.name: str = function.__name__ if name is None else name
        try:
            _Named(name=self.name)
        except ValueError:
            raise UsageError(
                f"{self.name!r:.60} is no name of a flow: small letters, digits and single _ or "
                '-, from a letter on; write @aios.flow(name="refund")'
            ) from None

    def __repr__(self) -> str:
        return f"<flow {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        running = RUNNING.get()
        if running is not None:
            return running.child(self, args, kwargs)
        return _Plain(self.asynchronous).carry_out(self, args, kwargs)

    @property
    def facts(self) -> dict[str, Any]:
        """What others are told of it; see `facts_of`."""
        return facts_of(self.function)

    def refuse_unfit(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Raises:
        UsageError: the function does not take these arguments.
        """
        signature = inspect.signature(self.function)
        names = signature.parameters
        takes_any = any(one.kind is one.VAR_KEYWORD for one in names.values())
        for name in () if takes_any else sorted(set(kwargs) - set(names)):
            if near := get_close_matches(name, names, 1):
                told = f"{name} is no argument; did you mean {near[0]}?"
                raise UsageError(f"flow {self.name!r}: {told}")
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError(f"flow {self.name!r}: {error}") from None

    def refuse_hidden(self, args: Sequence[Any], options: Iterable[str]) -> None:
        """Raises:
        UsageError: one of these options of the call is named as an argument of the function that
            is not given by its place: it might be meant for either.
        """
        names = list(inspect.signature(self.function).parameters)
        for name in options:
            if name in names[len(args) :]:
                raise UsageError(
                    f"flow {self.name!r} has an argument {name!r}, and {name}= says here how it is "
                    "begun: give the argument by its place, or another name"
                )


@overload
def flow(function: Function, /) -> Function: ...
@overload
def flow(*, name: str | None = None) -> Callable[[Function], Function]: ...
def flow(function: Any = None, /, *, name: str | None = None) -> Any:
    """A function, async or not, that goes on where it was when its process dies.

    It is run again from its beginning, and every step that was done gives what it gave before. So
    whatever is not always the same (time, chance, what others say) belongs into a step, and steps
    are called in the same order each time. Arguments and results are plain values: what JSON has.
    In an async flow whatever waits is awaited: `time.sleep` would stop every flow of its worker.
    It has ended when its steps have: one that goes on when the flow fails (`asyncio.gather`) or
    has given it up (`asyncio.wait_for`) is waited for; `timeout_s` of a step ends it.
    Put it at the top of a file or cell; its text travels, `rt.start(refund, order, id="order-42")`.

    Args:
        name: under which it is known; default: the function's.

    Raises:
        UsageError: that is no name; it must look like `refund` or `daily-report`.
    """

    def made(found: Any) -> Flow:
        return Flow(_function(found, "flow"), name)

    return made if function is None else made(function)


@overload
def step(function: Function, /) -> Function: ...
@overload
def step(
    *,
    retries: int = 0,
    backoff: float = 1.0,
    timeout_s: float | None = None,
    num_cpus: float = 0,
    num_gpus: float = 0,
    undo: Callable[..., Any] | None = None,
) -> Callable[[Function], Function]: ...
def step(function: Any = None, /, **options: Any) -> Any:
    """A unit of a flow whose result is stored: once done, it never runs again.

    It may run twice when its process dies in the middle; `aios.operation_id()` is the same both
    times. In an async flow every step is awaited, `await charge(order)`, also one that is not
    async: that runs in a thread. Several run side by side with `asyncio.gather`. Lists and
    mappings among its arguments are copies: what it changes in them is not changed for the flow.
    A step that another step calls is a plain function.

    Args:
        retries: how often it is begun again when it raises, after the first time.
        backoff: seconds before the first of them; each next pause is twice as long, up to 60 s.
        timeout_s: of one attempt, after which it counts as failed (DeadlineExceeded). A function
            that is not async runs in a process of its own then, which is ended. Without it, a step
            that never ends holds up the failing and undoing of its flow too.
        num_cpus, num_gpus: what to reserve; above 0 it runs as a Ray task, anywhere.
        undo: what takes it back when a later part of the flow fails: called with what the step
            gave, then with the step's own arguments. Undoing goes backwards and is tried 6 times.
            A step that failed is not undone.
    """
    known = StepOptions.__dataclass_fields__
    for name in options:
        if name not in known:
            raise UsageError(f"a step has no {name!r}; it has {', '.join(known)}")
    chosen = StepOptions(**options)

    def made(found: Any) -> Step:
        function = _function(found, "step")
        if chosen.undo is not None:
            _refuse_unfit_undo(function, chosen.undo)
        return Step(function, chosen)

    return made if function is None else made(function)


def _refuse_unfit_undo(function: Callable[..., Any], undo: Callable[..., Any]) -> None:
    """Here, and not when something must be taken back and cannot be."""
    try:
        of_step, of_undo = inspect.signature(function), inspect.signature(undo)
    except (TypeError, ValueError):
        return  # of what is not written in Python
    given = [one for one in of_step.parameters.values() if one.kind not in _ANY]
    if len(given) < len(of_step.parameters):
        return  # it is called with anything
    required = [one for one in given if one.default is one.empty]
    ways = [(some, by_name) for some in (required, given) for by_name in (False, True)]
    if not any(_binds(of_undo, some, by_name) for some, by_name in ways):
        name = getattr(undo, "__name__", repr(undo))
        raise UsageError(
            f"undo={name}{of_undo} does not fit step {function.__name__}{of_step}: it is called "
            "with what the step gave, then with what the step was called with"
        )


_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _binds(undo: inspect.Signature, given: list[inspect.Parameter], by_name: bool) -> bool:
    """Whether `undo` takes a result and these, by name where that is asked or must be."""
    place = [one for one in given if not by_name and one.kind is not one.KEYWORD_ONLY]
    try:
        undo.bind(None, *place, **{one.name: one for one in given if one not in place})
    except TypeError:
        return False
    return True


def sleep(seconds: float) -> Any:
    """Wait, also over restarts: it ends when it would have. `await aios.sleep(60)` in async flows,
    `aios.sleep(60)` in others."""
    _refuse_no_number("seconds", seconds, 0.0)
    running = RUNNING.get()
    if running is not None:
        return running.sleep(seconds)
    return _Plain(_in_a_loop()).sleep(seconds)


@dataclass(frozen=True)
class Asking:
    """A question to a person, as a flow puts it."""

    text: str
    form: type | None
    to: str
    timeout_s: float | None
    otherwise: Any = field(default=NO_DEFAULT)


def ask(
    question: str,
    *,
    form: type | None = None,
    to: str = "operator",
    timeout_s: float | None = None,
    otherwise: Any = NO_DEFAULT,
) -> Any:
    """Ask a person and wait for the answer, over restarts; `rt.inbox()` shows it meanwhile.

    Args:
        form: a pydantic model that an answer must fit; the flow gets an instance. Without one an
            answer is any plain value.
        to: who may answer: a role, or the identity of an API key. An administrator always may;
            what is asked of approvers is not answered by who started the flow. Where no key has
            that identity, the inbox says so in the question's `problem`.
        timeout_s: how long to wait; None: for ever.
        otherwise: what the flow gets when nobody answered in time. Without it that is an error,
            DeadlineExceeded: silence is never taken for a yes.
    """
    if not isinstance(question, str) or not question.strip():
        raise UsageError("ask(question): say what is asked, in a text")
    if form is not None and not hasattr(form, "model_validate"):
        raise UsageError(f"form={form!r:.60} is no pydantic model")
    if not isinstance(to, str) or not to.strip():
        raise UsageError('ask(to=...): a role such as "approver", or the identity of a key')
    if timeout_s is not None:
        _refuse_no_number("timeout_s", timeout_s, 0.0)
    elif otherwise is not NO_DEFAULT:
        raise UsageError("ask(otherwise=...) stands for an answer after timeout_s, so give both")
    asking = Asking(question, form, to, timeout_s, otherwise)
    running = RUNNING.get()
    if running is None:
        raise UsageError("aios.ask is for flows: call it in a function under @aios.flow")
    return running.ask(asking)


def own(value: Any) -> Any:
    """A value whose lists, mappings and sets are copies: what a step changes in its arguments is
    not changed for its flow, which would be otherwise when it goes on after a crash."""
    if isinstance(value, dict):
        return {name: own(one) for name, one in value.items()} if type(value) is dict else value
    if type(value) in (list, tuple, set):
        return type(value)(own(one) for one in value)
    return value


def operation_id() -> str:
    """What tells the effect of this step, or of this call of an agent's tool, from every other: the
    same each time it is tried, also after a crash. Give it to whatever takes an idempotency key.

    Raises:
        UsageError: neither runs here.
    """
    found = OPERATION.get()
    if found is None:
        raise UsageError("aios.operation_id() is for steps of a running flow, and tools of agents")
    return found


class _Plain:
    """A flow as a plain function: nothing is stored, a failure still undoes what was done."""

    def __init__(self, asynchronous: bool) -> None:
        self._asynchronous = asynchronous
        self._done: list[tuple[Step, Any, tuple[Any, ...], dict[str, Any]]] = []
        self._id = f"plain-{uuid4().hex[:8]}"
        self._steps = 0
        self._going_on: set[asyncio.Task[Any]] = set()

    def carry_out(self, flow: Flow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if flow.asynchronous:
            return self._carry_out(flow, args, kwargs)
        token = RUNNING.set(self)
        try:
            return flow.function(*args, **kwargs)
        except Exception:
            for step, undo in self._undos():
                _refuse_async(step, "undo")
                with _in_a_step(f"{self._id}/undo {step.name}"):
                    undo()
            raise
        finally:
            RUNNING.reset(token)

    async def _carry_out(self, flow: Flow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        token = RUNNING.set(self)
        try:
            result = await flow.function(*args, **kwargs)
            await self._rest_done()
            return result
        except Exception:
            await self._rest_done()
            for step, undo in self._undos():
                with _in_a_step(f"{self._id}/undo {step.name}"):
                    found = undo()
                    if inspect.isawaitable(found):
                        await found
            raise
        finally:
            RUNNING.reset(token)

    def _undos(self) -> list[tuple[Step, Callable[[], Any]]]:
        return [
            (step, functools.partial(step.options.undo, result, *args, **kwargs))
            for step, result, args, kwargs in reversed(self._done)
            if step.options.undo is not None
        ]

    def step(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._steps += 1
        operation = f"{self._id}/{self._steps}"
        if self._asynchronous:
            return self._to_its_end(self._step(step, own(args), own(kwargs), operation))
        _refuse_async(step, "step")
        args, kwargs = own(args), own(kwargs)
        with _in_a_step(operation):
            result = step.function(*own(args), **own(kwargs))
        self._done.append((step, result, args, kwargs))
        return result

    async def _rest_done(self) -> None:
        while self._going_on:
            await asyncio.wait(self._going_on)

    async def _to_its_end(self, made: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.create_task(made)
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        return await asyncio.shield(task)

    async def _step(
        self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any], operation: str
    ) -> Any:
        with _in_a_step(operation):
            result = step.function(*own(args), **own(kwargs))
            if inspect.isawaitable(result):
                result = await result
        self._done.append((step, result, args, kwargs))
        return result

    def child(self, flow: Flow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if flow.asynchronous and not self._asynchronous:
            raise UsageError(f"{flow.name} is async: a flow that calls it must be too")
        if not flow.asynchronous and self._asynchronous:
            return self._awaited(functools.partial(_Plain(False).carry_out, flow, args, kwargs))
        return _Plain(flow.asynchronous).carry_out(flow, args, kwargs)

    async def _awaited(self, call: Callable[[], Any]) -> Any:
        return call()

    def sleep(self, seconds: float) -> Any:
        return asyncio.sleep(seconds) if self._asynchronous else time.sleep(seconds)

    def ask(self, asking: Asking) -> Any:
        def answer() -> Any:
            if asking.otherwise is NO_DEFAULT:
                raise DeadlineExceeded(f"nobody can answer {asking.text!r} outside of a runtime")
            return asking.otherwise

        return self._awaited(answer) if self._asynchronous else answer()


@contextmanager
def _in_a_step(operation: str) -> Iterator[None]:
    running, named = RUNNING.set(None), OPERATION.set(operation)
    try:
        yield
    finally:
        RUNNING.reset(running)
        OPERATION.reset(named)


def _refuse_async(step: Step, what: str) -> None:
    found = step.options.undo if what == "undo" else step.function
    if inspect.iscoroutinefunction(getattr(found, "function", found)):
        raise UsageError(f"the {what} of {step.name} is async: a flow that uses it must be too")


def _refuse_no_number(name: str, value: Any, least: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value < float("inf"):
        raise UsageError(f"{name}={value!r:.40}: give a number from {least:g} on")


def _function(found: Any, kind: str) -> Callable[..., Any]:
    if not inspect.isfunction(found):
        raise UsageError(f"@aios.{kind} is for functions, and this is {found!r:.60}")
    return found


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
