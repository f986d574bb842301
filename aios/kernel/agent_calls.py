"""Guarded tool calls: whether an agent may, whether a person must agree, and what became of it."""

import threading
from concurrent.futures import Future
from typing import Any

from pydantic import Field

from aios.errors import Forbidden, IllegalTransition, UnknownName
from aios.kernel.commands import Asked, refuse_other_person
from aios.kernel.mailroom import FactsOf
from aios.kernel.requests import read
from aios.records import Record
from aios.records.acting import Waiting
from aios.records.agents import ToolCall
from aios.registry import Registry

SHOWN_ARGUMENTS = 300
"""Characters of a tool call's arguments in the line that asks for a word on it."""


class CallAnswer(Record):
    """A person's word on a tool call."""

    approve: bool = Field(strict=True)
    reason: str = ""


class AgentCalls:
    """The door before tools with scopes or approvals. Each call is a row and an audit entry before
    it is made, so that one that ended is not made again when its message is."""

    def __init__(self, registry: Registry, facts: FactsOf) -> None:
        self._registry = registry
        self._facts = facts
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Future[dict[str, Any]]]] = {}

    def host_asks(self, what: str, told: dict[str, Any]) -> Any:
        """What a host asks about calls: `call` and `call_answer`."""
        if what == "call":
            return self._begin(told)
        if what == "call_answer":
            return self._answered(told["key"])
        raise UnknownName(f"hosts cannot ask {what[:40]!r}")

    def _begin(self, told: dict[str, Any]) -> dict[str, Any]:
        """Let a call pass, let it wait, or say what became of it before.

        Raises:
            Forbidden: the agent has not the scope; it is in the audit log.
        """
        agent = self._registry.agent(told["agent"])
        tool = self._facts(agent.name, told["version"]).tool(told["tool"])
        if tool is None:
            raise UnknownName(f"agent {agent.name} has no tool {told['tool']!r:.60}")
        actor = f"agent {agent.ref}"
        about = {"tool": tool.name, "key": told["key"], "arguments": told["arguments"]}
        missing = sorted(set(tool.scopes) - set(agent.scopes))
        if missing:
            refused = {**about, "needs": missing}
            with self._registry.change(
                actor=actor, action="denied", subject=agent.ref, details=refused
            ):
                pass
            raise Forbidden(
                f"tool {tool.name} needs {', '.join(missing)}, which agent {agent.ref} was not "
                "given when it was spawned"
            )
        before = self._registry.tool_call(told["key"])
        if before is not None and before.state != "started":
            return before.model_dump(mode="json")
        call = ToolCall(
            key=told["key"],
            agent=agent.ref,
            message=told["message"],
            tool=tool.name,
            arguments=told["arguments"],
            approval=tool.approval,
            state="started" if tool.approval is None or before is not None else "waiting",
            at_s=self._registry.now_s(),
        )
        if before is not None:
            call = before
        action = "tool" if call.state == "started" else "tool_waits"
        with self._registry.change(
            actor=actor, action=action, subject=agent.ref, details=about
        ) as change:
            change.put_tool_call(call)
        return call.model_dump(mode="json")

    def _answered(self, key: str) -> Any:
        """The call once it waits no more: a future where that is to come."""
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            self._waiting.setdefault(key, []).append(future)
        found = self._registry.tool_call(key)
        if found is None or found.state != "waiting":
            self._tell(key, {} if found is None else found.model_dump(mode="json"))
        return future

    def answer(self, call: ToolCall, answer: Any, asked: Asked) -> dict[str, Any]:
        """Approve or reject a call that waits, with a person's name.

        Raises:
            Forbidden: somebody else must agree.
            UsageError: that is no `CallAnswer`.
            IllegalTransition: nobody waits for it any more.
        """
        refuse_other_person(f"tool call {call.key}", call.approval or "", asked.caller)
        said = read(CallAnswer, answer if isinstance(answer, dict) else {}, f"answer to {call.key}")
        action = "approve_call" if said.approve else "reject_call"
        told = {"tool": call.tool, "key": call.key, "reason": said.reason}
        with asked.change(self._registry, action, call.agent, **told) as change:
            if change.done is not None:
                return change.done
            if call.key not in {one.key for one in change.waiting_calls()}:
                now = change.tool_call(call.key)
                state = "gone" if now is None else now.state
                raise IllegalTransition(
                    f"tool call {call.key} waits for nobody: "
                    f"{'its message was given up' if state == 'waiting' else f'it is {state}'}"
                )
            answered = call.model_copy(
                update={
                    "state": "started" if said.approve else "rejected",
                    "answered_by": asked.actor,
                    "reason": said.reason,
                }
            )
            change.put_tool_call(answered)
            change.remember({"id": call.key})
        self._tell(call.key, answered.model_dump(mode="json"))
        return {"id": call.key}

    def waiting(self) -> list[Waiting]:
        """Calls that wait for somebody's word."""
        return [_waiting(call) for call in self._registry.waiting_calls()]

    def _tell(self, key: str, call: dict[str, Any]) -> None:
        with self._lock:
            waiting = self._waiting.pop(key, [])
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(call)


def _waiting(call: ToolCall) -> Waiting:
    given = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
    if len(given) > SHOWN_ARGUMENTS:
        given = f"{given[:SHOWN_ARGUMENTS]}..."
    return Waiting(
        kind="tool_call",
        id=call.key,
        agent=call.agent,
        tool=call.tool,
        arguments=call.arguments,
        text=f"may {call.agent} call {call.tool}({given})?",
        form=CallAnswer.model_json_schema(),
        to=call.approval or "",
        asked_by=call.agent,
        asked_s=call.at_s,
    )
