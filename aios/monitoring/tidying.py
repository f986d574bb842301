"""Keeps the prediction log small and young: old rows leave, small files become large ones, rows
under an old key come under the newest. Replicas go on appending meanwhile.

Nothing here conflicts with an append: what is deleted or written anew is a span of time that has
passed. Whoever reads goes on with the files that were there when he began, for a week.
"""

import logging
import math
import posixpath
import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from aios.errors import AiosError, StoreUnavailable
from aios.monitoring.recorded import FEEDBACK_SUFFIX, SEALED_COLUMNS, opened
from aios.records import Record
from aios.security.keyring import Keyring, Sealer, context, key_of

VACUUM_HOURS = 168
"""How long files stay that the table no longer has, Delta's own default: a reader, or a snapshot
of a version that has gone by, is not hurt."""
FILE_BYTES = 128 * 2**20
SPAN_BYTES = 32 * 2**20
"""Files that are written anew at a time; their rows are in memory at once."""
SETTLED_S = 600.0
"""Rows so old come no more: replicas flush every few seconds, and clocks differ by less."""
ROWS_AT_A_TIME = 5_000
MOST_TRIES = 8
PAUSE_S = 0.1
UNREADABLE = "_unreadable"
"""The folder inside a table for files that cannot be read."""

logger = logging.getLogger("aios.monitoring")


class Tidied(Record):
    """What was done to an endpoint's log and to its feedback.

    Attributes:
        rows_removed: they were older than rows are kept.
        rows_resealed: they were in the clear or under an older key, and are under the newest.
        rows_closed: they are under a key that the keyring lacks, and stay as they are.
        files_before, files_after: of the newest version of the tables.
        set_aside: files that could not be read and were moved into `_unreadable`, ever.
        keys: ids of the keys that rows are under.
    """

    endpoint: str
    rows_removed: int = 0
    rows_resealed: int = 0
    rows_closed: int = 0
    files_before: int = 0
    files_after: int = 0
    set_aside: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


def tidy(
    log_url: str,
    endpoint: str,
    keep_days: float | None,
    keyring: Keyring | None,
    pinned: Collection[tuple[int | None, int | None]] = (),
) -> Tidied:
    """Tidy the log of one endpoint and the feedback beside it. Can be done again at any time.

    Args:
        keep_days: rows older than so many days leave; None keeps all.
        keyring: encrypts, and opens what is encrypted; None leaves rows as they are.
        pinned: versions (of the log, of the feedback) whose files must stay.

    Raises:
        StoreUnavailable: a table is there and cannot be read or written now.
    """
    from deltalake.exceptions import DeltaError
    from pyarrow import ArrowException

    whole = Tidied(endpoint=endpoint)
    for side, name in enumerate((endpoint, endpoint + FEEDBACK_SUFFIX)):
        url = f"{log_url.rstrip('/')}/{name}"
        keep = sorted({version for one in pinned if (version := one[side]) is not None})
        try:
            found = _Table(url, name, keyring).tidy(keep_days, keep)
        except (DeltaError, ArrowException, OSError) as error:
            raise StoreUnavailable(f"the log at {url} cannot be tidied now: {error}") from None
        whole = _sum(whole, found)
    return whole


