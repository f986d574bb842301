"""What a user writes to train: a recipe, and the values that a search may give its settings."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from aios.errors import UsageError
from aios.records import Domain

if TYPE_CHECKING:
    from aios.training.data import TrainingData

Mode = Literal["max", "min"]
DIRECTIONS: dict[str, Mode] = {
    "auc": "max",
    "accuracy": "max",
    "r2": "max",
    "log_loss": "min",
    "brier": "min",
    "rmse": "min",
    "mae": "min",
}
"""Metrics that aios measures itself, and which way is better."""


class Recipe:
    """How to train one kind of model: subclass it, name the label, write `fit`.

    A recipe is made without arguments, on another machine, from the text of the file that
    defines it; settings are class attributes, and what a search may vary comes in `config`.

    ```python
    class LoanRecipe(aios.Recipe):
        label = "approve"

        def fit(self, config, train):
            frame = train.frame()
            model = LogisticRegression(C=config.get("C", 1.0))
            return model.fit(frame[train.features], frame[train.label])
    ```
    """

    label: ClassVar[str] = ""
    """The column to predict."""
    output: ClassVar[str | None] = None
    """The contract's output that predicts it; None: the one named as the label."""
    protected: ClassVar[Sequence[str]] = ()
    """Columns by which fairness is measured; `fit` never sees them."""
    key: ClassVar[str | None] = None
    """Rows with one key stay on one side of the split; None: the contract's key."""
    time: ClassVar[str | None] = None
    """A column: the holdout is later than everything else. None: split at random."""
    holdout_fraction: ClassVar[float] = 0.2
    validation_fraction: ClassVar[float] = 0.2
    split_seed: ClassVar[int] = 0
    """Deals rows to the parts. Apart from a run's seed, so that the holdout of every run on the
    same data is the same, and no version is compared on rows that the other was trained on."""
    metric: ClassVar[str] = "auc"
    """What the search is for: auc, log_loss, brier, accuracy, rmse, mae, r2, or one of
    `evaluate`'s."""
    mode: ClassVar[Mode | None] = None
    """Whether more (`max`) or less (`min`) is better; None: as is usual for the metric."""

    checkpoints: str | None = None
    """A folder (URL) of this fit's own, set before `fit` is called. A fit that was killed and
    is run again finds there what it kept."""

    def features(self, data: Any) -> Any:
        """Ray Dataset in, Ray Dataset out: columns made of others. Default: as they are.

        What is computed over many rows (a mean) is computed over the holdout too: do that in
        `fit`.
        """
        return data

    def fit(self, config: dict[str, Any], train: "TrainingData") -> Any:
        """Train with these settings: a model that `rt.models.register` takes.

        A generator may yield the model after each round; a search then stops early what does
        badly, and the last one counts.
        """
        raise UsageError(f"the recipe {type(self).__name__} has no fit(config, train); write one")

    def evaluate(self, model: Any, data: "TrainingData") -> Mapping[str, float]:
        """More metrics of a model on rows it has not seen; they are stored with the version."""
        return {}


def direction(recipe: Recipe) -> Mode:
    """Which way the recipe's metric is better.

    Raises:
        UsageError: the mode is neither max nor min, or is not that of a known metric.
    """
    usual = DIRECTIONS.get(recipe.metric)
    if recipe.mode is None:
        return usual or "max"
    if recipe.mode not in ("max", "min"):
        raise UsageError(f"mode is 'max' or 'min', not {recipe.mode!r}")
    if usual is not None and recipe.mode != usual:
        raise UsageError(
            f"{recipe.metric} is better when it is {'more' if usual == 'max' else 'less'}: "
            f"set mode = {usual!r}, or leave it out"
        )
    return recipe.mode


def check_recipe(recipe: Recipe) -> None:
    """See that the recipe's settings make sense by themselves.

    Raises:
        UsageError: one does not; says which and what is right.
    """
    name = type(recipe).__name__
    if not isinstance(recipe.label, str) or not recipe.label:
        raise UsageError(f'{name}: set label = "..." to the name of the column to predict')
    if isinstance(recipe.protected, str):
        raise UsageError(f"{name}: protected is a tuple: protected = ({recipe.protected!r},)")
    fractions = (recipe.holdout_fraction, recipe.validation_fraction)
    if not all(isinstance(f, int | float) and 0 < f < 1 for f in fractions) or sum(fractions) >= 1:
        raise UsageError(
            f"{name}: holdout_fraction and validation_fraction are above 0 and together below 1, "
            f"not {fractions[0]!r} and {fractions[1]!r}"
        )
    _check_takes(recipe, "fit", ("config", "train"))
    _check_takes(recipe, "evaluate", ("model", "data"))
    _check_takes(recipe, "features", ("data",))
    direction(recipe)


def uniform(low: float, high: float) -> Domain:
    """Any number from `low` to `high`."""
    _check_bounds("uniform", low, high)
    return Domain(kind="uniform", low=float(low), high=float(high))


def loguniform(low: float, high: float) -> Domain:
    """Any number from `low` to `high`, each order of magnitude as likely as another."""
    _check_bounds("loguniform", low, high)
    if low <= 0:
        raise UsageError(f"loguniform({low!r}, {high!r}): low must be above 0")
    return Domain(kind="loguniform", low=float(low), high=float(high))


def integers(low: int, high: int) -> Domain:
    """Any whole number from `low` to `high`, both included."""
    _check_bounds("integers", low, high)
    if int(low) != low or int(high) != high:
        raise UsageError(f"integers({low!r}, {high!r}): both must be whole numbers")
    return Domain(kind="integers", low=float(low), high=float(high))


def choice(options: Sequence[Any]) -> Domain:
    """One of these: texts, numbers, booleans or None."""
    if isinstance(options, str) or not isinstance(options, Sequence):
        raise UsageError(f"choice({options!r}): give a list of options")
    if not options:
        raise UsageError("choice([]): give at least one option")
    for option in options:
        if not (option is None or isinstance(option, str | int | float)):
            raise UsageError(
                f"choice: {option!r} is neither text, number, boolean nor None; choose by a name, "
                "and look the thing up in fit"
            )
    return Domain(kind="choice", options=tuple(options))


def _check_bounds(kind: str, low: Any, high: Any) -> None:
    for value in (low, high):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{kind}({low!r}, {high!r}): both must be numbers")
        if not math.isfinite(value):
            raise UsageError(f"{kind}({low!r}, {high!r}): both must be finite")
    if low >= high:
        raise UsageError(f"{kind}({low!r}, {high!r}): low must be below high")


def _check_takes(recipe: Recipe, name: str, arguments: tuple[str, ...]) -> None:
    method = getattr(recipe, name, None)
    said = f"{type(recipe).__name__}: write {name}(self, {', '.join(arguments)})"
    if not callable(method):
        raise UsageError(said)
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError:
        raise UsageError(f"{said}; now it is {name}{inspect.signature(method)}") from None
