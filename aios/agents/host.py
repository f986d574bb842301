"""Runs agents: many in one process, one message at a time for each."""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from aios.agents.agent import AgentClass, agent_class
from aios.agents.budget import Meter
from aios.agents.context import ChildFailed, Context, Kernel, Predict
from aios.agents.plain import plain_reply, plain_state
from aios.agents.watchdog import LoopBlocked
from aios.errors import (
    AiosError,
    BudgetExceeded,
    PermanentError,
    TemporaryError,
    UsageError,
    describe,
)
from aios.packaging import exits_told, load_code, own_line
from aios.records import CodeSource
from aios.records.agents import Delivery, Spent, Turn
from aios.telemetry.traces import OFF, Tracer

MOST_AWAKE = 1_000
"""Agents that stay in memory after their last message, so that they need not be made again."""
IDLE_S = 30.0
"""How long they stay."""
RETRY_S = 0.2
LOAD_S = 120.0
"""How long the text of an agent may take at its top, imports and all: no fault of who gets the
first message on a busy machine, so it happens in a thread, and the loop goes on beside it."""

logger = logging.getLogger("aios.agents")


class AgentHost:
    """Handles what the kernel delivers, and tells it what became of it.

    Memory is a cache: an agent's state comes with each message and goes back with its end. What is
    kept of an idle agent is its object, for `idle_s` and up to `most_awake` of them.

    Args:
        kernel: asks the kernel: `definition`, `done`, `ask`, `spawn`, `call`, `call_answer`.
        predict: asks an endpoint.
        tracer: tells of each message that is handled.
    """

    def __init__(
        self,
        kernel: Kernel,
        predict: Predict,
        *,
        tracer: Tracer = OFF,
        most_awake: int = MOST_AWAKE,
        idle_s: float = IDLE_S,
        load_s: float = LOAD_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kernel = kernel
        self._predict = predict
        self._tracer = tracer
        self._most_awake = most_awake
        self._idle_s = idle_s
        self._load_s = load_s
        self._now_s = now_s
        self.handled: Counter[str] = Counter()
        self._loading = asyncio.Lock()
        self._classes: dict[tuple[str, int], asyncio.Task[tuple[AgentClass, CodeSource]]] = {}
        self._awake: OrderedDict[tuple[str, int], tuple[Any, float]] = OrderedDict()
        self._turns: dict[tuple[int, bool], asyncio.Task[None]] = {}
        self._finished: list[Turn] = []
        self._news = asyncio.Event()

    @property
    def awake(self) -> int:
        """How many agents are in memory."""
        return len(self._awake)

    @property
    def busy(self) -> int:
        """How many messages are being handled."""
        return len(self._turns)

    def deliver(self, deliveries: list[Delivery]) -> None:
        """Begin to handle messages. One that is being handled already is not begun again."""
        for one in deliveries:
            place = (one.seq, one.dry)
            if place not in self._turns:
                task = asyncio.create_task(self._turn(one), name=f"{one.ref}#{one.seq}")
                self._turns[place] = task
                task.add_done_callback(partial(self._over, place))

    def _over(self, place: tuple[int, bool], _task: asyncio.Task[None]) -> None:
        self._turns.pop(place, None)

    def cancel(self, seqs: list[int]) -> None:
        """Stop handling messages; what becomes of them counts no more."""
        for seq in seqs:
            for dry in (False, True):
                task = self._turns.get((seq, dry))
                if task is not None:
                    task.cancel()

    async def tell_forever(self) -> None:
        """Tell the kernel what has become of messages, all that have ended by then at once."""
        while True:
            await self._news.wait()
            self._news.clear()
            told, self._finished = self._finished, []
            while told:
                try:
                    await self._kernel("done", [turn.model_dump() for turn in told])
                    break
                except TemporaryError as error:
                    logger.warning("the kernel takes nothing now: %s", error)
                    await asyncio.sleep(RETRY_S)

    async def sleep_forever(self) -> None:
        """Let go of agents that were idle for long."""
        while True:
            await asyncio.sleep(self._idle_s / 4)
            self.let_go()

    def let_go(self) -> None:
        """Forget the objects of agents that are idle for longer than `idle_s`, or too many."""
        since_s = self._now_s() - self._idle_s
        while self._awake:
            key, (_made, used_s) = next(iter(self._awake.items()))
            if used_s > since_s and len(self._awake) <= self._most_awake:
                break
            del self._awake[key]

    async def _turn(self, delivery: Delivery) -> None:
        about = {
            "aios.agent": delivery.ref,
            "aios.version": delivery.version,
            "aios.message": delivery.seq,
            "aios.sender": delivery.sender,
        }
        try:
            with self._tracer.span(f"agent {delivery.name}", None, about) as span:
                turn = await self._handled(delivery)
                if span is not None and turn.problem is not None:
                    span.fail(turn.problem["detail"])
        except asyncio.CancelledError:
            return  # the kernel wants to know no more of it
        self._finished.append(turn)
        self._news.set()

    async def _handled(self, delivery: Delivery) -> Turn:
        """What becomes of one delivery; whatever goes wrong is told in it."""
        about = {name: getattr(delivery, name) for name in ("seq", "attempt", "version", "dry")}
        about["agent"] = delivery.ref
        source: CodeSource | None = None
        meter = Meter(delivery.ref, delivery.budget, delivery.spent)
        timer = _Timer(meter)
        context: Context | None = None
        try:
            made, source = await self._class(delivery.name, delivery.version)
            self.handled[f"{delivery.name}:{delivery.version}"] += 1
            context = Context(delivery, made, meter, self._kernel, self._predict, timer)
            method, message = self._method(made, delivery)
            async with timer:
                with exits_told():
                    reply = await method(context, message)
            context.refuse_rest()
            done = {"reply": plain_reply(reply), "state": plain_state(context.state, made)}
            return Turn(**about, **done, sent=tuple(context.sent), **_known(meter, context))
        except Exception as error:
            logger.info("agent %s failed message %s", delivery.ref, delivery.seq, exc_info=True)
            self._awake.pop((delivery.ref, delivery.version), None)
            return Turn(**about, **_problem(error, source), **_known(meter, context))

    def _method(self, made: AgentClass, delivery: Delivery) -> tuple[Any, Any]:
        """What handles a message, and the message as it takes it."""
        instance = self._instance(delivery, made)
        if delivery.kind == "child_failed":
            return instance.on_child_failed, ChildFailed(**delivery.message)
        return instance.on_message, made.read_message(delivery.message)

    def _instance(self, delivery: Delivery, made: AgentClass) -> Any:
        key = (delivery.ref, delivery.version)
        known = self._awake.pop(key, None)
        instance = made.make() if known is None else known[0]
        self._awake[key] = (instance, self._now_s())
        if len(self._awake) > self._most_awake:
            self.let_go()
        return instance

    async def _class(self, name: str, version: int) -> tuple[AgentClass, CodeSource]:
        """An agent's class, loaded once however many wait for it."""
        key = (name, version)
        if key not in self._classes:
            self._classes[key] = asyncio.create_task(self._loaded(name, version))
        try:
            return await asyncio.shield(self._classes[key])
        except Exception:
            self._classes.pop(key, None)
            raise

    async def _loaded(self, name: str, version: int) -> tuple[AgentClass, CodeSource]:
        told = await self._kernel("definition", {"name": name, "version": version})
        source = CodeSource.model_validate(told["source"])
        async with self._loading:
            try:
                async with asyncio.timeout(self._load_s):
                    found = await asyncio.to_thread(load_code, source, "agent")
            except TimeoutError:
                raise UsageError(
                    f"the agent {source.path} was not loaded after {self._load_s:.0f} s; what its "
                    "file does at its top takes too long: put it into a tool"
                ) from None
        if found is None:
            raise UsageError(f"the text of agent {name} defines no {source.path}")
        return agent_class(found), source


class _Timer:
    """Bounds a turn by the seconds that are left, and counts them."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._left_s = meter.left()["seconds"]
        self._timeout: asyncio.Timeout | None = None
        self._since_s: float | None = None

    async def __aenter__(self) -> None:
        self._timeout = asyncio.timeout(self._left_s)
        await self._timeout.__aenter__()
        self._since_s = time.monotonic()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        assert self._timeout is not None
        late = None
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            late = True
        self._count()
        if late:
            # The timer may wake a moment before the clock that is counted by says so.
            self._meter.now = self._meter.now.plus(Spent(seconds=1e-3))
        if late or not isinstance(error, BudgetExceeded):
            self._meter.check()

    def pause(self) -> None:
        """Count no seconds from here on."""
        self._count()
        if self._timeout is not None and self._left_s is not None:
            self._timeout.reschedule(None)

    def resume(self) -> None:
        """Count again."""
        if self._since_s is not None:
            return
        self._since_s = time.monotonic()
        left_s = self._meter.left()["seconds"]
        if self._timeout is not None and left_s is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + left_s)

    def _count(self) -> None:
        if self._since_s is not None:
            passed_s = time.monotonic() - self._since_s
            self._meter.now = self._meter.now.plus(Spent(seconds=passed_s))
            self._since_s = None


def _known(meter: Meter, context: Context | None) -> dict[str, Any]:
    """What counts however a message ended."""
    if context is None:
        return {"spent": meter.now}
    return {
        "spent": meter.now,
        "entries": tuple(context.entries),
        "calls": tuple(context.ended),
    }


def _problem(error: Exception, source: CodeSource | None) -> dict[str, Any]:
    """An error as a turn tells it: what a caller did wrong is not tried again."""
    where = "" if source is None else own_line(error, source)
    if isinstance(error, LoopBlocked):
        told: AiosError = UsageError(str(error))
    elif isinstance(error, AiosError) and type(error) is not PermanentError:
        told = error
    else:
        details = error.details if isinstance(error, AiosError) else {}
        told = PermanentError(describe(error) + (f" ({where})" if where else ""), **details)
    return {
        "problem": told.to_problem(),
        "retry": not isinstance(told, UsageError),
        "exhausted": isinstance(error, BudgetExceeded),
    }
