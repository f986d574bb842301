"""Events at the kernel's doors: commands, webhooks, schedules, files, the outbox, metrics, CLI."""

import json
import os
import threading
import time
from types import SimpleNamespace

import pytest
from alert_servers import http_receiver
from api_fakes import Client, api_of, is_problem
from event_worlds import KEY, SECRET, EventWorld
from kernel_fakes import World, make_template, make_world
from typer.testing import CliRunner

import aios
from aios.cli import app
from aios.errors import (
    IllegalTransition,
    Overloaded,
    TemporaryError,
    Unauthenticated,
    UnknownName,
    UsageError,
)
from aios.events.consumer import Pump, Taking
from aios.events.files import FilesConsumer
from aios.events.kafka import KafkaConsumer
from aios.events.sinks import FilesSender, WebhookSender, open_sender
from aios.kernel.event_readers import EventReaders
from aios.kernel.event_sending import Sending
from aios.kernel.events import MOST_WAITING
from aios.records.cloudevents import CloudEvent
from aios.records.events import SubscriptionSpec
from aios.registry.events import Outgoing
from aios.runtime.events import DeadLetters, Subscriptions
from aios.security.webhooks import verified_id, webhook_headers


@pytest.fixture
def world(tmp_path):
    return EventWorld(tmp_path)


# -- webhooks -------------------------------------------------------------------------


def test_a_webhook_is_kept_once_by_its_id(world):
    world.webhook(key="id")
    assert world.post(b'{"id": 7}') is True
    assert world.post(b'{"id": 7}') is False
    assert world.post(b'{"id": 7}', "m2") is True
    assert world.store.waiting("hook") == 2


def test_a_webhook_whose_signature_is_wrong_or_replayed_late_keeps_nothing(world):
    world.webhook()
    with pytest.raises(Unauthenticated, match="no signature fits"):
        world.post(b"{}", **{"webhook-signature": "v1,AAAA"})
    headers = webhook_headers("m1", world.clock.now_s(), b"{}", KEY)
    world.clock.advance(301)
    with pytest.raises(Unauthenticated, match="over 300 s"):
        world.events.take_webhook("hook", headers, "{}")
    assert world.store.waiting("hook") == 0


def test_a_webhook_that_is_no_event_is_told_to_its_sender_and_is_no_dead_letter(world):
    world.webhook(key="id")
    for body in (b"no", b"{}", b""):
        with pytest.raises(UsageError):
            world.post(body)
    assert world.store.dead_letters() == []
    assert world.events.counts[("hook", "refused")] == 3


def test_a_webhook_is_asked_to_come_later_when_too_much_waits(world):
    world.webhook()
    world.events.store.waiting = lambda name: MOST_WAITING
    with pytest.raises(Overloaded):
        world.post(b"{}")


def test_a_webhook_that_nobody_subscribed_to_is_unknown(world):
    with pytest.raises(UnknownName, match="no webhook"):
        world.events.take_webhook("hook", {}, "{}")


# -- schedules ------------------------------------------------------------------------


def test_a_schedule_ticks_once_also_over_a_restart(world):
    world.subscribe(id="daily", source=aios.Schedule("0 * * * *", backfill=True))
    world.clock.advance(3 * 3600)
    for _ in range(3):
        world.events.look()
        world.restart()
    world.events.look()
    soon(lambda: not world.store.waiting("daily"))
    world.events.close()
    assert [event["type"] for event in world.starts.begun.values()] == ["schedule.tick"] * 3


def test_a_late_look_loses_no_tick_and_what_was_missed_is_one(world):
    world.subscribe(id="often", source=aios.Schedule("* * * * *"))
    world.events.look()
    world.clock.advance(5 * 60)
    world.events.look()
    soon(lambda: len(world.starts.begun) == 5)
    world.restart()
    world.clock.advance(5 * 60)
    world.events.look()
    soon(lambda: len(world.starts.begun) == 6)
    world.clock.advance(2 * 60)
    world.events.look()
    soon(lambda: len(world.starts.begun) >= 8 and not world.store.waiting("often"))
    world.events.close()
    assert len(world.starts.begun) == 8


def soon(holds):
    give_up_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


# -- files ----------------------------------------------------------------------------


def test_a_file_is_told_of_once_it_is_whole_and_again_when_it_changed(tmp_path):
    (tmp_path / "sub").mkdir()
    reader = FilesConsumer(aios.Files(tmp_path, pattern="*.csv", every_s=0.1))

    def looked():
        reader._due_s = 0.0
        found = reader.poll(100, 0.0)
        reader.ack(found)
        return [json.loads(one.body)["path"] for one in found.messages]

    one = tmp_path / "sub" / "a.csv"
    one.write_text("1")
    (tmp_path / "a.txt").write_text("1")
    (tmp_path / ".hidden.csv").write_text("1")
    assert looked() == [], "it may still be written"
    one.write_text("1,2")
    assert looked() == []
    assert looked() == [str(one)]
    assert looked() == []
    one.write_text("1,2,3")
    os.utime(one, (1, 1))
    looked()
    assert looked() == [str(one)]


def test_a_reader_that_begins_anew_tells_the_same_coordinates(tmp_path):
    (tmp_path / "a").write_text("x")
    found = []
    for _ in range(2):
        reader = FilesConsumer(aios.Files(tmp_path, every_s=0.1))
        reader.poll(10, 0.0)
        reader._due_s = 0.0
        found += [one.coordinates for one in reader.poll(10, 0.0).messages]
    assert len(found) == 2
    assert len(set(found)) == 1


def test_a_name_that_no_event_can_tell_holds_up_no_other(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / os.fsdecode(b"bill-\xff")).write_text("x")
    reader = FilesConsumer(aios.Files(tmp_path, every_s=0.1))
    reader.poll(10, 0.0)
    reader._due_s = 0.0
    found = reader.poll(10, 0.0)
    assert [json.loads(one.body)["path"] for one in found.messages] == [str(tmp_path / "a")]
    assert f"skipped {tmp_path}/bill-\\udcff (its name is not UTF-8)" in found.problem


