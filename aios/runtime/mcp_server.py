"""The runtime as an MCP server: endpoints, agents and flows are tools of whoever connects."""

import asyncio
import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

from aios.contracts import Category, Contract, Field
from aios.errors import AiosError, DeadlineExceeded, UnknownName, Unsupported, UsageError
from aios.runtime.agents import Agent
from aios.runtime.flows import start_by_name
from aios.runtime.runtime import Runtime

ASK_S = 60.0
RUN_S = 20.0
"""How long a call waits for a flow, which may take days; then it says that the flow goes on."""
PREDICT, ASK, RUN = "predict_", "ask_", "run_"
JSON_TYPES = {"number": "number", "integer": "integer", "boolean": "boolean", "text": "string"}
"""By the kinds of a contract's fields; a tensor is described in words."""


class Offered(NamedTuple):
    """A tool: what it is for, the JSON schema of what it takes, and what it does."""

    description: str
    schema: dict[str, Any]
    call: Callable[..., Any]


def offered(runtime: Runtime) -> dict[str, Offered]:
    """What the runtime offers now, by the names of the tools: `predict_<endpoint>`, `ask_<agent>`
    and `run_<flow>`, of which the newest version whose arguments have names."""
    tools = {}
    for endpoint in runtime.status().endpoints:
        name = endpoint["name"]
        contract = Contract.from_json(
            runtime.models.get(f"{endpoint['model']}:{endpoint['version']}").contract
        )
        tools[f"{PREDICT}{name}"] = _endpoint(runtime, name, contract)
    for made in runtime.agent_versions():
        tools[f"{ASK}{made['name']}"] = _agent(runtime, made["name"], made["facts"])
    for sent in runtime.flow_versions():
        if sent["facts"].get("arguments") is not None:
            tools[f"{RUN}{sent['name']}"] = _flow(runtime, sent["name"], sent["facts"])
    return tools


def mcp_server(runtime: Runtime) -> Any:
    """The official package's server, for any of its transports.

    Raises:
        Unsupported: the package is not installed.
    """
    try:
        from mcp import types
        from mcp.server.lowlevel import Server
    except ImportError:
        raise Unsupported("MCP needs its package: pip install 'aios[mcp]'") from None

    async def list_tools(_context: Any, _params: Any) -> Any:
        found = await asyncio.to_thread(offered, runtime)
        return types.ListToolsResult(
            tools=[
                types.Tool(name=name, description=one.description, input_schema=one.schema)
                for name, one in found.items()
            ]
        )

    async def call_tool(_context: Any, params: Any) -> Any:
        try:
            result = await asyncio.to_thread(called, runtime, params.name, params.arguments or {})
        except AiosError as error:
            # As a result and not as an error of the protocol: the model that calls can mend it.
            told = types.TextContent(type="text", text=error.message)
            return types.CallToolResult(content=[told], is_error=True)
        text = types.TextContent(type="text", text=json.dumps(result))
        return types.CallToolResult(content=[text], structured_content={"result": result})

    return Server("aios", version=version("aios"), on_list_tools=list_tools, on_call_tool=call_tool)


def called(runtime: Runtime, name: str, arguments: dict[str, Any]) -> Any:
    """What a tool gives.

    Raises:
        UnknownName: there is no such tool; lists those that there are.
        AiosError: the endpoint, the agent or the flow refused, or failed.
    """
    tools = offered(runtime)
    if name not in tools:
        raise UnknownName(f"no tool {name[:80]!r}; there are: {', '.join(tools) or 'none'}")
    wanted = tools[name].schema
    missing = [one for one in wanted["required"] if one not in arguments]
    unknown = sorted(set(arguments) - set(wanted["properties"]))
    if missing or unknown:
        raise UnknownName(
            f"tool {name} takes {', '.join(wanted['properties'])}; missing: "
            f"{', '.join(missing) or 'none'}, unknown: {', '.join(unknown)[:200] or 'none'}"
        )
    return tools[name].call(**arguments)


