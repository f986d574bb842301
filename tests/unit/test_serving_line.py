"""The line between an endpoint and a challenger, over real sockets."""

import asyncio
import pickle
import secrets
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from aios.contracts import Batch
from aios.errors import ModelFailed
from aios.serving.challenger import Reply
from aios.serving.line import Lines, Listening, Place, _Answering, connected
from aios.serving.runner import Outputs

HERE = "127.0.0.1"
PAIR = 2


def rows(*values: float) -> Batch:
    from serving_fakes import CODEC

    return CODEC.validate_records([{"a": value} for value in values])


async def doubled(batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
    return {"p": batch.column("a") * 2}, timeout_s


async def failing(batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
    return "model_failed", "boom"


async def broken(batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
    raise RuntimeError("no reply at all")


class Called:
    """A challenger reached by its handle, as Serve would; counts."""

    def __init__(self, listening: Listening | None) -> None:
        self.listening = listening
        self.calls = self.looks = 0

    async def infer(
        self, batch: Batch, timeout_s: float, traceparent: str | None
    ) -> tuple[Outputs, float]:
        self.calls += 1
        return {"p": np.zeros(batch.rows)}, 0.0

    async def where(self) -> Place:
        self.looks += 1
        if self.listening is None:
            raise RuntimeError("Serve knows no replica")
        return await self.listening.place(HERE)

    def lines(self) -> Lines:
        return Lines(self.infer, self.where)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(5.0):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.fixture(params=["uvloop", "asyncio"], autouse=True)
def loop_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas run on uvloop, whose transports are its own."""
    module = import_module(request.param)
    monkeypatch.setattr(sys.modules[__name__], "new_event_loop", module.new_event_loop)


new_event_loop = asyncio.new_event_loop


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), 20.0))


def test_the_first_calls_go_by_the_handle_and_the_others_on_the_line() -> None:
    async def scenario() -> None:
        called = Called(Listening(doubled))
        ask = called.lines()
        assert (await ask(rows(1.0), 0.5, None))[0]["p"].tolist() == [0.0]
        await until(lambda: any(line.open for line in ask._lines.values()))
        calls = [ask(rows(float(n), n + 0.5), float(n), None) for n in range(40)]
        answers = await asyncio.gather(*calls)
        for n, (outputs, service_s) in enumerate(answers):
            assert outputs["p"].tolist() == [2.0 * n, 2.0 * n + 1]
            assert service_s == n
        assert (called.calls, called.looks) == (1, 1)

    run(scenario)


def test_what_went_wrong_there_is_told_by_its_kind() -> None:
    async def scenario() -> None:
        for infer, error in ((failing, ModelFailed), (broken, ConnectionError)):
            called = Called(Listening(infer))
            ask = called.lines()
            await ask(rows(1.0), 0.5, None)
            await until(lambda ask=ask: any(line.open for line in ask._lines.values()))
            with pytest.raises(error):
                await ask(rows(1.0), 0.5, None)

    run(scenario)


def test_a_batch_of_megabytes_comes_whole() -> None:
    async def scenario() -> None:
        line = await connected(await Listening(doubled).place(HERE))
        values = np.linspace(-100.0, 100.0, 300_000)
        batch = Batch(rows(1.0).layout, len(values), columns={"a": values})
        outputs, _ = await line.ask(batch, 1.0, None)
        assert np.array_equal(outputs["p"], values * 2)

    run(scenario)


def test_who_stops_waiting_cancels_the_call() -> None:
    async def scenario() -> None:
        ended: list[str] = []

        async def slow(batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return "deadline", ""

        line = await connected(await Listening(slow).place(HERE))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await line.ask(rows(1.0), 1.0, None)
        await until(lambda: ended)
        assert line.waiting == {}
        assert line.open

    run(scenario)


def test_a_call_that_is_cancelled_before_it_began_leaves_nothing() -> None:
    async def scenario() -> None:
        began: list[int] = []
        running: set[asyncio.Task[None]] = set()

        async def counted(batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
            began.append(1)
            return "deadline", ""

        end = _Answering(b"secret", counted, running)
        end.told((1, rows(1.0), 1.0, None))
        end.told((1,))
        await until(lambda: not running)
        await asyncio.sleep(0)
        assert (began, end._calls) == ([], {})

    run(scenario)


def test_a_challenger_that_goes_fails_what_is_open_and_the_handle_goes_on() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def held(batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
            await gate.wait()
            return await doubled(batch, timeout_s, traceparent)

        called = Called(Listening(held))
        ask = called.lines()
        await ask(rows(1.0), 0.5, None)
        await until(lambda: any(line.open for line in ask._lines.values()))
        [line] = ask._lines.values()
        call = asyncio.create_task(ask(rows(1.0), 0.5, None))
        await until(lambda: line.waiting)
        line.close()
        with pytest.raises(ConnectionError, match="broke"):
            await call
        assert (await ask(rows(1.0), 0.5, None))[0]["p"].tolist() == [0.0]
        assert called.calls == PAIR

    run(scenario)


def test_calls_that_run_when_the_challenger_leaves_come_to_their_end() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def held(batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
            await gate.wait()
            return await doubled(batch, timeout_s, traceparent)

        listening = Listening(held)
        place = await listening.place(HERE)
        line = await connected(place)
        call = asyncio.create_task(line.ask(rows(2.0), 0.5, None))
        await until(lambda: listening._running)
        leaving = asyncio.create_task(listening.close())
        await asyncio.sleep(0.02)
        gate.set()
        assert (await call)[0]["p"].tolist() == [4.0]  # type: ignore[call-overload]
        await leaving
        with pytest.raises(OSError, match="Connect"):
            await connected(place)

    run(scenario)


def test_calls_go_to_the_replica_with_fewest() -> None:
    async def scenario() -> None:
        gate, counts = asyncio.Event(), [0, 0]

        def replica(number: int) -> Listening:
            async def held(batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
                counts[number] += 1
                await gate.wait()
                return await doubled(batch, timeout_s, traceparent)

            return Listening(held)

        ask = Called(None).lines()
        for number in range(PAIR):
            place = await replica(number).place(HERE)
            ask._lines[place] = await connected(place)
        calls = [asyncio.create_task(ask(rows(1.0), 0.5, None)) for _ in range(10)]
        await until(lambda: sum(counts) == 10)
        gate.set()
        await asyncio.gather(*calls)
        assert counts == [5, 5]

    run(scenario)


def test_a_place_that_cannot_be_had_is_looked_for_again_and_not_at_every_call() -> None:
    async def scenario() -> None:
        called = Called(None)
        ask = called.lines()
        for _ in range(50):
            await ask(rows(1.0), 0.5, None)
            await asyncio.sleep(0)
        assert (called.calls, called.looks) == (50, 1)
        ask._look_s = 0.0
        called.listening = Listening(doubled)
        await ask(rows(1.0), 0.5, None)
        await until(lambda: any(line.open for line in ask._lines.values()))

    run(scenario)


BOOMED: list[str] = []


def boom() -> None:
    BOOMED.append("unpickled")


class Boom:
    """Unpickled, it tells on itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        return boom, ()


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


@pytest.mark.parametrize(
    "sent",
    [
        framed(pickle.dumps(Boom())),
        framed(secrets.token_bytes(32)) + framed(pickle.dumps(Boom())),
        2 * framed(secrets.token_bytes(32)) + framed(pickle.dumps(Boom())),
        (1 << 29).to_bytes(4, "little") + b"x" * 100,
        b"",
    ],
    ids=["a call", "a nonce and a call", "a wrong proof and a call", "half a frame", "nothing"],
)
def test_who_does_not_know_the_secret_is_not_read(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr("aios.serving.line.CONNECT_S", 0.2)
        place = await Listening(doubled).place(HERE)
        reader, writer = await asyncio.open_connection(place.host, place.port)
        writer.write(sent)
        async with asyncio.timeout(5.0):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(1_000)  # ended by the other side
        writer.close()
        assert BOOMED == []

    run(scenario)


def test_who_took_the_port_and_does_not_know_the_secret_is_not_believed() -> None:
    async def scenario() -> None:
        async def liar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(36)
            writer.write(framed(secrets.token_bytes(64)) + framed(pickle.dumps(Boom())))

        server = await asyncio.start_server(liar, HERE, 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError):
            await connected(Place(HERE, port, secrets.token_bytes(32)))
        server.close()
        assert BOOMED == []

    run(scenario)
