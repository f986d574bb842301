"""Tools of an MCP server (Model Context Protocol) as tools of an agent: named in its code, so that
a server cannot add any, and under the same scopes, approvals and log as all others."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from aios.agents.tools import Tool, check_policy
from aios.errors import (
    DeadlineExceeded,
    PermanentError,
    TemporaryError,
    Unsupported,
    UsageError,
    describe,
)
from aios.records.agents import ToolFacts

CALL_S = 60.0
"""Bound of one call, with the connection."""


class _Anything(BaseModel):
    """Arguments that the server checks."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class McpTool(Tool):
    """A tool whose server knows what it takes."""

    def read(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are."""
        return dict(given)


def mcp_tool(
    server: str | Sequence[str],
    name: str,
    *,
    key: str | None = None,
    scopes: str | tuple[str, ...] | list[str] = (),
    approval: str | None = None,
    dry: Any = None,
    timeout_s: float = CALL_S,
) -> Tool:
    """A tool of an MCP server, for `@aios.agent(tools=[...])`; `ctx.call(name, ...)` calls it.

    Args:
        server: its URL (streamable HTTP), or the command that starts it (stdio).
        name: of the tool there.
        key: `env:NAME`: the variable, where agents run, with the bearer token for the URL.
        scopes, approval, dry: as of `aios.tool`.
        timeout_s: bound of one call.

    Raises:
        UsageError: server, key or policy are not spelled as such.
    """
    url = isinstance(server, str)
    if url and not str(server).startswith(("http://", "https://")):
        raise UsageError(f"MCP server {server!r:.80} is no URL; a command is a list of words")
    if key is not None and not (url and key.startswith("env:") and key[4:]):
        raise UsageError("key= names a variable, such as 'env:CRM_TOKEN', for a server with a URL")
    where = str(server) if url else [str(word) for word in server]
    policy = check_policy(scopes, approval)

    async def call(idempotency_key: str, **arguments: Any) -> Any:
        return await _called(where, name, key, arguments, idempotency_key, timeout_s)

    facts = ToolFacts(
        name=name, scopes=policy, approval=approval, description=f"{name} of the MCP server {where}"
    )
    return McpTool(call, facts, _Anything, True, dry)


async def _called(
    server: str | list[str],
    name: str,
    key: str | None,
    arguments: dict[str, Any],
    idempotency_key: str,
    timeout_s: float,
) -> Any:
    """One call over a connection of its own.

    Raises:
        UsageError: the server refuses the arguments, or has no such tool.
        PermanentError: the tool failed.
        TemporaryError: the server cannot be reached.
    """
    try:
        import anyio
        from mcp import Client, MCPError
    except ImportError:
        raise Unsupported("MCP needs its package: pip install 'aios[mcp]'") from None
    try:
        with anyio.fail_after(timeout_s):
            async with Client(_transport(server, key)) as client:
                meta: Any = {"idempotency_key": idempotency_key}
                answer = await client.call_tool(name, arguments, meta=meta)
    except TimeoutError:
        raise DeadlineExceeded(f"MCP tool {name} took longer than {timeout_s:g} s") from None
    except MCPError as error:
        raise UsageError(f"MCP tool {name}: {error}") from None
    except Exception as error:
        cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        if isinstance(cause, MCPError):
            raise UsageError(f"MCP tool {name}: {cause}") from None
        reason = describe(cause)
        raise TemporaryError(f"the MCP server of {name} does not answer: {reason}") from error
    texts = [part.text for part in answer.content if part.type == "text"]
    if answer.is_error:
        raise PermanentError(f"MCP tool {name} failed: {' '.join(texts)[:500]}")
    return "\n".join(texts) if answer.structured_content is None else answer.structured_content


def _transport(server: str | list[str], key: str | None) -> Any:
    from mcp import StdioServerParameters

    if isinstance(server, list):
        return StdioServerParameters(command=server[0], args=server[1:])
    if key is None:
        return server
    token = os.environ.get(key[4:])
    if not token:
        raise UsageError(f"the variable {key[4:]} with the MCP server's token is not set here")
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    client = httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"})
    return streamable_http_client(server, http_client=client)
