"""Users' flows in a worker of this process: steps, failures, undoing, questions, bad input."""

import asyncio
import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sample_flows as sample
from flow_worlds import DEFINITIONS, FlowWorld, Host

import aios
from aios.errors import DeadlineExceeded, IllegalTransition, UnknownName, from_problem
from aios.flows.outcomes import LARGE_BYTES
from aios.flows.place import QUEUE
from aios.flows.worker import FlowWorker
from aios.runtime.flows import Acting


@pytest.fixture(scope="module")
def host() -> Host:
    return Host()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, host: Host) -> Iterator[FlowWorker]:
    place = FlowWorld(tmp_path_factory.mktemp("flows")).place
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aios.flows.worker.SWEEP_S", 3600.0)  # tests look when they want to
        worker = FlowWorker(place, "worker-1", host)
        worker.launch()
        yield worker
        worker.close()


@pytest.fixture(scope="module")
def world(worker: FlowWorker) -> Iterator[FlowWorld]:
    world = FlowWorld(Path(worker.place.values_url).parent)
    yield world
    world.close()


def failure(world: FlowWorld, flow_id: str) -> aios.AiosError:
    return from_problem(world.wait(flow_id)["problem"])


async def _outside(flow: Any, ledger: str) -> Any:
    return await flow(ledger, False)


