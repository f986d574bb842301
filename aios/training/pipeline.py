"""The stages of a training run, each a function of what the stages before it gave.

A stage reads and writes the run's folder, and its result is JSON that the kernel keeps. Any of
them can be run again: it finds what is there or makes it anew. The holdout is read by `refit`
and `assess` alone, after the model is made.
"""

import dataclasses
import io
import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aios.contracts import Contract
from aios.errors import AiosError, TemporaryError, UsageError
from aios.governance.candidate import Candidate, Context, Kind, Stable
from aios.governance.card import ModelCard
from aios.governance.clearance import seal
from aios.governance.gates import run_gates
from aios.governance.measures import metrics, metrics_by_group
from aios.governance.scoring import permutation_importance, score_frame
from aios.models import Engine, build, load_engine
from aios.records import (
    Artifact,
    GateResult,
    ModelProfile,
    ModelVersion,
    RunSpec,
    ServedVersion,
    Snapshot,
    Trial,
)
from aios.security.keyring import Keyring
from aios.store.artifacts import ArtifactStore
from aios.training.data import TrainingData, apply_features, features_files, read_columns
from aios.training.environment import describe_environment
from aios.training.fitting import SAMPLE_ROWS, fitted_models, own_metrics
from aios.training.mlflow_tracking import RunFacts, log_run
from aios.training.recipe import DIRECTIONS, Recipe
from aios.training.recipe_source import load_recipe
from aios.training.reference import (
    REFERENCE,
    REFERENCE_ROWS,
    reference_rows,
    sample_rows,
    training_reference,
)
from aios.training.search import search
from aios.training.snapshot import take_snapshot
from aios.training.sources import refuse_private
from aios.training.splitting import split
from aios.training.trials import Task, limited_time
from aios.training.unseen import unseen
from aios.training.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger("aios.training")

BACKGROUND = "background.parquet"
"""Rows of the training data, inputs only, against which an answer is explained."""
BACKGROUND_ROWS = 100
OUTLIER_ROWS = 5_000
"""A tree of the isolation forest sees 256; the rest is for the quantiles of ordinary scores."""
MOST_SORTED = 50_000
CARD_REF = "{{version}}"
"""Stands in a model card for the version's name, which it has only once it is registered."""
_UNNAMED = "version-without-a-number"
"""What a card is made with: braces would be escaped in it."""
_MEASURED: dict[Kind, tuple[str, ...]] = {
    "binary": ("auc", "accuracy", "log_loss", "brier"),
    "regression": ("rmse", "mae", "r2"),
}
_REFIT_TIME = 2.0
"""A refit has more rows than a trial, and this much more time."""


@dataclass(frozen=True)
class Job:
    """What a stage is given."""

    spec: RunSpec
    results: Mapping[str, Any]
    workspace: Workspace
    extra: Mapping[str, Any]
    recipe: Recipe
    contract: Contract
    keyring: Keyring | None = None

    @property
    def output(self) -> str:
        return self.recipe.output or self.recipe.label

    @property
    def kind(self) -> Kind:
        found: Kind = self.results["split"]["task"]
        return found

    def data(self, *parts: Any) -> TrainingData:
        """These parts of the rows, as a recipe may see them."""
        return TrainingData(
            self.workspace.url, parts, list(self.contract.inputs), self.recipe.label
        )


def run_stage(
    stage: str,
    spec: RunSpec,
    results: Mapping[str, Any],
    workspace: Workspace,
    extra: Mapping[str, Any],
    keyring: Keyring | None = None,
) -> dict[str, Any]:
    """Carry out one stage: snapshot, split, search, refit, assess or track.

    Args:
        stage: which.
        spec: what the run was asked to do.
        results: what each stage before it gave, by its name.
        workspace: the run's folder.
        extra: for assess and track, facts of the registry as the kernel states them: `run`,
            `by`, `profile`, `policy` (`digest`, `tier`), `gates`, `stable`, `deadline_s`,
            `version`.
        keyring: for prediction logs that are encrypted, and to hash private fields.

    Raises:
        AiosError: it cannot be done; nothing that another stage reads is left half-made.
    """
    recipe, contract = load_recipe(spec.recipe), Contract.from_json(spec.contract)
    check_fit(recipe, contract)
    if spec.data.kind == "predictions":
        refuse_private(contract)
    return STAGES[stage](Job(spec, results, workspace, extra, recipe, contract, keyring))


