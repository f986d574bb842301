"""One version's engine: inline or threaded, natural batching, failures, closing."""

import asyncio

import numpy as np
import pytest
from serving_fakes import CODEC, FakeEngine, Valve, fail, rows

from aios.contracts import Codec, Contract, Number
from aios.errors import ContractViolation, ModelFailed, Overloaded
from aios.serving.challenger import ChallengerReplica, unpack
from aios.serving.runner import Runner
from aios.telemetry.traces import Tracer


async def entered(valve):
    await asyncio.get_running_loop().run_in_executor(None, valve.entered.wait, 10)


def started(runner, *batches):
    return [asyncio.ensure_future(runner.run(batch)) for batch in batches]


def test_a_fast_engine_runs_on_the_event_loop_and_a_slow_one_in_a_thread():
    import threading

    async def thread_of(slow):
        names = []
        engine = FakeEngine(
            slow=slow, act=lambda batch: names.append(threading.current_thread().name)
        )
        runner = Runner(engine, CODEC)
        outputs, service_s = await runner.run(rows(1))
        runner.close()
        assert outputs["p"].tolist() == [0.5]
        assert service_s >= 0
        return names[0]

    assert asyncio.run(thread_of(False)) == threading.current_thread().name
    assert asyncio.run(thread_of(True)).startswith("aios-engine")


def test_a_fast_engine_on_a_gpu_leaves_the_loop_so_that_calls_gather():
    engine = FakeEngine()
    engine.device = "cuda"
    runner = Runner(engine, CODEC)
    assert not runner.runs_inline(rows(1))
    asyncio.run(runner.run(rows(1)))
    runner.close()


def test_a_batch_too_large_for_the_loop_leaves_it_even_with_a_fast_engine():
    runner = Runner(FakeEngine(), CODEC, max_batch_rows=4)
    assert runner.runs_inline(rows(1, 2, 3, 4))
    large = rows(*range(9))
    assert not runner.runs_inline(large)
    outputs, _ = asyncio.run(runner.run(large))
    assert len(outputs["p"]) == 9
    runner.close()


def test_what_queued_while_a_batch_ran_becomes_the_next_batch():
    async def scenario():
        valve = Valve()
        engine = FakeEngine(slow=True, act=valve)
        runner = Runner(engine, CODEC)
        first = started(runner, rows(0))
        await entered(valve)
        later = started(runner, *[rows(i) for i in range(1, 6)])
        await asyncio.sleep(0)
        valve.opened.set()
        await asyncio.gather(*first, *later)
        runner.close()
        return engine.sizes

    assert asyncio.run(scenario()) == [1, 5]


def test_batches_stay_below_the_row_limit():
    async def scenario():
        valve = Valve()
        engine = FakeEngine(slow=True, act=valve)
        runner = Runner(engine, CODEC, max_batch_rows=4)
        calls = started(runner, rows(0))
        await entered(valve)
        calls += started(runner, rows(1, 2, 3), rows(4, 5), rows(*range(6)), rows(1))
        await asyncio.sleep(0)
        valve.opened.set()
        await asyncio.gather(*calls)
        runner.close()
        return engine.sizes

    assert asyncio.run(scenario()) == [1, 3, 2, 6, 1]


def test_each_request_of_a_batch_gets_its_own_rows():
    class Echo(FakeEngine):
        def run(self, batch):
            super().run(batch)
            return {"p": batch.column("a") / 100}

    async def scenario():
        valve = Valve()
        runner = Runner(Echo(slow=True, act=valve), CODEC)
        calls = started(runner, rows(1))
        await entered(valve)
        calls += started(runner, rows(2, 3), rows(4), rows(5, 6, 7))
        await asyncio.sleep(0)
        valve.opened.set()
        answers = await asyncio.gather(*calls)
        runner.close()
        return [(outputs["p"] * 100).round().tolist() for outputs, _ in answers]

    assert asyncio.run(scenario()) == [[1], [2, 3], [4], [5, 6, 7]]


def test_a_row_that_breaks_the_model_fails_its_own_request_only():
    async def scenario():
        valve = Valve()

        def act(batch):
            valve(batch)
            if 13.0 in batch.column("a").tolist():
                fail(batch)

        runner = Runner(FakeEngine(slow=True, act=act), CODEC)
        calls = started(runner, rows(0))
        await entered(valve)
        calls += started(runner, rows(1), rows(13), rows(2))
        await asyncio.sleep(0)
        valve.opened.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        runner.close()
        return [isinstance(answer, ModelFailed) for answer in answers]

    assert asyncio.run(scenario()) == [False, False, True, False]


def test_a_bad_output_of_one_request_does_not_spoil_the_others():
    class NotANumberAt13(FakeEngine):
        def run(self, batch):
            super().run(batch)
            return {"p": np.where(batch.column("a") == 13, np.nan, 0.5)}

    async def scenario():
        valve = Valve()
        runner = Runner(NotANumberAt13(slow=True, act=valve), CODEC)
        calls = started(runner, rows(0))
        await entered(valve)
        calls += started(runner, rows(13), rows(2))
        await asyncio.sleep(0)
        valve.opened.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        runner.close()
        return [isinstance(answer, ContractViolation) for answer in answers]

    assert asyncio.run(scenario()) == [False, True, False]


