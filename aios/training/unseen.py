"""Which rows of a holdout a version has not been trained on."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aios.errors import UsageError
from aios.records import CodeSource, GateResult, ModelVersion
from aios.training.data import TrainingData
from aios.training.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

HOLDOUT = "holdout"
"""The name of a result that no policy asks for, and that bars a version all the same."""


def unseen(
    version: ModelVersion,
    frame: "pd.DataFrame",
    data: TrainingData,
    workspace: Workspace,
    snapshot: str,
    recipe: CodeSource,
) -> "tuple[pd.DataFrame, GateResult | None]":
    """A holdout without the rows that a version was fitted on or chosen by, and what to say of it.

    Rows are the same where all inputs and the label are. With the data and the recipe that it was
    trained with the holdout is the same too, and nothing is left out. Nothing is known of a
    version that was registered by hand.

    Args:
        frame: the holdout; its index is kept.
        snapshot: the digest of this run's data.
        recipe: that of this run.
        data: names the inputs and the label.
        workspace: of the run that assesses; the folder of the run that trained is beside it.

    Raises:
        UsageError: the version has seen every row.
    """
    run = version.lineage.get("run")
    before = (version.lineage.get("snapshot"), version.lineage.get("recipe"))
    now = (snapshot, {"path": recipe.path, "sha256": recipe.sha256})
    if not isinstance(run, str) or before == now:
        return frame, None
    beside = f"{workspace.url.rpartition('/')[0]}/{run}"
    trained = TrainingData(beside, ("train", "validation"), data.features, data.label)
    columns = [*data.features, data.label]
    try:
        hashes = [_hashes(rows[columns]) for rows in trained.batches()]
    except (OSError, UsageError, KeyError) as error:
        return frame, GateResult(
            gate=HOLDOUT,
            outcome="not_enough_data",
            reason=f"the rows that {version.ref} was trained on are gone or other ones "
            f"({error!s:.100}), and nobody can tell whether it has seen these; train it again",
        )
    known = np.concatenate([np.zeros(0, dtype=np.uint64), *hashes])
    fresh = ~np.isin(_hashes(frame[columns]), known)
    if not fresh.any():
        raise UsageError(
            f"{version.ref} was trained on every row of this holdout; assess it on data that it "
            "has not seen"
        )
    dropped = int((~fresh).sum())
    return frame[fresh], GateResult(
        gate=HOLDOUT,
        outcome="passed",
        value=float(dropped),
        reason=f"{dropped:,} of {len(frame):,} rows of the holdout were left out, because "
        f"{version.ref} was trained on them",
    )


def _hashes(frame: "pd.DataFrame") -> NDArray[np.uint64]:
    """64 bits for each row; numbers by their value, whatever their type."""
    import pandas as pd

    plain = frame.apply(
        lambda column: (
            column.astype(np.float64)
            if pd.api.types.is_numeric_dtype(column)
            else column.astype(str)
        )
    )
    hashes = pd.util.hash_pandas_object(plain, index=False)
    found: NDArray[np.uint64] = np.asarray(hashes, dtype=np.uint64)
    return found
