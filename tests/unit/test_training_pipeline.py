"""The stages of a run, in one process: each can be run again, and faults are told."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from aios.contracts import Contract, Number
from aios.errors import UsageError
from aios.models import load_engine, load_outliers
from aios.records import Artifact, DataSource, Trial
from aios.training import Recipe, integers, loguniform
from aios.training.pipeline import BACKGROUND, CARD_REF
from aios.training.recipe_source import recipe_source
from aios.training.reference import REFERENCE
from aios.training.search import share
from aios.training.trials import best_trial, limited_time
from aios.training.workspace import TRIALS, Workspace
from tests.unit.training_runs import CONTRACT, Here, Logistic

PREPARED = ("snapshot", "split")


class Raises(Logistic):
    def fit(self, config: dict[str, Any], train: Any) -> Any:
        return train.frame()["no such column"]


class RaisesAbove(Logistic):
    def fit(self, config: dict[str, Any], train: Any) -> Any:
        if config["C"] > 1:
            raise ValueError("C is too large")
        return super().fit(config, train)


class GivesNothing(Logistic):
    def fit(self, config: dict[str, Any], train: Any) -> Any:
        super().fit(config, train)


class Greedy(Logistic):
    def fit(self, config: dict[str, Any], train: Any) -> Any:
        import numpy as np

        return np.ones(1 << 30)


class InRounds(Logistic):
    def fit(self, config: dict[str, Any], train: Any) -> Iterator[Any]:
        for power in range(3):
            yield super().fit({"C": 10.0**power}, train)


class OwnMetric(Logistic):
    metric: ClassVar[str] = "size"

    def evaluate(self, model: Any, data: Any) -> dict[str, float]:
        return {"size": float(abs(model.coef_).sum())}


class Wrong(Logistic):
    def evaluate(self, model: Any, data: Any) -> dict[str, float]:
        return {"precision_at_top": float(os.environ["WRONG_METRIC"])}


class SplitsOtherwise(Logistic):
    split_seed: ClassVar[int] = 1


class Spies(Logistic):
    def fit(self, config: dict[str, Any], train: Any) -> Any:
        assert list(train.frame().columns) == ["a", "b", "y"]
        return super().fit(config, train)


class NeverMeasured(Logistic):
    metric: ClassVar[str] = "profit"


class Regresses(Logistic):
    metric: ClassVar[str] = "rmse"


class LabelIsInput(Logistic):
    label: ClassVar[str] = "a"


class ProtectedIsInput(Logistic):
    protected: ClassVar[tuple[str, ...]] = ("b",)


class NoOutput(Logistic):
    output: ClassVar[str | None] = None


def test_a_run_gives_a_sealed_assessment_of_an_artifact_that_answers(tmp_path: Path) -> None:
    here = Here(tmp_path, Spies, search={"C": loguniform(1e-2, 10)}, trials=3)
    found = here.run(*PREPARED, "search", "refit", "assess")
    assert {result["gate"] for result in found["results"]} >= {"quality", "fairness", "card"}
    assert CARD_REF in found["card"]
    assert len(found["digest"]) == 64
    assert here.results["refit"]["metrics"]["auc"] > 0.9
    assert here.results["refit"]["train_rows"] + found_rows(here, "holdout") == 400
    artifact = Artifact.model_validate(here.results["refit"]["artifact"])
    engine = load_engine(tmp_path / "artifacts" / artifact.digest, artifact, CONTRACT)
    engine.close()
    outliers = load_outliers(tmp_path / "artifacts" / artifact.digest, artifact, CONTRACT)
    assert outliers is not None
    assert here.results["refit"]["conversion"]["outliers"]["fields"] == ["a", "b"]
    background = pd.read_parquet(here.workspace.path(BACKGROUND))
    assert list(background.columns) == ["a", "b"]
    assert len(background) == 100
    kept = here.workspace.read_json(REFERENCE)
    assert {name: len(column) for name, column in kept.items()} == dict.fromkeys(
        ("a", "b"), here.results["refit"]["train_rows"]
    )


def found_rows(here: Here, part: str) -> int:
    rows: int = here.results["split"]["rows"][part]
    return rows


def test_the_same_seed_gives_the_same_artifact_and_the_same_trials(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        here = Here(tmp_path / name, search={"C": loguniform(1e-2, 10)}, trials=4)
        here.run(*PREPARED, "search", "refit")
        runs.append(here.results)
    assert runs[0]["refit"]["artifact"] == runs[1]["refit"]["artifact"]
    configs = [[trial["config"] for trial in run["search"]["trials"]] for run in runs]
    assert configs[0] == configs[1]
    assert len({config["C"] for config in configs[0]}) == 4


def test_every_stage_can_be_run_again(tmp_path: Path) -> None:
    here = Here(tmp_path, search={"C": loguniform(1e-2, 10)}, trials=2)
    stages = [*PREPARED, "search", "refit", "assess"]
    here.run(*itertools.chain.from_iterable((stage, stage) for stage in stages))
    assert len(here.results["search"]["trials"]) == 2


def test_a_search_that_was_killed_keeps_its_trials(tmp_path: Path) -> None:
    here = Here(tmp_path, search={"C": loguniform(1e-2, 10)}, trials=4)
    here.run(*PREPARED)
    done = Trial(number=0, config={"C": 0.5}, state="finished", value=2.0, seconds=1.0)
    here.workspace.add_trial(done)
    with open(here.workspace.path(TRIALS), "ab") as file:
        file.write(b'{"number": 1, "conf')
    found = here.run("search")
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2, 3]
    assert found["best"] == 0, "its value is above what AUC can be"


def test_a_stable_version_is_scored_on_the_same_holdout(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.run(*PREPARED, "search", "refit")
    stable = {
        "ref": "toy:1",
        "version": 1,
        "artifact": here.results["refit"]["artifact"],
        "contract": CONTRACT.to_json(),
    }
    quality = here.run("assess", stable=stable, gates={"quality": {"margin": 0.1}})["results"][0]
    assert (quality["gate"], quality["value"]) == ("quality", 0.0)


def existing(here: Here, **lineage: Any) -> dict[str, Any]:
    """A version that a run made; the run goes on to assess it."""
    refit = here.results.pop("refit")
    here.results.pop("search")
    here.spec = here.spec.model_copy(update={"assesses": "toy:3"})
    return {
        "name": "toy",
        "version": 3,
        "artifact": refit["artifact"],
        "contract": CONTRACT.to_json(),
        "contract_digest": CONTRACT.digest,
        "created_s": 1.0,
        "created_by": "ann",
        "lineage": lineage,
    }


def test_nothing_is_known_of_what_a_version_made_by_hand_has_seen(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.run(*PREPARED, "search", "refit")
    version = existing(here)
    found = here.run("assess", version=version, gates={"artifact": {}})
    assert [result["gate"] for result in found["results"]] == ["artifact"]
    assert "toy:3" in found["card"]


def test_rows_that_a_version_was_trained_on_are_left_out_of_its_holdout(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.run(*PREPARED, "search", "refit")
    lineage = {
        "run": "run",
        "snapshot": here.results["snapshot"]["snapshot"]["digest"],
        "recipe": {"path": here.spec.recipe.path, "sha256": here.spec.recipe.sha256},
    }
    same = existing(here, **lineage)
    assert len(here.run("assess", version=same, gates={"artifact": {}})["results"]) == 1

    before = here.workspace
    here.workspace = dataclasses.replace(before, url=str(tmp_path / "another"))
    here.spec = here.spec.model_copy(update={"recipe": recipe_source(SplitsOtherwise)})
    here.run(*PREPARED)
    (_, told) = here.run("assess", version=same, gates={"artifact": {}})["results"]
    assert (told["gate"], told["outcome"]) == ("holdout", "passed")
    assert 0 < told["value"] < found_rows(here, "holdout")

    gone = existing_with(same, run="nobody-knows")
    (_, told) = here.run("assess", version=gone, gates={"artifact": {}})["results"]
    assert (told["gate"], told["outcome"]) == ("holdout", "not_enough_data")

    (tmp_path / "third").mkdir()
    here.workspace = dataclasses.replace(before, url=str(tmp_path / "third"))
    trained = pd.concat(
        pd.read_parquet(part) for part in sorted((tmp_path / "run/train").iterdir())
    )
    trained.drop(columns="_order").to_parquet(tmp_path / "rows.parquet")
    here.run(*PREPARED)
    with pytest.raises(UsageError, match="every row of this holdout"):
        here.run("assess", version=same, gates={"artifact": {}})


def existing_with(version: dict[str, Any], **lineage: Any) -> dict[str, Any]:
    return {**version, "lineage": {**version["lineage"], **lineage}}


@pytest.mark.parametrize("wrong", ["nan", "inf"])
def test_evaluate_that_gives_no_number_is_told_once_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("WRONG_METRIC", wrong)
    here = Here(tmp_path, Wrong, search={"C": loguniform(1e-2, 10)}, trials=2)
    with pytest.raises(UsageError, match=f"evaluate says precision_at_top is {wrong}"):
        here.run(*PREPARED, "search", "refit")
    trials = here.workspace.trials()
    assert [trial.state for trial in trials] == ["failed", "failed"]


def test_the_artifact_is_the_same_whatever_order_the_rows_came_in(tmp_path: Path) -> None:
    artifacts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        here = Here(tmp_path / name)
        rows = pd.read_parquet(tmp_path / name / "rows.parquet")
        rows.sort_values("a", ascending=name == "one").to_parquet(tmp_path / name / "rows.parquet")
        here.run(*PREPARED, "search", "refit")
        artifacts.append(here.results["refit"]["artifact"])
    assert artifacts[0] == artifacts[1]


def test_the_sample_of_a_sorted_file_is_not_its_first_rows(tmp_path: Path) -> None:
    here = Here(tmp_path)
    rows = pd.read_parquet(tmp_path / "rows.parquet").sort_values("y")
    rows.to_parquet(tmp_path / "rows.parquet")
    here.run(*PREPARED, "search", "refit", "assess")
    background = pd.read_parquet(here.workspace.path(BACKGROUND))
    known = rows.merge(background, on=["a", "b"])
    assert 0.2 < known.y.mean() < 0.8


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Raises, r"fit raised KeyError.*line \d+, in fit: return train.frame\(\)\[.no such"),
        (GivesNothing, "fit returned nothing; end it with `return model`"),
    ],
)
def test_a_recipe_at_fault_is_told_with_its_line(
    tmp_path: Path, recipe: type[Recipe], said: str
) -> None:
    here = Here(tmp_path, recipe, search={"C": loguniform(1e-2, 10)}, trials=2)
    here.run(*PREPARED)
    with pytest.raises(UsageError, match=f"all 2 trials failed; the first:.*{said}"):
        here.run("search")
    with pytest.raises(UsageError, match=said):
        here.run("refit")
    assert not list((tmp_path / "artifacts").glob("*")), "nothing half-made"


def test_a_metric_that_nobody_measures_is_told(tmp_path: Path) -> None:
    here = Here(tmp_path, NeverMeasured, search={"C": loguniform(1e-2, 10)}, trials=2)
    with pytest.raises(UsageError, match="searched for 'profit', which is not measured"):
        here.run(*PREPARED, "search")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (LabelIsInput, "is also an input"),
        (ProtectedIsInput, "b is protected and also an input"),
        (NoOutput, "predicts 'y', and the contract's outputs are p"),
    ],
)
def test_a_recipe_that_does_not_fit_its_contract_is_refused_at_once(
    tmp_path: Path, recipe: type[Recipe], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        Here(tmp_path, recipe).run("snapshot")


def test_a_private_input_cannot_be_learnt_from_what_an_endpoint_answered(tmp_path: Path) -> None:
    inputs = {**CONTRACT.inputs, "b": Number(private="hash")}
    private = Contract(inputs, CONTRACT.outputs, CONTRACT.key).to_json()
    here = Here(tmp_path, contract=private)
    log = DataSource(kind="predictions", location="toy")
    here.spec = here.spec.model_copy(update={"data": log})
    with pytest.raises(UsageError, match=r"log does not hold b \(hash\) as it was asked"):
        here.run("snapshot")


def test_a_metric_of_another_kind_of_label_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rmse says nothing about the label 'y'"):
        Here(tmp_path, Regresses).run(*PREPARED)


def test_a_trial_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    here = Here(tmp_path, RaisesAbove, search={"C": loguniform(0.1, 10)}, trials=8)
    trials = here.run(*PREPARED, "search")["trials"]
    failed = [trial for trial in trials if trial["config"]["C"] > 1]
    assert 0 < len(failed) < 8
    assert all("C is too large" in trial["error"] for trial in failed)
    assert {trial["state"] for trial in failed} == {"failed"}


def test_memory_over_the_limit_is_the_recipes_fault(tmp_path: Path) -> None:
    here = Here(tmp_path, Greedy, memory_limit_bytes=1 << 30)
    here.run(*PREPARED)
    with pytest.raises(UsageError, match=r"needs more memory than it may have \(line \d+, in fit"):
        here.run("refit")
    assert len(bytearray(1 << 20)) == 1 << 20, "and the limit is gone"


def test_the_last_round_counts(tmp_path: Path) -> None:
    here = Here(tmp_path, InRounds)
    here.run(*PREPARED, "search", "refit")
    (tmp_path / "once").mkdir()
    once = Here(tmp_path / "once", search={"C": integers(99, 100)}, trials=2)
    once.run(*PREPARED, "search")
    once.results["search"]["config"] = {"C": 100}
    once.run("refit")
    assert here.results["refit"]["artifact"] == once.results["refit"]["artifact"]


def test_a_metric_of_the_recipes_own_is_searched_for(tmp_path: Path) -> None:
    here = Here(tmp_path, OwnMetric, search={"C": loguniform(1e-3, 10)}, trials=5)
    found = here.run(*PREPARED, "search", "refit")
    search = here.results["search"]
    largest = max(search["trials"], key=lambda trial: trial["config"]["C"])
    assert search["best"] == largest["number"], "less penalty, larger coefficients"
    assert set(found["metrics"]) >= {"size", "auc", "log_loss"}


def test_all_trials_failed_says_what_the_first_failed_of() -> None:
    trials = [Trial(number=n, config={}, state="failed", error=f"fault {n}") for n in (0, 1)]
    with pytest.raises(UsageError, match="all 2 trials failed; the first: fault 0"):
        best_trial(trials, "max")


def test_of_equal_trials_the_first_is_taken() -> None:
    trials = [
        Trial(number=n, config={}, state="finished", value=value)
        for n, value in enumerate((0.5, 0.7, 0.7, 0.2))
    ]
    assert (best_trial(trials, "max").number, best_trial(trials, "min").number) == (1, 3)


def test_what_the_control_plane_holds_does_not_idle_a_core() -> None:
    assert share(1.0, 1.9) == (2, 0.95)
    assert share(1.0, 0.3) == (1, 0.3), "never waits for what is not there"


def test_a_workspace_is_the_same_on_any_file_system(tmp_path: Path) -> None:
    for url in (str(tmp_path / "runs"), "memory://runs/a"):
        workspace = Workspace(url, "", "")
        assert workspace.read_json("x/y.json") is None
        workspace.write_json("x/y.json", {"a": 1})
        assert workspace.read_json("x/y.json") == {"a": 1}
        running = Trial(number=0, config={"C": 1}, state="running")
        workspace.add_trial(running)
        workspace.add_trial(running.model_copy(update={"state": "finished", "value": 1.0}))
        assert [trial.state for trial in workspace.trials()] == ["finished"]
    assert os.listdir(tmp_path / "runs" / "x") == ["y.json"], "no part of a file is left"


def test_what_took_too_long_is_not_begun_again(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path), "", "")
    with limited_time(workspace, "7", 60.0):
        pass
    child = os.fork()
    if child == 0:
        import time

        with limited_time(workspace, "7", 0.01):
            time.sleep(60)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    with (
        pytest.raises(UsageError, match="was not done after 60 s"),
        limited_time(workspace, "7", 60),
    ):
        pass


def test_contracts_are_read_once_more_as_they_were() -> None:
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT
