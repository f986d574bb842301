"""Running a recipe's code: seeded, within its memory, its faults told as its own."""

import contextlib
import inspect
import math
import random
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from aios.contracts import Contract
from aios.errors import AiosError, UsageError, describe
from aios.governance.candidate import Array, Kind, read_labels
from aios.governance.measures import metrics
from aios.governance.scoring import frame_batch, score_frame
from aios.models import build, load_engine
from aios.models.sklearn_conversion import is_estimator
from aios.models.torch_conversion import answer_module, is_module
from aios.packaging import own_line
from aios.records import CodeSource
from aios.training.data import TrainingData
from aios.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_ROWS = 500
"""Rows on which a conversion is checked: each is compared with the original's answer."""


def seed_everything(seed: int) -> None:
    """Make every draw of Python, numpy and (where it is loaded) torch follow from the seed."""
    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def fitted_models(
    recipe: Recipe,
    source: CodeSource,
    config: Mapping[str, Any],
    train: TrainingData,
    seed: int,
    memory_limit_bytes: int | None = None,
) -> Iterator[Any]:
    """The recipe's model after each round; one, unless `fit` is a generator.

    The limit is on memory beyond what this process has when it begins.

    Raises:
        UsageError: `fit` raised, gave no model, or wanted more memory than it may have; names
            its line.
    """
    seed_everything(seed)
    with _limited_memory(memory_limit_bytes):
        yield from _rounds(recipe, source, config, train)


def _rounds(
    recipe: Recipe, source: CodeSource, config: Mapping[str, Any], train: TrainingData
) -> Iterator[Any]:
    with blamed_on(source, "fit"):
        given = recipe.fit(dict(config), train)
    if not inspect.isgenerator(given):
        yield _model(given, source)
        return
    count = 0
    while True:
        with blamed_on(source, "fit"):
            try:
                model = next(given)
            except StopIteration:
                break
        count += 1
        yield _model(model, source)
    if not count:
        raise UsageError(f"the recipe {source.path}: fit yielded no model; yield one each round")


@contextlib.contextmanager
def blamed_on(source: CodeSource, doing: str) -> Iterator[None]:
    """What the recipe's own code raises becomes a UsageError that names its line."""
    try:
        yield
    except AiosError:
        raise
    except MemoryError as error:
        raise UsageError(
            f"the recipe {source.path}: {doing} needs more memory than it may have "
            f"({own_line(error, source)}); read train.batches() instead of train.frame(), or "
            "raise the limit"
        ) from error
    except Exception as error:
        where = own_line(error, source)
        raise UsageError(
            f"the recipe {source.path}: {doing} raised {describe(error)[:500]}"
            f"{f' ({where})' if where else ''}"
        ) from error


def measure(
    recipe: Recipe,
    source: CodeSource,
    model: Any,
    contract: Contract,
    output: str,
    kind: Kind,
    data: TrainingData,
) -> dict[str, float]:
    """What a model, as the recipe gave it, is worth on these rows: aios' metrics and the
    recipe's own, which win where names are equal.

    Raises:
        UsageError: it cannot be measured, or `evaluate` raised or gave no numbers.
    """
    frame = data.frame()
    scores = _scores(model, contract, output, frame, data)
    found = metrics(kind, frame[data.label], scores)
    return {**found, **own_metrics(recipe, source, model, data)}


def own_metrics(
    recipe: Recipe, source: CodeSource, model: Any, data: TrainingData
) -> dict[str, float]:
    """What the recipe's `evaluate` says.

    Raises:
        UsageError: it raised, or gave something other than numbers by name.
    """
    with blamed_on(source, "evaluate"):
        given = recipe.evaluate(model, data)
    try:
        found = {str(name): float(value) for name, value in dict(given).items()}
    except (TypeError, ValueError):
        raise UsageError(
            f"the recipe {source.path}: evaluate gives a dict of name to number, not {given!r:.100}"
        ) from None
    for name, value in found.items():
        if not math.isfinite(value):
            raise UsageError(
                f"the recipe {source.path}: evaluate says {name} is {value}, which is no number "
                "that can be kept or compared; leave it out where it cannot be told"
            )
    return found


def _model(given: Any, source: CodeSource) -> Any:
    if given is None:
        raise UsageError(
            f"the recipe {source.path}: fit returned nothing; end it with `return model`"
        )
    return given


def _scores(
    model: Any, contract: Contract, output: str, frame: "pd.DataFrame", data: TrainingData
) -> Array:
    """The output for each row, without a conversion where the model can be asked itself."""
    if is_estimator(model):
        return _estimated(model, frame, list(data.features))
    if is_module(model):
        answer = answer_module(model, contract, frame_batch(contract, frame))[output]
        return np.asarray(answer, dtype=np.float64).reshape(len(frame))
    with TemporaryDirectory() as folder:
        sample = frame.head(SAMPLE_ROWS)
        built = build(model, contract, sample, Path(folder))
        engine = load_engine(built.folder, built.artifact, contract)
        try:
            return score_frame(engine, contract, frame, output)
        finally:
            engine.close()


def _estimated(estimator: Any, frame: "pd.DataFrame", features: list[str]) -> Array:
    named = getattr(estimator, "feature_names_in_", None)
    rows = frame[features].to_numpy() if named is None else frame[list(named)]
    if hasattr(estimator, "predict_proba"):
        given = np.asarray(estimator.predict_proba(rows))
        return given[:, -1].astype(np.float64)
    return read_labels("regression", np.asarray(estimator.predict(rows)).reshape(len(frame)))


@contextlib.contextmanager
def _limited_memory(limit_bytes: int | None) -> Iterator[None]:
    """Let this process allocate so much more, and no more.

    RLIMIT_DATA counts private memory only, so that a shared object store stays out of it.
    """
    if limit_bytes is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_private_bytes() + limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _private_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
