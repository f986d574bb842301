"""The decorator `agent`, and what is read off a class that has it."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from aios.agents.tools import Tool, tool_of
from aios.errors import UsageError
from aios.records.agents import AgentFacts, Budget, Restarts
from aios.records.base import NAME_PATTERN

_MARK = "__aios_agent__"
_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class AgentClass:
    """A class that handles messages, and what it declared."""

    name: str
    make: Callable[[], Any]
    state: type[BaseModel] | None
    tools: dict[str, Tool]
    facts: AgentFacts
    message: TypeAdapter[Any] | None

    def read_state(self, stored: dict[str, Any] | None) -> BaseModel | None:
        """The agent's memory as its class knows it; a new one where nothing is stored.

        Raises:
            UsageError: what is stored does not fit this version of the class.
        """
        if self.state is None:
            return None
        try:
            return self.state.model_validate({} if stored is None else stored)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            missing = fault["type"] == "missing"
            raise UsageError(
                f"agent {self.name}: {'a new' if stored is None else 'its'} state does not fit "
                f"{self.state.__name__}: {where}: {fault['msg']}"
                f"{'; give the field a default' if missing else ''}"
            ) from None

    def refuse_unknown(self, given: dict[str, Any] | None) -> None:
        """Raises:
        UsageError: a state that a caller gave has fields that the class does not know.
        """
        fields = {} if self.state is None else self.state.model_fields
        known = {one.alias or name for name, one in fields.items()} | fields.keys()
        unknown = [name for name in given or {} if name not in known]
        if unknown and (self.state is None or self.state.model_config.get("extra") != "allow"):
            raise UsageError(
                f"agent {self.name}: its state has no field {unknown[0]!r:.60}; it has "
                f"{', '.join(fields) or 'none'}"
            )

    def read_message(self, message: Any) -> Any:
        """A message as `on_message` takes it.

        Raises:
            UsageError: it does not fit the annotation.
        """
        if self.message is None:
            return message
        try:
            return self.message.validate_python(message)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"]) or "the message"
            raise UsageError(f"agent {self.name}: {where}: {fault['msg']}") from None


@dataclass(frozen=True)
class _Marked:
    name: str
    state: type[BaseModel] | None
    tools: tuple[Any, ...]
    budget: Budget
    restarts: Restarts


def agent(
    made: type | None = None,
    *,
    name: str | None = None,
    state: type[BaseModel] | None = None,
    tools: Sequence[Callable[..., Any]] = (),
    budget: Budget | None = None,
    restarts: Restarts | None = None,
) -> Any:
    """Make a class an agent: `@aios.agent(state=Memory, tools=[lookup])`.

    The class has `async def on_message(self, ctx, message)`, which handles one message at a time;
    what it returns is the reply. It may have `async def on_child_failed(self, ctx, child)`. What
    `ctx` does is awaited, `await ctx.tell(...)`. Whatever blocks (`time.sleep`) belongs into a tool
    that is not async, which has a thread: in `on_message` it would hold up all agents beside it.

    Args:
        name: of the agent; by default that of the class, `SupportTriage` being `support-triage`.
        state: a pydantic model with a default for every field: `ctx.state`, kept durably.
        tools: functions that `ctx.call` may call.
        budget: of each agent's whole life.
        restarts: how often a message, and the agent, may fail.

    Raises:
        UsageError: something of it cannot be taken; says what.
    """

    def mark(marked: _Class) -> _Class:
        if not inspect.isclass(marked):
            raise UsageError(f"@aios.agent stands before a class, not before {marked!r:.60}")
        chosen = (
            name
            if name is not None
            else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", marked.__name__).lower()
        )
        if budget is not None and not isinstance(budget, Budget):
            raise UsageError(f"budget={budget!r:.60} is no budget; one is aios.Budget(steps=50)")
        if restarts is not None and not isinstance(restarts, Restarts):
            raise UsageError(f"restarts={restarts!r:.60}: one is aios.Restarts(retries=1)")
        if not isinstance(tools, Sequence) or isinstance(tools, str):
            raise UsageError(f"tools={tools!r:.60}: give a list of functions, tools=[lookup]")
        told = _Marked(chosen, state, tuple(tools), budget or Budget(), restarts or Restarts())
        _read(marked, told)
        setattr(marked, _MARK, told)
        return marked

    return mark if made is None else mark(made)


def agent_class(found: Any) -> AgentClass:
    """What a class with `@aios.agent` declared.

    Raises:
        UsageError: it has none, or declared something that cannot be taken.
    """
    told: _Marked | None = vars(found).get(_MARK) if inspect.isclass(found) else None
    if told is None:
        raise UsageError(f"{found!r:.80} is no agent: put @aios.agent before a class")
    return _read(found, told)


def _read(found: type, told: _Marked) -> AgentClass:
    _check(found, told)
    tools = [tool_of(one) for one in told.tools]
    named = {one.facts.name: one for one in tools}
    if len(named) < len(tools):
        raise UsageError(f"agent {told.name}: two tools have one name")
    message = _message_of(found, told.name)
    facts = AgentFacts(
        tools=tuple(one.facts for one in tools),
        budget=told.budget,
        restarts=told.restarts,
        supervises=hasattr(found, "on_child_failed"),
        description=inspect.getdoc(found) or "",
        message_schema={} if message is None else message.json_schema(),
    )
    return AgentClass(told.name, found, told.state, named, facts, message)


def _check(found: type, told: _Marked) -> None:
    if (
        not isinstance(told.name, str)
        or not re.fullmatch(NAME_PATTERN, told.name)
        or len(told.name) > 63
    ):
        raise UsageError(
            f"{told.name!r:.80} is no agent's name; use small letters, digits, - and _"
        )
    if told.state is not None and not (
        inspect.isclass(told.state) and issubclass(told.state, BaseModel)
    ):
        raise UsageError(f"agent {told.name}: state={told.state!r:.60} is no pydantic model")
    for method in ("on_message", "on_child_failed"):
        function = getattr(found, method, None)
        if function is None and method == "on_child_failed":
            continue
        if not inspect.iscoroutinefunction(function):
            raise UsageError(
                f"agent {told.name} needs `async def {method}(self, ctx, message)`, which it has "
                f"{'not' if function is None else 'without async'}"
            )
        if len(inspect.signature(function).parameters) != 3:
            raise UsageError(f"agent {told.name}: {method} takes (self, ctx, message)")


def _message_of(found: Any, name: str) -> TypeAdapter[Any] | None:
    """How messages are read, by the annotation of the last parameter; None without one."""
    last = list(inspect.signature(found.on_message).parameters)[-1]
    try:
        hint = get_type_hints(found.on_message, include_extras=True).get(last, Any)
        return None if hint is Any else TypeAdapter(hint)
    except (NameError, TypeError, PydanticSchemaGenerationError) as error:
        raise UsageError(
            f"agent {name}: the annotation of {last!r} cannot be read: {error}"
        ) from None
