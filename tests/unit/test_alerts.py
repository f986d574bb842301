"""People are told of an alarm once, and of its end, whatever fails on the way."""

import base64
import hashlib
import hmac
import json
import logging
import sqlite3
import time
from itertools import pairwise
from typing import Any

import pytest
from alert_servers import Mailbox, certificate, http_receiver, served
from kernel_fakes import World, make_template, make_world
from run_worlds import EVE
from sqlalchemy import update

import aios
from aios.errors import StoreUnavailable, UsageError
from aios.kernel.alerts import GIVE_UP_S, LONGEST_PAUSE_S, Alerts
from aios.monitoring.alerting import email, slack_body
from aios.monitoring.conditions import parse_condition
from aios.monitoring.watching import Raised, Resolved
from aios.records.alerts import AlertMessage
from aios.records.watching import Alarm, Finding, WatchSpec, WatchState
from aios.registry import Outbox
from aios.runtime.watching import WatchStatus, add_watch
from aios.security.webhooks import webhook_headers
from aios.store import tables as t
from aios.store.database import Database

PSI = "psi > 0.2 on any"
KEY = b"a key of twenty-four byte"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
PASSWORD = "hunter2-correct-horse"
HOOK = "/services/T000/B000/secretsecret"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("template") / "home")


@pytest.fixture
def world(template, tmp_path, monkeypatch) -> World:
    monkeypatch.setenv("ALERT_HOOK_SECRET", SECRET)
    monkeypatch.setenv("ALERT_SMTP_PASSWORD", PASSWORD)
    return make_world(template, tmp_path / "home")


@pytest.fixture
def receiver(monkeypatch):
    with http_receiver() as found:
        monkeypatch.setenv("ALERT_SLACK_URL", found.url + HOOK)
        yield found


def watch(world: World, *alerts: Any) -> str:
    spec = WatchSpec(
        endpoint="loan", conditions=(parse_condition(PSI, "drift"),), alerts=tuple(alerts)
    )
    return str(world.ask(EVE, "watch", spec=spec.model_dump(mode="json"))["id"])


def alarm(number: int = 1, reason: str = "psi of a was 0.31 <!channel>") -> Alarm:
    finding = Finding(condition=PSI, state="holds", subject="a", score=0.31, reason=reason)
    return Alarm(id=f"alarm-{number}", condition=PSI, finding=finding, since_s=1_000_000.0)


def tell(world: World, watch_id: str, number: int = 1, *, over: bool = False) -> None:
    """As the watcher does, with its ids."""
    found = world.kernel.registry.watch(watch_id)
    ringing = alarm(number)
    what = "alarm_over" if over else "alarm"
    action = Resolved(ringing, "calm again") if over else Raised(ringing)
    with world.kernel.registry.change(actor="kernel", action=what, subject="loan") as change:
        world.kernel.alerts.tell(change, found, action)


def look(world: World, *, times: int = 1) -> None:
    """Looks, each after what the one before began has ended."""
    for _ in range(times):
        for thread in world.kernel.alerts.look():
            thread.join(60)
            assert not thread.is_alive()


def status(world: World) -> WatchStatus:
    (found,) = world.do("watches", endpoint="loan")
    return WatchStatus(found)


def types(receiver: Any) -> list[str]:
    return [json.loads(body)["type"] for _, _, body in receiver.got]


def eventually(true: Any) -> None:
    end_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


# -- what is sent -----------------------------------------------------------------------------


def test_the_signature_is_that_of_the_standards_own_example():
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    told = webhook_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.7, b'{"test": 2432232314}', key
    )
    assert told == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_webhook_is_signed_anew_at_each_attempt_over_the_same_body(world, receiver):
    watch_id = watch(
        world, aios.WebhookAlert(url=receiver.url + "/x", secret="env:ALERT_HOOK_SECRET")
    )
    receiver.answers = [500]
    tell(world, watch_id)
    look(world)
    world.clock.advance(400)
    look(world)
    (_, first, body), (path, second, again) = receiver.got
    assert (path, body) == ("/x", again)
    assert first["webhook-id"] == second["webhook-id"] == f"{watch_id}-alarm-1-alarm"
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 400
    for headers in (first, second):
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        mac = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{mac}"
    told = json.loads(body)
    assert told["type"] == "alarm.raised"
    assert told["data"]["endpoint"] == "loan"
    assert told["data"]["score"] == 0.31


