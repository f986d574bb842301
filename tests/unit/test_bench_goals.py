"""The project's goals: one catalogue, and how they stand by the newest results of a machine."""

import sys
from pathlib import Path

import pytest
from bench_results import HERE, figure, goal, result

from aios.cli.benching import CATALOGUE
from benchmarks import goals
from benchmarks.figures import Spread
from benchmarks.goals import AIMS, Standings, collect
from benchmarks.reading import every

VERDICT = "drift verdict on 200 features"
RATE = "aios vs. FastAPI, req/s"


def standings(folder: Path, here: dict[str, object] = HERE) -> Standings:
    return collect(every(folder)[0], here)


def rows(found: Standings, text: str) -> list[list[str]]:
    return [goals.row(one, HERE["commit"]) for one in found.all if goals.row(one)[0] == text]


def test_every_aim_has_one_bound_and_a_command_that_exists() -> None:
    known = (Path(__file__).parents[2] / "Makefile").read_text()
    texts = [aim.text for aim in AIMS]
    assert len(texts) == len(set(texts))
    for aim in AIMS:
        assert (aim.at_least is None) != (aim.at_most is None), aim
        program, what, *more = aim.command.split()
        if program == "aios":
            assert what == "bench"
            assert more[0] in {*CATALOGUE, "peers", "scaling", "throughput"}
        elif program == "make":
            assert f"\n{what}:" in known
        else:
            assert (Path(__file__).parents[2] / what).exists()


def test_the_newest_result_that_tells_of_a_goal_counts(tmp_path) -> None:
    result(tmp_path, "drift", goal(VERDICT, 3.0), minute=1)
    result(tmp_path, "drift", goal(VERDICT, 0.5), minute=7, short=True)
    result(tmp_path, "drift", figure("report, s", 1.0), minute=9)
    (row,) = rows(standings(tmp_path), VERDICT)
    assert row == [VERDICT, "", "<= 1 s", "0.50 (0.45-0.55) s", "met", "drift at abc123, short"]


def test_results_of_other_machines_do_not_count(tmp_path) -> None:
    result(tmp_path, "drift", goal(VERDICT, 0.5), machine={**HERE, "cores": 64})
    found = standings(tmp_path)
    (row,) = rows(found, VERDICT)
    assert row[3:] == ["", "not measured", "aios bench drift"]
    assert found.count("met") == 0


def test_each_load_stands_for_itself(tmp_path) -> None:
    result(tmp_path, "endpoint", goal(RATE, 0.8, 1), goal(RATE, 1.2, 16))
    result(tmp_path, "endpoint", goal(RATE, 1.3, 16), minute=5)
    found = rows(standings(tmp_path), RATE)
    assert [(row[1], row[3], row[4]) for row in found] == [
        ("1", "0.80 (0.72-0.88)x", "missed"),
        ("16", "1.30 (1.17-1.43)x", "met"),
    ]


def test_todays_bounds_judge_and_not_those_of_the_result(tmp_path) -> None:
    result(tmp_path, "drift", goal(VERDICT, 2.0, at_most=5.0, met=True))
    (row,) = rows(standings(tmp_path), VERDICT)
    assert (row[2], row[4]) == ("<= 1 s", "missed")


def test_a_goal_that_only_a_result_knows_is_told_too(tmp_path) -> None:
    result(tmp_path, "scaling", goal("speed of light", 0.9, at_least=0.8))
    (row,) = rows(standings(tmp_path), "speed of light")
    assert row[2:] == [">= 0.8x", "0.90 (0.81-0.99)x", "met", "scaling at abc123"]


@pytest.mark.parametrize(
    ("text", "met", "missed"),
    [
        ("aios, 10 % canary vs. BentoML, 2 workers, req/s", 4.1, 3.9),
        ("p99 that the planner expects beside the measured one, 1 to 2 replicas", 1.2, 1.3),
        ("minilm, batch 8: endpoint / engine, records/s", 0.96, 0.94),
    ],
)
def test_goals_of_several_forms_stand_under_one_aim(tmp_path, text, met, missed) -> None:
    for minute, (value, verdict) in enumerate([(met, "met"), (missed, "missed")]):
        result(tmp_path, "peers", goal(text, value, 16), minute=minute)
        found = standings(tmp_path)
        assert len(found.all) == len(AIMS), "none more and none twice"
        assert rows(found, text)[0][4] == verdict


def test_another_commit_is_marked(tmp_path) -> None:
    result(tmp_path, "drift", goal(VERDICT, 0.5), machine={**HERE, "commit": "old"})
    found = standings(tmp_path)
    assert rows(found, VERDICT)[0][-1] == "drift at old*"
    assert "! *: measured at another commit than abc123" in repr(found)


def test_doubts_of_what_was_measured_stand_above(tmp_path) -> None:
    result(tmp_path, "drift", goal(VERDICT, 0.5), machine={**HERE, "load_average_1min": 7.0})
    assert "! drift: the machine was busy: load average 7 on 4 cores" in repr(standings(tmp_path))


def test_a_benchmark_takes_bounds_from_the_catalogue() -> None:
    found = goals.goal(VERDICT, [0.5, 1.5, 2.0])
    assert (found.at_most, found.unit, found.met) == (1.0, " s", False)
    assert found.ratio == Spread(1.5, 0.5, 2.0)
    with pytest.raises(ValueError, match="values to unpack"):
        goals.goal("no such goal", [1.0])


def test_the_command_says_what_is_missing_and_what_was_no_result(tmp_path, capsys) -> None:
    (tmp_path / "broken.jsonl").write_text("x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["goals", str(tmp_path)])
        goals.main()
    said = capsys.readouterr()
    assert f"0 met, 0 missed, {len(AIMS)} not measured" in said.out
    assert "aios bench flows --postgres URL" in said.out
    assert "left out" in said.err
