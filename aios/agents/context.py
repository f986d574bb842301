"""What an agent can do while it handles a message."""

import asyncio
import functools
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from aios.agents.agent import AgentClass
from aios.agents.budget import Meter
from aios.agents.deciding import ByModel, ByRule, Layer, first_sure
from aios.agents.plain import as_json
from aios.agents.tools import Tool, scopes_of
from aios.errors import (
    DeadlineExceeded,
    Forbidden,
    NotApproved,
    UnknownName,
    UsageError,
    describe,
    from_problem,
    storable,
)
from aios.flows.writing import OPERATION, Flow
from aios.packaging import code_of, exits_told, to_its_end
from aios.records.agents import CallEnd, Delivery, Entry, Letter
from aios.records.base import Given, Record
from aios.store.canonical import canonical

ASK_S = 60.0
"""How long `ask` waits by default."""
SHOWN = 400
"""Characters of an argument or result that the log keeps."""


class Kernel(Protocol):
    """Asks the kernel; raises the AiosError that it raised."""

    def __call__(self, what: str, told: Any) -> Awaitable[Any]: ...


Predict = Callable[[str, list[dict[str, Any]], str], Awaitable[dict[str, Any]]]
"""(endpoint, rows, key) -> what the endpoint's ingress answered."""


class ChildFailed(Given):
    """What `on_child_failed` is told: an agent that this one spawned handles no more messages.

    Attributes:
        child: its `name/id`.
        problem: why.
    """

    child: str
    problem: str


class Prediction(Record):
    """What an endpoint answered an agent. `request_id` is what feedback on it names."""

    endpoint: str
    outputs: list[dict[str, Any]]
    version: int | None = None
    arm: str | None = None
    degraded: str | None = None
    request_id: str | None = None


