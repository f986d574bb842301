"""The search for good settings: Optuna proposes, Ray Tune runs, ASHA stops what does badly.

What is known of a search is in the run's `trials.jsonl`, not in Tune's own files: a search that
was killed tells Optuna what was found, begins the trials again that were running, and goes on with
those that are left. So nothing is unpickled from a folder that others may write to.
"""

import inspect
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence, Set
from statistics import median
from typing import Any

from aios.errors import AiosError, ClusterUnavailable, UsageError
from aios.records import RunSpec, Trial
from aios.records.cost import Owner
from aios.telemetry.on_ray import metered_as
from aios.training.recipe import Recipe
from aios.training.recipe_source import load_recipe
from aios.training.trials import (
    Task,
    Watch,
    as_ended,
    best_trial,
    distributions,
    ended_trials,
    informed_study,
    interrupted_trials,
    is_timed_out,
    limited_time,
)

MOST_ROUNDS = 10_000
"""Rounds after which ASHA ends a trial in any case."""
_TUNE_START_S = 6.0
"""What it takes until Tune's processes have imported all that a trial needs, and then some: what
they save must be more."""
_LONG_TRIAL_S = 3.0
"""After this time in one trial the others go to Tune beside it. A first one that is shorter says
nothing yet: it may hold the import of a library."""
_ENOUGH_CORES, _LEAST_CORES, _RELEASE_S = 0.5, 0.01, 10.0
_CRASHES = 1
"""How often a trial begins again after its process died; a second time it is its own doing."""
_DIED = "its process ended twice; did it need more memory than there is?"
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A trial whose fit raised reports no metric, and is not the end of the search.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1e9",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def search(task: Task, spec: RunSpec) -> dict[str, Any]:
    """The best settings that were found, with all trials: JSON of `config`, `trials`, `best`
    (a trial's number), `metric`, `mode`, `value`.

    Trials begin in this process. If beside each other those that are left would be done so much
    sooner that it pays to start Tune's processes, it gets them. Where there is nothing to
    compare (no search space, or one trial) nothing is fitted: `best` and `value` are None.

    Raises:
        UsageError: no trial came to a value; says what the first one failed of.
    """
    if spec.trials == 1 or not spec.search:
        config = informed_study(task, spec, ()).ask(distributions(spec.search)).params
        found = {"config": config, "trials": [], "best": None, "value": None}
        return {**found, "metric": task.metric, "mode": task.mode}
    if _may_try_here(task, spec):
        _try_here(task, spec)
    if len(ended_trials(task.workspace.trials())) < spec.trials:
        _try_on_cluster(task, spec)
    trials = ended_trials(task.workspace.trials())
    best = best_trial(trials, task.mode)
    return {
        "config": best.config,
        "trials": [trial.model_dump(mode="json") for trial in trials],
        "best": best.number,
        "metric": task.metric,
        "mode": task.mode,
        "value": best.value,
    }


def share(wanted: float, free: float) -> tuple[int, float]:
    """How many things that each want so many cores run beside each other, and what each
    reserves.

    The control plane and endpoints hold fractions of a core: on two cores 1.9 are free, and of
    things that want a whole one only one would run.

    >>> share(1.0, 1.9), share(1.0, 8.0), share(4.0, 2.0)
    ((2, 0.95), (8, 1.0), (1, 2.0))
    """
    count = max(1, math.floor(free / wanted + 0.3))
    return count, math.floor(min(wanted, free / count) * 1000) / 1000


def free_cores() -> float:
    """The cores of the cluster that nothing reserves.

    What a killed process held takes a few seconds to come back, so none are waited for.

    Raises:
        ClusterUnavailable: all are taken.
    """
    import ray

    give_up_s = time.monotonic() + _RELEASE_S
    while True:
        free = float(ray.available_resources().get("CPU", 0.0))
        if free >= _ENOUGH_CORES:
            return free
        if time.monotonic() > give_up_s:
            break
        time.sleep(0.2)
    if free >= _LEAST_CORES:
        return free
    raise ClusterUnavailable(
        "no core of the cluster is free for training: endpoints and other runs hold them all; "
        "scale one down, or add a machine"
    )


def check_room(cpus: float, gpus: float) -> float:
    """The GPUs of the cluster, with those that it could grow to.

    Raises:
        UsageError: it will never have so many cores or GPUs, so that one would wait for ever.
    """
    has = {"cores": _most("CPU"), "GPUs": _most("GPU")}
    for (name, most), wanted in zip(has.items(), (cpus, gpus), strict=True):
        if most < wanted:
            raise UsageError(f"a fit wants {wanted:g} {name}, and the cluster has {most:g}")
    return has["GPUs"]