def check_fit(recipe: Recipe, contract: Contract) -> None:
    """See that recipe and contract speak of the same model.

    Raises:
        UsageError: the output does not exist, or the label or a protected column is an input.
    """
    name, output = type(recipe).__name__, recipe.output or recipe.label
    if output not in contract.outputs:
        raise UsageError(
            f"{name} predicts {output!r}, and the contract's outputs are "
            f"{', '.join(contract.outputs)}: set output to one of them"
        )
    if recipe.label in contract.inputs:
        raise UsageError(
            f"{name}: the label {recipe.label!r} is also an input of the contract; a model that "
            "is told the answer learns nothing: take it out of the inputs"
        )
    shown = [column for column in recipe.protected if column in contract.inputs]
    if shown:
        raise UsageError(
            f"{name}: {', '.join(shown)} is protected and also an input of the contract, so that "
            "the model would decide by it: take it out of one of them"
        )


def _snapshot(job: Job) -> dict[str, Any]:
    recipe, url, log_url = job.recipe, job.workspace.url, job.workspace.log_url
    taken = take_snapshot(job.spec.data, url, log_url, time.time(), job.keyring)
    key = _key(job, taken)
    wanted = (*job.contract.inputs, recipe.label, *recipe.protected, key, recipe.time)
    needed = list(dict.fromkeys(column for column in wanted if column))
    own = type(recipe).features is not Recipe.features
    rows = apply_features(recipe.features if own else None, url, needed)
    return {"snapshot": taken.model_dump(mode="json"), "rows": rows}


def _key(job: Job, taken: Snapshot) -> str | None:
    """The recipe's key; else the contract's, which data may lack."""
    if job.recipe.key is not None:
        return job.recipe.key
    if job.spec.data.kind == "predictions":
        return "key"  # what the log calls it, whatever the contract does
    return job.contract.key if job.contract.key in taken.columns else None


def _split(job: Job) -> dict[str, Any]:
    recipe = job.recipe
    found = split(
        job.workspace.url,
        label=recipe.label,
        key=_key(job, _taken(job)),
        time=recipe.time,
        holdout_fraction=recipe.holdout_fraction,
        validation_fraction=recipe.validation_fraction,
        seed=recipe.split_seed,
    )
    possible = _MEASURED[found["task"]]
    if recipe.metric in DIRECTIONS and recipe.metric not in possible:
        raise UsageError(
            f"{type(recipe).__name__}: {recipe.metric} says nothing about the label "
            f"{recipe.label!r}, which is for {found['task']}; set metric to one of "
            f"{', '.join(possible)}, or to one of evaluate's"
        )
    return {**found, "seed": recipe.split_seed}


def _search(job: Job) -> dict[str, Any]:
    train, validation = job.data("train"), job.data("validation")
    task = Task.of(job.spec, job.kind, train, validation, job.workspace)
    return search(task, job.spec)


def _refit(job: Job) -> dict[str, Any]:
    """Fit with the settings found, on all rows but the holdout; store the artifact."""
    spec, train, holdout = job.spec, job.data("train", "validation"), job.data("holdout")
    config = job.results.get("search", {}).get("config", {})
    job.recipe.checkpoints = job.workspace.path("checkpoints/refit")
    with limited_time(job.workspace, "refit", spec.trial_time_limit_s * _REFIT_TIME):
        *_, model = fitted_models(
            job.recipe, spec.recipe, config, train, spec.seed, spec.memory_limit_bytes
        )
        own = own_metrics(job.recipe, spec.recipe, model, holdout)
    with tempfile.TemporaryDirectory(prefix="aios-refit-") as folder:
        some = sample_rows(train, max(SAMPLE_ROWS, REFERENCE_ROWS))
        sample, background = some.head(SAMPLE_ROWS), _ordinary(train)
        built = build(model, job.contract, sample, Path(folder), background=background)
        _store(job).put(built.folder, built.artifact.digest)
        engine = load_engine(built.folder, built.artifact, job.contract, ref=spec.model)
        try:
            frame = holdout.frame()
            scores = score_frame(engine, job.contract, frame, job.output)
        finally:
            engine.close()
    found = metrics(job.kind, frame[job.recipe.label], scores)
    job.workspace.write_json(REFERENCE, reference_rows(some.head(REFERENCE_ROWS), job.contract))
    return {
        "artifact": built.artifact.model_dump(mode="json"),
        "conversion": built.conversion,
        "metrics": {**found, **own},
        "config": config,
        "train_rows": train.rows,
        "reference": training_reference(train, job.contract, job.output, scores, job.keyring),
        "environment": describe_environment(),
    }


