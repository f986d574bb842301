"""Why a version gave an answer: its engine asked again, against rows that it was trained on."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aios.contracts import Contract
from aios.errors import AiosError, UsageError
from aios.governance.explanations import Contributions, contributions
from aios.governance.scoring import score_frame
from aios.models import load_engine
from aios.records import CodeSource, ModelVersion, Record
from aios.store.artifacts import ArtifactStore
from aios.training.pipeline import BACKGROUND
from aios.training.recipe_source import load_recipe
from aios.training.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

PERMUTATIONS = 200
MOST_SCORED = 20_000
"""Rows that the model scores for one explanation, about a second's work; with many features
there are fewer permutations, and larger standard errors tell so."""
FEWEST_PERMUTATIONS = 20


class Reasons(Record):
    """What each feature added to one `output` of an answer; or None, and `why` there is nothing."""

    output: str | None = None
    contributions: Contributions | None = None
    why: str | None = None


def explain_answer(
    version: ModelVersion,
    inputs: Mapping[str, Any],
    recipe: CodeSource | None,
    workspace: Workspace,
    seed: int = 0,
) -> Reasons:
    """The contributions of an answer's features, as the version would give it now.

    A version is immutable, so it is the answer that was given. What cannot be explained is
    told in `why` and raises nothing: the rest of an explanation is worth having without it.

    Args:
        inputs: one record, as it was asked.
        recipe: of the run that made or assessed the version: says which output is its score.
        workspace: that run's folder, which holds the background rows.
    """
    try:
        contract = Contract.from_json(version.contract)
        _refuse_private(contract)
        background = _background(version, workspace)
        output = _score_of(contract, recipe)
        folder = ArtifactStore(workspace.artifacts_url, Path(workspace.cache)).fetch(
            version.artifact.digest
        )
        engine = load_engine(folder, version.artifact, contract, ref=version.ref)
        try:
            found = contributions(
                lambda frame: score_frame(engine, contract, frame, output),
                _row(contract, inputs),
                background,
                seed=seed,
                permutations=_affordable(len(contract.inputs)),
            )
        finally:
            engine.close()
    except AiosError as error:
        return Reasons(why=error.message)
    return Reasons(output=output, contributions=found)


def _refuse_private(contract: Contract) -> None:
    private = [name for name, field in contract.inputs.items() if field.private is not None]
    if private:
        raise UsageError(
            f"{', '.join(private)} is private by the contract: the prediction log does not hold "
            "what was asked, so that the model cannot be asked again"
        )


def _background(version: ModelVersion, workspace: Workspace) -> "pd.DataFrame":
    import pandas as pd

    content = workspace.read(BACKGROUND)
    if content is None:
        raise UsageError(
            f"the run of {version.ref} left no background rows in {workspace.url}: its folder was "
            f'cleared; rt.assess("{version.ref}", recipe, data=...) makes them anew'
        )
    return pd.read_parquet(io.BytesIO(content))


def _row(contract: Contract, inputs: Mapping[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    columns = {name: [inputs.get(name)] for name in contract.inputs}
    return pd.DataFrame(columns, dtype=object)


def _score_of(contract: Contract, recipe: CodeSource | None) -> str:
    """Which output is explained: the only one, else the one that the recipe predicts."""
    if len(contract.outputs) == 1 or recipe is None:
        return next(iter(contract.outputs))
    made = load_recipe(recipe)
    return made.output or made.label


def _affordable(features: int) -> int:
    """How many permutations, given that each takes about twice as many rows as features."""
    return max(FEWEST_PERMUTATIONS, min(PERMUTATIONS, MOST_SCORED // (2 * features)))
