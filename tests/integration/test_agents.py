"""Agents on real Ray: hosts are killed and frozen, and no message is lost or counts twice."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

import aios
from aios.cli import app
from aios.errors import DeadlineExceeded, PermanentError, UnknownName, UsageError
from tests.integration.agent_classes import Counter, Desk, NextCounter, Slow

AGENTS = 5
MESSAGES = 40


def until(holds: Callable[[], Any], what: str, limit_s: float = 60) -> Any:
    give_up_s = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < give_up_s, what
        time.sleep(0.05)
    return found


def hosts(rt: aios.Runtime) -> list[int]:
    """The pids of the hosts that are up."""
    return [one["pid"] for one in rt.agent_hosts() if one.get("pid")]


def test_no_host_is_there_before_the_first_agent(rt: aios.Runtime) -> None:
    assert list(rt.agent_hosts()) == []


def test_an_ask_ends_when_its_time_is_over(rt: aios.Runtime) -> None:
    slow = rt.spawn(Slow, id="s-1")
    assert slow.ask(0) == 0
    # The kernel is asked for a reply for longer than this at a time, and would have had it.
    with pytest.raises(DeadlineExceeded, match=r"slow/s-1 has not replied within 0.5 s"):
        slow.ask(5, timeout_s=0.5)
    until(lambda: slow.status().handled == 2, "the message stays, and is handled")
    with pytest.raises(UsageError, match="takes a pydantic model's class"):
        slow.state(dict)


def test_killed_and_frozen_hosts_lose_nothing_and_repeat_nothing(rt: aios.Runtime) -> None:
    counters = [rt.spawn(Counter, id=f"k-{n}") for n in range(AGENTS)]
    assert counters[0].ask(-1) == [-1]
    before = until(lambda: len(hosts(rt)) == 2 and hosts(rt), "two hosts")
    told: list[str] = []

    def tell() -> None:
        for number in range(MESSAGES):
            rt.tell_agents([(one, number) for one in counters])
        told.append("all")

    teller = threading.Thread(target=tell)
    teller.start()
    until(lambda: counters[0].state()["numbers"][-1:] > [2], "the first messages are handled")
    os.kill(before[0], signal.SIGKILL)
    frozen = psutil.Process(before[1])
    frozen.suspend()
    teller.join(timeout=60)
    assert told == ["all"]
    for counter in counters:
        until(lambda one=counter: one.status().waiting == 0, "all are handled", 90)
        numbers = [number for number in counter.state()["numbers"] if number >= 0]
        assert numbers == list(range(MESSAGES)), "in order, each once"
    until(lambda: not frozen.is_running(), "the frozen one was ended")
    assert not set(before) & set(hosts(rt))
    assert list(rt.dead_messages()) == []


def test_an_agent_decides_by_an_endpoint_and_says_why(
    rt: aios.Runtime, toy_contract: aios.Contract, toy_frame: Any, toy_model: Any
) -> None:
    version = rt.models.register("toy", toy_model, contract=toy_contract, sample=toy_frame)
    rt.deploy("toy", version)
    desk = rt.spawn(Desk, id="d-1")
    assert desk.ask({"do": "predict", "row": {"id": "x", "a": 50, "b": 50}}) == "good"
    entries = {entry["kind"]: entry for entry in desk.log()}
    assert entries["choice"]["choice"] == "good"
    assert entries["predict"]["details"]["version"] == 1
    rt.remove("toy")


def test_agents_ask_each_other_and_cannot_wait_in_a_circle(rt: aios.Runtime) -> None:
    desk = rt.spawn(Desk, id="d-1")
    rt.spawn(Desk, id="d-2")
    counter = rt.spawn(Counter, id="asked")
    told = {"do": "ask", "to": "counter/asked", "message": 7}
    assert desk.ask({"do": "ask", "to": "desk/d-2", "message": told}) == [7]
    assert counter.state()["numbers"] == [7]
    with pytest.raises(aios.UsageError, match="desk/d-1 -> desk/d-2 -> desk/d-1"):
        desk.ask({"do": "ring", "to": "desk/d-2"})
    until(lambda: "agents desk" in [part["what"] for part in rt.cost().parts], "the bill")


def test_a_payment_waits_for_a_person_and_is_made_once(rt: aios.Runtime, tmp_path: Path) -> None:
    file = tmp_path / "payments"
    desk = rt.spawn(Desk, id="d-3", scopes="payments")
    seq = desk.tell({"do": "pay", "path": str(file), "amount": 5.0})
    (waiting,) = until(lambda: list(rt.inbox()), "the call waits")
    assert (waiting.kind, waiting.tool, waiting.to) == ("tool_call", "pay", "finance")
    assert not file.exists()
    pids = hosts(rt)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    rt.answer(waiting, {"approve": True, "reason": "it is owed"})
    until(lambda: desk.status().handled == 1, "it is paid", 90)
    assert file.read_text().split() == [waiting.id, "5.0"]
    assert waiting.id.startswith(f"desk/d-3#{seq}#1#")
    actions = [entry["action"] for entry in rt.audit(20, "desk/d-3")]
    assert actions.count("approve_call") == 1


def test_an_agent_that_spins_is_stopped_and_others_go_on(rt: aios.Runtime) -> None:
    desk = rt.spawn(Desk, id="spins")
    with pytest.raises(aios.UsageError, match="held up its process"):
        desk.ask({"do": "spin"}, timeout_s=60)
    assert rt.spawn(Counter, id="other").ask(1) == [1]


def test_a_version_is_rolled_out_to_agents_that_live_and_back(rt: aios.Runtime) -> None:
    counter = rt.spawn(Counter, id="v-1")
    assert counter.ask(1) == [1]
    rt.roll_out_agent(NextCounter, share=1.0, shadow=True)
    assert counter.ask(2) == [1, 2]
    until(lambda: [one for one in counter.log() if one["kind"] == "shadow"], "the shadow answers")
    version = rt.roll_out_agent(NextCounter, share=1.0)
    assert counter.ask(3) == "3 numbers"
    assert counter.status().version == version
    rt.roll_back_agent("counter")
    assert counter.ask(4) == [1, 2, 3, 4]
    assert list(rt.agent_rollouts()) == []


def test_the_command_line_lists_logs_and_kills(rt: aios.Runtime) -> None:
    rt.spawn(Desk, id="cli")

    def run(*words: str) -> Any:
        told = {"AIOS_KEY": str(rt.key)}
        return CliRunner().invoke(app, [*words, "--address", rt.address], env=told)

    assert "desk/cli" in run("agents", "desk").output
    assert "log of desk/cli" in run("logs", "desk/cli").output
    assert run("kill", "desk/cli", "--reason", "done").output == "desk/cli is killed\n"
    assert rt.agent("desk", "cli").status().status == "killed"
    assert "looks like triage/t-42" in str(run("kill", "desk").exception)


def test_mistakes_are_told_to_who_made_them(rt: aios.Runtime) -> None:
    desk = rt.spawn(Desk, id="d-4")
    with pytest.raises(PermanentError, match=r"ValueError: cannot fly.*raise ValueError"):
        desk.ask({"do": "fly"})
    with pytest.raises(aios.UsageError, match="valid dictionary"):
        desk.ask("no dictionary")
    with pytest.raises(UnknownName, match='no agent "desk/none"'):
        rt.agent("desk", "none")
    desk.kill("done with it")
    with pytest.raises(aios.IllegalTransition, match=r"is killed.*done with it"):
        desk.tell({"do": "x"})
