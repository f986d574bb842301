"""The parts of a run's data, as recipes and gates read them, and Ray Data under them.

A run's folder holds `rows/` (the source as it was), `features/` (what the recipe made of it)
and, once split, `train/`, `validation/` and `holdout/`: Parquet files all.
"""

import functools
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from aios.errors import AiosError, UsageError
from aios.packaging import CODE_MODULE
from aios.training.files import Files, Piece, files_at, open_system
from aios.training.sources import Rows

if TYPE_CHECKING:
    import pandas as pd
    import ray.data

Part = Literal["train", "validation", "holdout"]
T = TypeVar("T")

ORDER = "_order"
"""A column of each part: 64 bits of a hash of the row. Rows sorted by it stand in an order that
depends on what they are and not on where they came from."""
ROWS = "rows"
FEATURES = "features"

_SMALL_BYTES = 64 * 2**20
"""What is read here rather than by Ray's workers: it takes less time than to ask them."""
_LARGEST_BLOCK_BYTES = 64 * 2**20
_BLOCKS_IN_STORE = 16
"""How many of Ray Data's blocks fit into the object store at least."""

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_CAUSED = "The above exception was the direct cause of the following exception:"
_OURS = re.compile(r"[/\\](site-packages[/\\]ray|aios[/\\]training)[/\\]")


@dataclass(frozen=True)
class TrainingData:
    """Rows to fit on or to measure with: features and the label, and nothing else.

    Small and picklable: it holds where the rows are. Protected attributes, keys and times are
    not in it, unless the contract has them as inputs.

    Attributes:
        folder: the run's folder, a path or URL.
        parts: what of it is meant; a refit takes train and validation.
        features: the contract's inputs, in its order.
        label: the column to predict.
    """

    folder: str
    parts: tuple[Part, ...]
    features: list[str]
    label: str

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(files.rows for files in self._files())

    def frame(self) -> "pd.DataFrame":
        """All rows in memory: the features in the contract's order, then the label.

        The order of rows depends only on their content: the same data in other files, or read
        by other workers, gives the same frame.
        """
        return _frame(self._files(), self._columns)

    def batches(self, rows: int = 10_000) -> "Iterator[pd.DataFrame]":
        """Frames of at most `rows` rows, for what does not fit into memory, file by file."""
        for files in self._files():
            for table in files.scan(self._columns, rows):
                yield table.to_pandas()

    def dataset(self) -> "ray.data.Dataset":
        """The same as a Ray Dataset, for several machines."""
        data = _ray_data()
        paths = [file.path for files in self._files() for file in files.files]
        system = self._files()[0].system
        return data.read_parquet(paths, filesystem=system, columns=self._columns)

    @property
    def _columns(self) -> list[str]:
        return [*self.features, self.label]

    def _files(self) -> list[Files]:
        return [part_files(self.folder, part) for part in self.parts]


def read_columns(folder: str, part: Part, columns: Sequence[str]) -> "pd.DataFrame":
    """Columns of a part with its rows in `TrainingData.frame`'s order.

    For gates, which need the protected attributes of the holdout; never for fit.

    Raises:
        UsageError: a column is not there.
    """
    return _frame([part_files(folder, part)], columns)


def part_files(folder: str, part: str) -> Files:
    """The Parquet files of one folder of a run."""
    return files_at("parquet", f"{folder.rstrip('/')}/{part}")


def apply_features(
    features: "Callable[[Any], Any] | None", folder: str, needed: Sequence[str]
) -> int:
    """Turn a run's `rows/` into `features/` by the recipe's function; how many rows it gave.

    `features` None (the recipe has none of its own) takes the rows as they are.

    Args:
        features: Ray Dataset in, Ray Dataset out.
        folder: the run's.
        needed: columns that must be there afterwards: inputs, label, protected, key, time.

    Raises:
        UsageError: the function raised, gave something else or no rows, or a column is missing.
    """
    url = folder.rstrip("/")
    cleared(f"{url}/{FEATURES}")
    if features is not None:
        _write_features(features, url)
    made = features_files(url)
    missing = [name for name in needed if name not in made.schema.names]
    if missing:
        whose = "the data have" if features is None else "the recipe's features() gave"
        raise UsageError(
            f"{whose} no column {', '.join(map(repr, missing))}; columns: "
            f"{', '.join(made.schema.names)}"
        )
    if ORDER in made.schema.names:
        raise UsageError(f"no column may be named {ORDER!r}: aios keeps rows in order by it")
    return made.rows


def features_files(folder: str) -> Files:
    """What the recipe made of the rows, or the rows where it leaves them as they are."""
    url = folder.rstrip("/")
    system, root = open_system(f"{url}/{FEATURES}")
    return part_files(url, FEATURES if system.isdir(root) else ROWS)


