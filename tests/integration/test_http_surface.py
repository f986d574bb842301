"""The whole HTTP surface through the real ingress: the official client, bad input, fuzz."""

import concurrent.futures
import re
import socket
import time
from collections import Counter
from urllib.parse import urlsplit

import httpx
import numpy as np
import orjson
import pytest

import aios
from tests.integration.surface_fuzz import Case, Generator, RawClient

MIB = 2**20
NAME = "surface"


@pytest.fixture(scope="module")
def surface(rt, toy_contract, toy_model, toy_frame):
    """An endpoint with the toy model, and its base URL."""
    version = rt.models.register(NAME, toy_model, contract=toy_contract, sample=toy_frame)
    return rt.deploy(NAME, version, deadline_s=5.0)


@pytest.fixture(scope="module")
def client(rt, surface):
    with httpx.Client(
        base_url=rt.address,
        headers={"authorization": f"Bearer {rt.key}"},
        timeout=30,
        trust_env=False,
    ) as found:
        yield found


def port_of(rt):
    return urlsplit(rt.address).port


def path(rest):
    return f"/v2/models/{NAME}{rest}"


def is_problem(answer, status, code):
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    return body


def expected(toy_model, a, b):
    import pandas as pd

    return toy_model.predict_proba(pd.DataFrame({"a": a, "b": b}))[:, 1]


def test_serve_sees_the_requests_of_an_endpoint_that_it_scales_and_no_others(rt, surface, client):
    scaled = rt.deploy("scaled", f"{NAME}:1", replicas=aios.Autoscale(1, 2))
    body = {"a": 0.5, "b": None}
    try:
        answers = [
            client.post(f"/v2/models/{name}/predict", json=body) for name in (NAME, "scaled")
        ]
    finally:
        rt.remove(scaled.name)
    assert [answer.status_code for answer in answers] == [200, 200]
    # Serve gives each answer that passes through it an id of its own.
    assert ["x-request-id" in answer.headers for answer in answers] == [False, True]


# -- the official v2 client -----------------------------------------------------------


def test_the_official_client_reads_health_and_metadata(rt, surface):
    import tritonclient.http as triton

    headers = {"Authorization": f"Bearer {rt.key}"}
    with triton.InferenceServerClient(rt.address.removeprefix("http://")) as server:
        assert server.is_server_live(headers=headers)
        assert server.is_server_ready(headers=headers)
        assert server.get_server_metadata(headers=headers)["name"] == "aios"
        assert server.is_model_ready(NAME, headers=headers)
        assert server.is_model_ready(NAME, "1", headers=headers)
        assert not server.is_model_ready(NAME, "99", headers=headers)
        metadata = server.get_model_metadata(NAME, headers=headers)
    assert (metadata["name"], metadata["versions"]) == (NAME, ["1"])
    assert {"a", "b"} <= {tensor["name"] for tensor in metadata["inputs"]}
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["p"]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("version", ["", "1"])
def test_the_official_client_infers_in_json_and_in_binary(rt, surface, toy_model, binary, version):
    import tritonclient.http as triton

    a, b = np.array([0.5, -1.0, 3.0]), np.array([1.0, 0.0, -2.0])
    inputs = []
    for name, values in (("a", a), ("b", b)):
        tensor = triton.InferInput(name, [3], "FP64")
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    wanted = [triton.InferRequestedOutput("p", binary_data=binary)]
    with triton.InferenceServerClient(rt.address.removeprefix("http://")) as server:
        answer = server.infer(
            NAME,
            inputs,
            model_version=version,
            outputs=wanted,
            request_id="r-1",
            headers={"Authorization": f"Bearer {rt.key}", "x-aios-outlier": "1"},
        )
        with pytest.raises(triton.InferenceServerException, match=r"key"):
            server.infer(NAME, inputs)
    assert answer.get_response()["id"] == "r-1"
    np.testing.assert_allclose(answer.as_numpy("p"), expected(toy_model, a, b), atol=1e-5)
    assert answer.as_numpy("aios-outlier").argmax() == 2


def test_an_outlier_scores_above_an_ordinary_record_and_a_lost_field_is_counted(rt, surface):
    asked = surface.predict([{"a": 0.1, "b": -0.2}, {"a": 90.0, "b": 40.0}], outlier=True)
    usual, odd = asked.outlier
    assert usual < 0.5 < 0.6 < odd
    assert asked.outlier_beyond[0] < 0.9 < 0.99 < asked.outlier_beyond[1]
    assert asked.outlier_reason is None
    assert surface.predict({"a": 0.1}).outlier is None
    counted = rt.monitor(NAME).status().refused.get("a", {}).get("missing", 0)
    with pytest.raises(aios.ContractViolation, match='field "a": is missing'):
        surface.predict({"b": 1.0})
    give_up_s = time.monotonic() + 10
    while rt.monitor(NAME).status().refused.get("a", {}).get("missing", 0) == counted:
        assert time.monotonic() < give_up_s, rt.monitor(NAME).status()
        time.sleep(0.1)
    assert "a missing" in repr(rt.monitor(NAME).status())


