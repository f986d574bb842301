"""The benchmarks' report: what is in it, what is said above it, and pictures that are pictures."""

import math
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import orjson
import pytest
from bench_results import HERE, figure, goal, measurement, result, round_
from capacity_worlds import SimulatedEndpoint, measured

from aios.capacity.generator import new_histogram
from aios.capacity.measurement import Measurement
from aios.errors import UsageError
from benchmarks import plots, report
from benchmarks.figures import Round, Spread, table_rows
from benchmarks.markdown import about
from benchmarks.reading import Curve, every, newest, read

FREE = plots.Price()
PNG = b"\x89PNG\r\n\x1a\n"


def reported(tmp_path: Path, *paths: Path, price: plots.Price = FREE) -> dict[str, bytes]:
    """What a report of these writes, by the files' names."""
    results, wrong = report.results_of(paths)
    return {
        path.name: path.read_bytes()
        for path in report.write(results, tmp_path / "out", price, wrong)
    }


@pytest.fixture(scope="module")
def latency(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measurement(tmp_path_factory.mktemp("latency"))


def test_a_measurement_is_drawn_by_load_by_tail_and_by_cost(tmp_path, latency) -> None:
    found = reported(tmp_path, latency, price=plots.Price(0.5, "EUR"))
    pictures = [f"report-latency-{kind}.png" for kind in ("load", "tail", "cost")]
    assert sorted(found) == sorted(["report.html", "report.md", *pictures])
    assert all(found[name].startswith(PNG) for name in pictures)
    page = found["report.html"].decode()
    assert page.count("<svg") == 3
    assert "http://" not in page.replace("http://www.w3.org", ""), "it needs nothing but itself"
    for words in ("budget of the p99, 60 ms", "knee, ", "99.9 %", "a node at 0.5 EUR an hour"):
        assert words in page
    knee = read(latency).measurements[0].knee_per_s
    assert f"knee, {knee:,.0f}/s" in page
    assert "| most requests/s | 250 | higher | 1 |" in found["report.md"].decode()


def test_without_a_price_nodes_are_told(tmp_path, latency) -> None:
    page = reported(tmp_path, latency)["report.html"].decode()
    assert "nodes against rate" in page
    assert "an hour" not in page


def test_a_saved_measurement_alone_is_reported(tmp_path, latency) -> None:
    found = reported(tmp_path, latency.with_name("measured.json"))
    assert found["report-measurement-load.png"].startswith(PNG)


def test_a_budget_that_no_machine_keeps_has_words_and_no_cost(tmp_path, latency) -> None:
    slow = Measurement.read(latency.with_name("measured.json"))
    slow.model_copy(update={"p99_s": 0.001}).save(tmp_path / "slow.json")
    found = reported(tmp_path, tmp_path / "slow.json")
    assert "report-measurement-cost.png" not in found
    assert "cannot be reached with any number of machines" in found["report.html"].decode()


def test_costs_are_those_of_the_planner() -> None:
    found = measured(SimulatedEndpoint(most=2_000), 0.06)
    plans = plots.plans(found, plots.Price(0.1))
    assert all(one.month_cost == pytest.approx(one.nodes * 73) for one in plans)
    assert plans[0].nodes == 2, "one and a spare"
    assert plans[-1].demand.rate_per_s == pytest.approx(500 * plans[0].demand.rate_per_s)
    many = plans[-1]
    assert many.nodes == 1 + math.ceil(many.replicas / 3), "three on each node of four cores"


def test_figures_have_their_median_and_spread(tmp_path) -> None:
    lines = [figure("events/s", value, number=n) for n, value in enumerate([100, 300, 200])]
    note = {"kind": "note", "text": "the peer is left out: no network"}
    path = result(tmp_path / "r", "events", *lines, note, seed=7, short=True)
    found = reported(tmp_path, path)
    assert "| events/s | 200 (100-300) | higher | 3 |" in found["report.md"].decode()
    page = found["report.html"].decode()
    assert '<td class="number">200 (100-300)</td>' in page
    for text in (found["report.md"].decode(), page):
        assert "seed 7, short. the peer is left out: no network" in text
        assert "abc123" in text
        assert "ray 2.60.0" in text
        assert "of the tests" in text
    assert "How many events per second come from Kafka" in page, "the question"


def test_rounds_are_a_table_by_contestant(tmp_path) -> None:
    path = result(tmp_path / "r", "endpoint", round_("aios", 1000), round_("aios", 3000))
    found = reported(tmp_path, path)
    assert "| aios | 16 | 1,000 (500-1,500) |" in found["report.md"].decode()
    assert "<td>aios</td>" in found["report.html"].decode()
    assert "requests_per_s" not in found["report.md"].decode(), "not once more as figures"


def test_goals_met_and_missed_are_told_and_drawn(tmp_path) -> None:
    fast, slow = "drift verdict on 200 features", "retrain of 20 trials vs. plain Optuna"
    path = result(tmp_path / "r", "drift", goal(fast, 0.5), goal(slow, 2.0))
    found = reported(tmp_path, path)
    text = found["report.md"].decode()
    assert f"| {fast} |  | <= 1 s | 0.50 (0.45-0.55) s | met | drift at abc123 |" in text
    assert f"| {slow} |  | <= 1.3x | 2.00 (1.80-2.20)x | missed | drift at abc123 |" in text
    assert "1 goals met, 1 missed" in text
    page = found["report.html"].decode()
    assert '<b class="good">met</b>' in page
    assert '<b class="bad">missed</b>' in page
    assert found["report-goals-all.png"].startswith(PNG)
    assert "| aios bench flows --postgres URL | flows begun/s vs. bare DBOS" in text


@pytest.mark.parametrize(
    ("machine", "run", "lines", "said"),
    [
        ({"commit": "abc123+"}, {}, [], "the tree had changes beyond commit abc123"),
        ({"commit": None}, {}, [], "of no commit"),
        ({"load_average_1min": 4.5}, {}, [], "the machine was busy: load average 4.5 on 4 cores"),
        (
            {"load_average_1min": 9.0},
            {"suite": {"load_average_1min": 0.2, "others_cores": 2.5}},
            [],
            "the machine was busy: others took 2.5 of 4 cores",
        ),
        (
            {},
            {},
            [round_("FastAPI", 10, client_cpu_fraction=0.97)],
            "the load generator could not keep up: FastAPI: it used 97% of a core",
        ),
        (
            {},
            {},
            [{"kind": "point", "name": "MiniLM", "held_back": "it sent late"}],
            "the load generator could not keep up: MiniLM: it sent late",
        ),
        (
            {},
            {},
            [{"kind": "case", "held_back": f"it sent {n} ms late"} for n in range(3)],
            "the load generator could not keep up: it sent 0 ms late (and 2 times more)",
        ),
    ],
)
def test_what_speaks_against_a_result_is_said_above_all(
    tmp_path, machine, run, lines, said
) -> None:
    path = result(tmp_path / "r", "endpoint", *lines, machine={**HERE, **machine}, **run)
    found = reported(tmp_path, path)
    assert f"> **endpoint: {said}" in found["report.md"].decode()
    page = found["report.html"].decode()
    assert page.index(f'font-weight:600">endpoint: {said}') < page.index("<h2>")


def test_a_sound_result_has_no_doubts(tmp_path) -> None:
    suite = {"load_average_1min": 0.2, "others_cores": 0.1}
    busy = {**HERE, "load_average_1min": 9.0}
    path = result(tmp_path / "r", "events", figure("x", 1.0), machine=busy, suite=suite)
    assert read(path).doubts == [], "what ran before in the same suite is in the load average"
    assert "> **" not in reported(tmp_path, path)["report.md"].decode()


def test_a_measurement_by_a_generator_that_was_too_slow_is_said(tmp_path, latency) -> None:
    saved = Measurement.read(latency.with_name("measured.json"))
    held = saved.points[0].model_copy(update={"held_back": "it used 99% of a core"})
    points = (held, *saved.points[1:])
    saved.model_copy(update={"points": points}).save(tmp_path / "held.json")
    (doubt,) = read(tmp_path / "held.json").doubts
    assert doubt.startswith("the load generator could not keep up at 1 of 5 rates")
    assert doubt.endswith("it used 99% of a core")


def test_different_machines_and_commits_are_said(tmp_path) -> None:
    other = {**HERE, "cores": 64, "commit": "def456"}
    paths = [
        result(tmp_path / "r", "events", figure("x", 1.0)),
        result(tmp_path / "r", "audit", goal("drift verdict on 200 features", 2.0), machine=other),
    ]
    text = reported(tmp_path, *paths)["report.md"].decode()
    assert "results of different machines stand side by side" in text
    assert "results of different commits stand side by side" in text
    assert "## Goals on of the tests, 64 cores" in text


def test_of_a_folder_the_newest_of_each_is_taken(tmp_path) -> None:
    folder = tmp_path / "r"
    result(folder, "events", figure("x", 1.0), minute=5)
    result(folder, "events", figure("x", 2.0), minute=10)
    result(folder, "events", figure("x", 3.0), minute=1)
    result(folder, "throughput", figure("x", 4.0), device="cpu")
    result(folder, "throughput", figure("x", 5.0), minute=3, device="cuda")
    (folder / "broken.jsonl").write_text("x")
    (folder / "events-99.jsonl.unfinished").write_text("x")
    found, wrong = every(folder)
    values = [next(iter(one.figures.values())) for one in newest(found)]
    assert sorted(values) == [(2.0,), (4.0,), (5.0,)]
    assert len(wrong) == 1
    text = reported(tmp_path, folder)["report.md"].decode()
    assert f"> **left out: {folder}/broken.jsonl, line 1" in text


@pytest.mark.parametrize("lines", ["x", "", '{"kind": "run", "benchmark": "a", "machine": {}}'])
def test_a_file_that_is_no_result_is_refused(tmp_path, lines) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text(lines)
    with pytest.raises(UsageError, match=r"file\.jsonl"):
        read(path)


def test_a_folder_without_results_says_how_to_make_some(tmp_path) -> None:
    with pytest.raises(UsageError, match="aios bench all --short"):
        report.results_of([tmp_path])


# -- pictures ---------------------------------------------------------------------------


def test_the_tail_is_of_all_requests_and_failures_never_end() -> None:
    took = new_histogram()
    for ms in range(1, 901):
        took.record_value(1000 * ms)
    shares, values_ms = plots.tail(Curve("x", None, took.encode().decode(), failed=100))
    at = dict(zip(np.round(shares, 4), values_ms, strict=False))
    assert at[0.5] == pytest.approx(500, rel=2e-3)
    assert at[0.9] == pytest.approx(900, rel=2e-3)
    assert max(shares) == pytest.approx(0.9), "the last tenth failed"
    sound = plots.tail(Curve("x", None, took.encode().decode()))
    assert max(sound[0]) == pytest.approx(899 / 900)


def test_histograms_of_rounds_are_added_up(tmp_path) -> None:
    lines = []
    for ms in (1, 3):
        took = new_histogram()
        for _ in range(50):
            took.record_value(1000 * ms)
        hdr = took.encode().decode()
        lines.append({"kind": "histogram", "name": "MiniLM", "rate_per_s": 10.0, "hdr": hdr})
    path = result(tmp_path / "r", "throughput", *lines)
    (curve,) = read(path).curves
    shares, values_ms = plots.tail(curve)
    at = dict(zip(np.round(shares, 4), values_ms, strict=False))
    assert at[0.5] == pytest.approx(1, rel=2e-3)
    assert max(values_ms) == pytest.approx(3, rel=2e-3)
    found = reported(tmp_path, path)
    assert found["report-throughput-latencies-1.png"].startswith(PNG)
    assert "MiniLM, 10/s" in found["report.html"].decode()


def test_more_curves_than_can_be_told_apart_are_several_pictures(tmp_path) -> None:
    took = new_histogram()
    took.record_value(1000)
    hdr = took.encode().decode()
    names = [f"model {n}" for n in range(plots.MOST_CURVES + 1)]
    lines = [{"kind": "histogram", "name": name, "rate_per_s": None, "hdr": hdr} for name in names]
    found = reported(tmp_path, result(tmp_path / "r", "throughput", *lines))
    pages = [name for name in found if "latencies" in name]
    assert pages == [f"report-throughput-latencies-{n}.png" for n in (1, 2)]
    assert all(name in found["report.html"].decode() for name in names)


def test_a_rate_that_failed_leaves_a_gap_in_the_picture(latency) -> None:
    saved = Measurement.read(latency.with_name("measured.json"))
    failed = saved.points[-1].model_copy(update={"p99_s": None, "held_back": "it was late"})
    figure_ = plots.load([saved.model_copy(update={"points": (*saved.points[:-1], failed)})])
    p99 = next(line for line in figure_.axes[0].lines if line.get_label() == "p99")
    assert sum(math.isnan(value) for value in p99.get_ydata()) == 1
    assert plots.load([saved, saved]).axes[0].get_legend() is not None


# -- the command ------------------------------------------------------------------------


def test_the_command_prints_the_table_and_says_what_it_wrote(tmp_path, latency, capsys) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report", str(latency), "--out", str(out), "--price", "0.1"])
        report.main()
    said = capsys.readouterr()
    assert said.out.startswith("# Benchmarks")
    assert said.out.strip() == (out / "report.md").read_text().strip()
    assert f"written: {out / 'report.html'}" in said.err
    assert orjson.loads((latency.with_name("measured.json")).read_bytes())["format"]


def test_a_saved_measurement_is_told_with_its_command_and_doubts(tmp_path, latency) -> None:
    told = about(read(next(latency.parent.glob("*.json"))))
    assert told.startswith("`aios plan`, ")
    assert "P99s predicted from the other points are off by" in told
    [path] = latency.parent.glob("*.json")
    bare = Measurement.read(path).model_copy(update={"points": ()})
    bare.save(tmp_path / "bare.json")
    assert about(read(tmp_path / "bare.json")).count("othing checks the formula") == 1


def test_what_was_broken_off_is_refused_and_what_was_measured_so_little_keeps_its_digits(
    tmp_path,
) -> None:
    broken = result(tmp_path, "scaling", figure("cpu, s", 0.00158)).rename(
        tmp_path / "s.unfinished"
    )
    with pytest.raises(UsageError, match="broken off"):
        read(broken)
    assert str(Spread.of([0.00158])) == "0.00158"


def test_who_ran_in_two_groups_is_told_with_its_group() -> None:
    known = {field.name for field in fields(Round)}
    one = {name: value for name, value in round_("aios", 100).items() if name in known}
    rounds = [Round(**{**one, "group": group}) for group in ("a", "b")]
    assert [row[0] for row in table_rows(rounds)] == ["aios (a)", "aios (b)"]
    assert [row[0] for row in table_rows(rounds[:1])] == ["aios"]
