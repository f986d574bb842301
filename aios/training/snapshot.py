"""A snapshot: rows copied into the run's folder, counted, profiled and sealed by a digest."""

import functools
from typing import Any

from aios.errors import UsageError
from aios.records import DataSource, Snapshot
from aios.security.keyring import Keyring
from aios.training.data import ROWS, cleared, each
from aios.training.files import Piece, Writer
from aios.training.profiles import Tally
from aios.training.sources import Rows, open_source


def take_snapshot(
    source: DataSource,
    folder: str,
    log_url: str,
    taken_s: float,
    keyring: Keyring | None = None,
) -> Snapshot:
    """Copy a source to `<folder>/rows` and say all that a `records.Snapshot` says of it.

    The source is read once, whatever its size, in a memory that does not grow with it; what a run
    does later it does with the copy, so that the snapshot and the model are of the same rows.
    The same rows give the same digest in any order, from any number of files and of any kind of
    source whose columns have these names and types.

    Args:
        source: what to read.
        folder: the run's, a path or URL.
        log_url: where endpoints' prediction logs are.
        taken_s: Unix seconds.
        keyring: opens prediction logs that are encrypted; the copy is in the clear, as a run's
            folder has to be.

    Raises:
        UsageError: the source is missing, cannot be read, or has no rows.
    """
    found, rows = open_source(source, log_url, keyring)
    system, root = cleared(f"{folder.rstrip('/')}/{ROWS}")
    system.makedirs(root, exist_ok=True)
    whole = Tally(rows.schema)
    for tally in each(rows, functools.partial(_copy, rows, system, root)):
        whole.merge(tally)
    if not whole.rows:
        why = (
            ""
            if source.kind != "predictions"
            else (": no prediction has been recorded, or none has feedback")
        )
        raise UsageError(f"{source} has no rows{why}")
    return Snapshot(
        kind=found.kind,
        location=found.location,
        version=found.version,
        feedback_version=found.feedback_version,
        rows=whole.rows,
        duplicate_rows=whole.duplicate_rows(),
        columns=whole.profiles(),
        digest=whole.digest(),
        taken_s=taken_s,
    )


def _copy(rows: Rows, system: Any, root: str, piece: Piece) -> Tally:
    """Write a piece into the run's folder, and count it."""
    tally = Tally(rows.schema)
    with Writer(system, root, f"{piece.number:06d}") as writer:
        for table in rows.read(piece):
            writer.write("", table)
            tally.add(table)
    return tally