def test_only_regular_files_of_the_folder_are_taken_and_the_rest_is_told(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "secret"
    folder.mkdir()
    outside.write_text("not yours")
    (folder / "a").write_text("x")
    (folder / "inside").symlink_to(folder / "a")
    (folder / "out").symlink_to(outside)
    (folder / "up").symlink_to(tmp_path)
    (folder / "dangling").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe")
    reader = FilesConsumer(aios.Files(folder, every_s=0.1))
    reader.poll(10, 0.0)
    reader._due_s = 0.0
    found = reader.poll(10, 0.0)
    assert [json.loads(one.body)["path"] for one in found.messages] == [
        str(folder / "a"),
        str(folder / "inside"),
    ]
    assert f"skipped {folder}/dangling (a link to no regular file)" in found.problem
    assert f"{folder}/out (a link out of the folder)" in found.problem
    assert f"{folder}/pipe (no regular file) and 1 more" in found.problem
    for name in ("out", "up", "dangling", "pipe"):
        (folder / name).unlink()
    reader._due_s = 0.0
    assert reader.poll(10, 0.0).problem is None


# -- the outbox -----------------------------------------------------------------------


class Sink:
    """Takes what it is sent, or fails as it is told to."""

    def __init__(self):
        self.got, self.errors, self.refuses = [], [], set()

    def __call__(self, sink, home):
        return self

    def send(self, events):
        if self.errors:
            raise self.errors.pop(0)
        for event_id, _, _ in events:
            if event_id in self.refuses:
                raise UsageError("too large")
            self.got.append(event_id)

    def close(self):
        pass


TO = aios.Kafka("127.0.0.1:9", topic="out")


def emitted(world, *ids):
    world.store.send([Outgoing(TO, CloudEvent(id=one, source="s", type="t"), None) for one in ids])


def sent(world, sink, rounds=40):
    sending = Sending(world.store, world.clock, world.home, sink)
    for _ in range(rounds):
        for thread in sending.look():
            thread.join(10)
        world.clock.advance(40)
    return sending


def test_events_are_sent_in_order_and_once_however_often_they_are_emitted(world):
    sink = Sink()
    emitted(world, "a", "b", "a")
    emitted(world, "b", "c")
    sent(world, sink, 3)
    assert sink.got == ["a", "b", "c"]


def test_a_sink_that_is_away_gets_everything_when_it_is_back(world):
    sink = Sink()
    sink.errors = [TemporaryError("away")] * 7 + [OSError("cut")] * 5
    emitted(world, *"abc")
    sent(world, sink)
    assert sink.got == ["a", "b", "c"]
    assert world.store.dead_letters() == []


def test_an_event_that_its_sink_never_takes_is_set_aside_and_those_behind_it_go(world):
    sink = Sink()
    sink.refuses = {"b"}
    emitted(world, *"abc")
    sending = sent(world, sink)
    assert list(dict.fromkeys(sink.got)) == ["a", "c"]
    [letter] = world.store.dead_letters("outbox")
    assert letter.event["id"] == "b"
    assert letter.reason == "too large"
    assert sending.counts["dead"] == 1
    world.replay(letter.id)
    sink.refuses = set()
    sent(world, sink, 3)
    assert sink.got[-1] == "b"


def test_a_sink_that_is_given_up_holds_up_nothing_and_its_events_may_still_go(world):
    sink, other = Sink(), aios.Files("/tmp/other")
    emitted(world, *"abc")
    world.store.send([Outgoing(other, CloudEvent(id="d", source="s", type="t"), None)])
    with world.registry.change(actor="ann", action="give_up", subject="x") as change:
        assert change.give_up(TO, "ann gave it up") == 3
    assert [one.sink["url"] for rows in world.store.leaving(9).values() for one in rows] == [
        other.url
    ]
    a, b, c = world.store.dead_letters("outbox")
    assert (a.event["id"], a.reason) == ("a", "ann gave it up")
    world.discard(a.id)
    world.replay(b.id)
    sent(world, sink, 3)
    assert sorted(sink.got) == ["b", "d"]
    assert [one.id for one in world.store.dead_letters()] == [c.id]
    with pytest.raises(IllegalTransition, match="replayed already"):
        world.discard(b.id)


def test_a_missing_secret_of_a_sink_is_no_fault_of_the_events(world):
    to = aios.Webhook(url="http://127.0.0.1:9/", secret="file:none")
    world.store.send([Outgoing(to, CloudEvent(id="a", source="s", type="t"), None)])
    sending = sent(world, open_sender, 12)
    assert world.store.dead_letters() == []
    assert "cannot be read" in next(iter(sending.problems.values()))


def test_a_sink_of_files_writes_whole_files_named_by_the_event(tmp_path):
    FilesSender(str(tmp_path / "out")).send([("a/b", None, b"{}"), ("c", None, b"[]")])
    names = sorted(one.name for one in (tmp_path / "out").iterdir())
    assert names == ["a%2Fb.json", "c.json"]


def test_a_sink_of_a_webhook_signs_and_a_refusal_is_told_from_an_absence():
    with http_receiver() as receiver:
        receiver.answers = [200, 503, 422]
        sender = WebhookSender(receiver.url, KEY, lambda: 1000.0)
        sender.send([("a", None, b"{}")])
        [(_, headers, body)] = receiver.got
        assert verified_id(headers, body, KEY, 1000.0) == "a"
        with pytest.raises(TemporaryError, match="503"):
            sender.send([("a", None, b"{}")])
        with pytest.raises(UsageError, match="422"):
            sender.send([("a", None, b"{}")])
        sender.close()


# -- readers --------------------------------------------------------------------------


class Handle:
    def __init__(self):
        self.told, self.ended = {"lag": 0, "problem": None}, False

    def progress(self):
        return self.told

    def end(self):
        self.ended = True


class Host:
    def __init__(self):
        self.made, self.passwords = [], []

    def read(self, subscription, password, position):
        self.made.append(Handle())
        self.passwords.append(password)
        return self.made[-1]


def test_a_reader_that_died_or_froze_is_replaced_and_one_too_many_ended(world, tmp_path):
    readers, host = EventReaders(world.clock, tmp_path), Host()
    readers.host = host
    world.subscribe(consumers=aios.Autoscale(2, 3))
    readers.look(world.store.subscriptions())
    assert len(host.made) == 2
    host.made[0].told = None
    readers.look(world.store.subscriptions())
    assert host.made[0].ended
    assert len(host.made) == 3
    assert readers.readers["orders"].restarts == 1
    for one in host.made:
        one.told = {"lag": 1_000_000}
    for _ in range(10):
        world.clock.advance(1)
        readers.look(world.store.subscriptions())
    assert len(readers.readers["orders"].handles) == 3
    readers.look([])
    assert all(one.ended for one in host.made)


def test_a_password_that_is_not_there_is_told_as_the_subscriptions_problem(world, tmp_path):
    readers = EventReaders(world.clock, tmp_path)
    readers.host = Host()
    source = aios.Kafka("127.0.0.1:9", topic="t", user="u", password="file:none")
    world.subscribe(source=source)
    readers.look(world.store.subscriptions())
    assert "none cannot be read" in readers.readers["orders"].problem


def test_a_reader_that_is_refused_begins_anew_once_its_password_is_another_one(world, tmp_path):
    readers, host = EventReaders(world.clock, tmp_path), Host()
    readers.host = host
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "kafka").write_text("old")
    world.subscribe(source=aios.Kafka("127.0.0.1:9", topic="t", user="u", password="file:kafka"))
    readers.look(world.store.subscriptions())
    (tmp_path / "secrets" / "kafka").write_text("new")
    readers.look(world.store.subscriptions())
    assert host.passwords == ["old"], "what reads well is left alone"
    host.made[0].told = {"lag": None, "problem": "refused"}
    for _ in range(2):
        readers.look(world.store.subscriptions())
    assert (host.passwords, host.made[0].ended) == (["old", "new"], True)