def keys_in_use(log_url: str, endpoints: Collection[str]) -> dict[str, list[str]]:
    """The ids of the keys that rows of the newest versions are under, by endpoint.

    Raises:
        StoreUnavailable: a table is there and cannot be read now.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError
    from pyarrow import ArrowException

    found: dict[str, list[str]] = {}
    for endpoint in endpoints:
        keys: set[str] = set()
        for name in (endpoint, endpoint + FEEDBACK_SUFFIX):
            url = f"{log_url.rstrip('/')}/{name}"
            try:
                keys |= _keys(DeltaTable(url))
            except TableNotFoundError:
                continue
            except (DeltaError, ArrowException, OSError) as error:
                raise StoreUnavailable(f"the log at {url} cannot be read now: {error}") from None
        found[endpoint] = sorted(keys)
    return found


def _sum(first: Tidied, second: Tidied) -> Tidied:
    """Both; numbers are added, names put together."""
    added = {
        name: value + getattr(second, name)
        for name, value in first
        if isinstance(value, int | tuple)
    }
    return first.model_copy(update={**added, "keys": tuple(sorted(set(added["keys"])))})


class _Table:
    """One Delta table while it is tidied."""

    def __init__(self, url: str, name: str, keyring: Keyring | None) -> None:
        self._url = url
        self._name = name
        self._keyring = keyring

    def tidy(self, keep_days: float | None, keep_versions: Sequence[Any]) -> Tidied:
        from deltalake.exceptions import TableNotFoundError

        try:
            before = len(self._open().file_uris())
        except TableNotFoundError:
            return Tidied(endpoint=self._name)
        self._set_unreadable_aside(deep=False)
        try:
            removed, (resealed, closed) = self._rewrite(keep_days)
        except Exception:
            # A file whose end is whole may be damaged in the middle; if none is, that was not it.
            if not self._set_unreadable_aside(deep=True):
                raise
            removed, (resealed, closed) = self._rewrite(keep_days)
        _again(lambda: self._vacuum(keep_versions))
        table = self._open()
        return Tidied(
            endpoint=self._name,
            rows_removed=removed,
            rows_resealed=resealed,
            rows_closed=closed,
            files_before=before,
            files_after=len(table.file_uris()),
            set_aside=self._set_aside(),
            keys=tuple(sorted(_keys(table))),
        )

    def _open(self) -> Any:
        from deltalake import DeltaTable

        return DeltaTable(self._url)

    def _rewrite(self, keep_days: float | None) -> tuple[int, tuple[int, int]]:
        removed = 0
        if keep_days is not None:
            before_s = time.time() - keep_days * 86_400.0
            removed = _again(lambda: self._delete(before_s))
        resealed = self._reseal()
        _again(lambda: self._open().optimize.compact(target_size=FILE_BYTES))
        return removed, resealed

    def _delete(self, before_s: float) -> int:
        table = self._open()
        oldest = [file.get("min.at_s") for file in _files(table)]
        if all(one is not None and one >= before_s for one in oldest):
            return 0  # and no version is made of nothing
        found = table.delete(f"at_s < {before_s!r}")
        return int(found.get("num_deleted_rows") or 0)

    def _vacuum(self, keep_versions: Sequence[int]) -> None:
        table = self._open()
        there = range(table.version() + 1)
        keep = [version for version in keep_versions if version in there]
        table.vacuum(
            VACUUM_HOURS,
            dry_run=False,
            enforce_retention_duration=False,
            full=True,  # and what a replica left that ran out of disk in the middle
            keep_versions=keep or None,
        )

    # -- keys -------------------------------------------------------------------------

    def _reseal(self) -> tuple[int, int]:
        """Write settled rows anew that are not under the newest key; how many, and how many
        could not be opened."""
        if self._keyring is None or not self._keyring.encrypts:
            return 0, 0
        resealed, closed, since_s = 0, 0, -math.inf
        while True:
            span = _span(self._open(), self._keyring.ids[-1], since_s, time.time() - SETTLED_S)
            if span is None:
                return resealed, closed
            done, left = _again(lambda span=span: self._reseal_span(*span))  # type: ignore[misc]
            resealed, closed, since_s = resealed + done, closed + left, span[1]

    def _reseal_span(self, from_s: float, to_s: float) -> tuple[int, int]:
        import pyarrow as pa
        from deltalake import Field, write_deltalake
        from deltalake.schema import PrimitiveType
        from pyarrow.dataset import field

        assert self._keyring is not None
        table = self._open()
        if "sealed_with" not in {one.name for one in table.schema().fields}:
            table.alter.add_columns([Field("sealed_with", PrimitiveType("string"), nullable=True)])
        within = (field("at_s") >= from_s) & (field("at_s") <= to_s)
        rows = table.to_pyarrow_dataset().to_table(filter=within)
        sealer = self._keyring.sealer()
        assert sealer is not None
        made, counts = [], [0, 0]
        for batch in rows.to_batches(max_chunksize=ROWS_AT_A_TIME):
            found = [self._resealed(row, sealer, counts) for row in batch.to_pylist()]
            made.append(pa.RecordBatch.from_pylist(found, schema=rows.schema))
        if counts[0]:
            span = f"at_s >= {from_s!r} AND at_s <= {to_s!r}"
            content = pa.Table.from_batches(made, schema=rows.schema)
            write_deltalake(table, content, mode="overwrite", predicate=span)
        return counts[0], counts[1]

    def _resealed(self, row: dict[str, Any], sealer: Sealer, counts: list[int]) -> dict[str, Any]:
        """A row under the sealer's key; counted, as [done, left as it was]."""
        tag = row["sealed_with"]
        if tag is not None and key_of(tag) == key_of(sealer.tag):
            return row
        try:
            found = self._sealed(opened(self._keyring, self._name, row), sealer)
        except AiosError:  # of a key that is not here, or changed
            counts[1] += 1
            return row
        counts[0] += 1
        return found

    def _sealed(self, row: dict[str, Any], sealer: Sealer) -> dict[str, Any]:
        where = (self._name, row["request_id"], row.get("row", 0))
        texts = {
            name: sealer.seal(row[name].encode(), context(*where, name)).decode()
            for name in SEALED_COLUMNS
            if row.get(name) is not None
        }
        return {**row, **texts, "sealed_with": sealer.tag}

    # -- damage -----------------------------------------------------------------------

    def _set_unreadable_aside(self, *, deep: bool) -> bool:
        """Move files that are no Parquet out of the table, and let it forget them; whether there
        were any. With `deep` their content is read too."""
        import fsspec

        table = self._open()
        system, root = fsspec.core.url_to_fs(self._url)
        gone = False
        for path in [file["path"] for file in _files(table)]:
            where = posixpath.join(str(root), path)
            why = _damage(system, where, deep=deep)
            if why is None:
                continue
            gone = True
            logger.error(
                "%s of the log %s cannot be read and is set aside: %s", path, self._url, why
            )
            if system.exists(where):
                aside = posixpath.join(str(root), UNREADABLE)
                system.makedirs(aside, exist_ok=True)
                system.mv(where, posixpath.join(aside, posixpath.basename(path)))
        if gone:
            table.repair()
        return gone

    def _set_aside(self) -> tuple[str, ...]:
        import fsspec

        system, root = fsspec.core.url_to_fs(self._url)
        aside = posixpath.join(str(root), UNREADABLE)
        return (
            tuple(sorted(map(str, system.ls(aside, detail=False)))) if system.isdir(aside) else ()
        )


