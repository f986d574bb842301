"""Rows into train, validation and holdout, so that nothing leaks from one to another."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aios.errors import UsageError
from aios.training.data import ORDER, Part, cleared, each, features_files
from aios.training.digest import Hashes, encode, hashes, key_hashes, moment_width, row_bytes
from aios.training.files import Files, Piece, Writer, open_system

if TYPE_CHECKING:
    import pyarrow as pa

PARTS: tuple[Part, ...] = ("train", "validation", "holdout")
BINS = 1 << 16

_HALF = np.uint64(1 << 63)


@dataclass(frozen=True)
class _Rules:
    """How rows are assigned. `cutoffs`: the latest time of train and that of validation."""

    label: str
    key: str | None
    time: str | None
    holdout_fraction: float
    validation_fraction: float
    seed: int
    cutoffs: tuple[int, int] | None = None


@dataclass
class _Counts:
    """What was seen of some rows."""

    rows: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[float]] = field(default_factory=lambda: {p: Counter() for p in PARTS})
    values: Counter[str] = field(default_factory=Counter)

    def see(self, part: Part, table: "pa.Table", label: str) -> None:
        """Count rows that went to a part."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self.rows[part] += table.num_rows
        labels = table.column(label).cast(pa.float64(), safe=False).to_numpy()
        found, times = np.unique(labels, return_counts=True)
        seen = Counter(dict(zip(found[:3].tolist(), times[:3].tolist(), strict=True)))
        self.labels[part] = _few(self.labels[part] + seen)
        if part == "train":
            for name in table.column_names:
                nulls = pc.sum(pc.is_null(table.column(name), nan_is_null=True)).as_py() or 0
                self.values[name] += table.num_rows - nulls

    def add(self, other: "_Counts") -> None:
        """Add what was counted of other rows."""
        self.rows += other.rows
        self.dropped += other.dropped
        self.values += other.values
        for part in PARTS:
            self.labels[part] = _few(self.labels[part] + other.labels[part])


def split(
    folder: str,
    *,
    label: str,
    key: str | None,
    time: str | None,
    holdout_fraction: float,
    validation_fraction: float,
    seed: int,
) -> dict[str, Any]:
    """Write a run's `train/`, `validation/` and `holdout/` from its features.

    Which part a row goes to depends on the row and the seed alone, not on its neighbours' order,
    the number of files or of workers; `time` looks at all times. Rows without a label go nowhere.

    * by `key`: a hash of the key decides, so that all rows of a key are in one part, in every
      run with this seed, however the data have grown since. Fractions are met on average.
    * by `time`: the holdout is strictly later than validation, which is strictly later than
      train; rows of one time stay together, in the earlier part.
    * by both: time decides, and a key that is seen in a later part is taken out of earlier ones.
      So no key is in two parts; `dropped` says how many rows that cost. It holds 8 bytes for
      each key of validation and holdout in memory.
    * by neither: a hash of the whole row decides; equal rows stay together.

    Returns:
        JSON: `by` ("key", "time", "time and key", "row"); `rows`, by part; `dropped`, rows by
        reason (`unlabelled`, `key_in_later_part`); `task` ("binary" if the label has two values,
        else "regression"); `classes`, for a binary label: by part, the rows of each value;
        `empty_columns`, without any value in train; `cutoffs`, the last times of train and
        validation, as text.

    Raises:
        UsageError: a column is missing or of a type that does not serve; keys or times are
            null; a part would be empty, or have one class only.
    """
    made = features_files(folder)
    rules = _Rules(label, key, time, holdout_fraction, validation_fraction, seed)
    _check_columns(made, rules)
    if time is not None:
        rules = replace(rules, cutoffs=_cutoffs(made, rules))
    taken = _taken_keys(made, rules)
    counts = _Counts()
    for part in PARTS:
        system, root = cleared(f"{folder.rstrip('/')}/{part}")
        system.makedirs(root, exist_ok=True)
    write = functools.partial(_write_piece, made, rules, taken, folder)
    for found in each(made, write):
        counts.add(found)
    return _told(counts, made, rules)


def _check_columns(made: Files, rules: _Rules) -> None:
    import pyarrow as pa

    for what in ("label", "key", "time"):
        name = getattr(rules, what)
        if name is not None and name not in made.schema.names:
            raise UsageError(
                f"the {what} {name!r} is no column of the data; columns: "
                f"{', '.join(made.schema.names)}"
            )
    kind = made.schema.field(rules.label).type
    types = pa.types
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    if not (is_number or types.is_boolean(kind)):
        raise UsageError(
            f"the label {rules.label!r} is of type {kind}: make it a number in features(), such as "
            "1 for yes and 0 for no (more than two classes are not supported)"
        )
    if rules.key is not None and types.is_nested(made.schema.field(rules.key).type):
        raise UsageError(f"the key {rules.key!r} must be a text or a number, not a list or object")
    if rules.time is not None:
        kind = made.schema.field(rules.time).type
        if not (types.is_integer(kind) or types.is_floating(kind) or moment_width(kind)):
            raise UsageError(
                f"the time {rules.time!r} is of type {kind}: make it a timestamp, a date or a "
                "number in features()"
            )