# -- the real kernel and its API ------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def kernel(template, tmp_path) -> World:
    made = make_world(template, tmp_path)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "hook").write_text(SECRET)
    return made


def spec(**fields):
    told = {"id": "loan-webhook", "source": {"kind": "webhook", "secret": "file:hook"}}
    return {**told, "endpoint": "loan", **fields}


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ("notbase", "if it is a key, has 5 bytes"),
        ("whsec_not base64", "no secret of a webhook"),
        ("whsec_" + "A" * 20, "has 15 bytes"),
    ],
)
def test_a_secret_that_holds_no_key_is_refused_before_anybody_sends(kernel, tmp_path, held, told):
    (tmp_path / "secrets" / "hook").write_text(held)
    with pytest.raises(UsageError, match=told):
        kernel.do("subscribe", spec=spec())


def test_a_subscription_is_asked_for_shown_and_taken_off(kernel):
    assert kernel.do("subscribe", spec=spec()) == {"id": "loan-webhook"}
    assert kernel.do("subscribe", spec=spec()) == {"id": "loan-webhook"}, "the same again"
    [one] = kernel.do("subscriptions")
    assert (one["active"], one["target"], one["waiting"]) == (True, "endpoint loan", 0)
    assert "loan-webhook" in repr(Subscriptions([one]))
    assert "/v1/events/loan-webhook" in repr(Subscriptions([one])["loan-webhook"])
    assert kernel.do("unsubscribe", id="loan-webhook") == {"id": "loan-webhook"}
    assert kernel.do("subscriptions")[0]["active"] is False
    actions = [entry["action"] for entry in kernel.do("audit", limit=3, subject="loan-webhook")]
    assert actions[:2] == ["unsubscribe", "subscribe"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"endpoint": "none"}, "no endpoint"),
        ({"endpoint": None, "flow": "none"}, "no flow"),
        ({"endpoint": None, "flow": "a:b"}, "is no flow"),
        ({"flow": "x"}, "only one of them"),
        ({"agent": "x"}, "only one of them"),
        ({"endpoint": None, "agent": "none"}, "no agent"),
        ({"endpoint": None}, "give a flow"),
        ({"source": {"kind": "webhook"}}, "a source needs one"),
        ({"source": {"kind": "webhook", "secret": "file:none"}}, "cannot be read"),
        ({"source": {"kind": "pigeon"}}, "pigeon"),
        ({"key": "a b"}, "is no path"),
        ({"filter": "a >"}, "filter="),
        ({"to": {"kind": "webhook"}}, "a sink needs one"),
        ({"id": "Bad Name"}, "id"),
        ({"consumers": {"min_replicas": 2, "max_replicas": 2}}, "leave consumers= out"),
    ],
)
def test_a_subscription_that_cannot_be_kept_is_refused_with_the_reason(kernel, fields, told):
    with pytest.raises(UsageError) as found:
        kernel.do("subscribe", spec=spec(**fields))
    assert told in found.value.message


