"""What users write: sources, sinks, keys and filters, and what is told where one is wrong."""

import json
from contextlib import suppress

import pytest
from event_worlds import message
from hypothesis import given
from hypothesis import strategies as st

import aios
from aios.errors import Malformed, Unauthenticated, UsageError
from aios.events.filters import key_of, parse_filter
from aios.events.reading import MOST_BYTES, Reader
from aios.events.scaling import Scale, scaled
from aios.events.schedule import due_ticks
from aios.records.cloudevents import CloudEvent, as_json, read_event
from aios.records.events import SubscriptionSpec, check_sink, check_source
from aios.security.webhooks import verified_id, webhook_headers

KEY = b"k" * 32
EVENT = {
    "type": "order.created",
    "data": {
        "amount": 120,
        "to": {"country": "DE"},
        "note": None,
        "total": "12345678901234567890.12",
        "rate": 0.1,
    },
}


# -- records --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda: aios.Webhook(secret="whsec_c2VjcmV0"), "holds a secret, which is not stored"),
        (lambda: aios.Webhook(secret="env:HOME"), "EVENTS_"),
        (lambda: aios.Webhook(secret="file:../../etc/passwd"), "holds a secret"),
        (lambda: aios.Webhook(url="ftp://x"), "http"),
        (lambda: aios.Kafka("localhost", topic="t"), "host:port"),
        (lambda: aios.Kafka("localhost:9092", topic="a b"), "topic"),
        (lambda: aios.Kafka("far:9092", topic="t", user="u", password="env:EVENTS_X"), "tls=True"),
        (lambda: aios.Kafka("h:1", topic="t", user="u"), "go together"),
        (lambda: aios.RabbitMQ("amqp://u:p@h/", queue="q"), "holds a user or a password"),
        (lambda: aios.RabbitMQ("amqp://h/"), "queue is missing"),
        (lambda: aios.RabbitMQ("amqp://h/", qeue="q"), "qeue: is no argument; did you mean queue"),
        (lambda: aios.PostgresCDC("postgresql://h/d", tables="orders"), "are names of tables"),
        (lambda: aios.PostgresCDC("postgresql://h/d", tables=("t",), slot="A"), "small letters"),
        (lambda: aios.RabbitMQ("http://h/", queue="q"), "amqp://"),
        (lambda: aios.PostgresCDC("postgresql://h:5432", tables=("a",)), "names no database"),
        (lambda: aios.PostgresCDC("postgresql://h/d", tables=("a; drop",)), "names of tables"),
        (lambda: aios.PostgresCDC("postgresql://h/d?sslmode=x", tables=("a",)), "question mark"),
        (lambda: aios.Schedule("every day"), "no cron line"),
        (lambda: aios.Schedule("0 0 30 2 *"), "no cron line"),
        (lambda: aios.Schedule("0 9 * * *", timezone="Mars/Base"), "no time zone"),
        (lambda: aios.Files("s3://user:pw@bucket/in"), "holds a user"),
        (lambda: aios.Files("in", every_s=0), "every_s"),
        (lambda: aios.Files("s3x://bucket/in"), "unknown protocol, 's3x'"),
        (
            lambda: aios.PostgresCDC("postgresql://h/d", tables=("t", "t")),
            "has a table twice; name each once",
        ),
        (lambda: check_source(aios.Webhook(url="http://x")), "a source needs one"),
        (lambda: check_source(aios.RabbitMQ("amqp://h/", exchange="e")), "a source needs one"),
        (lambda: check_source("kafka://x"), "give one of aios.Webhook"),
        (lambda: check_sink(aios.Webhook(secret="env:EVENTS_X")), "a sink needs one"),
        (lambda: check_sink(aios.Schedule("* * * * *")), "is no sink"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(write, told):
    with pytest.raises(UsageError) as found:
        write()
    assert told in found.value.message
    assert "\n" not in found.value.message


def test_a_secret_that_was_given_in_the_clear_is_never_repeated():
    for write in (
        lambda: aios.Webhook(secret="whsec_hunter2hunter2"),
        lambda: aios.RabbitMQ("amqp://u:hunter2@h/", queue="q"),
        lambda: aios.Kafka("h:1", topic="t", user="u", password="hunter2"),
        lambda: aios.Files("s3://k:hunter2@b/x"),
    ):
        with pytest.raises(UsageError) as found:
            write()
        assert "hunter2" not in str(found.value)


def test_a_relative_folder_is_one_of_who_names_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = aios.Files("in/")
    monkeypatch.chdir("/")
    assert type(given).model_validate_json(given.model_dump_json()).url == f"{tmp_path}/in"
    assert aios.Files("s3://bucket/in").url == "s3://bucket/in"


# -- filters and keys -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("amount > 100", True),
        ('amount > 100 and to.country = "FR"', False),
        ('amount > 1000 or to.country = "DE" and event.type = "order.created"', True),
        ("note = null and refund missing", True),
        ("note exists and amount != 5", True),
        ('amount = "120"', False),
        ('to.country < "E"', True),
        ("refund != 5", False),
        ("amount >= 1.2e2", True),
        ("note > 0", False),
        ("total > 100 and total < 1e30", True),
        ("total = 12345678901234567890.12", True),
        ("total = 12345678901234567890.13", False),
        ("rate = 0.1 and rate < 0.10001", True),
        ("to.country > 0", False),
    ],
)
def test_a_filter_says_which_events(text, holds):
    assert parse_filter(text).holds(EVENT) is holds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a field is missing"),
        ("amount", "comes one of"),
        ("amount > ", "comes a number"),
        ("amount > high", "comes a number"),
        ("amount ~ 3", "cannot be read"),
        ("amount > 1 nor x > 2", "where `and` or `or` would"),
        ("amount > 1 and", "at the end"),
        ("amount > null", "has no order"),
        ("event.color = 1", "there are event.id"),
        ("__import__('os').system('x')", "cannot be read"),
        ("x = 1" * 200, "are enough"),
        (5, "is a text"),
    ],
)
def test_a_text_that_is_no_filter_is_told_where_it_stops_to_be_one(text, told):
    with pytest.raises(UsageError, match="filter") as found:
        parse_filter(text)
    assert told in found.value.message


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_a_clear_error(text):
    with suppress(UsageError):
        assert parse_filter(text).holds(EVENT) in (True, False)


