"""Routes of agents."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from aios.errors import DeadlineExceeded, from_problem
from aios.kernel.calls import PREFIX, Body, ReasonBody, call

router = APIRouter(prefix=PREFIX)


class SpawnBody(Body):
    """An agent as wanted; see `agent_commands.Spawn`."""

    id: str
    source: dict[str, Any] | None = None
    facts: dict[str, Any] | None = None
    version: int | None = None
    scopes: list[str] = Field(default_factory=list)
    state: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None


class MessageBody(Body):
    """A message."""

    message: Any


class AskBody(MessageBody):
    """A message whose reply is waited for."""

    timeout_s: float = Field(default=60.0, gt=0, le=3_600)


class MessagesBody(Body):
    """`{"to", "message"}` for each message."""

    messages: list[dict[str, Any]]


class BudgetBody(Body):
    """More of a budget."""

    budget: dict[str, Any]


class PlanBody(Body):
    """A version for a share of an agent's ids."""

    version: int
    share: float
    shadow: bool = False


class VersionBody(Body):
    """The text of an agent, and what was read off it."""

    source: dict[str, Any]
    facts: dict[str, Any]
    anew: bool = True


@router.get("/agents")
async def agents(request: Request, name: str | None = None) -> Any:
    return await call(request, "agents", name=name)


@router.get("/agent-counts")
async def counts(request: Request) -> Any:
    return await call(request, "agent_counts")


@router.get("/agent-hosts")
async def hosts(request: Request) -> Any:
    return await call(request, "agent_hosts")


@router.post("/agents/{name}", status_code=201)
async def spawn(request: Request, name: str, body: SpawnBody) -> Any:
    given = body.model_dump(exclude_none=True)
    return await call(request, "spawn_agent", name=name, **given)


@router.get("/agents/{name}/{agent_id}")
async def agent(request: Request, name: str, agent_id: str) -> Any:
    return await call(request, "agent", ref=f"{name}/{agent_id}")


@router.get("/agents/{name}/{agent_id}/log")
async def log(request: Request, name: str, agent_id: str, limit: int = 100) -> Any:
    return await call(request, "agent_log", ref=f"{name}/{agent_id}", limit=limit)


@router.post("/agents/{name}/{agent_id}/messages", status_code=202)
async def tell(request: Request, name: str, agent_id: str, body: MessageBody) -> Any:
    messages = [{"to": f"{name}/{agent_id}", "message": body.message}]
    return await call(request, "tell_agents", messages=messages)


@router.post("/agent-messages", status_code=202)
async def tell_many(request: Request, body: MessagesBody) -> Any:
    return await call(request, "tell_agents", messages=body.messages)


@router.post("/agents/{name}/{agent_id}/ask")
async def ask(request: Request, name: str, agent_id: str, body: AskBody) -> Any:
    """The reply, or the error that the agent ended with."""
    ref = f"{name}/{agent_id}"
    put = await call(request, "ask_agent", to=ref, message=body.message)
    answer = None
    try:
        # One look at the kernel waits for seconds, which may be longer than what is left.
        async with asyncio.timeout(body.timeout_s):
            while answer is None:
                answer = await call(request, "agent_reply", seq=put["message"])
    except TimeoutError:
        raise DeadlineExceeded(
            f"{ref} has not replied within {body.timeout_s:g} s; it still may: the message is "
            f"number {put['message']}",
            number=put["message"],
        ) from None
    if answer.get("problem") is not None:
        raise from_problem(answer["problem"])
    return {"reply": answer["reply"], "message": put["message"]}


@router.post("/agents/{name}/{agent_id}/kill")
async def kill(request: Request, name: str, agent_id: str, body: ReasonBody) -> Any:
    return await call(request, "kill_agent", ref=f"{name}/{agent_id}", reason=body.reason)


@router.post("/agents/{name}/{agent_id}/revive")
async def revive(request: Request, name: str, agent_id: str, body: ReasonBody) -> Any:
    return await call(request, "revive_agent", ref=f"{name}/{agent_id}", reason=body.reason)


@router.post("/agents/{name}/{agent_id}/grant")
async def grant(request: Request, name: str, agent_id: str, body: BudgetBody) -> Any:
    return await call(request, "grant_agent", ref=f"{name}/{agent_id}", budget=body.budget)


@router.get("/dead-messages")
async def dead(request: Request, ref: str | None = None, limit: int = 100) -> Any:
    return await call(request, "dead_mail", ref=ref, limit=limit)


@router.post("/dead-messages/{seq}/revive")
async def revive_mail(request: Request, seq: str) -> Any:
    return await call(request, "revive_mail", seq=seq)


@router.post("/agent-versions/{name}", status_code=201)
async def define(request: Request, name: str, body: VersionBody) -> Any:
    return await call(request, "define_agent", name=name, **body.model_dump())


@router.get("/agent-versions")
async def versions(request: Request, name: str | None = None) -> Any:
    return await call(request, "agent_versions", name=name)


@router.get("/agent-plans")
async def plans(request: Request) -> Any:
    return await call(request, "agent_plans")


@router.put("/agent-plans/{name}")
async def roll_out(request: Request, name: str, body: PlanBody) -> Any:
    return await call(request, "roll_out_agent", name=name, **body.model_dump())


@router.delete("/agent-plans/{name}")
async def roll_back(request: Request, name: str) -> Any:
    return await call(request, "roll_back_agent", name=name)
