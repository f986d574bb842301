"""The maintenance story's decisions and data: machines' lives, what agents open, what it costs."""

import gzip
import hashlib
import json
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import pytest

import aios
from apps import supplies
from apps.predictive_maintenance import outcome, plant, report, roster
from apps.predictive_maintenance.__main__ import options_of
from apps.predictive_maintenance.costs import BREAKDOWN_EUR, HOUR_EUR, STOP_EUR, bill
from apps.predictive_maintenance.intervention import Case, Site, release
from apps.predictive_maintenance.operations import decide
from apps.predictive_maintenance.outcome import Kill, Look
from apps.predictive_maintenance.plant import BREAKDOWN_TICKS, PLANNED_TICKS, Fault, Life, Plan
from apps.predictive_maintenance.sensors import LIMITS, Readings
from apps.predictive_maintenance.story import Options, main
from apps.predictive_maintenance.stream import Obeyed, Sent
from apps.predictive_maintenance.watching import (
    LAST,
    OPEN_AT,
    QUIET,
    Opened,
    Watching,
    sensor_fault,
)

WORN = Plan("m-01", (Fault(10, 20),))


# -- machines -------------------------------------------------------------------------


def test_a_machine_that_nobody_stops_breaks_and_runs_again():
    life = plant.lived(WORN, 400, plant.never)
    assert life.spans == [plant.Span("broken", 30, 30 + BREAKDOWN_TICKS)]
    assert life.wears == [plant.Wear(10, 30, 30, "broken")]


def test_a_machine_that_is_stopped_and_repaired_in_time_does_not_break():
    life = plant.lived(WORN, 400, lambda life: life.now == 25)
    [span] = life.spans
    assert (span.kind, span.begin) == ("stopped", 26)
    assert span.end - span.begin == PLANNED_TICKS
    assert [(one.how, one.fails) for one in life.wears] == [("repaired", 30)]


def test_a_machine_that_goes_on_unrepaired_breaks_where_it_would_have():
    life = Life(WORN)
    for _ in range(20):
        life.tick()
    assert life.stop()
    assert not life.stop(), "it is stopped already"
    assert life.tick() == "stopped"
    assert life.go_on(repaired=False)
    assert not life.go_on(repaired=True), "it runs"
    assert [life.tick() for _ in range(10)][-2:] == ["running", "broken"]
    assert not life.stop(), "it is broken"


def test_what_goes_on_at_the_end_ends_there():
    life = plant.lived(WORN, 40, plant.never)
    assert life.spans == [plant.Span("broken", 30, 40)]
    worn = plant.lived(WORN, 20, plant.never)
    assert (worn.spans, worn.wears) == ([], [plant.Wear(10, 30, 20, "open")])


def test_plans_are_the_same_for_a_seed_and_keep_faults_apart():
    plans = plant.make_plans(12, 600, 4)
    assert plans == plant.make_plans(12, 600, 4)
    assert plans != plant.make_plans(12, 600, 5)
    assert not any(plan.faults for plan in plans[3::4])
    for plan in plans:
        for first, second in zip(plan.faults, plan.faults[1:], strict=False):
            assert second.begin > first.begin + first.ticks + BREAKDOWN_TICKS


def test_worn_machines_send_more_and_more_anomalous_readings():
    life, shares = Life(Plan("m-01", (Fault(200, 200),))), []
    for until in (200, 300, 400):
        found = []
        while life.now < until - 1:
            life.tick()
            found.append(plant.kind_of(life, 1).anomalous)
        shares.append(sum(found) / len(found))
    assert shares[0] < 0.05
    assert 0.25 < shares[1] < 0.6 < shares[2]
    assert plant.kind_of(life, 1) == plant.kind_of(life, 1)


def test_the_bill_counts_hours_by_what_they_were_for():
    lives = [plant.lived(WORN, 400, plant.never), plant.lived(WORN, 400, lambda one: one.now == 25)]
    found = bill(lives)
    assert (found.breakdowns, found.breakdown_hours) == (1, BREAKDOWN_TICKS / 6)
    assert (found.stops, found.stop_hours) == (1, PLANNED_TICKS / 6)
    assert found.eur == BREAKDOWN_EUR + STOP_EUR + HOUR_EUR * found.hours


# -- readings -------------------------------------------------------------------------


