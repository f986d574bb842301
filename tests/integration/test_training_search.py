"""Searches and torch recipes on a real Ray: hangs, crashes, kills, and what is left of them."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import psutil
import pytest

from aios.errors import IllegalTransition, UsageError
from aios.records import RunSpec
from aios.training import Recipe, TorchRecipe, choice, loguniform, recipe_source
from aios.training.on_ray import Workbench
from tests.unit.training_runs import Logistic, facts, make_rows, spec_of

PREPARED = ("snapshot", "split")


class Slow(Logistic):
    """Trials that are worth processes of their own."""

    def fit(self, config: dict[str, Any], train: Any) -> Any:
        time.sleep(3.1)
        return super().fit(config, train)


class LongFirst(Logistic):
    """The trial in the stage's own process goes on until the file `go` is in the run's folder."""

    def fit(self, config: dict[str, Any], train: Any) -> Any:
        folder, _, trial = str(self.checkpoints).rpartition("/checkpoints/")
        if trial.rpartition("/")[2] == "0":
            time.sleep(3.1)  # so long that the others begin in processes of their own
            while not os.path.exists(f"{folder}/go"):
                time.sleep(0.1)
        return super().fit(config, train)


class Unruly(Logistic):
    """One trial hangs, one raises, one ends its process each time, the others are good."""

    def fit(self, config: dict[str, Any], train: Any) -> Any:
        if config["does"] == "hangs":
            time.sleep(600)
        if config["does"] == "raises":
            raise ValueError("this one raises")
        if config["does"] == "crashes":
            os._exit(9)
        return super().fit(config, train)


class Reserving(Logistic):
    """Reserves on and on, as a search does whose trials follow each other quickly."""

    def fit(self, config: dict[str, Any], train: Any) -> Any:
        import ray
        from ray.util import placement_group

        while True:
            ray.get(placement_group([{"CPU": 0.001}]).ready())
            time.sleep(0.02)


class InRounds(Logistic):
    """Half of the settings are hopeless from the first round on."""

    def fit(self, config: dict[str, Any], train: Any) -> Iterator[Any]:
        from sklearn.dummy import DummyClassifier

        frame = train.frame()
        for _ in range(12):
            if config["good"]:
                yield super().fit({}, train)
            else:
                yield DummyClassifier().fit(frame[train.features], frame[train.label])


def doubled(batch: Any) -> Any:
    return {**batch, "a": batch["a"] * 2}


class Doubled(Logistic):
    def features(self, dataset: Any) -> Any:
        return dataset.map_batches(doubled)


class Network(TorchRecipe):
    label: ClassVar[str] = "y"
    output: ClassVar[str | None] = "p"
    epochs: ClassVar[int] = 3
    batch_size: ClassVar[int] = 32
    workers: ClassVar[int] = 2

    def module(self, config: dict[str, Any]) -> Any:
        from torch import nn

        return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1), nn.Sigmoid())

    def loss(self, outputs: Any, labels: Any) -> Any:
        from torch import nn

        return nn.functional.binary_cross_entropy(outputs[:, 0], labels)

    def optimizer(self, config: dict[str, Any], module: Any) -> Any:
        import torch

        return torch.optim.Adam(module.parameters(), lr=0.05)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        namespace="aios",
    )
    yield
    ray.shutdown()


class Bench:
    """One run on Ray."""

    def __init__(self, folder: Path, recipe: type[Recipe], **more: Any) -> None:
        self.workbench = Workbench(
            str(folder / "runs"), str(folder / "artifacts"), str(folder / "log"), folder / "cache"
        )
        location = make_rows(folder / "rows.parquet")
        self.spec: RunSpec = spec_of(recipe_source(recipe), location, **more)
        self.results: dict[str, Any] = {}

    def run(self, *stages: str) -> Any:
        for stage in stages:
            extra = facts() if stage == "assess" else {}
            self.results[stage] = self.workbench.run("r1", stage, self.spec, self.results, extra)
        return self.results[stages[-1]]

    def states(self) -> dict[str, str]:
        trials = self.workbench.trials("r1")
        return {str(next(iter(trial["config"].values()))): trial["state"] for trial in trials}


@pytest.fixture
def bench(tmp_path: Path, cluster: None, request: pytest.FixtureRequest) -> Iterator[Bench]:
    recipe, more = request.param
    made = Bench(tmp_path, recipe, **more)
    yield made
    made.workbench.cancel("r1")


UNRULY = {
    "search": {"does": choice(["hangs", "raises", "crashes", "well", "good", "fine"])},
    "trials": 6,
    "trial_time_limit_s": 20.0,  # of which a busy machine may need half to import
    "seed": 445,  # one of each; some of them wherever Tune begins
}


@pytest.mark.parametrize("bench", [(Unruly, UNRULY)], indirect=True)
def test_trials_that_hang_raise_or_crash_leave_the_search_alone(bench: Bench) -> None:
    found = bench.run(*PREPARED, "search")
    assert len(found["trials"]) == 6
    assert found["config"]["does"] in ("well", "good", "fine")
    expected = {"hangs": "timed_out", "raises": "failed", "crashes": "failed"}
    states = bench.states()
    assert states.keys() & expected.keys(), "the seed brings some of them"
    for does, state in states.items():
        assert state == expected.get(does, "finished"), does


@pytest.mark.parametrize(
    "bench", [(Slow, {"search": {"C": loguniform(0.01, 10)}, "trials": 5})], indirect=True
)
def test_a_search_whose_process_is_killed_goes_on_where_it_was(bench: Bench) -> None:
    bench.run(*PREPARED)
    ended: list[Any] = []
    searching = threading.Thread(target=lambda: ended.append(bench.run("search")))
    searching.start()
    before = wait_for(lambda: finished(bench), 2)
    begun = bench.workbench.trials("r1")
    stage_process().kill()  # as a lost node does; the workbench is not told
    searching.join(120)
    assert len(ended[0]["trials"]) == 5
    kept = {trial["number"]: trial for trial in ended[0]["trials"]}
    assert all(kept[trial["number"]] == trial for trial in before)
    assert all(kept[trial["number"]]["config"] == trial["config"] for trial in begun)
    bench.run("refit", "assess")
    assert bench.results["assess"]["digest"]
    assert bench.workbench._processes == {}, "nothing is left running"


@pytest.mark.parametrize(
    "bench", [(Slow, {"search": {"C": loguniform(0.01, 10)}, "trials": 50})], indirect=True
)
def test_a_cancelled_search_ends_at_once_and_frees_its_cores(bench: Bench) -> None:
    import ray

    bench.run(*PREPARED)
    errors: list[Exception] = []

    def search() -> None:
        try:
            bench.run("search")
        except IllegalTransition as error:
            errors.append(error)

    searching = threading.Thread(target=search)
    searching.start()
    wait_for(lambda: finished(bench), 2)
    bench.workbench.cancel("r1")
    searching.join(10)
    assert "cancelled" in str(errors[0])
    wait_for(lambda: [1] if ray.available_resources().get("CPU") == 2.0 else [], 1)


@pytest.mark.parametrize(
    "bench", [(Reserving, {"search": {"C": loguniform(0.01, 10)}, "trials": 2})], indirect=True
)
def test_what_a_search_reserves_while_it_is_cancelled_comes_back(bench: Bench) -> None:
    import ray

    def search() -> None:
        with pytest.raises(IllegalTransition):
            bench.run("search")

    bench.run(*PREPARED)
    for _ in range(2):
        searching = threading.Thread(target=search)
        searching.start()
        wait_for(reserved, 3)  # from the second time on those of Tune, too
        bench.workbench.cancel("r1")
        searching.join(60)
        wait_for(lambda: [1] if not reserved() else [], 1)
        bench.workbench.release("r1")
    wait_for(lambda: [1] if ray.available_resources().get("CPU") == 2.0 else [], 1)


def reserved() -> list[str]:
    """What anybody holds of the cluster."""
    from ray.util import placement_group_table

    return [name for name, one in placement_group_table().items() if one["state"] != "REMOVED"]


@pytest.mark.parametrize(
    "bench", [(LongFirst, {"search": {"C": loguniform(0.01, 10)}, "trials": 7})], indirect=True
)
def test_the_others_do_not_wait_for_a_long_first_trial(bench: Bench) -> None:
    bench.run(*PREPARED)
    ended: list[Any] = []
    searching = threading.Thread(target=lambda: ended.append(bench.run("search")))
    searching.start()
    others = wait_for(lambda: finished(bench), 3, 300)
    assert 0 not in [trial["number"] for trial in others]
    Path(bench.workbench.workspace("r1").path("go")).touch()
    searching.join(120)
    trials = ended[0]["trials"]
    assert [trial["number"] for trial in trials] == list(range(7))
    assert {trial["state"] for trial in trials} == {"finished"}
    assert len({trial["config"]["C"] for trial in trials}) == 7, "nothing is tried twice"


@pytest.mark.parametrize(
    "bench", [(InRounds, {"search": {"good": choice([True, False])}, "trials": 8})], indirect=True
)
def test_what_does_badly_is_stopped_early(bench: Bench) -> None:
    found = bench.run(*PREPARED, "search")
    assert found["config"] == {"good": True}
    assert all(0 <= t["metrics"]["auc"] <= 1 for t in found["trials"] if t["state"] == "finished")
    states = [(trial["config"]["good"], trial["state"]) for trial in found["trials"]]
    assert (False, "stopped") in states
    assert (True, "finished") in states


@pytest.mark.parametrize("bench", [(Doubled, {})], indirect=True)
def test_features_may_call_what_stands_in_the_recipes_file(bench: Bench) -> None:
    bench.run("snapshot")
    assert pd.read_parquet(bench.workbench.workspace("r1").path("features")).a.abs().max() > 4


@pytest.mark.parametrize("bench", [(Network, {})], indirect=True)
def test_nothing_is_begun_for_a_run_that_was_cancelled_before(bench: Bench) -> None:
    bench.workbench.cancel("r1")
    with pytest.raises(IllegalTransition, match="cancelled"):
        bench.run("snapshot")
    bench.workbench.release("r1")
    bench.run("snapshot")
    bench.workbench.release("r1")
    import ray

    assert [name for name in ray.util.list_named_actors() if name.startswith("aios-run-r1")] == []


@pytest.mark.parametrize("bench", [(Network, {})], indirect=True)
def test_a_torch_recipe_trains_on_two_workers(bench: Bench) -> None:
    bench.run(*PREPARED, "search", "refit")
    assert bench.results["refit"]["metrics"]["auc"] > 0.9
    assert bench.results["refit"]["conversion"]["engine"] == "onnx"
    checkpoints = Path(bench.workbench.workspace("r1").path("checkpoints/refit/torch"))
    kept = [path for path in checkpoints.glob("checkpoint_*") if path.is_dir()]
    assert len(kept) == 2, "of the last two epochs"
    artifact = bench.results["refit"]["artifact"]
    assert bench.run("refit")["artifact"] == artifact, "it goes on after the last epoch"
    assert bench.run("assess")["digest"]


@pytest.mark.parametrize("bench", [(Logistic, {"gpus": 1.0})], indirect=True)
def test_a_gpu_that_is_not_there_is_told_instead_of_waited_for(bench: Bench) -> None:
    with pytest.raises(UsageError, match="wants 1 GPUs, and the cluster has 0"):
        bench.run(*PREPARED, "search", "refit")


@pytest.mark.parametrize("bench", [(Logistic, {"cpus": 99.0})], indirect=True)
def test_more_cores_than_there_are_is_told_instead_of_made_less(bench: Bench) -> None:
    with pytest.raises(UsageError, match="wants 99 cores, and the cluster has 2"):
        bench.run(*PREPARED, "search", "refit")


def finished(bench: Bench) -> list[dict[str, Any]]:
    return [trial for trial in bench.workbench.trials("r1") if trial["state"] == "finished"]


def stage_process() -> psutil.Process:
    """The process that carries out the run's stages."""
    below = psutil.Process().children(recursive=True)
    [found] = [one for one in below if one.cmdline()[:1] == ["ray::StageActor.run"]]
    return found


def wait_for(look: Any, count: int, limit_s: float = 90.0) -> Any:
    give_up_s = time.monotonic() + limit_s
    while time.monotonic() < give_up_s:
        found = look()
        if len(found) >= count:
            return found
        time.sleep(0.2)
    raise AssertionError("it did not happen in time")
