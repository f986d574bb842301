"""Agents: messages are handled in order and once, whatever dies; what they may is bounded."""

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from agent_classes import Clerk
from agent_notes import CALLS
from agent_worlds import AgentWorld, now
from sample_flows import asking

from aios.agents.agent import agent, agent_class
from aios.agents.plain import plain_state
from aios.errors import (
    BudgetExceeded,
    Forbidden,
    IllegalTransition,
    Overloaded,
    UnknownName,
    UsageError,
)
from aios.packaging import code_of
from aios.records.agents import Budget, Turn
from aios.runtime.agents import Delegated
from aios.security import Caller
from aios.store import agent_tables as t


@pytest.fixture
def world(tmp_path: Path) -> AgentWorld:
    CALLS.clear()
    return AgentWorld(tmp_path)


@pytest.fixture
def clerk(world: AgentWorld) -> str:
    return world.spawn(Clerk, "c-1")


def seen(world: AgentWorld, ref: str) -> list[str]:
    state = world.do("agent", ref=ref)["state"]
    return [] if state is None else list(state["seen"])


def problem(world: AgentWorld, seq: int) -> dict[str, Any]:
    became = world.became(seq)
    assert became is not None, "the message still waits"
    found: dict[str, Any] = became["problem"]
    return found


def settle(world: AgentWorld) -> None:
    """Let everything be tried again until nothing waits."""
    for _ in range(10):
        world.run()
        world.clock.advance(60)


# -- messages ---------------------------------------------------------------------------


def test_messages_are_handled_in_order_with_one_memory(world: AgentWorld, clerk: str) -> None:
    seqs = [world.tell(clerk, {"text": f"m{n}"}) for n in range(5)]
    assert world.run() == 5
    assert seen(world, clerk) == [f"m{n}" for n in range(5)]
    assert [world.became(seq)["reply"] for seq in seqs] == [1, 2, 3, 4, 5]


def test_an_agent_has_one_message_at_a_time(world: AgentWorld, clerk: str) -> None:
    for n in range(3):
        world.tell(clerk, {"text": f"m{n}"})
    world.post.once()
    assert len(world.hosts.take()) == 1


def test_a_message_under_one_operation_is_there_once(world: AgentWorld, clerk: str) -> None:
    first = world.tell(clerk, {"text": "once"}, "op")
    assert world.tell(clerk, {"text": "once"}, "op") == first
    world.run()
    assert world.tell(clerk, {"text": "once"}, "op") == first
    world.run()
    assert seen(world, clerk) == ["once"]


def test_many_messages_come_together_or_not_at_all(world: AgentWorld, clerk: str) -> None:
    messages = [{"to": clerk, "message": {"text": "a"}}, {"to": "clerk/none", "message": {}}]
    with pytest.raises(UnknownName, match="clerk/c-1"):
        now(world.do("tell_agents", messages=messages))
    assert world.run() == 0


def test_what_an_agent_sends_leaves_with_the_end_of_its_message(
    world: AgentWorld, clerk: str
) -> None:
    other = world.spawn(Clerk, "c-2")
    told = {"do": "tell", "to": other, "message": {"text": "from c-1"}}
    world.tell(clerk, told)
    world.run()
    assert seen(world, other) == ["from c-1"]


def test_a_failed_message_has_sent_nothing_and_left_no_memory(
    world: AgentWorld, clerk: str
) -> None:
    seq = world.tell(clerk, {"do": "fail"})
    settle(world)
    assert "it cannot be done" in problem(world, seq)["detail"]
    assert "_fail" in problem(world, seq)["detail"], "the line of the agent's own code"
    assert seen(world, clerk) == []


def test_an_endpoint_is_asked_with_the_agent_as_key(world: AgentWorld, clerk: str) -> None:
    world.answers["model"] = {"p": 0.5}
    seq = world.tell(clerk, {"do": "predict"})
    world.run()
    assert world.became(seq)["reply"] == [{"p": 0.5}]
    (entry,) = (e for e in world.do("agent_log", ref=clerk) if e["kind"] == "predict")
    assert entry["details"]["request_id"] == clerk