def each(rows: Rows, work: Callable[[Piece], T]) -> Iterator[T]:
    """Do `work` on every piece: here if there is little, else by Ray Data's workers.

    Results come one by one, in any order, and hold no rows: memory does not grow with the data.
    A worker that dies is replaced, and its piece is worked on again: `work` writes files named by
    the piece.
    """
    if rows.size_bytes <= _SMALL_BYTES or not _has_ray():
        yield from map(work, rows.pieces)
        return
    from ray import cloudpickle

    pieces = rows.pieces

    def run(batch: dict[str, Any]) -> dict[str, Any]:
        (number,) = (int(number) for number in batch["number"])
        try:
            result: Any = work(pieces[number])
        except AiosError as error:  # an error that is raised here would lose its type
            result = error
        return {"result": [cloudpickle.dumps(result)]}

    numbers = [{"number": number} for number in range(len(pieces))]
    listed = _ray_data().from_items(numbers, override_num_blocks=len(numbers))
    for row in listed.map_batches(run, batch_size=1).iter_rows():
        result = cloudpickle.loads(row["result"])
        if isinstance(result, AiosError):
            raise result
        yield result


def cleared(url: str) -> tuple[Any, str]:
    """A file system, and a folder in it that a stage begins anew: nothing is there."""
    system, root = open_system(url)
    if system.exists(root):
        system.rm(root, recursive=True)
    return system, root


def _frame(parts: Sequence[Files], columns: Sequence[str]) -> "pd.DataFrame":
    import pyarrow as pa

    tables: list[pa.Table] = []
    for files in parts:
        missing = [name for name in columns if name not in files.schema.names]
        if missing:
            raise UsageError(
                f"{files.location} has no column {', '.join(map(repr, missing))}; columns: "
                f"{', '.join(files.schema.names)}"
            )
        tables += files.scan([*dict.fromkeys(columns), ORDER], rows=100_000)
    whole = pa.concat_tables(tables, promote_options="permissive").sort_by(ORDER)
    found: pd.DataFrame = whole.drop_columns([ORDER]).select(list(columns)).to_pandas()
    return found


def _write_features(features: Callable[[Any], Any], url: str) -> None:
    data = _ray_data()
    system, root = open_system(url)
    # What features() calls of its own file is sent along: workers have no such module.
    module = sys.modules.get(features.__module__)
    if module is not None and module.__name__.startswith(CODE_MODULE):
        import ray

        ray.cloudpickle.register_pickle_by_value(module)
    try:
        made = features(_streamed(part_files(url, ROWS)))
        if isinstance(made, data.Dataset):
            made.write_parquet(f"{root}/{FEATURES}", filesystem=system)
    except AiosError:
        raise
    except Exception as error:
        told = _theirs(error)
        if told is None:
            raise
        raise told from error
    if not isinstance(made, data.Dataset):
        given = "nothing" if made is None else f"a {type(made).__name__}"
        raise UsageError(
            f"the recipe's features() gave {given}: return a Ray Dataset, such as the one it was "
            "given"
        )
    if not system.glob(f"{root}/{FEATURES}/*.parquet") or not part_files(url, FEATURES).rows:
        raise UsageError("the recipe's features() gave no rows: see what it filters out")


def _streamed(files: Files) -> Any:
    """A Ray Dataset of files of which a few MB are held at once, and a task for each piece:
    Ray's own reader takes several whole files ahead."""
    data = _ray_data()
    from ray.data.block import BlockMetadata

    def task(piece: Piece) -> Any:
        known = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None)
        return data.ReadTask(functools.partial(files.read, piece), known, files.schema)

    source: Any = data.Datasource

    class Pieces(source):  # type: ignore[misc]
        """The files' pieces, for `read_datasource`."""

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            return [task(piece) for piece in files.pieces]

        def estimate_inmemory_data_size(self) -> int:
            return files.size_bytes

    return data.read_datasource(Pieces(), override_num_blocks=len(files.pieces))


def _theirs(error: Exception) -> UsageError | None:
    """An error that came out of a recipe's function, here or in one of Ray's workers; None for
    one of Ray's own, such as a lost node."""
    import ray.exceptions as known

    if isinstance(error, known.OutOfMemoryError):
        return UsageError(
            "the recipe's features() needed more memory than a worker may have: give map_batches a "
            "smaller batch_size"
        )
    if isinstance(error, known.RayTaskError):
        sections = str(error).split(_CAUSED)
        inner = len(sections) > 1 and "UserCodeException" in sections[-1]
        section = sections[-2 if inner else -1]
        frames = [(path, int(line), name) for path, line, name in _FRAME.findall(section)]
        lines = [line for line in section.splitlines() if line[:1].strip() and "ray::" not in line]
        raised = lines[0] if lines else type(error).__name__
    elif isinstance(error, known.RayError):
        return None
    else:
        found = traceback.extract_tb(error.__traceback__)
        frames = [(frame.filename, frame.lineno or 0, frame.name) for frame in found]
        raised = f"{type(error).__name__}: {error}"
    theirs = [frame for frame in frames if not _OURS.search(frame[0])]
    where = "".join(f" ({path}, line {line}, in {name})" for path, line, name in theirs[-1:])
    return UsageError(f"the recipe's features() failed: {raised}{where}")


def _has_ray() -> bool:
    import ray

    return bool(ray.is_initialized())


def _ray_data() -> Any:
    """Ray Data: silent, and with blocks of which many fit into the object store."""
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if ray.is_initialized():
        store_bytes = ray.cluster_resources().get("object_store_memory", 0.0)
        fitting = max(int(store_bytes / _BLOCKS_IN_STORE), 2**20)
        context.target_max_block_size = min(fitting, _LARGEST_BLOCK_BYTES)
    # What it logs of a failure is raised as well, and told in one line.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray.data