def test_a_webhook_without_a_secret_is_not_signed(world, receiver):
    tell(world, watch(world, aios.WebhookAlert(url=receiver.url)))
    look(world)
    assert "webhook-signature" not in receiver.got[0][1]


def test_a_chat_message_calls_nobody_and_links_nothing(world, receiver):
    watch_id = watch(world, aios.SlackAlert(url="env:ALERT_SLACK_URL"))
    tell(world, watch_id)
    tell(world, watch_id, over=True)
    look(world, times=2)
    (path, _, raised), (_, _, over) = receiver.got
    assert path == HOOK
    assert json.loads(raised)["text"].startswith(
        "Alarm: psi &gt; 0.2 on any at endpoint loan\npsi of a was 0.31 &lt;!channel&gt;"
    )
    assert json.loads(over)["text"].startswith("Over: psi &gt; 0.2 on any at endpoint loan\ncalm")


def message(**more: Any) -> AlertMessage:
    fields = {
        "id": "w-alarm-1-alarm",
        "type": "alarm.raised",
        "at_s": 0.0,
        "endpoint": "loan",
        "watch": "w",
        "alarm": "alarm-1",
        "condition": PSI,
        "subject": "a",
        "score": None,
        "reason": "because",
        "since_s": 0.0,
    }
    return AlertMessage(**{**fields, **more})


def test_no_text_of_an_alarm_can_add_a_header_or_break_the_json():
    evil = 'x\r\nBcc: all@example.com\r\n\r\n"}'
    told = message(condition=evil, reason=evil)
    mail = email(told, aios.EmailAlert(to="a@b.c", sender="d@e.f", host="h"))
    assert "Bcc" not in mail
    assert mail["Subject"].startswith("Alarm: x Bcc: all@example.com")
    assert list(json.loads(slack_body(told))) == ["text"]


def mail_alert(server: Mailbox, **more: Any) -> aios.EmailAlert:
    fields = {"to": "ops@example.com", "sender": "aios@example.org", "host": "127.0.0.1"}
    return aios.EmailAlert(**{**fields, "port": server.port, **more})


def test_an_alarm_and_its_end_are_one_conversation_by_mail(world):
    with Mailbox() as server, served(server):
        watch_id = watch(world, mail_alert(server))
        tell(world, watch_id)
        tell(world, watch_id, over=True)
        look(world, times=2)
        raised, over = server.mails
    assert raised["Subject"] == f"Alarm: {PSI} at endpoint loan"
    assert over["Subject"] == f"Over: {PSI} at endpoint loan"
    assert raised["References"] == over["References"]
    assert raised["Message-ID"] != over["Message-ID"]
    assert (raised["To"], raised["From"]) == ("ops@example.com", "aios@example.org")
    assert "psi of a was 0.31" in raised.get_content()


def test_a_password_is_sent_only_encrypted_and_to_a_server_that_is_trusted(
    world, tmp_path, monkeypatch
):
    tls, trusted = certificate(tmp_path)
    login = {"user": "aios", "password": "env:ALERT_SMTP_PASSWORD", "starttls": True}
    with Mailbox(tls, ("aios", PASSWORD)) as server, served(server):
        watch_id = watch(world, mail_alert(server, **login))
        tell(world, watch_id)
        look(world)
        assert server.mails == []
        assert "certificate verify failed" in status(world).undelivered[0]["problem"]
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        monkeypatch.setenv("ALERT_SMTP_PASSWORD", "wrong")
        world.clock.advance(10)
        look(world)
        assert "did not let aios in: 535" in status(world).undelivered[0]["problem"]
        monkeypatch.setenv("ALERT_SMTP_PASSWORD", PASSWORD)
        world.clock.advance(20)
        look(world)
        assert len(server.mails) == 1
    with Mailbox(login=("aios", PASSWORD)) as plain, served(plain):
        tell(world, watch(world, mail_alert(plain, **login)))
        look(world)
        assert plain.mails == []
        assert "STARTTLS" in WatchStatus(world.do("watches")[-1]).undelivered[0]["problem"]


def test_a_mail_server_that_refuses_says_why(world):
    with Mailbox() as server, served(server):
        server.refuses = "550 5.1.1 no such user"
        tell(world, watch(world, mail_alert(server)))
        look(world)
    told = status(world).undelivered[0]["problem"]
    assert told == "it does not take mail to ops@example.com: 550 5.1.1 no such user"


