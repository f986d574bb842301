"""Two results side by side: ratios with intervals, and what is not compared."""

import json
import re
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from bench_results import result, round_
from capacity_worlds import MACHINE, SimulatedEndpoint, measured

from aios.capacity.comparison import Ratio, compare, ratio, read_result
from aios.cli import benching, main
from aios.errors import UsageError
from benchmarks.capacity import cases
from benchmarks.latency import figures
from benchmarks.results import ResultFile
from benchmarks.suite import LEFT_OUT


def written(folder: Path, name: str, values: list[float], **machine: object) -> Path:
    folder = folder / name
    file = ResultFile(folder, "latency")
    file.run(machine={**MACHINE, **machine}, rounds=len(values))
    for value in values:
        file.add("figure", {"name": "requests/s", "value": value, "better": "higher"})
        file.add("figure", {"name": "p99, ms", "value": 1000 / value, "better": "lower"})
    return file.path


def test_a_ratio_is_that_of_geometric_means() -> None:
    found = ratio("x", "higher", [1.0, 4.0], [4.0, 16.0])
    assert found.middle == pytest.approx(4)
    assert found.low is not None
    assert found.low < 4 < (found.high or 0)
    alone = ratio("x", "higher", [1.0], [2.0, 3.0])
    assert alone.low is None
    assert alone.verdict(0.05) == "too few rounds"


def test_intervals_hold_what_they_promise() -> None:
    """95 of 100 hold the true ratio, of rounds that differ by chance alone."""
    random = np.random.default_rng(4)
    held = 0
    for _ in range(400):
        one, other = np.exp(random.normal(0, 0.3, (2, 4)))
        found = ratio("x", "higher", list(one), list(1.5 * other))
        held += (found.low or 0) <= 1.5 <= (found.high or 0)
    assert 0.92 <= held / 400 <= 0.985


@pytest.mark.parametrize(
    ("better", "low", "high", "verdict"),
    [
        ("higher", 1.1, 1.2, "better"),
        ("lower", 1.1, 1.2, "worse"),
        ("higher", 0.8, 0.9, "worse"),
        ("lower", 0.8, 0.9, "better"),
        ("higher", 0.97, 1.04, "no difference"),
        ("higher", 1.01, 1.2, "cannot tell"),
        ("lower", 0.3, 45.0, "cannot tell"),
    ],
)
def test_a_verdict_needs_the_whole_interval(better, low, high, verdict) -> None:
    assert Ratio("x", better, 1.0, low, high, (3, 3)).verdict(0.05) == verdict


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aios", "bench", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_what_got_worse_ends_with_1(capsys, tmp_path) -> None:
    before = str(written(tmp_path, "a", [100, 104, 98]))
    slower = str(written(tmp_path, "b", [70, 72, 69]))
    same = str(written(tmp_path, "c", [101, 97, 103]))
    code, said, _ = bench(capsys, "compare", before, slower)
    assert code == 1
    assert said.count("worse") >= 2
    assert "0.699" in said
    assert bench(capsys, "compare", before, same)[0] == 0
    assert bench(capsys, "compare", slower, before)[0] == 0, "better is no fault"
    assert bench(capsys, "compare", before, slower, "--tolerance", "0.6")[0] == 0