def _cutoffs(made: Files, rules: _Rules) -> tuple[int, int]:
    """The last times of train and of validation, exactly, in a few passes over one column."""
    assert rules.time is not None
    columns = list(dict.fromkeys([rules.time, rules.label]))

    def scan() -> Iterator[Hashes]:
        for table in made.scan(columns, rows=100_000):
            yield _ticks(table.filter(_labelled(table, rules)).column(rules.time))

    total, low, high = 0, 1 << 64, -1
    for ticks in scan():
        if ticks.size:
            low, high = min(low, int(ticks.min())), max(high, int(ticks.max()))
            total += ticks.size
    if not total:
        raise UsageError(f"no row has a label ({rules.label!r})")

    def last_of(fraction: float) -> int:
        return value_at(scan, low, high, max(round(total * fraction), 1) - 1)

    before_holdout = 1 - rules.holdout_fraction
    return last_of(before_holdout - rules.validation_fraction), last_of(before_holdout)


def value_at(scan: Callable[[], Iterator[Hashes]], low: int, high: int, rank: int) -> int:
    """What stands at a rank (from 0) among all values, from `low` to `high`, if sorted.

    Counts values in 65,536 bins, then those of the bin that holds the rank, and so on: at most
    four passes, whatever the order, in constant memory.
    """
    while low < high:
        width = (high - low) // BINS + 1
        counts = np.zeros(BINS, dtype=np.int64)
        for values in scan():
            inside = values[(values >= np.uint64(low)) & (values <= np.uint64(high))]
            bins = (inside - np.uint64(low)) // np.uint64(width)
            counts += np.bincount(bins.astype(np.int64), minlength=BINS)
        through = np.cumsum(counts)
        index = int(np.searchsorted(through, rank, side="right"))
        rank -= int(through[index] - counts[index])
        low, high = low + index * width, min(high, low + (index + 1) * width - 1)
    return low


def _ticks(column: "pa.ChunkedArray") -> Hashes:
    """Times as whole numbers from 0 on, in the same order.

    Raises:
        UsageError: some are null.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    nulls = pc.sum(pc.is_null(column, nan_is_null=True)).as_py() or 0
    if nulls:
        raise UsageError(
            f"the time is null in {nulls} of {len(column)} rows that were looked at: fill it, or "
            "drop such rows, in features()"
        )
    kind = column.type
    if pa.types.is_floating(kind):
        bits = (column.to_numpy().astype(np.float64) + 0.0).view(np.uint64)
        ordered: Hashes = np.where(bits & _HALF, ~bits, bits | _HALF)
        return ordered
    if pa.types.is_uint64(kind):
        return np.asarray(column.to_numpy(), dtype=np.uint64)
    if moment_width(kind) == 32:
        column = column.cast(pa.int32())
    numbers: NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return numbers.view(np.uint64) ^ _HALF


def _time_at(tick: int, kind: "pa.DataType") -> str:
    """What `_ticks` made a number of, as text."""
    import pyarrow as pa

    bits = np.array([tick], dtype=np.uint64)
    if pa.types.is_floating(kind):
        return str(np.where(bits & _HALF, bits & ~_HALF, ~bits).view(np.float64)[0])
    if pa.types.is_uint64(kind):
        return str(tick)
    numbers = pa.array((bits ^ _HALF).view(np.int64))
    if moment_width(kind) == 32:
        numbers = numbers.cast(pa.int32())
    return str(numbers.cast(kind)[0].as_py())


def _taken_keys(made: Files, rules: _Rules) -> dict[int, Hashes] | None:
    """For split by time and key: by part, the keys that later parts have."""
    if rules.key is None or rules.time is None:
        return None
    found = list(each(made, functools.partial(_later_keys, made, rules)))
    empty = np.zeros(0, dtype=np.uint64)
    validation = np.unique(np.concatenate([empty, *(keys for keys, _ in found)]))
    holdout = np.unique(np.concatenate([empty, *(keys for _, keys in found)]))
    return {0: np.union1d(validation, holdout), 1: holdout}


def _later_keys(made: Files, rules: _Rules, piece: Piece) -> tuple[Hashes, Hashes]:
    """The keys of a piece's rows that are in validation, and of those in holdout, by time."""
    keys: list[Hashes] = []
    parts: list[NDArray[np.int8]] = []
    assert rules.key is not None
    assert rules.time is not None
    for table in made.read(piece, list(dict.fromkeys([rules.key, rules.time, rules.label]))):
        table = table.filter(_labelled(table, rules))
        keys.append(_keys(table, rules))
        parts.append(_by_time(table, rules))
    part = np.concatenate([np.zeros(0, dtype=np.int8), *parts])
    key = np.concatenate([np.zeros(0, dtype=np.uint64), *keys])
    return np.unique(key[part == 1]), np.unique(key[part == 2])


