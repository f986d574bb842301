"""Feedback from event sources: delivered twice, late, out of order, and broken."""

import base64
import json
import random

import pytest
from api_fakes import Client, api_of, is_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_fakes import CONTRACT, World, make_world

from aios.clock import ManualClock
from aios.contracts import Contract, Number
from aios.errors import UsageError
from aios.kernel.front import MAX_BODY_BYTES
from aios.records.cloudevents import BATCH, STRUCTURED, read_event, structured
from aios.registry import FeedbackEvent, Observed
from aios.store.database import Database

NOW_S = 1_700_000_000.0
DAY_S = 86_400.0
BOUNDED = Contract(inputs=CONTRACT.inputs, outputs={"approve": Number(min=0, max=1)})


@pytest.fixture
def observed(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/aios.db")
    database.upgrade()
    yield Observed(database, ManualClock(NOW_S))
    database.close()


def event(name: str, value: object, said_s: float | None = None, request: str = "r1"):
    return FeedbackEvent("/crm", name, request, {"y": value}, said_s)


def tell(observed: Observed, *events: FeedbackEvent) -> dict[str, int]:
    told = observed.add_feedback_events("loan", events, "broker")
    return {name: count for name, count in told.items() if count}


def last(observed: Observed) -> dict[str, object]:
    """What counts for each request, once answers were found for all."""
    answer = {"version": 1, "arm": "stable", "answered_s": NOW_S - 60, "outputs": [{"y": 0.5}]}
    waiting = observed.feedback_to_look_for("loan", most=100_000)
    observed.looked_for({row["seq"]: answer for row in waiting})
    return {one.request_id: one.given["y"] for one in observed.outcomes("loan")}


# -- the store ----------------------------------------------------------------------------


def test_an_old_event_that_is_delivered_again_does_not_come_back_as_the_newest(observed):
    assert tell(observed, event("e1", 0)) == {"taken": 1}
    observed.add_feedback("loan", [("r1", {"y": 1})], "ann")
    assert tell(observed, event("e1", 0)) == {"repeated": 1}
    assert tell(observed, event("e1", 0, NOW_S)) == {"repeated": 1}, "whatever else it says"
    assert last(observed) == {"r1": 1}


def test_an_event_that_said_nothing_new_is_still_known_when_it_comes_again(observed):
    observed.add_feedback("loan", [("r1", {"y": 0})], "ann")
    assert tell(observed, event("e1", 0)) == {"history": 1}
    observed.add_feedback("loan", [("r1", {"y": 1})], "ann")
    assert tell(observed, event("e1", 0)) == {"repeated": 1}
    assert last(observed) == {"r1": 1}
    assert len(observed.feedback_to_export("loan")) == 2, "history is not exported"


def test_the_event_that_happened_last_counts_in_whatever_order_they_come(observed):
    assert tell(observed, event("e2", 2, NOW_S - 10)) == {"taken": 1}
    assert tell(observed, event("e1", 1, NOW_S - 20)) == {"history": 1}
    assert last(observed) == {"r1": 2}
    assert tell(observed, event("e4", 4, NOW_S - 1), event("e3", 3, NOW_S - 5)) == {
        "taken": 1,
        "history": 1,
    }
    assert last(observed) == {"r1": 4}


def test_without_a_time_the_last_to_come_counts(observed):
    assert tell(observed, event("e1", 1), event("e2", 2), event("e3", 1)) == {"taken": 3}
    assert last(observed) == {"r1": 1}


def test_events_of_other_sources_ids_and_endpoints_are_other_events(observed):
    tell(observed, event("e1", 1))
    other = FeedbackEvent("/erp", "e1", "r1", {"y": 2})
    assert tell(observed, other) == {"taken": 1}
    assert observed.add_feedback_events("toy", [event("e1", 1)], "broker")["taken"] == 1


def test_a_source_whose_clock_is_ahead_wins_no_longer_than_until_the_next_word(observed):
    year_s = 366 * DAY_S
    assert tell(observed, event("e1", 0, NOW_S + year_s)) == {"taken": 1, "ahead": 1}
    observed._clock.advance(1.0)
    assert tell(observed, event("e2", 1, NOW_S + 1.0)) == {"taken": 1}
    assert last(observed) == {"r1": 1}
    assert observed.feedback_events("loan")["ahead"] == 1


def test_what_a_person_says_now_counts_also_after_the_clock_was_set_back(observed):
    tell(observed, event("e1", 0))
    observed._clock.advance(-3600.0)
    assert observed.add_feedback("loan", [("r1", {"y": 1})], "ann") == 1
    assert tell(observed, event("e2", 0)) == {"taken": 1}, "an event without a time comes now too"
    assert last(observed) == {"r1": 0}


def test_events_days_late_are_taken_and_their_delay_is_measured(observed):
    tell(observed, event("e1", 1, NOW_S - 3 * DAY_S))
    (row,) = observed.feedback_to_look_for("loan")
    answer = {"version": 1, "arm": "stable", "answered_s": NOW_S - 5 * DAY_S, "outputs": []}
    observed.looked_for({row["seq"]: answer})
    delays = observed.feedback_delays()["loan"]
    assert (sum(delays.counts), delays.counts[5], delays.sum_s) == (1, 1, 5 * DAY_S)


def test_a_crowd_of_repeats_in_one_delivery_counts_once(observed):
    crowd = [event(f"e{n % 700}", n % 700, request=f"r{n % 700}") for n in range(2_100)]
    assert tell(observed, *crowd) == {"taken": 700, "repeated": 1_400}
    assert observed.feedback_counts("loan")["given"] == 700


@settings(max_examples=30, deadline=None)
@given(
    said=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_any_order_with_any_repeats_ends_alike(tmp_path_factory, said, order):
    """Events whose times differ: what counts is what happened last, whatever came when."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('events')}/aios.db")
    database.upgrade()
    observed = Observed(database, ManualClock(NOW_S))
    events = [
        event(f"e{place}", value, NOW_S - 100 + place, request=f"r{who}")
        for place, (who, value) in enumerate(said)
    ]
    deliveries = events + order.sample(events, len(events) // 2)
    order.shuffle(deliveries)
    for one in deliveries:
        tell(observed, one)
    assert last(observed) == {one.request_id: one.values["y"] for one in events}
    counts = observed.feedback_counts("loan")
    assert (counts["given"], counts["requests"]) == (len(events), len({w for w, _ in said}))
    assert counts["joined"] + counts["history"] == counts["given"]
    database.close()


def test_the_totals_are_what_a_count_of_the_rows_would_say(observed):
    chance = random.Random(3)
    for number in range(300):
        who, what = f"r{chance.randrange(40)}", chance.randrange(3)
        if chance.random() < 0.5:
            observed.add_feedback("loan", [(who, {"y": what})], "ann")
        else:
            name = f"e{chance.randrange(120)}"
            tell(observed, event(name, what, NOW_S - chance.randrange(50), who))
        if number % 50 == 49:
            rows = observed.feedback_to_look_for("loan")
            some = {"answered_s": NOW_S, "version": 1, "arm": "stable", "outputs": []}
            found = {row["seq"]: some if row["seq"] % 3 else None for row in rows[::2]}
            observed.looked_for(found)
            observed.looked_for(found)
    with observed._database.reading() as connection:
        given, requests, joined, unknown, history, waiting = connection.exec_driver_sql(
            "SELECT count(*), count(DISTINCT request_id), count(answer), "
            "sum(looked_for AND answer IS NULL AND NOT history), sum(history), "
            "sum(NOT looked_for) FROM feedback WHERE endpoint = 'loan'"
        ).one()
    assert observed.feedback_counts("loan") == {
        "given": given,
        "requests": requests,
        "joined": joined,
        "unknown": unknown,
        "history": history,
        "waiting": waiting,
    }
    assert min(given, joined, unknown, history, waiting) > 0


def test_the_lag_is_the_age_of_the_oldest_that_waits(observed):
    assert observed.feedback_lag_s("loan") == 0.0
    observed.add_feedback("loan", [("r1", {"y": 0})], "ann")
    observed._clock.advance(40.0)
    observed.add_feedback("loan", [("r2", {"y": 0})], "ann")
    assert observed.feedback_lag_s("loan") == 40.0
    first, second = observed.feedback_to_look_for("loan")
    observed.looked_for({first["seq"]: None})
    assert observed.feedback_lag_s("loan") == 0.0
    observed.looked_for({second["seq"]: None})
    observed._clock.advance(40.0)
    assert observed.feedback_lag_s("loan") == 0.0


# -- CloudEvents --------------------------------------------------------------------------

EVENT = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/crm",
    "type": "loan.repaid",
    "time": "2023-11-14T22:13:20.5Z",
    "data": {"request_id": "r1", "values": {"approve": 1}},
}


def test_an_event_is_read_with_its_time():
    found = read_event(EVENT)
    assert (found.id, found.source, found.time_s) == ("e1", "/crm", 1_700_000_000.5)
    assert read_event({**EVENT, "time": "2023-11-14T23:13:20.500000001+01:00"}).time_s == (
        found.time_s
    )
    packed = base64.b64encode(json.dumps(EVENT["data"]).encode()).decode()
    bare = {name: value for name, value in EVENT.items() if name not in ("data", "time")}
    assert read_event({**bare, "data_base64": packed}).data == EVENT["data"]
    assert read_event(bare).time_s is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"specversion": "0.3"}, "specversion is '0.3'"),
        ({"id": ""}, "id is ''"),
        ({"id": "a\x00b"}, "printable"),
        ({"source": None}, "source is None"),
        ({"source": "x" * 501}, "source is"),
        ({"type": 3}, "type is 3"),
        ({"subject": {}}, "subject is"),
        ({"time": "yesterday"}, "time is 'yesterday'"),
        ({"time": "2023-11-14T22:13:20"}, "no offset"),
        ({"time": 5}, "time is 5"),
        ({"datacontenttype": "application/avro"}, "avro"),
        ({"data_base64": "%%%"}, "data_base64"),
    ],
)
def test_what_is_no_event_says_which_attribute_is_wrong(changed, told):
    with pytest.raises(UsageError, match=told):
        read_event({**EVENT, **changed})


def test_binary_mode_takes_its_attributes_from_headers():
    headers = {"ce-id": "e%201", "ce-source": "/crm", "ce-type": "t", "x-other": "no"}
    found = read_event(structured({**headers, "ce-specversion": "1.0"}, EVENT["data"]))
    assert (found.id, found.data) == ("e 1", EVENT["data"])


# -- over HTTP ----------------------------------------------------------------------------

PATH = "/api/v1/endpoints/loan/feedback/events"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events") / "template"
    world = World(folder)
    world.register(contract=BOUNDED)
    world.deploy()
    return folder


@pytest.fixture
def world(template, tmp_path):
    return make_world(template, tmp_path / "home", ManualClock(NOW_S))


@pytest.fixture
def client(world: World) -> Client:
    key = world.do("add_key", identity="broker", role="viewer")["key"]
    world.reconcile()
    return Client(api_of(world), key)


def post(client: Client, body: object, kind: str = STRUCTURED, path: str = PATH, **headers: str):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client("POST", path, content=content, headers={"content-type": kind, **headers})


def kept(world: World) -> dict[str, object]:
    rows = world.kernel.watcher._observed.feedback_to_export("loan")
    return {row["request_id"]: row["given"] for row in rows}


def test_all_three_modes_are_taken(client, world):
    assert post(client, EVENT, f"{STRUCTURED}; charset=UTF-8").json()["taken"] == 1
    two = {**EVENT, "id": "e2", "data": {"request_id": "r2", "values": {"approve": 0}}}
    assert post(client, [EVENT, two], BATCH).json() == {
        "taken": 1,
        "repeated": 1,
        "history": 0,
        "ahead": 0,
        "refused": 0,
        "problems": [],
    }
    binary = {"ce-specversion": "1.0", "ce-id": "e3", "ce-source": "/crm", "ce-type": "t"}
    by_subject = {**binary, "ce-subject": "r3"}
    answer = post(client, {"values": {"approve": 1}}, "application/json", **by_subject)
    assert (answer.status_code, answer.json()["taken"]) == (200, 1)
    assert kept(world) == {"r1": {"approve": 1}, "r2": {"approve": 0}, "r3": {"approve": 1}}


def test_poison_in_a_batch_is_told_and_the_others_are_taken(client, world):
    batch = [
        {**EVENT, "data": {"request_id": "r1", "values": {"approve": 7}}},
        "nothing",
        {**EVENT, "id": "e2", "time": "soon"},
        {**EVENT, "id": "e3", "data": [1]},
        {**EVENT, "id": "e4"},
    ]
    answer = post(client, batch, BATCH)
    told = answer.json()
    assert (answer.status_code, told["taken"], told["refused"]) == (200, 1, 4)
    assert [one["place"] for one in told["problems"]] == [0, 1, 2, 3]
    first = told["problems"][0]
    assert (first["source"], first["id"]) == ("/crm", "e1")
    assert "outside 0.0 to 1.0" in first["reason"]
    again = post(client, batch, BATCH).json()
    assert (again["taken"], again["repeated"], again["refused"]) == (0, 1, 4)
    metrics = world.do("metrics")
    assert 'aios_feedback_events_total{endpoint="loan",result="refused"} 8.0' in metrics
    assert 'aios_feedback_events_total{endpoint="loan",result="taken"} 1.0' in metrics


def test_one_poison_event_is_a_400_that_nobody_delivers_again_or_a_report(client, world):
    bad = {**EVENT, "data": {"request_id": "r1", "values": {"approve": 7}}}
    assert "outside 0.0 to 1.0" in is_problem(post(client, bad), 400, "UsageError")["detail"]
    told = post(client, bad, path=f"{PATH}?refused=report")
    assert (told.status_code, told.json()["refused"]) == (200, 1)
    assert kept(world) == {}


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (EVENT, "application/xml", 415),
        (EVENT, "", 415),
        (b"{", STRUCTURED, 400),
        (b'{"id": "\\u0000"}', STRUCTURED, 400),
        (EVENT, BATCH, 400),
        ([EVENT], STRUCTURED, 400),
        (EVENT["data"], "application/json", 400),
        (b" " * (MAX_BODY_BYTES + 1), STRUCTURED, 413),
        (b"", STRUCTURED, 400),
    ],
)
def test_what_is_no_delivery_is_refused(client, body, kind, status):
    assert post(client, body, kind).status_code == status


def test_events_are_refused_without_a_key_for_unknown_endpoints_and_elsewhere(client, world):
    stranger = Client(api_of(world), None)
    assert post(stranger, EVENT).status_code == 401
    path = "/api/v1/endpoints/nowhere/feedback/events"
    is_problem(post(client, EVENT, path=path), 404, "UnknownEndpoint")
    plain = "/api/v1/endpoints/loan/feedback"
    assert post(client, {"answers": []}, path=plain).status_code == 415, "only events are so called"


def test_a_file_of_answers_is_taken_in_part_and_its_bad_rows_are_told(client, world):
    answers = [
        {"request_id": "r1", "values": {"approve": 1}},
        {"request_id": "r2", "values": {"approve": 7}},
        {"request_id": "r3", "values": {"approve": 1}, "kpi": 1.0, "arm": "none"},
        {"request_id": "r4", "values": {"approve": 1}, "kpi": 1.0, "arm": "stable"},
    ]
    path = "/api/v1/endpoints/loan/feedback"
    body = {"answers": answers, "partial": True}
    told = client("POST", path, json=body).json()
    assert (told["taken"], told["unchanged"], told["refused"]) == (2, 0, 2)
    assert [one["place"] for one in told["problems"]] == [1, 2]
    assert client("POST", path, json=body).json()["unchanged"] == 2
    assert client("POST", path, json={"answers": answers}).status_code == 400
    assert set(kept(world)) == {"r1", "r4"}


def test_too_many_events_at_once_are_refused_whole(client, world):
    assert post(client, [0] * 10_001, BATCH).status_code == 400
    assert kept(world) == {}
