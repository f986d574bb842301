"""Agents: classes that handle messages one at a time, with durable memory, tools and a budget.

Users write them (`agent`, `tool`, `Context`); hosts run them (`AgentHost`, with `on_ray` as its
shell); the kernel keeps their mailboxes and decides what follows from a failure (`supervision`).
Invariants: an agent handles one message at a time; what a message did (state, reply, messages
sent, decisions) is told to the kernel as one `Turn`, and counts as a whole or not at all; tools
may be called again with the same idempotency key. It must not know the database, how a message
reached the kernel, or which process it is in.
"""

from aios.agents.agent import AgentClass, agent, agent_class
from aios.agents.context import ChildFailed, Context
from aios.agents.host import AgentHost
from aios.agents.mcp import mcp_tool
from aios.agents.tools import scopes_of, tool, tool_of

__all__ = [
    "AgentClass",
    "AgentHost",
    "ChildFailed",
    "Context",
    "agent",
    "agent_class",
    "mcp_tool",
    "scopes_of",
    "tool",
    "tool_of",
]
