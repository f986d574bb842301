"""A kernel in a process that dies on command: real durable flows, store and pipeline, no Ray.

`live` is one life of it: it goes on with what the last one left, starts the runs that are not
there yet, as a client who repeats its requests does, and ends when all of them have ended.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import sqlalchemy

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

import pandas  # noqa: F401 - loaded once, before the fork
import sklearn.linear_model  # noqa: F401
from kernel_fakes import ANN, KEY, FakeCrew, FakeServe, FakeWorkbench
from run_worlds import POLICY, assessed, snapshot

import aios
from aios.clock import SystemClock
from aios.config import Settings
from aios.kernel.kernel import Kernel
from aios.kernel.opening import open_flows
from aios.records import DataSource, RunSpec
from aios.training.pipeline import run_stage
from aios.training.recipe_source import recipe_source
from aios.training.workspace import Workspace

CONTRACT = aios.Contract(
    inputs={"a": aios.Number(), "b": aios.Number()}, outputs={"p": aios.Number(min=0, max=1)}
)


class Recipe(aios.Recipe):
    label = "y"
    output = "p"

    def fit(self, config: Any, train: Any) -> Any:
        from sklearn.linear_model import LogisticRegression

        frame = train.frame()
        return LogisticRegression(C=config["C"]).fit(frame[train.features], frame[train.label])


class Pipeline(FakeWorkbench):
    """The real stages, in this process."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self._home = home

    def workspace(self, run_id: str) -> Workspace:
        home = self._home
        return Workspace(f"{home}/runs/{run_id}", f"{home}/artifacts", f"{home}/cache")

    def run(
        self, run_id: str, stage: str, spec: RunSpec, results: dict[str, Any], extra: dict[str, Any]
    ) -> dict[str, Any]:
        return run_stage(stage, spec, results, self.workspace(run_id), extra)


class Laid(Pipeline):
    """Stages that take no time and always give the same."""

    def run(
        self, run_id: str, stage: str, spec: RunSpec, results: dict[str, Any], extra: dict[str, Any]
    ) -> dict[str, Any]:
        if stage == "snapshot":
            return snapshot(1.0)
        if stage == "assess":
            return assessed(extra, "f" * 64)
        if stage == "refit":
            artifact = {"digest": "f" * 64, "engine": "onnx", "size_bytes": 10}
            return {"artifact": artifact, "conversion": {}, "metrics": {"auc": 0.8}}
        return {"config": {"C": 1.0}, "task": "binary"}


class Death:
    """SIGKILL as the process is about to write its `at`-th transaction, to whichever store; or
    as it is about to write into this table."""

    def __init__(self, at: int, table: str | None) -> None:
        self._left = at
        self._table = table
        self._writing = threading.local()
        self.armed = False
        sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", self._wrote)
        sqlalchemy.event.listen(sqlalchemy.Engine, "commit", self._committing)

    def _wrote(self, conn: Any, _cursor: Any, text: str, *_rest: Any) -> None:
        verb = text.lstrip()[:6].upper()
        self._writing.now = verb in ("INSERT", "UPDATE", "DELETE")
        if self.armed and self._table and text.startswith(f"INSERT INTO {self._table} "):
            self._die()

    def _committing(self, conn: Any) -> None:
        if not (self.armed and getattr(self._writing, "now", False)) or self._table:
            return
        self._writing.now = False
        self._left -= 1
        if self._left <= 0:
            self._die()

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def spec_of(home: Path) -> dict[str, Any]:
    """What each run is asked to do."""
    made = RunSpec(
        model="loan",
        recipe=recipe_source(Recipe),
        data=DataSource(kind="parquet", location=f"{home}/rows.parquet"),
        contract=CONTRACT.to_json(),
        search={"C": aios.loguniform(0.1, 10)},
        seed=3,
    )
    return made.model_dump(mode="json")


def live(
    home: Path, run: int, real: bool, death: tuple[int, str | None] | None, is_up: Any
) -> None:
    """One life: ends with exit code 0 when the runs 0 to `run` have ended.

    Args:
        death: see `Death`; counted from when it asks for the last run.
        is_up: an event that is set when the kernel has started.
    """
    settings = Settings(home=home)
    kernel = Kernel(
        settings,
        FakeServe(),
        SystemClock(),
        KEY,
        open_flows(settings),
        Pipeline(home) if real else Laid(home),
        FakeCrew(),
    )
    kernel.start()
    is_up.set()
    if not kernel.registry.runs():
        kernel.execute("set_policy", {"text": POLICY}, ANN, "policy")
        kernel.execute("declare", {"name": "loan", "use": "credit"}, ANN, "declare")
    doom = None if death is None else Death(*death)
    for number in range(run + 1):
        if doom is not None and number == run:
            doom.armed = True
        begun = kernel.execute("start_run", {"spec": spec_of(home)}, ANN, f"run-{number}")
        while kernel.registry.run(begun["id"]).status == "running":
            time.sleep(0.005)
    os._exit(0)