def _ordinary(train: TrainingData) -> "pd.DataFrame":
    """Rows beside which requests are told how unusual they are: by content alone, so that the
    artifact is the same whatever files the rows came in, unless there are too many to sort."""
    if train.rows > MOST_SORTED:
        return sample_rows(train, OUTLIER_ROWS)
    frame = train.frame()
    return frame.sample(min(OUTLIER_ROWS, len(frame)), random_state=0)


def _assess(job: Job) -> dict[str, Any]:
    """Score the holdout with the candidate and the stable version, run the gates, seal."""
    artifact, contract = _candidate_artifact(job)
    profile = ModelProfile.model_validate(job.extra["profile"])
    protected = _protected(job, profile)
    key = _key(job, _taken(job))
    columns = [*contract.inputs, job.recipe.label, *protected, *([key] if key else [])]
    frame = read_columns(job.workspace.url, "holdout", list(dict.fromkeys(columns)))
    frame, told = _not_trained_on(job, frame)
    _save_background(job, contract)
    folder = _store(job).fetch(artifact.digest)
    engine = load_engine(folder, artifact, contract, ref=job.spec.model)
    try:
        scores = score_frame(engine, contract, frame, job.output)
        candidate = Candidate(
            ref=job.spec.assesses or job.spec.model,
            contract=contract,
            folder=folder,
            artifact=artifact,
            engine=engine,
            holdout=frame,
            label=job.recipe.label,
            output=job.output,
            protected=protected,
            kind=job.kind,
            scores=scores,
            snapshot=_taken(job),
            train_rows=job.results.get("refit", {}).get("train_rows", 0),
            importances=_importances(job, engine, frame, contract),
        )
        return _judged(job, candidate, profile, told)
    finally:
        engine.close()


def _not_trained_on(job: Job, frame: "pd.DataFrame") -> "tuple[pd.DataFrame, list[GateResult]]":
    """A version that exists may have been trained on rows that are a holdout now."""
    if job.spec.assesses is None:
        return frame, []
    version = ModelVersion.model_validate(job.extra["version"])
    data, digest = job.data("holdout"), _taken(job).digest
    left, told = unseen(version, frame, data, job.workspace, digest, job.spec.recipe)
    return left.reset_index(drop=True), [told] if told is not None else []


def _judged(
    job: Job, candidate: Candidate, profile: ModelProfile, told: list[GateResult]
) -> dict[str, Any]:
    found = _metrics(candidate)
    policy = job.extra["policy"]
    card = ModelCard(
        ref=job.spec.assesses or _UNNAMED,
        profile=profile,
        artifact=candidate.artifact,
        contract=candidate.contract.to_json(),
        kind=candidate.kind,
        snapshot=candidate.snapshot,
        holdout_rows=len(candidate.holdout),
        metrics={**found, **job.results.get("refit", {}).get("metrics", {})},
        groups=_groups(candidate) if found else {},
        importances=dict(candidate.importances or {}),
        tier=policy["tier"],
        article=policy.get("article", ""),
        policy_digest=policy["digest"],
        run=job.extra["run"],
        spec=job.spec,
        config=job.results.get("search", {}).get("config", {}),
        created_s=time.time(),
        created_by=job.extra["by"],
    )
    candidate = dataclasses.replace(candidate, card_missing=card.missing)
    results = (*run_gates(candidate, _context(job, candidate), job.extra["gates"]), *told)
    card = card.model_copy(update={"results": results})
    sealed = seal(candidate.artifact.digest, candidate.snapshot.digest, results, policy["digest"])
    return {
        "results": [result.model_dump(mode="json") for result in results],
        "card": card.to_markdown().replace(_UNNAMED, CARD_REF),
        "metrics": card.metrics,
        "groups": card.groups,
        "importances": card.importances,
        "policy_digest": policy["digest"],
        "digest": sealed,
        "background": BACKGROUND,
    }


def _context(job: Job, candidate: Candidate) -> Context:
    """What the candidate is measured against. A metric of the recipe's own is known for the
    candidate alone, so the stable version is compared by the usual one."""
    metric = job.recipe.metric
    metric = metric if metric in DIRECTIONS else _MEASURED[job.kind][0]
    return Context(
        stable=_stable(job, candidate.holdout),
        metric=metric,
        deadline_s=job.extra.get("deadline_s"),
        seed=job.spec.seed,
    )


