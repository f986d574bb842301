"""The benchmark's pure parts: percentiles, ratios, goals, tables, and reading answers."""

import argparse
import doctest
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import UsageError
from benchmarks import drift, drift_streams, figures, flows, plots, shift, suite
from benchmarks.commands import arguments, begin, count, positive, run
from benchmarks.endpoint import goals
from benchmarks.figures import Goal, Round, Spread, goals_table, percentile, ratios, table
from benchmarks.peers import AIOS_CANARY, BARE, FASTAPI, HAND_MADE
from benchmarks.results import ResultFile


def a_round(contestant="aios", connections=1, requests=1000, group="side by side", **more):
    fields = {
        "failed": 0,
        "window_s": 2.0,
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "p99_ms": 3.0,
        "cpu_s": {"replica": 0.4, "haproxy": 0.1},
        "canary_fraction": 0.0,
        "client_cpu_fraction": 0.1,
        **more,
    }
    return Round(contestant, connections, group, requests, **fields)


def test_percentiles_are_nearest_rank():
    values = list(range(1, 101))
    assert [percentile(values, q) for q in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([7], 0.01) == 7
    assert percentile([1, 2], 0.0) == 1


@given(st.lists(st.integers(0, 10**6), min_size=1), st.floats(0.001, 1.0))
def test_a_percentile_is_the_smallest_value_that_covers_its_share(values, fraction):
    ordered = sorted(values)
    found = percentile(ordered, fraction)
    assert sum(value <= found for value in ordered) >= fraction * len(ordered) - 1e-9
    below = sum(value < found for value in ordered)
    assert below < fraction * len(ordered) + 1e-9


def test_no_values_have_neither_percentile_nor_median():
    with pytest.raises(UsageError, match="percentile"):
        percentile([], 0.5)
    with pytest.raises(UsageError, match="median"):
        Spread.of([])


def test_a_round_gives_rates_and_cpu_of_all_roles():
    entry = a_round()
    assert entry.requests_per_s == 500
    assert entry.cpu_s_per_1000 == pytest.approx(0.5)


def test_ratios_pair_neighbouring_rounds():
    rounds = [
        a_round("a", requests=100),
        a_round("b", requests=50),
        a_round("b", requests=400),
        a_round("a", requests=400),
        a_round("a", connections=16, requests=7),
    ]
    found = ratios(rounds, "a", "b", 1, "requests_per_s")
    assert (found.least, found.middle, found.most) == (1.0, 1.5, 2.0)
    assert ratios(rounds, "a", "b", 16, "requests_per_s") is None
    assert ratios(rounds, "a", "c", 1, "requests_per_s") is None


def test_ratios_compare_only_what_ran_side_by_side():
    rounds = [
        a_round("a", requests=100, group="first"),
        a_round("a", requests=300, group="second"),
        a_round("b", requests=100, group="second"),
    ]
    assert ratios(rounds, "a", "b", 1, "requests_per_s") == Spread(3.0, 3.0, 3.0)


def test_goals_are_judged_by_the_median_and_their_side():
    spread = Spread(1.1, 0.9, 1.3)
    assert Goal("x", 1, spread, at_least=1.0).met
    assert not Goal("x", 1, spread, at_least=1.2).met
    assert Goal("x", 1, spread, at_most=1.15).met
    assert not Goal("x", 1, spread, at_most=1.05).met


def test_the_design_goals_come_out_of_the_rounds():
    rounds = [
        a_round(AIOS_CANARY, requests=2000, cpu_s={"replica": 1.2}),
        a_round(FASTAPI, requests=1000),
        a_round(BARE, requests=2000, cpu_s={"replica": 1.0}),
        a_round(AIOS_CANARY, requests=2000, group="second"),
        a_round(HAND_MADE, requests=100, group="second"),
    ]
    found = {goal.text: goal for goal in goals(rounds)}
    assert found[f"{AIOS_CANARY} vs. FastAPI, req/s"].met
    assert not found[f"{AIOS_CANARY} vs. bare raw ASGI, CPU"].met
    assert found[f"{AIOS_CANARY} vs. hand-made canary, req/s"].ratio.middle == 20
    assert len(found) == 3, "goals without rounds are left out"


def test_the_table_has_a_row_per_contestant_and_load():
    rounds = [a_round(), a_round(requests=3000), a_round(connections=16), a_round("FastAPI")]
    lines = table(rounds).splitlines()
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert "| aios | 1 | 1,000 (500-1,500) |" in lines[2]
    assert "replica 0.200, haproxy 0.050" in lines[2]
    assert lines[2].endswith("| 4,000 | 0 |")


def test_the_goals_table_says_met_and_missed():
    text = goals_table(
        [
            Goal("speed", 16, Spread(1.1, 1.0, 1.2), at_least=1.0),
            Goal("cost", 1, Spread(1.3, 1.2, 1.4), at_most=1.15),
        ]
    )
    assert "| speed | 16 | >= 1x | 1.10 (1.00-1.20)x | met |" in text
    assert "| cost | 1 | <= 1.15x | 1.30 (1.20-1.40)x | MISSED |" in text


# -- drift ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alarm", "change", "verdict"),
    [
        (120, 100, ("found", 20)),
        (100, 100, ("found", 0)),
        (99, 100, ("false", None)),
        (None, 100, ("silent", None)),
        (5, None, ("false", None)),
        (None, None, ("silent", None)),
    ],
)
def test_an_alarm_before_the_change_is_false(alarm, change, verdict):
    assert drift_streams.judged(alarm, change) == verdict


