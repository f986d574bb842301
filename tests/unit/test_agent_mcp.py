"""MCP, with the official client and server: agents call tools of a server, clients call ours."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

import aios
from aios.agents.mcp import mcp_tool
from aios.errors import PermanentError, TemporaryError, UsageError
from aios.runtime.mcp_server import mcp_server

mcp = pytest.importorskip("mcp")

TOLD: list[Any] = []


def shop() -> Any:
    """A server of somebody else."""
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    server = MCPServer("shop")

    @server.tool()
    def price(item: str, count: int, ctx: Context) -> dict[str, Any]:
        """What something costs."""
        TOLD.append(ctx.request_context.meta)
        if item == "nothing":
            raise ToolError("sold out")
        return {"item": item, "total": 3 * count}

    return server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    import uvicorn

    app = shop().streamable_http_app()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    give_up_s = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < give_up_s
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/mcp"
    server.should_exit = True
    thread.join(timeout=20)


def ask(tool: Any, **arguments: Any) -> Any:
    return asyncio.run(tool.function(idempotency_key="a/1#2#3", **tool.read(arguments)))


def test_an_agent_calls_a_tool_of_a_server(url: str) -> None:
    tool = mcp_tool(url, "price", scopes="shop")
    assert (tool.facts.name, tool.facts.scopes) == ("price", ("shop",))
    assert ask(tool, item="tea", count=2) == {"item": "tea", "total": 6}
    assert "a/1#2#3" in str(TOLD[-1])


def test_what_a_server_says_against_a_call_is_told(url: str) -> None:
    tool = mcp_tool(url, "price")
    with pytest.raises(PermanentError, match="sold out"):
        ask(tool, item="nothing", count=1)
    with pytest.raises((PermanentError, UsageError), match="count"):
        ask(tool, item="tea", count="many")
    with pytest.raises((PermanentError, UsageError), match=r"(?i)unknown tool"):
        ask(mcp_tool(url, "rm"), x=1)


def test_a_server_that_is_not_there_may_be_later() -> None:
    with pytest.raises(TemporaryError, match="does not answer"):
        ask(mcp_tool("http://127.0.0.1:9/mcp", "price"), item="tea")


def test_a_server_that_cannot_be_named_is_refused() -> None:
    for server, more, told in (
        ("shop", {}, "is no URL"),
        (["python", "shop.py"], {"key": "env:X"}, "for a server with a URL"),
        ("http://shop", {"key": "secret"}, "names a variable"),
        ("http://shop", {"scopes": "No Scope"}, "is no scope"),
    ):
        with pytest.raises(UsageError, match=told):
            mcp_tool(server, "price", **more)  # type: ignore[arg-type]


def test_a_server_is_started_by_its_command(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(
        "from mcp.server.mcpserver import MCPServer\n"
        "server = MCPServer('shop')\n"
        "@server.tool()\n"
        "def double(n: int) -> int:\n"
        "    return 2 * n\n"
        "server.run()\n"
    )
    tool = mcp_tool([sys.executable, str(script)], "double")
    assert ask(tool, n=21) == {"result": 42}


class FakeAgent:
    """Answers what it was asked."""

    def ask(self, message: Any, timeout_s: float) -> Any:
        if message == "fail":
            raise aios.IllegalTransition("it is killed")
        return {"heard": message}


class FakeTransport:
    """Flows that return what they were given, but for those named `long`."""

    def __init__(self) -> None:
        self.begun: dict[str, Any] = {}

    def change(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.begun.setdefault(body["id"], body)
        return {"id": body["id"]}

    def get(self, path: str, **asked: Any) -> dict[str, Any]:
        flow_id = path.split("/")[4]
        if flow_id.startswith("long"):
            flow = {"flow": "refund", "version": 1, "status": "running", "error": None}
            more = {"undone": [], "not_undone": [], "lives": 1, "attributes": {}}
            return {"id": flow_id, **flow, **more}
        return {"status": "finished", "value": self.begun[flow_id]["kwargs"]}


class Item(BaseModel):
    """What was bought."""

    sku: str


@aios.flow
async def refund(id: str, items: list[Item], rush: bool = False) -> None:
    """Gives money back."""


@aios.flow
def placed(one, /):  # type: ignore[no-untyped-def]
    """Cannot be called by names."""


class FakeRuntime:
    """One endpoint, one agent, and flows."""

    def flow_versions(self) -> Any:
        return [{"name": one.name, "facts": one.facts} for one in (refund, placed)]  # type: ignore[attr-defined]

    def __init__(self, contract: aios.Contract) -> None:
        found = SimpleNamespace(contract=contract.to_json())
        self.models = SimpleNamespace(get=lambda ref: found)
        self._transport = FakeTransport()

    def status(self) -> Any:
        return SimpleNamespace(endpoints=[{"name": "loan", "model": "loan", "version": 1}])

    def agent_versions(self) -> Any:
        schema = {"type": "string"}
        return [{"name": "clerk", "facts": {"message_schema": schema, "description": "Files."}}]

    def endpoint(self, name: str) -> Any:
        answer = SimpleNamespace(outputs=[{"p": 0.25}])
        return SimpleNamespace(predict=lambda records: answer)

    def agent(self, name: str, agent_id: str) -> FakeAgent:
        return FakeAgent()


def with_client(scenario: Any) -> Any:
    contract = aios.Contract(
        inputs={
            "income": aios.Number(min=0),
            "age": aios.Integer(nullable=True),
            "home": aios.Category(["own", "rent"], nullable=True),
        },
        outputs={"p": aios.Number(min=0, max=1)},
    )

    async def run() -> Any:
        async with mcp.Client(mcp_server(FakeRuntime(contract))) as client:  # type: ignore[arg-type]
            return await scenario(client)

    return asyncio.run(run())


def test_endpoints_and_agents_are_offered_with_what_they_take() -> None:
    async def scenario(client: Any) -> Any:
        return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in with_client(scenario)}
    assert sorted(tools) == ["ask_clerk", "predict_loan", "run_refund"]
    record = tools["predict_loan"].input_schema["properties"]["records"]["items"]
    assert record["properties"]["income"] == {
        "description": "a number of at least 0",
        "type": "number",
    }
    assert record["properties"]["age"]["type"] == ["integer", "null"]
    assert record["properties"]["home"]["enum"] == ["own", "rent", None]
    assert record["required"] == ["income"]
    assert tools["ask_clerk"].input_schema["required"] == ["id", "message"]
    taken = tools["run_refund"].input_schema
    assert list(taken["properties"]["arguments"]["properties"]) == ["id", "items", "rush"]
    assert taken["properties"]["arguments"]["required"] == ["id", "items"]
    assert taken["$defs"]["Item"]["properties"]["sku"]["type"] == "string"
    assert tools["run_refund"].description.endswith("Gives money back.")


def test_a_client_calls_endpoints_and_agents() -> None:
    async def scenario(client: Any) -> Any:
        predicted = await client.call_tool("predict_loan", {"records": [{"income": 1}]})
        heard = await client.call_tool("ask_clerk", {"id": "c-1", "message": "hello"})
        return predicted.structured_content, heard.structured_content

    predicted, heard = with_client(scenario)
    assert predicted == {"result": [{"p": 0.25}]}
    assert heard == {"result": {"heard": "hello"}}


def test_a_client_runs_a_flow_and_hears_of_one_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aios.runtime.mcp_server.RUN_S", 0.05)
    asked = {"id": "order", "items": [{"sku": "a"}]}

    async def scenario(client: Any) -> Any:
        short = await client.call_tool("run_refund", {"id": "r-1", "arguments": asked})
        long = await client.call_tool("run_refund", {"id": "long-1", "arguments": asked})
        return short.structured_content["result"], long.structured_content["result"]

    short, long = with_client(scenario)
    assert short == {"id": "r-1", "status": "finished", "result": asked}
    assert (long["id"], long["status"]) == ("long-1", "running")
    assert "call again with the same id" in long["then"]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("rm", {}, "there are: predict_loan, ask_clerk, run_refund"),
        ("ask_clerk", {"id": "c-1"}, "missing: message"),
        ("ask_clerk", {"id": "c-1", "message": "x", "scopes": ["all"]}, "unknown: scopes"),
        ("ask_clerk", {"id": "c-1", "message": "fail"}, "it is killed"),
        ("run_refund", {"arguments": {}}, "missing: id"),
        ("run_refund", {"id": "r", "arguments": {"id": "o"}}, "'items' is a required property"),
        ("run_refund", {"id": "r", "arguments": {"id": 1, "items": []}}, "id: 1 is not of type"),
        ("run_refund", {"id": "r", "arguments": {"id": "o", "items": [{}]}}, "items.0: 'sku'"),
        ("run_refund", {"id": "r", "arguments": {"id": "o", "items": [], "x": 1}}, "'x' was"),
    ],
)
def test_a_mistake_is_a_result_that_a_model_can_read(name: str, arguments: Any, told: str) -> None:
    async def scenario(client: Any) -> Any:
        return await client.call_tool(name, arguments)

    answer = with_client(scenario)
    assert answer.is_error
    assert told in answer.content[0].text
