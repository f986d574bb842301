"""Where rows come from: files, Delta tables, and what an endpoint answered."""

import io
import logging
import math
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import orjson

from aios.contracts import Contract
from aios.errors import UsageError
from aios.monitoring.recorded import FEEDBACK_SUFFIX, SEALED_COLUMNS, opened
from aios.records import DataSource
from aios.security.keyring import Keyring
from aios.training.files import File, Files, Piece, files_at, open_system

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger("aios.training")

PREDICTED = "predicted_"
"""What stands before an output's name: under the bare name stands the truth, from feedback."""

_LOGGED = ("at_s", "request_id", "key", "row", "version", "arm", "degraded")
_READABLE = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
"""Features of Delta tables that change nothing for who reads their Parquet files."""


class Rows(Protocol):
    """A table that is read in pieces, by anyone: what `open_source` gives."""

    @property
    def schema(self) -> "pa.Schema":
        """Name and type of each column."""

    @property
    def size_bytes(self) -> int:
        """What it takes on disk."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The work of reading everything, in an order that stays."""

    def read(self, piece: Piece) -> Iterator["pa.Table"]:
        """The rows of one piece, some thousand at a time."""


def open_source(
    source: DataSource, log_url: str, keyring: Keyring | None = None
) -> tuple[DataSource, Rows]:
    """Look at a source: the source with the version that it has now, and its rows.

    Columns of `predictions`: the inputs by their names; the outputs as `predicted_<name>`; those
    of the feedback by their names, where each request's last one counts, and only requests that
    have one are given; `at_s`, `request_id`, `key`, `row`, `version`, `arm`, `degraded`, unless an
    input or feedback is named so. Feedback on a request of several records holds for each of
    them. The whole feedback is held in memory (about 100 bytes for each), the log is not.

    Args:
        keyring: opens what is encrypted in a prediction log.

    Raises:
        UsageError: nothing is there, it cannot be read, or the Delta version does not exist; or
            rows are encrypted with a key that the keyring lacks.
    """
    if source.kind in ("parquet", "frame"):
        return source, files_at("parquet", source.location)
    if source.kind == "csv":
        return source, files_at("csv", source.location)
    if source.kind == "delta":
        version, rows = _delta(source.location, source.version)
        return source.model_copy(update={"version": version}), rows
    return _predictions(source, log_url, keyring)


def refuse_private(contract: Contract) -> None:
    """See that a prediction log holds every input as it was.

    Raises:
        UsageError: some are private, so that it holds hashes of them, or nothing.
    """
    private = [f"{n} ({f.private})" for n, f in contract.inputs.items() if f.private is not None]
    if private:
        raise UsageError(
            f"the prediction log does not hold {', '.join(private)} as it was asked: the contract "
            "says that it is private, and a model cannot be trained on hashes or on nothing; give "
            "a table of your own that has it, joined by request_id"
        )


@dataclass(frozen=True)
class _Opened:
    """The files of a prediction log, or of feedback, with their encrypted columns opened."""

    files: Files
    name: str
    keyring: Keyring | None

    @property
    def schema(self) -> "pa.Schema":
        import pyarrow as pa

        return pa.schema([entry for entry in self.files.schema if entry.name != "sealed_with"])

    @property
    def size_bytes(self) -> int:
        return self.files.size_bytes

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return self.files.pieces

    def scan(self, columns: Sequence[str] | None = None) -> Iterator["pa.Table"]:
        """All rows, piece by piece."""
        for piece in self.pieces:
            yield from self.read(piece, columns)

    def read(self, piece: Piece, columns: Sequence[str] | None = None) -> Iterator["pa.Table"]:
        there = self.files.schema.names
        wanted = list(self.schema.names if columns is None else columns)
        if "sealed_with" not in there:
            yield from self.files.read(piece, wanted)
            return
        beside = [name for name in ("request_id", "row", "sealed_with") if name in there]
        for table in self.files.read(piece, list(dict.fromkeys([*wanted, *beside]))):
            sealed = [name for name in wanted if name in SEALED_COLUMNS]
            yield self._open(table, sealed).select(wanted)

    def _open(self, table: "pa.Table", sealed: list[str]) -> "pa.Table":
        import pyarrow as pa

        if not sealed or table.column("sealed_with").null_count == table.num_rows:
            return table
        rows = [opened(self.keyring, self.name, row, sealed) for row in table.to_pylist()]
        for name in sealed:
            texts = pa.array([row[name] for row in rows], pa.string())
            table = table.set_column(table.column_names.index(name), name, texts)
        return table


