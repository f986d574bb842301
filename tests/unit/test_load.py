"""The load generator: latency from when a request was due, known times in, known ones out."""

import heapq
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from aios.capacity.answers import answers_well, complete, scores_as
from aios.capacity.arrivals import schedule
from aios.capacity.generator import Generator, new_histogram
from aios.capacity.load import Outcome, Stream, Target, quantile_s, run_load
from aios.errors import ClusterUnavailable, UsageError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REQUEST = b"POST / HTTP/1.1\r\n\r\n"


@contextmanager
def served(
    delays_s: Sequence[float] = (0.0,), answer: bytes = OK, *, stalls: bool = False
) -> Iterator[int]:
    """A server that answers each request after its delay (the last one from then on). One that
    `stalls` does nothing else meanwhile."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=200)
    over, selector = threading.Event(), selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    left, owed = list(delays_s), []

    def asked(client: socket.socket) -> None:
        if not client.recv(65_536):
            selector.unregister(client)
            client.close()
            return
        delay_s = left.pop(0) if len(left) > 1 else left[0]
        if stalls:
            time.sleep(delay_s)
        heapq.heappush(owed, (time.monotonic() + delay_s * (not stalls), id(client), client))

    def serve() -> None:
        while not over.is_set():
            for key, _ in selector.select(0.002 if owed else 0.02):
                if key.fileobj is listening:
                    selector.register(listening.accept()[0], selectors.EVENT_READ)
                else:
                    asked(key.fileobj)
            while owed and owed[0][0] <= time.monotonic():
                heapq.heappop(owed)[2].sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        over.set()
        thread.join()
        for key in list(selector.get_map().values()):
            key.fileobj.close()
        selector.close()


def streamed(port: int, due_s: "np.ndarray", connections: int = 8, give_up_s: float = 5.0):
    generator = Generator(("127.0.0.1", port), [REQUEST], answers_well, connections)
    due_ns = (np.asarray(due_s) * 1e9).astype(int).tolist()
    generator.open(due_ns, 0.0, give_up_s, lambda: None)
    generator.close()
    return generator.seen


def at_percentile(histogram: HdrHistogram, percentile: float) -> float:
    return histogram.get_value_at_percentile(percentile) / 1e6


def test_a_stall_of_a_second_is_in_the_p99():
    """100 requests/s for 3 s; from the 100th on the server stands still for one second. A
    generator that waits would send one request into the stall and report a p99 of nothing."""
    with served([*[0.0] * 100, 1.0, 0.0], stalls=True) as port:
        seen = streamed(port, np.arange(300) / 100)
    assert (seen.good, seen.failed) == (300, 0)
    assert 0.9 < at_percentile(seen.took, 99) < 2
    assert at_percentile(seen.took, 85) > 0.4, "whoever came meanwhile waited as well"
    assert at_percentile(seen.took, 20) < 0.3


def test_known_times_come_out_as_they_went_in():
    """Every tenth answer takes 0.5 s, the others 0.1 s; a busy machine adds to both."""
    with served([0.1] * 9 + [0.5] + [0.1] * 9 + [0.5] + [0.1] * 9 + [0.5, 0.1]) as port:
        seen = streamed(port, np.arange(30) / 60, connections=30)
    assert seen.good == 30
    for percentile, least_s in ((10, 0.1), (85, 0.1), (95, 0.5), (100, 0.5)):
        assert least_s <= at_percentile(seen.took, percentile) < least_s + 0.25


def test_percentiles_are_those_of_what_was_counted():
    took = new_histogram()
    for ms in range(1, 1001):
        took.record_value(1000 * ms)
    text = took.encode().decode()
    for fraction in (0.01, 0.5, 0.95, 0.99, 0.999, 1.0):
        assert quantile_s(text, 1000, 0, fraction) == pytest.approx(fraction, rel=2e-3)
    assert quantile_s(text, 1000, 1000, 0.25) == pytest.approx(0.5, rel=2e-3), "failed ones count"
    assert quantile_s(text, 1000, 1000, 0.501) == np.inf


def test_what_never_answers_has_failed_and_is_not_quick():
    with served([0.0, 0.0, 1.0]) as port:
        seen = streamed(port, np.arange(10) / 100, connections=4, give_up_s=0.3)
    assert seen.good == 2
    assert seen.failed == 8
    took = seen.took.encode().decode()
    assert quantile_s(took, seen.good, seen.failed, 0.2) < 1
    assert quantile_s(took, seen.good, seen.failed, 0.5) == np.inf


def test_refusals_are_told_in_their_words():
    no = b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nfull"
    with served(answer=no) as port:
        seen = streamed(port, np.arange(5) / 100)
    assert seen.failed == 5
    assert seen.failures == ["503 full"] * 3
    assert seen.took.get_total_count() == 0


def test_a_process_of_its_own_sends_what_it_should():
    with served() as port:
        target = Target(f"http://127.0.0.1:{port}/v2", {})
        stream = Stream("constant", 200, seconds=0.5, connections=4)
        outcome = run_load(target, [b"{}"], stream, warm_up_s=0.25)
    assert (outcome.good, outcome.failed, outcome.answered_in_all) == (100, 0, 150)
    assert outcome.good_per_s == pytest.approx(200, rel=0.5)
    assert 0 < outcome.quantile_s(0.5) < 0.5
    assert outcome.client_cpu_s > 0


def test_where_nobody_answers_it_says_so():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ClusterUnavailable, match="refused"):
        run_load(Target(f"http://127.0.0.1:{port}/", {}), [b""], Stream("poisson", 10, 1))


@pytest.mark.parametrize(
    ("url", "stream", "said"),
    [
        ("https://127.0.0.1:1/", Stream("poisson", 10, 1), "plain http"),
        ("http://127.0.0.1:1/", Stream("poisson", 0, 1), "0 requests/s"),
        ("http://127.0.0.1:1/", Stream("poisson", 0.1, 1), "nothing is due"),
        ("http://127.0.0.1:1/", Stream("poisson", 10, 1, connections=2_000), "connections"),
    ],
)
def test_a_load_that_cannot_be_made_is_refused(url, stream, said):
    with pytest.raises(UsageError, match=said):
        run_load(Target(url, {}), [b""], stream)


def outcome_of(took_ms: float, late_ms: float, cpu_s: float) -> Outcome:
    took, late = new_histogram(), new_histogram()
    for _ in range(100):
        took.record_value(int(1000 * took_ms))
        late.record_value(int(1000 * late_ms))
    texts = [one.encode().decode() for one in (took, late)]
    return Outcome(*texts, 100, 0, [], 0, 1.0, cpu_s, 100)


@pytest.mark.parametrize(
    ("took_ms", "late_ms", "cpu_s", "said"),
    [
        (10, 1, 0.2, None),
        (0.6, 0.4, 0.2, None),  # a timer's jitter
        (10, 5, 0.2, "5.0 ms late"),
        (500, 5, 0.97, "97% of a core"),
    ],
)
def test_a_generator_that_cannot_keep_up_says_so(took_ms, late_ms, cpu_s, said):
    held = outcome_of(took_ms, late_ms, cpu_s).held_back
    assert held is None if said is None else said in held


def test_a_generator_that_is_asked_for_too_much_notices():
    """Nobody sends 300 requests in 0.2 ms from Python."""
    with served() as port:
        seen = streamed(port, np.linspace(0, 0.0002, 300), connections=300)
    assert at_percentile(seen.late, 99) > 0.001


def test_arrivals_are_as_many_as_asked_for_and_as_random():
    even = np.diff(schedule("constant", 1000, 2, seed=1))
    assert len(even) == 1999
    assert even.std() < 2
    at = schedule("poisson", 1000, 20, seed=1)
    gaps = np.diff(at)
    assert len(at) == 20_000
    assert gaps.min() >= 0
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.03), "exponential"
    assert (at == schedule("poisson", 1000, 20, seed=1)).all()
    assert (at != schedule("poisson", 1000, 20, seed=2)).any()


# -- answers ---------------------------------------------------------------------------

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-a: b\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n2\r\n, \r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "answer"), [(WHOLE, (b"200", b"hello")), (CHUNKED, (b"503", b"hello, "))]
)
def test_an_answer_is_complete_only_with_its_last_byte(data, answer):
    assert complete(data) == answer
    for length in range(len(data)):
        assert complete(data[:length]) is None


def test_an_answer_without_a_length_is_refused():
    with pytest.raises(ValueError, match="without a length"):
        complete(b"HTTP/1.1 200 OK\r\n\r\nhello")


def test_a_fallbacks_answer_is_not_a_good_one():
    assert answers_well(0, b"200", b'{"outputs":[],"degraded":null}') is None
    assert "cache" in answers_well(0, b"200", b'{"outputs":[],"degraded":"cache"}')
    assert "504" in answers_well(0, b"504", b"late")


def test_a_wrong_score_is_no_answer():
    judge = scores_as([0.5, 0.7], "p")
    assert judge(1, b"200", b'{"outputs":[{"p":0.70001}]}') is None
    assert "0.9" in judge(0, b"200", b'{"outputs":[{"p":0.9}]}')
