"""The support desk's decisions and figures, without a runtime."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import aios
from aios.agents.context import Prediction
from aios.agents.deciding import ByModel, ByRule, first_sure
from aios.contracts import Codec
from aios.models import build, load_engine
from aios.records.acting import Waiting
from aios.security.webhooks import verified_id
from apps import brokers
from apps.support_triage import figures, people, story, tickets, traffic, triage
from apps.support_triage.__main__ import options
from apps.support_triage.figures import Bill, Happened, Outcome
from apps.support_triage.report import RolloutTold, Told, write_report
from apps.support_triage.traffic import Desk, Sent

LONG = "Debt collection"


def raw(rows: int = 12) -> pd.DataFrame:
    names = [LONG, "Mortgage", "Student loan"]
    words = ["They call me about a debt", "My house and its rate", "Navient took my payment"]
    return pd.DataFrame(
        {
            "Consumer complaint narrative": [f"{words[n % 3]} {'x' * n}" for n in range(rows)],
            "Product": [names[n % 3] for n in range(rows)],
        }
    )


# -- tickets --------------------------------------------------------------------------


def test_complaints_are_cut_named_as_the_desk_names_them_and_each_comes_once() -> None:
    table = raw()
    table.loc[0, "Consumer complaint narrative"] = "a" * 5_000
    table.loc[1, "Consumer complaint narrative"] = table.loc[2, "Consumer complaint narrative"]
    found = tickets.prepared(table)
    assert len(found) == 11
    assert found.text.str.len().max() == tickets.LONGEST
    assert set(found["product"]) == {"debt collection", "mortgage", "student loan"}
    assert list(tickets.prepared(table).text) == list(found.text), "always in one order"
    table.loc[3, "Product"] = "Timeshares"
    with pytest.raises(aios.UsageError, match="Timeshares"):
        tickets.prepared(table)


def test_tickets_are_such_as_no_classifier_has_seen() -> None:
    rows = tickets.TRAINED_ROWS + 3
    frame = pd.DataFrame({"text": [f"t{n}" for n in range(rows)], "product": "card"})
    found = tickets.unseen(frame, 3)
    assert [one.text for one in found] == [f"t{tickets.TRAINED_ROWS + n}" for n in range(3)]
    assert len({one.id for one in found}) == 3
    for count in (0, 4, -1):
        with pytest.raises(aios.UsageError, match="give 1 to 3"):
            tickets.unseen(frame, count)


@pytest.mark.parametrize(
    "train", [tickets.first_classifier, tickets.better_classifier, tickets.worse_classifier]
)
def test_a_classifier_converts_and_says_how_sure_it_is(
    train: Callable[[pd.DataFrame], Any], tmp_path: Path
) -> None:
    frame = tickets.prepared(raw(60))
    model = train(frame)
    sample = frame[["text"]]
    built = build(model, tickets.contract(), sample, tmp_path, outputs=tickets.OUTPUTS)
    batch = Codec(tickets.contract()).validate_records(sample.to_dict("records"))
    found = load_engine(built.folder, built.artifact, tickets.contract()).run(batch)
    assert list(found["product"]) == list(model.predict(sample))
    assert found["confidence"].reshape(-1) == pytest.approx(
        model.predict_proba(sample).max(axis=1), abs=1e-4
    )
    known = [tickets.Ticket("t", row.text, row.product) for row in frame.itertuples()]
    assert tickets.accuracy(model, known) == pytest.approx(
        (model.predict(sample) == frame["product"]).mean()
    )


# -- the agent ------------------------------------------------------------------------


class FakeContext:
    """What the agent needs of a context; a model that answers what it is told to."""

    def __init__(self, product: str = "card", confidence: float = 0.9) -> None:
        self.state = triage.Case()
        self.id = "T-1"
        self.answer: dict[str, Any] | Exception = {"product": product, "confidence": confidence}
        self.predictions: list[Prediction] = []
        self.replies: list[triage.Case] = []
        self.started: list[tuple[Any, ...]] = []
        self.logged: list[str] = []

    def rule(self, holds: bool, choice: str, reason: str) -> ByRule:
        return ByRule(holds, choice, reason)

    def model(self, endpoint: str, row: Any, **more: Any) -> ByModel:
        return ByModel(self, endpoint, row, **more)

    async def predict(self, endpoint: str, rows: Any, key: str = "") -> list[dict[str, Any]]:
        if isinstance(self.answer, Exception):
            raise self.answer
        told = Prediction(
            endpoint=endpoint, outputs=[self.answer], version=2, arm="canary", request_id="r-1"
        )
        self.predictions.append(told)
        return told.outputs

    async def decide(self, *layers: Any, otherwise: str) -> str:
        return (await first_sure(layers, otherwise))[0]

    def log(self, choice: str, reason: str) -> None:
        self.logged.append(reason)

    async def call(self, tool: Any, ticket: str, case: triage.Case) -> None:
        assert (tool, ticket) == (triage.send_reply, self.id)
        self.replies.append(case.model_copy())

    async def start(self, flow: Any, *args: Any, id: str) -> None:
        assert flow is triage.escalate
        self.started.append((id, *args))


def handle(ctx: FakeContext, message: Any) -> Any:
    ctx.predictions = []
    return asyncio.run(triage.Triage().on_message(ctx, message))  # type: ignore[arg-type]


def ticket(text: str) -> triage.Event:
    return triage.Event(data=triage.Ticket(ticket="T-1", text=text))


def test_a_rule_answers_without_asking_the_classifier() -> None:
    ctx = FakeContext()
    assert handle(ctx, ticket("Equifax does not answer")) == "credit report"
    [case] = ctx.replies
    assert (case.by, case.product, case.request_id) == ("rule", "credit report", None)
    assert not ctx.predictions
    assert not ctx.started


def test_a_sure_classifier_answers_and_its_request_is_known() -> None:
    ctx = FakeContext("mortgage", triage.AT_LEAST)
    assert handle(ctx, ticket("hello")) == "mortgage"
    [case] = ctx.replies
    assert (case.by, case.version, case.arm, case.request_id) == ("model", 2, "canary", "r-1")


def test_an_unsure_classifier_leaves_it_to_a_person_whose_word_is_sent_once() -> None:
    ctx = FakeContext("mortgage", triage.AT_LEAST - 0.01)
    assert handle(ctx, ticket("hello")) is None
    assert not ctx.replies
    assert ctx.started == [("escalate-T-1", "T-1", "hello", "mortgage")]
    assert handle(ctx, triage.Placed(product="card")) == "card"
    assert handle(ctx, triage.Placed(product="mortgage")) == "card", "told twice, kept once"
    [case] = ctx.replies
    assert (case.by, case.product, case.guess) == (triage.PERSON, "card", "mortgage")


def test_a_threat_goes_to_a_person_whatever_else_it_names() -> None:
    ctx = FakeContext()
    assert handle(ctx, ticket("My lawyer will write to Equifax")) is None
    assert ctx.started
    assert not ctx.predictions


def test_a_ticket_that_comes_again_is_not_answered_again() -> None:
    for ctx in (FakeContext(), FakeContext(confidence=0.1)):
        first = handle(ctx, ticket("hello"))
        assert handle(ctx, ticket("hello")) == first
        assert len(ctx.replies) + len(ctx.started) == 1


@pytest.mark.parametrize("error", [aios.DeadlineExceeded("late"), aios.ModelFailed("broken")])
def test_a_classifier_that_does_not_answer_leaves_it_to_a_person(error: Exception) -> None:
    ctx = FakeContext()
    ctx.answer = error
    assert handle(ctx, ticket("hello")) is None
    assert ctx.started == [("escalate-T-1", "T-1", "hello", None)]
    assert "does not answer" in ctx.logged[0]


def test_silence_sends_a_ticket_to_the_general_desk() -> None:
    ctx = FakeContext(confidence=0.1)
    handle(ctx, ticket("hello"))
    assert handle(ctx, triage.Placed(product=None)) == triage.GENERAL
    [case] = ctx.replies
    assert case.by == "nobody"
    assert triage.GENERAL in triage.letter(triage.GENERAL)


# -- traffic --------------------------------------------------------------------------


def test_webhooks_are_signed_as_the_runtime_wants() -> None:
    body = b'{"ticket": "T-1"}'
    key = traffic.key_of("whsec_c2VjcmV0")
    headers = traffic.signed("T-1", 1_000, body, key)
    assert verified_id(headers, body, key, 1_001.0) == "T-1"
    with pytest.raises(aios.AiosError, match="no signature fits"):
        verified_id(headers, body + b" ", key, 1_001.0)


def desk_of(*replies: tuple[str, str, str]) -> Desk:
    """Tickets T-0 to T-3 of cards, sent at 0, 1, 2, 3 s, and replies 2 s later each."""
    desk = Desk()
    for n in range(4):
        one = tickets.Ticket(f"T-{n}", "text", "card" if n < 3 else "mortgage")
        desk.sent[one.id] = Sent(one, float(n), ("webhook", "rabbitmq")[n % 2])
    for name, by, said in replies:
        told = {"ticket": name, "by": by, "product": said, "guess": said, "version": 1}
        told |= {"arm": "stable", "confidence": 0.7, "request_id": f"r-{name}"}
        reply = traffic.Reply(name, desk.sent[name].at_s + 2.0 if name in desk.sent else 9.0, told)
        desk.replies.append(reply)
        desk.answered.setdefault(name, reply)
    return desk


def test_replies_are_counted_against_tickets() -> None:
    whole = desk_of(*((f"T-{n}", "model", "card") for n in range(4)))
    assert figures.ledger(whole).balanced
    lost = figures.ledger(desk_of(("T-0", "rule", "card"), ("T-1", "rule", "card")))
    assert (lost.lost, lost.balanced) == (("T-2", "T-3"), False)
    twice = desk_of(*((f"T-{n}", "model", "card") for n in (0, 1, 2, 3, 3)))
    assert figures.ledger(twice).twice == ("T-3",)
    assert not figures.ledger(twice).balanced
    strange = figures.ledger(desk_of(*((f"T-{n}", "model", "card") for n in range(5))))
    assert (strange.strange, strange.balanced) == (("T-4",), False)


# -- figures --------------------------------------------------------------------------


def test_the_figures_tell_who_answered_how_fast_and_how_well() -> None:
    desk = desk_of(
        ("T-0", "model", "card"),
        ("T-1", "rule", "mortgage"),
        ("T-2", triage.PERSON, "card"),
    )
    found = figures.kpis(figures.outcomes(desk))
    assert (found.tickets, found.answered, found.escalated, found.unplaced) == (4, 3, 1, 0)
    assert found.deflection == pytest.approx(2 / 3)
    assert found.accuracy == 0.5, "only of those without a person"
    assert (found.quick.count, found.quick.p50_s, found.slow.p95_s) == (2, 2.0, 2.0)
    groups = figures.by_product(figures.outcomes(desk))
    assert list(groups) == ["card", "mortgage"]
    assert math.isnan(groups["mortgage"].deflection)
    assert math.isnan(groups["mortgage"].quick.p50_s)


def test_quantiles_are_values_that_were_there() -> None:
    assert figures.quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert figures.quantile([float(n) for n in range(1, 101)], 0.95) == 95.0
    assert figures.quantile([7.0], 0.95) == 7.0


def test_the_bill_is_what_was_spent_between_two_looks_and_is_divided_whole() -> None:
    before = figures.Spent(3.0, {"agents": 1.0, "idle": 2.0})
    after = figures.Spent(6.0, {"agents": 1.5, "idle": 4.0, "flows": 0.5})
    bill = figures.bill_between(before, after, "EUR", 2.5)
    assert bill.parts == {"agents": 0.5, "idle": 2.0, "flows": 0.5}
    assert (bill.whole, bill.adds_up) == (3.0, True)
    missing = figures.Spent(6.0, {"agents": 1.5, "idle": 4.0})
    assert not figures.bill_between(before, missing, "EUR", 2.5).adds_up
    groups = figures.by_product(figures.outcomes(desk_of(("T-0", triage.PERSON, "card"))))
    parts = [bill.machines(one.tickets, 4) for one in groups.values()]
    assert sum(parts) == pytest.approx(bill.whole)
    assert sum(bill.people(one) for one in groups.values()) == 2.5


def test_a_higher_threshold_answers_fewer_tickets() -> None:
    rows = [outcome(n, confidence=n / 10, guess="card" if n > 4 else "mortgage") for n in range(10)]
    points = figures.trade_off(rows, version=1)
    assert (points[0].answered, points[0].right) == (1.0, 0.5)
    [middle] = [one for one in points if one.at_least == pytest.approx(0.5)]
    assert (middle.answered, middle.right) == (0.5, 1.0)
    assert all(math.isnan(one.answered) for one in figures.trade_off(rows, version=2))


def outcome(n: int, **more: Any) -> Outcome:
    known: dict[str, Any] = {"said": "card", "by": "model", "version": 1, "arm": "stable"}
    return Outcome(f"T-{n}", "webhook", "card", float(n), n + 1.0, **known | more)


def test_the_report_shows_the_figures_and_the_proof(tmp_path: Path) -> None:
    rows = [outcome(n, confidence=n / 40, guess="card") for n in range(40)]
    rows += [outcome(n, by=triage.PERSON, version=2, confidence=0.1) for n in range(40, 60)]
    rows.append(Outcome("T-60", "rabbitmq", "<mortgage>", 60.0))
    verdict = {"rule": "kpi worse", "state": "not_worse", "estimate": 0.1, "threshold": 0.2}
    told = Told(
        outcomes=tuple(rows),
        ledger=figures.Ledger(61, 60, ("T-60",), (), ()),
        bill=Bill("EUR", 0.5, {"agents": 0.2, "idle": 0.3}, 2.5),
        happened=(Happened(10.0, "an agent host is killed"),),
        rollout=RolloutTold("promoted", "", 5.0, 20.0, (verdict,)),
        accuracies={1: 0.7, 2: 0.8},
        quality="accuracy is 0.71",
        repeats=1,
    )
    page = write_report(told, tmp_path / "new").read_text()
    for text in (
        "61 real complaints came in, 66.7%",
        "1 lost, 0 answered twice",
        "an agent host is killed",
        "kpi worse",
        "promoted after 15 s",
        "accuracy is 0.71",
        "&lt;mortgage&gt;",
    ):
        assert text in page
    assert page.count("<svg") == 3
    assert "<mortgage>" not in page


# -- people ---------------------------------------------------------------------------


class FakeRuntime:
    """An inbox with questions, one of which is over by the time that it is answered."""

    def __init__(self, *names: str) -> None:
        self.questions = [
            Waiting(
                kind="question",
                id=f"q-{name}",
                flow="f",
                text=f"{name}: which?",
                to="support",
                asked_by="a",
                asked_s=0.0,
            )
            for name in names
        ]
        self.answers: dict[str, Any] = {}
        self.feedback_on: list[tuple[aios.Answer, float, dict[str, Any]]] = []

    def inbox(self) -> Iterator[Waiting]:
        return iter([one for one in self.questions if one.id not in self.answers])

    def answer(self, question: Waiting, answer: Any) -> None:
        if question.id == "q-over":
            raise aios.IllegalTransition("it is over")
        self.answers[question.id] = answer

    def endpoint(self, name: str) -> "FakeRuntime":
        assert name == triage.ENDPOINT
        return self

    def feedback(self, answer: aios.Answer, kpi: float, **values: Any) -> None:
        self.feedback_on.append((answer, kpi, values))


def test_the_stand_in_reads_for_a_moment_and_says_the_true_product() -> None:
    rt = FakeRuntime("T-1", "over", "T-2")
    known = {
        name: tickets.Ticket(name, "", f"product of {name}") for name in ("T-1", "T-2", "over")
    }
    support = people.Support(rt, known)  # type: ignore[arg-type]
    support.look()
    assert not rt.answers, "nobody answers at once"
    support._due_s = dict.fromkeys(support._due_s, time.monotonic())
    support.look()
    assert rt.answers == {
        "q-T-1": {"product": "product of T-1"},
        "q-T-2": {"product": "product of T-2"},
    }
    assert support.answered == 2


def test_a_closed_ticket_is_feedback_on_the_classifier_alone() -> None:
    rt = FakeRuntime()
    desk = desk_of(
        ("T-0", "model", "card"), ("T-1", "rule", "card"), ("T-3", triage.PERSON, "card")
    )
    desk.replies[1].told["request_id"] = None
    desk.opened_s -= 5.0 + people.CLOSED_AFTER_S - 1.0
    desks = people.Desks(rt, desk)  # type: ignore[arg-type]
    desks.look()
    assert [one.request_id for one, _, _ in rt.feedback_on] == ["r-T-0"], "T-3 is not closed yet"
    desk.opened_s -= 10.0
    desks.look()
    told = [(one.request_id, kpi, values) for one, kpi, values in rt.feedback_on]
    assert told == [
        ("r-T-0", 1.0, {"product": "card"}),
        ("r-T-3", 0.0, {"product": "mortgage"}),
    ]


# -- the command ----------------------------------------------------------------------


def test_the_command_line_says_how_the_story_is_told() -> None:
    assert options([]) == story.Options()
    given = options(["--tickets", "90", "--rate", "5", "--worse", "--rabbitmq", "amqp://h:1/"])
    assert (given.tickets, given.rate_per_s, given.worse) == (90, 5.0, True)
    assert given.broker == "amqp://h:1/"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"rate_per_s": 0.0}, "tickets a second"),
        ({"rate_per_s": math.nan}, "tickets a second"),
        ({"person_cost": -1.0}, "person"),
        ({"broker": "http://here"}, "amqp://"),
        ({"broker": "amqp://127.0.0.1:9/"}, "no RabbitMQ answers"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_starts(
    wrong: dict[str, Any], why: str
) -> None:
    with pytest.raises(aios.UsageError, match=why):
        story.main(story.Options(**wrong))


def test_a_machine_without_rabbitmq_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(brokers, "RABBIT", tmp_path / "rabbitmq-server")
    with pytest.raises(aios.UsageError, match="apt-get install rabbitmq-server"):
        story.main(story.Options())
