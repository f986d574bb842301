"""How many events per second come from Kafka into the inbox, and are acted on?

Method: a topic of 4 partitions on the protocol's broker of `apps.brokers`, events of 200 bytes in
500 keys. Three readings of the same topic, in turns and each by a group of its own: a bare client
that reads and commits after each batch; our reader, which makes an event of each message and keeps
it in the inbox, one transaction with fsync per batch, before it commits; and the whole of it,
reader, inbox and an endpoint that is asked about each event, in a runtime. Ratios are of one run on
one machine. Caveats: broker, clients and database share its cores; the bare client keeps nothing,
so that the ratio says what durability and exactly-once cost.

    python -m benchmarks.events [--events 20000] [--asked 3000] [--rounds 3] [--only inbox]
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import aios
from aios.capacity import machine
from aios.clock import SystemClock
from aios.config import Settings
from aios.events.consumer import Pump
from aios.events.kafka import KafkaConsumer
from aios.kernel.events import Events
from aios.records.events import SubscriptionSpec
from aios.registry import Registry
from aios.store.database import Database
from apps.brokers import make_topic, running_kafka
from benchmarks.commands import arguments, begin, count, parser_of
from benchmarks.results import RESULTS, ResultFile
from benchmarks.workload import prepare

KEYS = 500
PARTITIONS = 4
BATCH = 1_000
BARE, INBOX = "bare client", "into the inbox"


def produce(address: str, topic: str, count: int, body: dict[str, Any]) -> None:
    """Fill a topic."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": address, "acks": "all", "linger.ms": 20})
    value = json.dumps(body).encode()
    for n in range(count):
        producer.produce(topic, value, key=b"k%d" % (n % KEYS))
        while len(producer) > 50_000:
            producer.poll(0.1)
    if producer.flush(120):
        raise SystemExit("the broker did not take everything")


def bare(address: str, topic: str, count: int) -> float:
    """Seconds in which a bare client reads everything, from its first message on."""
    from confluent_kafka import Consumer

    told = {"bootstrap.servers": address, "group.id": uuid4().hex, "auto.offset.reset": "earliest"}
    consumer, found, begun_s = Consumer(told | {"enable.auto.commit": False}), 0, 0.0
    consumer.subscribe([topic])
    while found < count:
        some = [one for one in consumer.consume(BATCH, 0.5) if one.error() is None]
        if some:
            begun_s = begun_s or time.perf_counter()
            found += len(some)
            consumer.commit(asynchronous=False)
    took_s = time.perf_counter() - begun_s
    consumer.close()
    return took_s


class Nobody:
    """Acts on nothing: events stay in the inbox."""

    def begin(self, ref: str, arguments: list[Any], flow_id: str, by: str) -> None:
        raise NotImplementedError

    def tell_event(self, name: str, agent_id: str, event: Any, operation: str, by: str) -> None:
        raise NotImplementedError


def into_inbox(address: str, topic: str, count: int) -> float:
    """Seconds in which our reader has everything in the inbox, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        settings, clock = Settings(home=Path(folder)), SystemClock()
        database = Database(settings.store_url)
        database.upgrade()
        registry = Registry(database, clock)
        nobody = Nobody()
        events = Events(settings, registry, database, clock, lambda: None, nobody, nobody)
        source = aios.Kafka(address, topic=topic, group=uuid4().hex)
        spec = SubscriptionSpec(id="bench", source=source, flow="none")
        with registry.change(actor="bench", action="subscribe", subject="bench") as change:
            change.subscribe(spec)
        events.changed()
        # Nobody empties the inbox here, so that nothing may be held back.
        take: Callable[..., Any] = lambda *told: events.take("bench", *told)._replace(hold=False)  # noqa: E731
        pump = Pump(spec, partial(KafkaConsumer, source, "bench"), take)
        found, begun_s = 0, 0.0
        while found < count:
            before_s = time.perf_counter()
            got = pump.step()
            if got:
                begun_s = begun_s or before_s
                found += got
        took_s = time.perf_counter() - begun_s
        pump.close()
        pump.run()
        database.close()
    return took_s


def asked(rt: aios.Runtime, address: str, topic: str, count: int, name: str) -> float:
    """Seconds in which an endpoint of the runtime has answered everything, from the first on."""
    rt.on(aios.Kafka(address, topic=topic), endpoint="loan", id=name)
    begun_s = 0.0
    while (done := rt.subscriptions()[name].counts["done"]) < count:
        if done and not begun_s:
            begun_s, first = time.perf_counter(), done
        time.sleep(0.1)
    took_s = (time.perf_counter() - begun_s) * count / max(1, count - first)
    rt.off(name)
    return took_s


def main() -> None:
    """Measure, write the result, print rates and ratios."""
    parser = parser_of("events", __doc__)
    parser.add_argument("--events", type=count, default=20_000)
    parser.add_argument("--asked", type=count, default=3_000)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--only", choices=["inbox"])
    told = arguments(parser, {"events": 5_000, "rounds": 2, "only": "inbox"})
    file = ResultFile(RESULTS, "events")
    file.run(seed=None, machine=machine.describe(), **vars(told))
    rates: dict[str, list[float]] = {}

    def keep(name: str, number: int, rate: float) -> None:
        rates.setdefault(name, []).append(rate)
        file.figure(f"{name}, events/s", rate, "higher", number)
        print(f"round {number + 1}, {name}: {rate:,.0f} events/s", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder, running_kafka() as address:
        work = prepare(Path(folder))
        body = json.loads(work.bodies[0])
        make_topic(address, "many", PARTITIONS)
        produce(address, "many", told.events, body)
        for number in range(told.rounds):
            keep(BARE, number, told.events / bare(address, "many", told.events))
            keep(INBOX, number, told.events / into_inbox(address, "many", told.events))
        if told.only is None:
            make_topic(address, "few", PARTITIONS)
            produce(address, "few", told.asked, body)
            with aios.local() as rt:
                fields = {"contract": work.contract, "sample": work.sample}
                rt.models.register("loan", work.estimator, **fields)
                rt.deploy("loan", "loan:1")
                for number in range(told.rounds):
                    took_s = asked(rt, address, "few", told.asked, f"round-{number}")
                    keep("answered by an endpoint", number, told.asked / took_s)
    base = median(rates[BARE])
    for name, found in rates.items():
        low, high = min(found), max(found)
        print(
            f"{name}: {median(found):,.0f} events/s ({low:,.0f}-{high:,.0f}), "
            f"{median(found) / base:.2f}x"
        )
    print(f"written to {file.path}")


if __name__ == "__main__":
    begin(main)
