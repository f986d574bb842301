"""The suite: it goes on when one fails, takes no half result, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import orjson
import psutil
import pytest

import aios
from aios.cli.benching import CATALOGUE
from aios.cli.foreground import OutOfTime, run_to_its_end
from benchmarks import suite as suites
from benchmarks.plots import Price
from benchmarks.runtimes import BORROWERS, Lender
from benchmarks.suite import Ended, Suite, finish, marked

ROOT = Path(__file__).parents[2]
BEGIN = """
import json, os, pathlib, sys, time
suite = json.loads(os.environ["_AIOS_BENCHMARK_SUITE"])
out = pathlib.Path(suite["folder"])
def write(name, **machine):
    run = {"kind": "run", "benchmark": name, "at": "2026-11-28T12:00:00+00:00", "machine": machine}
    (out / f"{name}-1.jsonl").write_text(json.dumps({**run, "suite": suite}) + "\\n")
"""
MODULES = {
    "well": """
        from benchmarks.results import RESULTS, ResultFile
        file = ResultFile(RESULTS, "well")
        file.run(machine={"cpu": "x", "cores": 2, "memory_gib": 1.0, "commit": "abc"})
        file.figure("answers", 42.0, "higher")
        assert sys.argv[1:] == ["--short"]
    """,
    "broken": """
        write("broken")
        print("line before")
        raise RuntimeError("it is broken")
    """,
    "fine": "write('fine')",
    "silent": "",
    "borrower": """
        write(f"borrower-{time.time_ns()}")
        (out / "lent").open("a").write(suite["runtime"] + "\\n")
    """,
    "thief": """
        (out / "lent").open("a").write(suite["runtime"] + "\\n")
        raise RuntimeError("it is broken")
    """,
    "littering": """
        import subprocess
        write("littering")
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        (out / "litter").write_text(str(child.pid))
    """,
    "endless": """
        try:
            write("endless")
            print("for ever", flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            (out / "tidied").touch()
            raise
    """,
    "stubborn": """
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        (out / "ready").touch()
        time.sleep(600)
    """,
}


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    for name, text in MODULES.items():
        (folder / f"bench_{name}.py").write_text(BEGIN + textwrap.dedent(text))
    return folder


@pytest.fixture(autouse=True)
def _found_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(suites, "GONE_S", 0.5)
    monkeypatch.setattr(suites, "LOOK_S", 0.05)


def suite(modules: Path, out: Path, *names: str, **more: object) -> Suite:
    called = {name: f"bench_{name}" for name in names}
    return Suite(called, out, arguments=("--short",), checkout=modules, **more)


def test_one_that_fails_is_said_and_the_others_go_on(modules, tmp_path, capsys) -> None:
    said: list[str] = []
    out = tmp_path / "out"
    ended = suite(modules, out, "broken", "silent", "well", tell=said.append).run()
    assert [one.wrong for one in ended] == ["it ended with 1", "it wrote no result", None]
    text = "\n".join(said)
    assert "[1/3] broken" in text
    assert "    | line before" in text
    assert "    | RuntimeError: it is broken" in text
    assert "it ended with 1; 2 left, about 1 min" in text
    assert "done in" in said[-1]
    assert sorted(path.name.partition("-")[0] for path in out.glob("*.jsonl")) == ["well"]
    assert (out / "broken-1.jsonl.unfinished").exists(), "no result, and not lost"

    assert finish(ended, out, Price()) == 1
    printed = capsys.readouterr()
    assert "> **broken failed and is left out: it ended with 1**" in printed.out
    assert "| answers | 42.0 | higher | 1 |" in printed.out
    assert "1 of 3 benchmarks ended well" in printed.err
    assert (out / "report.html").exists()

    assert finish(ended[2:], tmp_path, Price()) == 0
    (path,) = ended[2].results
    run = orjson.loads(path.read_bytes().splitlines()[0])
    assert set(run["suite"]) == {"id", "folder", "load_average_1min", "others_cores"}


class Started:
    """Runtimes that are started to be lent: what became of them."""

    def __init__(self, *, broken: bool = False) -> None:
        self.count, self.ended, self._broken = 0, list[str](), broken

    def __call__(self) -> SimpleNamespace:
        if self._broken:
            raise aios.ClusterUnavailable("no Ray today")
        self.count += 1
        name = f"home-{self.count}"
        return SimpleNamespace(home=Path(name), close=lambda: self.ended.append(name))


def test_one_runtime_is_lent_to_all_that_want_one(modules, tmp_path) -> None:
    started, seen = Started(), list[list[str]]()
    named = {name: f"bench_{name}" for name in ("well", "borrower", "thief", "silent")}
    named |= {"again": "bench_borrower", "last": "bench_fine"}
    told = {"borrowers": ("borrower", "thief", "again"), "lender": Lender(started)}

    def tell(text: str) -> None:
        if text.startswith("["):
            seen.append([text.split()[1], *started.ended])

    lending = Suite(named, tmp_path, arguments=("--short",), checkout=modules, tell=tell, **told)
    ended = lending.run()
    assert [one.name for one in ended if one.wrong] == ["thief", "silent"]
    lent = (tmp_path / "lent").read_text().split()
    assert lent == ["home-1", "home-1", "home-2"], "a new one after one that went wrong"
    assert seen == [
        ["well"],
        ["borrower"],
        ["thief"],
        ["silent", "home-1"],
        ["again", "home-1"],
        ["last", "home-1", "home-2"],
    ], "ended as soon as nobody wants it"


def test_who_is_lent_none_begins_as_if_alone(modules, tmp_path) -> None:
    told = {"borrowers": ("well",), "lender": Lender(Started(broken=True))}
    (ended,) = suite(modules, tmp_path, "well", tell=lambda text: None, **told).run()
    run = orjson.loads(ended.results[0].read_bytes().splitlines()[0])
    assert "runtime" not in run["suite"]


def test_borrowers_stand_together_in_the_catalogue() -> None:
    places = [list(CATALOGUE).index(name) for name in BORROWERS]
    assert places == list(range(places[0], places[0] + len(BORROWERS)))


def test_nothing_but_failures_has_no_report(tmp_path, capsys) -> None:
    assert finish([Ended("a", 1.0, "it ended with 1")], tmp_path, Price()) == 1
    assert list(tmp_path.iterdir()) == []
    assert "a failed" in capsys.readouterr().err


def test_what_takes_too_long_is_ended_tidily(modules, tmp_path) -> None:
    def shown(text: str) -> None:
        """What goes on is shown; here the time is over when it runs for sure."""
        if text.endswith("for ever"):
            raise OutOfTime

    told = {"tell": lambda text: None, "show": shown, "limit_s": 300.0}
    (ended,) = suite(modules, tmp_path, "endless", **told).run()
    assert ended.wrong == "it took longer than 300 s"
    assert (tmp_path / "tidied").exists(), "as by Ctrl-C"
    assert (tmp_path / "endless-1.jsonl.unfinished").exists()


def test_what_a_benchmark_leaves_behind_is_ended_and_said(modules, tmp_path) -> None:
    (ended,) = suite(modules, tmp_path, "littering", tell=lambda text: None).run()
    pid = int((tmp_path / "litter").read_text())
    assert ended.wrong == f"it left processes behind, which were ended: sleep ({pid})"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_ctrl_c_ends_what_runs_and_leaves_nothing(modules, tmp_path) -> None:
    code = (
        "import sys, pathlib\n"
        "from benchmarks.suite import Suite\n"
        "from benchmarks.commands import begin\n"
        "modules, out = map(pathlib.Path, sys.argv[1:])\n"
        "begin(Suite({'e': 'bench_endless', 'w': 'bench_well'}, out, checkout=modules).run)\n"
    )
    command = [sys.executable, "-c", code, str(modules), str(tmp_path)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        result = tmp_path / "endless-1.jsonl"
        _until(lambda: result.exists() and result.read_bytes().endswith(b"\n"))
        mark = orjson.loads(result.read_bytes())["suite"]["id"]
        assert len(marked(mark)) == 1
    finally:
        running.send_signal(signal.SIGINT)
        said, beside = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted" in beside
    assert "[2/2]" not in said
    assert marked(mark) == []
    assert [path.name for path in tmp_path.iterdir()] == ["tidied"]


# -- a program in the foreground ----------------------------------------------------------


def test_a_programs_own_exit_code_comes_back(tmp_path) -> None:
    assert run_to_its_end([sys.executable, "-c", "raise SystemExit(7)"], folder=tmp_path) == 7


def test_who_does_not_listen_is_killed(modules, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("aios.cli.foreground.TIDY_S", 0.3)
    environment = {
        **os.environ,
        "_AIOS_BENCHMARK_SUITE": orjson.dumps({"folder": str(tmp_path)}).decode(),
    }
    command = [sys.executable, str(modules / "bench_stubborn.py")]
    with pytest.raises(OutOfTime):
        run_to_its_end(command, folder=tmp_path, environment=environment, limit_s=2.0)


def _until(holds: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up_s
        time.sleep(0.05)