def _candidate_artifact(job: Job) -> tuple[Artifact, Contract]:
    if job.spec.assesses is None:
        return Artifact.model_validate(job.results["refit"]["artifact"]), job.contract
    version = ModelVersion.model_validate(job.extra["version"])
    return version.artifact, Contract.from_json(version.contract)


def _protected(job: Job, profile: ModelProfile) -> tuple[str, ...]:
    """What recipe and owner say is protected. What only the owner names may be missing in the
    data; the card says so."""
    there = {*features_files(job.workspace.url).schema.names}
    declared = [name for name in profile.protected if name in there]
    return tuple(dict.fromkeys((*job.recipe.protected, *declared)))


def _stable(job: Job, holdout: "pd.DataFrame") -> Stable | None:
    given = job.extra.get("stable")
    if given is None:
        return None
    served = ServedVersion.model_validate({k: v for k, v in given.items() if k != "ref"})
    contract, ref = Contract.from_json(served.contract), str(given["ref"])
    try:
        folder = _store(job).fetch(served.artifact.digest)
        engine = load_engine(folder, served.artifact, contract, ref=ref)
        try:
            scores = score_frame(engine, contract, holdout, job.output)
        finally:
            engine.close()
    except TemporaryError:
        raise
    except AiosError as error:
        # An older contract may not take these rows: the gates then say what cannot be compared.
        _log.warning("%s cannot answer the holdout of %s: %s", ref, job.extra["run"], error)
        return Stable(ref=ref, contract=contract, scores=None)
    return Stable(ref=ref, contract=contract, scores=scores)


def _metrics(candidate: Candidate) -> dict[str, float]:
    """On the holdout; none where the scores or labels say nothing, which a gate fails on."""
    if candidate.fault() is not None:
        return {}
    return metrics(candidate.kind, candidate.labels, candidate.scores)


def _groups(candidate: Candidate) -> dict[str, dict[str, dict[str, float | None]]]:
    found = metrics_by_group(
        candidate.kind,
        candidate.labels,
        candidate.scores,
        candidate.holdout,
        candidate.protected,
    )
    return {
        attribute: {name: dict(values) for name, values in groups.items()}
        for attribute, groups in found.items()
    }


def _importances(
    job: Job, engine: Engine, frame: "pd.DataFrame", contract: Contract
) -> dict[str, float] | None:
    found = permutation_importance(
        engine, frame, contract, job.recipe.label, job.output, job.kind, job.spec.seed
    )
    return found if all(map(math.isfinite, found.values())) else None


def _save_background(job: Job, contract: Contract) -> None:
    frame = sample_rows(job.data("train"), BACKGROUND_ROWS)[list(contract.inputs)]
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    job.workspace.write(BACKGROUND, content.getvalue())


def _track(job: Job) -> dict[str, Any]:
    """Show the run where the author's other experiments are."""
    if job.spec.tracking_uri is None:
        return {"mlflow_run": None}
    results, registered = job.results, job.results["register"]
    artifact = Artifact.model_validate(results["refit"]["artifact"])
    facts = RunFacts(
        run=job.extra["run"],
        spec=job.spec,
        started_s=_taken(job).taken_s,
        by=job.extra["by"],
        version=registered["version"],
        snapshot=_taken(job),
        config=results["search"]["config"],
        trials=[Trial.model_validate(trial) for trial in results["search"]["trials"]],
        metrics=results["refit"]["metrics"],
        gates=[GateResult.model_validate(result) for result in results["assess"]["results"]],
        card=results["assess"]["card"].replace(CARD_REF, registered["ref"]),
        artifact=_store(job).fetch(artifact.digest),
        contract=job.contract,
    )
    return {"mlflow_run": log_run(job.spec.tracking_uri, facts)}


def _taken(job: Job) -> Snapshot:
    return Snapshot.model_validate(job.results["snapshot"]["snapshot"])


def _store(job: Job) -> ArtifactStore:
    return ArtifactStore(job.workspace.artifacts_url, Path(job.workspace.cache))


STAGES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "snapshot": _snapshot,
    "split": _split,
    "search": _search,
    "refit": _refit,
    "assess": _assess,
    "track": _track,
}
