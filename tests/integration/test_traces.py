"""Spans as a collector receives them: the caller's trace goes on, the canary's span hangs below.

In one process and without Ray: what crosses to the challenger is the `traceparent` that
`Endpoint` passes to its client, which here calls the challenger directly.
"""

import asyncio
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from aios.clock import SystemClock
from aios.contracts import Codec, Contract, Number
from aios.records import Artifact, Challenger, EndpointSpec, ServedVersion, TrafficPlan
from aios.security.keys import digest, new_key
from aios.serving.challenger import ChallengerReplica, unpack
from aios.serving.endpoint import Endpoint
from aios.serving.features import FeatureWindows
from aios.serving.http import EndpointApp
from aios.serving.outliers import Outliers
from aios.serving.recorder import Recorder
from aios.serving.runner import Runner
from aios.telemetry.traces import Tracer

CONTRACT = Contract(inputs={"a": Number()}, outputs={"p": Number()})
CODEC = Codec(CONTRACT)
KEY = new_key("tracing")[0]
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN_ID = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER_SPAN_ID}-01"


class Half:
    """An engine that answers 0.5."""

    device = "cpu"
    service_time_s = 0.0

    def run(self, batch):
        return {"p": np.full(batch.rows, 0.5)}

    def warm(self, rows=1):
        pass

    def close(self):
        pass


def served(version):
    artifact = Artifact(digest=f"{version:064x}", engine="onnx", size_bytes=1)
    return ServedVersion(version=version, artifact=artifact, contract=CONTRACT.to_json())


def plan(arm):
    return TrafficPlan(
        revision=1,
        spec=EndpointSpec(name="toy", model="toy", deadline_s=30.0),
        stable=served(1),
        challenger=Challenger(served=served(2), app="toy--v2", arm=arm, weight_fraction=1.0),
        keys=(digest(KEY),),
    )


async def predict(tracer, canary_tracer, traceparent, arm="canary"):
    """One request through the endpoint's ASGI application to a challenger; its headers."""
    challenger = ChallengerReplica((Runner(Half(), CODEC), CODEC), canary_tracer, "toy:2")

    def connect(_):
        async def ask(batch, timeout_s, parent):
            return unpack(await challenger.infer(batch, timeout_s, parent))

        return ask

    endpoint = Endpoint(
        load=lambda version, max_rows: (Runner(Half(), CODEC), CODEC),
        connect=connect,
        recorder=Recorder("nowhere", 0.0),
        features=FeatureWindows("toy", "r1", 60.0),
        outliers=Outliers(lambda served: None),
        tracer=tracer,
        clock=SystemClock(),
        replica="r1",
    )
    await endpoint.reconfigure(plan(arm))
    headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"x-request-id", b"r-1")]
    if traceparent is not None:
        headers.append((b"traceparent", traceparent.encode()))
    sent = []

    async def receive():
        return {"type": "http.request", "body": b'{"a": 1}', "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v2/models/toy/predict"}
    await EndpointApp(endpoint, "toy")({**scope, "headers": headers}, receive, send)
    assert sent[0]["status"] == 200, orjson.loads(sent[1]["body"])
    return dict(sent[0]["headers"])


@contextmanager
def collector(status=200):
    """An OTLP/HTTP collector: its address, and the (service, span) pairs it was sent."""
    received = []

    class Traces(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {pair.key: pair.value for pair in group.resource.attributes}
                name = service["service.name"].string_value
                received.extend((name, s) for part in group.scope_spans for s in part.spans)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Traces)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def spans_of(traceparent):
    """The endpoint's and the canary's span of one request, as the collector got them."""
    with collector() as (address, received):
        tracers = [Tracer(address, name) for name in ("endpoint", "challenger")]
        headers = asyncio.run(predict(*tracers, traceparent))
        for tracer in tracers:
            tracer.flush()
    assert headers[b"x-aios-arm"] == b"canary"
    (parent,) = [span for service, span in received if service == "endpoint"]
    (child,) = [span for service, span in received if service == "challenger"]
    assert (parent.name, child.name) == ("predict toy", "model toy:2")
    return parent, child


def attributes(span):
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def test_the_callers_trace_goes_on_through_the_endpoint_to_the_canary():
    parent, child = spans_of(TRACEPARENT)
    assert parent.trace_id.hex() == child.trace_id.hex() == TRACE_ID
    assert parent.parent_span_id.hex() == CALLER_SPAN_ID
    assert child.parent_span_id == parent.span_id
    told = attributes(parent)
    assert (told["aios.request_id"], told["aios.version"], told["aios.arm"]) == ("r-1", 2, "canary")
    assert attributes(child)["aios.rows"] == 1
    assert parent.start_time_unix_nano <= child.start_time_unix_nano
    assert child.end_time_unix_nano <= parent.end_time_unix_nano


@pytest.mark.parametrize("traceparent", [None, "garbage", "00-0-0-00"])
def test_without_a_sound_traceparent_a_trace_of_our_own_begins(traceparent):
    parent, child = spans_of(traceparent)
    assert parent.parent_span_id == b""
    assert parent.trace_id == child.trace_id
    assert re.fullmatch(r"[0-9a-f]{32}", parent.trace_id.hex())
    assert child.parent_span_id == parent.span_id


def test_a_collector_that_refuses_costs_the_request_nothing():
    with collector(status=400) as (address, received):
        tracer = Tracer(address, "endpoint")
        headers = asyncio.run(predict(tracer, tracer, TRACEPARENT))
        tracer.flush()
    assert headers[b"x-aios-arm"] == b"canary"
    assert len(received) == 2


def test_without_tracing_the_callers_traceparent_still_reaches_the_challenger():
    seen = []

    class Listening(Tracer):
        def span(self, name, parent, attributes):
            seen.append((name, parent))
            return super().span(name, parent, attributes)

    asyncio.run(predict(Tracer(None, "off"), Listening(None, "off"), TRACEPARENT))
    assert seen == [("model toy:2", TRACEPARENT)]