def test_a_compressed_table_in_a_wheel_is_read_if_it_is_the_right_one(tmp_path):
    path = tmp_path / "shuttle-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("data/x.csv.gz", gzip.compress(b"f1,anomaly\n5,0\n6,1\n"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    table = supplies.Table("shuttle==1", digest[:16], "data/x.csv.gz")
    assert supplies.read(table, tmp_path).f1.tolist() == [5, 6]
    with pytest.raises(aios.UsageError, match="is not the file it should be"):
        supplies.read(replace(table, sha256="0" * 16), tmp_path)


def test_readings_are_dealt_out_in_their_order_and_each_once():
    poured = Readings([{"f1": 1.0}, {"f1": 2.0}], [{"f1": 9.0}]).pour()
    found = [poured.next(one)["f1"] for one in (False, True, False)]
    assert found == [1.0, 9.0, 2.0]
    with pytest.raises(aios.UsageError, match="the file has 2 normal readings"):
        poured.next(False)


# -- agents ---------------------------------------------------------------------------


def reading(**changed):
    return dict.fromkeys(LIMITS, 1.0) | changed


def test_a_sensor_that_is_missing_or_out_of_range_is_a_fault_of_the_sensor():
    assert sensor_fault(reading()) is None
    assert sensor_fault(reading(f3=None)) == "f3 is missing"
    assert sensor_fault(reading(f1=1e6)) == "f1 shows 1e+06, and can show 0 to 200"


def test_one_outlier_opens_nothing_and_many_of_the_last_do():
    state = Watching()
    scores = [0.1, 0.9, 0.1, 0.1, 0.9, 0.9, 0.9]
    assert [state.take(n, score) for n, score in enumerate(scores, 1)] == [False] * 7
    assert state.take(8, None) is False, "a broken sensor says nothing"
    assert state.take(9, 0.9) is True
    assert sum(state.recent) == OPEN_AT
    assert (state.judged, state.anomalous, state.sensor_faults) == (9, 5, 1)


def test_while_an_intervention_is_open_or_was_refused_no_other_is_opened():
    state = Watching()
    for number in range(1, LAST + 1):
        opens = state.take(number, 1.0)
    assert opens
    state.opens("m-01-1", 8, 1.0, 1.5)
    assert not state.take(9, 1.0)
    assert not state.ended("m-01-9", True), "another one"
    assert state.ended("m-01-1", False)
    assert not state.ended("m-01-1", True), "told twice"
    opened = [state.take(number, 1.0) for number in range(10, 10 + QUIET)]
    assert opened == [False] * (QUIET - 1) + [True]
    state.opens("m-01-2", 21, 2.0, 2.5)
    assert (state.open, state.episode) == ("m-01-2", 2)


def test_the_person_refuses_what_is_calm_again():
    assert decide([True] * 5 + [False] * 3 + [True])[0] is False
    assert decide([True] * 8) == (True, "4 of the last 4 readings are anomalous: it goes on")


# -- interventions --------------------------------------------------------------------


@pytest.fixture
def case(tmp_path):
    path = tmp_path / "roster.db"
    roster.make(path)
    site = Site(servers="x:1", roster=str(path), answer_s=1, repair_s=0)
    return Case(machine="m-01", id="m-01-1", why="many", site=site).model_dump()


def test_a_technician_is_reserved_once_for_a_key_and_nobody_twice(case):
    path = case["site"]["roster"]
    first = roster.reserve(path, "k1", "m-01-1", "m-01")
    assert roster.reserve(path, "k1", "m-01-1", "m-01") == first
    others = [roster.reserve(path, f"k{n}", "x", "x") for n in range(2, 7)]
    assert sorted([first, *others]) == sorted(roster.TECHNICIANS)
    with pytest.raises(roster.NobodyFree):
        roster.reserve(path, "k7", "x", "x")
    roster.use(path, "k1")
    release({"key": "k1"}, case)
    assert roster.reservations(path)[0]["state"] == "used", "what was used is not taken back"
    release({"key": "k2"}, case)
    assert roster.reserve(path, "k7", "x", "x") in (first, others[0])


# -- what came of it ------------------------------------------------------------------