class Clockwork(Protocol):
    """Stops the seconds of a turn while people are waited for."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def _awaited(
    method: "Callable[Concatenate[Context, _Given], Coroutine[Any, Any, _Result]]",
) -> "Callable[Concatenate[Context, _Given], Coroutine[Any, Any, _Result]]":
    """Of a call that is never awaited nothing happens: `refuse_rest` tells."""

    @functools.wraps(method)
    def called(
        self: "Context", /, *args: _Given.args, **kwargs: _Given.kwargs
    ) -> Coroutine[Any, Any, _Result]:
        mark = object()
        self._not_awaited[mark] = method.__name__

        async def begun() -> _Result:
            self._not_awaited.pop(mark, None)
            return await method(self, *args, **kwargs)

        return begun()

    return called


class Context:
    """The second argument of `on_message`.

    Attributes:
        state: the agent's memory; what is changed in it is stored with the message's end, or
            not at all.
        id, name, ref: of this agent; `ref` is `name/id`.
        message_id: the number of the message; the same when it is handled again.
        sender: who sent it: a key's identity, or an agent's ref.
        attempt: 0 at first; more when it failed, or its host died, before.
        dry: whether this is a shadow: nothing that it does has an effect.
        predictions: what endpoints answered while this message was handled, in order, those too
            that `decide` asked for; each with its `request_id`, for feedback.
    """

    def __init__(
        self,
        delivery: Delivery,
        made: AgentClass,
        meter: Meter,
        kernel: Kernel,
        predict: Predict,
        clockwork: Clockwork,
    ) -> None:
        self.state: Any = made.read_state(delivery.state)
        self.id, self.name, self.ref = delivery.id, delivery.name, delivery.ref
        self.message_id, self.sender = delivery.seq, delivery.sender
        self.attempt, self.dry = delivery.attempt, delivery.dry
        self.parent = delivery.parent
        self.scopes = delivery.scopes
        self._delivery = delivery
        self._made = made
        self._meter = meter
        self._kernel = kernel
        self._predict = predict
        self._clockwork = clockwork
        self._calls = 0
        self._not_awaited: dict[object, str] = {}
        self.predictions: list[Prediction] = []
        self.sent: list[Letter] = []
        self.entries: list[Entry] = []
        self.ended: list[CallEnd] = []

    def __repr__(self) -> str:
        return f"<message {self.message_id} of agent {self.ref}>"

    def refuse_rest(self) -> None:
        """Raises:
        UsageError: something was called and not awaited, so that it never happened.
        """
        if self._not_awaited:
            names = ", ".join(f"ctx.{name}" for name in self._not_awaited.values())
            raise UsageError(f"{names} was called and not awaited: it never ran")

    @property
    def remaining(self) -> dict[str, float | None]:
        """What is left of `usd`, `tokens`, `seconds` and `steps`; None where nothing bounds it."""
        return self._meter.left()

    def spend(self, *, usd: float = 0.0, tokens: int = 0) -> None:
        """Count against the budget what a tool or a language model cost.

        Raises:
            BudgetExceeded: it was more than is left.
        """
        for name, value in (("usd", usd), ("tokens", tokens)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError(f"ctx.spend({name}={value!r:.60}): give a number")
        self._meter.spend(usd=usd, tokens=tokens)

    def log(self, choice: str, reason: str, **details: Any) -> None:
        """Keep a decision with its reason: `aios logs` shows it."""
        kept = as_json(details, "the details of a log entry")
        self.entries.append(
            Entry(kind="choice", choice=str(choice), reason=str(reason), details=kept)
        )

    @_awaited
    async def decide(self, *layers: Layer, otherwise: str) -> str:
        """The choice of the first layer that is sure, else `otherwise`; kept with its reason.

        Args:
            layers: `ctx.rule(...)`, `ctx.model(...)`, or functions without arguments, async or not,
                that give (choice, reason), or None where they cannot tell.
        """
        choice, reason, passed = await first_sure(layers, otherwise)
        told = {"passed": passed, "of": len(layers)}
        self.entries.append(Entry(kind="choice", choice=choice, reason=reason, details=told))
        return choice

    def rule(self, holds: bool, choice: str, reason: str) -> Layer:
        """A layer of `decide`: the choice where something holds."""
        return ByRule(bool(holds), choice, reason)

    def model(
        self,
        endpoint: str,
        row: Mapping[str, Any],
        *,
        output: str,
        confidence: str | None = None,
        at_least: float = 0.5,
    ) -> Layer:
        """A layer of `decide`: what an endpoint answers.

        Args:
            output: its output that is the choice.
            confidence: its output that says how sure it is; without one it always is.
            at_least: it cannot tell where it is less sure.
        """
        return ByModel(self, endpoint, dict(row), output, confidence, at_least)

    @_awaited
    async def predict(
        self, endpoint: str, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]], key: str = ""
    ) -> list[dict[str, Any]]:
        """Ask a model endpoint; one object of outputs for each row.

        Args:
            key: what decides between stable and canary; by default this agent's ref.

        Raises:
            AiosError: whatever the endpoint answered.
        """
        self._meter.step()
        asked = [dict(rows)] if isinstance(rows, Mapping) else [dict(row) for row in rows]
        answer = await self._predict(endpoint, asked, key or self.ref)
        told = {name: answer.get(name) for name in ("version", "arm", "degraded", "request_id")}
        shown = _short(answer["outputs"])
        self.entries.append(Entry(kind="predict", choice=endpoint, reason=shown, details=told))
        outputs: list[dict[str, Any]] = answer["outputs"]
        self.predictions.append(Prediction(endpoint=endpoint, outputs=outputs, **told))
        return outputs

    @_awaited
    async def tell(self, ref: str, message: Any) -> None:
        """Send a message to another agent (`name/id`), or to oneself. It leaves when this message
        is done, in the same transaction; if that fails it was never sent."""
        self._meter.step()
        plain = as_json(message, "a message")
        hops = self._delivery.hops + 1
        self.sent.append(Letter(to=ref, message=plain, sender=self.ref, hops=hops))

    @_awaited
    async def ask(self, ref: str, message: Any, timeout_s: float = ASK_S) -> Any:
        """Send a message to another agent now and wait for its reply. Handled again, this agent
        asks the same question under the same number, and it is answered once.

        Raises:
            UnknownName, IllegalTransition: there is no such agent, or it handles no messages.
            UsageError: it waits for this agent, directly or not, or too many wait for each other.
            DeadlineExceeded: no reply within `timeout_s`; it may still come.
            AiosError: what the other agent failed of.
        """
        self._meter.step()
        told = {
            "to": ref,
            "message": as_json(message, "a message"),
            "sender": self.ref,
            "path": (*self._delivery.path, self.ref),
            "hops": self._delivery.hops + 1,
            "operation": self._key(),
        }
        if self.dry:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                put = await self._kernel("ask", {"letter": told})
                answer = put["known"]
                while answer is None:
                    answer = await self._kernel("reply", {"seq": put["seq"]})
        except TimeoutError:
            raise DeadlineExceeded(f"{ref} has not replied within {timeout_s:g} s") from None
        if answer.get("problem") is not None:
            raise from_problem(answer["problem"])
        return answer["reply"]

    @_awaited
    async def spawn(
        self,
        name: str,
        id: str,
        *,
        scopes: str | Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> str:
        """Make an agent of a known name below this one; its ref. One that is there stays.

        Args:
            scopes: of those that this agent has.

        Raises:
            Forbidden: they are more than this agent has.
            UnknownName: nobody sent an agent of this name.
            UsageError: there are too many generations.
        """
        self._meter.step()
        if self.dry:
            return f"{name}/{id}"
        told = {
            "name": name,
            "id": id,
            "scopes": list(scopes_of(scopes)),
            "state": None if state is None else as_json(dict(state), "a state"),
            "parent": self.ref,
        }
        return str(await self._kernel("spawn", told))

    @_awaited
    async def start(
        self,
        flow: Any,
        /,
        *args: Any,
        id: str,
        attributes: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> str:
        """Begin a flow now; its id, which never runs twice, however often this message is handled.

        Args:
            flow: a function under `@aios.flow`, whose text goes along, or a name: `"refund"`.
            args, kwargs: what it is called with; plain values.
            attributes: to find it by, `rt.flows(attributes={"region": "eu"})`.

        Raises:
            UsageError: an argument cannot be taken, or the id was used with other arguments.
            UnknownName: there is no flow of this name.
        """
        self._meter.step()
        name, source, facts = str(flow), None, {}
        if isinstance(flow, Flow):
            flow.refuse_unfit(args, kwargs)
            flow.refuse_hidden(args, ["id"] if attributes is None else ["id", "attributes"])
            name, source = flow.name, code_of(flow, "flow").model_dump(mode="json")
            facts = flow.facts
        told = {"args": args, "kwargs": kwargs, "attributes": dict(attributes or {})}
        told = {"flow": name, "id": id, **as_json(told, f"an argument of flow {name!r}")}
        self.entries.append(Entry(kind="start", choice=name, reason=id))
        key = self._key()
        if self.dry:
            return id
        asked = {"agent": self.ref, "flow": told, "source": source, "facts": facts}
        return str(await self._kernel("start", {**asked, "operation": key}))

    @_awaited
    async def revive(self, ref: str) -> None:
        """Let an agent below this one that failed handle messages again."""
        self._meter.step()
        if not self.dry:
            await self._kernel("revive", {"ref": ref, "parent": self.ref})

    @_awaited
    async def call(self, tool: str | Callable[..., Any], /, **arguments: Any) -> Any:
        """Call one of this agent's tools, by name or as a function.

        Raises:
            UnknownName: it has no such tool; lists those that it has.
            UsageError: the arguments do not fit; names each.
            Forbidden: the tool needs a scope that this agent was not given.
            NotApproved: a person said no.
        """
        self._meter.step()
        name = tool if isinstance(tool, str) else getattr(tool, "__name__", str(tool))
        found = self._made.tools.get(name)
        if found is None:
            known = ", ".join(self._made.tools) or "none"
            raise UnknownName(f"agent {self.name} has no tool {name[:60]!r}; it has {known}")
        try:
            read = found.read(arguments)
        except UsageError as error:
            self._note(name, arguments, problem=error.message)
            raise
        if self.dry:
            self._note(name, arguments, dry=True)
            return found.dry_answer(read)
        plain = as_json(arguments, f"the arguments of {name}")
        key = f"{self._key()}#{_digest([name, plain])}"
        if found.facts.guarded:
            return await self._guarded(found, key, plain, read)
        return await self._carried_out(found, key, plain, read)

    async def _guarded(
        self, tool: Tool, key: str, plain: dict[str, Any], read: dict[str, Any]
    ) -> Any:
        """A call that the kernel lets pass first; one that ended before is not made again."""
        name = tool.facts.name
        asked = {"key": key, "agent": self.ref, "message": self.message_id}
        asked |= {"tool": name, "arguments": plain, "version": self._delivery.version}
        try:
            call = await self._kernel("call", asked)
            self._clockwork.pause()
            while call["state"] == "waiting":
                call = await self._kernel("call_answer", {"key": key}) or call
        except Forbidden as error:
            self._note(name, plain, problem=error.message)
            raise
        finally:
            self._clockwork.resume()
        if call["state"] == "rejected":
            said = f"{call['answered_by']} said no: {call['reason'] or 'no reason given'}"
            self._note(name, plain, problem=said)
            raise NotApproved(f"tool {name} of agent {self.ref}: {said}")
        if call["state"] == "done":
            self._note(name, plain, result=call["result"], before=True)
            return call["result"]
        try:
            result = await self._carried_out(tool, key, plain, read)
        except Exception as error:
            self.ended.append(CallEnd(key=key, problem=describe(error)))
            raise
        self.ended.append(CallEnd(key=key, result=as_json(result, f"the result of {name}")))
        return result

    async def _carried_out(
        self, tool: Tool, key: str, plain: dict[str, Any], read: dict[str, Any]
    ) -> Any:
        given = {**read, "idempotency_key": key} if tool.wants_key else read
        token = OPERATION.set(key)
        try:
            if inspect.iscoroutinefunction(tool.function):
                with exits_told():
                    result = await tool.function(**given)
            else:
                # In a thread: what it waits for must not hold up the other agents here.
                result = await asyncio.to_thread(to_its_end, tool.function, (), given)
        except Exception as error:
            self._note(tool.facts.name, plain, problem=describe(error))
            raise
        finally:
            OPERATION.reset(token)
        self._note(tool.facts.name, plain, result=result)
        return result

    def _note(self, tool: str, arguments: Mapping[str, Any], **became: Any) -> None:
        told = {name: _short(value) for name, value in became.items()}
        reason = told.get("problem") or told.get("result") or ""
        details = {"arguments": _short(arguments), **told}
        self.entries.append(Entry(kind="tool", choice=tool, reason=reason, details=details))

    def _key(self) -> str:
        """The idempotency key of the next call: agent, message, number of the call in it."""
        self._calls += 1
        return f"{self.ref}#{self.message_id}#{self._calls}"


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]


def _short(value: Any) -> str:
    text = storable(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def raised(answer: dict[str, Any]) -> Any:
    """What the kernel answered, or the error that it told of."""
    if "problem" in answer:
        raise from_problem(answer["problem"])
    return answer["result"]
