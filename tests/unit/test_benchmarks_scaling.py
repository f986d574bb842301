"""What `aios bench coldstart` and `aios bench scaling` make of what they saw."""

import math
import os
from pathlib import Path

import psutil
import pytest

from aios.models.synthetic import synthetic_batch
from benchmarks import coldstart
from benchmarks.results import ResultFile
from benchmarks.scaling import CONTRACT, Case, back_in_budget, goal, judge
from benchmarks.scaling_model import OUTPUT, Waits


def test_the_parts_of_a_start_add_up_to_the_whole() -> None:
    at_s = {"process began": 102.0, "imported": 105.0, "warmed": 105.5, "answered": 109.0}
    found = coldstart.parts(100.0, at_s)
    assert found == {"process began": 2.0, "imported": 3.0, "warmed": 0.5, "answered": 3.5}
    assert sum(found.values()) == 9.0


def test_what_was_there_before_the_call_took_no_time() -> None:
    found = coldstart.parts(100.0, {"process began": 40.0, "imported": 43.0, "answered": 101.5})
    assert found == {"process began": 0.0, "imported": 0.0, "answered": 1.5}


def test_a_replicas_line_is_found_among_others() -> None:
    lines = [
        ':actor_name:x aios start {"name": "loan", "pid": 7, "at_s": {"imported": 1.5}}',
        "something else",
        'aios start {"name": "loan--v2-0a1b", "pid": 8, "at_s": {"imported": 2.5}}',
    ]
    assert coldstart.starts(lines, "loan") == {7: {"imported": 1.5}}
    assert coldstart.starts(lines, "loan--v2-*") == {8: {"imported": 2.5}}


@pytest.mark.skipif(not Path("/proc/uptime").exists(), reason="needs the clock since boot")
def test_when_a_process_began_is_no_whole_second_off() -> None:
    """The kernel keeps 10 ms; psutil's own answer is off by up to a second."""
    own = coldstart.began_s(psutil.Process(os.getpid()))
    since_boot_s = psutil.Process().create_time() - psutil.boot_time()
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    assert coldstart.time.time() - own == pytest.approx(uptime_s - since_boot_s, abs=0.2)


def test_a_step_is_over_when_some_seconds_in_a_row_are_in_the_budget() -> None:
    p99s = [(8, 0.01), (10, 0.5), (11, 0.05), (12, None), (13, 0.1), (14, 0.1), (15, 0.1)]
    assert back_in_budget(p99s, 10.0, 0.1) == 3.0
    assert back_in_budget(p99s, 10.0, 0.01) is None
    assert back_in_budget(p99s[:-1], 10.0, 0.1) is None
    assert back_in_budget([], 0.0, 1.0) is None


def case(p99_s: float | None, expected_p99_s: float, requests: int = 1_000) -> Case:
    return Case(2, 0.7, 70.0, p99_s, (0.1, 0.2), expected_p99_s, 0, None, requests)


def test_too_high_and_too_low_are_as_far_off() -> None:
    assert case(0.1, 0.2).factor == case(0.2, 0.1).factor == 2.0
    assert (case(0.1, 0.2).off_by, case(0.2, 0.1).off_by) == (1.0, -0.5)
    assert case(None, 0.1).factor == math.inf
    assert goal([case(0.1, 0.12), case(0.12, 0.1), case(0.1, 0.4)]).met
    assert not goal([case(0.1, 0.13), case(None, 0.1)]).met


def test_p99s_of_few_requests_judge_no_goal(tmp_path: Path) -> None:
    few, enough = ResultFile(tmp_path / "a", "scaling"), ResultFile(tmp_path / "b", "scaling")
    judge([case(0.1, 0.1), case(0.1, 0.1, requests=999)], few)
    judge([case(0.1, 0.1)], enough)
    assert '"goal"' not in few.path.read_text()
    assert "1 of 2 p99s rest on fewer than 1,000 requests" in few.path.read_text()
    assert '"met":true' in enough.path.read_text()
    ResultFile.made.clear()


def test_the_model_waits_as_long_as_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("benchmarks.scaling_model.time.sleep", waited.append)
    model = Waits({"mean_s": 0.02, "variation": 0.5, "seed": 3})
    assert model.predict(synthetic_batch(CONTRACT, 4_000, seed=1))[OUTPUT].shape == (4_000,)
    assert sum(waited) / 4_000 == pytest.approx(0.02, rel=0.05)