def _write_piece(
    made: Files,
    rules: _Rules,
    taken: dict[int, Hashes] | None,
    folder: str,
    piece: Piece,
) -> _Counts:
    """Write a piece's rows to the parts they belong to."""
    import pyarrow as pa

    counts = _Counts()
    system, root = open_system(folder)
    with Writer(system, root, f"{piece.number:06d}") as writer:
        for table in made.read(piece):
            labelled = _labelled(table, rules)
            counts.dropped["unlabelled"] += len(labelled) - int(labelled.sum())
            table = table.filter(labelled)
            if not table.num_rows:
                continue
            order = hashes(row_bytes(encode(table)), rules.seed)
            part = _parts(table, rules, order, taken)
            counts.dropped["key_in_later_part"] += int((part < 0).sum())
            table = table.append_column(ORDER, pa.array(order))
            for index, name in enumerate(PARTS):
                chosen = table.filter(part == index)
                writer.write(name, chosen)
                counts.see(name, chosen, rules.label)
    return counts


def _parts(
    table: "pa.Table", rules: _Rules, order: Hashes, taken: dict[int, Hashes] | None
) -> NDArray[np.int8]:
    """The index of each row's part; -1 for one that has no place."""
    keys = order if rules.key is None else _keys(table, rules)
    if rules.time is None:
        holdout = int(rules.holdout_fraction * 2**64)
        later = int((rules.holdout_fraction + rules.validation_fraction) * 2**64)
        return np.where(
            keys < np.uint64(holdout), 2, np.where(keys < np.uint64(later), 1, 0)
        ).astype(np.int8)
    part = _by_time(table, rules)
    for index, later_keys in (taken or {}).items():
        part[(part == index) & np.isin(keys, later_keys)] = -1
    return part


def _by_time(table: "pa.Table", rules: _Rules) -> NDArray[np.int8]:
    assert rules.cutoffs is not None
    ticks = _ticks(table.column(rules.time))
    train, validation = (np.uint64(cutoff) for cutoff in rules.cutoffs)
    return (ticks > train).astype(np.int8) + (ticks > validation).astype(np.int8)


def _keys(table: "pa.Table", rules: _Rules) -> Hashes:
    column = table.column(rules.key)
    if column.null_count:
        raise UsageError(
            f"the key {rules.key!r} is null in {column.null_count} of {len(column)} rows that were "
            "looked at: fill it, or drop such rows, in features()"
        )
    return key_hashes(column, rules.seed)


def _labelled(table: "pa.Table", rules: _Rules) -> NDArray[np.bool_]:
    """Which rows have a label."""
    import pyarrow as pa

    labels = table.column(rules.label).cast(pa.float64(), safe=False).to_numpy()
    if np.isinf(labels).any():
        raise UsageError(f"the label {rules.label!r} is infinite in some rows: it must be a number")
    return np.asarray(~np.isnan(labels))


def _told(counts: _Counts, made: Files, rules: _Rules) -> dict[str, Any]:
    """What `split` returns, once all is seen to be in order."""
    classes = {part: counts.labels[part] for part in PARTS}
    values = sorted(set().union(*classes.values()))
    rows = {part: counts.rows[part] for part in PARTS}
    said = ", ".join(f"{part} {count}" for part, count in rows.items())
    dropped = {reason: count for reason, count in counts.dropped.items() if count}
    if dropped:
        said += "; left out: " + ", ".join(f"{why} {count}" for why, count in dropped.items())
    if not all(rows.values()):
        raise UsageError(
            f"a part of the split has no rows ({said}): give more data or other fractions"
            + (", or a time with more different values" if rules.time is not None else "")
        )
    if len(values) == 1:
        raise UsageError(
            f"the label {rules.label!r} is {values[0]:g} in all rows: nothing can be learned of it"
        )
    for part, seen in classes.items():
        if len(values) == 2 and len(seen) == 1:
            raise UsageError(
                f"all {rows[part]} rows of {part} have the label {next(iter(seen)):g}: both "
                f"classes must be in each part ({said}); give more data or other fractions"
            )
    by = [what for what, name in (("time", rules.time), ("key", rules.key)) if name is not None]
    cutoffs = []
    if rules.cutoffs is not None:
        kind = made.schema.field(rules.time).type
        cutoffs = [_time_at(cutoff, kind) for cutoff in rules.cutoffs]
    is_binary = len(values) == 2
    return {
        "by": " and ".join(by) or "row",
        "rows": rows,
        "dropped": dropped,
        "task": "binary" if is_binary else "regression",
        "classes": {
            part: {f"{value:g}": count for value, count in sorted(seen.items())}
            for part, seen in classes.items()
        }
        if is_binary
        else {},
        "empty_columns": [name for name in made.schema.names if not counts.values[name]],
        "cutoffs": cutoffs,
    }


def _few(counts: Counter[float]) -> Counter[float]:
    """Three values are enough to know that there are more than two."""
    return Counter(dict(sorted(counts.items())[:3]))
