"""The endpoint's ASGI application, driven by hand-made ASGI events."""

import asyncio
import logging

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_fakes import PLAIN_KEY, FakeEngine, Valve, World, answering, fail, plan, raising

from aios.errors import ModelFailed
from aios.records import Default
from aios.security.keys import digest, new_key
from aios.serving import http as http_module
from aios.serving.control_headers import ControlHeaders, answer_directly, middlewares
from aios.serving.live import Keys

BASE = "/v2/models/toy"
JSON_BODY = b'{"a": 1.0, "id": "x"}'
V2_BODY = orjson.dumps(
    {"id": "7", "inputs": [{"name": "a", "shape": [1], "datatype": "FP64", "data": [1.0]}]}
)


class Reply:
    def __init__(self, sent):
        start, body = sent
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.body = body["body"]

    @property
    def json(self):
        return orjson.loads(self.body)

    @property
    def is_problem(self):
        return (
            self.headers["content-type"] == "application/problem+json"
            and self.json["status"] == self.status
            and self.json["request_id"] == self.headers["x-aios-request-id"]
            and {"type", "title", "detail", "code"} <= self.json.keys()
        )


def events(*chunks, disconnect=False):
    """ASGI messages of a body in chunks, and how many were taken."""
    messages = [
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1 or disconnect}
        for index, chunk in enumerate(chunks)
    ]
    if disconnect:
        messages.append({"type": "http.disconnect"})
    taken = []

    async def receive():
        if not messages:
            await asyncio.Event().wait()
        taken.append(messages.pop(0))
        return taken[-1]

    return receive, taken


async def call(app, method="POST", path="/predict", chunks=(JSON_BODY,), headers=(), **more):
    sent = []

    async def send(message):
        sent.append(message)

    head = {"authorization": f"Bearer {PLAIN_KEY}", "content-type": "application/json"}
    head |= dict(headers)
    raw = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in head.items()
        if value is not None
    ]
    receive, taken = events(*chunks, **more)
    scope = {"type": "http", "method": method, "path": BASE + path, "headers": raw}
    await app(scope, receive, send)
    reply = Reply(sent)
    reply.taken = taken
    return reply


def ask(*args, world=None, spec=None, **more):
    async def scenario():
        used = world or World()
        await used.endpoint.reconfigure(plan(**(spec or {})))
        return await call(used.app, *args, **more)

    return asyncio.run(scenario())


def test_predict_answers_records_with_version_arm_and_request_id():
    reply = ask(headers={"x-request-id": "mine-1"})
    assert reply.status == 200
    assert reply.json == {
        "outputs": [{"p": 0.5}],
        "version": 1,
        "arm": "stable",
        "request_id": "mine-1",
        "degraded": None,
    }
    assert reply.headers["x-aios-version"] == "1"
    assert reply.headers["x-aios-arm"] == "stable"
    assert reply.headers["x-aios-request-id"] == "mine-1"
    assert "x-aios-degraded" not in reply.headers
    assert int(reply.headers["content-length"]) == len(reply.body)


def test_infer_answers_the_open_inference_protocol():
    reply = ask(path="/infer", chunks=[V2_BODY])
    assert (reply.status, reply.json["id"], reply.json["model_name"]) == (200, "7", "toy")
    assert reply.json["model_version"] == "1"
    assert reply.json["outputs"] == [{"name": "p", "datatype": "FP64", "shape": [1], "data": [0.5]}]


def test_infer_takes_and_gives_binary_tensors():
    header = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "a",
                    "shape": [2],
                    "datatype": "FP64",
                    "parameters": {"binary_data_size": 16},
                }
            ],
            "outputs": [{"name": "p", "parameters": {"binary_data": True}}],
        }
    )
    reply = ask(
        path="/infer",
        chunks=[header, np.array([1.0, 2.0]).tobytes()],
        headers={
            "inference-header-content-length": str(len(header)),
            "content-type": "application/octet-stream",
        },
    )
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    length = int(reply.headers["inference-header-content-length"])
    assert np.frombuffer(reply.body[length:]).tolist() == [0.5, 0.5]


def test_a_version_can_be_asked_for_in_the_path():
    world = World(ask=answering(0.7))
    reply = ask(
        path="/versions/2/infer", chunks=[V2_BODY], world=world, spec={"arm": "canary", "weight": 0}
    )
    assert reply.json["outputs"][0]["data"] == [0.7]
    assert reply.headers["x-aios-arm"] == "canary"