def test_an_agent_begins_a_flow_once_however_often_its_message_is_handled(
    world: AgentWorld, clerk: str
) -> None:
    seq = world.tell(clerk, {"do": "start", "order": "o", "id": "back-o", "fails": True})
    settle(world)
    assert "after the flow began" in problem(world, seq)["detail"]
    again = world.tell(clerk, {"do": "start", "order": "o", "id": "back-o"})
    world.run()
    assert world.became(again) == {"reply": "back-o"}
    [flow] = world.do("flows", limit=10)
    assert (flow["id"], flow["flow"], flow["by"]) == ("back-o", "pay_back", f"agent {clerk}")
    actions = [entry["action"] for entry in world.do("audit", limit=20)]
    assert (actions.count("define_flow"), actions.count("start_flow")) == (1, 2), "one a message"
    other = world.tell(clerk, {"do": "start", "order": "other", "id": "back-o"})
    settle(world)
    assert "other arguments" in problem(world, other)["detail"]


def test_a_flow_that_an_agent_cannot_begin_is_told_to_it(world: AgentWorld, clerk: str) -> None:
    told = {"agent": clerk, "source": None, "operation": "c#1", "facts": {}}
    told["flow"] = {"flow": "none", "id": "x"}
    with pytest.raises(UnknownName, match="none"):
        world.host_says(1, "start", told)
    with pytest.raises(UsageError):
        world.host_says(1, "start", {**told, "flow": {"flow": "none"}})


def test_an_event_is_a_message_once_and_spawns_its_agent(world: AgentWorld, clerk: str) -> None:
    tell = world.kernel.agents.tell_event
    for _ in range(2):
        tell("clerk", "c-1", {"text": "known"}, "e-1", "ann")
        tell("clerk", "c-9", {"text": "new"}, "e-2", "ann")
    world.post.hire()
    world.run()
    assert (seen(world, clerk), seen(world, "clerk/c-9")) == (["known"], ["new"])
    assert world.do("agent", ref="clerk/c-9")["created_by"] == "ann"
    with pytest.raises(UsageError, match="is no id of an agent"):
        tell("clerk", "no id", {}, "e-3", "ann")
    with pytest.raises(UnknownName, match="nobody"):
        tell("nobody", "n-1", {}, "e-4", "ann")
    world.do("kill_agent", ref=clerk, reason="over")
    with pytest.raises(IllegalTransition, match="killed"):
        tell("clerk", "c-1", {}, "e-5", "ann")


def test_what_endpoints_answered_is_known_by_its_request_ids(world: AgentWorld, clerk: str) -> None:
    world.answers["model"] = {"topic": "billing", "p": 0.5}
    seq = world.tell(clerk, {"do": "request_ids"})
    world.run()
    assert world.became(seq)["reply"] == [["model", "mine", 2], ["model", clerk, 1]]


def test_rules_decide_first_then_a_model_then_others_and_each_says_why(
    world: AgentWorld, clerk: str
) -> None:
    sure, unsure = {"topic": "shipping", "p": 0.9}, {"topic": "shipping", "p": 0.7}
    for text, answer, choice, reason in (
        ("refund me", ValueError("not asked"), "billing", "it says refund"),
        ("where is it", sure, "shipping", "topics says so, p 0.9"),
        ("a text of many, many words", unsure, "long", "it is long"),
        ("hm", unsure, "person", "no layer was sure"),
    ):
        world.answers["topics"] = answer
        seq = world.tell(clerk, {"do": "decide", "text": text})
        world.run()
        assert world.became(seq) == {"reply": choice}
        entry = next(e for e in world.do("agent_log", ref=clerk) if e["kind"] == "choice")
        assert (entry["choice"], entry["reason"]) == (choice, reason)
    world.answers["topics"] = {"label": 1}
    seq = world.tell(clerk, {"do": "decide", "text": "x"})
    world.run()
    assert "answers label, and no 'topic'" in problem(world, seq)["detail"]


# -- what dies --------------------------------------------------------------------------


def test_a_host_that_dies_loses_no_message_and_applies_none_twice(
    world: AgentWorld, clerk: str
) -> None:
    for n in range(6):
        world.tell(clerk, {"text": f"m{n}"})
    died: list[int] = []

    def dies(delivery: Any) -> bool:
        if delivery.seq % 2 or delivery.seq in died:
            return False
        died.append(delivery.seq)
        return True

    assert world.run(dies=dies) == 9
    assert len(died) == 3
    assert seen(world, clerk) == [f"m{n}" for n in range(6)]