def _damage(system: Any, path: str, *, deep: bool) -> str | None:
    """What is wrong with a Parquet file; None if nothing is.

    Raises:
        OSError: the store cannot be read now, which says nothing about the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with system.open(path, "rb") as opened_file:
            content = opened_file.read() if deep else None
            if content is None:
                pq.ParquetFile(opened_file).close()
                return None
    except FileNotFoundError:
        return "it is not there"
    except pa.ArrowInvalid as error:
        return str(error)[:200]
    try:
        pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:  # damaged pages are an OSError to Arrow
        return str(error)[:200]
    return None


def _span(table: Any, newest: str, since_s: float, until_s: float) -> tuple[float, float] | None:
    """The next span of time whose rows are to be written anew: of files that have rows under
    another key than `newest`, or in the clear, after `since_s`; None if there is none."""
    spans = []
    for file in _files(table):
        first, last = file.get("min.at_s"), file.get("max.at_s")
        if first is None or last is None or _under(file, newest):
            continue
        first, last = max(first, math.nextafter(since_s, math.inf)), min(last, until_s)
        if first <= last:
            spans.append((first, last, file["size_bytes"]))
    if not spans:
        return None
    spans.sort()
    from_s, to_s, size_bytes = spans[0]
    for first, last, more_bytes in spans[1:]:
        if size_bytes + more_bytes > SPAN_BYTES and first > to_s:
            break
        to_s, size_bytes = max(to_s, last), size_bytes + more_bytes
    return from_s, to_s


def _under(file: dict[str, Any], key: str) -> bool:
    """Whether all rows of a file are under this key, by the statistics of the table."""
    low, high = file.get("min.sealed_with"), file.get("max.sealed_with")
    if not low or not high or file.get("null_count.sealed_with") != 0:
        return False
    return key_of(low) == key and key_of(high) == key


def _keys(table: Any) -> set[str]:
    """The keys that rows are under. Only files of several keys are read."""
    from pyarrow.dataset import field

    if "sealed_with" not in {one.name for one in table.schema().fields}:
        return set()
    found: set[str] = set()
    for file in _files(table):
        low, high = file.get("min.sealed_with"), file.get("max.sealed_with")
        if low and high and key_of(low) == key_of(high):
            found.add(key_of(low))
            continue
        if file.get("null_count.sealed_with") == file["num_records"]:
            continue
        within = field("at_s") >= file.get("min.at_s", -math.inf)
        within &= field("at_s") <= file.get("max.at_s", math.inf)
        rows = table.to_pyarrow_dataset().to_table(columns=["sealed_with"], filter=within)
        tags = rows.column("sealed_with").unique().to_pylist()
        found |= {key_of(tag) for tag in tags if tag is not None}
    return found


def _files(table: Any) -> list[dict[str, Any]]:
    """The files of the table, each with its statistics."""
    import pyarrow as pa

    found: list[dict[str, Any]] = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    return found


def _again(act: Callable[[], Any]) -> Any:
    """Do something until nobody else changes the same files meanwhile."""
    from deltalake.exceptions import CommitFailedError

    for attempt in range(MOST_TRIES):
        try:
            return act()
        except CommitFailedError:
            if attempt == MOST_TRIES - 1:
                raise
            time.sleep(PAUSE_S * (attempt + 1) * random.random())
    raise AssertionError("not reached")
