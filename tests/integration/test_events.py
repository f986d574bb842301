"""Events on real Ray with real brokers: Kafka's protocol, RabbitMQ, PostgreSQL, folders."""

import base64
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

import aios
from aios.errors import PermanentError, TemporaryError, UsageError
from aios.events.kafka import KafkaConsumer, KafkaSender
from aios.events.postgres_cdc import PostgresConsumer
from aios.events.rabbitmq import RabbitSender
from aios.events.reading import Reader
from aios.records.events import SubscriptionSpec
from aios.security.webhooks import webhook_headers
from apps.brokers import Rabbit, make_topic, running_kafka, running_rabbitmq
from tests.postgres_server import running_postgres

ENDPOINT = "scoring"
SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def home(rt: aios.Runtime) -> Path:
    """The runtime's home, with a secret and a deployed endpoint."""
    folder: Path = rt.home  # type: ignore[attr-defined]
    (folder / "secrets").mkdir(exist_ok=True)
    (folder / "secrets" / "hook").write_text("whsec_" + base64.b64encode(SECRET).decode())
    (folder / "secrets" / "rabbit").write_text("s3/cr@t")
    return folder


@pytest.fixture(scope="module")
def scoring(rt: aios.Runtime, toy_contract: Any, toy_model: Any, toy_frame: Any) -> Iterator[str]:
    rt.models.register(ENDPOINT, toy_model, contract=toy_contract, sample=toy_frame)
    rt.deploy(ENDPOINT, f"{ENDPOINT}:1")
    yield ENDPOINT
    rt.remove(ENDPOINT)


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    with running_kafka() as address:
        yield address


@pytest.fixture(scope="module")
def rabbit() -> Iterator[Rabbit]:
    with running_rabbitmq("shop", "s3/cr@t") as broker:
        yield broker


def until(holds: Callable[[], Any], limit_s: float = 60.0) -> Any:
    give_up_s = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < give_up_s, "it never came to that"
        time.sleep(0.2)
    return found


def record(n: int) -> dict[str, Any]:
    return {"id": f"k{n % 50}", "a": float(n % 7), "b": 0.5}


def answers(folder: Path) -> list[dict[str, Any]]:
    """What the endpoint's answers were, as a sink of files has them."""
    return [json.loads(one.read_text()) for one in sorted(folder.glob("*.json"))]


# -- webhooks -------------------------------------------------------------------------


def post(rt: aios.Runtime, name: str, body: bytes, message_id: str, **changed: str) -> Any:
    headers = webhook_headers(message_id, time.time(), body, SECRET) | changed
    headers["content-type"] = "application/json"
    return httpx.post(f"{rt.address}/v1/events/{name}", content=body, headers=headers)