def test_dead_letters_of_nothing_that_is_known(kernel):
    assert kernel.do("dead_letters", subscription="outbox") == []
    with pytest.raises(UnknownName, match="no subscription 'loan-webhok'; there are outbox"):
        kernel.do("dead_letters", subscription="loan-webhok")


def test_a_subscription_that_is_on_is_not_changed_under_who_reads_it(kernel):
    kernel.do("subscribe", spec=spec())
    with pytest.raises(aios.IllegalTransition, match="take it off first"):
        kernel.do("subscribe", spec=spec(key="id"))
    kernel.do("unsubscribe", id="loan-webhook")
    with pytest.raises(aios.IllegalTransition, match="give another id="):
        kernel.do("subscribe", spec=spec(source=TO.model_dump()))
    kernel.do("subscribe", spec=spec(key="id"))


def test_a_webhook_over_http_needs_its_signature_and_no_api_key(kernel):
    kernel.do("subscribe", spec=spec())
    client, path = Client(api_of(kernel), None), "/v1/events/loan-webhook"
    body = b'{"id": 1}'
    headers = webhook_headers("m1", kernel.clock.now_s(), body, KEY)
    assert client("POST", path, content=body, headers=headers).json() == {"repeated": False}
    assert client("POST", path, content=body, headers=headers).json() == {"repeated": True}
    is_problem(client("POST", path, content=b"{}", headers=headers), 401, "Unauthenticated")
    is_problem(client("POST", path, content=b"\xff", headers=headers), 400, "Malformed")
    is_problem(client("POST", path, content=b"{}"), 400, "Malformed")
    is_problem(client("POST", "/v1/events/x", content=b"{}", headers=headers), 404, "UnknownName")
    large = b"x" * (4 * 2**20 + 1)
    is_problem(client("POST", path, content=large, headers=headers), 413, "PayloadTooLarge")
    assert kernel.kernel.events.store.waiting("loan-webhook") == 1


def test_an_event_is_emitted_through_the_api_and_a_bad_one_refused(kernel):
    event = {"specversion": "1.0", "id": "a", "source": "s", "type": "t", "data": 1}
    assert kernel.do("emit", sink=TO.model_dump(), event=event) == {"id": "a"}
    assert kernel.kernel.events.store.outgoing()
    with pytest.raises(UsageError, match="specversion"):
        kernel.do("emit", sink=TO.model_dump(), event={})
    with pytest.raises(UsageError, match="url"):
        kernel.do("emit", sink={"kind": "webhook"}, event=event)


def test_what_waits_for_a_sink_is_told_with_what_went_wrong(kernel, tmp_path):
    sink, store = Sink(), kernel.kernel.events.store
    sink.errors = [TemporaryError("away")] * 2  # for all at once, then for the first alone
    for name in "ab":
        event = {"specversion": "1.0", "id": name, "source": "s", "type": "t"}
        kernel.do("emit", sink=TO.model_dump(), event=event)
    kernel.clock.advance(7)
    sending = Sending(store, kernel.clock, tmp_path, sink)
    for thread in sending.look():
        thread.join(10)
    [row] = kernel.do("outbox")
    assert (row["sink"], row["waiting"], row["oldest_s"]) == (TO.shown, 2, 7.0)
    assert (row["attempts"], row["problem"]) == (1, "away")
    kernel.clock.advance(40)
    for thread in sending.look():
        thread.join(10)
    assert kernel.do("outbox") == []


def test_metrics_tell_of_backlog_lag_and_dead_letters(kernel):
    kernel.do("subscribe", spec=spec())
    body = b'{"id": 1}'
    headers = webhook_headers("m1", kernel.clock.now_s(), body, KEY)
    kernel.kernel.events.take_webhook("loan-webhook", headers, body.decode())
    kernel.clock.advance(7)
    text = kernel.do("metrics")
    assert 'aios_events_waiting{subscription="loan-webhook"} 1.0' in text
    assert 'aios_events_oldest_seconds{subscription="loan-webhook"} 7.0' in text
    assert 'aios_events_total{result="taken",subscription="loan-webhook"} 1.0' in text