# -- once, in order, and in the end ------------------------------------------------------------


def test_what_fails_is_tried_again_after_longer_and_longer_pauses(world, receiver):
    receiver.answers = [500] * 12
    tell(world, watch(world, aios.WebhookAlert(url=receiver.url)))
    attempts, begun_s = [], world.clock.now_s()
    while receiver.answers:
        before = len(receiver.got)
        look(world)
        if len(receiver.got) > before:
            attempts.append(world.clock.now_s() - begun_s)
        world.clock.advance(5)
    pauses = [after - before for before, after in pairwise(attempts)]
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900]
    assert status(world).undelivered[0]["problem"] == "it answered HTTP 500"
    world.clock.advance(LONGEST_PAUSE_S)
    look(world, times=3)
    assert len(receiver.got) == 13
    assert status(world).undelivered == []


def test_what_arrived_is_never_sent_again_not_even_by_the_next_kernel(world, receiver):
    watch_id = watch(world, aios.WebhookAlert(url=receiver.url))
    tell(world, watch_id)
    look(world)
    tell(world, watch_id)
    look(world)
    world.restart()
    tell(world, watch_id)
    look(world)
    assert types(receiver) == ["alarm.raised"]


def test_what_waits_is_sent_by_the_next_kernel(world, receiver):
    watch_id = watch(world, aios.WebhookAlert(url=receiver.url))
    tell(world, watch_id)
    world.restart()
    world.kernel.alerts.start()
    try:
        eventually(lambda: types(receiver) == ["alarm.raised"])
        tell(world, watch_id, over=True)
        eventually(lambda: types(receiver) == ["alarm.raised", "alarm.resolved"])
    finally:
        world.kernel.alerts.close()


def test_nobody_learns_of_an_end_before_the_alarm(world, receiver):
    watch_id = watch(world, aios.WebhookAlert(url=receiver.url))
    receiver.answers = [503, 503]
    tell(world, watch_id)
    look(world)
    tell(world, watch_id, over=True)
    look(world, times=3)
    assert types(receiver) == ["alarm.raised"] * 2
    world.clock.advance(10)
    look(world, times=2)
    assert types(receiver) == ["alarm.raised"] * 3 + ["alarm.resolved"]


def test_an_alarm_that_ends_with_its_watch_is_told_to_be_over(world, receiver):
    watch_id = watch(world, aios.WebhookAlert(url=receiver.url))
    state = WatchState(alarms=(alarm(),)).model_dump(mode="json")
    store = Database(world.settings.store_url)
    with store.transaction() as connection:
        connection.execute(update(t.watches).values(state=state))
    tell(world, watch_id)
    world.do("unwatch", id=watch_id)
    look(world, times=2)
    assert types(receiver) == ["alarm.raised", "alarm.resolved"]
    assert "taken off by ann" in json.loads(receiver.got[1][2])["data"]["reason"]


def test_after_a_day_it_is_given_up_and_said_so_for_a_week(world, receiver):
    receiver.answers = [500, 500]
    watch_id = watch(world, aios.WebhookAlert(url=receiver.url))
    tell(world, watch_id)
    look(world)
    world.clock.advance(GIVE_UP_S)
    look(world)
    world.clock.advance(LONGEST_PAUSE_S)
    look(world)
    assert len(receiver.got) == 2
    (lost,) = status(world).undelivered
    assert (lost["state"], lost["attempts"]) == ("given_up", 2)
    tell(world, watch_id, 2)
    look(world)
    assert len(receiver.got) == 3
    world.clock.advance(8 * 86_400)
    assert status(world).undelivered == []


def test_a_clock_that_was_set_back_holds_up_no_alert(world, receiver):
    receiver.answers = [500]
    tell(world, watch(world, aios.WebhookAlert(url=receiver.url)))
    look(world)
    world.clock.advance(-86_400)
    look(world)
    assert len(receiver.got) == 2


# -- what fails, fails alone -------------------------------------------------------------------


