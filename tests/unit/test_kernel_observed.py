"""What replicas report and users feed back, and how metrics and views tell it."""

from pathlib import Path

import pytest
from kernel_fakes import LATENCY, World, make_template, make_world
from prometheus_client.parser import text_string_to_metric_families

from aios.clock import ManualClock
from aios.errors import UsageError
from aios.kernel.observations import MAX_FEEDBACK_IDS, Observations
from aios.records import ArmReport, WindowReport


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template: Path, tmp_path: Path) -> World:
    return make_world(template, tmp_path)


def report(sequence: int = 1, at_s: float = 0.0, **fields: object) -> WindowReport:
    arms = {name: ArmReport(version=1, attempts=10) for name in ("stable", "canary")}
    base = {"endpoint": "loan", "replica": "r", "era": "e", "revision": 1, "pid": 1, "node": "n"}
    return WindowReport.model_validate(
        {**base, "sequence": sequence, "at_s": at_s, "arms": arms, **fields}
    )


def answer(request_id: str, kpi: object = 1.0, arm: str = "canary") -> dict[str, object]:
    return {"request_id": request_id, "arm": arm, "kpi": kpi}


def test_feedback_counts_once_per_request_and_reaches_the_evidence() -> None:
    seen = Observations(ManualClock())
    seen.add(report())
    assert seen.feedback("loan", [answer("a", 1.0), answer("b", 3.0), answer("a", 9.0)]) == 2
    assert seen.feedback("loan", [answer("b", 7.0), answer("c", 5.0, "stable")]) == 1
    evidence = seen.evidence("loan", "e")
    assert evidence is not None
    assert (evidence.arms["canary"].kpi.count, evidence.arms["canary"].kpi.mean) == (2, 2.0)
    assert evidence.arms["stable"].kpi.mean == 5.0


def test_feedback_without_a_live_replica_is_taken_when_there_is_one() -> None:
    clock = ManualClock()
    seen = Observations(clock)
    assert seen.feedback("loan", [answer("a")]) == 0
    seen.add(report())
    assert seen.feedback("loan", [answer("a")]) == 1


def test_feedback_belongs_to_one_endpoint() -> None:
    seen = Observations(ManualClock())
    seen.add(report())
    seen.add(report(endpoint="churn"))
    assert seen.feedback("loan", [answer("a")]) == 1
    assert seen.feedback("churn", [answer("a")]) == 1


def test_what_was_fed_back_is_remembered_in_bounded_memory() -> None:
    seen = Observations(ManualClock())
    seen.add(report())
    assert seen.feedback("loan", [answer("first")]) == 1
    many = [answer(f"r{n}") for n in range(MAX_FEEDBACK_IDS)]
    assert seen.feedback("loan", many) == MAX_FEEDBACK_IDS
    assert seen.feedback("loan", [many[-1], answer("first")]) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"request_id": "a", "arm": "canary"},
        answer("a", None),
        answer("a", "much"),
        answer("a", [1]),
        answer("a", float("nan")),
        answer("a", "1e999"),
        answer("a", 10**400),
        answer("a", 1, "green"),
        answer("", 1),
    ],
)
def test_bad_feedback_is_refused_whole(bad: dict[str, object]) -> None:
    seen = Observations(ManualClock())
    seen.add(report())
    with pytest.raises(UsageError, match="feedback needs"):
        seen.feedback("loan", [answer("good"), bad])
    assert seen.feedback("loan", [answer("good")]) == 1


def test_a_forgotten_endpoint_has_no_past() -> None:
    seen = Observations(ManualClock())
    seen.add(report(requests=5))
    seen.forget("loan")
    assert seen.evidence("loan", "e") is None
    assert seen.replicas("loan") == []
    assert seen.totals("loan").requests == 0
    assert seen.series("loan") == []
    seen.forget("never there")


def test_removing_an_endpoint_forgets_it(world: World) -> None:
    assert world.do("series", endpoint="loan")
    world.do("remove", name="loan")
    assert world.do("series", endpoint="loan") == []