def test_the_key_is_a_field_of_the_data_or_the_subject():
    event = {"subject": "s", "data": {"a": {"b": 7}, "t": True, "l": []}}
    assert key_of(event, None) == "s"
    assert key_of(event, "a.b") == "7"
    assert key_of(event, "t") == "true"
    assert key_of(event, "event.subject") == "s"
    assert key_of({"subject": "s", "data": None}, "a.b") == "s", "a tombstone"
    for path in ("l", "a.c", "a"):
        with pytest.raises(UsageError, match="the key"):
            key_of(event, path)


# -- reading --------------------------------------------------------------------------


def reader(**fields):
    told = {"id": "x", "source": aios.Kafka("h:1", topic="orders"), "flow": "f", **fields}
    return Reader(SubscriptionSpec(**told))


def test_plain_json_becomes_the_data_of_an_event_named_by_its_place():
    found = reader().read(message(7, b'{"n": 1}', subject="k", time_s=5.0))
    event = json.loads(found.event)
    assert found.coordinates == event["id"] == "orders/0/7"
    assert (event["source"], event["type"], event["data"]) == (
        *("kafka:orders", "kafka.message"),
        {"n": 1},
    )
    assert found.key == "k"
    assert event["time"] == "1970-01-01T00:00:05+00:00"


def test_a_cloudevent_is_named_by_itself_so_that_sent_twice_it_is_one():
    body = json.dumps({"specversion": "1.0", "id": "a", "source": "s", "type": "t", "data": 3})
    first, second = (reader().read(message(n, body.encode())) for n in (1, 2))
    assert first == second
    binary = {"ce_specversion": "1.0", "ce_id": "a", "ce_source": "s", "ce_type": "t"}
    third = reader().read(message(3, b"3", headers=binary))
    assert third.coordinates == first.coordinates
    assert json.loads(third.event) == json.loads(first.event)


@pytest.mark.parametrize(
    ("body", "more", "told"),
    [
        (b"not json", {}, "no JSON"),
        (b'{"specversion": "2.0", "id": "a"}', {}, "specversion is '2.0'"),
        (b'{"specversion": "1.0", "source": "s", "type": "t"}', {}, "id is None"),
        (b'{"specversion": "1.0", "id": "", "source": "s", "type": "t"}', {}, "id is ''"),
        (b"[" * 100_000, {}, "no JSON"),
        (b"<x/>", {"content_type": "application/xml"}, "declared as application/xml"),
        (b" " * (MOST_BYTES + 1), {}, "put what is large into a store"),
        (b'{"a": NaN}', {}, "no JSON"),
    ],
)
def test_what_is_no_event_is_kept_with_its_reason_and_its_beginning(body, more, told):
    found = reader().read(message(1, body, **more))
    assert found.event is None
    assert told in found.reason
    assert found.coordinates == "orders/0/1"
    assert len(found.raw) <= 2_000


def test_an_event_of_100_mib_costs_no_more_than_its_beginning():
    found = reader().read(message(1, b"x" * 100 * 2**20))
    assert "104,857,600 bytes" in found.reason
    assert len(found.raw) == 2_000


def test_a_message_without_any_name_is_set_aside():
    found = reader().read(message(1, b"{}")._replace(coordinates=""))
    assert "neither a message id" in found.reason


def test_a_tombstone_is_an_event_without_data_in_the_order_of_its_key():
    found = reader(key="id").read(message(1, None, subject="k", kind="kafka.tombstone"))
    assert found.key == "k"
    assert json.loads(found.event)["type"] == "kafka.tombstone"
    assert "data" not in json.loads(found.event)


