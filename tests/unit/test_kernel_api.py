"""The control API without Ray: a fake kernel behind the real ASGI application."""

import hashlib
import re

import orjson
import pytest
from api_fakes import Client, is_problem

from aios.errors import (
    ClusterUnavailable,
    IllegalTransition,
    StoreUnavailable,
    UnknownEndpoint,
    UsageError,
)
from aios.kernel import front, model_routes
from aios.kernel.api import build_api, caller_of
from aios.security import Caller

KEY = "aios_test_" + "k" * 43
ADA = Caller("ada", "admin")
KEYS = {hashlib.sha256(KEY.encode()).hexdigest(): ADA}
CHANGES = [
    ("POST", "/api/v1/models/toy/versions", {"artifact": {}, "contract": {}}, "register"),
    ("PUT", "/api/v1/endpoints/toy", {"version": "toy:1"}, "deploy"),
    ("DELETE", "/api/v1/endpoints/toy", None, "remove"),
    ("POST", "/api/v1/endpoints/toy/feedback", {"answers": []}, "feedback"),
    ("POST", "/api/v1/endpoints/toy/rollback", {"reason": "r"}, "rollback"),
    ("POST", "/api/v1/endpoints/toy/measure", None, "measure"),
    (
        "POST",
        "/api/v1/endpoints/toy/rollouts",
        {"version": "toy:2", "plan": {"kind": "canary"}},
        "start_rollout",
    ),
    ("POST", "/api/v1/rollouts/r1/promote", {"reason": ""}, "command_rollout"),
    ("POST", "/api/v1/rollouts/r1/abort", {}, "command_rollout"),
    ("POST", "/api/v1/keys", {"identity": "bob", "role": "viewer"}, "add_key"),
    ("DELETE", "/api/v1/keys/bob-1", None, "revoke_key"),
    ("POST", "/api/v1/log/keys", None, "rotate_log_key"),
    ("DELETE", "/api/v1/log/keys/0a1b2c3d", None, "retire_log_key"),
    ("POST", "/api/v1/endpoints/toy/log/compact", None, "compact_log"),
]
QUERIES = [
    ("/api/v1/models", "models"),
    ("/api/v1/models/toy:1", "model"),
    ("/api/v1/endpoints", "endpoints"),
    ("/api/v1/endpoints/toy", "endpoint"),
    ("/api/v1/endpoints/toy/series", "series"),
    ("/api/v1/endpoints/toy/plans", "plans"),
    ("/api/v1/rollouts", "rollouts"),
    ("/api/v1/rollouts/r1", "rollout"),
    ("/api/v1/rollouts/r1/evidence", "evidence"),
    ("/api/v1/status", "status"),
    ("/api/v1/ps", "ps"),
    ("/api/v1/audit", "audit"),
    ("/api/v1/keys", "keys"),
    ("/api/v1/log", "log"),
]


class Kernel:
    """Remembers what it was asked; `answers` gives results or errors by command."""

    def __init__(self, **answers):
        self.calls = []
        self.answers = answers
        self.artifacts = []

    async def execute(self, command, arguments, caller, operation_id):
        self.calls.append((command, arguments, caller, operation_id))
        answer = self.answers.get(command, {})
        if isinstance(answer, Exception):
            raise answer
        return answer

    def app(self, identify):
        return build_api(
            self.execute,
            identify,
            lambda body, digest: self.artifacts.append((body, digest)),
            lambda body, digest: self.artifacts.append((body, digest)) or f"file:///{digest}",
        )

    def client(self, key=KEY):
        return Client(self.app(lambda header: caller_of(KEYS, header)), key)


def routes():
    """Every route below /api/v1, with path parameters filled in."""
    app = Kernel().app(lambda header: None)
    for path, methods in app.openapi()["paths"].items():
        if path.startswith(("/api/v1", "/metrics")):
            for method in methods:
                yield method.upper(), re.sub(r"\{\w+\}", "x", path)


