"""What a process tells of itself, its node and, in an endpoint's replica, its arms."""

import time
from pathlib import Path

import psutil
import pytest

from aios.records import ArmReport, WindowReport
from aios.records.cost import Owner
from aios.serving.calls import Calls
from aios.telemetry import processes
from aios.telemetry.processes import InTurns, ProcessMeter, busy_s, cores


def report(era: str, sequence: int, **attempts: int) -> WindowReport:
    arms = {
        arm.partition("_")[0]: ArmReport(version=int(arm.partition("_")[2]), attempts=count)
        for arm, count in attempts.items()
    }
    fields = {"endpoint": "loan", "replica": "r", "revision": 1, "at_s": 0.0, "pid": 1}
    return WindowReport(**fields, node="n", era=era, sequence=sequence, arms=arms)


def test_calls_go_on_over_eras_that_count_from_zero() -> None:
    calls = Calls()
    calls.add(report("a", 1, stable_1=10))
    calls.add(report("a", 2, stable_1=15))
    calls.add(report("b", 3, stable_1=4, canary_2=2))
    calls.add(report("b", 4, stable_1=9, canary_2=3))
    calls.add(report("c", 5, stable_2=1))
    told = calls.told()
    assert told["calls"] == {"stable:1": 24, "canary:2": 3, "stable:2": 1}
    assert (told["version"], told["arm"]) == (2, "stable")


def test_a_process_tells_what_it_used_since_it_began() -> None:
    meter = ProcessMeter(Owner("training", run="r-1"), node="n1", gpus=2.0)
    first = meter.usage({"version": 3})
    until_s = time.process_time() + 0.05
    while time.process_time() < until_s:
        pass
    later = meter.usage({})
    assert (later.id, later.node, later.run, first.version) == (first.id, "n1", "r-1", 3)
    assert later.cpu_s - first.cpu_s >= 0.04
    assert later.gpu_s > first.gpu_s
    assert later.node_busy_s >= first.node_busy_s > 0
    assert ProcessMeter(Owner("training"), "n1").usage({}).id != first.id


def test_nobody_pays_for_what_a_process_did_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    used_s = 7.0
    monkeypatch.setattr(processes, "cpu_s", lambda: used_s)
    monkeypatch.setattr(processes, "_for_others_s", 0.0)
    assert ProcessMeter(Owner("training"), "n1").usage({}).cpu_s == 7.0, "its start is its own"
    processes.worked_for_others()
    later = ProcessMeter(Owner("training"), "n1")
    used_s = 9.0
    assert later.usage({}).cpu_s == 2.0


@pytest.mark.parametrize(
    ("limit", "known"), [("150000 100000", 1.5), ("max 100000", None), ("nonsense", None)]
)
def test_a_container_has_the_cores_that_it_may_use(
    tmp_path: Path, limit: str, known: float | None
) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    every = float(psutil.cpu_count() or 1)
    assert cores(tmp_path) == (every if known is None else min(known, every))
    assert cores(tmp_path / "absent") == every


def test_a_container_is_as_busy_as_its_own_processes(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 2000000\n")
    assert busy_s(tmp_path) == 2.5
    (tmp_path / "cpu.stat").write_text("user_usec 2000000\n")
    times = psutil.cpu_times()
    assert 0 < busy_s(tmp_path) <= sum(times) - times.idle + 60


@pytest.mark.parametrize("kind", ["endpoint", "training", "agents", "flows", "control plane"])
def test_whoever_works_may_tell_what_it_used(kind: str) -> None:
    assert ProcessMeter(Owner(kind), node="n1").usage({}).kind == kind


def test_who_works_in_turns_tells_of_its_turns_alone() -> None:
    cpu_s, at_s = [5.0], [100.0]
    turns = InTurns(lambda: cpu_s[0], lambda: at_s[0])
    assert turns.told() == {"calls": {}, "cpu_s": 0.0, "gpu_s": 0.0}
    turns.begin("refund:1", gpus=0.5)
    cpu_s[0], at_s[0] = 7.0, 110.0
    assert turns.told() == {"calls": {"refund:1": 1}, "cpu_s": 2.0, "gpu_s": 5.0}
    cpu_s[0], at_s[0] = 8.0, 112.0
    assert turns.told()["calls"] == {"refund:1": 2}, "a long step is told of all along"
    turns.end()
    cpu_s[0], at_s[0] = 50.0, 500.0  # somebody else had the process
    turns.begin("report:3")
    cpu_s[0] = 51.0
    told = {"calls": {"refund:1": 2, "report:3": 1}, "cpu_s": 4.0, "gpu_s": 6.0}
    assert turns.told() == told
    turns.end()
    cpu_s[0] = 90.0
    assert turns.told() == told