def test_a_cell_counts_what_was_found_and_what_was_false():
    verdicts = [("found", 10), ("found", 30), ("false", None), ("silent", None)]
    assert drift_streams.cell(verdicts, changed=True) == "2 of 4 after 20; 1 false"
    assert drift_streams.cell(verdicts, changed=False) == "1 of 4 false"
    assert drift_streams.cell([("silent", None)], changed=True) == "0 of 1; 0 false"


def test_replays_change_where_they_say_and_nowhere_else():
    random = np.random.default_rng(1)
    inputs = random.normal(size=(45_312, 6))
    labels = (inputs[:, 0] > 0).astype(float)
    inputs[: drift_streams.JOINED, 5] = 0.0
    market = drift_streams.replay("market", inputs, labels, random)
    before, after = np.split(market.inputs[:, 5], [market.change])
    assert not before.any()
    assert after.all()
    flipped = drift_streams.replay("flip 20 %", inputs, labels, random)
    before, after = np.split(flipped.errors, [flipped.change])
    assert before.mean() < 0.02
    assert after.mean() == pytest.approx(0.2, abs=0.03)
    still = drift_streams.replay("nothing", inputs, labels, random)
    assert still.change is None
    assert len(still.labels) == drift_streams.BEFORE + drift_streams.AFTER
    error_drift = drift_streams.DETECTORS["aios: error drift"]
    assert next(error_drift(flipped)) >= flipped.change
    assert list(error_drift(still)) == []


def test_the_report_tells_goals_met_and_missed_and_what_was_left_out():
    side = {"seconds": 2.0, "cpu_s": 1.0, "peak_mib": 900.0, "before_mib": 800.0, "drifted": 3}
    slow = {**side, "seconds": 20.0}
    found = {"rows": 1000, "aios": side, "Evidently, preset": slow}
    assert "aios takes 0.1x (goal 1x: met)" in drift.told_report(found)
    found = {"rows": 1000, "aios": slow, "Evidently, preset": side}
    assert "aios takes 10x (goal 1x: MISSED)" in drift.told_report(found)
    found = {"rows": 1000, "aios": side, "left_out": "no network"}
    assert "Evidently is left out: no network" in drift.told_report(found)