def _most(resource: str) -> float:
    """What the cluster has of it, or has with all machines that its autoscaler may start."""
    import ray
    from ray._private.state import state

    now = float(ray.cluster_resources().get(resource, 0.0))
    return max(now, float((state.get_max_resources_from_cluster_config() or {}).get(resource, 0)))


def _may_try_here(task: Task, spec: RunSpec) -> bool:
    """Whether trials need nothing that this process lacks, and none has brought it down."""
    recipe = load_recipe(spec.recipe)
    for trial in task.workspace.trials():
        if trial.state == "running" and is_timed_out(task.workspace, str(trial.number)):
            fault = f"it was not done after {task.time_limit_s:g} s"
            update = {"state": "timed_out", "error": fault, "seconds": task.time_limit_s}
            task.workspace.add_trial(trial.model_copy(update=update))
    if not _has_cluster():
        return True
    if spec.gpus or spec.cpus > 1 or _workers(recipe):
        return False
    if inspect.isgeneratorfunction(recipe.fit):
        return False  # rounds are for ASHA
    return all(trial.state in ("finished", "failed") for trial in task.workspace.trials())


def _try_here(task: Task, spec: RunSpec) -> None:
    """Trials one after the other, as long as that is quicker than to start processes. The same
    seed gives the same trials."""
    import optuna

    trials = task.workspace.trials()
    done = ended_trials(trials)
    study = informed_study(task, spec, done)
    for trial in interrupted_trials(trials):
        study.enqueue_trial(trial.config)
    seconds: list[float] = []
    for number in range(len(done), spec.trials):
        asked = study.ask(distributions(spec.search))
        begun = Trial(number=number, config=asked.params, state="running")
        task.workspace.add_trial(begun)
        with _Beside(task, spec, begun) as beside:
            ended = _tried(task, begun)
            task.workspace.add_trial(ended)
            beside.tell(ended)
        if beside.begun:
            return
        if ended.value is None:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(asked, ended.value)
        seconds.append(ended.seconds or 0.0)
        left_s = median(seconds[1:] or [0.0]) * (spec.trials - number - 1)
        saved_s = left_s * (1 - 1 / _cores())
        if _has_cluster() and (seconds[-1] > _LONG_TRIAL_S or saved_s > _TUNE_START_S):
            return


def _tried(task: Task, begun: Trial) -> Trial:
    """A trial as it ended in this process."""
    begun_s = time.monotonic()
    result: dict[str, Any] = {}
    try:
        with limited_time(task.workspace, str(begun.number), task.time_limit_s):
            for found in task.rounds(begun.config, f"checkpoints/{begun.number}"):
                result = {**found, "ended": True, "told": found}
    except AiosError as error:
        result = {"fault": error.message}
    result["time_total_s"] = time.monotonic() - begun_s
    return as_ended(begun, result, task.metric, slow=False)


class _Beside:
    """Gives the other trials to Tune while a long one goes on here; waits for Tune at the end.

    Not where memory is limited: the limit is this process's, and would hit Tune's own.
    """

    def __init__(self, task: Task, spec: RunSpec, here: Trial) -> None:
        self._task, self._spec, self._here = task, spec, here
        self._ended: list[Trial] = []
        self._fault: BaseException | None = None
        self._timer = threading.Timer(_LONG_TRIAL_S, self._run)
        self.begun = False

    def __enter__(self) -> "_Beside":
        if _has_cluster() and _cores() > 1 and self._spec.memory_limit_bytes is None:
            self._timer.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._timer.cancel()
        if self._timer.ident is not None:
            self._timer.join()
        if self._fault is not None:
            raise self._fault

    def tell(self, ended: Trial) -> None:
        """The trial here is over."""
        self._ended.append(ended)

    def _run(self) -> None:
        self.begun = True
        try:
            _try_on_cluster(self._task, self._spec, self._here.number, self._ended)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._fault = error


def _has_cluster() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _cores() -> float:
    """The cores of the cluster, or of this machine where there is none."""
    return max(1.0, _most("CPU")) if _has_cluster() else float(os.cpu_count() or 1)


def _workers(recipe: Recipe) -> int:
    """The processes that one fit starts for itself; 0 for most recipes."""
    return int(getattr(recipe, "workers", 0))