def told(**changed):
    """A run of two machines: one is repaired in time, the other is refused and breaks."""
    plans = [Plan("m-01", (Fault(10, 20),)), Plan("m-02", (Fault(10, 20),))]
    repaired = plant.lived(plans[0], 200, lambda life: life.now == 25)
    broken = plant.lived(plans[1], 200, plant.never)
    lives = {"m-01": repaired, "m-02": broken}
    sent = {name: Sent(list(range(30)), [False] * 30) for name in lives}
    site = SimpleNamespace(
        lives=lives,
        sent=sent,
        ticks=200,
        tick_s=0.3,
        readings_sent=60,
        obeyed=[Obeyed("m-01", "m-01-1", "stop", 25, True)],
    )
    states = {
        name: Watching(
            judged=30,
            opened=[Opened(id=f"{name}-1", reading=21, sent_s=5.0, opened_s=opened_s, average=0.6)],
        )
        for name, opened_s in zip(lives, (5.5, 6.0), strict=True)
    }
    flows = [
        {"id": "m-01-1", "status": "finished", "lives": 2},
        {"id": "m-02-1", "status": "failed", "lives": 1},
    ]
    given = {
        "plans": plans,
        "flows": flows,
        "reservations": [
            {"intervention": "m-01-1", "state": "used"},
            {"intervention": "m-02-1", "state": "released"},
        ],
        "calls": [("reserve", "a"), ("reserve", "b")],
        "said": {"m-01-1": (True, "it goes on"), "m-02-1": (False, "it is calm")},
        "looks": [Look(1, 2, 3, 4)],
        "kills": [Kill("agent host", 7, 12, 0.0)],
        "kills_wanted": 1,
        "dead": [],
        "cost": SimpleNamespace(currency=None, parts=[]),
        "model": {"auc": 1.0},
        "machine": "a test's",
    }
    verdicts = {name: ["normal"] * 30 for name in lives}
    return outcome.collect(site, states, verdicts, **{**given, **changed})


def test_the_outcome_says_what_was_caught_and_when():
    found = told()
    assert [one.became for one in found.interventions] == ["repaired", "refused"]
    assert (found.precision, found.recall) == (1.0, 1.0)
    assert found.leads == [30 - 25]
    assert found.responses_s[0] == 0.75
    assert found.bills["with aios"].breakdowns == 1
    assert found.bills["never stopped"].breakdowns == 2
    assert outcome.surprises(found) == []


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"judged": 59}, "60 readings were sent and 59 judged"),
        ({"repeated": 1}, "1 readings came to an agent twice"),
        ({"dead": 2}, "2 messages or events were given up"),
        ({"flow_ids": ("m-01-1",)}, "interventions are not those that agents opened"),
        ({"kills": ()}, "only 0 of 1 processes were killed"),
        ({"reservations": ()}, "0 reservations were used for 1 stops"),
        (
            {"reservations": ({"intervention": "m-01-1", "state": "used"},) * 2},
            "an intervention reserved twice",
        ),
    ],
)
def test_what_does_not_hold_is_told(changed, wrong):
    assert wrong in outcome.surprises(replace(told(), **changed))


def test_silence_and_what_never_ended_are_told_apart():
    unanswered = told(said={"m-01-1": (True, "it goes on")})
    assert unanswered.interventions[1].became == "unanswered"
    still = told(flows=[])
    assert {one.became for one in still.interventions} == {"open"}
    assert "an intervention is still open" in outcome.surprises(still)
    late = told(reservations=[])
    assert "0 reservations were used for 1 stops" in outcome.surprises(late)


def test_the_report_is_one_page_with_its_pictures(tmp_path):
    written = report.write_report(told(), tmp_path)
    page = written.read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://", "http")
    for text in ("stood still for", "m-02-1", "it is calm", "Made up", "agent host (pid 7)"):
        assert text in page
    assert (tmp_path / "predictive_maintenance.png").stat().st_size > 10_000


# -- the command line -----------------------------------------------------------------


def test_options_that_make_no_story_are_refused():
    assert options_of(["--rate", "80"]).tick_s == 12 / 80
    for words, wrong in (
        (["--readings", "100"], "need 2,040"),
        (["--rate", "0"], "1 to 1,000"),
        (["--machines", "0"], "1 to 99"),
    ):
        with pytest.raises(aios.UsageError, match=wrong):
            options_of(words)


def test_a_broker_that_does_not_answer_is_said_at_once(tmp_path):
    with pytest.raises(aios.UsageError, match=r"no broker answers at 127\.0\.0\.1:1"):
        main(Options(servers="127.0.0.1:1", out=tmp_path))


def test_cases_are_plain_values(case):
    assert Case.model_validate(json.loads(json.dumps(case))).id == "m-01-1"