@dataclass(frozen=True)
class _Logged:
    """A prediction log whose JSON became columns, joined with feedback."""

    log: _Opened
    schema: "pa.Schema"
    inputs: "pa.Schema"
    outputs: "pa.Schema"
    feedback: "pa.Table | None"

    @property
    def size_bytes(self) -> int:
        return self.log.size_bytes

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return self.log.pieces

    def read(self, piece: Piece) -> Iterator["pa.Table"]:
        import pyarrow.compute as pc

        for table in self.log.read(piece):
            known = None
            if self.feedback is not None:
                known = pc.index_in(
                    table.column("request_id"), value_set=self.feedback.column("request_id")
                )
                has_one = pc.is_valid(known)
                table, known = table.filter(has_one), known.filter(has_one)
            if table.num_rows:
                yield self._expand(table, known)

    def _expand(self, table: "pa.Table", known: "pa.ChunkedArray | None") -> "pa.Table":
        import pyarrow as pa

        columns = {name: table.column(name) for name in _LOGGED}
        inputs = _parse(table.column("inputs"), self.inputs)
        columns |= {name: inputs.column(name) for name in inputs.column_names}
        outputs = _parse(table.column("outputs"), self.outputs)
        columns |= {PREDICTED + name: outputs.column(name) for name in outputs.column_names}
        if self.feedback is not None and known is not None:
            truth = self.feedback.drop_columns(["request_id"]).take(known)
            columns |= {name: truth.column(name) for name in truth.column_names}
        return pa.table(columns).select(self.schema.names).cast(self.schema)


def _predictions(
    source: DataSource, log_url: str, keyring: Keyring | None
) -> tuple[DataSource, _Logged]:
    import pyarrow as pa

    url = f"{log_url.rstrip('/')}/{source.location}"
    try:
        version, files = _delta(url, source.version)
    except UsageError as error:
        raise UsageError(
            f"endpoint {source.location!r} has no prediction log that can be read: {error}"
        ) from None
    log = _Opened(files, source.location, keyring)
    inputs, outputs = _json_schemas(log, ("inputs", "outputs"), source.location)
    feedback_version, feedback = _feedback(url, source.location, source.feedback_version, keyring)
    logged = {name: log.schema.field(name).type for name in _LOGGED}
    named = {PREDICTED + entry.name: entry.type for entry in outputs}
    types = logged | {entry.name: entry.type for entry in inputs} | named
    if feedback is not None:
        truth = feedback.schema.remove(feedback.schema.get_field_index("request_id"))
        types |= {entry.name: entry.type for entry in truth}
    schema = pa.schema(list(types.items()))
    rows = _Logged(log, schema, inputs, outputs, feedback)
    now = {"version": version, "feedback_version": feedback_version}
    return source.model_copy(update=now), rows


def _feedback(
    log: str, endpoint: str, version: int | None, keyring: Keyring | None
) -> tuple[int | None, "pa.Table | None"]:
    """The table's version, and the last feedback on each request: request_id and a column for
    each value named. None where nobody has given any."""
    import pyarrow as pa

    url = log + FEEDBACK_SUFFIX
    system, root = open_system(url)
    if not system.isdir(posixpath.join(root, "_delta_log")):
        return None, None
    version, found_files = _delta(url, version)
    files = _Opened(found_files, endpoint + FEEDBACK_SUFFIX, keyring)
    found = pa.concat_tables([files.schema.empty_table(), *files.scan()]).to_pydict()
    # By number, as a clock may be set back; what was written by an aios without them came before.
    numbers = [-1 if number is None else number for number in found.get("seq", ())]
    numbers = numbers or [-1] * len(found["at_s"])
    order = sorted(range(len(numbers)), key=lambda place: (numbers[place], found["at_s"][place]))
    last = {found["request_id"][place]: found["values"][place] for place in order}
    columns = _columns([orjson.loads(values) for values in last.values()], endpoint)
    return version, pa.table({**columns, "request_id": pa.array(last, pa.string())})


def _columns(rows: Sequence[dict[str, Any]], endpoint: str) -> dict[str, "pa.Array"]:
    """Values as columns. Of each name the kind that most values have counts: numbers (true is 1,
    and "1" too) or texts; what does not fit is null, so that one slip stops nobody's training."""
    import pyarrow as pa

    found: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        texts = sum(isinstance(value, str) for value in values)
        known = sum(value is not None for value in values)
        if 2 * texts > known:
            found[name] = pa.array(
                [value if isinstance(value, str) else None for value in values], pa.string()
            )
        else:
            found[name] = _numbers([_as_number(value) for value in values])
        unfit = known - (len(values) - found[name].null_count)
        if unfit:
            logger.warning(
                "%d of %d values of %r in the feedback of %s are of another kind than the others, "
                "and left out",
                unfit,
                known,
                name,
                endpoint,
            )
    return found