def test_what_the_subscription_is_not_about_is_counted_and_passed_over():
    one = reader(filter="n > 1")
    assert one.read(message(1, b'{"n": 1}')) is None
    assert one.read(message(2, b'{"n": 2}')) is not None
    assert one.filtered == 1


def test_nothing_that_no_database_holds_gets_into_a_key():
    found = reader(key="id").read(message(1, b'{"id": "a\\u0000b"}'))
    assert found.key == "a\\x00b"


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_a_reason(body):
    found = reader().read(message(1, body))
    assert (found.event is None) != (found.reason is None)


def test_an_event_survives_its_json_format():
    event = CloudEvent(id="a", source="s", type="t", subject="x", time_s=7.5, data={"n": [1]})
    assert read_event(as_json(event)) == event


# -- signatures -----------------------------------------------------------------------


def signed(body=b"{}", at_s=1000.0, **changed):
    return webhook_headers("m1", at_s, body, KEY) | changed


def test_a_signature_fits_the_bytes_the_id_and_the_time():
    assert verified_id(signed(), b"{}", KEY, 1000.0) == "m1"
    several = signed(**{"webhook-signature": f"v1,AAAA v2,x {signed()['webhook-signature']}"})
    assert verified_id(several, b"{}", KEY, 1299.0) == "m1"


@pytest.mark.parametrize(
    ("headers", "body", "now_s", "error"),
    [
        (signed(), b"{} ", 1000.0, Unauthenticated),
        (signed(**{"webhook-id": "m2"}), b"{}", 1000.0, Unauthenticated),
        (signed(**{"webhook-timestamp": "1001"}), b"{}", 1000.0, Unauthenticated),
        (signed(**{"webhook-signature": "v1,"}), b"{}", 1000.0, Unauthenticated),
        (signed(**{"webhook-signature": ""}), b"{}", 1000.0, Unauthenticated),
        (signed(**{"webhook-signature": "v1,é"}), b"{}", 1000.0, Unauthenticated),
        (signed(), b"{}", 1301.0, Unauthenticated),
        (signed(), b"{}", 699.0, Unauthenticated),
        (signed(**{"webhook-timestamp": "now"}), b"{}", 1000.0, Malformed),
        (signed(**{"webhook-id": ""}), b"{}", 1000.0, Malformed),
        ({}, b"{}", 1000.0, Malformed),
    ],
)
def test_what_somebody_else_sent_changed_or_replays_is_refused(headers, body, now_s, error):
    with pytest.raises(error):
        verified_id(headers, body, KEY, now_s)


# -- schedules and scaling ------------------------------------------------------------


def test_ticks_that_were_missed_are_made_up_for_only_if_asked():
    all_of_them = aios.Schedule("0 * * * *", backfill=True)
    newest = aios.Schedule("0 * * * *")
    assert due_ticks(all_of_them, 0.0, 4 * 3600.0) == [3600.0, 7200.0, 10800.0, 14400.0]
    assert due_ticks(newest, 0.0, 4 * 3600.0, up_s=4 * 3600.0) == [14400.0]
    assert due_ticks(newest, 0.0, 4 * 3600.0, up_s=9000.0) == [7200.0, 10800.0, 14400.0]
    assert due_ticks(newest, 3600.0, 4 * 3600.0, up_s=1.0) == [7200.0, 10800.0, 14400.0]
    assert due_ticks(newest, 7200.0, 9000.0, up_s=8000.0) == []
    assert due_ticks(newest, 14400.0, 15000.0) == []
    assert due_ticks(all_of_them, 20000.0, 15000.0) == [], "the clock went back"


def test_six_fields_begin_with_seconds():
    assert due_ticks(aios.Schedule("30 * * * * *"), 0.0, 100.0) == [30.0, 90.0]


def test_a_schedule_goes_by_the_clock_of_its_zone():
    # 2026-03-29: Berlin's clocks go from 02:00 to 03:00.
    berlin = aios.Schedule("0 9 * * *", timezone="Europe/Berlin", backfill=True)
    before, after = due_ticks(berlin, 1774656000.0, 1774656000.0 + 2 * 86_400)
    assert after - before == 23 * 3600.0


def test_the_number_of_readers_follows_the_lag_slowly_and_within_its_bounds():
    scale = Scale(1, 1, 0.0)
    for second in range(1, 30):
        scale = scaled(scale, 100_000, False, 1, 4, float(second))
    assert scale.consumers == 4
    for second in range(30, 300):
        scale = scaled(scale, 0, False, 1, 4, float(second))
        assert scale.consumers == 4 or second >= 90
    assert scale.consumers == 1
    held = scaled(Scale(2, 2, 0.0), 10**9, True, 1, 4, 99.0)
    assert held.consumers == 2, "more readers would not help"