def test_metrics_are_what_replicas_counted(world: World) -> None:
    rollout = world.rollout()
    world.replicas[0].error_rate = {1: 0.01}
    world.until(rollout, stage="canary 20%")
    world.tick()
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(world.do("metrics"))
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return samples[(name, tuple(sorted({"endpoint": "loan", **labels}.items())))]

    one, other = world.replicas
    assert value("aios_requests_total") == 2000 * (one.sequence + other.sequence)
    assert value("aios_requests_failed_total") == one.sequence + other.sequence
    assert value("aios_replicas") == 2
    assert value("aios_in_flight") == 6
    canary = one.counts["canary"].attempts + other.counts["canary"].attempts
    assert value("aios_arm_attempts_total", arm="canary", version="2") == canary > 0
    errors = value("aios_arm_errors_total", arm="stable", version="1", kind="model_failed")
    assert errors >= one.counts["stable"].errors["model_failed"] > 0
    assert value("aios_arm_weight", arm="canary", version="2") == pytest.approx(0.2)
    assert value("aios_arm_weight", arm="stable", version="1") == pytest.approx(0.8)
    answered = 3 * (one.sequence + other.sequence)
    assert value("aios_request_latency_seconds_count") == answered
    assert value("aios_request_latency_seconds_bucket", le="0.025") == answered * 2 / 3
    assert value("aios_request_latency_seconds_sum") == pytest.approx(0.02 * answered)
    assert value("aios_in_flight_limit") == 2 * 256
    assert value("aios_queue_waiting") == 4


def test_metrics_of_a_runtime_without_reports_parse(world: World) -> None:
    world.restart()
    families = list(text_string_to_metric_families(world.do("metrics")))
    assert "aios_requests" in {family.name for family in families}
    world.do("remove", name="loan")
    assert list(text_string_to_metric_families(world.do("metrics")))


def test_an_endpoint_is_ready_when_a_replica_runs_and_all_act_on_the_newest_plan(
    world: World,
) -> None:
    assert world.do("endpoint", name="loan")["ready"]
    world.do("deploy", version="loan:1", spec={"name": "loan", "deadline_s": 2})
    assert not world.do("endpoint", name="loan")["ready"], "no replica has the plan yet"
    world.replicas[1].silent = True
    world.tick()
    assert not world.do("endpoint", name="loan")["ready"], "one replica has not told"
    world.replicas[1].silent = False
    world.tick()
    assert world.do("endpoint", name="loan")["ready"]


def test_an_endpoint_whose_replicas_fell_silent_is_not_ready(world: World) -> None:
    world.clock.advance(10)
    view = world.do("endpoint", name="loan")
    assert (view["ready"], view["replicas"]) == (False, 0)


def test_an_endpoint_that_serve_does_not_run_is_pending(world: World) -> None:
    world.do("deploy", version="loan:2", spec={"name": "second"})
    view = world.do("endpoint", name="second")
    assert (view["status"], view["ready"], view["revision"]) == ("PENDING", False, 1)


def test_an_endpoint_tells_why_a_replica_refuses_its_plan(world: World) -> None:
    world.replicas[0].refuses = {1: "ArtifactRejected: digest differs"}
    world.do("deploy", version="loan:1", spec={"name": "loan", "deadline_s": 2})
    world.tick()
    view = world.do("endpoint", name="loan")
    assert (view["ready"], view["problem"]) == (False, "ArtifactRejected: digest differs")


def test_an_endpoint_shows_its_challenger_and_its_traffic(world: World) -> None:
    world.until(world.rollout(), stage="canary 20%")
    view = world.do("endpoints")[0]
    assert view["challenger"] == {"arm": "canary", "weight_fraction": 0.2, "version": 2}
    assert view["p50_s"] == pytest.approx(0.02)
    assert view["requests"] > 0
    status = world.do("status")
    assert [one["stage"] for one in status["rollouts"]] == ["canary 20%"]
    assert (status["models"], status["versions"]) == (1, 3)


def test_ps_has_a_row_for_every_process(world: World) -> None:
    world.until(world.rollout(), stage="canary 20%")
    world.tick(0)
    rows = world.do("ps")
    assert sorted((row["role"], row["name"], row["version"]) for row in rows[1:]) == [
        ("api", "aios--api", None),
        ("challenger", "loan", 2),
        ("endpoint", "loan", 1),
    ]
    assert rows[0]["role"] == "kernel"
    assert len({frozenset(row) for row in rows}) == 1, "all rows have the same columns"
    endpoint = next(row for row in rows if row["role"] == "endpoint")
    assert (endpoint["in_flight"], endpoint["revision"], endpoint["pid"]) == (3, 2, 4242)


def test_latency_of_the_fakes_is_readable() -> None:
    seen = Observations(ManualClock())
    seen.add(report(latency=LATENCY))
    latency = seen.totals("loan").latency
    assert latency is not None
    assert latency.count == 3


def test_what_broke_the_contract_is_in_monitor_and_metrics_at_once(world: World) -> None:
    told = {"income": {"missing": 120}, "age": {"out_of_range": 3}}
    world.kernel.report(report(at_s=world.clock.now_s(), violations=told))
    assert world.do("monitor", endpoint="loan")["refused"] == told
    lines = world.do("metrics").splitlines()
    labels = 'endpoint="loan",field="income",kind="missing"'
    assert f"aios_contract_violations_total{{{labels}}} 120.0" in lines