def test_a_signed_webhook_is_answered_by_an_endpoint_and_told_to_a_sink(
    rt: aios.Runtime, home: Path, scoring: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    hook = rt.on(
        aios.Webhook(secret="file:hook"), endpoint=scoring, to=aios.Files(str(out)), key="id"
    )
    assert hook.path == "/v1/events/scoring-webhook"
    body = json.dumps(record(3)).encode()
    assert post(rt, hook.id, body, "m1").json() == {"repeated": False}
    assert post(rt, hook.id, body, "m1").json() == {"repeated": True}
    changed = post(
        rt, hook.id, body + b" ", "m2", **webhook_headers("m2", time.time(), body, SECRET)
    )
    assert (changed.status_code, changed.json()["code"]) == (401, "Unauthenticated")
    found = until(lambda: answers(out))
    assert len(found) == 1
    told = found[0]["data"]
    assert told["outputs"][0]["p"] > 0.5
    assert told["version"] == 1
    assert found[0]["subject"] == "k3"
    # Poison for the endpoint: its contract wants a below 100.
    bad = json.dumps({**record(4), "a": 1e9}).encode()
    assert post(rt, hook.id, bad, "m3").status_code == 200
    good = json.dumps(record(5)).encode()
    assert post(rt, hook.id, good, "m4").status_code == 200
    until(lambda: len(answers(out)) == 2)
    [letter] = until(lambda: list(rt.dead_letters(hook.id)))
    assert letter.attempts == 5
    assert "a" in letter.reason
    assert "ContractViolation" in letter.trace
    assert rt.replay(letter) == 1
    assert not list(rt.dead_letters(hook.id))
    text = rt.metrics()
    assert 'aios_events_total{result="repeated",subscription="scoring-webhook"} 1.0' in text
    rt.off(hook)
    assert post(rt, hook.id, good, "m5").status_code == 404


# -- Kafka ----------------------------------------------------------------------------


def produce(address: str, topic: str, first: int, count: int) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": address, "acks": "all", "linger.ms": 20})
    for n in range(first, first + count):
        told = record(n)
        producer.produce(topic, json.dumps(told).encode(), key=told["id"].encode())
        if n % 1000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0


def consumed(address: str, topic: str, enough: int, limit_s: float = 90.0) -> list[Any]:
    """Everything in a topic, by a bare client."""
    from confluent_kafka import Consumer

    told = {"bootstrap.servers": address, "group.id": uuid4().hex, "auto.offset.reset": "earliest"}
    consumer = Consumer(told)
    consumer.subscribe([topic])
    found: list[Any] = []
    give_up_s = time.monotonic() + limit_s
    quiet_s = time.monotonic() + 5
    try:
        while time.monotonic() < give_up_s:
            some = [one for one in consumer.consume(1000, 0.5) if one.error() is None]
            found += [json.loads(one.value()) for one in some]
            if some or len(found) < enough:
                quiet_s = time.monotonic() + 5
            elif time.monotonic() > quiet_s:
                break
    finally:
        consumer.close()
    return found


def offsets(events: list[dict[str, Any]]) -> dict[str, list[tuple[str, int]]]:
    """By key, where the events that were answered came from, in the order of the answers."""
    found: dict[str, list[tuple[str, int]]] = {}
    for event in events:
        _, partition, offset = event["data"]["event"]["id"].split("/")
        found.setdefault(event["subject"], []).append((partition, int(offset)))
    return found


def test_readers_of_kafka_that_are_killed_lose_nothing_and_apply_nothing_twice(
    rt: aios.Runtime, home: Path, scoring: str, kafka: str
) -> None:
    topic, out, count = f"in-{uuid4().hex[:6]}", f"out-{uuid4().hex[:6]}", 4_000
    make_topic(kafka, topic, 4)
    make_topic(kafka, out, 4)
    source = aios.Kafka(kafka, topic=topic)
    to = aios.Kafka(kafka, topic=out)
    produce(kafka, topic, 0, count // 2)
    rt.on(source, endpoint=scoring, to=to, key="id", consumers=2)
    status = lambda: rt.subscriptions()["scoring-kafka"]  # noqa: E731
    for _ in range(2):
        before = status().restarts
        os.kill(until(lambda: status().fields["pids"])[0], signal.SIGKILL)
        until(lambda before=before: status().restarts > before)
    produce(kafka, topic, count // 2, count // 4)
    # The kernel too, and with it its readers, which belong to it.
    until(lambda: status().counts["done"] > 500)
    [kernel] = [one["pid"] for one in rt.ps() if one["role"] == "kernel"]
    os.kill(kernel, signal.SIGKILL)
    produce(kafka, topic, count - count // 4, count // 4)
    until(lambda: status().counts["done"] and status().lag == 0 and not status().waiting, 150)
    until(lambda: "aios_outbox_waiting{" not in rt.metrics(), 60)
    events = consumed(kafka, out, count)
    # What the outbox had sent when the kernel died is sent again, under the same id.
    events = list({event["id"]: event for event in events}.values())
    assert len(events) == count, "none lost, none begun twice"
    by_key = offsets(events)
    assert len(by_key) == 50
    for key, places in by_key.items():
        assert places == sorted(places), f"{key} lost its order"
    rt.off("scoring-kafka")


# -- RabbitMQ -------------------------------------------------------------------------


def test_a_broker_that_crashes_and_readers_that_are_killed_lose_nothing(
    rt: aios.Runtime, home: Path, scoring: str, rabbit: Rabbit
) -> None:
    count = 600
    source, to = (
        aios.RabbitMQ(rabbit.url, queue=queue, user=rabbit.user, password="file:rabbit")
        for queue in ("in", "out")
    )
    rt.on(source, endpoint=scoring, to=to, key="id", consumers=2)
    until(lambda: rt.subscriptions()["scoring-rabbitmq"].lag == 0)
    publish(rabbit, "in", 0, count)
    pids = until(lambda: rt.subscriptions()["scoring-rabbitmq"].fields["pids"])
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: rt.subscriptions()["scoring-rabbitmq"].restarts)
    rabbit.restart()
    # The same again, as a producer does that never heard of its confirms; and some more.
    publish(rabbit, "in", 0, count + 200)
    status = until(lambda: done(rt, "scoring-rabbitmq", count + 200), 120)
    assert status.counts["repeated"] >= count
    until(lambda: "aios_outbox_waiting{" not in rt.metrics(), 60)
    events = drained(rabbit, "out", count + 200)
    # The outbox sends again what was not confirmed when the broker died, under the same id.
    assert len({event["id"] for event in events}) == count + 200
    rt.off("scoring-rabbitmq")


def test_a_broker_that_refuses_or_has_no_queue_for_an_event_says_so(rabbit: Rabbit) -> None:
    def sender(url: str = rabbit.url, password: str = rabbit.password) -> RabbitSender:
        return RabbitSender(aios.RabbitMQ(url, **told, password="file:rabbit"), password)

    told = {"exchange": "amq.direct", "routing_key": "nowhere", "user": rabbit.user}
    with pytest.raises(TemporaryError, match="ACCESS_REFUSED"):
        sender(password="wrong")
    with pytest.raises(TemporaryError, match="no virtual host 'elsewhere'"):
        sender(f"{rabbit.url}elsewhere")
    sending = sender()
    with pytest.raises(TemporaryError, match="no queue takes the routing key 'nowhere'"):
        sending.send([("e1", None, b"{}"), ("e2", None, b"{}")])
    sending.close()


def done(rt: aios.Runtime, name: str, count: int) -> Any:
    status = rt.subscriptions()[name]
    return status if status.counts["done"] == count and not status.waiting else None


async def connected(rabbit: Rabbit) -> Any:
    import aio_pika

    login = {"login": rabbit.user, "password": rabbit.password}
    return await aio_pika.connect(host="127.0.0.1", port=rabbit.port, **login)


def publish(rabbit: Rabbit, queue: str, first: int, count: int) -> None:
    import asyncio

    import aio_pika

    async def work() -> None:
        async with await connected(rabbit) as connection:
            channel = await connection.channel(publisher_confirms=True)
            for n in range(first, first + count):
                message = aio_pika.Message(
                    json.dumps(record(n)).encode(),
                    message_id=f"m{n}",
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                )
                await channel.default_exchange.publish(message, routing_key=queue)

    asyncio.run(work())


def drained(rabbit: Rabbit, queue: str, enough: int) -> list[Any]:
    import asyncio

    async def work() -> list[Any]:
        found: list[Any] = []
        async with await connected(rabbit) as connection:
            channel = await connection.channel()
            queued = await channel.get_queue(queue)
            while (one := await queued.get(no_ack=True, fail=False)) is not None:
                found.append(json.loads(one.body))
        return found

    found = asyncio.run(work())
    assert len(found) >= enough
    return found


# -- PostgreSQL -----------------------------------------------------------------------


def test_changes_of_rows_come_in_order_until_they_are_let_go_of_and_a_lost_slot_is_told() -> None:
    import psycopg

    with (
        running_postgres("wal_level=logical", "max_replication_slots=4") as url,
        psycopg.connect(f"{url}/postgres", autocommit=True) as database,
    ):
        database.execute("CREATE TABLE orders (id int PRIMARY KEY, total numeric(9, 2), note text)")
        database.execute("CREATE TABLE others (id int PRIMARY KEY, exact numeric)")
        database.execute("CREATE TABLE nameless (id int)")

        def reading(*tables: str) -> PostgresConsumer:
            place = f"{url.replace('aios@', '')}/postgres"
            source = aios.PostgresCDC(place, tables=tables, user="aios")
            return PostgresConsumer(source, "orders-cdc", None)

        reader = reading("orders")
        assert reader.poll(100, 0.0).messages == []
        with database.transaction():
            database.execute("INSERT INTO orders VALUES (1, 9.5, 'a'), (2, 1e6, NULL)")
            database.execute("UPDATE orders SET total = 10 WHERE id = 1")
        database.execute("INSERT INTO others VALUES (1, 1)")
        database.execute("DELETE FROM orders WHERE id = 2")
        first = reader.poll(100, 0.0)
        again = reader.poll(100, 0.0)
        assert again.messages == first.messages, "nothing was let go of"
        told = [(one.kind, json.loads(one.body or b"")["row"]) for one in first.messages]
        assert told == [
            ("row.insert", {"id": 1, "total": 9.5, "note": "a"}),
            ("row.insert", {"id": 2, "total": 1e6, "note": None}),
            ("row.update", {"id": 1, "total": 10.0, "note": "a"}),
            ("row.delete", {"id": 2}),
        ]
        assert first.messages[0].subject == "public.orders:[1]"
        assert len({one.coordinates for one in first.messages}) == 4
        reader.ack(first)
        reader.close()
        reader = reading("orders")
        assert reader.poll(100, 0.0).messages == [], "what was let go of does not come again"
        database.execute("TRUNCATE orders")
        [cut] = reader.poll(100, 0.0).messages
        assert cut.kind == "row.truncate"
        assert (reader.lag() or 0) > 0
        reader.close()

        with pytest.raises(
            UsageError, match=r'"nameless" has no primary key.*REPLICA IDENTITY FULL'
        ):
            reading("orders", "nameless")
        with pytest.raises(UsageError, match='there is no table "absent" here'):
            reading("orders", "absent")
        database.execute("UPDATE nameless SET id = 2")  # its owner is in nobody's way
        reader = reading("others")
        database.execute("INSERT INTO orders VALUES (3, 1, 'of another table now')")
        database.execute("INSERT INTO others VALUES (7, 5), (8, 12345678901234567890.12)")
        *_, five, many = [
            json.loads(one.body or b"")["row"] for one in reader.poll(9, 0.0).messages
        ]
        assert (five, many["exact"]) == ({"id": 7, "exact": "5"}, "12345678901234567890.12")
        database.execute("DROP TABLE others")
        dropped = "a table of it was dropped.*changes since then are lost"
        with pytest.raises(PermanentError, match=dropped):
            reader.poll(9, 0.0)
        reader.close()
        database.execute("CREATE TABLE others (id int PRIMARY KEY)")
        with pytest.raises(PermanentError, match=dropped):
            reading("others")  # not silently from its successor's first row on
        reading("orders").close()
        database.execute("SELECT pg_drop_replication_slot('aios_orders_cdc')")
        with pytest.raises(PermanentError, match="it is gone; changes since then are lost"):
            reading("orders")


# -- what the broker above has not: headers, transactions -----------------------------


@pytest.fixture
def mock() -> Iterator[tuple[Any, str]]:
    """A cluster of librdkafka's own, inside the producer that is given too."""
    from confluent_kafka import Producer

    told = {"bootstrap.servers": "x:1", "test.mock.num.brokers": 3, "transactional.id": "t"}
    producer = Producer(told)
    brokers = producer.list_topics(timeout=10).brokers.values()
    yield producer, ",".join(f"{one.host}:{one.port}" for one in brokers)
    producer.flush(1)


def polled(reader: KafkaConsumer, enough: int) -> list[Any]:
    found: list[Any] = []
    give_up_s = time.monotonic() + 30
    while len(found) < enough and time.monotonic() < give_up_s:
        batch = reader.poll(100, 0.5)
        found += batch.messages
        if batch.messages:
            reader.ack(batch)
    return found


def test_an_event_in_kafkas_headers_is_read_and_what_was_not_committed_is_not(
    mock: tuple[Any, str],
) -> None:
    producer, address = mock
    headers = {"ce_specversion": "1.0", "ce_id": "e1", "ce_source": "shop", "ce_type": "paid"}
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce("mocked", b'{"n": 1}', key=b"k", headers=headers)
    producer.produce("mocked", None, key=b"k")
    producer.commit_transaction(10)
    source = aios.Kafka(address, topic="mocked")
    reader = KafkaConsumer(source, "g")
    found = polled(reader, 2)
    spec = SubscriptionSpec(id="x", source=source, flow="f", key="n")
    first, second = (Reader(spec).read(one) for one in found)
    assert first is not None
    assert second is not None
    event = json.loads(first.event or "")
    assert (event["id"], event["type"], event["data"]) == ("e1", "paid", {"n": 1})
    assert json.loads(second.event or "")["type"] == "kafka.tombstone"
    assert second.key == "k"
    assert reader.lag() in (0, 1), "the mark of the commit is no message"
    reader.close()
    again = KafkaConsumer(source, "g")
    assert polled_for(again, 3.0) == [], "what was acknowledged does not come again"
    again.close()


def polled_for(reader: KafkaConsumer, seconds: float) -> list[Any]:
    found: list[Any] = []
    give_up_s = time.monotonic() + seconds
    while time.monotonic() < give_up_s:
        found += reader.poll(100, 0.5).messages
    return found


def test_a_held_reader_stays_in_its_group_and_loses_nothing(mock: tuple[Any, str]) -> None:
    producer, address = mock
    producer.init_transactions(10)
    producer.begin_transaction()
    for n in range(300):
        producer.produce("held", b'{"n": %d}' % n)
    producer.commit_transaction(10)
    reader = KafkaConsumer(aios.Kafka(address, topic="held"), "g")
    found: list[Any] = []
    while len(found) < 300:
        batch = reader.poll(20, 0.5)
        found += batch.messages
        reader.ack(batch)
        for _ in range(3):
            reader.idle()
    numbers = [json.loads(one.body)["n"] for one in found]
    assert sorted(numbers) == list(range(300))
    by_partition: dict[str, list[int]] = {}
    for one in found:
        by_partition.setdefault(one.coordinates.split("/")[1], []).append(
            int(one.coordinates.split("/")[2])
        )
    assert all(places == sorted(places) for places in by_partition.values())
    reader.close()


def test_a_reader_that_was_held_while_its_group_changed_reads_all_partitions_again(
    mock: tuple[Any, str],
) -> None:
    """librdkafka remembers over a rebalance that a partition was paused."""
    from confluent_kafka import Producer

    producer, topic, partitions = Producer({"bootstrap.servers": mock[1]}), "held-and-back", 4

    def produce(text: bytes) -> None:
        for number in range(partitions):
            producer.produce(topic, text, partition=number)
        assert producer.flush(10) == 0

    def assigned(reader: KafkaConsumer) -> int:
        return len(reader._consumer.assignment())

    def until(holds: Callable[[], bool], *do: Callable[[], Any]) -> None:
        give_up_s = time.monotonic() + 90
        while not holds():
            assert time.monotonic() < give_up_s
            for one in do:
                one()

    produce(b"before")
    first = KafkaConsumer(aios.Kafka(mock[1], topic=topic), "g")
    found: set[str] = set()
    until(lambda: assigned(first) == partitions, lambda: first.poll(10, 0.2))
    first.idle()
    second = KafkaConsumer(aios.Kafka(mock[1], topic=topic), "g")
    until(lambda: assigned(second) > 0, first.idle, lambda: second.poll(10, 0.2))
    first.poll(10, 0.2)
    second.close()
    until(lambda: assigned(first) == partitions, lambda: first.poll(10, 0.2))
    produce(b"after")

    def read() -> None:
        messages = first.poll(10, 0.2).messages
        found.update(one.coordinates.split("/")[1] for one in messages if one.body == b"after")

    until(lambda: len(found) == partitions, read)
    first.close()


def test_a_sink_of_kafka_that_nobody_is_at_is_told_at_once() -> None:
    begin_s = time.monotonic()
    with pytest.raises(TemporaryError, match=r"no broker of 127\.0\.0\.1:1 answers"):
        KafkaSender(aios.Kafka("127.0.0.1:1", topic="t"))
    assert time.monotonic() - begin_s < 15