def test_what_drift_finds_comes_to_figures_and_goals():
    side = {"seconds": 2.0, "cpu_s": 1.0, "peak_mib": 900.0, "before_mib": 800.0, "drifted": 3}
    found = {"rows": 1_000_000, "aios": side, "Evidently, preset": {**side, "seconds": 4.0}}
    assert drift.figures("report", found) == {
        "report of aios, s": [2.0],
        "report of Evidently, preset, s": [4.0],
    }
    (goal,) = drift.goals("report", found)
    assert (goal.ratio.middle, goal.met) == (0.5, True)
    assert drift.goals("report", {**found, "rows": 1000}) == [], "that is another question"
    assert drift.goals("report", {"left_out": "no network"}) == []
    on, off = [12.0, 11.0, 13.0], [10.0, 10.0, 10.0]
    watched = {"serve_us": {"on": on, "off": off}, "http_us": {"on": on, "off": off}}
    (goal,) = drift.goals("request", watched)
    assert goal.ratio.middle == pytest.approx(20)
    assert not goal.met
    assert len(drift.figures("request", watched)) == 4
    (goal,) = drift.goals("verdict", {"looks_s": [0.2, 0.3]})
    assert goal.met


@pytest.mark.parametrize("module", [drift, drift_streams, figures, plots, shift, suite])
def test_examples_in_docstrings_are_true(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert found.failed == 0


# -- commands ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "rounds", "seconds"),
    [([], 3, 4.0), (["--short"], 1, 0.5), (["--short", "--rounds", "7"], 7, 0.5)],
)
def test_short_is_what_was_not_typed(typed, rounds, seconds):
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--seconds", type=positive, default=4.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", *typed])
        found = arguments(parser, {"rounds": 1, "seconds": 0.5})
    assert (found.rounds, found.seconds, found.short) == (rounds, seconds, "--short" in typed)


@pytest.mark.parametrize(
    ("kind", "text"), [(count, "0"), (count, "-1"), (positive, "0"), (positive, "nan")]
)
def test_a_number_that_measures_nothing_is_refused(kind, text):
    with pytest.raises(argparse.ArgumentTypeError):
        kind(text)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no GPU here"), "aios: no GPU here"),
        (KeyboardInterrupt(), 130),
        (SystemExit(2), 2),
    ],
)
def test_what_was_broken_off_is_no_result(error, code, tmp_path, monkeypatch):
    monkeypatch.setattr(ResultFile, "made", [])
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def main():
        ResultFile(tmp_path, "bench").run(machine={})
        raise error

    with pytest.raises(SystemExit) as ended:
        begin(main)
    assert ended.value.code == code
    assert [path.suffix for path in tmp_path.iterdir()] == [".unfinished"]


def test_what_ended_well_is_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(ResultFile, "made", [])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        begin(lambda: ResultFile(tmp_path, "bench").run(machine={}))
    assert ended.value.code == 0
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]


def test_a_command_that_fails_is_told_in_its_last_words():
    broken = [sys.executable, "-c", "import sys; sys.exit('first\\nlast words')"]
    with pytest.raises(UsageError, match="no luck: last words"):
        run(broken, "no luck")


def test_ratios_are_above_one_where_ours_is_better():
    ours = {"flows_per_s": 90.0, "cpu_ms": 5.0, "step_ms": 8.0}
    found = flows.ratios(ours, {"flows_per_s": 100.0, "step_ms": 10.0})
    assert found == {"flows_per_s": pytest.approx(0.9), "step_ms": pytest.approx(1.25)}


def test_results_of_one_second_or_in_no_folder_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        ResultFile(tmp_path / "file", "audit")
    first = ResultFile(tmp_path, "audit")
    first.path.rename(tmp_path / "kept")
    for name in {time.strftime("%Y%m%d-%H%M%S", time.localtime(time.time() + s)) for s in range(5)}:
        (tmp_path / f"audit-{name}.jsonl").touch()
    with pytest.raises(UsageError, match="written by another run"):
        ResultFile(tmp_path, "audit")
    ResultFile.made.clear()
