"""Trials: what one does, how it ends, how long it may take, and which was the best."""

import contextlib
import functools
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aios.contracts import Contract
from aios.errors import UsageError
from aios.governance.candidate import Kind
from aios.records import CodeSource, Domain, RunSpec, Trial
from aios.training.data import TrainingData
from aios.training.fitting import fitted_models, measure
from aios.training.recipe import Mode, direction
from aios.training.recipe_source import load_recipe
from aios.training.workspace import Workspace


@dataclass(frozen=True)
class Task:
    """What every trial does: fit on `train`, measure on `validation`. Picklable."""

    recipe: CodeSource
    contract: Contract
    output: str
    kind: Kind
    train: TrainingData
    validation: TrainingData
    metric: str
    mode: Mode
    seed: int
    time_limit_s: float
    memory_limit_bytes: int | None
    workspace: Workspace

    @classmethod
    def of(
        cls, spec: RunSpec, kind: Kind, train: TrainingData, validation: TrainingData,
        workspace: Workspace,
    ) -> "Task":  # fmt: skip
        """The task of a run's search."""
        recipe = load_recipe(spec.recipe)
        return cls(
            recipe=spec.recipe,
            contract=Contract.from_json(spec.contract),
            output=recipe.output or recipe.label,
            kind=kind,
            train=train,
            validation=validation,
            metric=recipe.metric,
            mode=direction(recipe),
            seed=spec.seed,
            time_limit_s=spec.trial_time_limit_s,
            memory_limit_bytes=spec.memory_limit_bytes,
            workspace=workspace,
        )

    def rounds(self, config: Mapping[str, Any], checkpoints: str) -> Iterator[dict[str, float]]:
        """The metrics after each round of a fit with these settings.

        Raises:
            UsageError: the recipe raised, or its model cannot be measured.
        """
        recipe = load_recipe(self.recipe)
        recipe.checkpoints = self.workspace.path(checkpoints)
        models = fitted_models(
            recipe, self.recipe, config, self.train, self.seed, self.memory_limit_bytes
        )
        for model in models:
            found = measure(
                recipe, self.recipe, model, self.contract, self.output, self.kind, self.validation
            )
            if not math.isfinite(found.get(self.metric, math.nan)):
                raise UsageError(
                    f"the recipe {self.recipe.path} is searched for {self.metric!r}, which is "
                    f"{found.get(self.metric, 'not measured')}; measured: {', '.join(found)}"
                )
            yield found


def best_trial(trials: Sequence[Trial], mode: Mode) -> Trial:
    """The trial with the best value; of equal ones the first.

    Raises:
        UsageError: none has a value; says what the first one failed of.
    """
    sign = 1.0 if mode == "max" else -1.0
    known = [trial for trial in trials if trial.value is not None]
    if not known:
        first = trials[0].error if trials else "none was run"
        raise UsageError(f"all {len(trials)} trials failed; the first: {first}")
    return max(known, key=lambda trial: (sign * (trial.value or 0.0), -trial.number))


def distributions(space: Mapping[str, Domain]) -> dict[str, Any]:
    """A search space as Optuna has it."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    def one(domain: Domain) -> Any:
        if domain.kind == "choice":
            return CategoricalDistribution(domain.options)
        low, high = domain.low or 0.0, domain.high or 0.0
        if domain.kind == "integers":
            return IntDistribution(int(low), int(high))
        return FloatDistribution(low, high, log=domain.kind == "loguniform")

    return {name: one(domain) for name, domain in space.items()}


def ended_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Those that are over, however they ended."""
    return [trial for trial in trials if trial.state != "running"]


def interrupted_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Those that were running when the process died that ran them."""
    return [trial for trial in trials if trial.state == "running"]


def informed_study(task: Task, spec: RunSpec, done: Sequence[Trial]) -> Any:
    """Optuna's TPE, told of the trials that ended before."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        # The same seed would propose again what was tried.
        sampler=optuna.samplers.TPESampler(seed=spec.seed + len(done)),
        direction="maximize" if task.mode == "max" else "minimize",
    )
    for trial in done:
        if trial.value is not None:
            study.add_trial(
                optuna.trial.create_trial(
                    params=trial.config,
                    distributions=distributions(spec.search),
                    value=trial.value,
                )
            )
    return study


def as_ended(begun: Trial, result: Mapping[str, Any], metric: str, slow: bool) -> Trial:
    """A trial as it ended, by the last that it reported."""
    fault = result.get("fault")
    # Tune flattens what it hands to a search algorithm.
    flat = {name[5:]: value for name, value in result.items() if name.startswith("told/")}
    told = {**result.get("told", {}), **flat}
    # Tune sets "done" itself when ASHA stops a trial.
    state = "failed" if fault else "finished" if result.get("ended") else "stopped"
    update = {
        "state": "timed_out" if slow else state,
        "value": None if fault else result.get(metric),
        "metrics": {} if fault else told,
        "error": fault,
        "seconds": result.get("time_total_s"),
    }
    return begun.model_copy(update=update)


@contextlib.contextmanager
def limited_time(workspace: Workspace, name: str, limit_s: float) -> Iterator[None]:
    """End this process if what is inside takes longer: nothing else ends a hang in foreign
    code. Whoever begins the same again, under this name, is refused.

    Raises:
        UsageError: it took too long before.
    """
    watch = Watch(workspace, name, limit_s)
    try:
        yield
    finally:
        watch.end()


class Watch:
    """The clock of `limited_time`, for what does not begin and end in one call.

    Raises:
        UsageError: something of this name took too long before.
    """

    def __init__(self, workspace: Workspace, name: str, limit_s: float) -> None:
        if is_timed_out(workspace, name):
            raise UsageError(
                f"it was not done after {limit_s:g} s and was ended; give it a longer "
                "trial_time_limit_s, or find out where it hangs"
            )
        self._mark = functools.partial(workspace.write, f"timed-out/{name}", b"")
        self._timer = threading.Timer(limit_s, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """It was in time."""
        self._timer.cancel()

    def _expire(self) -> None:
        try:
            self._mark()
        finally:
            os._exit(1)


def is_timed_out(workspace: Workspace, name: str) -> bool:
    """Whether `limited_time` ended something of this name."""
    return workspace.read(f"timed-out/{name}") is not None