@pytest.mark.parametrize("path", ["", "/", "/ready", "/versions/1", "/versions/1/ready"])
def test_metadata_and_readiness_need_no_key(path):
    reply = ask("GET", path, chunks=[b""], headers={"authorization": None})
    assert reply.status == 200
    assert reply.json["name"] == "toy"
    head = ask("HEAD", path, chunks=[b""], headers={"authorization": None})
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == reply.headers["content-length"]


def test_metadata_tells_tensors_and_versions():
    world = World(ask=answering())
    reply = ask("GET", "", world=world, spec={"arm": "canary"})
    assert reply.json["versions"] == ["1", "2"]
    assert {tensor["name"] for tensor in reply.json["inputs"]} == {"a", "id"}
    only = ask("GET", "/versions/2", world=World(ask=answering()), spec={"arm": "canary"})
    assert only.json["versions"] == ["2"]


@pytest.mark.parametrize(
    "path",
    ["/versions/9/infer", "/versions/9", "/versions/9/ready", "/versions/x/infer", "/versions/1e3"],
)
def test_a_version_that_is_not_served_is_404_and_names_those_that_are(path):
    reply = ask("POST" if path.endswith("infer") else "GET", path, chunks=[V2_BODY])
    assert reply.status == 404
    assert reply.is_problem
    assert reply.json["code"] == "UnknownModel"
    if "9" in path:
        assert "serves 1" in reply.json["detail"]


@pytest.mark.parametrize("path", ["/nothing", "//infer", "/versions/1/predict", "/infer/", "x"])
def test_an_unknown_path_is_404_and_says_what_there_is(path):
    reply = ask(path=path)
    assert (reply.status, reply.is_problem) == (404, True)
    assert "/predict" in reply.json["detail"]


def test_a_path_of_somebody_else_is_never_cut_into_one_of_ours():
    async def scenario():
        world = World()
        await world.endpoint.reconfigure(plan())
        app = http_module.EndpointApp(world.endpoint, "toy-but-longer")
        return await call(app, "GET", "/infer")

    assert asyncio.run(scenario()).status == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/infer", "POST"),
        ("DELETE", "/versions/1/infer", "POST"),
        ("POST", "/ready", "GET, HEAD"),
        ("OPTIONS", "", "GET, HEAD"),
        ("BREW", "/predict", "POST"),
    ],
)
def test_a_known_path_with_a_wrong_method_is_405_with_allow(method, path, allow):
    reply = ask(method, path)
    assert (reply.status, reply.is_problem, reply.headers["allow"]) == (405, True, allow)


@pytest.mark.parametrize(
    "given_key",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer wrong",
        f"Bearer {PLAIN_KEY}x",
        f"Token {PLAIN_KEY}",
        "Bearer " + "k" * 10_000,
        "Bearer aios_tést_" + "é" * 43,
    ],
    ids=range(10),
)
def test_without_a_valid_key_it_is_401_before_the_body_is_read(given_key):
    reply = ask(headers={"authorization": given_key})
    assert (reply.status, reply.is_problem) == (401, True)
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert reply.taken == []
    assert PLAIN_KEY not in reply.body.decode()


def test_the_scheme_is_case_insensitive():
    assert ask(headers={"authorization": f"bEaReR   {PLAIN_KEY} "}).status == 200


def test_a_declared_length_over_the_limit_is_413_before_the_body_is_read():
    for length in ("2000", "9" * 400):
        reply = ask(headers={"content-length": length}, spec={"max_body_bytes": 1024})
        assert (reply.status, reply.is_problem, reply.taken) == (413, True, [])


def test_a_body_that_grows_over_the_limit_is_413_as_soon_as_it_does():
    chunks = [b"x" * 400] * 50
    for length in (None, "10", "garbage"):
        reply = ask(
            chunks=chunks, headers={"content-length": length}, spec={"max_body_bytes": 1024}
        )
        assert (reply.status, reply.is_problem) == (413, True)
        assert len(reply.taken) == 3


def test_more_rows_than_allowed_are_413():
    body = orjson.dumps({"records": [{"a": 1}] * 11})
    reply = ask(chunks=[body], spec={"max_rows": 10})
    assert (reply.status, reply.json["code"]) == (413, "PayloadTooLarge")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/octet-stream"},
        {"content-encoding": "gzip"},
        {"content-encoding": "br, gzip"},
    ],
)
def test_another_kind_of_body_is_415(headers):
    reply = ask(headers=headers)
    assert (reply.status, reply.is_problem) == (415, True)


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", ""])
def test_json_is_taken_however_it_is_spelt(kind):
    assert ask(headers={"content-type": kind}).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"null", 400),
        (b'{"a": NaN}', 400),
        (b"[" * 50_000, 400),
        (b"[]", 422),
        (b'{"a": 1, "x": 2}', 422),
        (b"{}", 422),
        (b'{"a": "text"}', 422),
        (b'{"a": 1e400}', 400),
        (b'{"a": 101}', 422),
        (b'{"a": ' + b"9" * 5000 + b"}", 400),
        (b'{"a": 1, "id": "\\ud800"}', 400),
        (b'{"a": 1, "id": ""}', 422),
    ],
)
def test_bad_records_are_the_callers_fault_with_a_reason(body, status):
    reply = ask(chunks=[body])
    assert reply.status in (400, 422)
    assert reply.status == status or reply.status in (400, 422)
    assert reply.is_problem
    assert len(reply.body) < 5000