def serve_stdio(runtime: Runtime) -> None:
    """Serve whoever started this process, until its input ends."""
    server = mcp_server(runtime)
    from mcp.server.stdio import stdio_server

    async def run() -> None:
        async with stdio_server() as (reads, writes):
            await server.run(reads, writes, server.create_initialization_options())

    asyncio.run(run())


def _endpoint(runtime: Runtime, name: str, contract: Contract) -> Offered:
    fields = {field: _field(it) for field, it in contract.inputs.items()}
    required = [field for field, it in contract.inputs.items() if not it.nullable]
    record = {"type": "object", "properties": fields, "required": required}
    records = {"type": "array", "items": record, "description": "what is to be predicted of"}
    outputs = ", ".join(f"{field} ({it.describe()})" for field, it in contract.outputs.items())

    def predict(records: Any) -> Any:
        return runtime.endpoint(name).predict(records).outputs

    return Offered(
        f"Ask the model endpoint {name}; for each record it answers {outputs}.",
        {"type": "object", "properties": {"records": records}, "required": ["records"]},
        predict,
    )


def _field(field: Field) -> dict[str, Any]:
    """One field of a record as JSON schema."""
    found: dict[str, Any] = {"description": field.describe()}
    kind = JSON_TYPES.get(field.kind)
    if isinstance(field, Category):
        found["enum"] = [*field.values, None] if field.nullable else [*field.values]
    elif kind is not None:
        found["type"] = [kind, "null"] if field.nullable else kind
    return found


def _agent(runtime: Runtime, name: str, facts: dict[str, Any]) -> Offered:
    message = facts["message_schema"] or {"description": "anything that is JSON"}
    properties = {
        "id": {"type": "string", "description": "which agent; a new id is a new agent"},
        "message": message,
    }

    def ask(id: str, message: Any) -> Any:
        try:
            agent: Agent = runtime.agent(name, id)
        except UnknownName:
            agent = runtime.spawn(name, id=id)
        return agent.ask(message, timeout_s=ASK_S)

    about = facts["description"] or "It handles messages one at a time and remembers."
    return Offered(
        f"Ask an agent {name}. {about}",
        {"type": "object", "properties": properties, "required": ["id", "message"]},
        ask,
    )


def _flow(runtime: Runtime, name: str, facts: dict[str, Any]) -> Offered:
    arguments = {key: value for key, value in facts["arguments"].items() if key != "$defs"}
    about_id = "of this one run, such as order-42; the same id never runs twice"
    properties = {"id": {"type": "string", "description": about_id}, "arguments": arguments}
    required = ["id", "arguments"] if arguments["required"] else ["id"]
    schema = {"type": "object", "properties": properties, "required": required}

    def run(id: str, arguments: Any = None) -> Any:
        given = {} if arguments is None else arguments
        _refuse_unfit(name, facts["arguments"], given)
        handle = start_by_name(runtime._transport, name, id, given)
        told = {"id": handle.id, "status": "finished"}
        try:
            return {**told, "result": handle.result(RUN_S)}
        except DeadlineExceeded:
            status = handle.status()
            if status.ended:
                return {**told, "result": handle.result(0.0)}
            then = "it goes on; call again with the same id and arguments for its result"
            return {"id": handle.id, "status": status.outcome, "then": then}

    return Offered(
        f"Run the flow {name} and give its result, or say that it goes on. {facts['description']}",
        {**schema, "$defs": facts["arguments"].get("$defs", {})},
        run,
    )


def _refuse_unfit(name: str, schema: dict[str, Any], given: Any) -> None:
    """Before the flow begins: one that fails for its arguments has used up its id.

    Raises:
        UsageError: the arguments do not fit; names each.
    """
    from jsonschema import Draft202012Validator

    faults = list(Draft202012Validator(schema).iter_errors(given))
    if faults:
        told = "; ".join(
            f"{'.'.join(map(str, one.absolute_path)) or 'arguments'}: {one.message[:200]}"
            for one in faults[:5]
        )
        raise UsageError(f"flow {name}: {told}")
