"""Tools: plain functions with annotations, and what policy needs to know of them."""

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from aios.errors import UsageError
from aios.records.agents import ToolFacts

GIVEN = ("idempotency_key",)
"""Parameters that are not the agent's: a tool that has one gets it."""
_MARK = "__aios_tool__"
_SCOPE = re.compile(r"[a-z][a-z0-9_.:-]{0,63}")


@dataclass(frozen=True)
class _Marked:
    scopes: tuple[str, ...]
    approval: str | None
    dry: Any


@dataclass(frozen=True)
class Tool:
    """A function that agents may call, and how its arguments are read."""

    function: Callable[..., Any]
    facts: ToolFacts
    arguments: type[BaseModel]
    wants_key: bool
    dry: Any

    def read(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as the function takes them.

        Raises:
            UsageError: they do not fit; names each of them.
        """
        try:
            read = self.arguments.model_validate(given)
        except ValidationError as error:
            faults = [
                f"{'.'.join(str(part)[:60] for part in fault['loc']) or 'arguments'}: "
                f"{fault['msg'][:200]}{_got(fault)}"
                for fault in error.errors(include_url=False)[:5]
            ]
            raise UsageError(f"tool {self.facts.name}: {'; '.join(faults)}") from None
        return {name: getattr(read, name) for name in type(read).model_fields}

    def dry_answer(self, arguments: dict[str, Any]) -> Any:
        """What a shadow gets instead of a call."""
        return self.dry(**arguments) if callable(self.dry) else self.dry


def tool(
    function: Callable[..., Any] | None = None,
    *,
    scopes: str | tuple[str, ...] | list[str] = (),
    approval: str | None = None,
    dry: Any = None,
) -> Any:
    """Mark a function as a tool that not every agent may call: `@aios.tool(scopes="refunds")`.

    A plain function with annotations is a tool too, one that needs no scope. A call may be made
    again after a crash: a parameter `idempotency_key: str = ""` gets what is the same each time, as
    `aios.operation_id()` tells it; agents do not give it.

    Args:
        scopes: all of which an agent must have been spawned with.
        approval: who must agree to each call before it is made: a role such as `"approver"`, or
            the identity of a key. Administrators may, too.
        dry: what a shadow of an agent gets instead of a call: a value, or a function of the
            same arguments.

    Raises:
        UsageError: a scope is not spelled as one.
    """
    named = check_policy(scopes, approval)

    def mark(marked: Callable[..., Any]) -> Callable[..., Any]:
        setattr(marked, _MARK, _Marked(named, approval, dry))
        return marked

    return mark if function is None else mark(function)


def _got(fault: Any) -> str:
    """What was given instead; of what is missing there is nothing to show."""
    return "" if fault["type"] == "missing" else f" (got {fault['input']!r:.80})"


def scopes_of(given: str | Iterable[Any]) -> tuple[str, ...]:
    """One scope, which may come as a text alone, or several.

    Raises:
        UsageError: one is not spelled as one.
    """
    named = (given,) if isinstance(given, str) else tuple(given)
    for scope in named:
        if not isinstance(scope, str) or not _SCOPE.fullmatch(scope):
            raise UsageError(f"{scope!r:.80} is no scope; one looks like `refunds` or `crm:write`")
    return named


def check_policy(scopes: Any, approval: Any) -> tuple[str, ...]:
    """The scopes of a tool.

    Raises:
        UsageError: one is not spelled as one, or `approval` names nobody.
    """
    named = scopes_of(scopes)
    if approval is not None and not (isinstance(approval, str) and approval.strip()):
        raise UsageError("approval= names who must agree, such as approval='approver'")
    return named


def tool_of(function: Any) -> Tool:
    """What a function is as a tool.

    Raises:
        UsageError: it is no function with a name, or a parameter has no annotation.
    """
    if isinstance(function, Tool):
        return function
    if not inspect.isroutine(function) or function.__name__ == "<lambda>":
        raise UsageError(f"{function!r:.80} is no tool: give functions that have a name")
    name, marked = function.__name__, getattr(function, _MARK, _Marked((), None, None))
    arguments = _arguments_of(function)
    facts = ToolFacts(
        name=name,
        scopes=marked.scopes,
        approval=marked.approval,
        description=inspect.getdoc(function) or "",
        arguments=arguments.model_json_schema(),
    )
    wants_key = "idempotency_key" in inspect.signature(function).parameters
    return Tool(function, facts, arguments, wants_key, marked.dry)


def _arguments_of(function: Callable[..., Any]) -> type[BaseModel]:
    name = function.__name__
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(f"tool {name}: an annotation cannot be read: {error}") from None
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in GIVEN:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UsageError(f"tool {name}: parameter {parameter} cannot be given by name")
        if parameter.name not in hints:
            raise UsageError(
                f"tool {name}: parameter {parameter.name!r} has no annotation, such as "
                f"`{parameter.name}: str`, by which what an agent gives could be checked"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    strict = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
    made: type[BaseModel] = create_model(name, __config__=strict, **fields)
    return made