def test_the_endpoint_is_asked_with_a_key_of_the_kernels_own(kernel, tmp_path):
    kernel.kernel.events._asking().close()
    kernel.kernel.events._asking().close()
    keys = [one for one in kernel.do("keys") if one["identity"] == "events"]
    assert [one["role"] for one in keys] == ["viewer"]
    assert (tmp_path / "keys" / "events.key").stat().st_mode & 0o077 == 0


def test_a_line_begins_and_ends_with_its_subscription(world):
    world.subscribe()
    world.events.look()
    world.take({"n": 1})
    world.events.dispatcher.wake("orders")
    soon(lambda: world.starts.begun)
    assert world.starts.data == [{"n": 1}]
    world.events.close()
    assert not [one for one in threading.enumerate() if one.name == "aios-events-orders"]


def test_dead_letters_print_as_a_table(world):
    assert repr(DeadLetters([])) == "dead letters: none"


def test_a_folder_that_is_missing_is_told_until_it_is_there(tmp_path):
    reader = FilesConsumer(aios.Files(tmp_path / "later", every_s=0.1))
    for _ in range(3):
        assert "there is no such folder yet" in str(reader.poll(10, 0.05).problem)
    (tmp_path / "later").mkdir()
    time.sleep(0.15)
    assert reader.poll(10, 0.05).problem is None


def test_brokers_that_cannot_be_reached_are_told():
    spec = SubscriptionSpec(id="down", source=aios.Kafka("127.0.0.1:1", topic="t"), endpoint="e")
    consumer = KafkaConsumer(spec.source, "group")
    pump = Pump(spec, lambda: consumer, lambda read, filtered: Taking(hold=False))
    try:
        give_up_s = time.monotonic() + 30
        while pump.progress.problem is None and time.monotonic() < give_up_s:
            pump.step()
        assert pump.progress.problem == "no broker of 127.0.0.1:1 can be reached"
        assert consumer.lag() is None
    finally:
        consumer.close()


def test_what_waits_for_a_sink_that_is_given_up_is_discarded(kernel):
    sink = TO.model_dump(mode="json")
    event = {"specversion": "1.0", "id": "e1", "source": "s", "type": "t"}
    kernel.do("emit", sink=sink, event=event)
    assert kernel.do("give_up", sink=sink) == {"set_aside": 1}
    assert kernel.do("outbox") == []
    [letter] = kernel.do("dead_letters", subscription="outbox")
    assert letter["reason"] == "ann gave its sink up"
    assert kernel.do("discard", ids=[letter["id"]]) == {"discarded": 1}
    assert kernel.do("dead_letters") == []
    assert [entry["action"] for entry in kernel.do("audit", limit=2)] == ["discard", "give_up"]
    kernel.do("emit", sink=sink, event={**event, "id": "e2"})
    kernel.do("give_up", sink=sink)
    assert [one["id"] > letter["id"] for one in kernel.do("dead_letters")] == [True], "a new number"


def test_in_a_terminal_dead_letters_are_chosen_by_id_or_by_subscription(monkeypatch):
    class Runtime:
        def __init__(self):
            self.told = []

        def __enter__(self):
            return self

        def __exit__(self, *ended):
            pass

        def dead_letters(self, subscription, limit):
            return [SimpleNamespace(id=n) for n in (1, 2)]

        def discard(self, chosen):
            self.told = [getattr(one, "id", one) for one in chosen]
            return len(chosen)

        replay = discard

    here = Runtime()
    monkeypatch.setattr("aios.cli.events.lifecycle.connect", lambda *_, **__: here)
    for command, said in (("discard", "3 discarded"), ("replay", "3 acted on again")):
        done = CliRunner().invoke(app, [command, "1", "7", "--subscription", "orders"])
        assert (done.output.strip(), here.told) == (said, [1, 7, 2])
    refused = CliRunner().invoke(app, ["discard"])
    assert isinstance(refused.exception, UsageError)