def test_a_frozen_host_that_wakes_does_no_harm(world: AgentWorld, clerk: str) -> None:
    seq = world.tell(clerk, {"text": "slow"})
    world.post.once()
    ((epoch, _delivery),) = world.hosts.take()
    world.hosts.ended(epoch, "it has not answered for 10 s")
    late = Turn(agent=clerk, seq=seq, attempt=0, version=1, state={"seen": ["late"]}, reply="late")
    assert world.run() == 1, "the message went to another host"
    assert world.host_says(epoch, "done", [late.model_dump()]) == [False]
    assert seen(world, clerk) == ["slow"]
    assert world.became(seq)["reply"] == 1


def test_a_late_answer_does_not_count_while_the_new_host_is_at_it(
    world: AgentWorld, clerk: str
) -> None:
    seq = world.tell(clerk, {"text": "slow"})
    world.post.once()
    ((epoch, _),) = world.hosts.take()
    world.hosts.ended(epoch, "frozen")
    world.post.once()
    world.hosts.take()
    late = Turn(agent=clerk, seq=seq, attempt=0, version=1, reply="late").model_dump()
    assert world.host_says(epoch, "done", [late]) == [False]
    assert world.became(seq) is None


def test_a_turn_counts_once(world: AgentWorld, clerk: str) -> None:
    seq = world.tell(clerk, {"text": "m"})
    world.post.once()
    ((epoch, _delivery),) = world.hosts.take()
    turn = Turn(agent=clerk, seq=seq, attempt=0, version=1, state={"seen": ["m"]}).model_dump()
    assert world.host_says(epoch, "done", [turn, turn]) == [True, False]
    assert world.do("agent", ref=clerk)["handled"] == 1


def test_a_kernel_that_dies_goes_on_from_its_rows(world: AgentWorld, clerk: str) -> None:
    world.tell(clerk, {"text": "a"})
    world.run()
    world.tell(clerk, {"text": "b"})
    world.post.once()
    ((epoch, delivery),) = world.hosts.take()
    world.restart()
    world.post.look_at([clerk])
    assert world.run() == 1
    turn = Turn(agent=clerk, seq=delivery.seq, attempt=0, version=1).model_dump()
    assert world.host_says(epoch, "done", [turn]) == [False], "a host of the kernel before"
    assert seen(world, clerk) == ["a", "b"]


def test_a_message_after_a_restart_brings_hosts_though_none_waited_before(
    world: AgentWorld, clerk: str
) -> None:
    world.tell(clerk, {"text": "a"})
    world.run()
    world.restart()
    world.tell(clerk, {"text": "b"})
    assert world.run() == 1
    assert seen(world, clerk) == ["a", "b"]


def test_a_message_under_which_hosts_die_again_and_again_is_given_up(
    world: AgentWorld, clerk: str
) -> None:
    seq = world.tell(clerk, {"text": "poison"})
    for _ in range(40):
        world.clock.advance(60)
        world.run(dies=lambda delivery: True)
    assert "its process ended" in problem(world, seq)["detail"]
    world.tell(clerk, {"text": "good"})
    world.clock.advance(60)
    world.run()
    assert seen(world, clerk) == ["good"]


def test_messages_that_ended_long_ago_leave_and_their_numbers_stay_used(
    world: AgentWorld, clerk: str
) -> None:
    first = world.tell(clerk, {"text": "old"})
    last = world.tell(clerk, {"text": "old too"})
    world.run()
    world.clock.advance(31 * 86_400)
    waiting = world.tell(clerk, {"text": "new"})
    world.post.tidy()
    for gone in (first, last):
        with pytest.raises(UnknownName, match="old ones are removed"):
            world.became(gone)
    assert world.run() == 1
    assert world.became(waiting)["reply"] == 3
    assert world.tell(clerk, {"text": "next"}) > waiting


def test_agents_have_metrics_by_their_names(world: AgentWorld, clerk: str) -> None:
    world.spawn(Clerk, "c-2")
    world.tell(clerk, {"text": "done"})
    world.run()
    world.tell(clerk, {"text": "waits"})
    world.post.once()
    ((epoch, one),) = world.hosts.take()
    late = Turn(agent=clerk, seq=one.seq, attempt=7, version=1).model_dump()
    world.host_says(epoch, "done", [late])
    text = world.do("metrics")
    for line in (
        'aios_agents{agent="clerk",status="ready"} 2.0',
        'aios_agent_messages_waiting{agent="clerk"} 1.0',
        'aios_agent_messages_total{agent="clerk"} 1.0',
        "aios_agent_turns_refused_total 1.0",
        "aios_agent_hosts 2.0",
        "aios_agent_tool_calls_waiting 0.0",
    ):
        assert line in text


# -- failures ---------------------------------------------------------------------------


