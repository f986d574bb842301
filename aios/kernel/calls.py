"""How a route becomes a command: who calls, under which operation id.

A group of routes is a module `*_routes` with a `router`; `api.build_api` includes it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from aios.kernel.front import CALLER
from aios.security import Caller

Execute = Callable[[str, dict[str, Any], Caller, str | None], Awaitable[Any]]
PREFIX = "/api/v1"
"""All below it needs an API key; see `front`."""


class Body(BaseModel):
    """A JSON body that takes no unknown field."""

    model_config = ConfigDict(extra="forbid")


class ReasonBody(Body):
    """Why a person does something."""

    reason: str = ""


async def call(request: Request, command: str, /, **arguments: Any) -> Any:
    """Let the kernel carry out a command or query for whoever sent the request.

    Raises:
        Forbidden: the caller's role may not.
        AiosError: whatever the kernel raises.
    """
    execute: Execute = request.app.state.execute
    operation_id = request.headers.get("idempotency-key")
    return await execute(command, arguments, request.scope[CALLER], operation_id)