# -- one clear answer for each kind of bad input --------------------------------------


@pytest.mark.parametrize("key", [None, "", "Bearer wrong", "Basic x"])
@pytest.mark.parametrize(
    ("method", "target"),
    [("POST", path("/predict")), ("POST", path("/infer")), ("GET", "/api/v1/status")],
)
def test_a_missing_or_wrong_key_is_401(rt, surface, method, target, key):
    headers = {} if key is None else {"authorization": key}
    with httpx.Client(base_url=rt.address, trust_env=False) as anonymous:
        answer = anonymous.request(method, target, headers=headers, content=b"{not json")
    is_problem(answer, 401, "Unauthenticated")


def test_an_unknown_model_or_version_is_404_and_names_what_there_is(client):
    body = is_problem(client.get("/v2/models/frod"), 404, "UnknownEndpoint")
    assert NAME in body["detail"]
    is_problem(client.post("/v2/models/frod/infer", content=b"\x00"), 404, "UnknownEndpoint")
    for answer in (client.get(path("/versions/9")), client.post(path("/versions/9/infer"))):
        if answer.status_code == 404:
            assert "1" in is_problem(answer, 404, "UnknownModel")["detail"]
    body = orjson.dumps(
        {"inputs": [{"name": "a", "shape": [1], "datatype": "FP64", "data": [1.0]}]}
    )
    detail = is_problem(client.post(path("/versions/9/infer"), content=body), 404, "UnknownModel")[
        "detail"
    ]
    assert "serves 1" in detail
    assert NAME in is_problem(client.get("/api/v1/models/frod"), 404, "UnknownModel")["detail"]
    assert (
        NAME in is_problem(client.get("/api/v1/endpoints/frod"), 404, "UnknownEndpoint")["detail"]
    )


@pytest.mark.parametrize(
    ("body", "status", "code", "told"),
    [
        (b"", 400, "Malformed", ""),
        (b'{"records": []}', 422, "ContractViolation", "empty"),
        (b'{"a": 1, "c": 2}', 422, "ContractViolation", '"c"'),
        (b'{"b": 1}', 422, "ContractViolation", '"a"'),
        (b'{"a": 101}', 422, "ContractViolation", "100"),
        (b'{"a": "1"}', 422, "ContractViolation", '"a"'),
        (b'{"a": NaN}', 400, "Malformed", ""),
        (b'{"a": null}', 422, "ContractViolation", '"a"'),
        (b"[" * 100_000, 400, "Malformed", ""),
    ],
)
def test_a_bad_record_names_what_is_wrong(client, body, status, code, told):
    answer = client.post(path("/predict"), content=body)
    found = is_problem(answer, status, code)
    assert told.strip('"') in orjson.dumps(found).decode()


def test_a_truncated_binary_tensor_is_400(client):
    header = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "a",
                    "shape": [4],
                    "datatype": "FP64",
                    "parameters": {"binary_data_size": 32},
                }
            ]
        }
    )
    answer = client.post(
        path("/infer"),
        content=header + b"\x00" * 31,
        headers={
            "inference-header-content-length": str(len(header)),
            "content-type": "application/octet-stream",
        },
    )
    is_problem(answer, 400, "Malformed")


def test_another_content_type_is_415_and_a_wrong_method_405(client):
    answer = client.post(path("/predict"), content=b"{}", headers={"content-type": "text/csv"})
    is_problem(answer, 415, "Unsupported")
    is_problem(client.get(path("/predict")), 405, "NotAllowed")
    is_problem(client.patch(f"/api/v1/endpoints/{NAME}"), 405, "NotAllowed")


def test_a_million_rows_are_413(client):
    body = b"[" + b",".join([b'{"a":1}'] * 1_000_000) + b"]"
    assert len(body) < 16 * MIB
    is_problem(client.post(path("/predict"), content=body), 413, "PayloadTooLarge")


def send_until_answered(rt, target, size_bytes, *, chunked):
    """Streams zeros and reads as it goes; what came back, and how much was sent before."""
    head = [
        f"PUT {target} HTTP/1.1" if "/api/" in target else f"POST {target} HTTP/1.1",
        "host: x",
        f"authorization: Bearer {rt.key}",
        "content-type: application/json",
        "transfer-encoding: chunked" if chunked else f"content-length: {size_bytes}",
    ]
    block = b" " * 65_536
    frame = b"10000\r\n" + block + b"\r\n" if chunked else block
    sent = 0
    with socket.create_connection(("127.0.0.1", port_of(rt)), timeout=20) as connection:
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
        try:
            while sent < size_bytes:
                connection.sendall(frame)
                sent += len(block)
                connection.setblocking(False)
                try:
                    answer = connection.recv(65_536)
                    if answer:
                        return whole(connection, answer), sent
                except BlockingIOError:
                    pass
                connection.settimeout(20)
        except ConnectionError:
            connection.settimeout(20)
        return whole(connection, connection.recv(65_536)), sent


