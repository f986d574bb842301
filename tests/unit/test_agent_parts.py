"""The parts of agents: tools and classes as they are declared, supervision, hosts, the watchdog."""

import asyncio
import hashlib
import time
from typing import Any

import pytest
from agent_classes import Clerk, Memory
from pydantic import BaseModel

import aios
from aios.agents import AgentHost, agent_class, tool_of
from aios.agents.budget import Meter
from aios.agents.supervision import Again, Bury, after_failure, unfit, wider
from aios.agents.watchdog import LoopBlocked, Watchdog
from aios.errors import BudgetExceeded, TemporaryError, UnknownName, UsageError
from aios.packaging import code_of
from aios.records import CodeSource
from aios.records.agents import (
    AgentRow,
    Budget,
    Delivery,
    Letter,
    Mail,
    Restarts,
    Spent,
)

ROW = AgentRow(ref="a/1", name="a", id="1", version=1, created_s=0, created_by="x", updated_s=0)
MAIL = Mail(seq=1, agent="a/1", kind="message", message=1, sender="x", state="waiting", at_s=0)


def look_up(order: str, limit: int = 3) -> str:
    """Find an order.

    More is told here.
    """
    return order * limit


# -- declarations -----------------------------------------------------------------------


def test_a_plain_function_is_a_tool_with_the_schema_of_its_signature() -> None:
    found = tool_of(look_up)
    assert found.facts.name == "look_up"
    assert found.facts.scopes == ()
    assert found.facts.description.startswith("Find an order.")
    assert found.facts.arguments["required"] == ["order"]
    assert found.read({"order": "o", "limit": "2"}) == {"order": "o", "limit": 2}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "order: Field required"),
        ({"order": 1}, "order: Input should be a valid string"),
        ({"order": "o", "limit": "many"}, "limit: Input should be a valid integer"),
        ({"order": "o", "rm": "-rf"}, "rm: Extra inputs are not permitted"),
    ],
)
def test_arguments_that_do_not_fit_are_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=f"tool look_up: {told}"):
        tool_of(look_up).read(given)


def test_an_idempotency_key_is_not_the_agents_to_give() -> None:
    def pay(amount: float, idempotency_key: str) -> None: ...

    found = tool_of(pay)
    assert found.wants_key
    assert list(found.facts.arguments["properties"]) == ["amount"]
    with pytest.raises(UsageError, match="idempotency_key: Extra inputs"):
        found.read({"amount": 1, "idempotency_key": "mine"})


def test_a_tool_that_cannot_be_one_is_refused() -> None:
    def untyped(order): ...

    def many(*orders: str) -> None: ...

    for bad, told in (
        (untyped, "parameter 'order' has no annotation"),
        (many, "cannot be given by name"),
        (lambda x: x, "give functions that have a name"),
        ("look_up", "give functions that have a name"),
    ):
        with pytest.raises(UsageError, match=told):
            tool_of(bad)
    with pytest.raises(UsageError, match="is no scope"):
        aios.tool(scopes="Send Money!")
    with pytest.raises(UsageError, match="names who must agree"):
        aios.tool(approval=" ")


def test_a_class_that_cannot_be_an_agent_is_refused() -> None:
    class Sync:
        def on_message(self, ctx, message): ...

    class Few:
        async def on_message(self, ctx): ...

    class Silent:
        pass

    for bad, told in (
        (Sync, "which it has without async"),
        (Few, r"on_message takes \(self, ctx, message\)"),
        (Silent, "which it has not"),
    ):
        with pytest.raises(UsageError, match=told):
            aios.agent(bad)
    with pytest.raises(UsageError, match="is no pydantic model"):
        aios.agent(state=dict)(type("A", (), {"on_message": Clerk.on_message}))
    with pytest.raises(UsageError, match="is no agent's name"):
        aios.agent(name="No Name")(type("A", (), {"on_message": Clerk.on_message}))
    with pytest.raises(UsageError, match=r"put @aios\.agent before a class"):
        agent_class(Silent)


def test_a_budget_that_is_none_is_refused() -> None:
    for bad in ({"usd": 0}, {"steps": -1}, {"seconds": float("nan")}, {"euros": 3}):
        with pytest.raises(UsageError, match="Budget:"):
            Budget(**bad)


def test_a_state_of_another_version_that_does_not_fit_is_told() -> None:
    made = agent_class(Clerk)
    assert made.read_state(None) == Memory()
    with pytest.raises(UsageError, match="its state does not fit Memory: seen"):
        made.read_state({"seen": 3})


def test_a_state_that_a_caller_gives_has_no_unknown_fields() -> None:
    made = agent_class(Clerk)
    made.refuse_unknown({"seen": ["a"]})
    made.read_state({"seen": ["a"], "of_an_older_version": 1})
    with pytest.raises(UsageError, match=r"no field 'sene'; it has seen, level"):
        made.refuse_unknown({"sene": []})


# -- decisions --------------------------------------------------------------------------


