"""Seeded bad requests for the HTTP surface, and a raw client that can send them."""

import copy
import http.client
import json
import random
import socket
from dataclasses import dataclass

import orjson

DATATYPES = ["BOOL", "INT8", "UINT64", "FP16", "FP32", "FP64", "BYTES", "fp64", "", "OBJECT", 7]
TEXTS = [
    "",
    "a",
    "x" * 10_000,
    "../../etc/passwd",
    "%2e%2e%2f",
    "\u202eloan",
    "l\u043ean",
    "SERVE_CONTROLLER_ACTOR",
    "'; DROP TABLE models; --",
    "{{7*7}}",
    "toy--v2",
    "\u0000",
]
VALUES = [
    0,
    -1,
    1.5,
    10**30,
    -(10**400),
    1e308,
    2**63,
    True,
    None,
    [],
    {},
    [[1]],
    {"a": {"a": 1}},
    *TEXTS,
]
RAW_BODIES = [
    b"",
    b"{",
    b"\x00",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b"[" * 5_000,
    b'{"a":' * 3_000,
    b"NaN",
    b'{"a": NaN}',
    b'{"a": Infinity, "id": 1}',
    b'{"a": 1e400}',
    b'{"a": ' + b"9" * 6_000 + b"}",
    b'{"a": 1, "a": 2}',
    b'{"a": "\\ud800"}',
    b'{"id": "\\u0000", "a": 1}',
    b"\x80" * 500,
    b"%PDF-1.7",
    b"a=1&b=2",
    b"null",
    b"7",
    b'"text"',
]
ODD_TYPES = [
    "application/octet-stream",
    "text/plain",
    "multipart/form-data; boundary=x",
    "application/json; charset=utf-16",
    "",
    "\xe9",
]
HEADERS = [
    ("x-request-timeout-seconds", ["0", "-1", "nan", "1e9", "x", ""]),
    ("x-request-disconnect-disabled", ["?1", "?0", "yes"]),
    ("serve_multiplexed_model_id", ["../x", "m" * 5000, ""]),
    ("x-session-id", ["s" * 300]),
    ("x-serve-router-x", ["1"]),
    ("x-request-id", ["a" * 5000, "\xe9", "id\tid", ""]),
    ("x-aios-key", ["k" * 5000, "\xff", ""]),
    ("traceparent", ["00-0-0-00", "x" * 3000, "ff-" + "a" * 32 + "-" + "b" * 16 + "-01"]),
    ("inference-header-content-length", ["0", "-1", "5", "999999", "x", "1e3", "9" * 50]),
    ("content-encoding", ["gzip", "br", "identity", "x"]),
    ("accept-encoding", ["gzip;q=nan"]),
    ("expect", ["100-continue"]),
    ("idempotency-key", ["", "k" * 300, "\xe9", "ok"]),
    ("host", ["[", "evil.example", "", "a b"]),
    ("range", ["bytes=0-,0-,0-"]),
    ("cookie", ["a" * 4000]),
]
ENDPOINT_PATHS = [
    "/predict",
    "/infer",
    "/versions/1/infer",
    "/versions/999/infer",
    "/versions/-1/infer",
    "/versions/1e9/infer",
    "/versions/" + "9" * 400 + "/infer",
    "/versions//infer",
    "/versions/1",
    "/ready",
    "",
    "/",
    "/../toy/predict",
    "/%2e%2e/x",
    "%2Fpredict",
    "/predict%00",
    "/predict?x=%ff",
    "//predict",
    "/predict/..",
]
API_CALLS = [
    ("GET", "/api/v1/models"),
    ("GET", "/api/v1/models?name={x}"),
    ("GET", "/api/v1/models/{x}"),
    ("POST", "/api/v1/models/{x}/versions"),
    ("POST", "/api/v1/models/fuzzed/versions"),
    ("GET", "/api/v1/endpoints"),
    ("GET", "/api/v1/endpoints/{x}"),
    ("PUT", "/api/v1/endpoints/{x}"),
    ("PUT", "/api/v1/endpoints/fuzzed"),
    ("DELETE", "/api/v1/endpoints/{x}"),
    ("GET", "/api/v1/endpoints/{x}/series"),
    ("GET", "/api/v1/endpoints/{x}/plans"),
    ("POST", "/api/v1/endpoints/{x}/feedback"),
    ("POST", "/api/v1/endpoints/{e}/feedback"),
    ("POST", "/api/v1/endpoints/{x}/rollback"),
    ("POST", "/api/v1/endpoints/{e}/rollback"),
    ("POST", "/api/v1/endpoints/{x}/rollouts"),
    ("POST", "/api/v1/endpoints/{e}/rollouts"),
    ("GET", "/api/v1/rollouts"),
    ("GET", "/api/v1/rollouts?endpoint={x}"),
    ("GET", "/api/v1/rollouts/{x}"),
    ("GET", "/api/v1/rollouts/{x}/evidence"),
    ("POST", "/api/v1/rollouts/{x}/promote"),
    ("POST", "/api/v1/rollouts/{x}/abort"),
    ("GET", "/api/v1/audit?limit={x}"),
    ("GET", "/api/v1/audit?subject={x}"),
    ("PUT", "/api/v1/artifacts/{x}"),
    ("GET", "/api/v1/status"),
    ("GET", "/api/v1/ps"),
    ("GET", "/metrics"),
    ("GET", "/v2/models/{x}"),
    ("POST", "/v2/models/{x}/infer"),
    ("GET", "/v2/models/{x}/versions/{x}/ready"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/{x}"),
    ("GET", "/{x}"),
    ("POST", "/api/{x}"),
    ("GET", "/-/routes{x}"),
    ("GET", "/..%2f..%2fetc/passwd"),
]
SEGMENTS = [
    "x",
    "a" * 3_000,
    "..",
    "%2e%2e",
    "%2e%2e%252f",
    "%00",
    "%ff",
    "%",
    "%zz",
    "nope:1",
    "nope@stable",
    "nope:-1",
    "nope:99999999999999999999",
    ":",
    "@",
    "a%20b",
    "%E2%80%AE",
    "'%22;--",
    "{{7*7}}",
    "-1",
    "0",
    "1e9",
    "99999999999999999999",
    "SERVE_CONTROLLER_ACTOR",
    "aios--api",
    "toy--v2",
]


@dataclass(frozen=True)
class Case:
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


class Generator:
    """Bad requests, the same for the same seed.

    Args:
        endpoint: a deployed endpoint with the toy contract.
    """

    def __init__(self, seed: int, endpoint: str, key: str) -> None:
        self._random = random.Random(seed)
        self._endpoint = endpoint
        self._key = key

    def case(self) -> Case:
        if self._random.random() < 0.5:
            method = self._method(["POST"] * 25 + ["GET", "PUT", "HEAD", "DELETE", "OPTIONS"])
            path = self._random.choice(ENDPOINT_PATHS[:3] * 5 + ENDPOINT_PATHS)
            target = f"/v2/models/{self._endpoint}{path}"
            body = self._random.choice([self._records, self._tensors, self._raw])()
        else:
            usual, target = self._random.choice(API_CALLS)
            method = self._method([usual] * 20 + ["GET", "PUT", "PATCH", "HEAD"])
            target = target.replace("{e}", self._endpoint)
            while "{x}" in target:
                target = target.replace("{x}", self._random.choice(SEGMENTS), 1)
            body = self._random.choice([self._command, self._command, self._raw])()
        return Case(method, target, self._headers(), b"" if method == "GET" else body)

    def _method(self, usual: list[str]) -> str:
        return "BREW" if self._random.random() < 0.02 else self._random.choice(usual)

    def _headers(self) -> list[tuple[str, str]]:
        pick = self._random
        kind = pick.choice(ODD_TYPES) if pick.random() < 0.1 else "application/json"
        found = [("content-type", kind)]
        if pick.random() < 0.9:
            found.append(("authorization", f"Bearer {self._key}"))
        else:
            scheme = ["", "Bearer", "Bearer x", f"Basic {self._key}", "Bearer " + "k" * 5000]
            found.append(("authorization", pick.choice(scheme)))
        for name, values in pick.sample(HEADERS, pick.choice([0, 0, 1, 2])):
            found.append((name, pick.choice(values)))
        return found

    def _value(self) -> object:
        return copy.deepcopy(self._random.choice(VALUES))

    def _raw(self) -> bytes:
        body = bytearray(self._random.choice(RAW_BODIES))
        for _ in range(self._random.choice([0, 0, 1, 5])):
            if body:
                body[self._random.randrange(len(body))] = self._random.randrange(256)
        return bytes(body)

    def _records(self) -> bytes:
        pick = self._random
        record = {"a": 1.0, "b": None, "id": "x"}
        for _ in range(pick.choice([1, 1, 2])):
            name = pick.choice(["a", "b", "id", "A", "", "__class__", *TEXTS])
            if pick.random() < 0.2:
                record.pop(name, None)
            else:
                record[name] = self._value()
        rows = pick.choice([0, 1, 2, 70])
        body = pick.choice(
            [record, [record] * rows, {"records": [record] * rows}, {"records": record}]
        )
        return _dump(body)

    def _tensors(self) -> bytes:
        pick = self._random
        tensors = []
        for name in pick.choice([["a"], ["a", "b"], ["a", "id"], ["input-0"], ["a", "a"], ["z"]]):
            tensor = {
                "name": name,
                "shape": pick.choice(
                    [[1], [1, 1], [2], [], [0], [-1], [10**9], [1] * 40, "1", [1.5], [True], [1, 2]]
                ),
                "datatype": pick.choice(["FP64"] * 4 + DATATYPES),
            }
            if pick.random() < 0.3:
                size = pick.choice([0, 8, 16, -8, 10**12, "8", 1.5])
                tensor["parameters"] = {"binary_data_size": size}
            else:
                tensor["data"] = pick.choice([[1.0], [1, 2], [[1]], [None], ["x"], [], 7, [10**30]])
            if pick.random() < 0.1:
                tensor[pick.choice(["extra", "data", "name"])] = self._value()
            tensors.append(tensor)
        body = {"inputs": tensors}
        if pick.random() < 0.3:
            member = pick.choice(["id", "outputs", "parameters", "x"])
            wanted = [{"name": "p", "parameters": {"binary_data": 1}}]
            body[member] = pick.choice([self._value(), wanted])
        return _dump(body) + pick.choice([b"", b"", b"\x00" * 8, b"\xff" * 13])

    def _command(self) -> bytes:
        pick = self._random
        number = {"name": "a", "type": "number"}
        body = pick.choice(
            [
                {"version": "nope:1", "spec": {"deadline_s": 1.0, "max_rows": 5, "fallback": []}},
                {"version": "fuzzed:1", "spec": {"replicas": {"min_replicas": 0}}},
                {
                    "artifact": {"digest": "x" * 64, "engine": "onnx", "size_bytes": 1},
                    "contract": {"version": 1, "inputs": [number], "outputs": [number]},
                    "metrics": {"auc": 0.5},
                    "tags": {"t": "u"},
                },
                {
                    "version": f"{self._endpoint}:1",
                    "plan": {"kind": "canary", "steps": [0.5, 1.0], "bake_s": 1.0},
                },
                {"version": "nope:2", "plan": {"kind": "shadow", "for_s": 1}},
                {"reason": "because"},
                {"answers": [{"request_id": "r", "arm": "stable", "kpi": 1.0}]},
            ]
        )
        for _ in range(pick.choice([0, 1, 2])):
            inner = [value for value in body.values() if isinstance(value, dict)]
            answers = body.get("answers")
            if isinstance(answers, list) and answers and isinstance(answers[0], dict):
                inner.append(answers[0])
            holder = pick.choice([body, *inner, *inner])
            holder[pick.choice([*holder, "x", ""])] = self._value()
        return _dump(body)


def _dump(body: object) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(body).encode()


class RawClient:
    """Sends requests byte for byte over one connection, which it renews when it is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def send(self, case: Case) -> tuple[int, dict[str, str], bytes]:
        try:
            return self._send(case)
        except (http.client.BadStatusLine, ConnectionError):
            # The server had closed the idle connection: nothing was answered yet.
            self.close()
            return self._send(case)

    def _send(self, case: Case) -> tuple[int, dict[str, str], bytes]:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=20)
        headers = dict(case.headers)
        headers.setdefault("host", "127.0.0.1")
        headers.setdefault("content-length", str(len(case.body)))
        lines = [f"{case.method} {case.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + case.body)
        answer = http.client.HTTPResponse(self._socket, method=case.method)
        answer.begin()
        try:
            body = answer.read()
        except http.client.IncompleteRead:
            # We sent a body without waiting for the 100 that we asked for; the server answered
            # early and closed, and what was unread of ours cut its answer short.
            if "expect" not in headers:
                raise
            body = b""
        if answer.will_close:
            self.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, body

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