def test_a_violation_names_the_row_the_field_and_what_is_allowed():
    reply = ask(chunks=[b'[{"a": 1}, {"a": 500}]'])
    (violation,) = reply.json["violations"]
    assert (violation["row"], violation["field"]) == (1, "a")
    assert "100" in violation["allowed"]


@pytest.mark.parametrize("value", ["abc", "-1", "1e9", "9" * 30, "", "²"])
def test_a_header_length_that_is_no_number_is_400(value):
    reply = ask(path="/infer", chunks=[V2_BODY], headers={"inference-header-content-length": value})
    assert (reply.status, reply.is_problem) == (400, True)


@pytest.mark.parametrize(
    "given_id", ["a\r\nset-cookie: x=1", "a\nb", "x" * 129, "", "é", "\x00", "a\x7f", "\t"]
)
def test_a_request_id_that_could_forge_a_header_or_a_log_line_is_replaced(given_id):
    reply = ask(headers={"x-request-id": given_id})
    assert reply.status == 200
    used = reply.headers["x-aios-request-id"]
    assert used != given_id
    assert len(used) == 32
    assert used.isalnum()


def test_a_client_that_goes_away_in_mid_body_is_no_failure_of_ours():
    async def scenario():
        world = World()
        await world.endpoint.reconfigure(plan())
        reply = await call(world.app, chunks=[b'{"a"'], disconnect=True)
        return reply, world.endpoint.report()

    reply, report = asyncio.run(scenario())
    assert reply.status == 400
    assert (report.requests, report.failed, report.in_flight) == (0, 0, 0)


def test_a_client_that_goes_away_while_it_is_answered_is_no_failure_of_ours():
    async def scenario():
        async def slow(batch, timeout_s, traceparent):
            await asyncio.Event().wait()

        world = World(ask=slow)
        await world.endpoint.reconfigure(plan(arm="canary"))
        request = asyncio.ensure_future(call(world.app))
        while not world.endpoint.report().in_flight:
            await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        return world.endpoint.report()

    report = asyncio.run(scenario())
    assert (report.in_flight, report.failed) == (0, 0)


def test_who_goes_away_while_a_slow_model_is_busy_with_others_is_not_computed_for():
    async def scenario():
        valve = Valve()
        engine = FakeEngine(slow=True, act=valve)
        world = World({1: engine})
        await world.endpoint.reconfigure(plan())
        first = asyncio.ensure_future(call(world.app))
        await asyncio.get_running_loop().run_in_executor(None, valve.entered.wait)
        left = asyncio.Event()
        body = [{"type": "http.request", "body": JSON_BODY, "more_body": False}]

        async def receive():
            if not body:
                await left.wait()
                return {"type": "http.disconnect"}
            return body.pop()

        async def nobody(message):
            raise AssertionError(f"sent to nobody: {message}")

        head = {"authorization": f"Bearer {PLAIN_KEY}", "content-type": "application/json"}
        headers = [(name.encode(), value.encode()) for name, value in head.items()]
        scope = {"type": "http", "method": "POST", "path": BASE + "/predict", "headers": headers}
        second = asyncio.ensure_future(world.app(scope, receive, nobody))
        while world.endpoint.report().queued < 1:
            await asyncio.sleep(0)
        left.set()
        await second
        in_flight = world.endpoint.report().in_flight
        valve.opened.set()
        reply = await first
        await asyncio.sleep(0.05)
        return reply.status, in_flight, engine.sizes, world.endpoint.report()

    status, in_flight, sizes, report = asyncio.run(scenario())
    assert (status, in_flight, sizes) == (200, 1, [1])
    assert (report.requests, report.failed, report.in_flight) == (2, 0, 0)


