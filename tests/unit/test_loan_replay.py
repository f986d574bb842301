"""The load replay, against small servers on the loopback."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import aios
from apps.loan_approval.connection import ClosedBeforeAnswer, Connection, MalformedAnswer
from apps.loan_approval.outcomes import Ledger, window_stats
from apps.loan_approval.replay import Replay

RECORDS = [{"application_id": f"loan-{number}", "appinc": 70.0} for number in range(5)]
GOOD = (
    b"HTTP/1.1 200 OK\r\nX-Aios-Arm: canary\r\nx-aios-version: 2\r\n"
    b"x-aios-request-id: r1\r\ncontent-length: 2\r\n\r\n{}"
)
Script = Callable[[int, int], bytes | None]
"""(connection, request on it) -> the answer; None closes the connection without one."""


class Server:
    """Answers by a script and keeps what it was asked."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._connections = 0
        self.asked: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, self._connections = self._connections, self._connections + 1
        for number in range(1_000_000):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            self.asked.append(head + await reader.readexactly(length))
            answer = self._script(connection, number)
            if answer is None:
                break
            writer.write(answer)
            if b"connection: close" in answer:
                break
        writer.close()


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    server, loop = Server(script), asyncio.new_event_loop()
    started = loop.run_until_complete(asyncio.start_server(server.serve, "127.0.0.1", 0))
    server.url = f"http://127.0.0.1:{started.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        started.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    give_up_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_s
        threading.Event().wait(0.005)


def test_every_request_is_answered_counted_and_attributed() -> None:
    with serving(lambda *_: GOOD) as server:
        replay = Replay(server.url, "secret", RECORDS, 500, clients=4).start()
        until(lambda: replay.counts.sent >= 50)
        stats = replay.stop()
    assert stats.sent == stats.answered == len(server.asked) >= 50
    assert stats.by_arm == {"canary": stats.sent}
    assert stats.by_version == {2: stats.sent}
    assert 0 < stats.p50_s <= stats.p95_s <= stats.p99_s < 1
    rows = replay.outcomes()
    assert len(rows) == stats.sent
    assert set(rows.request_ids) == {"r1"}
    assert rows.answered_by(2) == {"canary": stats.sent}


def test_requests_carry_path_key_and_one_record() -> None:
    with serving(lambda *_: GOOD) as server:
        replay = Replay(server.url + "/base/", "secret", RECORDS, 500, endpoint="loan").start()
        until(lambda: replay.counts.sent >= 1)
        replay.stop()
    request = server.asked[0]
    assert request.startswith(b"POST /base/v2/models/loan/predict HTTP/1.1\r\n")
    assert b"authorization: Bearer secret\r\n" in request
    assert request.split(b"\r\n\r\n")[1].startswith(b'{"records":[{"application_id":"loan-')


def test_the_same_seed_sends_the_same_applications() -> None:
    def sent(seed: int) -> list[bytes]:
        with serving(lambda *_: GOOD) as server:
            replay = Replay(server.url, "k", RECORDS, 1000, clients=1, seed=seed).start()
            until(lambda: replay.counts.sent >= 20)
            replay.stop()
        return [request.split(b"\r\n\r\n")[1] for request in server.asked[:20]]

    first = sent(1)
    assert first == sent(1) != sent(2)


def test_bad_statuses_count_as_failed_and_keep_their_body() -> None:
    bad = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"
    with serving(lambda _, number: bad if number % 2 else GOOD) as server:
        replay = Replay(server.url, "k", RECORDS, 500, clients=1).start()
        until(lambda: replay.counts.sent >= 10)
        stats = replay.stop()
    assert stats.failed == stats.sent // 2
    assert (replay.failures[0].status, replay.failures[0].text) == (503, "busy")
    assert replay.outcomes().failed.sum() == stats.failed


def test_a_server_that_is_not_there_makes_every_request_fail_and_no_exception() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        replay = Replay(f"http://127.0.0.1:{free.getsockname()[1]}", "k", RECORDS, 500).start()
        until(lambda: replay.counts.failed >= 5)
        stats = replay.stop()
    assert stats.failed == stats.sent
    assert "Connect call failed" in replay.failures[0].text


def test_an_answer_that_never_comes_counts_as_failed_after_the_timeout() -> None:
    with serving(lambda *_: b"") as server:
        replay = Replay(server.url, "k", RECORDS, 500, clients=2, timeout_s=0.05).start()
        until(lambda: replay.counts.failed >= 2)
        stats = replay.stop()
    assert stats.answered == 0
    assert replay.failures[0].text == "TimeoutError"


