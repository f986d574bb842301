"""Parquet and CSV files anywhere fsspec reaches, read a few thousand rows at a time."""

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from aios.errors import UsageError
from aios.training.digest import plain_type

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 10_000
BATCH_BYTES = 8 * 2**20
"""What is held at once by whoever streams: so many rows, fewer if they are wide."""
PIECE_BYTES = 32 * 2**20
MOST_PIECES = 1_000
"""About how much of a Parquet file is one piece of work; more where that would be too many."""

_SUFFIXES = {"parquet": (".parquet", ".pq"), "csv": (".csv", ".csv.gz", ".csv.bz2")}
_SNIFFED_BYTES = 16 * 2**20
_BLOCK_BYTES = 4 * 2**20
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

Format = Literal["parquet", "csv"]


@dataclass(frozen=True)
class File:
    """One file, and what its path says of all its rows (`region=north/`)."""

    path: str
    size_bytes: int
    constants: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """What is read at once by one worker: some row groups of a Parquet file, or a CSV file.

    `row_bytes` is about how wide a row is.
    """

    number: int
    file: File
    row_groups: tuple[int, ...] = ()
    row_bytes: int = 1


@dataclass(frozen=True)
class Files:
    """Files of one kind that are one table; picklable, and holds no rows.

    Columns that some files lack are null there; types that differ are widened where nothing is
    lost (integers to floating point, nothing to anything). `stated` is the schema where
    something above the files, such as a Delta log, says it.

    Raises:
        UsageError: a file is not what it is said to be, or files contradict each other.
    """

    kind: Format
    location: str
    system: Any
    files: tuple[File, ...]
    stated: "pa.Schema | None" = None

    @cached_property
    def schema(self) -> "pa.Schema":
        """Name and type of each column, over all files."""
        import pyarrow as pa

        if self.stated is not None:
            return _plain(self.stated)
        found = [_with_constants(self._own_schema(file), file.constants) for file in self.files]
        try:
            schema = pa.unify_schemas(found, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UsageError(
                f"the files at {self.location} do not fit together: {error}; write each column "
                "with one type in all files"
            ) from None
        return _plain(schema)

    @cached_property
    def size_bytes(self) -> int:
        """What the files take on disk, all together."""
        return sum(file.size_bytes for file in self.files)

    @cached_property
    def rows(self) -> int:
        """How many rows Parquet files have, by their footers."""
        return sum(self._footer(file).num_rows for file in self.files)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The work of reading everything, in the files' order."""
        pieces: list[Piece] = []
        enough_bytes = max(PIECE_BYTES, self.size_bytes // MOST_PIECES)
        for file in self.files:
            if self.kind == "csv":
                pieces.append(Piece(len(pieces), file))
                continue
            footer = self._footer(file)
            groups: list[int] = []
            size_bytes, rows = 0, 0
            for index in range(footer.num_row_groups):
                found = footer.row_group(index)
                groups.append(index)
                size_bytes += found.total_byte_size
                rows += found.num_rows
                if size_bytes >= enough_bytes or index == footer.num_row_groups - 1:
                    width = max(size_bytes // max(rows, 1), 1)
                    pieces.append(Piece(len(pieces), file, tuple(groups), width))
                    groups, size_bytes, rows = [], 0, 0
        return tuple(pieces)

    def read(
        self, piece: Piece, columns: Sequence[str] | None = None, rows: int | None = None
    ) -> Iterator["pa.Table"]:
        """The rows of one piece, at most `rows` at a time, in the shape of `schema`."""
        import pyarrow as pa

        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        rows = rows or min(BATCH_ROWS, max(BATCH_BYTES // piece.row_bytes, 1))
        made = (self._parquet if self.kind == "parquet" else self._csv)(piece, schema, rows)
        while True:
            with _Reading(self.kind, piece.file.path):
                table = next(made, None)
                if table is not None:
                    table = _conform(table, schema, piece.file.constants)
            if table is None:
                return
            if table.num_rows:
                yield table

    def scan(
        self, columns: Sequence[str] | None = None, rows: int | None = None
    ) -> Iterator["pa.Table"]:
        """All rows, piece by piece."""
        for piece in self.pieces:
            yield from self.read(piece, columns, rows)

    def _parquet(self, piece: Piece, schema: "pa.Schema", rows: int) -> Iterator["pa.Table"]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self.system.open(piece.file.path, "rb") as opened:
            file = pq.ParquetFile(opened, buffer_size=2**20, pre_buffer=False)
            own = file.schema_arrow.names
            wanted = [name for name in schema.names if name in own]
            if not wanted:  # a batch without columns has lost how many rows it had
                wanted = own[:1]
            batches = file.iter_batches(
                rows, row_groups=list(piece.row_groups), columns=wanted, use_threads=False
            )
            for batch in batches:
                yield pa.Table.from_batches([batch])

    def _csv(self, piece: Piece, schema: "pa.Schema", rows: int) -> Iterator["pa.Table"]:
        import pyarrow as pa

        types = {entry.name: entry.type for entry in self.schema}
        with self._open_csv(piece.file, _BLOCK_BYTES, types) as reader:
            for batch in reader:
                table = pa.Table.from_batches([batch])
                for start in range(0, table.num_rows, rows):
                    yield table.slice(start, rows)

    def _open_csv(self, file: File, block_bytes: int, types: Mapping[str, Any]) -> Any:
        import pyarrow.csv as pc

        return pc.open_csv(
            self.system.open(file.path, "rb", compression="infer"),
            read_options=pc.ReadOptions(block_size=block_bytes, use_threads=False),
            convert_options=pc.ConvertOptions(
                column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )

    def _own_schema(self, file: File) -> "pa.Schema":
        if self.kind == "parquet":
            schema = self._footer(file).schema.to_arrow_schema().remove_metadata()
        else:
            with (
                _Reading(self.kind, file.path),
                self._open_csv(file, _SNIFFED_BYTES, {}) as reader,
            ):
                schema = reader.schema
        doubled = {name for name in schema.names if schema.names.count(name) > 1}
        if doubled:
            raise UsageError(
                f"{file.path} has more than one column named {', '.join(sorted(doubled))}; give "
                "each its own name"
            )
        return schema

    def _footer(self, file: File) -> "pq.FileMetaData":
        if file.path not in self._footers:
            import pyarrow.parquet as pq

            with _Reading(self.kind, file.path), self.system.open(file.path, "rb") as opened:
                self._footers[file.path] = pq.ParquetFile(opened).metadata
        return self._footers[file.path]

    @cached_property
    def _footers(self) -> dict[str, Any]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the footers: a worker reads the one it needs."""
        return {name: value for name, value in self.__dict__.items() if name != "_footers"}


def files_at(kind: Format, location: str) -> Files:
    """The files of a folder (and folders in it), of a pattern (`*`), or one file.

    Raises:
        UsageError: nothing of this kind is there; says where it was looked for.
    """
    system, root = open_system(location)
    pattern = re.search(r"[*?\[]", root)
    if pattern:
        found = system.glob(root)
        root = posixpath.dirname(root[: pattern.start()])
        paths = [path for path in found if not _is_hidden(path, root) and system.isfile(path)]
    elif system.isdir(root):
        if system.isdir(posixpath.join(root, "_delta_log")):
            raise UsageError(f"{location} is a Delta table: read it as one (kind delta)")
        found = [path for path in system.find(root) if path.lower().endswith(_SUFFIXES[kind])]
        paths = [path for path in found if not _is_hidden(path, root)]
    else:
        paths = [root] if system.isfile(root) else []
    if not paths:
        raise UsageError(
            f"no {kind} files at {location}: give an absolute path that the cluster's machines "
            "can read, to a file, a folder or a pattern"
        )
    files = [File(path, system.size(path) or 0, _hive(path, root)) for path in sorted(paths)]
    return Files(kind, location, system, tuple(files))


def open_system(location: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        UsageError: nothing is installed that reads such URLs.
    """
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{location} cannot be read: {error}") from None
    return system, str(root).rstrip("/") or "/"


class Writer(AbstractContextManager["Writer"]):
    """Writes tables to Parquet files in folders, one file for each folder that gets any."""

    def __init__(self, system: Any, root: str, name: str) -> None:
        self._system = system
        self._root = root
        self._name = name
        self._open = ExitStack()
        self._writers: dict[str, Any] = {}

    def write(self, folder: str, table: "pa.Table") -> None:
        """Append rows to this folder's file."""
        import pyarrow.parquet as pq

        if not table.num_rows:
            return
        if folder not in self._writers:
            path = posixpath.join(self._root, folder, f"{self._name}.parquet")
            file = self._open.enter_context(self._system.open(path, "wb"))
            # A dictionary of measured numbers or blobs costs time and saves no space.
            repeats = [entry.name for entry in table.schema if _may_repeat(entry.type)]
            writer = pq.ParquetWriter(file, table.schema, use_dictionary=repeats)
            self._writers[folder] = self._open.enter_context(writer)
        self._writers[folder].write_table(table)

    def __exit__(self, *raised: Any) -> None:
        self._open.close()


class _Reading:
    """Tells what went wrong in reading a file as a mistake of whoever named it."""

    def __init__(self, kind: str, path: str) -> None:
        self._told = f"{path} cannot be read as {kind}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow as pa

        if isinstance(error, pa.ArrowException | OSError | EOFError):
            raise UsageError(
                f"{self._told}: {error}; see that the file is whole and of that kind"
            ) from error


def _is_hidden(path: str, root: str) -> bool:
    """Whether a file is others' book-keeping: its name, or a folder's, begins with _ or a dot."""
    inside = path[len(root) :].strip("/").split("/")
    return any(part.startswith((".", "_")) and "=" not in part for part in inside)


def _hive(path: str, root: str) -> dict[str, Any]:
    """What folders such as `year=2026` say; whole numbers are numbers."""
    found = re.findall(r"([^/=]+)=([^/]*)(?=/)", path[len(root) :])
    return {unquote(name): _hive_value(unquote(value)) for name, value in found}


def _hive_value(text: str) -> int | str | None:
    if text == _HIVE_NULL:
        return None
    return int(text) if re.fullmatch(r"-?[1-9]\d{0,17}|0", text) else text


def _may_repeat(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_integer(kind))


def _plain(schema: "pa.Schema") -> "pa.Schema":
    """Types of values, whichever way a file keeps them: not everything works on every way."""
    import pyarrow as pa

    return pa.schema([entry.with_type(plain_type(entry.type)) for entry in schema])


def _with_constants(schema: "pa.Schema", constants: Mapping[str, Any]) -> "pa.Schema":
    import pyarrow as pa

    for name, value in constants.items():
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.scalar(value).type))
    return schema


def _conform(table: "pa.Table", schema: "pa.Schema", constants: Mapping[str, Any]) -> "pa.Table":
    """A file's rows in the shape of all: columns added, ordered and widened."""
    import pyarrow as pa

    columns = []
    for entry in schema:
        if entry.name in table.column_names:
            column = table.column(entry.name)
            columns.append(column if column.type == entry.type else column.cast(entry.type))
        else:
            value = pa.scalar(constants.get(entry.name), type=entry.type)
            columns.append(pa.repeat(value, table.num_rows))
    return pa.Table.from_arrays(columns, schema=schema.remove_metadata())
