"""HTTP to the runtime: what is repeated, under which operation id, and which errors come back."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from aios.errors import (
    ClusterUnavailable,
    ContractViolation,
    IllegalTransition,
    ModelFailed,
    Overloaded,
    PermanentError,
    UsageError,
)
from aios.runtime.transport import Transport

HANG_UP = (0, b"")


class Ingress(ThreadingHTTPServer):
    """Gives the scripted answers in turn, the last one again and again, and keeps what came."""

    daemon_threads = True

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.answers = list(answers)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        ingress = self.server
        assert isinstance(ingress, Ingress)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        ingress.seen.append((self.command, self.path, headers, body))
        status, content = ingress.answers[0]
        if len(ingress.answers) > 1:
            ingress.answers.pop(0)
        if status == 0:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Ingress]]:
    """Start an ingress with these answers."""
    started: list[tuple[Ingress, threading.Thread]] = []

    def start(*answers: tuple[int, bytes]) -> Ingress:
        ingress = Ingress(*answers)
        thread = threading.Thread(target=ingress.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((ingress, thread))
        return ingress

    yield start
    for ingress, thread in started:
        ingress.shutdown()
        thread.join()
        ingress.server_close()


def good(body: Any) -> tuple[int, bytes]:
    return 200, json.dumps(body).encode()


def problem(status: int, error: Exception) -> tuple[int, bytes]:
    return status, json.dumps(error.to_problem()).encode()  # type: ignore[attr-defined]


def asked(ingress: Ingress) -> Transport:
    return Transport(ingress.address, "aios_k", patience_s=5)


def test_a_question_carries_the_key_and_only_what_was_given(serve: Any) -> None:
    ingress = serve(good([1]))
    assert asked(ingress).get("/api/v1/audit", limit=3, subject=None) == [1]
    ((method, path, headers, _),) = ingress.seen
    assert (method, path) == ("GET", "/api/v1/audit?limit=3")
    assert headers["authorization"] == "Bearer aios_k"


def test_a_change_is_repeated_under_one_operation_id(serve: Any) -> None:
    """The first connection breaks after the request was read: it may have been carried out."""
    starting = problem(503, Overloaded("starting", retry_after_s=1))
    ingress = serve(HANG_UP, starting, (500, b"Internal"), good({"ok": 1}))
    assert asked(ingress).change("POST", "/api/v1/x", {"reason": "é"}) == {"ok": 1}
    assert len(ingress.seen) == 4
    assert len({headers["idempotency-key"] for _, _, headers, _ in ingress.seen}) == 1
    assert {json.loads(body)["reason"] for *_, body in ingress.seen} == {"é"}


def test_two_changes_have_two_operation_ids(serve: Any) -> None:
    ingress = serve(good({}))
    transport = asked(ingress)
    transport.change("POST", "/x", {})
    transport.change("PUT", "/x", content=b"\x00tar")
    first, second = ingress.seen
    assert first[2]["idempotency-key"] != second[2]["idempotency-key"]
    assert second[3] == b"\x00tar"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ContractViolation("row 0", violations=[{"row": 0, "field": "a"}])),
        (409, IllegalTransition("a rollout runs")),
        (500, ModelFailed("it raised")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_problem_becomes_the_error_that_it_was_and_is_not_repeated(
    serve: Any, status: int, error: Any
) -> None:
    ingress = serve(problem(status, error))
    with pytest.raises(type(error)) as caught:
        asked(ingress).change("POST", "/x")
    assert (caught.value.message, caught.value.details) == (error.message, error.details)
    assert len(ingress.seen) == 1


def test_a_problem_of_a_newer_runtime_is_a_permanent_error(serve: Any) -> None:
    ingress = serve((418, b'{"code": "Teapot", "detail": "short and stout"}'))
    with pytest.raises(PermanentError, match="short and stout"):
        asked(ingress).get("/x")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("body", [b"Internal Server Error", b"", b"<html>", b'{"a": 1}', b"\xff"])
def test_an_answer_of_the_ingress_itself_means_that_the_cluster_is_away(
    serve: Any, status: int, body: bytes
) -> None:
    ingress = serve((status, body))
    with pytest.raises(ClusterUnavailable, match=str(status)):
        Transport(ingress.address, None, patience_s=0).get("/x")
    with pytest.raises(ClusterUnavailable, match=str(status)):
        Transport(ingress.address, None).predict("loan", [], {})


def test_something_else_on_that_port_is_named(serve: Any) -> None:
    ingress = serve((200, b"<html>It works!"))
    with pytest.raises(ClusterUnavailable, match="It works!"):
        asked(ingress).get("/x")


def test_a_control_call_gives_up_when_its_patience_ends(serve: Any) -> None:
    ingress = serve(problem(503, Overloaded("full")))
    with pytest.raises(Overloaded, match="full"):
        Transport(ingress.address, None, patience_s=0).get("/x")
    with pytest.raises(ClusterUnavailable, match=r"no answer from http://127\.0\.0\.1:1: "):
        Transport("http://127.0.0.1:1", None, patience_s=0).get("/x")


ANSWER = {"outputs": [{"p": 0.5}], "version": 1}


@pytest.mark.parametrize("first", [HANG_UP, (500, b"Internal Server Error"), (503, b"")])
def test_a_prediction_that_was_lost_is_asked_for_once_more(
    serve: Any, first: tuple[int, bytes]
) -> None:
    ingress = serve(first, good(ANSWER))
    answer, latency_s = asked(ingress).predict("loan", [{"a": 1}], {"x-aios-key": "k"})
    assert answer == ANSWER
    assert latency_s > 0
    assert [path for _, path, _, _ in ingress.seen] == ["/v2/models/loan/predict"] * 2
    assert {headers["x-aios-key"] for _, _, headers, _ in ingress.seen} == {"k"}


def test_a_prediction_is_not_asked_for_a_third_time(serve: Any) -> None:
    ingress = serve(HANG_UP)
    with pytest.raises(ClusterUnavailable, match="aios status"):
        asked(ingress).predict("loan", [{"a": 1}], {})
    assert len(ingress.seen) == 2


@pytest.mark.parametrize("error", [Overloaded("full"), ContractViolation("row 0")])
def test_a_prediction_that_was_refused_is_not_repeated(serve: Any, error: Any) -> None:
    ingress = serve(problem(503, error))
    with pytest.raises(type(error)):
        asked(ingress).predict("loan", [{"a": 1}], {})
    assert len(ingress.seen) == 1


def test_numbers_of_numpy_travel_and_nan_is_null(serve: Any) -> None:
    ingress = serve(good(ANSWER))
    record = {"a": np.float32(0.5), "b": np.int64(3), "c": float("nan"), "d": np.array([1, 2])}
    asked(ingress).predict("loan", [record], {})
    assert json.loads(ingress.seen[0][3]) == {
        "records": [{"a": 0.5, "b": 3, "c": None, "d": [1, 2]}]
    }


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", 2**70, "\ud800"])
def test_a_value_that_json_does_not_have_is_refused_before_it_is_sent(
    serve: Any, value: Any
) -> None:
    ingress = serve(good(ANSWER))
    with pytest.raises(UsageError, match="cannot be sent as JSON"):
        asked(ingress).predict("loan", [{"a": value}], {})
    assert ingress.seen == []


def test_ready_asks_for_health_and_never_raises(serve: Any) -> None:
    ingress = serve((503, b""), good({"ready": True}))
    transport = asked(ingress)
    assert [transport.ready(), transport.ready()] == [False, True]
    assert ingress.seen[0][1] == "/v2/health/ready"
    assert not Transport("http://127.0.0.1:1", None).ready()


def test_a_plain_text_answer_comes_as_it_is(serve: Any) -> None:
    ingress = serve((503, b""), (200, b"# HELP x\nx 1\n"))
    assert asked(ingress).text("/metrics") == "# HELP x\nx 1\n"


def test_a_closed_connection_says_so(serve: Any) -> None:
    transport = asked(serve(good({})))
    transport.close()
    for call in (lambda: transport.get("/x"), lambda: transport.predict("loan", [], {})):
        with pytest.raises(UsageError, match="was closed"):
            call()


@pytest.mark.parametrize("key", ["two words", "é", "line\n", "\x00"])
def test_a_key_that_cannot_be_one_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(UsageError) as refused:
        Transport("http://127.0.0.1:1", key)
    assert key not in refused.value.message
