"""Agents without Ray: a real kernel, real hosts in this thread's loop, and classes to run."""

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from kernel_fakes import World

from aios.agents import AgentHost, agent_class
from aios.packaging import code_of
from aios.records.agents import Delivery


class FakeHosts:
    """Hosts that begin at once. A test sees what they were sent, and ends them."""

    def __init__(self) -> None:
        self.sent: dict[int, list[Delivery]] = {}
        self.cancelled: list[int] = []
        self.keys: list[str] = []

    def on_end(self, ended: Any) -> None:
        self.ended = ended

    def start(self, epoch: int, key: str) -> None:
        self.sent[epoch] = []
        self.keys.append(key)

    def deliver(self, epoch: int, deliveries: list[dict[str, Any]]) -> None:
        self.sent[epoch] += [Delivery.model_validate(one) for one in deliveries]

    def cancel(self, epoch: int, seqs: list[int]) -> None:
        self.cancelled += seqs

    def seen(self) -> dict[int, dict[str, int]]:
        return {epoch: {"pid": 1, "awake": 0, "busy": 0} for epoch in self.sent}

    def close(self) -> None:
        self.sent = {}

    def take(self) -> list[tuple[int, Delivery]]:
        """What was sent since the last time, with the host that got it."""
        found = [(epoch, one) for epoch, sent in self.sent.items() for one in sent]
        for sent in self.sent.values():
            sent.clear()
        return sorted(found, key=lambda pair: pair[1].seq)


class AgentWorld(World):
    """A kernel whose agents run when the test says so. `answers` are those of endpoints."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.answers: dict[str, Any] = {}

    def restart(self, flows: Any = None) -> None:
        super().restart(flows)
        self.hosts = FakeHosts()
        self.kernel.agents.use_hosts(self.hosts)
        self.post = self.kernel.agents.post

    def spawn(self, made: Any, agent_id: str, **more: Any) -> str:
        """An agent of a class in a test's file."""
        known = agent_class(made)
        told = {"source": code_of(made, "agent").model_dump(mode="json")}
        told["facts"] = known.facts.model_dump(mode="json")
        ref = str(self.do("spawn_agent", name=known.name, id=agent_id, **told, **more)["ref"])
        self.post.hire()
        return ref

    def tell(self, ref: str, message: Any, operation_id: str | None = None) -> int:
        asked = {"messages": [{"to": ref, "message": message}]}
        return int(now(self.do("tell_agents", operation_id, **asked))["messages"][0])

    def became(self, seq: int) -> Any:
        """What became of a message; None while that is open."""
        found = self.kernel.agents.reply(seq)
        return found.result() if found.done() else None

    def host_says(self, epoch: int, what: str, told: Any) -> Any:
        return now(self.kernel.agents.host_asks(epoch, what, told))

    def run(self, *, rounds: int = 50, dies: Any = lambda delivery: False) -> int:
        """Let hosts handle messages until none is left; how many they handled. A host for which
        `dies(delivery)` holds dies after it handled that one, before the kernel learns of it."""
        return asyncio.run(self._run(rounds, dies))

    async def _run(self, rounds: int, dies: Any) -> int:
        handled = 0
        for _ in range(rounds):
            self.post.hire()
            self.post.once()
            taken = self.hosts.take()
            if not taken:
                break
            for epoch, delivery in taken:
                if epoch not in self.hosts.sent:
                    continue
                host = AgentHost(self._asking(epoch), self._predict)
                turn = await host._handled(delivery)
                handled += 1
                if dies(delivery):
                    del self.hosts.sent[epoch]
                    self.hosts.ended(epoch, "killed by a test")
                    self.clock.advance(31)  # until another host may begin
                else:
                    self.host_says(epoch, "done", [turn.model_dump()])
        return handled

    def _asking(self, epoch: int) -> Any:
        async def ask(what: str, told: Any) -> Any:
            found = self.kernel.agents.host_asks(epoch, what, told)
            return await asyncio.wrap_future(found) if isinstance(found, Future) else found

        return ask

    async def _predict(self, endpoint: str, rows: Any, key: str) -> Any:
        found = self.answers[endpoint]
        if isinstance(found, Exception):
            raise found
        told = {"version": 1, "arm": "stable", "degraded": None, "request_id": key}
        return {"outputs": [found for _ in rows], **told}


def now(found: Any) -> Any:
    """What the kernel gave, also where that is a future."""
    return found.result(timeout=5) if isinstance(found, Future) else found
