"""Commands about users' flows, in a kernel whose workers are begun and do nothing."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sample_flows as sample
from kernel_fakes import ANN, FakeCrew, World

import aios
from aios.errors import Forbidden, IllegalTransition, UnknownName, UsageError
from aios.flows.facts import refuse_unfit_call
from aios.packaging import code_of
from aios.records.acting import Definition
from aios.security import Caller

OPERATOR = Caller("oscar", "operator")
APPROVER = Caller("bea", "approver")
SUPPORT = Caller("support", "viewer")
QUESTION = {
    "id": "a-1/1",
    "flow": "a-1",
    "text": "approve?",
    "form": sample.Decision.model_json_schema(),
    "to": "approver",
    "timeout_s": 60.0,
    "unanswered": "it fails",
    "asked_by": "ann",
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.kernel.close()


def define(world: World, flow: Any = sample.asking) -> str:
    source = code_of(flow, "flow").model_dump(mode="json")
    return str(world.do("define_flow", name=flow.name, source=source)["ref"])


def wait(until: Callable[[], Any]) -> None:
    give_up_s = time.monotonic() + 30
    while not until():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def actions(world: World) -> list[str]:
    return [entry["action"] for entry in world.do("audit", limit=100, subject=None)]


def put(world: World, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = world.kernel.flows.asked_by_worker("put_question", {**QUESTION, **more})
    return found


class TestStarting:
    def test_nothing_begins_before_the_first_flow(self, world: World) -> None:
        world.kernel.flows.start()
        assert world.do("flows") == world.do("inbox") == world.do("queues") == []
        assert world.kernel.flows.workers.processes() == []
        assert not (world.settings.home / "user-flows.db").exists()
        with pytest.raises(UnknownName, match="none was ever started"):
            world.do("flow", id="x")

    def test_a_flow_is_begun_once_and_has_workers(self, world: World) -> None:
        assert define(world) == define(world) == "asking:1"
        for operation in ("o1", "o1", "o2"):
            found = world.do("start_flow", operation, flow="asking", id="a-1")
            assert found == {"id": "a-1", "ref": "asking:1"}
        [flow] = world.do("flows")
        assert (flow["flow"], flow["version"], flow["status"], flow["by"]) == (
            "asking",
            1,
            "queued",
            "ann",
        )
        wait(lambda: len(world.kernel.flows.workers.processes()) == 2)
        assert actions(world).count("start_flow") == 2  # o1 was written down once

    def test_a_start_that_was_cut_off_after_its_entry_is_made_up_for(self, world: World) -> None:
        """The entry was written, and the kernel died: the same call again begins the flow."""
        define(world)
        begin = world.kernel.flows.begin

        def die(*_: Any, **__: Any) -> str:
            raise ConnectionError("killed here")

        world.kernel.flows.begin = die  # type: ignore[method-assign]
        with pytest.raises(ConnectionError):
            world.do("start_flow", "o1", flow="asking", id="a-1")
        world.kernel.flows.begin = begin  # type: ignore[method-assign]
        world.do("start_flow", "o1", flow="asking", id="a-1")
        assert [one["id"] for one in world.do("flows")] == ["a-1"]
        assert actions(world).count("start_flow") == 1

    def test_an_operator_starts_what_is_known_and_sends_no_text(self, world: World) -> None:
        define(world)
        assert world.ask(OPERATOR, "start_flow", flow="asking:1", id="a-1")["id"] == "a-1"
        source = code_of(sample.asking, "flow").model_dump(mode="json")
        with pytest.raises(Forbidden, match=r"may not rt\.start with a text that is new here"):
            world.ask(OPERATOR, "define_flow", name="asking", source=source)
        with pytest.raises(Forbidden):
            world.ask(SUPPORT, "start_flow", flow="asking", id="a-2")

    @pytest.mark.parametrize(
        ("arguments", "error", "told"),
        [
            ({"flow": "asking", "id": ""}, UsageError, "is no id of a flow"),
            ({"flow": "asking:9", "id": "x"}, UnknownName, "no version 9; it has 1"),
            ({"flow": "asking:x", "id": "x"}, UsageError, "one looks like refund"),
            ({"flow": "nope", "id": "x"}, UnknownName, "known: asking"),
            ({"flow": "asking", "id": "x", "queue": "nope"}, UnknownName, "no queue 'nope'"),
            ({"flow": "asking", "id": "x", "priority": 0}, UsageError, "priority"),
            ({"flow": "asking", "id": "x", "sha256": "0" * 64}, UnknownName, "not sent with this"),
            ({"flow": "asking", "id": "x", "attributes": [1]}, UsageError, "attributes"),
            ({"flow": "asking", "id": "x", "delay_s": 1e300}, UsageError, "delay_s"),
        ],
    )
    def test_what_cannot_be_started(
        self, world: World, arguments: dict[str, Any], error: type[Exception], told: str
    ) -> None:
        define(world)
        with pytest.raises(error, match=told):
            world.do("start_flow", **arguments)
        assert world.do("flows") == []

    def test_flows_of_before_have_workers_again(self, world: World) -> None:
        define(world)
        world.restart()
        world.kernel.flows.start()
        wait(lambda: len(world.kernel.flows.workers.processes()) == 2)

    def test_a_worker_that_died_is_replaced(self, world: World) -> None:
        define(world)
        crew: FakeCrew = world.kernel.flows.workers._crew  # type: ignore[assignment]
        wait(lambda: len(crew.there) == 2)
        dead, other = sorted(crew.there)
        crew.dead = {dead}
        wait(lambda: dead not in crew.there and len(crew.there) == 2)
        assert other in crew.there


class TestQuestions:
    @pytest.fixture
    def asked(self, world: World) -> World:
        define(world)
        world.do("start_flow", flow="asking", id="a-1")
        put(world)
        return world

    def test_the_inbox_shows_it_until_it_is_answered(self, asked: World) -> None:
        put(asked)  # a worker that died asks again
        [question] = asked.do("inbox")
        assert (question["text"], question["to"], question["unanswered"]) == (
            "approve?",
            "approver",
            "it fails",
        )
        answers = asked.kernel.flows.asked_by_worker
        assert answers("answers", ["a-1/1"]) == {}
        asked.ask(APPROVER, "answer", id="a-1/1", answer={"approve": True})
        told = answers("answers", ["a-1/1"])["a-1/1"]
        assert told == {"status": "answered", "answer": {"approve": True}}
        assert asked.do("inbox") == []
        with pytest.raises(IllegalTransition, match="is answered, and takes no answer"):
            asked.ask(APPROVER, "answer", id="a-1/1", answer={"approve": False})

    def test_the_inbox_says_that_nobody_is_of_that_name(self, asked: World) -> None:
        """Not refused: an administrator may answer, and a key may be added meanwhile."""
        put(asked, id="a-1/2", to="carol")
        approver, carol = asked.do("inbox")
        assert approver["problem"] is None
        assert "no key that may answer is of 'carol'" in carol["problem"]
        asked.do("add_key", identity="carol", role="auditor")
        assert asked.do("inbox")[1]["problem"] is not None  # an auditor answers nothing
        asked.do("add_key", identity="carol", role="viewer")
        assert asked.do("inbox")[1]["problem"] is None
        told = [one["details"] for one in asked.do("audit", limit=100) if one["action"] == "ask"]
        assert [("warning" in one, one["to"]) for one in told] == [
            (True, "carol"),
            (False, "approver"),
        ]

    def test_who_may_answer(self, asked: World) -> None:
        good = {"id": "a-1/1", "answer": {"approve": True}}
        with pytest.raises(Forbidden, match="is for 'approver'; you are oscar"):
            asked.ask(OPERATOR, "answer", **good)
        with pytest.raises(Forbidden, match="ann began flow 'a-1', so somebody else must approve"):
            asked.ask(ANN, "answer", **good)
        put(asked, id="a-1/2", to="support")
        with pytest.raises(Forbidden, match="is for 'support'"):
            asked.ask(APPROVER, "answer", id="a-1/2", answer={"approve": True})
        asked.ask(SUPPORT, "answer", id="a-1/2", answer={"approve": True})
        assert "denied" in actions(asked)

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            ({}, "'approve' is a required property"),
            ({"approve": "yes"}, "approve: 'yes' is not of type 'boolean'"),
            (None, "the answer: None is not of type 'object'"),
            ({"approve": True, "not": "late"}, r"the answer: .*'not' was unexpected"),
        ],
    )
    def test_an_answer_that_does_not_fit(self, asked: World, answer: Any, told: str) -> None:
        with pytest.raises(UsageError, match=told):
            asked.ask(APPROVER, "answer", id="a-1/1", answer=answer)
        assert len(asked.do("inbox")) == 1

    def test_silence_expires_and_is_no_yes(self, asked: World) -> None:
        answers = asked.kernel.flows.asked_by_worker
        asked.clock.advance(60.0)
        with pytest.raises(IllegalTransition, match="is expired"):
            asked.ask(APPROVER, "answer", id="a-1/1", answer={"approve": True})
        found = answers("answers", ["a-1/1"])["a-1/1"]
        assert found == {"status": "expired", "answer": None}
        assert asked.do("inbox") == []

    def test_a_form_that_takes_other_fields_takes_them(self, asked: World) -> None:
        form = sample.Decision.model_json_schema() | {"additionalProperties": True}
        put(asked, id="a-1/9", form=form)
        asked.ask(APPROVER, "answer", id="a-1/9", answer={"approve": True, "by": "phone"})
        told = asked.kernel.flows.asked_by_worker("answers", ["a-1/9"])
        assert told["a-1/9"]["answer"] == {"approve": True, "by": "phone"}

    def test_an_answer_that_the_flow_refuses_is_asked_for_again(self, asked: World) -> None:
        asked.ask(APPROVER, "answer", id="a-1/1", answer={"approve": True, "note": "NO"})
        asked.kernel.flows.asked_by_worker("refuse_answer", "a-1/1", "note: do not shout")
        [question] = asked.do("inbox")
        assert question["problem"] == "note: do not shout"

    def test_what_a_cancelled_flow_asked_is_withdrawn(self, asked: World) -> None:
        asked.ask(OPERATOR, "cancel_flow", id="a-1")
        assert asked.do("inbox") == []
        assert asked.kernel.registry.question("a-1/1").status == "withdrawn"
        with pytest.raises(IllegalTransition, match="ended already: cancelled"):
            asked.do("cancel_flow", id="a-1")

    def test_an_unknown_question(self, asked: World) -> None:
        with pytest.raises(UnknownName, match="in the inbox: a-1/1"):
            asked.do("answer", id="nope/1", answer=1)


def test_versions_tell_what_a_flow_takes(world: World) -> None:
    source = code_of(sample.asking, "flow").model_dump(mode="json")
    world.do("define_flow", name="asking", source=source, facts=sample.asking.facts)
    [known] = world.do("flow_versions")
    assert (known["name"], known["version"], "source" in known) == ("asking", 1, False)
    assert known["facts"]["arguments"]["type"] == "object"
    assert world.do("flow_versions", name="other") == []


def test_queues_and_schedules(world: World) -> None:
    define(world, sample.sized)
    world.do("set_queue", name="slow", concurrency=1, rate=[10, 60])
    found = {one["name"]: one for one in world.do("queues")}
    assert (found["slow"]["concurrency"], found["slow"]["rate"]) == (1, [10, 60.0])
    with pytest.raises(UsageError, match="give \\(starts, seconds\\)"):
        world.do("set_queue", name="slow", rate=[0, 60])
    given = {"name": "daily", "flow": "sized", "cron": "0 7 * * *", "args": [3]}
    world.do("set_schedule", **given, timezone="Europe/Prague")
    [schedule] = world.do("schedules")
    assert (schedule["flow"], schedule["cron"], schedule["by"]) == ("sized:1", "0 7 * * *", "ann")
    world.do("end_schedule", id="daily")
    assert world.do("schedules") == []
    with pytest.raises(UnknownName, match="no schedule 'daily'"):
        world.do("end_schedule", id="daily")


@pytest.mark.parametrize(
    ("args", "kwargs", "told"),
    [
        (["a"], {}, "'fail' is missing"),
        (["a", True], {"fail": True}, "'fail' is given twice"),
        (["a", True], {"too": 1}, "it has no 'too'"),
        (["a"] * 9, {}, "it takes 2 arguments by their place, and got 9"),
    ],
)
def test_a_flow_that_is_begun_by_its_name_is_called_as_it_takes(
    world: World, args: list[Any], kwargs: dict[str, Any], told: str
) -> None:
    source = code_of(sample.changing, "flow").model_dump(mode="json")
    world.do("define_flow", name="changing", source=source, facts=sample.changing.facts)
    call = {"flow": "changing", "args": args, "kwargs": kwargs}
    with pytest.raises(UsageError, match=told):
        world.do("start_flow", id="x", **call)
    with pytest.raises(UsageError, match=told):
        world.do("set_schedule", name="daily", cron="0 7 * * *", **call)
    assert world.do("flows") == world.do("schedules") == []


def test_a_flow_of_any_arguments_takes_any() -> None:
    @aios.flow
    async def anything(first: int, *more: int, **named: int) -> None: ...

    fields = {"kind": "flow", "name": "anything", "version": 1, "created_s": 0.0}
    source = code_of(sample.asking, "flow")
    made = Definition(**fields, created_by="ann", source=source, facts=anything.facts)
    refuse_unfit_call(made, [1, 2, 3], {"other": 4})
    with pytest.raises(UsageError, match="'first' is missing"):
        refuse_unfit_call(made, [], {"other": 4})


def test_the_queue_of_all_flows_has_no_limits(world: World) -> None:
    define(world)
    with pytest.raises(UsageError, match="is the queue of all flows"):
        world.do("set_queue", name="aios", concurrency=1)
    [own] = [one for one in world.do("queues") if one["name"] == "aios"]
    assert own["concurrency"] is None