def test_a_call_cancelled_while_it_waits_is_never_run():
    async def scenario():
        valve = Valve()
        engine = FakeEngine(slow=True, act=valve)
        runner = Runner(engine, CODEC)
        calls = started(runner, rows(0))
        await entered(valve)
        gone, stays = started(runner, rows(1, 1, 1), rows(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        valve.opened.set()
        await asyncio.gather(*calls, stays)
        runner.close()
        return engine.sizes

    assert asyncio.run(scenario()) == [1, 1]


def test_a_call_cancelled_while_it_runs_does_not_stop_the_next():
    async def scenario():
        valve = Valve()
        runner = Runner(FakeEngine(slow=True, act=valve), CODEC)
        (gone,) = started(runner, rows(0))
        await entered(valve)
        gone.cancel()
        (stays,) = started(runner, rows(2))
        await asyncio.sleep(0)
        valve.opened.set()
        outputs, _ = await stays
        runner.close()
        return outputs["p"].tolist()

    assert asyncio.run(scenario()) == [0.5]


def test_more_than_may_wait_is_refused():
    async def scenario():
        valve = Valve()
        runner = Runner(FakeEngine(slow=True, act=valve), CODEC, max_waiting=2)
        calls = started(runner, rows(0))
        await entered(valve)
        calls += started(runner, rows(1), rows(2))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await runner.run(rows(3))
        valve.opened.set()
        await asyncio.gather(*calls)
        runner.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("slow", [False, True])
def test_a_model_that_exits_fails_its_request_and_not_the_replica(slow):
    def leave(batch):
        raise SystemExit(3)

    async def scenario():
        runner = Runner(FakeEngine(slow=slow, act=leave), CODEC)
        with pytest.raises(ModelFailed, match="SystemExit"):
            await runner.run(rows(1))
        runner.close()

    asyncio.run(scenario())


def test_closing_lets_waiting_calls_finish_and_then_lets_the_engine_go():
    async def scenario():
        valve = Valve()
        engine = FakeEngine(slow=True, act=valve)
        runner = Runner(engine, CODEC)
        calls = started(runner, rows(0))
        await entered(valve)
        calls += started(runner, rows(1), rows(2))
        await asyncio.sleep(0)
        runner.close()
        assert not engine.closed
        valve.opened.set()
        answers = await asyncio.gather(*calls)
        assert [outputs["p"].tolist() for outputs, _ in answers] == [[0.5]] * 3
        assert engine.closed

    asyncio.run(scenario())


def test_who_holds_a_closed_runner_can_still_ask_it():
    async def scenario():
        engine = FakeEngine()
        runner = Runner(engine, CODEC)
        runner.hold()
        runner.hold()
        runner.close()
        outputs, _ = await runner.run(rows(1))
        runner.let_go()
        assert not engine.closed
        runner.let_go()
        assert engine.closed
        return outputs["p"].tolist()

    assert asyncio.run(scenario()) == [0.5]


def test_outputs_come_as_plain_vectors_without_what_the_contract_does_not_know():
    class Column(FakeEngine):
        def run(self, batch):
            return {"extra": np.zeros(batch.rows), "p": np.full((batch.rows, 1), 0.5)}

    outputs, _ = asyncio.run(Runner(Column(), CODEC).run(rows(1, 2)))
    assert list(outputs) == ["p"]
    assert outputs["p"].shape == (2,)


# -- challenger -----------------------------------------------------------------------


def challenger(engine, codec=CODEC):
    return ChallengerReplica((Runner(engine, codec), codec), Tracer(None, "test"), "toy:2")


def test_a_challenger_sends_outputs_or_the_kind_of_its_failure():
    good = asyncio.run(challenger(FakeEngine(0.3)).infer(rows(1), 1.0, None))
    assert unpack(good)[0]["p"].tolist() == [0.3]
    failed = asyncio.run(challenger(FakeEngine(act=fail)).infer(rows(1), 1.0, None))
    assert failed == ("model_failed", "boom")
    bad = asyncio.run(challenger(FakeEngine(7.0)).infer(rows(1), 1.0, None))
    assert bad[0] == "bad_output"


def test_a_challenger_gives_up_at_its_timeout():
    async def scenario():
        valve = Valve()
        reply = await challenger(FakeEngine(slow=True, act=valve)).infer(rows(1), 0.01, None)
        valve.opened.set()
        return reply

    assert asyncio.run(scenario())[0] == "deadline"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("model_failed", ModelFailed),
        ("bad_output", ContractViolation),
        ("deadline", TimeoutError),
        ("unavailable", ConnectionError),
        ("anything else", ConnectionError),
    ],
)
def test_a_kind_comes_back_as_the_error_it_stands_for(kind, error):
    with pytest.raises(error, match="why"):
        unpack((kind, "why"))


def test_a_challenger_with_a_wider_contract_reads_rows_of_the_narrower_one():
    wider = Codec(
        Contract(
            inputs={"a": Number(nullable=True), "c": Number(nullable=True)},
            outputs={"p": Number(min=0, max=1)},
            key="id",
        )
    )
    seen = []

    def look(batch):
        seen.append((batch.column("a").tolist(), batch.column("c").tolist(), batch.keys))

    batch = rows(1.0, 2.0, keys=["x", "y"])
    reply = asyncio.run(challenger(FakeEngine(act=look), wider).infer(batch, 1.0, None))
    assert unpack(reply)[0]["p"].tolist() == [0.5, 0.5]
    values, added, keys = seen[0]
    assert values == [1.0, 2.0]
    assert np.isnan(added).all()
    assert keys == ["x", "y"]
