"""What the runtime returns: its looks in a terminal, a notebook and a log."""

import copy
import io
import math
import pickle
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import aios
from aios.presentation import (
    Shown,
    as_html,
    as_table,
    as_text,
    duration,
    harmless,
    moment,
)
from aios.records import Artifact, ModelVersion
from aios.runtime.agents import Agent
from aios.runtime.flows import FlowHandle
from aios.runtime.objects import Answer, Endpoint, Rollout, _as_records
from aios.runtime.runtime import Runtime
from aios.runtime.tables import EndpointStatus, ModelVersions, RolloutStatus, Status, Table
from aios.runtime.transport import Transport

ENDPOINT = {
    "name": "loan",
    "model": "loan",
    "version": 1,
    "challenger": {"version": 2, "arm": "canary", "weight_fraction": 0.05},
    "status": "RUNNING",
    "ready": True,
    "problem": None,
    "broken_glass": [],
    "uncleared": [],
    "replicas": 2,
    "requests": 12345,
    "failed": 0,
    "p50_s": 0.00042,
    "p99_s": 1.5,
}
VERDICT = {
    "rule": "output drift > 0.3",
    "state": "worse",
    "estimate": 0.412345,
    "lower": 0.35,
    "upper": None,
    "threshold": 0.3,
    "needed": 1200,
}
ROLLOUT = {
    "id": "loan-2-ab",
    "endpoint": "loan",
    "from_version": 1,
    "to_version": 2,
    "status": "running",
    "stage": "canary 5%",
    "reason": None,
    "verdicts": [VERDICT],
    "created_s": 1.0,
    "finished_s": None,
}
STATUS = {
    "started_s": 10.0,
    "now_s": 70.0,
    "models": 1,
    "versions": 2,
    "endpoints": [ENDPOINT],
    "rollouts": [ROLLOUT],
    "problem": None,
    "broken_glass": [],
    "uncleared": [],
}