class TestRunning:
    def test_steps_run_once_each_also_side_by_side(self, world: FlowWorld) -> None:
        world.begin(sample.order, "order-1", world.ledger, "o1", 0.01)
        assert world.wait("order-1")["value"] == ["receipt-o1", "shipped-o1-a", "shipped-o1-b"]
        done = [line.rpartition(" ")[0] for line in world.lines() if "o1" in line]
        assert done[0] == "charge-o1 order-1/1"
        assert sorted(done[1:]) == ["ship-o1-a order-1/3", "ship-o1-b order-1/4"]

    def test_a_flow_that_is_not_async_runs_and_its_steps_are_retried(
        self, world: FlowWorld
    ) -> None:
        world.begin(sample.plain_order, "plain-1", world.ledger, "p1")
        assert world.wait("plain-1")["value"] == ["receipt-p1", "at last"]
        tries = world.lines("try-p1")
        assert len(tries) == 3
        assert len({line.split()[1] for line in tries}) == 1  # one operation

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("exit", "sys.exit('enough')"),
            ("async", "sys.exit(3)"),
            ("flow", "sys.exit(4)"),
            ("cancelled", "CancelledError"),
            ("given up", "CancelledError"),
            ("interrupt", "it raised KeyboardInterrupt"),
            ("async interrupt", "it raised KeyboardInterrupt"),
            ("flow's interrupt", "it raised KeyboardInterrupt (line "),
            ("flow's end", "it raised GeneratorExit"),
            ("flow's group", "it raised BaseExceptionGroup: two"),
            ("panic", "it raised Panic: a library written in Rust has it"),
            ("at the end", "it raised StopIteration"),
            ("flow's two", "ValueError: one (line "),
            ("flow's two", "in leaving: raise ExceptionGroup"),
            ("flow's two", "; and LookupError: other"),
            ("speechless", "Speechless: its text cannot be made, that raised RuntimeError"),
            ("half a character", "ValueError: cannot read bill-\\udcff"),
        ],
    )
    def test_code_that_exits_fails_and_its_worker_goes_on(
        self, world: FlowWorld, kind: str, said: str
    ) -> None:
        world.begin(sample.leaving, f"leaving-{kind}", world.ledger, kind)
        assert said in str(failure(world, f"leaving-{kind}"))
        assert orjson.dumps([*world.client.flows(), world.client.steps(f"leaving-{kind}")])
        world.begin(sample.leaving_at_once, f"at-once-{kind}")
        assert "sys.exit(5)" in str(failure(world, f"at-once-{kind}"))
        world.begin(sample.order, f"after-{kind}", world.ledger, f"a-{kind}", 0.0)
        assert "value" in world.wait(f"after-{kind}")

    @pytest.mark.parametrize("kind", ["permanent", "exit"])
    def test_what_is_permanent_is_not_tried_again(self, world: FlowWorld, kind: str) -> None:
        world.begin(sample.leaving, f"once-{kind}", world.ledger, kind)
        failure(world, f"once-{kind}")
        assert len([line for line in world.lines(f"leave-{kind}") if f"once-{kind}/" in line]) == 1

    def test_a_flow_catches_an_error_that_takes_other_arguments_than_it_keeps(
        self, world: FlowWorld
    ) -> None:
        world.begin(sample.leaving, "leaving-other", world.ledger, "other")
        assert world.wait("leaving-other")["value"] == "other is overdrawn by 3"
        assert len(world.lines("leave-other")) == 4

    @pytest.mark.parametrize(
        "how",
        ["gather", "gather, thread", "group", "given up, failing", "given up, thread failing"],
    )
    def test_a_step_that_goes_on_when_its_flow_fails_is_recorded_and_undone(
        self, world: FlowWorld, how: str
    ) -> None:
        world.begin(sample.side_by_side, f"beside-{how}", world.ledger, how, how)
        error = failure(world, f"beside-{how}")
        assert str(error).startswith("Declined: "), "not what asyncio makes of it"
        name = "slow_in_a_thread" if "thread" in how else "slow_booking"
        assert error.details["undone"] == [f"{name} (1)"]
        assert error.details["not_undone"] == []
        done = [line for line in world.lines() if f"beside-{how}/" in line]
        assert [line.partition(f" beside-{how}/")[0] for line in done] == [
            f"slow-{how}",
            f"give-back-slow-{how}",
        ]

    def test_a_flow_ends_when_its_steps_have(self, world: FlowWorld) -> None:
        for how in ("left", "given up"):
            world.begin(sample.side_by_side, f"ends-{how}", world.ledger, f"e-{how}", how)
            assert world.wait(f"ends-{how}")["value"] == how
            [step] = world.client.steps(f"ends-{how}")
            assert step["result"] == f"slow-e-{how}"

    def test_a_step_that_nobody_waited_for(self, world: FlowWorld) -> None:
        world.begin(sample.side_by_side, "unheard", world.ledger, "u", "left failing")
        assert world.wait("unheard")["value"] == "not told", "asyncio's rule"
        assert [one["error"] for one in world.client.steps("unheard")] == ["Declined: no", None]
        world.begin(sample.side_by_side, "unbegun", world.ledger, "unbegun", "never begun")
        assert "slow_booking was called and not awaited" in str(failure(world, "unbegun"))
        time.sleep(0.4)
        assert world.client.steps("unbegun") == []
        assert world.lines("slow-unbegun") == []

    def test_when_a_flow_fails_its_other_branches_begin_nothing_more(
        self, world: FlowWorld
    ) -> None:
        world.begin(sample.side_by_side, "branch", world.ledger, "br", "branch")
        assert failure(world, "branch").details["undone"] == ["slow_booking (2)"]
        begun_s = time.monotonic()
        world.begin(sample.side_by_side, "trying", world.ledger, "tr", "trying")
        assert "after a while" in str(failure(world, "trying"))
        assert time.monotonic() - begun_s < 50, "a pause of 60 s was waited for"
        assert world.lines("slow-br-second") == []
        assert len(world.lines("never")) == 1

    def test_a_child_that_goes_on_is_told(self, world: FlowWorld) -> None:
        world.begin(sample.side_by_side, "parent", world.ledger, "pa", "child")
        [kept] = failure(world, "parent").details["not_undone"]
        assert kept == {
            "step": "sleeping_child parent.1",
            "error": "this flow goes on by itself",
        }
        assert world.wait("parent.1")["status"] == "finished"

    def test_a_step_changes_nothing_in_its_flow(self, world: FlowWorld) -> None:
        """It would be otherwise after a crash, when it is not run again."""
        world.begin(sample.changing, "changing", world.ledger, False)
        assert world.wait("changing")["value"] == [["apple"], ["apple"]]
        world.begin(sample.changing, "changed", world.ledger, True)
        assert failure(world, "changed").details["undone"] == ["take_out (1)"]
        assert [line.rpartition(" changed/")[0] for line in world.lines("undo-")] == [
            "undo-{'items': ['apple']}"
        ]
        plain = asyncio.run(_outside(sample.changing, world.ledger))
        assert plain == [["apple"], ["apple"]]

    def test_a_failure_undoes_backwards_and_tells_what_it_could_not(self, world: FlowWorld) -> None:
        world.begin(sample.broken, "broken-1", world.ledger, "b1")
        error = failure(world, "broken-1")
        assert str(error).startswith("Declined: ('order b1 is declined', 42)")
        assert "in broken: " in str(error), "where it was"
        assert error.details["undone"] == ["charge (3)", "charge (1)"]
        assert error.details["not_undone"] == [
            {"step": "book (2)", "error": "Declined: no way back from booked-b1-2"}
        ]
        given_back = [line.split()[0] for line in world.lines("give-back-receipt-b1")]
        assert given_back == ["give-back-receipt-b1-3", "give-back-receipt-b1-1"]

    def test_children_have_an_id_and_fail_as_their_text_says(self, world: FlowWorld) -> None:
        world.begin(sample.parent, "parent-1", world.ledger, "c1")
        code, done = world.wait("parent-1")["value"]
        assert (code, done[0]) == (42, "receipt-c1")
        child = world.client.view("parent-1.1")
        assert (child["flow"], child["parent"], child["status"]) == ("broken", "parent-1", "failed")

    def test_a_flow_that_calls_itself_comes_to_an_end(
        self, world: FlowWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aios.flows.running.MOST_NESTED", 3)
        world.begin(sample.deeper, "deeper-3", 3)
        assert world.wait("deeper-3")["value"] == 3
        world.begin(sample.deeper, "deeper-4", 4)
        assert "more than 3 flows that began one another" in str(failure(world, "deeper-4"))

    def test_what_is_large_goes_to_a_file_and_comes_back_whole(self, world: FlowWorld) -> None:
        world.begin(sample.sized, "sized-1", 2 * LARGE_BYTES)
        assert world.wait("sized-1")["value"] == "x" * 2 * LARGE_BYTES
        [step] = world.client.steps("sized-1")
        assert (step["name"], step["bytes"], step["result"]) == ("large", 2 * LARGE_BYTES + 2, None)

    def test_a_step_that_hangs_fails_in_time(self, world: FlowWorld) -> None:
        world.begin(sample.hanging, "hangs-1")
        error = failure(world, "hangs-1")
        assert isinstance(error, DeadlineExceeded)
        assert "hangs took longer than 0.05 s" in str(error)

    def test_of_a_flow_that_never_was_there_is_no_outcome(self, world: FlowWorld) -> None:
        for flow_id in ("nobody-1", ""):
            with pytest.raises(UnknownName, match="no flow has the id"):
                world.client.outcome(flow_id)

    def test_what_goes_on_beside_a_cancelled_flow_is_recorded(self, world: FlowWorld) -> None:
        world.begin(sample.side_by_side, "cancel-2", world.ledger, "x2", "cancelled")
        while world.client.view("cancel-2")["status"] != "running":
            time.sleep(0.01)
        time.sleep(0.1)
        world.client.cancel("cancel-2")
        world.wait_step("cancel-2", 1)
        steps = world.client.steps("cancel-2")
        assert [one["result"] for one in steps] == ["slow-x2", None]
        assert steps[0]["name"] == "slow_booking (after the flow was cancelled)"
        time.sleep(0.4)
        assert world.lines("slow-x2-second") == []
        fork = world.client.fork("cancel-2", 1)
        world.wait(fork)
        assert world.client.steps(fork)[0]["name"] == "slow_booking", "done again, by its own"

    def test_a_cancelled_flow_does_no_further_step(self, world: FlowWorld) -> None:
        world.begin(sample.order, "cancel-1", world.ledger, "x1", 1.0)
        world.wait_for("charge-x1")
        world.client.cancel("cancel-1")
        assert world.wait("cancel-1")["status"] == "cancelled"
        cancelled = world.client.view("cancel-1")
        assert cancelled["begun_s"] is not None
        assert cancelled["queue"] == QUEUE, "as before; DBOS itself forgets it"
        time.sleep(1.2)
        assert world.lines("ship-x1") == []
        with pytest.raises(IllegalTransition, match="cancelled"):
            world.client.cancel("cancel-1")

    def test_a_fork_keeps_what_was_done_before_its_step(self, world: FlowWorld) -> None:
        world.begin(sample.order, "fork-1", world.ledger, "f1")
        world.wait("fork-1")
        again = world.client.fork("fork-1", 3)
        assert world.wait(again)["value"][0] == "receipt-f1"
        assert (len(world.lines("charge-f1")), len(world.lines("ship-f1-a"))) == (1, 2)
        assert world.client.view(again)["forked_from"] == "fork-1"
        with pytest.raises(aios.UsageError, match="has no step 9; it has 1, 2, 3, 4"):
            world.client.fork("fork-1", 9)

    def test_a_fork_never_believes_in_a_step_that_was_taken_back(self, world: FlowWorld) -> None:
        world.begin(sample.broken, "broken-3", world.ledger, "b3")
        world.wait("broken-3")
        numbers = [one["step"] for one in world.client.steps("broken-3")]
        for from_step in numbers[1:]:
            with pytest.raises(aios.UsageError, match="was taken back"):
                world.client.fork("broken-3", from_step)
        again = world.client.fork("broken-3", 1)
        assert failure(world, again).details["undone"] == ["charge (3)", "charge (1)"]
        assert len(world.lines("charge-b3")) == 4, "done anew before it is taken back anew"

    def test_a_list_of_flows_says_why_those_that_failed_did(self, world: FlowWorld) -> None:
        world.begin(sample.broken, "broken-4", world.ledger, "b4")
        world.begin(sample.order, "listed-4", world.ledger, "l4")
        failure(world, "broken-4"), world.wait("listed-4")
        found = {one["id"]: one for one in world.client.flows()}
        assert found["broken-4"]["error"] == world.client.view("broken-4")["error"]
        assert found["broken-4"]["undone"] == ["charge (3)", "charge (1)"]
        assert found["listed-4"]["error"] is None

    def test_a_queue_takes_only_what_it_will_run(self, world: FlowWorld) -> None:
        client = world.client
        client.register_queue("parted", partition_concurrency=1)
        client.register_queue("plain")
        for more, said in (
            ({"queue": "parted"}, "has limits of each partition: give partition="),
            ({"queue": "plain", "queue_partition_key": "c1"}, "has no partitions"),
            ({"queue_partition_key": "c1"}, "partition='c1' needs queue="),
            ({"priority": 1}, "priority=1 needs queue="),
        ):
            with pytest.raises(aios.UsageError, match=said):
                world.begin(sample.order, "parted-1", world.ledger, "pa1", **more)
        more = {"queue": "parted", "queue_partition_key": "c1"}
        world.begin(sample.order, "parted-1", world.ledger, "pa1", **more)
        assert world.wait("parted-1")["status"] == "finished"

    def test_a_fork_goes_on_with_a_mended_text(self, world: FlowWorld, host: Host) -> None:
        old = DEFINITIONS["order:1"]
        text = old.source.text.replace('f"shipped-{order}"', 'f"mended-{order}"')
        digest = hashlib.sha256(text.encode()).hexdigest()
        source = old.source.model_copy(update={"text": text, "sha256": digest})
        host.definitions["order:2"] = old.model_copy(update={"version": 2, "source": source})
        world.begin(sample.order, "mend-1", world.ledger, "me1")
        world.wait("mend-1")
        again = world.client.fork("mend-1", 3, version=2)
        assert world.wait(again)["value"] == ["receipt-me1", "mended-me1-a", "mended-me1-b"]
        assert len(world.lines("charge-me1")) == 1
        assert (world.client.view(again)["version"], world.client.view("mend-1")["version"]) == (
            2,
            1,
        )

    def test_a_worker_whose_loop_has_ended_ends(
        self, worker: FlowWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop, ended = asyncio.new_event_loop(), threading.Event()
        loop.close()
        monkeypatch.setattr("aios.flows.worker.SWEEP_S", 0.01)
        monkeypatch.setattr(worker, "_lost", ended.set)
        monkeypatch.setattr(worker, "_loop", loop)
        worker._sweep()
        assert ended.is_set()

    def test_what_was_claimed_and_could_not_be_begun_is_begun_later(
        self, world: FlowWorld, worker: FlowWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        called = threading.Event()

        def broken(*_: Any) -> None:
            called.set()
            raise RuntimeError("no thread can be started")

        with monkeypatch.context() as patch:
            patch.setattr("dbos._queue.execute_dequeued_workflow", broken)
            world.begin(sample.order, "not-begun", world.ledger, "claimed")
            assert called.wait(60)
        idle = worker.put_back(set())
        assert idle == {"not-begun"}
        assert world.client.view("not-begun")["status"] == "running"
        world.begin(sample.order, "begun", world.ledger, "ran", 1.0)
        world.wait_step("begun", 1)
        assert worker.put_back({*idle, "begun"}) == idle  # one that runs is left alone
        for flow_id in ("not-begun", "begun"):
            assert world.wait(flow_id)["status"] == "finished"
        assert len(world.lines("charge-claimed ")) == len(world.lines("charge-ran ")) == 1

    def test_nothing_but_json_is_in_the_database(self, world: FlowWorld) -> None:
        world.begin(sample.broken, "json-1", world.ledger, "j1")
        world.wait("json-1")
        connection = sqlite3.connect(world.folder / "user-flows.db")
        kinds = set()
        for table in ("workflow_status", "operation_outputs"):
            query = f"SELECT DISTINCT serialization FROM {table}"
            kinds |= {row[0] for row in connection.execute(query)}
        connection.close()
        assert kinds == {"aios_json"}


class TestQuestions:
    def test_an_answer_that_the_model_refuses_is_asked_for_again(
        self, world: FlowWorld, host: Host
    ) -> None:
        world.begin(sample.asking, "ask-1")
        question = "ask-1/1"
        host.told[question] = {"status": "answered", "answer": {"approve": True, "note": "NO"}}
        give_up_s = time.monotonic() + 30
        while not host.refused:
            assert time.monotonic() < give_up_s
            time.sleep(0.02)
        assert "do not shout" in host.refused[0]
        host.told[question] = {"status": "answered", "answer": {"approve": True, "note": "ok"}}
        assert world.wait("ask-1")["value"] == ["Decision", True]
        asked = host.asked[question]
        assert (asked["to"], asked["flow"], asked["unanswered"]) == (
            "approver",
            "ask-1",
            "it waits",
        )
        assert set(asked["form"]["properties"]) == {"approve", "note"}

    def test_silence_gives_the_stated_default(self, world: FlowWorld, host: Host) -> None:
        world.begin(sample.asking, "ask-2", 0.0)
        assert world.wait("ask-2")["value"] is None

    def test_silence_without_a_default_is_an_error(self, world: FlowWorld, host: Host) -> None:
        world.begin(sample.unanswered, "ask-3")
        error = failure(world, "ask-3")
        assert isinstance(error, DeadlineExceeded)
        assert "nobody answered 'approve?' within 0 s" in str(error)


class TestStarting:
    def test_the_same_id_runs_once_and_other_arguments_are_refused(self, world: FlowWorld) -> None:
        for _ in range(3):
            assert world.begin(sample.order, "same-1", world.ledger, "s1") == "same-1"
        world.wait("same-1")
        assert world.begin(sample.order, "same-1", world.ledger, "s1") == "same-1"
        assert len(world.lines("charge-s1")) == 1
        with pytest.raises(aios.UsageError, match="used already, by order:1 with other arguments"):
            world.begin(sample.order, "same-1", world.ledger, "other")
        with pytest.raises(aios.UsageError, match="used already"):
            world.begin(sample.sized, "same-1", 1)

    @pytest.mark.parametrize("flow_id", ["", " ", "a/b", "x" * 201, "a\nb", " x", ".", ".."])
    def test_ids_that_cannot_be(self, world: FlowWorld, flow_id: str) -> None:
        with pytest.raises(aios.UsageError, match="is no id of a flow"):
            world.begin(sample.sized, flow_id, 1)

    @pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, b"x"])
    def test_arguments_that_are_not_json(self, world: FlowWorld, value: Any) -> None:
        with pytest.raises(aios.UsageError, match="an argument of flow 'sized' is not JSON"):
            world.begin(sample.sized, "bad-1", value)

    def test_arguments_that_are_too_large(self, world: FlowWorld) -> None:
        with pytest.raises(aios.UsageError, match="of at most 1,048,576"):
            world.begin(sample.sized, "bad-2", "x" * 2_000_000)

    def test_arguments_that_the_flow_does_not_take(self, world: FlowWorld) -> None:
        world.begin(sample.sized, "bad-3", 1, 2, 3)
        assert "flow 'sized': too many positional arguments" in str(failure(world, "bad-3"))
        with pytest.raises(aios.UsageError, match="siez is no argument; did you mean size"):
            sample.sized.refuse_unfit([], {"siez": 1})

    def test_a_version_that_nobody_sent(self, world: FlowWorld) -> None:
        gone = DEFINITIONS["sized:1"].model_copy(update={"version": 7})
        world.client.begin(gone, [1], {}, "bad-4", "ann")
        assert isinstance(failure(world, "bad-4"), UnknownName)

    def test_a_result_that_is_not_json(self, world: FlowWorld) -> None:
        world.begin(sample.bad_result, "bad-5")
        assert "what step 'no_json' returns is not JSON" in str(failure(world, "bad-5"))

    def test_a_step_that_was_not_awaited(self, world: FlowWorld) -> None:
        world.begin(sample.forgetful, "bad-6", world.ledger)
        assert "charge was called and not awaited" in str(failure(world, "bad-6"))

    def test_an_unknown_flow_queue_or_status(self, world: FlowWorld) -> None:
        with pytest.raises(UnknownName, match="no flow has the id 'nope'"):
            world.client.view("nope")
        with pytest.raises(UnknownName, match="no queue 'nope'; there are aios"):
            world.begin(sample.sized, "bad-7", 1, queue="nope")
        with pytest.raises(aios.UsageError, match="no flow is ever 'lost'; they are cancelled"):
            world.client.flows(status="lost")

    def test_flows_are_found_by_name_and_attribute(self, world: FlowWorld) -> None:
        for number, region in enumerate(("eu", "us", "eu")):
            world.begin(sample.sized, f"found-{number}", 1, attributes={"region": region})
        found = world.client.flows("sized", attributes={"region": "eu"})
        assert [one["id"] for one in found] == ["found-2", "found-0"]

    def test_one_of_a_kind_in_a_queue(self, world: FlowWorld) -> None:
        world.client.register_queue("singles")
        first = world.begin(
            sample.order, "dedup-1", world.ledger, "d1", 0.5, queue="singles", dedup="d"
        )
        second = world.begin(
            sample.order, "dedup-2", world.ledger, "d2", queue="singles", dedup="d"
        )
        assert (first, second) == ("dedup-1", "dedup-1")
        world.wait("dedup-1")
        assert world.lines("charge-d2") == []

    def test_of_calls_in_quick_succession_the_last_counts(self, world: FlowWorld) -> None:
        more = {"dedup": "customer-7", "debounce_s": 0.5}
        ids = {world.begin(sample.sized, f"bounce-{n}", n, **more) for n in (1, 2, 3)}
        assert ids == {"bounce-1"}
        assert world.wait("bounce-1")["value"] == "xxx"
        with pytest.raises(aios.UsageError, match="debounce_s needs dedup"):
            world.begin(sample.sized, "bounce-4", 1, debounce_s=1.0)

    def test_a_queue_runs_as_many_as_it_may(self, world: FlowWorld) -> None:
        world.client.register_queue("narrow", global_concurrency=1)
        for number in range(3):
            world.begin(
                sample.order, f"n-{number}", world.ledger, f"n{number}", 0.1, queue="narrow"
            )
        for number in range(3):
            world.wait(f"n-{number}")
        done = [line.split()[0].split("-")[1] for line in world.lines() if "-n" in line]
        assert done == ["n0"] * 3 + ["n1"] * 3 + ["n2"] * 3

    def test_schedules(self, world: FlowWorld) -> None:
        definition = DEFINITIONS["sized:1"]
        call = {"args": [3], "kwargs": {}}
        world.client.schedule(
            "often", definition, call, "ann", "* * * * * *", "Europe/Prague", True
        )
        [found] = world.client.schedules()
        assert (found["flow"], found["timezone"], found["backfill"]) == (
            "sized:1",
            "Europe/Prague",
            True,
        )
        give_up_s = time.monotonic() + 60
        while not (ran := [f for f in world.client.flows("sized") if f["schedule"] == "often"]):
            assert time.monotonic() < give_up_s
            time.sleep(0.1)
        world.client.unschedule("often")
        assert world.wait(ran[0]["id"])["value"] == "xxx"
        with pytest.raises(UnknownName, match="no schedule 'often'"):
            world.client.unschedule("often")

    def test_a_schedule_that_cannot_be_taken_leaves_the_one_of_its_name(
        self, world: FlowWorld
    ) -> None:
        definition, call = DEFINITIONS["sized:1"], {"args": [3], "kwargs": {}}
        world.client.schedule("daily", definition, call, "ann", "0 7 * * *", None, False)
        for cron, zone, told in (
            ("nonsense", None, "schedule 'daily': cron='nonsense' is no cron line: five fields"),
            ("* * * * *", "Mars/Olympus", "timezone='Mars/Olympus' is no time zone, such as"),
        ):
            with pytest.raises(aios.UsageError, match=told):
                world.client.schedule("daily", definition, call, "ann", cron, zone, False)
        assert [one["cron"] for one in world.client.schedules()] == ["0 7 * * *"]
        world.client.schedule("daily", definition, call, "bob", "0 8 * * *", None, False)
        assert [(one["cron"], one["by"]) for one in world.client.schedules()] == [
            ("0 8 * * *", "bob")
        ]
        world.client.unschedule("daily")


class TestOutside:
    """Steps and flows are functions where no worker runs them."""

    def test_a_step_and_a_flow_just_run(self, tmp_path: Path) -> None:
        ledger = str(tmp_path / "ledger")
        assert asyncio.run(sample.order(ledger, "t1"))[0] == "receipt-t1"
        assert sample.large(3) == "xxx"
        with pytest.raises(ConnectionError):  # once: who tests a step wants to see it fail
            sample.plain_order(ledger, "t2")
        with pytest.raises(aios.UsageError, match="for steps of a running flow"):
            aios.operation_id()

    def test_a_failure_undoes_here_too(self, tmp_path: Path) -> None:
        ledger = tmp_path / "ledger"

        @aios.flow
        async def breaks(ledger: str) -> None:
            await sample.charge(ledger, "a")
            await sample.charge(ledger, "b")
            await sample.refuse("x")

        with pytest.raises(sample.Declined):
            asyncio.run(breaks(str(ledger)))
        undone = [line.split()[0] for line in ledger.read_text().splitlines()][2:]
        assert undone == ["give-back-receipt-b", "give-back-receipt-a"]

    def test_a_question_is_for_flows(self) -> None:
        with pytest.raises(aios.UsageError, match="is for flows"):
            aios.ask("really?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": -1}, "retries=-1: give a whole number"),
        ({"retries": 1.5}, "retries=1.5: give a whole number"),
        ({"timeout_s": 0}, "timeout_s=0: give a number"),
        ({"num_cpus": float("nan")}, "num_cpus=nan: give a number"),
        ({"undo": "charge"}, "undo='charge' is no function"),
        ({"retires": 3}, "a step has no 'retires'; it has retries"),
    ],
)
def test_options_of_steps_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(aios.UsageError, match=message):
        aios.step(**options)


