"""Training runs whose kernel is killed with SIGKILL, at every write and at any moment."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aios.registry import Registry
from aios.store.database import Database
from tests.integration import run_kill_child

KILLS = int(os.environ.get("CHAOS_RUN_KILLS", "5"))
"""At random moments; `make chaos` does 28."""
EVERY = int(os.environ.get("CHAOS_RUN_WRITES", "5"))
"""Which write is the next to die at; `make chaos` takes each."""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.integration.run_kill_child"])
TABLES = ("snapshots", "versions", "assessments", "approvals", "audit", "operations")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draws.normal(size=600), "b": draws.normal(size=600)})
    frame["y"] = (frame.a - frame.b + draws.normal(size=600) > 0).astype(int)
    frame.to_parquet(tmp_path / "rows.parquet")
    return tmp_path


def life(
    home: Path,
    run: int,
    *,
    real: bool = False,
    death: tuple[int, str | None] | None = None,
    after_s: float | None = None,
) -> bool:
    """One life of the kernel; whether it came to its end and was not killed."""
    is_up = FORKS.Event()
    process = FORKS.Process(
        target=run_kill_child.live, args=(home, run, real, death, is_up), daemon=True
    )
    process.start()
    if after_s is not None:
        assert is_up.wait(30)
        process.join(after_s)
        process.kill()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def check(home: Path, runs: int) -> Registry:
    """Nothing is lost, nothing is there twice, and the audit log is sound."""
    registry = Registry(Database(f"sqlite:///{home}/aios.db"))
    found = registry.runs("loan")
    assert [run.status for run in found] == ["registered"] * runs
    versions = registry.versions("loan")
    assert [version.version for version in versions] == list(range(1, runs + 1))
    assert {version.lineage["run"] for version in versions} == {run.id for run in found}
    assert sorted(run.version or 0 for run in found) == list(range(1, runs + 1))
    for version in versions:
        (assessment,) = registry.assessments(version.ref)
        (request,) = registry.approvals(version.ref)
        assert request.digest == assessment.digest
    entries = registry.audit(limit=10_000)
    assert sum(entry.action == "register" for entry in entries) == runs
    assert registry.verify_audit() is None
    return registry


def test_a_kernel_killed_at_its_writes_registers_each_run_once(home: Path) -> None:
    """Run by run some writes later; each next life goes on with the run of the last one."""
    kills, run = 0, 0
    deaths = [(0, table) for table in TABLES] + [(at, None) for at in range(1, 200, EVERY)]
    for death in deaths:
        if life(home, run, death=death):
            break
        kills += 1
        run += 1
    else:
        pytest.fail("a run has more than 200 writes")
    assert kills > len(TABLES) + 14 // EVERY
    check(home, run + 1)


def test_a_kernel_killed_at_any_moment_makes_the_same_version_in_the_end(
    home: Path,
) -> None:
    moments = random.Random(7)
    began_s = time.monotonic()
    assert life(home, 0, real=True)
    whole_s = time.monotonic() - began_s
    kills, run = 0, 1
    while kills < KILLS:
        ended = life(home, run, real=True, after_s=moments.uniform(0, whole_s))
        kills += not ended
        run += ended
    assert life(home, run, real=True)
    registry = check(home, run + 1)
    versions = registry.versions("loan")
    assert len({version.artifact.digest for version in versions}) == 1
    assert len({str(version.metrics) for version in versions}) == 1
    snapshots = {version.lineage["snapshot"] for version in versions}
    assert len(snapshots) == 1
