"""Messages of agents as a collector sees them, and endpoints that answer agents, below them."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from test_agent_parts import Desk, delivery, until

from aios.agents import AgentHost
from aios.agents.ingress import Ingress
from aios.telemetry.traces import Tracer
from tests.trace_collector import attributes, collector


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[str | None]]]:
    """An ingress's address, and the `traceparent` of each request that came there."""
    came: list[str | None] = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.headers["traceparent"])
            body = b'{"outputs": [{"p": 0.5}], "version": 1, "arm": "stable", "request_id": "r"}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    thread.join()
    server.server_close()


def handled(address: str, tracer: Tracer, *messages: Any) -> None:
    async def run() -> None:
        desk, ingress = Desk(), Ingress(address, "key", tracer)
        host = AgentHost(desk, ingress.predict, tracer=tracer)
        telling = asyncio.create_task(host.tell_forever())
        host.deliver([delivery(n, one, f"clerk/{n}") for n, one in enumerate(messages, 1)])
        await until(lambda: len(desk.done) == len(messages))
        telling.cancel()
        await ingress.close()

    asyncio.run(run())
    tracer.flush()


def test_a_message_is_a_span_and_what_an_endpoint_answers_is_below_it(
    endpoint: tuple[str, list[str | None]],
) -> None:
    address, came = endpoint
    with collector() as (told_to, received):
        tracer = Tracer(told_to, "aios-agents")
        handled(address, tracer, {"do": "predict"}, {"do": "fail"})
    spans = {attributes(span)["aios.message"]: span for _, span in received}
    assert set(spans) == {1, 2}
    assert spans[1].name == "agent clerk"
    assert attributes(spans[1])["aios.agent"] == "clerk/1"
    (above,) = came
    assert above is not None
    assert above.split("-")[1:3] == [spans[1].trace_id.hex(), spans[1].span_id.hex()]
    assert (spans[1].status.code, spans[2].status.code) == (0, 2)
    assert spans[2].status.message
    assert spans[1].trace_id != spans[2].trace_id


def test_without_a_collector_nothing_is_sent_along(endpoint: tuple[str, list[str | None]]) -> None:
    address, came = endpoint
    handled(address, Tracer(None, "aios-agents"), {"do": "predict"})
    assert came == [None]