def test_backoff_doubles_up_to_a_minute_then_the_message_dies() -> None:
    rules = Restarts(retries=10, backoff_s=4)
    pauses = []
    for attempts in range(10):
        mail = MAIL.model_copy(update={"attempts": attempts})
        became = after_failure(mail, ROW, rules, retry=True, now_s=100)
        assert isinstance(became, Again)
        pauses.append(became.due_s - 100)
    assert pauses == [4, 8, 16, 32, 60, 60, 60, 60, 60, 60]
    last = MAIL.model_copy(update={"attempts": 10})
    assert isinstance(after_failure(last, ROW, rules, retry=True, now_s=100), Bury)


def test_only_failures_of_late_count_against_an_agent() -> None:
    rules = Restarts(retries=0, limit=2, within_s=60)
    row = ROW.model_copy(update={"restarts": (10.0, 50.0)})
    now = after_failure(MAIL, row, rules, retry=True, now_s=60)
    later = after_failure(MAIL, row, rules, retry=True, now_s=80)
    assert now == Bury((10.0, 50.0, 60), stop=True)
    assert later == Bury((50.0, 80), stop=False)


def test_a_message_fits_up_to_each_limit() -> None:
    letter = Letter(to="a/1", message=1, sender="x")
    for row, other in (
        ({"waiting": 99_999}, {}),
        ({}, {"hops": 100}),
        ({}, {"path": tuple(f"b/{n}" for n in range(8))}),
    ):
        fits = unfit(ROW.model_copy(update=row), letter.model_copy(update=other))
        assert fits is None
    for row, other, told in (
        ({"waiting": 100_000}, {}, "100,000 messages wait"),
        ({}, {"hops": 101}, "in a circle"),
        ({}, {"path": tuple(f"b/{n}" for n in range(9))}, "more than 8 agents"),
        ({}, {"path": ("b/1", "a/1", "c/1")}, "b/1 -> a/1 -> c/1 -> a/1"),
        ({"status": "killed", "problem": "old"}, {}, "is killed and takes no messages: old"),
    ):
        fault = unfit(ROW.model_copy(update=row), letter.model_copy(update=other))
        assert fault is not None
        assert told in fault.message


def test_scopes_are_only_handed_down() -> None:
    assert wider(("a",), ("a", "b")) == []
    assert wider(("a", "z"), ("a", "b")) == ["z"]


def test_a_meter_counts_what_was_too_much() -> None:
    meter = Meter("a/1", Budget(usd=1, tokens=10), Spent(usd=0.5))
    meter.spend(usd=0.5, tokens=10)
    assert meter.left() == {"usd": 0, "tokens": 0, "seconds": None, "steps": None}
    with pytest.raises(BudgetExceeded, match="used 11 of its 10 tokens"):
        meter.spend(tokens=1)
    assert meter.now.tokens == 11
    with pytest.raises(UsageError, match="less than nothing"):
        meter.spend(usd=-1)


# -- hosts ------------------------------------------------------------------------------