def test_a_message_is_tried_again_with_backoff_then_given_up(world: AgentWorld, clerk: str) -> None:
    seq = world.tell(clerk, {"do": "fail"})
    assert world.run() == 1
    assert world.run() == 0, "the next attempt is a second away"
    world.clock.advance(1)
    assert world.run() == 1
    world.clock.advance(1)
    assert world.run() == 0, "the pause has doubled"
    world.clock.advance(1)
    assert world.run() == 1
    assert world.became(seq) is not None
    (dead,) = world.do("dead_mail", ref=clerk)
    assert (dead["seq"], dead["attempts"]) == (seq, 3)


def test_later_messages_wait_for_one_that_is_tried_again(world: AgentWorld, clerk: str) -> None:
    world.tell(clerk, {"do": "fail"})
    world.tell(clerk, {"text": "next"})
    assert world.run() == 1
    settle(world)
    assert seen(world, clerk) == ["next"]


def test_what_the_caller_did_wrong_is_not_tried_again(world: AgentWorld, clerk: str) -> None:
    for wrong, told in (
        ("no dictionary", "dictionary"),
        ({"do": "odd"}, "the reply is not JSON"),
        ({"do": "tell", "to": "clerk/none", "message": {}}, "no agent"),
    ):
        other = world.spawn(Clerk, f"w-{len(told)}")
        seq = world.tell(other, wrong)
        assert world.run() == 1
        assert told in problem(world, seq)["detail"]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("exit", "it called sys.exit('enough')"),
        ("tool", "it called sys.exit(2)"),
        ("cancel", "it raised asyncio.CancelledError"),
        ("interrupt", "it raised KeyboardInterrupt (line "),
        ("speechless", "Speechless: its text cannot be made, that raised RuntimeError (line "),
        ("half a character", "ValueError: cannot read bill-\\udcff\\x00 (line "),
        ("half a reply", "the reply is not JSON (str is not valid UTF-8"),
        ("panic", "it raised BaseException: a panic"),
        ("state", "its state does not fit Memory: level: Input should be less than or equal to 3"),
        ("dict", "ctx.state is now a dict; change its fields, or set it to a Memory"),
        ("forgets", "ctx.call was called and not awaited: it never ran"),
    ],
)
def test_what_would_end_or_spoil_an_agent_is_a_failed_message(
    world: AgentWorld, clerk: str, how: str, told: str
) -> None:
    seq = world.tell(clerk, {"do": "leave", "how": how})
    settle(world)
    assert told in problem(world, seq)["detail"]
    assert orjson.dumps([world.do("agent", ref=clerk), world.do("dead_mail")])
    world.tell(clerk, {"text": "next"})
    settle(world)
    assert seen(world, clerk) == ["next"]


def test_an_agent_that_fails_too_often_is_stopped_and_its_parent_told(
    world: AgentWorld, clerk: str
) -> None:
    world.tell(clerk, {"do": "spawn", "id": "child", "text": "spawn"})
    world.run()
    for _ in range(2):
        world.tell("clerk/child", {"do": "fail"})
    settle(world)
    assert "failed: clerk/child" in seen(world, clerk)
    assert world.do("agent", ref="clerk/child")["status"] == "ready", "its parent revived it"


def test_an_agent_without_a_parent_that_fails_too_often_takes_no_more(
    world: AgentWorld, clerk: str
) -> None:
    for _ in range(2):
        world.tell(clerk, {"do": "fail"})
    settle(world)
    with pytest.raises(IllegalTransition, match=r"is failed.*2 of its messages died"):
        world.tell(clerk, {"text": "more"})
    world.do("revive_agent", ref=clerk)
    world.tell(clerk, {"text": "more"})
    world.run()
    assert seen(world, clerk) == ["more"]


def test_a_dead_message_is_handled_after_all(world: AgentWorld, clerk: str) -> None:
    world.answers["model"] = ValueError("down")
    seq = world.tell(clerk, {"do": "predict"})
    settle(world)
    assert "down" in problem(world, seq)["detail"]
    world.answers["model"] = {"p": 1}
    world.do("revive_mail", seq=seq)
    world.run()
    assert world.became(seq)["reply"] == [{"p": 1}]
    with pytest.raises(IllegalTransition, match="is done, not dead"):
        world.do("revive_mail", seq=seq)