def test_an_undo_that_could_not_be_called_is_refused_where_it_is_written() -> None:
    def forgetful() -> None: ...

    def by_place(result: str, order: str, amount: int) -> None: ...

    def by_name(result: str, *, order: str, amount: int) -> None: ...

    def of_anything(result: str, *args: Any, **kwargs: Any) -> None: ...

    def charge(order: str, amount: int, currency: str = "EUR") -> str:
        return order

    def charge_all(order: str | None = None, amount: int = 1) -> str: ...

    def charge_any(*args: Any) -> str: ...

    for undo in (by_place, by_name, of_anything, aios.step(by_place), print):
        for function in (charge, charge_all, charge_any):
            aios.step(undo=undo)(function)
    told = r"undo=forgetful\(\) -> None does not fit step charge\(order: str, amount: int"
    with pytest.raises(aios.UsageError, match=told):
        aios.step(undo=forgetful)(charge)


def test_names_of_flows_that_cannot_be() -> None:
    with pytest.raises(aios.UsageError, match=r'write @aios\.flow\(name="refund"\)'):

        @aios.flow
        def Refund() -> None: ...

    with pytest.raises(aios.UsageError, match=r"@aios\.flow is for functions"):
        aios.flow(3)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["", 3])
def test_more_names_of_flows_that_cannot_be(name: Any) -> None:
    with pytest.raises(aios.UsageError, match="is no name of a flow"):
        aios.flow(name=name)(lambda: None)


def test_a_step_that_yields_is_refused() -> None:
    def generator() -> Any:
        yield 1

    with pytest.raises(aios.UsageError, match="the step generator yields"):
        aios.step(generator)


def test_an_option_that_might_be_meant_for_the_flow_is_refused() -> None:
    class NoRuntime(Acting):
        """Whoever asks it anything has checked too little."""

    with pytest.raises(aios.UsageError, match="has an argument 'priority', and priority= says"):
        NoRuntime().start(sample.urgent, "o-1", priority=3)
    with pytest.raises(AttributeError, match="_transport"):
        NoRuntime().start(sample.urgent, "o-1", 7, priority=3)