def test_a_sink_that_hangs_or_refuses_holds_up_nobody_else(world, receiver):
    with http_receiver() as hanging:
        hanging.gate.clear()
        watch_id = watch(
            world,
            aios.WebhookAlert(url=hanging.url),
            aios.WebhookAlert(url="http://127.0.0.1:9"),
            aios.WebhookAlert(url=receiver.url),
        )
        world.kernel.alerts.start()
        try:
            tell(world, watch_id)
            tell(world, watch_id, over=True)
            eventually(lambda: types(receiver) == ["alarm.raised", "alarm.resolved"])
            assert hanging.got == []
            world.clock.advance(61)
            told = {row["problem"] for row in status(world).undelivered}
            assert "it has not answered yet" in told
            assert any("refused" in problem for problem in told)
            hanging.gate.set()
            eventually(lambda: types(hanging) == ["alarm.raised", "alarm.resolved"])
        finally:
            hanging.gate.set()
            world.kernel.alerts.close()


def test_an_alert_that_cannot_be_read_holds_up_nobody_else(world, receiver):
    watch_id = watch(world, aios.WebhookAlert(url=receiver.url))
    other = watch(world, aios.WebhookAlert(url=receiver.url + "/other"))
    tell(world, watch_id)
    with Database(world.settings.store_url).transaction() as connection:
        connection.execute(update(t.alerts).values(sink={"kind": "pigeon"}))
    tell(world, other)
    look(world)
    assert [path for path, _, _ in receiver.got] == ["/other"]
    shown = [WatchStatus(row).undelivered for row in world.do("watches", endpoint="loan")]
    (row,) = [row for rows in shown for row in rows]
    assert "cannot be read; use the aios version that wrote it" in row["problem"]


def test_a_redirect_is_not_followed_with_what_was_signed_for_another(world, receiver):
    receiver.answers = [302]
    tell(world, watch(world, aios.WebhookAlert(url=receiver.url, secret="env:ALERT_HOOK_SECRET")))
    look(world)
    assert len(receiver.got) == 1
    assert status(world).undelivered[0]["problem"] == "it answered HTTP 302"


def test_a_store_that_is_full_does_not_send_the_same_again_and_again(world):
    watch_id = watch(world, aios.WebhookAlert(url="http://127.0.0.1:9"))
    tell(world, watch_id)
    sends: list[str] = []

    class FullDisk(Outbox):
        full = True

        def sent(self, seq: int) -> None:
            if self.full:
                raise StoreUnavailable("the disk is full")
            super().sent(seq)

    outbox = FullDisk(Database(world.settings.store_url), world.clock)
    alerts = Alerts(outbox, world.clock, lambda sink, told, now_s: sends.append(told.id))
    (thread,) = alerts.look()
    eventually(lambda: sends)
    assert [alerts.look() for _ in range(5)] == [[]] * 5
    outbox.full = False
    thread.join(60)
    assert alerts.look() == []
    assert len(sends) == 1


# -- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "told"),
    [
        (aios.SlackAlert, {"url": "https://h/" + PASSWORD}, "url: holds a secret"),
        (aios.WebhookAlert, {"url": "https://h", "secret": PASSWORD}, "secret: holds a secret"),
        (aios.WebhookAlert, {"url": f"https://u:{PASSWORD}@h"}, "user or a password"),
        (aios.WebhookAlert, {"url": "ftp://h/" + PASSWORD}, "https:// or http://"),
        (aios.WebhookAlert, {"url": "env:not a name"}, "env:ALERT_SECRET"),
        (aios.SlackAlert, {"uri": PASSWORD}, "url"),
        (
            aios.EmailAlert,
            {"to": "a@b", "sender": "c@d", "host": "h", "user": "u", "password": PASSWORD},
            "password: holds a secret",
        ),
        (
            aios.EmailAlert,
            {"to": "a@b", "sender": "c@d", "host": "h", "user": "u", "password": "env:ALERT_P"},
            "starttls=True",
        ),
        (aios.EmailAlert, {"to": "a@b, c@d", "sender": "c@d", "host": "h"}, "one e-mail"),
        (aios.EmailAlert, {"to": "a@b\nBcc: c@d", "sender": "c@d", "host": "h"}, "one e-mail"),
    ],
)
def test_a_secret_that_is_given_itself_is_refused_and_not_repeated(kind, fields, told):
    with pytest.raises(UsageError, match=told) as error:
        kind(**fields)
    assert PASSWORD not in str(error.value.to_problem())