class Desk:
    """The kernel, as a host sees it."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []
        self.calls: list[int] = []
        self.away = 0
        self.came = asyncio.Event()
        self.source = code_of(Clerk, "agent")

    async def __call__(self, what: str, told: Any) -> Any:
        if what == "definition":
            return {"source": self.source.model_dump(mode="json")}
        if what == "done":
            if self.away:
                self.away -= 1
                raise TemporaryError("the kernel is away")
            self.calls.append(len(told))
            self.done += told
            self.came.set()
            return [True] * len(told)
        raise UnknownName(what)


def delivery(seq: int, message: Any, ref: str = "clerk/1") -> Delivery:
    name, _, agent_id = ref.partition("/")
    about = {"ref": ref, "name": name, "id": agent_id, "version": 1, "seq": seq, "attempt": 0}
    more = {"kind": "message", "message": message, "sender": "x", "path": (), "hops": 0}
    kept = {"state": None, "budget": Budget(), "spent": Spent(), "scopes": (), "parent": None}
    return Delivery(**about, **more, **kept)


async def until(holds: Any) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


def hosted(scenario: Any, **settings: Any) -> Any:
    async def run() -> Any:
        desk = Desk()
        host = AgentHost(desk, lambda *_: None, **settings)  # type: ignore[arg-type]
        telling = asyncio.create_task(host.tell_forever())
        try:
            return await scenario(host, desk)
        finally:
            telling.cancel()

    return asyncio.run(run())


def test_what_ended_while_the_kernel_was_told_is_told_together() -> None:
    async def scenario(host: AgentHost, desk: Desk) -> None:
        desk.away = 1
        host.deliver([delivery(n, {"text": "x"}, f"clerk/{n}") for n in range(50)])
        await until(lambda: len(desk.done) == 50)
        assert len(desk.calls) < 5
        assert host.busy == 0

    hosted(scenario)


def test_a_message_that_is_delivered_twice_is_begun_once() -> None:
    async def scenario(host: AgentHost, desk: Desk) -> None:
        host.deliver([delivery(1, {"text": "x"})])
        host.deliver([delivery(1, {"text": "x"}), delivery(2, {"text": "y"}, "clerk/2")])
        await until(lambda: len(desk.done) == 2)
        assert sorted(one["seq"] for one in desk.done) == [1, 2]

    hosted(scenario)


def asleep(source: CodeSource, seconds: float) -> CodeSource:
    """A text that takes so long at its top."""
    text = f"import time\ntime.sleep({seconds})\n{source.text}"
    told = {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return source.model_copy(update=told)


def test_an_agent_that_takes_long_to_load_holds_up_nobody_and_fails_no_message() -> None:
    async def scenario(host: AgentHost, desk: Desk) -> list[dict[str, Any]]:
        desk.source = asleep(desk.source, 0.5)
        gave_up: list[str] = []
        watchdog = Watchdog(gave_up.append, limit_s=0.2, give_up_s=0.1)
        host.deliver([delivery(1, {"text": "x"}), delivery(2, {"text": "y"}, "clerk/2")])
        await until(lambda: len(desk.done) == 2)
        watchdog.close()
        assert gave_up == []
        return desk.done

    assert [one["problem"] for one in hosted(scenario)] == [None, None]


def test_an_agent_that_never_loads_is_told() -> None:
    async def scenario(host: AgentHost, desk: Desk) -> str:
        desk.source = asleep(desk.source, 0.5)
        host.deliver([delivery(1, {"text": "x"})])
        await until(lambda: desk.done)
        return str(desk.done[0]["problem"]["detail"])

    assert "was not loaded after 0 s" in hosted(scenario, load_s=0.1)


def test_a_cancelled_message_is_not_told_of() -> None:
    async def scenario(host: AgentHost, desk: Desk) -> None:
        host.deliver([delivery(1, {"do": "sleep"})])
        await until(lambda: host.awake)
        host.cancel([1])
        await until(lambda: host.busy == 0)
        host.deliver([delivery(2, {"text": "x"})])
        await until(lambda: desk.done)
        assert [one["seq"] for one in desk.done] == [2]

    hosted(scenario)


def test_idle_agents_are_let_go() -> None:
    now_s = [0.0]

    async def scenario(host: AgentHost, desk: Desk) -> None:
        host.deliver([delivery(n, {"text": "x"}, f"clerk/{n}") for n in range(20)])
        await until(lambda: len(desk.done) == 20)
        assert host.awake == 20
        now_s[0] = 11
        host.deliver([delivery(99, {"text": "x"}, "clerk/5")])
        await until(lambda: len(desk.done) == 21)
        host.let_go()
        assert host.awake == 1

    hosted(scenario, idle_s=10.0, now_s=lambda: now_s[0])


def test_a_host_holds_no_more_agents_than_it_may() -> None:
    async def scenario(host: AgentHost, desk: Desk) -> None:
        host.deliver([delivery(n, {"text": "x"}, f"clerk/{n}") for n in range(50)])
        await until(lambda: len(desk.done) == 50)
        assert host.awake == 10

    hosted(scenario, most_awake=10)


def test_a_loop_that_an_agent_holds_up_is_interrupted() -> None:
    async def spin() -> None:
        until_s = time.monotonic() + 5
        while time.monotonic() < until_s:
            pass

    async def scenario() -> str:
        gave_up: list[str] = []
        watchdog = Watchdog(gave_up.append, limit_s=0.1, give_up_s=1)
        try:
            await asyncio.create_task(spin(), name="clerk/1#7")
        except LoopBlocked as error:
            assert gave_up == []
            return str(error)
        finally:
            watchdog.close()
        return ""

    assert "held up its process" in asyncio.run(scenario())


def test_code_that_cannot_be_interrupted_is_named_when_its_process_is_given_up() -> None:
    async def scenario() -> list[str]:
        gave_up: list[str] = []
        watchdog = Watchdog(gave_up.append, limit_s=0.1, give_up_s=0.2)

        async def wait() -> None:
            try:
                time.sleep(1)
            except LoopBlocked:
                return

        await asyncio.create_task(wait(), name="clerk/1#7")
        watchdog.close()
        return gave_up

    assert asyncio.run(scenario()) == ["clerk/1#7"]


class Strict(BaseModel):
    """What a strict agent is told."""

    order: str


@aios.agent(state=Memory)
class StrictClerk:
    """Takes orders alone."""

    async def on_message(self, ctx: aios.Context, message: Strict) -> str:
        return message.order


def test_messages_are_read_by_the_annotation() -> None:
    made = agent_class(StrictClerk)
    assert made.read_message({"order": "o"}) == Strict(order="o")
    assert made.facts.message_schema["properties"]["order"]["type"] == "string"
    with pytest.raises(UsageError, match="agent strict-clerk: order: Field required"):
        made.read_message({})
