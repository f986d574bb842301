"""`aios plan` as typed: an answer from a file, and one line for whatever is wrong."""

import json
import os
import sys
from pathlib import Path

import pytest
from capacity_worlds import MACHINE, SimulatedEndpoint, measured

from aios.capacity import machine
from aios.cli import main
from aios.cli.planning import read_records
from aios.errors import UsageError


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AIOS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AIOS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measurement of this machine, with a budget of 60 ms."""
    here = {**machine.describe(), "load_average_1min": 0.0}
    path = tmp_path_factory.mktemp("measured") / "loan.json"
    measured(SimulatedEndpoint(), 0.06, machine=here).save(path)
    return path


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of `aios plan ...`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aios", "plan", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def asked(file: Path, rate: str = "500", p99_ms: str = "60") -> list[str]:
    return ["--measurement", str(file), "--rate", rate, "--p99-ms", p99_ms]


def test_a_saved_measurement_answers_for_other_rates_without_a_runtime(capsys, file) -> None:
    code, said, beside = plan(capsys, *asked(file, "5000", "100"), "--price", "0.10")
    assert (code, beside) == (0, "")
    assert "loan (loan:1) at 5,000 requests/s with a p99 of 100 ms" in said
    assert "cost by the month" in said
    assert "confidence" in said
    code, said, _ = plan(capsys, *asked(file))
    assert code == 0
    assert "no price of a node was given" in said


def test_the_price_of_the_settings_is_taken(capsys, file) -> None:
    Path("aios.toml").write_text('[prices]\ncurrency = "EUR"\ndefault_node_hour = 2.0\n')
    said = plan(capsys, *asked(file), "--replicas-per-node", "50")[1]
    assert "2,920.00 EUR" in said, "two nodes, 730 hours"


def test_another_machine_is_named(capsys, tmp_path) -> None:
    measured(SimulatedEndpoint(), 0.06, machine=MACHINE).save("other.json")
    code, said, beside = plan(capsys, *asked(Path("other.json")))
    assert code == 0
    assert said
    assert "measured on another machine (of the tests, 4 cores)" in beside


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": "0"}, "the rate is above 0"),
        ({"rate": "nan"}, "the rate is above 0"),
        ({"p99_ms": "-1"}, "a time above 0"),
        ({"p99_ms": "nan"}, "a time above 0"),
        ({"p99_ms": "1e12"}, "at most an hour"),
        ({"p99_ms": "1"}, "cannot be reached with any number of machines"),
    ],
)
def test_what_cannot_be_is_one_line(capsys, file, changes: dict[str, str], words: str) -> None:
    code, said, beside = plan(capsys, *asked(file, **changes))
    assert (code, beside.count("\n")) == (1, 1)
    assert words in beside
    assert "nodes" not in said


def test_a_mistaken_source_is_one_line(capsys, file) -> None:
    wanted = ["--rate", "5", "--p99-ms", "60"]
    assert "--endpoint" in plan(capsys, *wanted)[2]
    assert "not of 'fraud'" in plan(capsys, *asked(file), "--endpoint", "fraud")[2]
    assert "cannot be read" in plan(capsys, *asked(Path("absent.json")))[2]
    code, _, beside = plan(capsys, *wanted, "--endpoint", "loan")
    assert code == 1
    assert "no runtime is known" in beside
    assert "aios up" in beside


def test_the_budget_is_the_measurements_unless_another_is_said(capsys, file) -> None:
    code, said, _ = plan(capsys, "--measurement", str(file), "--rate", "500")
    assert code == 0
    assert "with a p99 of 60 ms" in said
    assert "--p99-ms" in plan(capsys, "--rate", "5", "--endpoint", "loan")[2]


def test_a_damaged_histogram_and_an_endless_price_are_one_line(capsys, file) -> None:
    fields = json.loads(file.read_text())
    fields["light"]["took"] = "HISTFAAAgarbage"
    Path("damaged.json").write_text(json.dumps(fields))
    code, _, beside = plan(capsys, *asked(Path("damaged.json")))
    assert (code, beside.count("\n")) == (1, 1)
    assert "light.took" in beside
    code, _, beside = plan(capsys, *asked(file), "--price", "inf")
    assert (code, beside.count("\n")) == (1, 1)
    assert "not inf" in beside


def test_records_are_json_lines() -> None:
    path = Path("records.jsonl")
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_records(path) == [{"a": 1}, {"a": 2}]
    for text, words in (
        ("", "no record"),
        ('{"a": 1}\n{a}', "line 2"),
        (json.dumps([1]), "is an object"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            read_records(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_records(Path("absent.jsonl"))


def test_the_measurement_is_judged_by_what_is_asked_for_now(capsys, file) -> None:
    """It was made for 60 ms, which its quickest rates keep; 1 ms none does."""
    kept = plan(capsys, *asked(file, p99_ms="30000"))[1]
    assert "within a p99 of 30.0 s" in kept
    assert " no " not in kept.partition("node")[0]
    code, said, beside = plan(capsys, *asked(file, p99_ms="1"))
    assert code == 1
    assert "cannot be reached" in beside
    assert " yes " not in said


def test_the_price_is_that_of_the_type_of_node(capsys, file) -> None:
    Path("aios.toml").write_text('[prices]\ncurrency = "EUR"\nnode_hours = {"gpu.large" = 4.0}\n')
    asking = [*asked(file), "--gpus-per-node", "4"]
    said = plan(capsys, *asking, "--node-type", "gpu.large")[1]
    assert "5,840.00 EUR" in said, "two nodes, 730 hours"
    assert "of 4 GPUs with 1 replica each" in said
    code, _, beside = plan(capsys, *asking, "--node-type", "gpu.small")
    assert (code, beside.count("\n")) == (1, 1)
    assert "node_hours: gpu.large" in beside


def test_a_price_has_its_currency(capsys, file) -> None:
    told = plan(capsys, *asked(file), "--price", "0.10", "--currency", "EUR")[1]
    assert " EUR" in next(line for line in told.splitlines() if "cost by the month" in line)


def test_without_anything_to_ask_it_says_so_first(capsys) -> None:
    code, _, beside = plan(capsys, "--rate", "100")
    assert code == 1
    assert "--endpoint" in beside
    assert plan(capsys, "--rate", "100", "--p99-ms", "0", "--measurement", "x")[0] == 1


def test_a_result_of_a_benchmark_points_to_its_measurements(capsys, file, tmp_path) -> None:
    (tmp_path / "latency-1.jsonl").write_text("{}\n{}\n")
    (tmp_path / "latency-1-0.json").write_bytes(file.read_bytes())
    beside = plan(capsys, *asked(tmp_path / "latency-1.jsonl"))[2]
    assert "its measurements lie beside it: " in beside
    assert "latency-1-0.json" in beside


def test_a_rate_that_is_none_is_told_without_a_saying(capsys, file) -> None:
    for rate in ("nan", "1e12"):
        assert "nothing needs no machine" not in plan(capsys, *asked(file, rate))[2]
    assert "nothing needs no machine" in plan(capsys, *asked(file, "0"))[2]
