"""Durable flows survive a kill, run once, and hold nothing but JSON."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios.errors import IllegalTransition, PermanentError, UsageError
from aios.flows import FlowEngine, FlowInterrupted


class Engine:
    """A flow `order` of the steps `first` and `second`; each notes that it ran in a file."""

    def __init__(self, folder: Path, second: Any = None) -> None:
        self.ran = folder / "ran"
        self.engine = FlowEngine(f"sqlite:///{folder}/flows.db", "kernel")
        first_step = self.engine.step("first", self._first)
        second_step = self.engine.step("second", second or self._second)
        self.results: dict[str, Any] = {}
        self.ended = threading.Event()

        def order(name: str) -> Any:
            try:
                given = first_step(name)
                self.results[name] = [given, second_step(given)]
            except Exception as error:
                self.results[name] = error
                raise
            finally:
                self.ended.set()
            return "done"

        self.flow = self.engine.flow("order", order)
        self.engine.launch()

    def note(self, what: str) -> None:
        with self.ran.open("a") as file:
            file.write(what + "\n")

    def notes(self) -> list[str]:
        return self.ran.read_text().split() if self.ran.exists() else []

    def _first(self, name: str) -> Any:
        self.note(f"first-{name}")
        return {"name": name, "pair": (1, 2)}

    def _second(self, given: Any) -> Any:
        self.note(f"second-{given['name']}")
        if given["name"] == "outer":
            self.start("inner")
        return len(given)

    def start(self, flow_id: str, *arguments: Any) -> None:
        self.engine.start(self.flow, *(arguments or (flow_id,)), flow_id=flow_id)

    def wait(self, timeout_s: float = 10) -> None:
        assert self.ended.wait(timeout_s)
        self.ended.clear()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("flows"))
    yield engine
    engine.engine.close()


def stored(folder: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(folder / "flows.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_the_same_id_never_runs_twice(shared: Engine) -> None:
    shared.start("o1")
    shared.wait()
    for _ in range(3):
        shared.start("o1")
    shared.start("o2")
    shared.wait()
    assert shared.notes().count("first-o1") == 1
    assert shared.notes().count("first-o2") == 1


def test_a_flow_sees_results_as_json_brings_them_back(shared: Engine) -> None:
    shared.start("o3")
    shared.wait()
    assert shared.results["o3"] == [{"name": "o3", "pair": [1, 2]}, 2]


def test_a_step_starts_a_flow_that_stands_by_itself(shared: Engine) -> None:
    shared.start("outer")
    give_up_s = time.monotonic() + 10
    while len(shared.results.keys() & {"outer", "inner"}) < 2:
        assert time.monotonic() < give_up_s, shared.results
        time.sleep(0.02)
    shared.ended.clear()
    assert shared.results["outer"][1] == shared.results["inner"][1] == 2
    assert shared.notes().count("second-inner") == 1


def test_an_empty_flow_id_is_refused(shared: Engine) -> None:
    with pytest.raises(UsageError, match="cannot be empty"):
        shared.start("", "name")


def test_an_argument_that_is_not_json_is_refused(shared: Engine) -> None:
    for bad in (object(), {1, 2}, float("nan"), b"bytes"):
        with pytest.raises(UsageError, match="an argument of flow 'o9' is not JSON"):
            shared.start("o9", bad)
    assert "first-o9" not in shared.notes()


def test_a_result_that_is_not_json_fails_clearly(shared: Engine, tmp_path: Path) -> None:
    step = shared.engine.step("odd", lambda: {1, 2})
    with pytest.raises(UsageError, match=r"step 'odd' is not JSON .*plain values"):
        step()


def test_the_store_is_in_wal_mode_and_holds_json_only(shared: Engine) -> None:
    folder = shared.ran.parent
    shared.start("o4")
    shared.wait()
    assert stored(folder, "PRAGMA journal_mode") == [("wal",)]
    outputs = stored(folder, "SELECT output, serialization FROM operation_outputs")
    assert len(outputs) >= 2
    for output, serialization in outputs:
        json.loads(output)
        assert serialization == "aios_json"


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_flows import Engine

def second(given):
    engine.note("reached-" + given["name"])
    time.sleep(60)

engine = Engine(Path(sys.argv[1]), second)
engine.start("k1")
time.sleep(60)
"""


def test_a_killed_flow_goes_on_at_its_step_in_the_next_process(
    shared: Engine, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    )
    try:
        deadline_s = time.monotonic() + 60
        ran = tmp_path / "ran"
        while not ran.exists() or "reached-k1" not in ran.read_text():
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    shared.engine.close()
    engine = Engine(tmp_path)
    try:
        engine.wait(30)
        assert engine.results["k1"][1] == 2
        assert engine.notes() == ["first-k1", "reached-k1", "second-k1"]
    finally:
        engine.engine.close()


def test_an_interrupted_flow_is_left_for_the_next_engine(tmp_path: Path) -> None:
    entered = threading.Event()
    closing = threading.Event()

    def second(given: Any) -> Any:
        entered.set()
        closing.wait(10)
        raise FlowInterrupted("closing")

    engine = Engine(tmp_path, second)
    engine.start("i1")
    assert entered.wait(10)
    threading.Timer(0.1, closing.set).start()
    engine.engine.close()
    query = "SELECT status FROM workflow_status WHERE workflow_uuid = 'i1'"
    assert stored(tmp_path, query) == [("PENDING",)]
    again = Engine(tmp_path)
    try:
        again.start("i1")
        again.wait(30)
        assert again.notes() == ["first-i1", "second-i1"]
    finally:
        again.engine.close()


def test_an_error_in_a_step_comes_back_as_the_same_error(tmp_path: Path) -> None:
    from aios.flows.durable import json_serializer

    serializer = json_serializer()
    known = serializer.deserialize(serializer.serialize(IllegalTransition("no", hint=1)))
    assert (type(known), known.message, known.details) == (IllegalTransition, "no", {"hint": 1})
    other = serializer.deserialize(serializer.serialize(KeyError("x")))
    assert (type(other), other.message) == (PermanentError, "KeyError: 'x'")
    assert serializer.deserialize(serializer.serialize({"a": [1, None]})) == {"a": [1, None]}