@pytest.mark.parametrize(
    ("sink", "value", "told"),
    [
        (aios.SlackAlert(url="env:ALERT_MISSING"), None, "no environment variable ALERT_MISSING"),
        (
            aios.SlackAlert(url="env:ALERT_MISSING"),
            PASSWORD,
            "env:ALERT_MISSING holds is no address",
        ),
        (aios.WebhookAlert(url="http://h", secret="env:ALERT_MISSING"), PASSWORD, "whsec_"),
        (
            aios.EmailAlert(
                to="a@b",
                sender="c@d",
                host="h",
                user="u",
                password="env:ALERT_MISSING",
                starttls=True,
            ),
            " ",
            "no environment variable ALERT_MISSING",
        ),
    ],
)
def test_a_secret_that_is_not_on_the_machine_is_said_at_once(world, monkeypatch, sink, value, told):
    if value is not None:
        monkeypatch.setenv("ALERT_MISSING", value)
    with pytest.raises(UsageError, match=told) as error:
        watch(world, sink)
    assert PASSWORD not in str(error.value.to_problem())
    assert world.do("watches") == []


def test_a_secret_that_went_away_is_told_in_the_status(world, receiver, monkeypatch):
    tell(world, watch(world, aios.SlackAlert(url="env:ALERT_SLACK_URL")))
    monkeypatch.delenv("ALERT_SLACK_URL")
    look(world)
    found = status(world)
    assert found.undelivered[0]["sink"] == "slack env:ALERT_SLACK_URL"
    assert "no environment variable ALERT_SLACK_URL; set it" in found.summary
    monkeypatch.setenv("ALERT_SLACK_URL", receiver.url)
    world.clock.advance(10)
    look(world)
    assert status(world).undelivered == []


def test_no_secret_is_in_the_store_in_the_log_or_in_what_is_shown(
    world, receiver, monkeypatch, caplog, tmp_path
):
    tls, trusted = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    caplog.set_level(logging.DEBUG)
    login = {"user": "aios", "password": "env:ALERT_SMTP_PASSWORD", "starttls": True}
    with Mailbox(tls, ("aios", "another")) as server, served(server):
        watch_id = watch(
            world,
            aios.SlackAlert(url="env:ALERT_SLACK_URL"),
            aios.WebhookAlert(url="env:ALERT_SLACK_URL", secret="env:ALERT_HOOK_SECRET"),
            mail_alert(server, **login),
        )
        receiver.answers = [404, 404]
        tell(world, watch_id)
        look(world)
        monkeypatch.setenv("ALERT_SLACK_URL", f"http://127.0.0.1:9{HOOK}")
        world.clock.advance(60)
        look(world)
        monkeypatch.setenv("ALERT_SLACK_URL", f"http://nowhere.invalid{HOOK}")
        world.clock.advance(60)
        look(world)
    shown = status(world)
    assert [row["attempts"] for row in shown.undelivered] == [3, 3, 3]
    audit = world.do("audit", limit=100, subject=None)
    with sqlite3.connect(world.settings.home / "aios.db") as store:
        dump = "\n".join(store.iterdump())
    assert "env:ALERT_SLACK_URL" in dump
    assert "not delivered" in caplog.text
    everything = dump + caplog.text + repr((shown.fields, audit)) + shown.summary
    login_text = base64.b64encode(f"\0aios\0{PASSWORD}".encode()).decode()
    for secret in (HOOK, SECRET, SECRET[6:], PASSWORD, login_text):
        assert secret not in everything


# -- through the door --------------------------------------------------------------------------


class Told:
    """A transport that keeps what it was told."""

    def __init__(self) -> None:
        self.body: dict[str, Any] = {}

    def change(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.body = body
        return {"id": "w"}


def test_a_user_gives_alerts_with_a_watch():
    sinks = [
        aios.SlackAlert(url="env:ALERT_SLACK_URL"),
        aios.WebhookAlert(url="https://example.com/x", secret="env:ALERT_HOOK"),
        aios.EmailAlert(to="a@b.c", sender="d@e.f", host="h", starttls=True),
    ]
    transport = Told()
    add_watch(transport, "loan", {"drift": PSI}, schedule=None, then=None, alerts=sinks)
    again = WatchSpec.model_validate(json.loads(json.dumps(transport.body["spec"])))
    assert list(again.alerts) == sinks
    with pytest.raises(UsageError, match="alerts"):
        add_watch(transport, "loan", {"drift": PSI}, schedule=None, then=None, alerts=sinks[0])


def test_a_watch_without_alerts_tells_nobody(world):
    tell(world, watch(world))
    assert world.kernel.alerts.look() == []