def test_a_killed_agent_takes_its_children_and_messages_with_it(
    world: AgentWorld, clerk: str
) -> None:
    world.tell(clerk, {"do": "spawn", "id": "child"})
    world.run()
    seq = world.tell("clerk/child", {"text": "never"})
    world.post.once()
    ((epoch, _delivery),) = world.hosts.take()
    world.do("kill_agent", ref=clerk, reason="enough")
    assert world.hosts.cancelled == [seq]
    assert "enough" in problem(world, seq)["detail"]
    turn = Turn(agent="clerk/child", seq=seq, attempt=0, version=1).model_dump()
    assert world.host_says(epoch, "done", [turn]) == [False]
    for ref in (clerk, "clerk/child"):
        with pytest.raises(IllegalTransition, match="is killed"):
            world.tell(ref, {})
        with pytest.raises(IllegalTransition, match="was killed: enough"):
            world.do("grant_agent", ref=ref, budget={"steps": 1})
    with pytest.raises(IllegalTransition, match="use another id"):
        world.spawn(Clerk, "c-1")


# -- limits -----------------------------------------------------------------------------


def test_a_full_mailbox_says_so(world: AgentWorld, clerk: str) -> None:
    with world.kernel.registry._database.transaction() as connection:
        connection.execute(t.agents.update().values(waiting=100_000))
    with pytest.raises(Overloaded, match="100,000 messages wait for agent clerk/c-1"):
        world.tell(clerk, {})


def test_an_agent_cannot_wait_for_itself(world: AgentWorld, clerk: str) -> None:
    seq = world.tell(clerk, {"do": "ask", "to": clerk, "message": {}})
    assert world.run() == 1
    assert "would wait for itself: clerk/c-1 -> clerk/c-1" in problem(world, seq)["detail"]


def test_two_agents_that_answer_each_other_for_ever_are_stopped(
    world: AgentWorld, clerk: str
) -> None:
    world.spawn(Clerk, "c-2")
    ping: dict[str, Any] = {"text": "end"}
    for n in range(120):
        to = "clerk/c-2" if n % 2 else "clerk/c-1"
        ping = {"do": "tell", "to": to, "message": ping}
    world.tell(clerk, ping)
    world.run(rounds=300)
    (dead,) = world.do("dead_mail")
    assert "go round in a circle" in dead["problem"]["detail"]


def test_a_budget_stops_an_agent_in_the_middle_of_its_loop(world: AgentWorld) -> None:
    ref = world.spawn(Clerk, "b-1", budget={"steps": 7})
    seq = world.tell(ref, {"do": "loop"})
    assert world.run() == 1, "it is not tried again"
    assert "has used all of its 7 steps" in problem(world, seq)["detail"]
    notes = [e for e in world.do("agent_log", ref=ref) if e["kind"] == "tool"]
    assert len(notes) == 7
    with pytest.raises(BudgetExceeded, match="7 steps"):
        world.tell(ref, {"text": "more"})
    world.do("grant_agent", ref=ref, budget={"steps": 10})
    world.tell(ref, {"text": "more"})
    world.run()
    assert seen(world, ref) == ["more"]


def test_a_budget_of_seconds_ends_a_message_that_waits_for_ever(world: AgentWorld) -> None:
    ref = world.spawn(Clerk, "b-2", budget={"seconds": 0.05})
    seq = world.tell(ref, {"do": "sleep"})
    world.run()
    assert "0.05 seconds" in problem(world, seq)["detail"]


def test_what_is_spent_is_counted_over_messages(world: AgentWorld) -> None:
    ref = world.spawn(Clerk, "b-3", budget={"usd": 1.0})
    left = world.tell(ref, {"do": "spend", "usd": 0.75})
    over = world.tell(ref, {"do": "spend", "usd": 0.5})
    world.run()
    assert world.became(left)["reply"] == 0.25
    assert "1.25 of its 1 usd" in problem(world, over)["detail"]
    with pytest.raises(UsageError, match="no bound on tokens"):
        world.do("grant_agent", ref=ref, budget=Budget(tokens=5).model_dump(exclude_none=True))


# -- tools ------------------------------------------------------------------------------


def test_arguments_that_do_not_parse_are_told_to_the_agent(world: AgentWorld, clerk: str) -> None:
    told = {"do": "call", "tool": "note", "arguments": {"text": "x", "times": "often"}}
    seq = world.tell(clerk, told)
    world.run()
    assert "tool note: times: Input should be a valid integer" in problem(world, seq)["detail"]


