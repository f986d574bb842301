"""The closed loop beside `wrk`, at a server whose rate is known: neither may see another one."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aios.capacity.load import Loop, Target, run_load
from benchmarks.cross_check import wrk_per_s

CONNECTIONS, DELAY_S = 16, 0.1
MOST_PER_S = CONNECTIONS / DELAY_S
"""Each connection waits for its answer before it asks again."""


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(65_536):
            await asyncio.sleep(DELAY_S)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
    except ConnectionError:
        pass  # wrk hangs up without waiting for its last answers
    finally:
        writer.close()


@contextmanager
def delayed() -> Iterator[str]:
    """A server that answers each request after 0.1 s, however many there are; its address."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(_answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt install wrk")
def test_the_closed_loop_sees_the_rate_that_wrk_sees() -> None:
    """A busy machine slows both down, and lets neither be quicker than the server."""
    with delayed() as url:
        target, pairs = Target(url, {}), []
        for _ in range(2):
            theirs = wrk_per_s(str(shutil.which("wrk")), target, b"{}", CONNECTIONS, 1)
            ours = run_load(target, [b"{}"], Loop(CONNECTIONS, 1.0), warm_up_s=0.2)
            assert ours.failed == 0, ours.failures
            pairs.append((ours.good_per_s, theirs))
    assert all(0 < seen <= 1.15 * MOST_PER_S for pair in pairs for seen in pair), pairs
    assert any(0.7 < ours / theirs < 1.4 for ours, theirs in pairs), pairs