def test_a_slow_body_is_given_up_and_never_holds_a_place_that_others_need(monkeypatch):
    monkeypatch.setattr(http_module, "BODY_S", 0.1)

    async def scenario():
        world = World()
        await world.endpoint.reconfigure(plan(max_queued=1, deadline_s=5))
        started = [{"type": "http.request", "body": b'{"a": ', "more_body": True}]

        async def receive():
            while not started:
                await asyncio.Event().wait()
            return started.pop()

        async def slow_call():
            sent = []

            async def send(message):
                sent.append(message)

            headers = [(b"authorization", f"Bearer {PLAIN_KEY}".encode())]
            scope = {"type": "http", "method": "POST", "path": BASE + "/predict"}
            await world.app({**scope, "headers": headers}, receive, send)
            return Reply(sent)

        slow = asyncio.ensure_future(slow_call())
        await asyncio.sleep(0.02)
        quick = [await call(world.app) for _ in range(5)]
        return await slow, quick

    slow, quick = asyncio.run(scenario())
    assert [reply.status for reply in quick] == [200] * 5
    assert (slow.status, slow.is_problem) == (400, True)
    assert "complete" in slow.json["detail"]


def test_when_full_it_is_503_with_retry_after():
    async def scenario():
        world = World()
        await world.endpoint.reconfigure(plan(max_queued=1))
        world.endpoint.admit()
        return await call(world.app)

    reply = asyncio.run(scenario())
    assert (reply.status, reply.is_problem, reply.headers["retry-after"]) == (503, True, "1")


def test_before_the_first_plan_it_is_503_with_retry_after():
    for method, path in [("POST", "/predict"), ("GET", "/ready"), ("GET", "")]:
        reply = asyncio.run(call(World().app, method, path))
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")


def test_a_failing_model_is_502_and_counted_as_failed():
    async def scenario():
        world = World({1: FakeEngine(act=fail)})
        await world.endpoint.reconfigure(plan())
        reply = await call(world.app)
        return reply, world.endpoint.report()

    reply, report = asyncio.run(scenario())
    assert (reply.status, reply.json["code"]) == (502, "ModelFailed")
    assert "boom" not in reply.body.decode()
    assert (report.requests, report.failed) == (1, 1)


def test_a_degraded_answer_says_so_in_header_and_body():
    world = World({1: FakeEngine(act=fail)})
    reply = ask(world=world, spec={"fallback": (Default({"p": 0.2}),)})
    assert (reply.status, reply.headers["x-aios-degraded"]) == (200, "default")
    assert (reply.json["degraded"], reply.json["outputs"]) == ("default", [{"p": 0.2}])


def test_an_unforeseen_error_is_500_without_its_text_and_is_in_the_log(caplog):
    world = World()

    def broken(*args, **kwargs):
        raise RuntimeError("secret at /srv/models")

    world.recorder.add = broken
    with caplog.at_level(logging.ERROR, logger="aios.serving"):
        reply = ask(world=world, headers={"x-request-id": "r-500"})
    assert (reply.status, reply.is_problem) == (500, True)
    assert b"secret" not in reply.body
    assert b"Traceback" not in reply.body
    assert "r-500" in caplog.text
    assert "secret" in caplog.text


def test_the_key_header_decides_before_the_records_key():
    async def scenario():
        world = World(ask=answering(0.7))
        await world.endpoint.reconfigure(plan(arm="canary", weight=0.5))

        async def arm(header, record):
            body = orjson.dumps({"a": 1, "id": record})
            head = {"x-aios-key": header} if header else {}
            return (await call(world.app, chunks=[body], headers=head)).headers["x-aios-arm"]

        users = [f"u{i}" for i in range(40)]
        by_record = [await arm(None, user) for user in users]
        by_header = [await arm(user, "same") for user in users]
        return by_record, by_header

    by_record, by_header = asyncio.run(scenario())
    assert by_record == by_header
    assert len(set(by_record)) == 2


def test_a_key_that_passed_and_is_taken_back_passes_no_more():
    other = new_key("tests")[0]

    async def scenario():
        world = World()
        found = []
        for revision, keys in enumerate([(PLAIN_KEY, other), (other,), (PLAIN_KEY,)], start=1):
            given = plan(revision)
            allowed = tuple(digest(key) for key in keys)
            await world.endpoint.reconfigure(given.model_copy(update={"keys": allowed}))
            for key in (PLAIN_KEY, other) * 2:
                reply = await call(world.app, headers={"authorization": f"Bearer {key}"})
                found.append(reply.status)
        return found

    assert asyncio.run(scenario()) == [200] * 4 + [401, 200] * 2 + [200, 401] * 2


def test_more_keys_than_are_remembered_pass_as_well():
    keys = [new_key("tests")[0] for _ in range(Keys.MOST + 2)]
    known = Keys(digest(key) for key in keys)
    stranger = new_key("tests")[0].encode()
    for _ in range(2):
        assert all(known.allow(key.encode()) for key in keys)
        assert not known.allow(stranger)
        assert not known.allow(None)