def test_an_unknown_tool_lists_those_that_there_are(world: AgentWorld, clerk: str) -> None:
    seq = world.tell(clerk, {"do": "call", "tool": "rm", "arguments": {}})
    world.run()
    assert "it has note, refund, big_refund, leave" in problem(world, seq)["detail"]


def test_a_tool_needs_the_scope_that_the_agent_was_spawned_with(
    world: AgentWorld, clerk: str
) -> None:
    call = {"do": "call", "tool": "refund", "arguments": {"order": "o-1"}}
    seq = world.tell(clerk, call)
    world.run()
    assert problem(world, seq)["code"] == "Forbidden"
    assert world.kernel.registry.audit(1)[0].action == "denied"
    ref = world.spawn(Clerk, "c-2", scopes=["refunds"])
    seq = world.tell(ref, call)
    world.run()
    assert world.became(seq)["reply"] == "refunded o-1"
    (entry,) = (e for e in world.kernel.registry.audit(5) if e.action == "tool")
    assert (entry.actor, entry.details["arguments"]) == ("agent clerk/c-2", {"order": "o-1"})


def test_a_guarded_call_that_ended_is_not_made_again(world: AgentWorld) -> None:
    ref = world.spawn(Clerk, "c-3", scopes=["refunds"])
    world.tell(ref, {"do": "call_and_fail", "tool": "refund", "arguments": {"order": "o"}})
    settle(world)
    calls = [e for e in world.kernel.registry.audit(50) if e.action == "tool"]
    assert len(calls) == 1
    notes = [e["details"] for e in world.do("agent_log", ref=ref) if e["kind"] == "tool"]
    assert [("before" in one) for one in notes] == [True, True, False], "newest first"


def test_a_tool_gets_the_same_idempotency_key_each_time(world: AgentWorld, clerk: str) -> None:
    seq = world.tell(clerk, {"do": "call_and_fail", "tool": "note", "arguments": {"text": "x"}})
    settle(world)
    keys = [key for text, key in CALLS if text == "x"]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0].startswith(f"{clerk}#{seq}#1#")


def test_an_agent_gives_no_rights_that_it_has_not(world: AgentWorld, clerk: str) -> None:
    told = {"do": "spawn", "id": "child", "scopes": ["refunds"]}
    seq = world.tell(clerk, told)
    world.run()
    assert "may not give refunds" in problem(world, seq)["detail"]
    boss = world.spawn(Clerk, "boss", scopes=["refunds"])
    world.tell(boss, told)
    world.run()
    child = world.do("agent", ref="clerk/child")
    assert (child["scopes"], child["parent"], child["depth"]) == (["refunds"], boss, 1)
    world.tell(boss, told | {"id": "other", "scopes": "refunds"})
    world.run()
    assert world.do("agent", ref="clerk/other")["scopes"] == ["refunds"], "not its letters"


# -- versions ---------------------------------------------------------------------------


def rolled_out(world: AgentWorld, share: float, shadow: bool = False) -> None:
    known = world.kernel.registry.definition("agent", "clerk")
    facts = {**known.facts, "description": "another text"}
    source = known.source.model_dump(mode="json")
    made = world.do("define_agent", name="clerk", source=source, facts=facts)
    told = {"version": made["version"], "share": share, "shadow": shadow}
    world.do("roll_out_agent", name="clerk", **told)


def versions(world: AgentWorld) -> dict[str, int]:
    return {one["id"]: one["runs"] for one in world.do("agents", name="clerk")}


def test_a_growing_share_only_adds_agents_and_a_rollback_returns_all(world: AgentWorld) -> None:
    for n in range(40):
        world.spawn(Clerk, f"c-{n}")
    rolled_out(world, 0.3)
    few = {name for name, version in versions(world).items() if version == 2}
    assert 4 <= len(few) <= 20
    rolled_out(world, 0.7)
    more = {name for name, version in versions(world).items() if version == 2}
    assert few < more
    rolled_out(world, 1.0)
    assert set(versions(world).values()) == {2}
    world.tell("clerk/c-1", {"text": "x"})
    world.run()
    world.do("roll_back_agent", name="clerk")
    assert set(versions(world).values()) == {1}
    world.tell("clerk/c-1", {"text": "y"})
    world.run()
    ran = [entry["version"] for entry in world.do("agent_log", ref="clerk/c-1")]
    assert ran == [1, 2]
    assert seen(world, "clerk/c-1") == ["x", "y"]