def _as_number(value: Any) -> float | int | None:
    if isinstance(value, str):
        try:
            return float(value) if math.isfinite(float(value)) else None
        except ValueError:
            return None
    return int(value) if isinstance(value, bool) else value


def _numbers(values: Sequence[float | int | None]) -> "pa.Array":
    """Whole numbers as int64 if all are, else float64."""
    import pyarrow as pa

    whole = all(
        value is None or (float(value).is_integer() and abs(value) < 2**53) for value in values
    )
    if not whole:
        return pa.array([None if one is None else float(one) for one in values], pa.float64())
    return pa.array([None if one is None else int(one) for one in values], pa.int64())


def _json_schemas(files: _Opened, columns: Sequence[str], where: str) -> list["pa.Schema"]:
    """The types of JSON objects in these columns, over all rows."""
    import pyarrow as pa

    found: dict[str, list[pa.Schema]] = {name: [] for name in columns}
    try:
        for table in files.scan(columns):
            for name in columns:
                found[name].append(_plain_texts(_parse(table.column(name), None).schema))
        return [
            pa.unify_schemas([pa.schema([]), *found[name]], promote_options="permissive")
            for name in columns
        ]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UsageError(
            f"the records of {where} do not fit together: {error}; give the Delta table at a "
            "version where they do, or make a table of your own from it"
        ) from None


def _parse(texts: "pa.ChunkedArray", schema: "pa.Schema | None") -> "pa.Table":
    """JSON objects as columns; of a schema's columns if there is one."""
    import pyarrow as pa
    import pyarrow.json as pj

    if not len(texts) or (schema is not None and not len(schema)):
        return (schema or pa.schema([])).empty_table()
    lines = "\n".join(text or "{}" for text in texts.to_pylist()).encode()
    parsed = pj.ParseOptions(
        explicit_schema=schema,
        unexpected_field_behavior="infer" if schema is None else "ignore",
    )
    read = pj.ReadOptions(block_size=len(lines) + 1, use_threads=False)
    return pj.read_json(io.BytesIO(lines), read_options=read, parse_options=parsed)


def _plain_texts(schema: "pa.Schema") -> "pa.Schema":
    """Texts that look like times stay texts: whether all do is chance."""
    import pyarrow as pa

    return pa.schema(
        [
            entry.with_type(pa.string()) if pa.types.is_timestamp(entry.type) else entry
            for entry in schema
        ]
    )


def _delta(url: str, version: int | None) -> tuple[int, Files]:
    """A Delta table's version (the newest, if None is asked for) and its files then."""
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    system, root = open_system(url)
    try:
        table = DeltaTable(url, version=version)
    except TableNotFoundError:
        raise UsageError(
            f"no Delta table at {url}: give the folder that holds _delta_log"
        ) from None
    except (DeltaError, OSError, ValueError) as error:
        if version is None:
            raise UsageError(f"the Delta table at {url} cannot be read: {error}") from None
        newest = _newest(url)
        raise UsageError(
            f"the Delta table at {url} has no version {version}"
            + ("" if newest is None else f" (the newest is {newest})")
            + f": {error}"
        ) from None
    _check_readable(table, url)
    actions = pa.table(table.get_add_actions(flatten=True))
    files = []
    for action in actions.to_pylist():
        constants = {
            name.removeprefix("partition."): value
            for name, value in action.items()
            if name.startswith("partition.")
        }
        path = posixpath.join(root, unquote(action["path"]))
        files.append(File(path, action["size_bytes"], constants))
    files.sort(key=lambda file: file.path)
    rows = Files("parquet", url, system, tuple(files), stated=pa.schema(table.schema()))
    return table.version(), rows


def _newest(url: str) -> int | None:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        return int(DeltaTable(url).version())
    except DeltaError:
        return None


def _check_readable(table: Any, url: str) -> None:
    """See that the table's Parquet files, read as they are, are the table."""
    needs = set(table.protocol().reader_features or ()) - _READABLE
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        needs.add("columnMapping")
    if needs:
        raise UsageError(
            f"the Delta table at {url} uses {', '.join(sorted(needs))}, which aios does not read: "
            "write it once as Parquet, or without"
        )