@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x", f"{KEY}, Bearer {KEY}", "é"])
def test_no_route_below_api_answers_without_a_valid_key(key):
    kernel = Kernel()
    found = list(routes())
    assert len(found) > 20
    client = kernel.client(None)
    for method, path in found:
        raw = {"authorization": f"Bearer {key}".encode("latin-1")} if key is not None else {}
        answer = client(method, path, headers=raw, content=b"{not json")
        is_problem(answer, 401, "Unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert kernel.calls == []
    assert kernel.artifacts == []


@pytest.mark.parametrize(("method", "path", "body", "command"), CHANGES)
def test_a_change_reaches_the_kernel_with_actor_and_operation_id(method, path, body, command):
    kernel = Kernel()
    content = {} if body is None else {"json": body}
    answer = kernel.client()(method, path, headers={"idempotency-key": "op-7"}, **content)
    assert answer.status_code in (200, 201)
    ((told, arguments, caller, operation_id),) = kernel.calls
    assert (told, caller, operation_id) == (command, ADA, "op-7")
    assert isinstance(arguments, dict)


@pytest.mark.parametrize(("path", "command"), QUERIES)
def test_a_query_reaches_the_kernel(path, command):
    kernel = Kernel(**{command: {"found": 1}})
    answer = kernel.client()("GET", path)
    assert (answer.status_code, answer.json()) == (200, {"found": 1})
    assert kernel.calls[0][0] == command


def test_a_path_never_overrules_the_body_and_the_body_never_the_path():
    kernel = Kernel()
    body = {"version": "toy:1", "spec": {"name": "other", "deadline_s": 1}}
    kernel.client()("PUT", "/api/v1/endpoints/toy", json=body)
    assert kernel.calls[0][1]["spec"] == {"name": "toy", "deadline_s": 1}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UsageError("x"), 400, "UsageError"),
        (UnknownEndpoint("x"), 404, "UnknownEndpoint"),
        (IllegalTransition("x"), 409, "IllegalTransition"),
        (StoreUnavailable("the disk is full"), 503, "StoreUnavailable"),
        (ClusterUnavailable("x"), 503, "ClusterUnavailable"),
        (RuntimeError("secret /srv"), 500, "InternalError"),
    ],
)
def test_what_the_kernel_raises_becomes_a_problem(error, status, code):
    answer = Kernel(endpoint=error).client()(
        "GET", "/api/v1/endpoints/toy", headers={"x-request-id": "r1"}
    )
    body = is_problem(answer, status, code)
    assert body["request_id"] == "r1"
    assert ("retry-after" in answer.headers) == (status == 503)
    assert "secret" not in answer.text


def test_an_unknown_path_is_404_and_a_wrong_method_405():
    client = Kernel().client()
    is_problem(client("GET", "/api/v1/nothing"), 404, "UnknownName")
    is_problem(client("GET", "/"), 404, "UnknownName")
    is_problem(client("GET", "/api/v1/models/", headers={"host": "evil"}), 404, "UnknownName")
    is_problem(client("GET", "/nothing", headers={"host": "["}), 404, "UnknownName")
    answer = client("PATCH", "/api/v1/endpoints/toy")
    is_problem(answer, 405, "NotAllowed")
    assert answer.headers["allow"] == "DELETE, GET, PUT"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'"text"', 400),
        (b"{}", 400),
        (b"[" * 20_000, 400),
        (b'{"version": 7}', 400),
        (b'{"version": "toy:1", "unknown": 1}', 400),
        (b'{"version": "toy:1", "spec": {"deadline_s": NaN}}', 400),
        (b'{"version": "toy:1", "spec": {"deadline_s": ' + b"9" * 5000 + b"}}", 400),
        (b'{"version": "\\ud800"}', 400),
        (b'{"version": "a\\u0000b"}', 400),
        (b"\xff\xfe{", 400),
    ],
)
def test_a_bad_body_is_the_callers_fault_and_never_reaches_the_kernel(content, status):
    kernel = Kernel()
    answer = kernel.client()(
        "PUT",
        "/api/v1/endpoints/toy",
        content=content,
        headers={"content-type": "application/json"},
    )
    is_problem(answer, status, "Malformed")
    assert kernel.calls == []
    assert len(answer.content) < 2000


def test_a_backslash_before_u0000_is_only_text():
    kernel = Kernel()
    body = rb'{"reason": "a\\u0000"}'
    headers = {"content-type": "application/json"}
    path = "/api/v1/endpoints/toy/rollback"
    assert kernel.client()("POST", path, content=body, headers=headers).status_code == 200
    assert kernel.calls[0][1]["reason"] == "a\\u0000"


def test_another_content_type_is_415():
    answer = Kernel().client()(
        "PUT", "/api/v1/endpoints/toy", content=b"{}", headers={"content-type": "text/plain"}
    )
    is_problem(answer, 415, "Unsupported")


async def streamed(sizes):
    for size in sizes:
        yield b" " * size


def test_a_body_over_the_limit_is_413_by_its_length_and_by_what_comes(monkeypatch):
    monkeypatch.setattr(front, "MAX_BODY_BYTES", 1000)
    kernel = Kernel()
    head = {"content-type": "application/json"}
    by_length = kernel.client()("PUT", "/api/v1/endpoints/t", content=b" " * 1001, headers=head)
    is_problem(by_length, 413, "PayloadTooLarge")
    by_stream = kernel.client()(
        "PUT", "/api/v1/endpoints/t", content=streamed([300] * 10), headers=head
    )
    is_problem(by_stream, 413, "PayloadTooLarge")
    lying = {**head, "content-length": "10"}
    by_lie = kernel.client()(
        "PUT", "/api/v1/endpoints/t", content=streamed([300] * 10), headers=lying
    )
    is_problem(by_lie, 413, "PayloadTooLarge")
    assert kernel.calls == []