def test_a_version_on_trial_hurts_no_message_and_is_taken_back(world: AgentWorld) -> None:
    for n in range(8):
        world.spawn(Clerk, f"c-{n}")
    broken = code_of(Clerk, "agent").model_dump(mode="json")
    broken["text"] = broken["text"].replace("ctx.state.seen.append", "ctx.state.nothing.append")
    broken["sha256"] = hashlib.sha256(broken["text"].encode()).hexdigest()
    made = world.do("define_agent", name="clerk", source=broken, facts={})
    world.do("roll_out_agent", name="clerk", version=made["version"], share=0.99)
    tried = [f"clerk/{n}" for n, version in versions(world).items() if version == made["version"]]
    assert len(tried) >= 4
    for count, ref in enumerate(tried[:3], 1):
        seq = world.tell(ref, {"text": "x"})
        world.run()
        assert world.became(seq) == {"reply": 1}, "by the agent's own version"
        assert bool(world.do("agent_plans")) == (count < 3)
    assert set(versions(world).values()) == {1}
    entry = world.kernel.registry.audit(1)[0]
    assert (entry.actor, entry.action) == ("kernel", "roll_back_agent")
    assert "failed 3 messages" in entry.details["reason"]
    poison = world.tell(tried[3], {"do": "fail"})
    settle(world)
    assert "it cannot be done" in problem(world, poison)["detail"]


def test_a_shadow_has_no_effect(world: AgentWorld) -> None:
    ref = world.spawn(Clerk, "c-1", scopes=["refunds"])
    world.spawn(Clerk, "c-2")
    rolled_out(world, 1.0, shadow=True)
    world.tell(ref, {"do": "tell", "to": "clerk/c-2", "message": {"text": "hello"}})
    call = {"do": "call", "tool": "refund", "arguments": {"order": "o"}}
    asked = world.tell(ref, call)
    world.tell(ref, {"do": "call", "tool": "note", "arguments": {"text": "noted"}})
    world.run()
    assert seen(world, "clerk/c-2") == ["hello"], "once"
    assert [text for text, _ in CALLS] == ["o", "noted"], "each once"
    assert world.became(asked)["reply"] == "refunded o"
    assert len([e for e in world.kernel.registry.audit(50) if e.action == "tool"]) == 1
    shadows = [e for e in world.do("agent_log", ref=ref) if e["kind"] == "shadow"]
    assert len(shadows) == 3
    assert shadows[2]["details"]["sent"] == ["clerk/c-2: {'text': 'hello'}"]


# -- approvals --------------------------------------------------------------------------


BEA, SUE = Caller("support", "operator"), Caller("sue", "approver")


@pytest.fixture
def calls(world: AgentWorld) -> dict[str, Any]:
    """What a host asks about a call of big_refund, whose message waits."""
    ref = world.spawn(Clerk, "c-1", scopes=["refunds"])
    seq = world.tell(ref, {})
    told = {"agent": ref, "message": seq, "tool": "big_refund", "version": 1}
    told |= {"key": f"{ref}#{seq}#1#abc", "arguments": {"order": "o"}}
    assert world.host_says(1, "call", told)["state"] == "waiting"
    return told


def test_a_call_that_needs_a_person_waits_for_one(world: AgentWorld, calls: Any) -> None:
    key = calls["key"]
    waiting = world.kernel.agents.host_asks(1, "call_answer", {"key": key})
    assert not waiting.done()
    (shown,) = world.do("inbox")
    assert (shown["kind"], shown["id"], shown["to"]) == ("tool_call", key, "support")
    assert (shown["tool"], shown["arguments"], shown["flow"]) == (
        "big_refund",
        {"order": "o"},
        None,
    )
    assert shown["text"] == "may clerk/c-1 call big_refund(order='o')?"
    assert "no key that may answer is of 'support'" in shown["problem"]
    assert list(shown["form"]["properties"]) == ["approve", "reason"]
    world.ask(BEA, "answer", id=key, answer={"approve": True, "reason": "fine"})
    assert (waiting.result()["state"], waiting.result()["answered_by"]) == ("started", "support")
    assert world.do("inbox") == []
    with pytest.raises(IllegalTransition, match="waits for nobody: it is started"):
        world.do("answer", id=key, answer={"approve": False})
    again = {**calls, "key": f"{key}-2"}
    world.host_says(1, "call", again)
    world.do("answer", id=again["key"], answer={"approve": False, "reason": "no"})
    assert world.host_says(1, "call", again)["state"] == "rejected"