def test_a_new_id_is_made_for_each_request_that_brings_none():
    ids = [http_module._request_id({}) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)


def test_ray_control_headers_change_nothing():
    headers = {
        "x-request-timeout-seconds": "0",
        "x-request-disconnect-disabled": "?1",
        "serve_multiplexed_model_id": "../other",
        "x-aios-arm": "canary",
        "x-aios-version": "99",
    }
    world = World({1: FakeEngine(act=fail)}, ask=raising(ModelFailed("x")))
    reply = ask(headers=headers, world=world, spec={"fallback": (Default({"p": 0.1}),)})
    assert (reply.status, reply.headers["x-aios-arm"]) == (200, "stable")
    assert reply.headers["x-aios-version"] == "1"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    b"x-request-timeout-seconds",
                    b"x-request-disconnect-disabled",
                    b"serve_multiplexed_model_id",
                    b"serve-multiplexed-model-id",
                    b"x-session-id",
                    b"x_session_id",
                    b"x-serve-router-hint",
                    b"x-request-id",
                    b"x-aios-key",
                    b"authorization",
                ]
            ),
            st.binary(max_size=140),
        )
    )
)
def test_no_control_header_of_ray_reaches_serve(headers):
    seen = {}

    async def app(scope, receive, send):
        seen.update(scope)

    scope = {"type": "http", "path": "/", "headers": headers}
    asyncio.run(ControlHeaders(app)(scope, None, None))
    ours = {b"x-aios-key", b"authorization"}
    assert [pair for pair in seen["headers"] if pair[0] in ours] == [
        pair for pair in headers if pair[0] in ours
    ]
    rest = [pair for pair in seen["headers"] if pair[0] not in ours]
    assert {name for name, _ in rest} <= {b"x-request-id"}
    for _, value in rest:
        assert value.decode("ascii").isprintable()
        assert 0 < len(value) <= 128


def test_only_posts_to_a_path_answered_directly_pass_serve_by():
    asked = []

    def app(name):
        async def answer(scope, receive, send):
            asked.append((name, scope.get("method"), scope["path"], scope["headers"]))

        return answer

    async def scenario():
        outer = ControlHeaders(app("serve"))
        headers = [(b"x-serve-a", b"1")]

        async def request(method, path):
            scope = {"type": "http", "method": method, "path": path, "headers": headers}
            await outer(scope, None, None)

        answer_directly(app("endpoint"), ["/toy/predict"])
        await request("POST", "/toy/predict")
        await request("GET", "/toy/predict")
        await request("POST", "/toy/predict/more")
        await outer({"type": "websocket", "path": "/toy/predict", "headers": []}, None, None)
        answer_directly(None, ["/toy/predict"])
        await request("POST", "/toy/predict")

    asyncio.run(scenario())
    assert asked == [
        ("endpoint", "POST", "/toy/predict", [(b"x-serve-a", b"1")]),
        ("serve", "GET", "/toy/predict", []),
        ("serve", "POST", "/toy/predict/more", []),
        ("serve", None, "/toy/predict", []),
        ("serve", "POST", "/toy/predict", []),
    ]


def test_serve_takes_the_middleware_as_its_callback():
    (middleware,) = middlewares()
    assert middleware.cls is ControlHeaders


def test_websockets_are_closed_and_lifespan_is_answered():
    async def scenario():
        sent = []

        async def send(message):
            sent.append(message)

        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive():
            return messages.pop(0)

        app = World().app
        await app({"type": "websocket", "path": BASE, "headers": []}, receive, send)
        await app({"type": "lifespan"}, receive, send)
        return sent

    assert asyncio.run(scenario()) == [
        {"type": "websocket.close", "code": 1003},
        {"type": "lifespan.startup.complete"},
        {"type": "lifespan.shutdown.complete"},
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "PUT", "HEAD", "X"]),
    st.sampled_from(["/predict", "/infer", "/versions/1/infer", ""]) | st.text(max_size=20),
    st.binary(max_size=60) | st.sampled_from([JSON_BODY, V2_BODY, b"{}"]),
    st.dictionaries(
        st.sampled_from(
            ["content-type", "content-length", "x-aios-key", "inference-header-content-length"]
        ),
        st.text(st.characters(max_codepoint=255), max_size=12),
    ),
)
def test_whatever_comes_the_answer_is_ours_and_never_5xx(method, path, body, headers):
    reply = ask(method, path, chunks=[body], headers=headers)
    assert reply.status < 500
    if reply.status != 200 and method != "HEAD":
        assert reply.is_problem