def test_latency_counts_from_when_a_request_was_due() -> None:
    with serving(lambda connection, _: GOOD if connection else b"") as server:
        replay = Replay(server.url, "k", RECORDS, 1000, clients=1, timeout_s=0.1).start()
        until(lambda: replay.counts.sent >= 3)
        replay.stop()
    rows = replay.outcomes()
    assert rows.sent_s[:3] == pytest.approx([0.0, 0.001, 0.002])
    assert rows.status[:3].tolist() == [0, 200, 200]
    assert (rows.latency_s[:3] > 0.09).all()  # the second and third waited for the first


def test_an_idle_connection_closed_by_the_server_is_no_failure_but_is_told() -> None:
    with serving(lambda _, number: None if number else GOOD) as server:
        replay = Replay(server.url, "k", RECORDS, 500, clients=1).start()
        until(lambda: replay.counts.sent >= 5)
        stats = replay.stop()
    assert stats.failed == 0
    assert stats.reconnected == stats.sent - 1


def test_a_fresh_connection_closed_without_an_answer_is_a_failure() -> None:
    with serving(lambda *_: None) as server:
        replay = Replay(server.url, "k", RECORDS, 500, clients=1).start()
        until(lambda: replay.counts.sent >= 3)
        assert replay.stop().answered == 0


def test_stop_is_prompt_when_the_next_request_is_far_away_and_can_be_repeated() -> None:
    with serving(lambda *_: GOOD) as server:
        replay = Replay(server.url, "k", RECORDS, 0.01).start()
        until(lambda: replay.counts.sent >= 1)
        began_s = time.monotonic()
        assert replay.stop().sent == replay.stop().sent == 1
    assert time.monotonic() - began_s < 1


@pytest.mark.parametrize(
    ("url", "records", "rate_per_s"),
    [("https://host", RECORDS, 1), ("host:80", RECORDS, 1), ("http://host", [], 1)],
)
def test_a_replay_that_cannot_work_is_refused(
    url: str, records: list[dict[str, object]], rate_per_s: float
) -> None:
    with pytest.raises(aios.UsageError):
        Replay(url, "k", records, rate_per_s)


def exchange(answers: list[bytes | None], requests: int = 1) -> list[bytes]:
    """The bodies that a connection reads from a server with these answers."""

    async def run(url: str) -> list[bytes]:
        connection = Connection("127.0.0.1", int(url.rpartition(":")[2]))
        request = b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
        try:
            return [(await connection.exchange(request)).body for _ in range(requests)]
        finally:
            connection.close()

    remaining = iter(answers)
    with serving(lambda *_: next(remaining)) as server:
        return asyncio.run(run(server.url))


def test_bodies_are_read_by_length_by_chunks_and_to_the_end() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    to_the_end = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it"
    assert exchange([GOOD, chunked, to_the_end, GOOD], 4) == [b"{}", b"abc", b"all of it", b"{}"]


def test_what_is_not_http_is_named() -> None:
    with pytest.raises(MalformedAnswer, match="ICY"):
        exchange([b"ICY\r\n\r\n"])


def test_a_close_before_any_byte_is_told_apart_from_one_in_the_middle() -> None:
    with pytest.raises(ClosedBeforeAnswer):
        exchange([GOOD, None], 2)
    with pytest.raises(asyncio.IncompleteReadError):
        exchange(
            [GOOD, b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 9\r\n\r\nhalf"], 2
        )


def test_a_full_ledger_counts_on_without_rows() -> None:
    ledger = Ledger(0.0, capacity=2)
    for number in range(5):
        ledger.answered(float(number), 0.01, 200, {"x-aios-arm": "stable"}, b"")
    assert len(ledger.outcomes()) == 2
    assert ledger.counts(5.0).by_arm == {"stable": 5}


def test_window_stats_see_only_what_was_answered_lately() -> None:
    ledger = Ledger(0.0)
    ledger.answered(1.0, 0.1, 200, {"x-aios-arm": "stable", "x-aios-version": "1"}, b"")
    headers = {"x-aios-arm": "canary", "x-aios-version": "2", "x-aios-degraded": "rule"}
    ledger.answered(9.0, 0.3, 200, headers, b"")
    ledger.unanswered(9.5, 0.1, "gone")
    stats = window_stats(ledger.outcomes(), now_s=10.0, window_s=2.0)
    assert (stats.sent, stats.failed, stats.degraded) == (2, 1, 1)
    assert (stats.by_arm, stats.by_version) == ({"canary": 1}, {2: 1})
    assert stats.p50_s == pytest.approx(0.3)
    assert stats.rate_per_s == 1.0