def whole(connection, answer):
    """The answer with its body, which may come in a packet of its own."""
    connection.settimeout(20)
    while (more := missing_bytes(answer)) and (part := connection.recv(more)):
        answer += part
    return answer


def missing_bytes(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return int(length[1]) - len(body) if length else 0


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("target", [path("/predict"), f"/api/v1/endpoints/{NAME}"])
def test_200_mib_are_413_long_before_they_are_sent_and_stay_out_of_memory(
    rt, client, target, chunked
):
    import psutil

    role = "api" if "/api/" in target else "endpoint"
    found = [row for row in rt.ps() if row["role"] == role]
    process = psutil.Process(found[0]["pid"])
    before_bytes = process.memory_info().rss
    answer, sent = send_until_answered(rt, target, 200 * MIB, chunked=chunked)
    assert answer.startswith(b"HTTP/1.1 413"), answer[:200]
    assert b"PayloadTooLarge" in answer
    assert sent < 100 * MIB
    assert process.memory_info().rss - before_bytes < 64 * MIB
    assert client.post(path("/predict"), json={"a": 1}).status_code == 200


def test_slow_clients_do_not_hold_up_the_others(rt, client):
    head = (
        f"POST {path('/predict')} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {rt.key}\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    ).encode()
    slow = [socket.create_connection(("127.0.0.1", port_of(rt))) for _ in range(300)]
    try:
        for connection in slow:
            connection.sendall(head)
        started_s = time.monotonic()
        answers = [client.post(path("/predict"), json={"a": 1}) for _ in range(50)]
        took_s = time.monotonic() - started_s
    finally:
        for connection in slow:
            connection.close()
    assert {answer.status_code for answer in answers} == {200}
    assert took_s < 5.0


# -- fuzz -----------------------------------------------------------------------------

CASES = 2400
WORKERS = 4


def fuzz(rt, seed, count):
    """What is wrong with the answers to `count` bad requests, and how many were ours."""
    generator = Generator(seed, NAME, rt.key)
    client = RawClient(port_of(rt))
    faults, statuses, ours = [], Counter(), 0
    for _ in range(count):
        case = generator.case()
        try:
            status, headers, body = client.send(case)
        except (OSError, ValueError) as error:
            faults.append(f"{error!r} {case}"[:600])
            client.close()
            continue
        statuses[status] += 1
        fault = fault_of(case, status, headers, body)
        if fault:
            faults.append(f"{fault}: {status} {body[:200]!r} for {case}"[:900])
        ours += "x-aios-request-id" in headers or "problem+json" in headers.get("content-type", "")
    client.close()
    return faults, statuses, ours


def fault_of(case, status, headers, body):
    if status >= 500:
        return "5xx"
    if not body and ("expect", "100-continue") in case.headers:
        return None  # cut short, see RawClient
    if b"Traceback" in body or b'File "' in body or b"site-packages" in body:
        return "a stack trace"
    if status >= 400 and "problem+json" in headers.get("content-type", "") and body:
        document = orjson.loads(body)
        if document["status"] != status or not document["code"] or not document["detail"]:
            return "an unclear problem"
        if len(body) > 20_000:
            return "a huge problem"
    elif status >= 400 and case.method != "HEAD" and "x-aios-request-id" in headers:
        return "an error that is no problem body"
    return None


def test_no_bad_request_of_thousands_is_answered_with_5xx(rt, client, toy_model):
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(lambda seed: fuzz(rt, seed, CASES // WORKERS), range(WORKERS)))
    faults = [fault for part, _, _ in found for fault in part]
    statuses = sum((part for _, part, _ in found), Counter())
    assert faults == []
    assert sum(statuses.values()) == CASES >= 2000
    assert sum(ours for _, _, ours in found) > 0.7 * CASES, statuses
    assert {200, 400, 401, 404, 405, 413, 415, 422} - {413} <= set(statuses)
    answer = client.post(path("/predict"), json={"a": 0.5, "b": 1.0}).json()
    want = expected(toy_model, [0.5], [1.0])[0]
    assert answer["outputs"][0]["p"] == pytest.approx(want, abs=1e-5)
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/api/v1/status").status_code == 200


def test_what_http_itself_forbids_is_closed_or_400(rt, surface):
    key = f"authorization: Bearer {rt.key}\r\n"
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        f"POST {path('/predict')} HTTP/1.1\r\nhost: x\r\n{key}content-length: 4\r\n"
        "transfer-encoding: chunked\r\n\r\nZZ\r\nabc\r\n".encode(),
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port_of(rt)), timeout=10) as connection:
            connection.sendall(raw)
            try:
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(4096)
            except OSError:
                continue  # closed already: as good as refused
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), (raw[:80], answer[:200])


def test_a_websocket_upgrade_is_no_error_of_ours(rt, surface):
    client = RawClient(port_of(rt))
    headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    for target in (path("/predict"), "/v2"):
        status, _, _ = client.send(Case("GET", target, headers, b""))
        assert status < 500
    client.close()
