"""Messages name commands as the SDK does."""

from pathlib import Path

import pytest
from kernel_fakes import World

from aios.errors import Forbidden, UsageError
from aios.kernel.words import WORDS
from aios.runtime.agents import Agent
from aios.runtime.flows import FlowHandle
from aios.runtime.runtime import Runtime
from aios.security import Caller

HOLDERS = {"rt": Runtime, "rt.agent(...)": Agent, "rt.flow(...)": FlowHandle}
NO_METHOD = {"take_webhook"}


def test_each_command_about_what_acts_has_the_word_of_a_method(tmp_path: Path) -> None:
    kernel = World(tmp_path).kernel
    known = set()
    for room in kernel.rooms_that_act:
        known |= set(room.commands) | set(room.queries)
    assert known - NO_METHOD == set(WORDS)
    for word in WORDS.values():
        holder, _, method = word.rpartition(".")
        assert callable(getattr(HOLDERS[holder], method)), word


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        ("fork_flow", {"id": "a", "from_step": "x"}, r"rt\.flow\(\.\.\.\)\.fork: from_step: "),
        ("start_flow", {"flow": "a", "id": "a", "priority": 0}, r"rt\.start: priority: "),
        ("spawn_agent", {"name": "a", "id": "/"}, r"rt\.spawn: id: "),
        ("agent_log", {"ref": "a/1", "limit": 0}, r"rt\.agent\(\.\.\.\)\.log: limit: "),
    ],
)
def test_a_fault_is_told_of_the_method(tmp_path: Path, command: str, arguments, told: str) -> None:
    with pytest.raises(UsageError, match=f"^{told}"):
        World(tmp_path).do(command, **arguments)


def test_a_role_that_may_not_is_told_of_the_method(tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match=r"which may not rt\.flow\(\.\.\.\)\.cancel: that needs"):
        World(tmp_path).ask(Caller("sue", "viewer"), "cancel_flow", id="a")
