"""What does a retrain cost beside the same search in plain Optuna and scikit-learn?

Method, `ratio`: the loan applications as a Parquet file, gradient boosting, 20 trials of TPE.
Plain is one process that reads the file, splits it, searches with Optuna, fits the best again
on train and validation, and scores the holdout. aios is `rt.retrain` on a runtime that is up:
besides that it takes a snapshot with digest and sketches, checks the holdout, converts to ONNX,
runs the gates of the model's tier, and registers. Each in turn, A B A B; the first pair warms
and is left out. Both try the same space with the same number of trials; the samplers' draws
differ, and so do the trials' costs, hence the spread. Plain uses one core, aios what is free.

`speed-up`: trials that compute for a fixed time of CPU, one at a time (each reserves all cores)
against one per core, in turn. Search alone is timed, by looking at the run ten times a second.

`register`: `rt.models.register` less `build` alone, of the same estimator: the medians' difference.

Caveat: client, kernel, Ray and trials share the machine's cores.

    python -m benchmarks.training [--rounds 5] [--trials 20] [--cpu-s 2.0 5.0]

The goal of `ratio` is for 20 trials, that of `speed-up` for 20 of 2 s and of 5 s on two cores;
other numbers give figures only. With --short no `speed-up`, which takes minutes.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import aios
from aios.capacity.machine import describe
from aios.models import build
from apps.loan_approval import data
from benchmarks.commands import arguments, begin, count, parser_of, positive
from benchmarks.figures import Spread
from benchmarks.goals import AIMS, goal
from benchmarks.results import RESULTS, ResultFile
from benchmarks.runtimes import runtime

NAME = "training"
SEED = 7
SPACE = {"n_estimators": (50, 300), "max_depth": (2, 5), "learning_rate": (0.01, 0.3)}
HEAVY_TRIALS = 20
LOOK_S = 0.1


class LoanRecipe(aios.Recipe):
    """Gradient boosting on the loan applications."""

    label = "approve"

    def fit(self, config: dict[str, Any], train: Any) -> Any:
        from sklearn.ensemble import GradientBoostingClassifier
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline

        boosting = GradientBoostingClassifier(**config, subsample=0.5, random_state=0)
        frame = train.frame()
        return make_pipeline(SimpleImputer(strategy="median"), boosting).fit(
            frame[train.features], frame[train.label]
        )


class HeavyRecipe(aios.Recipe):
    """A model that is quick to fit, after a fixed time of CPU."""

    label = "approve"

    def fit(self, config: dict[str, Any], train: Any) -> Any:
        import time

        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        ended_s = time.process_time() + config["cpu_s"]
        while time.process_time() < ended_s:
            sum(range(1000))
        frame = train.frame()
        return make_pipeline(SimpleImputer(), LogisticRegression(C=config["C"], max_iter=500)).fit(
            frame[train.features], frame[train.label]
        )


def plain(path: Path, trials: int) -> float:
    """Seconds of the search in this process, and of what must follow it."""
    import optuna
    import pandas as pd
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    started_s = time.perf_counter()
    frame = pd.read_parquet(path)
    rest, holdout = train_test_split(frame, test_size=0.2, random_state=SEED)
    train, validation = train_test_split(rest, test_size=0.25, random_state=SEED)
    features = list(data.FEATURES)

    def fitted(config: dict[str, Any], rows: pd.DataFrame) -> Any:
        boosting = GradientBoostingClassifier(**config, subsample=0.5, random_state=0)
        pipeline = make_pipeline(SimpleImputer(strategy="median"), boosting)
        return pipeline.fit(rows[features], rows[data.LABEL])

    def auc(model: Any, rows: pd.DataFrame) -> float:
        return float(roc_auc_score(rows[data.LABEL], model.predict_proba(rows[features])[:, 1]))

    def objective(trial: optuna.Trial) -> float:
        config = {
            "n_estimators": trial.suggest_int("n_estimators", *SPACE["n_estimators"]),
            "max_depth": trial.suggest_int("max_depth", *SPACE["max_depth"]),
            "learning_rate": trial.suggest_float(
                "learning_rate", *SPACE["learning_rate"], log=True
            ),
        }
        return auc(fitted(config, train), validation)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=SEED))
    study.optimize(objective, n_trials=trials)
    auc(fitted(study.best_params, rest), holdout)
    return time.perf_counter() - started_s


def retrained(
    rt: aios.Runtime, recipe: type[aios.Recipe], path: Path, **settings: Any
) -> dict[str, float]:
    """Seconds of each stage of a retrain, as seen from outside, and `all`."""
    contract = aios.Contract(**data.contract_fields())
    started_s = looked_s = time.perf_counter()
    run = rt.start_retrain(NAME, recipe, data=str(path), contract=contract, seed=SEED, **settings)
    seconds: dict[str, float] = {}
    while True:
        status = run.status()
        now_s = time.perf_counter()
        seconds[status.stage] = seconds.get(status.stage, 0.0) + now_s - looked_s
        looked_s = now_s
        if status.finished:
            break
        time.sleep(LOOK_S)
    if status.version is None:
        raise aios.PermanentError(f"run {run.id}: {status.summary}")
    return seconds | {"all": now_s - started_s}


def measure_ratio(rt: aios.Runtime, path: Path, rounds: int, trials: int, file: ResultFile) -> str:
    """Wall time of a retrain over that of plain, pair by pair."""
    low, high = SPACE["learning_rate"]
    search = {
        "n_estimators": aios.integers(50, 300),
        "max_depth": aios.integers(2, 5),
        "learning_rate": aios.loguniform(low, high),
    }
    pairs = []
    for number in range(rounds + 1):
        alone_s = plain(path, trials)
        pairs.append((alone_s, retrained(rt, LoanRecipe, path, search=search, trials=trials)))
        said = f"plain {alone_s:.1f} s, retrain {pairs[-1][1]['all']:.1f} s"
        print(f"pair {number} of {rounds}: {said}", file=sys.stderr, flush=True)
    pairs = pairs[1:]
    ratio = Spread.of(stages["all"] / alone_s for alone_s, stages in pairs)
    for number, (alone_s, stages) in enumerate(pairs):
        file.figure(f"retrain of {trials} trials / plain", stages["all"] / alone_s, "lower", number)
        file.figure(f"retrain of {trials} trials, s", stages["all"], "lower", number)
    _tell_goal(file, f"retrain of {trials} trials vs. plain Optuna", ratio)
    names = [name for name in pairs[0][1] if name != "all"]
    parts = [f"{name} {median(stages.get(name, 0.0) for _, stages in pairs):.1f}" for name in names]
    return (
        f"retrain of {trials} trials / plain: {ratio} (goal <= 1.3); "
        f"plain {Spread.of(alone_s for alone_s, _ in pairs)} s, "
        f"retrain {Spread.of(stages['all'] for _, stages in pairs)} s: {', '.join(parts)}"
    )


def _tell_goal(file: ResultFile, text: str, ratio: Spread) -> None:
    """Only what is a goal: other numbers of trials are not comparable with it."""
    if text in {aim.text for aim in AIMS}:
        file.goal(goal(text, ratio))


def measure_speed_up(
    rt: aios.Runtime, path: Path, rounds: int, cpu_s: float, file: ResultFile
) -> str:
    """Search with one trial at a time over search with one per core."""
    cores = float(os.cpu_count() or 1)
    search = {"C": aios.loguniform(1e-3, 10.0), "cpu_s": aios.choice([cpu_s])}
    found = []
    for number in range(rounds):
        both = [
            retrained(
                rt,
                HeavyRecipe,
                path,
                search=search,
                trials=HEAVY_TRIALS,
                resources={"cpus": cpus},
            )["search"]
            for cpus in (cores, 1.0)
        ]
        found.append(both)
        name = f"speed-up of {cores:.0f} workers, trials of {cpu_s:g} s"
        file.figure(name, both[0] / both[1], "higher", number)
    ratio = Spread.of(one / many for one, many in found)
    text = f"search of {HEAVY_TRIALS} trials of {cpu_s:g} s: speed-up of {cores:.0f} workers"
    _tell_goal(file, text, ratio)
    return (
        f"speed-up of {cores:.0f} workers on {HEAVY_TRIALS} trials of {cpu_s} s: {ratio} "
        f"(goal >= 1.7 on 2); one {Spread.of(one for one, _ in found)} s, "
        f"many {Spread.of(many for _, many in found)} s"
    )


def measure_register(rt: aios.Runtime, times: int, file: ResultFile) -> str:
    """What `register` adds to the conversion."""
    from apps.loan_approval import training

    frame = data.load()
    model, sample = training.logistic(frame), frame[list(data.FEATURES)].head(200)
    contract = aios.Contract(**data.contract_fields())
    alone, whole = [], []
    for _ in range(times + 1):
        with tempfile.TemporaryDirectory() as folder:
            started_s = time.perf_counter()
            build(model, contract, sample, Path(folder))
            built_s = time.perf_counter()
        rt.models.register(NAME, model, contract=contract, sample=sample)
        alone.append(built_s - started_s)
        whole.append(time.perf_counter() - built_s)
    for number, took_s in enumerate(whole[1:]):
        file.figure("registering with conversion, s", took_s, "lower", number)
    added_s = median(whole[1:]) - median(alone[1:])
    file.goal(goal("registering a version, after conversion", [added_s]))
    return (
        f"registering after conversion: {added_s:.3f} s (goal <= 1); with it "
        f"{Spread.of(whole[1:])} s, conversion and checks alone {Spread.of(alone[1:])} s"
    )


def main() -> None:
    """Measure, write the result as it comes, print it."""
    parser = parser_of(NAME, __doc__)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--trials", type=count, default=20)
    parser.add_argument("--cpu-s", type=positive, nargs="*", default=[2.0, 5.0])
    parser.add_argument("--registered", type=count, default=10, help="versions")
    asked = arguments(parser, {"rounds": 1, "cpu_s": [], "registered": 3})
    file = ResultFile(RESULTS, NAME)
    file.run(seed=SEED, machine=describe(), **vars(asked))
    with tempfile.TemporaryDirectory() as folder, runtime() as rt:
        path = Path(folder) / "loans.parquet"
        frame = data.load()
        frame[[data.KEY, *data.FEATURES, data.LABEL]].to_parquet(path, index=False)
        print(measure_register(rt, asked.registered, file), flush=True)
        print(measure_ratio(rt, path, asked.rounds, asked.trials, file), flush=True)
        for cpu_s in asked.cpu_s:
            print(measure_speed_up(rt, path, asked.rounds, cpu_s, file), flush=True)
    print(f"written to {file.path}")


if __name__ == "__main__":
    begin(main)