def _try_on_cluster(
    task: Task, spec: RunSpec, here: int | None = None, ended_here: Sequence[Trial] = ()
) -> None:
    """The trials that are left, by Ray Tune, as many beside each other as the cluster has room.

    Args:
        task, spec: the run's.
        here: the number of a trial that this process is busy with, if it is.
        ended_here: gets that trial once it has ended.
    """
    trials = task.workspace.trials()
    done = ended_trials(trials)
    taken = {trial.number for trial in done} | ({here} if here is not None else set())
    again = [trial for trial in interrupted_trials(trials) if trial.number not in taken]
    left = spec.trials - len(taken)
    if left <= 0:
        return
    # Optuna and Tune read these when they are imported.
    os.environ.update(_QUIET)
    import optuna
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recipe = load_recipe(spec.recipe)
    workers = _workers(recipe)  # which take cores of their own
    count, cores = share(spec.cpus * max(workers, 1), free_cores())
    gpus = check_room(spec.cpus, spec.gpus)
    needs = {"cpu": _LEAST_CORES if workers else cores}
    if spec.gpus:
        needs["gpu"] = 0.0 if workers else spec.gpus
        count = min(count, int(gpus // (spec.gpus * max(workers, 1))) or 1)
    in_rounds = inspect.isgeneratorfunction(recipe.fit)
    tuner = tune.Tuner(
        tune.with_resources(_trainable(task), needs),
        tune_config=tune.TuneConfig(
            metric=task.metric,
            mode=task.mode,
            num_samples=left,
            max_concurrent_trials=count,
            reuse_actors=True,
            search_alg=_proposals(task, spec, done, again, taken, ended_here),
            scheduler=AsyncHyperBandScheduler(max_t=MOST_ROUNDS, grace_period=2)
            if in_rounds
            else FIFOScheduler(),
        ),
        run_config=tune.RunConfig(
            storage_path=_absolute(task.workspace.path("tune")),
            name=f"after-{len(done)}",
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_CRASHES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    tuner.fit()


def _proposals(
    task: Task,
    spec: RunSpec,
    done: Sequence[Trial],
    again: Sequence[Trial],
    taken: Set[int],
    ended_here: Sequence[Trial],
) -> Any:
    """Optuna's TPE, told of the trials that ended before; first come those to begin again. It
    tells of trials as they begin and end: a Tune callback would do that too, and make Tune
    import every tracker that is installed (MLflow alone takes 3 s)."""
    from ray.tune.search.optuna import OptunaSearch

    class Proposals(OptunaSearch):  # type: ignore[misc]
        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            for trial in ended_here:
                if trial.value is not None and trial.number not in told:
                    told.add(trial.number)
                    self.add_evaluated_point(trial.config, trial.value)
            config: dict[str, Any] | None = super().suggest(trial_id)
            if config is not None and trial_id not in begun:
                begun[trial_id] = Trial(number=free.pop(0), config=config, state="running")
                task.workspace.add_trial(begun[trial_id])
            return config

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            super().on_trial_complete(trial_id, result, error)
            given = {"fault": _DIED} if error else (result or {"fault": _DIED})
            slow = is_timed_out(task.workspace, trial_id)
            task.workspace.add_trial(as_ended(begun[trial_id], given, task.metric, slow))

    begun: dict[str, Trial] = {}
    told = {trial.number for trial in done}
    free = [number for number in range(len(done) + spec.trials) if number not in taken]
    proposals = Proposals(
        distributions(spec.search),
        metric=task.metric,
        mode=task.mode,
        points_to_evaluate=[trial.config for trial in again] or None,
        # The same seed would propose again what was tried.
        seed=spec.seed + len(taken),
    )
    for trial in done:
        if trial.value is not None:
            proposals.add_evaluated_point(trial.config, trial.value)
    return proposals


def _trainable(task: Task) -> Any:
    """A Tune class that runs trials, one after the other in the same process."""
    from ray import tune

    class FitTrial(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self._rounds: Iterator[dict[str, float]] | None = None
            self._watch: Watch | None = None
            self._metered = metered_as(Owner("training", run=task.workspace.run))

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.cleanup()
            self.config = new_config
            return True

        def step(self) -> dict[str, Any]:
            if self._rounds is None or self._watch is None:
                try:
                    self._watch = Watch(task.workspace, self.trial_id, task.time_limit_s)
                except UsageError as error:
                    return {"done": True, "fault": error.message}
                self._rounds = task.rounds(self.config, f"checkpoints/{self.trial_id}")
                self._found: dict[str, float] = {}
            try:
                self._found = next(self._rounds)
            except StopIteration:
                self._watch.end()
                return {**self._found, "done": True, "ended": True, "told": self._found}
            except AiosError as error:
                self._watch.end()
                return {"done": True, "fault": error.message}
            if not in_rounds:
                self._watch.end()
            ended = not in_rounds
            return {**self._found, "done": ended, "ended": ended, "told": self._found}

        def cleanup(self) -> None:
            self._metered.tell()
            if self._watch is not None:
                self._watch.end()
            self._rounds = self._watch = None

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

        def load_checkpoint(self, checkpoint: Any) -> None:
            return None

    in_rounds = inspect.isgeneratorfunction(load_recipe(task.recipe).fit)
    return FitTrial


def _absolute(url: str) -> str:
    """Tune takes a path from the root, or a URL."""
    return url if "://" in url else os.path.abspath(url)