def test_different_machines_are_compared_only_by_force(capsys, tmp_path) -> None:
    before = str(written(tmp_path, "a", [100, 104, 98]))
    other = str(written(tmp_path, "b", [100, 104, 98], cores=64))
    code, _, beside = bench(capsys, "compare", before, other)
    assert (code, beside.count("\n")) == (2, 1), "worse is 1; what cannot be compared is 2"
    assert "different machines" in beside
    assert "cores 64" in beside
    assert bench(capsys, "compare", before, other, "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "ends", "words"),
    [
        (["nothing"], 1, "no benchmark 'nothing'; there are: endpoint"),
        (["compare", "one.jsonl"], 2, "takes two results"),
        (["compare", "absent.jsonl", "absent.jsonl"], 2, "cannot be read"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments: list[str], ends: int, words: str) -> None:
    code, said, beside = bench(capsys, *arguments)
    assert (code, said, beside.count("\n")) == (ends, "", 1)
    assert words in beside


@pytest.mark.parametrize(
    ("better", "before", "after", "verdict"),
    [
        ("higher", [100.0, 104.0], [0.0, 0.0], "worse"),
        ("higher", [100.0, 104.0], [0.0, 100.0], "worse"),
        ("higher", [0.0, 0.0], [100.0, 104.0], "better"),
        ("lower", [0.0, 0.0], [0.0, 1.0], "worse"),
        ("lower", [3.0, 0.0], [0.0, 0.0], "better"),
        ("lower", [0.0, 0.0], [0.0, 0.0], "no difference"),
    ],
)
def test_a_figure_with_a_zero_is_judged_by_its_means(
    better: Any, before: list[float], after: list[float], verdict: str
) -> None:
    assert ratio("failed", better, before, after).verdict(0.05) == verdict


def test_what_is_missing_is_worse(capsys, tmp_path) -> None:
    before = written(tmp_path, "a", [100, 104, 98])
    lines = before.read_text().splitlines()
    name = json.loads(next(line for line in lines if '"figure"' in line))["name"]
    less = tmp_path / "less.jsonl"
    kept = [line for line in lines if f'"{name}"' not in line]
    less.write_text("\n".join(kept) + "\n")
    code, said, _ = bench(capsys, "compare", str(before), str(less))
    assert code == 1, "a gate must not pass since nothing is left to compare"
    assert "missing: worse" in said
    code, said, _ = bench(capsys, "compare", str(less), str(before))
    assert (code, "new" in said) == (0, True)


def test_requests_that_fail_are_a_figure(tmp_path) -> None:
    paths = [
        result(tmp_path / str(failed), "endpoint", *(round_("aios", 100, failed=failed),) * 2)
        for failed in (0, 100)
    ]
    found = compare(*(read_result(path) for path in paths), tolerance=0.05)
    assert found.worse == ["aios, 16 connections, side by side: failed"]


def test_what_cannot_be_told_is_said_above(tmp_path) -> None:
    one = read_result(written(tmp_path, "a", [100.0, 30.0]))
    other = read_result(written(tmp_path, "b", [50.0, 90.0]))
    assert "figures only more rounds would tell" in repr(compare(one, other, tolerance=0.05))


@pytest.mark.parametrize("text", ["x", '{"kind": "figure"}', "[1]", ""])
def test_another_file_is_no_result(tmp_path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(UsageError, match=r"no line of|no result of"):
        read_result(tmp_path / "file")


def test_results_of_two_questions_are_not_compared(tmp_path) -> None:
    one = read_result(written(tmp_path, "a", [1.0]))
    committed = next((Path(benching._folder()) / "results").glob("endpoint-*.jsonl"))
    other = read_result(committed)
    assert any("FastAPI" in name for name, _ in other.figures), "its rounds are figures"
    with pytest.raises(UsageError, match="is of 'latency'"):
        compare(one, other, tolerance=0.05)
    assert compare(other, other, tolerance=0.05).worse == []


def test_every_benchmark_is_listed_with_its_question(capsys) -> None:
    code, said, _ = bench(capsys)
    assert code == 0
    lines = said.splitlines()
    names = [*benching.CATALOGUE, *benching.ABOUT, "compare"]
    assert [line.split()[0] for line in lines] == names
    assert all(len(line.split()) > 3 for line in lines), "each has a docstring and a file"


def test_every_benchmark_has_a_short_version_and_writes_a_result() -> None:
    """So that `make bench` runs it and `compare` works on it."""
    lacking = []
    for name, module in benching.CATALOGUE.items():
        text = (benching._folder() / f"{module}.py").read_text()
        short = "arguments(parser" in text or '"--short"' in text or name in LEFT_OUT
        told = re.search(r'figure\(|"figure"|"round"', text)
        if not (short and "ResultFile(" in text and told):
            lacking.append(name)
    assert lacking == []


def test_an_installed_package_without_benchmarks_says_so(capsys, monkeypatch) -> None:
    monkeypatch.setattr(benching, "find_spec", lambda name: None)
    code, _, beside = bench(capsys, "latency")
    assert code == 1
    assert "part of the project's checkout" in beside


def test_a_benchmark_runs_with_its_own_arguments(capfd) -> None:
    """In a process of its own, whose exit code is the command's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aios", "bench", "metering", "--nodes", "many"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert "--nodes" in capfd.readouterr().err


def test_a_round_of_latency_comes_to_figures() -> None:
    found = figures(measured(SimulatedEndpoint(), 0.06))
    assert {one["name"]: one["better"] for one in found} == {
        "most requests/s": "higher",
        "requests/s within the budget": "higher",
        "p50 at a light load, ms": "lower",
        "p99 at a light load, ms": "lower",
    }
    assert found[0]["value"] == pytest.approx(250)
    line = orjson.loads(orjson.dumps(found[1]))
    assert line["value"] > 100


def test_predictions_are_held_against_a_simulation() -> None:
    found = list(islice(cases(8_000, seed=3), 8))
    assert [case.replicas for case in found] == [1, 1, 2, 2, 2, 2, 2, 2]
    assert {case.dispatch for case in found} == {"one line", "least busy", "at random"}
    for case in found:
        assert abs(case.error) < 0.35
    own, together = found[4], found[2]
    assert own.formula_p99 > together.formula_p99