class Cells(HTMLParser):
    """The texts of all cells, by tag; fails where a tag is not one of a plain table."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in ("div", "table", "thead", "tbody", "tr", "th", "td"), tag
        self._open.append(tag)
        if tag in ("div", "th", "td"):
            self.found.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.found[self._open[-1]][-1] += data


def html_of(shown: Shown) -> dict[str, list[str]]:
    parser = Cells()
    parser.feed(shown._repr_html_())
    assert parser._open == []
    return parser.found


def terminal(shown: Shown, width: int = 200) -> str:
    console = Console(width=width, force_terminal=False, record=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def answer(outputs: list[dict[str, Any]], **more: Any) -> Answer:
    fields = {"version": 2, "arm": "stable", "request_id": "r", "degraded": None} | more
    return Answer(outputs=outputs, latency_s=0.0031, **fields)


def test_an_answer_tells_version_arm_and_each_row() -> None:
    shown = answer([{"approve": 0.25}, {"approve": 0.123456}], arm="canary")
    assert html_of(shown) == {
        "div": ["version 2 (canary), 3.1 ms"],
        "th": ["row", "approve"],
        "td": ["0", "0.25", "1", "0.1235"],
    }
    assert repr(shown).splitlines()[1:] == ["  row  approve", "    0     0.25", "    1   0.1235"]


def test_a_degraded_answer_says_so() -> None:
    assert "version 2 (stable, degraded: rule), 3.1 ms" in repr(answer([], degraded="rule"))


def test_an_answer_tells_how_unusual_each_row_is_or_why_not() -> None:
    asked = answer([{"p": 0.5}, {"p": 0.6}], outlier=[0.412345, 0.7], outlier_beyond=[0.5, 0.992])
    assert "more unusual than" in repr(asked)
    assert re.search(r"1 +0\.6 +0\.7 +99\.2 %", repr(asked))
    without = answer([{"p": 0.5}], outlier_reason="version 1 was made without rows")
    assert "no outlier scores: version 1 was made without rows" in repr(without)
    assert "outlier" not in repr(answer([{"p": 0.5}]))


def test_a_long_answer_shows_its_first_rows_and_says_that_there_are_more() -> None:
    shown = answer([{"p": float(n)} for n in range(1000)])
    assert len(html_of(shown)["td"]) == 40
    assert "first 20 of 1000" in repr(shown)
    assert len(shown.outputs) == 1000


def test_an_answer_is_a_value() -> None:
    one = answer([{"p": 0.5}])
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)


def test_a_running_rollout_shows_its_stage_and_each_verdict() -> None:
    status = RolloutStatus(ROLLOUT)
    assert not status.finished
    assert html_of(status)["div"] == ["rollout loan-2-ab: loan 1 -> 2, canary 5%"]
    assert html_of(status)["td"] == [
        *("output drift > 0.3", "worse", "0.4123", "0.35", "", "0.3", "1200")
    ]


def test_an_ended_rollout_shows_its_outcome_and_reason() -> None:
    status = RolloutStatus({**ROLLOUT, "status": "rolled_back", "reason": "errors worse"})
    assert status.finished
    assert status.summary == "rolled_back: errors worse"
    assert "rolled_back: errors worse" in terminal(status)


def test_words_that_say_how_it_stands_have_a_colour() -> None:
    tinted = re.findall(r"color:(#\w+)[^>]*>([^<]+)<", RolloutStatus(ROLLOUT)._repr_html_())
    assert [text for _, text in tinted] == ["worse"]
    assert tinted[0][0] not in Status("http://x", STATUS)._repr_html_(), "yes is not worse"


def test_a_status_counts_and_names_what_runs() -> None:
    status = Status("http://127.0.0.1:8000", STATUS)
    (title,) = html_of(status)["div"]
    assert title == (
        "aios at http://127.0.0.1:8000, kernel up 60.0 s, 1 model, 2 versions; loan: canary 5%"
    )
    assert html_of(status)["td"] == [
        *("loan", "loan:1", "2 canary 5%", "yes", "2", "12345", "0", "0.42 ms", "1.5 s")
    ]


def test_a_problem_is_in_the_status_and_in_its_endpoints_row() -> None:
    sick = {**ENDPOINT, "ready": False, "problem": "ModelFailed: no", "challenger": None}
    status = Status("http://x", {**STATUS, "endpoints": [sick], "problem": "Ray is away"})
    assert "problem: Ray is away" in repr(status)
    assert "no (ModelFailed: no)" in html_of(status)["td"]
    young = EndpointStatus({**sick, "problem": None, "status": "DEPLOYING"})
    assert "no (deploying)" in repr(young)


def test_an_endpoints_status_is_read_like_a_dict() -> None:
    status = EndpointStatus(ENDPOINT)
    assert status["ready"] is True
    assert dict(status) == ENDPOINT
    assert html_of(status)["div"] == ["endpoint loan"]


def test_a_table_is_a_list_whose_moments_people_can_read() -> None:
    table = Table("audit", [{"seq": 1, "at_s": 1.7e9, "actor": "ada"}], ["seq", "at_s", "actor"])
    assert (len(table), table[0]["actor"], [row["seq"] for row in table]) == (1, "ada", [1])
    assert html_of(table)["td"] == ["1", moment(1.7e9), "ada"]
    assert html_of(table)["th"] == ["seq", "at", "actor"]


@pytest.mark.parametrize("empty", [Table("rollouts", [], ["id"]), ModelVersions([])], ids=repr)
def test_an_empty_list_says_so(empty: Shown) -> None:
    assert repr(empty).endswith(": none")
    assert terminal(empty).strip() == repr(empty)
    assert list(html_of(empty)) == ["div"]


def version(number: int, **more: Any) -> ModelVersion:
    contract = aios.Contract(inputs={"a": aios.Number()}, outputs={"p": aios.Number()})
    fields = {
        "name": "loan",
        "version": number,
        "artifact": Artifact(digest="ab" * 32, engine="onnx", size_bytes=1234),
        "contract": contract.to_json(),
        "contract_digest": contract.digest,
        "metrics": {"auc": 0.876543},
        "created_s": 1.7e9,
        "created_by": "ada",
    }
    return ModelVersion.model_validate(fields | more)


def test_a_version_tells_where_it_came_from() -> None:
    one = version(7, tags={"team": "risk"})
    assert html_of(one)["div"] == [f"loan:7, by ada at {moment(1.7e9)}"]
    cells = html_of(one)["td"]
    facts = dict(zip(cells[::2], cells[1::2], strict=True))
    assert facts == {
        "engine": "onnx",
        "size": "1,234 bytes",
        "digest": "abababababab",
        "inputs": "a",
        "outputs": "p",
        "auc": "0.8765",
        "team": "risk",
    }
    assert ModelVersion.model_validate_json(one.model_dump_json()) == one


def test_a_version_tells_whether_outliers_can_be_told() -> None:
    told = version(1, conversion={"outliers": {"rows": 5000, "fields": ["a"]}})
    assert "told beside 5,000 rows" in repr(told)
    without = version(1, conversion={"outliers": {"reason": "no rows to learn from were given"}})
    assert "cannot be told: no rows to learn from were given" in repr(without)
    assert "outliers" not in repr(version(1, conversion={}))


def test_versions_are_listed_with_their_figures() -> None:
    listed = ModelVersions([version(1), version(2, metrics={})])
    assert [found.ref for found in listed] == ["loan:1", "loan:2"]
    assert len(listed) == 2
    assert listed[1].version == 2
    assert "loan:1   onnx    abababababab  auc 0.8765" in repr(listed)


def test_a_contract_looks_like_everything_else() -> None:
    contract = aios.Contract(
        inputs={"a<b>": aios.Number(min=0)}, outputs={"p": aios.Number()}, key="id"
    )
    assert html_of(contract)["th"] == ["role", "name", "type", "allowed"]
    assert "a<b>" in html_of(contract)["td"]
    assert "[bold]" in terminal(
        aios.Contract(inputs={"[bold]": aios.Number()}, outputs={"p": aios.Number()})
    )


def test_what_asks_the_runtime_can_be_named_and_shown_without_one() -> None:
    away = Transport("http://127.0.0.1:1", "key", patience_s=0)
    for thing in (Endpoint(away, "loan"), Rollout(away, "loan-2-ab")):
        assert "loan" in repr(thing)
        assert "http://127.0.0.1:1" in repr(thing)
        assert "no answer from http://127.0.0.1:1" in terminal(thing)
        assert "no answer from http://127.0.0.1:1" in html_of(thing)["div"][0]
    assert repr(Runtime("http://127.0.0.1:1/", "secret")) == "<aios runtime at http://127.0.0.1:1>"


@given(st.text(), st.lists(st.text(), min_size=1, max_size=3), st.data())
def test_no_text_breaks_a_look(title: str, headings: list[str], data: st.DataObject) -> None:
    cells = st.text() | st.none() | st.floats() | st.integers() | st.booleans()
    row = st.lists(cells, min_size=len(headings), max_size=len(headings))
    rows = data.draw(st.lists(row, max_size=3))
    parser = Cells()
    parser.feed(as_html(title, headings, rows))
    assert len(parser.found.get("td", [])) == len(headings) * len(rows)
    assert as_text(title, headings, rows).startswith(harmless(title))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, None),
        (0.0, "0 ms"),
        (0.00042, "0.42 ms"),
        (1.0, "1.0 s"),
        (119, "119.0 s"),
        (120, "2 min"),
        (7200, "120 min"),
    ],
)
def test_durations_read_well(seconds: float | None, shown: str | None) -> None:
    assert duration(seconds) == shown


def test_records_come_as_a_list_one_object_or_a_frame() -> None:
    import pandas as pd

    frame = pd.DataFrame({"a": [1.0, float("nan")], "b": ["x", None]})
    assert _as_records(frame) == [{"a": 1.0, "b": "x"}, {"a": None, "b": None}]
    assert _as_records({"a": 1}) == [{"a": 1}]
    assert _as_records(({"a": 1},)) == [{"a": 1}]
    assert _as_records([]) == []


@pytest.mark.parametrize("wrong", ["text", b"bytes", 3, None, [1], ["ab"], [[("a", 1)]], {"a"}])
def test_other_records_are_refused(wrong: Any) -> None:
    with pytest.raises(aios.UsageError, match="object"):
        _as_records(wrong)


@pytest.mark.parametrize("key", ["é", "a\nb", "\x00", 7])
def test_a_key_that_no_header_can_carry_is_refused_before_it_is_sent(key: Any) -> None:
    nobody = Endpoint(Transport("http://127.0.0.1:1", None), "loan")
    with pytest.raises(aios.UsageError, match="x-aios-key"):
        nobody.predict({"a": 1}, key=key)


def test_what_a_user_gives_in_the_wrong_shape_is_told_in_one_line() -> None:
    runtime = Runtime("http://127.0.0.1:9", "key")
    for plan in ("canary", aios.Canary):
        with pytest.raises(aios.UsageError, match=r"give aios\.Canary\(\)"):
            runtime.rollout("loan", "loan:2", plan)  # type: ignore[arg-type]
    with pytest.raises(aios.UsageError, match=r"give aios\.Contract"):
        runtime.models.register("loan", object(), contract={"a": 1})  # type: ignore[arg-type]
    with pytest.raises(aios.UsageError, match="Default: outputs"):
        aios.Default(3)  # type: ignore[arg-type]
    with pytest.raises(aios.UsageError, match="below min_replicas"):
        aios.Autoscale(3, 1)


def no_flow() -> None:
    """A step's text."""


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda rt: rt.emit("t", lambda: 1, to=aios.Files("/tmp/x")), "emit: data is not JSON"),
        (lambda rt: rt.emit("t", [math.nan], to=aios.Files("/tmp/x")), "emit: data is not JSON"),
        (lambda rt: rt.replay("x"), "'x' is no dead letter"),
        (lambda rt: rt.replay(None), "None is no dead letter"),
        (lambda rt: rt.discard([1, 1.5]), "1.5 is no dead letter"),
        (lambda rt: rt.discard(True), "True is no dead letter"),
        (lambda rt: rt.start("refund", delay_s=float("nan")), "delay_s=nan: give a finite number"),
        (lambda rt: rt.start("refund", delay_s=float("inf")), "delay_s=inf: give a finite number"),
        (lambda rt: rt.answer("f/1", {"n": float("nan")}), "the answer is not JSON"),
        (lambda rt: rt.roll_out_agent(Agent, share=0.5, version=1), "a class is rolled out as"),
        (lambda rt: rt.spawn("a", id="1", scopes="refunds crm"), "'refunds crm' is no scope"),
        (lambda rt: rt.deploy("loan", None), "the version is None; give one such as loan:1"),
        (lambda rt: rt.declare("m", use="u", limits="ab"), "limits='ab': give several texts"),
        (lambda rt: rt.start("refund", attributes=3), "attributes are names with values, not 3"),
        (lambda rt: rt.start("refund", id=5), "id=5 must be text: id=.5."),
        (lambda rt: FlowHandle(rt._transport, "f").result("x"), "0 or more, not 'x'"),
        (lambda rt: FlowHandle(rt._transport, "f").result(-1), "0 or more, not -1"),
        (
            lambda rt: Agent(rt._transport, "a", "1").tell({"x": [float("nan")]}),
            "a message to a/1 is not JSON",
        ),
        (lambda rt: Agent(rt._transport, "a", "1").ask(float("inf")), "a/1 is not JSON"),
        (lambda rt: rt.tell_agents([("a/1", 1), ("a/2", {"x": 2**80})]), "a/2 is not JSON"),
        (lambda rt: rt.spawn("a", id="1", state={"x": float("nan")}), "the state is not JSON"),
        (lambda rt: rt.start("refund", "a\0b"), "holds a NUL character"),
        (lambda rt: rt.start("refund", 2**80), "an argument of flow 'refund' is not JSON"),
        (lambda rt: Agent(rt._transport, "a", "1").state(dict), "a pydantic model's class, not"),
        (lambda rt: Agent(rt._transport, "a", "1").ask({}, timeout_s="5"), "give seconds, more"),
        (lambda rt: Agent(rt._transport, "a", "1").ask({}, timeout_s=-1), "timeout_s=-1: give"),
        (lambda rt: Agent(rt._transport, "a", "1").grant(5), "5 is no budget; one is"),
        (lambda rt: rt.spawn("a", id="1", budget=3), "3 is no budget; one is"),
        (lambda rt: rt.revive_message("x"), "'x' is no message; give a row"),
        (lambda rt: rt.queue(""), "'' is no name or id; one of the queues is meant"),
        (lambda rt: rt.off(" "), "' ' is no name or id; one of the subscriptions"),
        (lambda rt: rt.off(None), "None is no subscription"),
        (lambda rt: rt.flows(attributes="x"), "attributes='x': give some"),
        (lambda rt: rt.start(aios.step(no_flow)), "<step no_flow> is no flow: it runs"),
        (lambda rt: aios.local(num_cpus="two"), "num_cpus='two': give a whole number"),
        (lambda rt: aios.agent(budget=5)(Agent), "budget=5 is no budget"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anybody_is_asked(ask: Any, told: str) -> None:
    with pytest.raises(aios.UsageError, match=told):
        ask(Runtime("http://127.0.0.1:1", "key"))


@pytest.mark.parametrize("flow_id", ["50%", "%56", "a?b#c", "ü b", 5])
def test_a_flows_id_may_hold_what_addresses_use_otherwise(flow_id: str) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(unquote(request.url.raw_path.decode()))
        return httpx.Response(200, json=[])

    transport = Transport("http://127.0.0.1:1", "key")
    transport._client = httpx.Client(
        transport=httpx.MockTransport(answer), base_url="http://127.0.0.1:1"
    )
    FlowHandle(transport, flow_id).steps()
    assert asked == [f"/api/v1/flows/{flow_id}/steps"]


def test_what_a_stranger_sent_commands_no_terminal_and_breaks_no_table() -> None:
    rows = [["\x1b]0;owned\x07", "first\nsecond", "\u202etxt.exe", "\ud800", 1]]
    headings = ["a", "b", "c", "d", "n"]
    text = as_text("question \x1b[2J", headings, rows)
    assert len(text.splitlines()) == 3
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(as_table("question \x1b[2J", headings, rows))
    for shown in (text, as_html("question \x1b[2J", headings, rows), console.export_text()):
        assert not set("\x1b\x07\u202e\ud800") & set(shown)
        assert r"\x1b[2J" in shown
        assert r"\u202etxt.exe" in shown
    assert r"first\nsecond" in text
