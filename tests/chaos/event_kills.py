"""Events under kills: nothing lost, nothing applied twice, every key in its order.

Method: events are produced to Kafka's protocol (`apps.brokers`) out of order between keys and each
tenth of them twice, as a producer does that never heard of its acknowledgement; readers in Ray
actors are killed by SIGKILL at random instants while they read; an endpoint answers each event, and
its answers go to another topic. A bare client reads the answers. An event counts by its own id.

    python -m tests.chaos.event_kills [--events 100000] [--kills 20] [--seed 7]
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import aios
from apps.brokers import make_topic, running_kafka
from benchmarks.workload import prepare

KEYS = 500
PARTITIONS = 4
TWICE = 10
"""One event in so many is sent twice."""
READERS = 2
NAME = "loan-kafka"


def produce(address: str, topic: str, count: int, body: dict[str, Any], chance: Any) -> None:
    """`count` events, their keys at random, some of them twice."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": address, "acks": "all", "linger.ms": 20})
    late: list[tuple[str, bytes]] = []
    for n in range(count):
        key = f"k{chance.randrange(KEYS)}"
        event = {"specversion": "1.0", "id": f"e{n}", "source": "chaos", "type": "t"}
        event |= {"subject": key, "data": body}
        told = (key, json.dumps(event).encode())
        producer.produce(topic, told[1], key=told[0].encode())
        if n % TWICE == 0:
            late.append(told)
        if len(late) > 1_000:
            for again in late:
                producer.produce(topic, again[1], key=again[0].encode())
            late = []
        while len(producer) > 50_000:
            producer.poll(0.1)
    for again in late:
        producer.produce(topic, again[1], key=again[0].encode())
    if producer.flush(120):
        raise SystemExit("the broker did not take everything")


def killed(rt: aios.Runtime, kills: int, count: int, chance: Any, limit_s: float) -> int:
    """Kill readers at random until all events are done; how many died."""
    died, due_s = 0, time.monotonic() + 5
    give_up_s = time.monotonic() + limit_s
    while (status := rt.subscriptions()[NAME]).counts["done"] < count:
        if time.monotonic() > give_up_s:
            raise SystemExit(f"not done after {limit_s:.0f} s: {status!r}")
        pids = status.fields["pids"]
        share = status.counts["taken"] / count
        if died < kills and pids and time.monotonic() > due_s and share >= died / (kills + 1):
            with suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                died += 1
                print(f"kill {died}: {status.counts}", flush=True)
            due_s = time.monotonic() + chance.uniform(1, 4)
        time.sleep(0.25)
    return died


def answered(address: str, topic: str, quiet_s: float) -> list[dict[str, Any]]:
    """Everything in a topic, until nothing came for a while."""
    from confluent_kafka import Consumer

    told = {"bootstrap.servers": address, "group.id": uuid4().hex, "auto.offset.reset": "earliest"}
    consumer, found = Consumer(told), []
    consumer.subscribe([topic])
    last_s = time.monotonic() + 20
    while time.monotonic() < last_s:
        some = [one for one in consumer.consume(5_000, 0.5) if one.error() is None]
        found += [json.loads(one.value()) for one in some]
        if some:
            last_s = time.monotonic() + quiet_s
    consumer.close()
    return found


def judged(events: list[dict[str, Any]], count: int) -> list[str]:
    """What is wrong with the answers."""
    ids = [event["data"]["event"]["id"] for event in events]
    wrong = []
    if len(set(ids)) != count:
        wrong.append(f"{count - len(set(ids))} events were lost")
    if len(ids) != len(set(ids)):
        wrong.append(f"{len(ids) - len(set(ids))} events were applied twice")
    last: dict[str, int] = {}
    for event in events:
        key, number = event["subject"], int(event["data"]["event"]["id"][1:])
        if number < last.get(key, -1):
            wrong.append(f"the order of {key} was lost at e{number}")
        last[key] = number
    return wrong


def run(count: int, kills: int, seed: int, limit_s: float) -> int:
    """The whole of it; the exit code."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, running_kafka() as address, aios.local() as rt:
        work = prepare(Path(folder))
        make_topic(address, "in", PARTITIONS)
        make_topic(address, "out", PARTITIONS)
        rt.models.register("loan", work.estimator, contract=work.contract, sample=work.sample)
        rt.deploy("loan", "loan:1")
        rt.on(
            aios.Kafka(address, topic="in"),
            endpoint="loan",
            to=aios.Kafka(address, topic="out"),
            consumers=READERS,
        )
        body = json.loads(work.bodies[0])
        begun_s = time.monotonic()
        produce(address, "in", count, body, chance)
        died = killed(rt, kills, count, chance, limit_s)
        took_s = time.monotonic() - begun_s
        status = rt.subscriptions()[NAME]
        events = answered(address, "out", 10.0)
    wrong = judged(events, count)
    print(
        f"{count:,} events, {died} readers killed ({status.restarts} begun anew), "
        f"{status.counts['repeated']:,} repeats absorbed, in {took_s:.0f} s: "
        f"{'; '.join(wrong[:5]) or 'none lost, none applied twice, every key in order'}"
    )
    return 1 if wrong or died < kills else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--limit", type=float, default=3_600.0, help="seconds")
    asked = parser.parse_args()
    sys.exit(run(asked.events, asked.kills, asked.seed, asked.limit))


if __name__ == "__main__":
    main()