def test_who_may_answer_a_call_and_with_what(world: AgentWorld, calls: Any) -> None:
    with pytest.raises(Forbidden, match="is for 'support'; you are sue with the role approver"):
        world.ask(SUE, "answer", id=calls["key"], answer={"approve": True})
    denied = world.do("audit", limit=1, subject=None)[0]
    assert (denied["actor"], denied["action"]) == ("sue", "denied")
    for answer in ({}, {"approve": "yes"}, {"approve": True, "more": 1}, True):
        with pytest.raises(UsageError, match="answer to clerk/c-1"):
            world.ask(BEA, "answer", id=calls["key"], answer=answer)
    assert len(world.do("inbox")) == 1


def test_questions_and_calls_share_the_inbox(world: AgentWorld, calls: Any) -> None:
    source = code_of(asking, "flow").model_dump(mode="json")
    world.do("define_flow", name="asking", source=source)
    world.do("start_flow", flow="asking", id="a-1")
    asked = {"id": "a-1/1", "flow": "a-1", "text": "so?", "form": None, "to": "operator"}
    world.clock.advance(1.0)
    more = {"timeout_s": None, "unanswered": "it waits", "asked_by": "ann"}
    world.kernel.flows.asked_by_worker("put_question", {**asked, **more})
    found = [(one["kind"], one["id"]) for one in world.do("inbox")]
    assert found == [("tool_call", calls["key"]), ("question", "a-1/1")]
    with pytest.raises(UnknownName, match=r"nothing waits under .no.; in the inbox: clerk/c-1#"):
        world.do("answer", id="no", answer={"approve": True})
    world.do("answer", id="a-1/1", answer=1)
    world.do("answer", id=calls["key"], answer={"approve": False})
    assert world.do("inbox") == []


def test_a_killed_agent_asks_nobody(world: AgentWorld, calls: Any) -> None:
    world.do("kill_agent", ref=calls["agent"])
    assert world.do("inbox") == []
    with pytest.raises(IllegalTransition, match="waits for nobody: its message was given up"):
        world.do("answer", id=calls["key"], answer={"approve": True})


def test_unscoped_hosts_cannot_call_what_the_agent_may_not(world: AgentWorld, clerk: str) -> None:
    told = {"agent": clerk, "message": 1, "tool": "refund", "version": 1}
    with pytest.raises(Forbidden, match="needs refunds"):
        world.host_says(1, "call", {**told, "key": "k", "arguments": {}})


def test_a_text_that_was_sent_before_is_rolled_out_as_the_version_that_it_was(
    world: AgentWorld, clerk: str
) -> None:
    known = world.kernel.registry.definition("agent", "clerk")
    source = known.source.model_dump(mode="json")
    sent = {"name": "clerk", "source": source}
    other = {**sent, "facts": {**known.facts, "description": "another text"}}
    same = {**sent, "facts": known.facts}
    found = [world.do("define_agent", **one, anew=False) for one in (other, same, other, same)]
    assert [one["version"] for one in found] == [2, 1, 2, 1]
    assert world.do("define_agent", **same)["version"] == 3, "newest again, for what is spawned"


def test_a_state_that_cannot_be_stored_is_told(world: AgentWorld, clerk: str) -> None:
    for state, told in ((object(), "the state is not JSON"), ("x" * (5 * 2**20), "of at most")):
        made = agent_class(Clerk)
        memory = made.read_state(None)
        assert memory is not None
        memory.seen = [state]  # type: ignore[attr-defined]
        with pytest.raises(UsageError, match=told):
            plain_state(memory, made)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tools": print}, "give a list of functions"),
        ({"name": ""}, "is no agent's name"),
        ({"name": 3}, "is no agent's name"),
        ({"restarts": 1}, "one is aios.Restarts"),
    ],
)
def test_declarations_of_agents_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        agent(**options)(Clerk)


@pytest.mark.parametrize("messages", [["x"], [("clerk/1",)], [(3, "x")], ["ab"]])
def test_messages_for_agents_that_are_no_pairs(messages: list[Any]) -> None:
    with pytest.raises(UsageError, match=r"give pairs|is no agent"):
        NoRuntime().tell_agents(messages)


def test_a_spawn_that_cannot_be() -> None:
    for told in ({"id": ""}, {"id": "a/b"}, {"id": 3}, {"id": "c-1", "state": "abc"}):
        with pytest.raises(UsageError, match=r"beginning with a letter|names with values"):
            NoRuntime().spawn("clerk", **told)  # type: ignore[arg-type]


class NoRuntime(Delegated):
    """Whoever asks it anything has checked too little."""
