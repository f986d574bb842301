"""Spans as a collector receives them: the caller's trace goes on, the canary's span hangs below.

In one process and without Ray: what crosses to the challenger is the `traceparent` that
`Endpoint` passes to its client, which here calls the challenger directly.
"""

import asyncio
import logging
import re
import socket
import threading
import time

import numpy as np
import orjson
import pytest

from aios.clock import SystemClock
from aios.contracts import Codec, Contract, Number
from aios.errors import ModelFailed
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
from tests.trace_collector import attributes, collector

CONTRACT = Contract(inputs={"a": Number()}, outputs={"p": Number()})
CODEC = Codec(CONTRACT)
KEY = new_key("tracing")[0]
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN_ID = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER_SPAN_ID}-01"


class Half:
    """An engine that answers 0.5; if it is slow, in a thread and with batches, once `go` is set."""

    device = "cpu"

    def __init__(self, slow=False):
        self.service_time_s = 1.0 if slow else 0.0
        self.go = threading.Event()
        if not slow:
            self.go.set()

    def run(self, batch):
        self.go.wait(10)
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
    runner = Runner(Half(), CODEC, tracer=canary_tracer, about={"aios.version": 2})
    challenger = ChallengerReplica((runner, CODEC), canary_tracer, "toy:2")

    def connect(*_):
        async def ask(batch, timeout_s, parent):
            return unpack(await challenger.infer(batch, timeout_s, parent))

        return ask

    endpoint = Endpoint(
        load=lambda version, max_rows: (
            Runner(Half(), CODEC, tracer=tracer, about={"aios.version": 1}),
            CODEC,
        ),
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


def spans_of(traceparent):
    """The endpoint's and the canary's span of one request, as the collector got them."""
    with collector() as (address, received):
        tracers = [Tracer(address, name) for name in ("endpoint", "challenger")]
        headers = asyncio.run(predict(*tracers, traceparent))
        for tracer in tracers:
            tracer.flush()
    assert headers[b"x-aios-arm"] == b"canary"
    (parent,) = [span for service, span in received if service == "endpoint"]
    engine, child = [span for service, span in received if service == "challenger"]
    assert (parent.name, child.name, engine.name) == ("predict toy", "model toy:2", "engine run")
    assert engine.parent_span_id == child.span_id
    assert engine.trace_id == child.trace_id
    return parent, child


def test_the_callers_trace_goes_on_through_the_endpoint_to_the_canary():
    parent, child = spans_of(TRACEPARENT)
    assert parent.trace_id.hex() == child.trace_id.hex() == TRACE_ID
    assert parent.parent_span_id.hex() == CALLER_SPAN_ID
    assert child.parent_span_id == parent.span_id
    told = attributes(parent)
    assert (told["aios.request_id"], told["aios.version"], told["aios.arm"]) == ("r-1", 2, "canary")
    assert parent.kind == parent.SPAN_KIND_SERVER
    assert told["http.request.method"] == "POST"
    assert told["http.route"] == "/v2/models/toy/predict"
    assert told["http.response.status_code"] == 200
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
    assert len(received) == 3


def test_without_tracing_the_callers_traceparent_still_reaches_the_challenger():
    seen = []

    class Listening(Tracer):
        def span(self, name, parent, attributes, **more):
            seen.append((name, parent))
            return super().span(name, parent, attributes, **more)

    asyncio.run(predict(Tracer(None, "off"), Listening(None, "off"), TRACEPARENT))
    assert seen == [("model toy:2", TRACEPARENT)]


def test_stables_own_run_is_a_span_below_the_request():
    with collector() as (address, received):
        tracer = Tracer(address, "endpoint")
        headers = asyncio.run(predict(tracer, Tracer(None, "off"), TRACEPARENT, arm="shadow"))
        tracer.flush()
    assert headers[b"x-aios-arm"] == b"stable"
    engine, request = [span for _, span in received]
    assert (engine.name, request.name) == ("engine run", "predict toy")
    assert engine.parent_span_id == request.span_id
    told = attributes(engine)
    assert told == {"aios.version": 1, "aios.batch.rows": 1, "aios.queue_wait_s": 0.0}


def test_a_slow_engines_span_says_how_long_it_queued_and_in_what_company():
    async def three(tracer):
        engine = Half(slow=True)
        runner = Runner(engine, CODEC, tracer=tracer)
        batches = [CODEC.decode_records(b'{"a": 1}') for _ in range(3)]
        first, *others = [asyncio.create_task(runner.run(batch)) for batch in batches]
        while runner.queued < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        engine.go.set()
        await asyncio.gather(first, *others)

    with collector() as (address, received):
        tracer = Tracer(address, "endpoint")
        asyncio.run(three(tracer))
        tracer.flush()
    alone, *together = sorted(
        (span for _, span in received), key=lambda one: one.end_time_unix_nano
    )
    assert attributes(alone)["aios.batch.calls"] == 1
    for span in together:
        told = attributes(span)
        assert (told["aios.batch.rows"], told["aios.batch.calls"]) == (2, 2)
        assert told["aios.queue_wait_s"] >= 0.05
        assert told["aios.queue_wait_s"] > attributes(alone)["aios.queue_wait_s"]


def test_a_model_that_fails_is_a_span_with_its_error():
    class Broken(Half):
        def run(self, batch):
            raise ValueError("no")

    with collector() as (address, received):
        tracer = Tracer(address, "endpoint")
        runner = Runner(Broken(), CODEC, tracer=tracer)
        with pytest.raises(ModelFailed):
            asyncio.run(runner.run(CODEC.decode_records(b'{"a": 1}')))
        tracer.flush()
    ((_, span),) = received
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "ModelFailed"


def test_a_share_of_the_traces_that_begin_here_is_sent_and_a_callers_wish_is_kept():
    unwanted = TRACEPARENT.removesuffix("01") + "00"
    with collector() as (address, received):
        tracer = Tracer(address, "endpoint", ratio=0.3)
        for _ in range(400):
            with tracer.span("mine", None, {}):
                pass
        with tracer.span("wanted", TRACEPARENT, {}):
            pass
        with tracer.span("unwanted", unwanted, {}) as span:
            assert span.traceparent.endswith("-00"), "those who are called next keep it too"
        tracer.flush()
    names = [span.name for _, span in received]
    assert 70 <= names.count("mine") <= 170
    assert ("wanted" in names, "unwanted" in names) == (True, False)


def test_a_collector_that_is_gone_or_hangs_holds_up_nobody_and_fills_no_log(caplog):
    with socket.socket() as gone, socket.create_server(("127.0.0.1", 0)) as hangs:
        gone.bind(("127.0.0.1", 0))
        for server in (gone, hangs):
            tracer = Tracer(f"http://127.0.0.1:{server.getsockname()[1]}", "endpoint")
            began_s = time.perf_counter()
            for _ in range(5_000):
                with tracer.span("request", None, {}):
                    pass
            assert time.perf_counter() - began_s < 5.0, "a fifth of it on an idle machine"
            headers = asyncio.run(predict(tracer, tracer, TRACEPARENT))
            assert headers[b"x-aios-arm"] == b"canary"
            began_s = time.perf_counter()
            tracer.close()
            assert time.perf_counter() - began_s < 3.0
    assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) < 20
