"""Users' flows without Ray: a place, the kernel's client of it, and a worker in a process."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import sample_flows

from aios.errors import UnknownName
from aios.flows import Flow
from aios.flows.client import FlowClient
from aios.flows.place import Place
from aios.packaging import code_of
from aios.records.acting import Definition

HERE = Path(__file__).parent
WAIT_S = 60.0
ENDED = ("finished", "failed", "cancelled")


def definition_of(flow: Flow, version: int = 1) -> Definition:
    """As the kernel keeps it."""
    fields = {"kind": "flow", "name": flow.name, "version": version}
    return Definition(**fields, source=code_of(flow, "flow"), created_s=0.0, created_by="ann")


DEFINITIONS = {
    one.ref: one
    for one in map(definition_of, (f for f in vars(sample_flows).values() if isinstance(f, Flow)))
}


class Host:
    """The kernel, as a worker asks it: definitions are given, answers are laid out."""

    def __init__(self, definitions: dict[str, Definition] | None = None) -> None:
        self.definitions = DEFINITIONS if definitions is None else definitions
        self.asked: dict[str, dict[str, Any]] = {}
        self.told: dict[str, dict[str, Any]] = {}
        self.refused: list[str] = []

    def definition(self, ref: str) -> Definition:
        if ref not in self.definitions:
            raise UnknownName(f"no flow {ref}")
        return self.definitions[ref]

    def put_question(self, question: dict[str, Any]) -> dict[str, Any]:
        self.asked[question["id"]] = question
        if question["timeout_s"] == 0.0:
            self.told[question["id"]] = {"status": "expired", "answer": None}
        return question

    def answers(self, question_ids: list[str]) -> dict[str, dict[str, Any]]:
        return {one: self.told[one] for one in question_ids if one in self.told}

    def refuse_answer(self, question_id: str, problem: str) -> None:
        self.refused.append(problem)
        self.told.pop(question_id)


class FlowWorld:
    """A folder with a place of flows; `begin` and `wait` as the kernel does."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder
        self.place = Place(url or f"sqlite:///{folder}/user-flows.db", f"{folder}/values")
        self.client = FlowClient(self.place)
        self.client.open()
        self.ledger = str(folder / "ledger")
        self.children: list[subprocess.Popen[bytes]] = []

    def begin(self, flow: Any, flow_id: str, *args: Any, **more: Any) -> str:
        return self.client.begin(
            DEFINITIONS[f"{flow.name}:1"], list(args), {}, flow_id, "ann", **more
        )

    def wait(self, flow_id: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        give_up_s = time.monotonic() + timeout_s
        while (found := self.client.outcome(flow_id))["status"] not in ENDED:
            assert time.monotonic() < give_up_s, self.client.view(flow_id)
            time.sleep(0.02)
        return found

    def lines(self, what: str = "") -> list[str]:
        try:
            text = Path(self.ledger).read_text()
        except FileNotFoundError:
            return []
        return [line for line in text.splitlines() if line.startswith(what)]

    def wait_for(self, what: str, timeout_s: float = WAIT_S) -> None:
        """Until a line begins so."""
        give_up_s = time.monotonic() + timeout_s
        while not self.lines(what):
            assert time.monotonic() < give_up_s, f"no {what} in {self.lines()}"
            time.sleep(0.01)

    def wait_step(self, flow_id: str, number: int, timeout_s: float = WAIT_S) -> None:
        """Until a step is written down."""
        give_up_s = time.monotonic() + timeout_s
        while number not in {one["step"] for one in self.client.steps(flow_id)}:
            assert time.monotonic() < give_up_s, self.client.steps(flow_id)
            time.sleep(0.01)

    def freeze(self, child: "subprocess.Popen[bytes]") -> None:
        """Stop a worker at an instant at which it does not hold the database's lock."""
        while True:
            os.kill(child.pid, signal.SIGSTOP)
            connection = sqlite3.connect(self.folder / "user-flows.db", timeout=0.5)
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                os.kill(child.pid, signal.SIGCONT)
            finally:
                connection.close()

    # -- workers in processes of their own --------------------------------------------

    def worker(self, worker_id: str) -> subprocess.Popen[bytes]:
        """Begin one and wait until it has its lease."""
        told = {
            "url": self.place.url,
            "values": self.place.values_url,
            "id": worker_id,
            "definitions": [one.model_dump(mode="json") for one in DEFINITIONS.values()],
        }
        child = subprocess.Popen(
            [sys.executable, str(HERE / "flow_worker_child.py")],
            stdin=subprocess.PIPE,
            stdout=(self.folder / f"{worker_id}.out").open("wb"),
            stderr=subprocess.STDOUT,
        )
        self.children.append(child)
        assert child.stdin is not None
        child.stdin.write(json.dumps(told).encode())
        child.stdin.close()
        give_up_s = time.monotonic() + WAIT_S
        while worker_id not in self.client.leases.beats():
            out = (self.folder / f"{worker_id}.out").read_text()
            assert child.poll() is None, out
            assert time.monotonic() < give_up_s, out
            time.sleep(0.02)
        return child

    def take_over(self, dead: str, *alive: str) -> int:
        """What the kernel does once it knows of a death."""
        self.client.leases.take(dead)
        return self.client.take_over(set(alive))

    def close(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
        self.client.close()