def test_an_artifact_is_stored_and_bounded(monkeypatch):
    kernel = Kernel()
    answer = kernel.client()("PUT", "/api/v1/artifacts/abc", content=b"tar bytes")
    assert (answer.status_code, answer.json()) == (201, {"digest": "abc"})
    assert kernel.artifacts == [(b"tar bytes", "abc")]
    monkeypatch.setattr(model_routes, "MAX_ARTIFACT_BYTES", 1000)
    answer = kernel.client()("PUT", "/api/v1/artifacts/abc", content=streamed([600, 600]))
    is_problem(answer, 413, "PayloadTooLarge")


def test_a_data_set_is_stored_if_it_is_what_its_address_says():
    kernel = Kernel()
    content = b"PAR1" + b" " * 5 * 2**20
    path = f"/api/v1/data/{hashlib.sha256(content).hexdigest()}"
    answer = kernel.client()("PUT", path, content=content)
    assert (answer.status_code, answer.json()["location"][:8]) == (201, "file:///")
    assert kernel.artifacts[0][0] == content
    is_problem(kernel.client()("PUT", path, content=content + b" "), 400, "Malformed")


@pytest.mark.parametrize("value", ["", "x" * 257, "é", "a\tb"])
def test_an_odd_idempotency_key_is_refused(value):
    kernel = Kernel()
    answer = kernel.client()(
        "POST",
        "/api/v1/endpoints/toy/rollback",
        json={},
        headers={"idempotency-key": value.encode("latin-1")},
    )
    is_problem(answer, 400, "Malformed")
    assert kernel.calls == []


@pytest.mark.parametrize(
    "path", ["/api/v1/models/a%00b", "/api/v1/audit?subject=%00", "/v2/models/%00"]
)
def test_a_nul_in_the_address_is_refused(path):
    is_problem(Kernel().client()("GET", path), 400, "Malformed")


@pytest.mark.parametrize("limit", ["0", "-1", "10001", "9" * 40, "x", "1e3", "NaN"])
def test_audit_limits_are_checked(limit):
    answer = Kernel().client()("GET", f"/api/v1/audit?limit={limit}")
    is_problem(answer, 400, "Malformed")
    assert answer.json()["detail"].startswith("limit: Input should be ")


def test_a_validation_fault_of_a_long_name_is_told_shortly():
    answer = Kernel().client()(
        "PUT", "/api/v1/endpoints/toy", json={"version": "toy:1", "x" * 100_000: 1}
    )
    is_problem(answer, 400, "Malformed")
    assert len(answer.content) < 1000


# -- the protocol's own routes --------------------------------------------------------


def test_server_metadata_and_health_need_no_key():
    client = Kernel(models=[]).client(None)
    assert client("GET", "/v2").json()["name"] == "aios"
    assert client("GET", "/v2/health/live").json() == {"live": True}
    assert client("GET", "/v2/health/ready").json() == {"ready": True}


def test_it_is_not_ready_while_the_kernel_is_away():
    answer = Kernel(models=ClusterUnavailable("restarting")).client(None)("GET", "/v2/health/ready")
    is_problem(answer, 503, "Overloaded")
    assert answer.headers["retry-after"] == "1"


def test_an_unknown_endpoint_is_404_and_names_those_deployed():
    client = Kernel(endpoints=[{"name": "loan"}, {"name": "churn"}]).client(None)
    for method, path in [("GET", ""), ("POST", "/infer"), ("GET", "/versions/1/ready")]:
        answer = client(
            method,
            f"/v2/models/frod{path}",
            content=b"\x00" * 50,
            headers={"content-type": "application/octet-stream"},
        )
        body = is_problem(answer, 404, "UnknownEndpoint")
        assert "loan, churn" in body["detail"]


def test_a_deployed_endpoint_that_does_not_answer_yet_is_503():
    client = Kernel(endpoints=[{"name": "loan"}]).client(None)
    is_problem(client("POST", "/v2/models/loan/infer"), 503, "Overloaded")


@pytest.mark.parametrize("path", ["/v2/models/loan%2Finfer", "/v2/models/%6coan/infer"])
def test_an_oddly_written_path_of_a_deployed_endpoint_is_404(path):
    client = Kernel(endpoints=[{"name": "loan"}]).client(None)
    assert client("POST", path).status_code == 404


def test_metrics_need_a_key_and_come_as_text():
    kernel = Kernel(metrics="aios_up 1\n")
    assert kernel.client(None)("GET", "/metrics").status_code == 401
    answer = kernel.client()("GET", "/metrics")
    assert answer.text.startswith("aios_up 1\n")
    assert answer.headers["content-type"].startswith("text/plain")


def test_results_that_json_has_no_word_for_do_not_break_the_answer():
    answer = Kernel(status={"at": float("inf")}).client()("GET", "/api/v1/status")
    assert answer.status_code == 200
    assert orjson.loads(answer.content) == {"at": None}
