"""The machines as the broker sees them: readings go out, commands come in."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

import aios
from apps.predictive_maintenance.plant import Life, Plan, kind_of
from apps.predictive_maintenance.sensors import KEY, SENSORS, Poured

FLUSH_S = 30.0


@dataclass
class Sent:
    """What one machine sent. `ticks[n]` is the tick of reading n + 1, `anomalous[n]` whether it is
    one of the file's anomalous ones."""

    ticks: list[int] = field(default_factory=list)
    anomalous: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class Obeyed:
    """A command as it was carried out; `done` is False where the machine was in no state for it."""

    machine: str
    intervention: str
    do: str
    tick: int
    done: bool


class Site:
    """Machines whose readings are sent at a steady rate, and which obey. Use as a context manager.

    Args:
        servers: address of the broker, which has both topics.
        rate_per_s: readings of all machines together while all run.
        ticks: after so many nothing more is sent; commands are still obeyed.
    """

    def __init__(
        self,
        servers: str,
        plans: Sequence[Plan],
        poured: Poured,
        *,
        readings: str,
        commands: str,
        rate_per_s: float,
        ticks: int,
        seed: int,
    ) -> None:
        from confluent_kafka import Consumer, Producer

        self.lives = {plan.machine: Life(plan) for plan in plans}
        self.sent = {plan.machine: Sent() for plan in plans}
        self.obeyed: list[Obeyed] = []
        self.ticks, self.tick = ticks, 0
        self.tick_s = len(plans) / rate_per_s
        self.started_s = 0.0
        self._poured, self._seed = poured, seed
        self._topics = readings, commands
        self._failed: list[str] = []
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._closing, self.over = threading.Event(), threading.Event()
        told = {"bootstrap.servers": servers, "log_level": 0}
        self._producer = Producer({**told, "enable.idempotence": True, "linger.ms": 5})
        group = {"group.id": f"plant-{uuid4().hex[:8]}", "auto.offset.reset": "earliest"}
        self._consumer = Consumer({**told, **group})
        self._consumer.subscribe([commands])
        self._threads = [
            threading.Thread(target=self._guarded, args=(run,), name=f"plant-{run.__name__}")
            for run in (self._send, self._obey)
        ]

    @property
    def readings_sent(self) -> int:
        """Of all machines, until now."""
        return sum(len(one.ticks) for one in self.sent.values())

    def check(self) -> None:
        """Raises:
        RuntimeError: the machines themselves broke down, so that no figure means anything.
        """
        if self._failed:
            raise RuntimeError(f"the replay broke: {self._failed[0]}")

    def __enter__(self) -> Self:
        self.started_s = time.time()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(FLUSH_S)
        self._consumer.close()

    def _guarded(self, run: Any) -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001  `check` raises it in the story's own thread
            self._failed.append(f"{type(error).__name__}: {error}")

    def _send(self) -> None:
        begin_s = time.monotonic()
        for number in range(self.ticks):
            late_s = begin_s + number * self.tick_s - time.monotonic()
            if late_s > 0 and self._closing.wait(late_s):
                return
            for machine in self.lives:
                self._step(machine)
            self.tick = number + 1
            self._producer.poll(0)
        self._finish()
        self.over.set()

    def _step(self, machine: str) -> None:
        with self._lock:
            life = self.lives[machine]
            if life.tick() != "running":
                return
            kind, sent = kind_of(life, self._seed), self.sent[machine]
            row = self._poured.next(kind.anomalous)
            sent.ticks.append(life.now)
            sent.anomalous.append(kind.anomalous)
            number = len(sent.ticks)
        if kind.missing is not None:
            row[SENSORS[kind.missing]] = None
        told = {KEY: machine, "reading": number, "sent_s": time.time(), **row}
        self._producer.produce(
            self._topics[0], json.dumps(told).encode(), key=machine.encode(), on_delivery=self._told
        )

    def _finish(self) -> None:
        with self._lock:
            for life in self.lives.values():
                life.finish(self.ticks)
        if self._producer.flush(FLUSH_S):
            raise aios.ClusterUnavailable("the broker did not take all readings in time")

    def _told(self, error: Any, _message: Any) -> None:
        if error is not None:
            self._failed.append(f"a reading was not taken: {error}")

    def _obey(self) -> None:
        while not self._closing.is_set():
            for one in self._consumer.consume(100, 0.1):
                if one.error() is None:
                    self._carry_out(json.loads(one.value()))

    def _carry_out(self, event: dict[str, Any]) -> None:
        """A command, once however often it is delivered."""
        if event["id"] in self._known:
            return
        self._known.add(event["id"])
        data = event["data"]
        with self._lock:
            life = self.lives[data[KEY]]
            done = life.stop() if data["do"] == "stop" else life.go_on(data["repaired"])
            told = Obeyed(data[KEY], data["intervention"], data["do"], life.now, done)
            self.obeyed.append(told)
