"""From a source to the parts of a split: nothing lost, nothing leaked, the same in any order."""

import base64
import datetime
import decimal
import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from aios.errors import UsageError
from aios.monitoring.recorded import write_feedback
from aios.records import DataSource, Snapshot
from aios.telemetry import FrequentTexts, Sketch
from aios.training.data import ORDER, TrainingData, apply_features, part_files, read_columns
from aios.training.profiles import Repeats, Tally
from aios.training.snapshot import take_snapshot
from aios.training.splitting import PARTS, split, value_at

FEW = settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.generate))
"""Shrinking a failure would write thousands of files."""


def table(rows: int = 60, seed: int = 0) -> pa.Table:
    noise = np.random.default_rng(seed)
    return pa.table(
        {
            "id": [f"p{number:03d}" for number in range(rows)],
            "x": noise.normal(size=rows),
            "n": pa.array(noise.integers(0, 9, rows), mask=noise.random(rows) < 0.1),
            "town": noise.choice(["Wien", "St. Pölten", "A/B 50%"], rows),
            "day": pa.array(noise.integers(20_000, 20_030, rows), pa.int32()).cast(pa.date32()),
            "label": noise.integers(0, 2, rows),
        }
    )


def digest(*tables: pa.Table) -> str:
    tally = Tally(tables[0].schema)
    for found in tables:
        tally.add(found)
    return tally.digest()


def snapshot(tmp_path: Path, kind: str, location: str, **more: Any) -> Snapshot:
    source = DataSource.model_validate({"kind": kind, "location": location, **more})
    return take_snapshot(source, str(tmp_path / "run"), str(tmp_path / "log"), 1.0)


def split_of(folder: Path, rows: pa.Table, **more: Any) -> dict[str, Any]:
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / "rows" / "000000.parquet", row_group_size=17)
    asked = {"label": "label", "key": None, "time": None, "holdout_fraction": 0.2}
    asked |= {"validation_fraction": 0.2, "seed": 7, **more}
    return split(str(folder), **asked)


def part(folder: Path, name: str) -> list[dict[str, Any]]:
    tables = list(part_files(str(folder), name).scan())
    return [row for found in tables for row in found.drop_columns([ORDER]).to_pylist()]


# --- the digest


@FEW
@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_digest_knows_neither_the_order_of_rows_nor_of_columns_nor_the_number_of_files(
    random: Any, pieces: int
) -> None:
    whole = table()
    order = list(range(len(whole)))
    random.shuffle(order)
    names = random.sample(whole.column_names, len(whole.column_names))
    moved = whole.take(order).select(names)
    cuts = [len(whole) * place // pieces for place in range(pieces + 1)]
    parts = [moved.slice(low, high - low) for low, high in itertools.pairwise(cuts)]
    assert digest(*parts) == digest(whole)


CELLS: list[Any] = [
    (pa.int64(), [1, 2, None]),
    (pa.int64(), [1, 2, 0]),
    (pa.int32(), [1, 2, 0]),
    (pa.uint64(), [1, 2, 2**63]),
    (pa.float64(), [1, 2, 0]),
    (pa.float64(), [1, 2, -0.0]),
    (pa.float64(), [1, 2, float("nan")]),
    (pa.float64(), [1, 2, None]),
    (pa.bool_(), [True, True, False]),
    (pa.bool_(), [True, True, None]),
    (pa.string(), ["1", "2", "0"]),
    (pa.string(), ["1", "2", ""]),
    (pa.string(), ["1", "2", None]),
    (pa.binary(), [b"1", b"2", b"0"]),
    (pa.date32(), [datetime.date(2026, 1, 1)] * 3),
    (pa.timestamp("us"), [datetime.datetime(2026, 1, 1)] * 3),
    (pa.timestamp("us", "UTC"), [datetime.datetime(2026, 1, 1)] * 3),
    (pa.decimal128(5, 2), [decimal.Decimal("1.00")] * 3),
    (pa.list_(pa.int64()), [[1], [2], []]),
    (pa.list_(pa.int64()), [[1], [2], None]),
    (pa.null(), [None, None, None]),
]


def test_digest_tells_every_value_null_and_type_apart() -> None:
    tables = [pa.table({"c": pa.array(values, kind)}) for kind, values in CELLS]
    tables += [tables[0].rename_columns(["d"]), tables[0].append_column("d", tables[0]["c"])]
    tables += [tables[0].slice(0, 2), pa.concat_tables([tables[0], tables[0].slice(0, 1)])]
    assert len({digest(found) for found in tables}) == len(tables)


@FEW
@given(st.integers(0, 59), st.sampled_from(["id", "x", "n", "town", "day", "label"]))
def test_digest_tells_one_cell_of_all(row: int, column: str) -> None:
    whole = table()
    cells = whole[column].to_pylist()
    cells[row] = next(value for value in cells if value not in (None, cells[row]))
    kind, place = whole.schema.field(column), whole.column_names.index(column)
    changed = whole.set_column(place, kind, pa.array(cells, kind.type))
    assert digest(changed) != digest(whole)


def test_digest_tells_values_that_changed_places() -> None:
    """Sums of columns would be the same."""
    one = pa.table({"a": [1, 2], "b": [3, 4]})
    other = pa.table({"a": [1, 2], "b": [4, 3]})
    assert digest(one) != digest(other)


def test_digest_is_of_values_and_not_of_how_a_file_keeps_them() -> None:
    plain = pa.table({"town": ["Wien", None, "Graz", "Wien"]})
    kept = [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.string_view()]
    for kind in kept:
        other = pa.table({"town": pa.array(plain["town"].to_pylist(), pa.string()).cast(kind)})
        assert digest(other) == digest(plain)


def test_every_nan_is_the_same() -> None:
    """Which bits it has depends on the library that computed it."""
    bits = np.array([0x7FF8000000000000, 0xFFF8000000000001], dtype=np.uint64).view(np.float64)
    one, other = (pa.table({"x": bits[place : place + 1]}) for place in (0, 1))
    assert digest(one) == digest(other)


def test_digest_stays_what_it_was() -> None:
    """A stored digest must be found again by later versions of aios."""
    rows = pa.table({"a": [1, None], "b": [0.5, float("nan")], "c": ["x", None]})
    assert digest(rows) == "fa5e7f0529e5a6c928e4dfbd339e0039359ed062e56e89945fa41bf209f6ed90"


# --- profiles


def test_profile_says_what_a_column_holds(tmp_path: Path) -> None:
    rows = table(500)
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=100)
    taken = snapshot(tmp_path, "parquet", str(tmp_path / "rows.parquet"))
    frame = rows.to_pandas()
    assert (taken.rows, taken.duplicate_rows, taken.version) == (500, 0, None)
    assert {name: column.dtype for name, column in taken.columns.items()} == {
        entry.name: str(entry.type) for entry in rows.schema
    }
    n, x = taken.columns["n"], taken.columns["x"]
    assert (n.nulls, n.distinct, n.low, n.high) == (int(frame.n.isna().sum()), 9, 0.0, 8.0)
    assert (x.low, x.high, x.distinct) == (frame.x.min(), frame.x.max(), 500)
    sketch = Sketch.from_bytes(base64.b64decode(x.sketch))
    assert sketch.quantile(0.5) == pytest.approx(frame.x.median(), abs=0.05)
    assert taken.columns["town"].top == dict(Counter(frame.town).most_common())
    assert taken.columns["id"].top == {}, "what names one person each is not kept"
    since_1970 = (pd.Timestamp(frame.day.min()) - pd.Timestamp(0)).total_seconds()
    assert taken.columns["day"].low == since_1970


@FEW
@given(st.lists(st.integers(0, 40), max_size=200), st.integers(0, 200))
def test_repeats_are_counted_exactly_in_any_number_of_pieces(values: list[int], cut: int) -> None:
    one, other = Repeats(), Repeats()
    one.add(np.array(values[:cut], dtype=np.uint64))
    other.add(np.array(values[cut:], dtype=np.uint64))
    one.merge(other)
    assert one.count() == len(values) - len(set(values))


def test_repeats_beyond_the_most_are_estimated() -> None:
    noise = np.random.default_rng(1)
    known = noise.integers(0, 2**63, 100_000).astype(np.uint64)
    whole, piece = Repeats(most=5_000), Repeats(most=5_000)
    whole.add(np.concatenate([known, known[:40_000]]))
    for chunk in np.array_split(known[:60_000], 7):
        piece.add(chunk)
    whole.merge(piece)
    assert whole.count() == pytest.approx(100_000, rel=0.1)


def test_frequent_texts_survive_pickling_and_add_up() -> None:
    one, other = FrequentTexts(), FrequentTexts()
    one.update({"a": 3, "b": 2})
    other.update({"b": 4})
    one.merge(pickle.loads(pickle.dumps(other)))
    assert one.top(1) == {"b": 6}


# --- sources


def test_same_rows_have_one_digest_from_file_folder_pattern_csv_and_delta(tmp_path: Path) -> None:
    rows = table()
    rows = rows.set_column(4, "day", rows["day"].cast(pa.string()))
    (tmp_path / "many" / "deep").mkdir(parents=True)
    pq.write_table(rows, tmp_path / "one.parquet")
    pq.write_table(rows.slice(20), tmp_path / "many" / "b.parquet")
    pq.write_table(rows.slice(0, 20), tmp_path / "many" / "deep" / "a.parquet")
    (tmp_path / "many" / "_SUCCESS.parquet").write_text("no data")
    deltalake.write_deltalake(tmp_path / "table", rows.slice(0, 30))
    deltalake.write_deltalake(tmp_path / "table", rows.slice(30), mode="append")
    rows.to_pandas().to_csv(tmp_path / "one.csv", index=False)
    places = [
        ("parquet", "one.parquet"),
        ("frame", "one.parquet"),
        ("parquet", "many"),
        ("parquet", "many/**/*.parquet"),
        ("delta", "table"),
    ]
    found = {snapshot(tmp_path, kind, str(tmp_path / name)).digest for kind, name in places}
    assert found == {digest(rows)}
    csv = snapshot(tmp_path, "csv", str(tmp_path / "one.csv"))
    assert csv.columns["day"].dtype == "date32[day]"
    assert csv.rows == 60
    assert csv.columns["n"].nulls == rows["n"].null_count


def test_a_delta_table_is_read_at_the_version_asked_for(tmp_path: Path) -> None:
    url = tmp_path / "table"
    for start in (0, 20, 40):
        rows = table().slice(start, 20)
        deltalake.write_deltalake(url, rows, mode="append", partition_by=["town"])
    deltalake.DeltaTable(url).delete("label = 1")
    first = snapshot(tmp_path, "delta", str(url), version=0)
    assert (first.version, first.digest) == (0, digest(table().slice(0, 20)))
    newest = snapshot(tmp_path, "delta", str(url))
    kept = table().filter(pa.compute.field("label") == 0)
    assert (newest.version, newest.digest) == (3, digest(kept))
    with pytest.raises(UsageError, match=r"no version 9 \(the newest is 3\)"):
        snapshot(tmp_path, "delta", str(url), version=9)


def test_folders_named_by_value_are_columns_and_missing_columns_are_null(tmp_path: Path) -> None:
    for year, columns in ((2025, {"a": [1]}), (2026, {"a": [2.5], "b": ["x"]})):
        (tmp_path / "data" / f"year={year}").mkdir(parents=True)
        pq.write_table(pa.table(columns), tmp_path / "data" / f"year={year}" / "0.parquet")
    snapshot(tmp_path, "parquet", str(tmp_path / "data"))
    rows = [
        row
        for found in part_files(str(tmp_path / "run"), "rows").scan()
        for row in found.to_pylist()
    ]
    assert rows == [
        {"a": 1.0, "year": 2025, "b": None},
        {"a": 2.5, "year": 2026, "b": "x"},
    ]


def log_rows(log: Path, count: int, first: int = 0) -> None:
    numbers = range(first, first + count)
    inputs = [
        orjson.dumps({"a": n, "t": None if n % 2 else "2026-01-01"}).decode() for n in numbers
    ]
    rows = {
        "at_s": [float(n) for n in numbers],
        "request_id": [f"r{n}" for n in numbers],
        "key": [f"k{n}" for n in numbers],
        "row": pa.array([0] * count, pa.int32()),
        "version": pa.array([1] * count, pa.int32()),
        "arm": ["stable"] * count,
        "degraded": pa.array([None] * count, pa.string()),
        "latency_s": [0.001] * count,
        "inputs": inputs,
        "outputs": [orjson.dumps({"p": n / 100}).decode() for n in numbers],
    }
    deltalake.write_deltalake(log / "loan", pa.table(rows), mode="append")


def tell(log: Path, request_ids: list[str], at_s: float, values: dict[str, Any]) -> None:
    count = len(request_ids)
    told = {"request_id": request_ids, "at_s": [at_s] * count}
    told["values"] = [orjson.dumps(values).decode()] * count
    deltalake.write_deltalake(log / "loan--feedback", pa.table(told), mode="append")


def test_predictions_are_joined_with_the_last_feedback_on_each(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log_rows(log, 10)
    log_rows(log, 10, first=10)
    tell(log, ["r3", "r4", "r15"], 50.0, {"p": 1})
    tell(log, ["r4"], 60.0, {"p": 0})
    tell(log, ["r4", "never"], 40.0, {"p": 1})
    taken = snapshot(tmp_path, "predictions", "loan")
    assert (taken.rows, taken.version, taken.feedback_version) == (3, 1, 2)
    apply_features(None, str(tmp_path / "run"), ["a", "p", "predicted_p", "key"])
    found = [
        row for rows in part_files(str(tmp_path / "run"), "rows").scan() for row in rows.to_pylist()
    ]
    found.sort(key=lambda row: row["a"])
    assert [(row["request_id"], row["p"]) for row in found] == [("r3", 1), ("r4", 0), ("r15", 1)]
    assert found[1] == {
        "at_s": 4.0,
        "request_id": "r4",
        "key": "k4",
        "row": 0,
        "version": 1,
        "arm": "stable",
        "degraded": None,
        "a": 4,
        "t": "2026-01-01",
        "predicted_p": 0.04,
        "p": 0,
    }
    tell(log, ["r5"], 70.0, {"p": 1})
    again = snapshot(tmp_path, "predictions", "loan", version=1, feedback_version=2)
    assert again.digest == taken.digest, "the versions of both tables find the same rows"
    assert snapshot(tmp_path, "predictions", "loan").rows == 4


def test_predictions_without_feedback_are_rows_without_truth(tmp_path: Path) -> None:
    log_rows(tmp_path / "log", 5)
    taken = snapshot(tmp_path, "predictions", "loan")
    assert (taken.rows, taken.feedback_version) == (5, None)
    with pytest.raises(UsageError, match=r"the data have no column 'p'; columns: at_s, request_id"):
        apply_features(None, str(tmp_path / "run"), ["p"])


def broken(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def test_a_password_in_a_location_is_refused_and_not_kept() -> None:
    with pytest.raises(UsageError, match="location: holds a password"):
        DataSource(kind="delta", location="s3://ann:pw@bucket/x")
    assert str(DataSource(kind="delta", location="s3://bucket/x", version=3)).endswith("version 3")
    assert str(DataSource(kind="frame", location="/tmp/0adf.parquet")) == "a DataFrame"


def test_a_source_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    broken(tmp_path, "bad.parquet", b"PAR1 not really")
    broken(tmp_path, "bad.csv", b"a,b\n1,2\n3\n")
    broken(tmp_path, "empty.csv", b"")
    broken(tmp_path, "headed.csv", b"a,b\n")
    broken(tmp_path, "twice.csv", b"a,a\n1,2\n")
    broken(tmp_path / "mixed", "1.csv", b"a\n1\n")
    broken(tmp_path / "mixed", "2.csv", b"a\nx\n")
    pq.write_table(table().slice(0, 0), tmp_path / "none.parquet")
    pq.write_table(table(), tmp_path / "cut.parquet")
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(b"\0" * 2000 + whole[2000:])
    deltalake.write_deltalake(tmp_path / "table", table())
    for kind, name, told in [
        ("parquet", "nothing", "no parquet files at .*nothing: give an absolute path"),
        ("parquet", "*.nothing", "no parquet files"),
        ("csv", "table", "Delta table: read it as one"),
        ("parquet", "bad.parquet", r"bad.parquet cannot be read as parquet: .*file is whole"),
        ("parquet", "cut.parquet", "cut.parquet cannot be read as parquet"),
        ("csv", "bad.csv", "bad.csv cannot be read as csv: .*Expected 2 columns"),
        ("csv", "empty.csv", "empty.csv cannot be read as csv"),
        ("csv", "headed.csv", "csv .*headed.csv has no rows"),
        ("csv", "twice.csv", "more than one column named a"),
        ("csv", "mixed", "mixed do not fit together"),
        ("parquet", "none.parquet", "parquet .*none.parquet has no rows"),
        ("delta", "nothing", "no Delta table at .*nothing"),
        ("delta", "bad.csv", "Delta"),
        ("parquet", "nosuch://bucket/x", "cannot be read"),
    ]:
        location = name if "://" in name else str(tmp_path / name)
        with pytest.raises(UsageError, match=told):
            snapshot(tmp_path, kind, location)
    with pytest.raises(UsageError, match="endpoint 'loan' has no prediction log"):
        snapshot(tmp_path, "predictions", "loan")


# --- the split

KEYED = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(0, 1)), min_size=40, max_size=120
)


def keyed(rows: list[tuple[int, int, int]]) -> pa.Table:
    keys, times, labels = zip(*rows, strict=True)
    return pa.table(
        {
            "id": [f"p{key}" for key in keys],
            "day": pa.array(times, pa.int32()).cast(pa.date32()),
            "label": labels,
            "x": [float(number) for number in range(len(rows))],
        }
    )


def try_split(folder: Path, rows: pa.Table, **more: Any) -> dict[str, list[dict[str, Any]]] | None:
    """The parts; None where a part would be empty or lack a class."""
    try:
        told = split_of(folder, rows, **more)
    except UsageError as error:
        if "part" in error.message or "nothing can be learned" in error.message:
            return None
        raise
    found = {name: part(folder, name) for name in PARTS}
    assert {name: len(rows) for name, rows in found.items()} == told["rows"]
    return found


@FEW
@given(KEYED, st.integers(0, 3))
def test_no_key_is_in_two_parts_and_no_row_is_lost(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]], seed: int
) -> None:
    found = try_split(tmp_path_factory.mktemp("run"), keyed(rows), key="id", seed=seed)
    if found is None:
        return
    keys = [{row["id"] for row in found[name]} for name in PARTS]
    assert sum(map(len, keys)) == len(set.union(*keys))
    assert Counter(map(str, keyed(rows).to_pylist())) == Counter(
        str(row) for name in PARTS for row in found[name]
    )


@FEW
@given(KEYED)
def test_by_time_each_part_is_strictly_later_than_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]]
) -> None:
    found = try_split(tmp_path_factory.mktemp("run"), keyed(rows), time="day")
    if found is None:
        return
    days = [[row["day"] for row in found[name]] for name in PARTS]
    assert max(days[0]) < min(days[1]) <= max(days[1]) < min(days[2])
    assert sum(map(len, days)) == len(rows)
    assert len(days[2]) <= round(0.2 * len(rows))


@FEW
@given(KEYED)
def test_by_time_and_key_neither_leaks(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]]
) -> None:
    found = try_split(tmp_path_factory.mktemp("run"), keyed(rows), time="day", key="id")
    if found is None:
        return
    keys = [{row["id"] for row in found[name]} for name in PARTS]
    assert sum(map(len, keys)) == len(set.union(*keys))
    days = [[row["day"] for row in found[name]] for name in PARTS]
    assert max(days[0]) < min(days[1]) <= max(days[1]) < min(days[2])


@FEW
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60), st.data())
def test_value_at_is_what_sorting_would_find(values: list[int], data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, len(values) - 1))
    array = np.array(values, dtype=np.uint64)
    found = value_at(lambda: iter(np.array_split(array, 3)), min(values), max(values), rank)
    assert found == sorted(values)[rank]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([-1.5, 2.5, -3.5, 0.0, 7.25] * 12),
        pa.array([-5, 3, 900, -7, 2**40] * 12, pa.int64()),
        pa.array([datetime.datetime(2026, 1, day) for day in (1, 5, 3, 2, 4)] * 12),
    ],
)
def test_times_of_every_kind_are_ordered(tmp_path: Path, times: pa.Array) -> None:
    rows = table().append_column("when", times)
    told = split_of(tmp_path, rows, time="when")
    seen = [sorted({row["when"] for row in part(tmp_path, name)}) for name in PARTS]
    assert [value for values in seen for value in values] == sorted(set(times.to_pylist()))
    assert told["rows"] == {"train": 36, "validation": 12, "holdout": 12}
    assert told["cutoffs"] == [str(seen[0][-1]), str(seen[1][-1])]


def test_split_depends_on_rows_and_seed_and_on_nothing_else(tmp_path: Path) -> None:
    rows = table(400)
    frames = []
    for number, order in enumerate((range(400), range(399, -1, -1))):
        folder = tmp_path / str(number)
        split_of(folder, rows.take(list(order)), key="id")
        frames.append(TrainingData(str(folder), ("train",), ["x", "town", "n"], "label").frame())
    pd.testing.assert_frame_equal(*frames)
    split_of(tmp_path / "other", rows, key="id", seed=8)
    other = TrainingData(str(tmp_path / "other"), ("train",), ["x", "town", "n"], "label").frame()
    assert set(other.x) != set(frames[0].x)


def test_a_key_stays_in_its_part_when_the_data_grow(tmp_path: Path) -> None:
    split_of(tmp_path / "small", table(200), key="id")
    split_of(tmp_path / "large", table(400), key="id")
    for name in PARTS:
        early = {row["id"] for row in part(tmp_path / "small", name)}
        assert early <= {row["id"] for row in part(tmp_path / "large", name)}


def test_equal_rows_stay_together_without_a_key(tmp_path: Path) -> None:
    rows = table(200).drop_columns(["id"])
    told = split_of(tmp_path, pa.concat_tables([rows, rows]))
    assert told["by"] == "row"
    for name in PARTS:
        assert {*Counter(map(str, part(tmp_path, name))).values()} == {2}


def test_split_tells_task_classes_and_what_was_left_out(tmp_path: Path) -> None:
    rows = table(300)
    labels = pa.array([None if n < 30 else n % 2 for n in range(300)], pa.int64())
    rows = rows.set_column(5, "label", labels).append_column("void", pa.nulls(300, pa.float64()))
    told = split_of(tmp_path, rows, key="id")
    assert (told["by"], told["task"], told["empty_columns"]) == ("key", "binary", ["void"])
    assert told["dropped"] == {"unlabelled": 30}
    assert sum(sum(classes.values()) for classes in told["classes"].values()) == 270
    assert orjson.loads(orjson.dumps(told)) == told
    told = split_of(tmp_path, rows.set_column(5, "label", rows["x"]), key="id")
    assert (told["task"], told["classes"]) == ("regression", {})


def test_training_data_shows_inputs_and_label_and_nothing_else(tmp_path: Path) -> None:
    split_of(tmp_path, table(300), key="id")
    data = TrainingData(str(tmp_path), ("train", "validation"), ["n", "x"], "label")
    frame = data.frame()
    assert list(frame.columns) == ["n", "x", "label"]
    assert len(frame) == data.rows == sum(map(len, data.batches(50)))
    assert all(len(batch) <= 50 for batch in data.batches(50))
    protected = read_columns(str(tmp_path), "holdout", ["town", "x"])
    holdout = TrainingData(str(tmp_path), ("holdout",), ["n", "x"], "label").frame()
    assert protected.x.tolist() == holdout.x.tolist(), "rows stand in the same order"
    with pytest.raises(UsageError, match="no column 'age'"):
        read_columns(str(tmp_path), "holdout", ["age"])


def test_what_cannot_be_split_is_refused_with_the_reason(tmp_path: Path) -> None:
    rows = table(60)
    one_class = rows.set_column(5, "label", pa.array([1] * 60))
    late = pa.array([int(n >= 48) for n in range(60)])
    late_class = rows.set_column(5, "label", late).append_column("t", pa.array(range(60)))
    unlabelled = rows.set_column(5, "label", pa.nulls(60, pa.int64()))
    infinite = rows.set_column(5, "label", pa.array([0.0, float("inf")] * 30))
    same_time = rows.append_column("t", pa.array([1] * 60))
    no_key = rows.set_column(0, "id", pa.array([None, "a"] * 30))
    no_time = rows.append_column("t", pa.array([None, 1.5, float("nan")] * 20))
    for bad, more, told in [
        (one_class, {}, "'label' is 1 in all rows: nothing can be learned"),
        (late_class, {"time": "t"}, "all 36 rows of train have the label 0: both classes"),
        (unlabelled, {}, "no rows .train 0, validation 0, holdout 0; left out: unlabelled 60"),
        (unlabelled, {"time": "day"}, "no row has a label"),
        (infinite, {}, "infinite"),
        (same_time, {"time": "t"}, "no rows .train 60, validation 0, holdout 0.: .* a time with"),
        (rows.slice(0, 2), {"key": "id"}, "a part of the split has no rows"),
        (no_key, {"key": "id"}, "the key 'id' is null in 30 of 60 rows"),
        (no_time, {"time": "t"}, "the time is null in 40 of 60 rows"),
        (rows, {"time": "town"}, "'town' is of type string: make it a timestamp"),
        (rows, {"label": "town"}, "label 'town' is of type string: make it a number"),
        (rows, {"label": "y"}, "the label 'y' is no column of the data; columns: id, x"),
        (rows, {"key": "who"}, "the key 'who' is no column"),
    ]:
        with pytest.raises(UsageError, match=told):
            split_of(tmp_path, bad, **more)


def test_a_stage_that_is_run_again_leaves_nothing_of_the_first_time(tmp_path: Path) -> None:
    pq.write_table(table(300), tmp_path / "rows.parquet", row_group_size=10)
    for _ in range(2):
        taken = snapshot(tmp_path, "parquet", str(tmp_path / "rows.parquet"))
        broken(tmp_path / "run" / "train", "stale.parquet", b"")
        split_of(tmp_path / "run", table(300), key="id")
    data = TrainingData(str(tmp_path / "run"), PARTS, ["x"], "label")
    assert taken.rows == data.rows == 300


def test_feedback_of_another_kind_stops_no_training(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log_rows(log, 10)
    tell(log, ["r1", "r2", "r3"], 50.0, {"p": 1})
    tell(log, ["r4"], 51.0, {"p": True})
    tell(log, ["r5"], 52.0, {"p": "0"})
    tell(log, ["r6"], 53.0, {"p": "no idea"})
    tell(log, ["r7"], 54.0, {"comment": "fine", "p": None})
    snapshot(tmp_path, "predictions", "loan")
    apply_features(None, str(tmp_path / "run"), ["a", "p", "comment"])
    found = {
        row["request_id"]: (row["p"], row["comment"])
        for rows in part_files(str(tmp_path / "run"), "rows").scan()
        for row in rows.to_pylist()
    }
    assert found == {
        **dict.fromkeys(["r1", "r2", "r3", "r4"], (1, None)),
        "r5": (0, None),
        "r6": (None, None),
        "r7": (None, "fine"),
    }


def test_the_last_feedback_counts_also_where_a_clock_was_set_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log_rows(log, 4)
    for seq, at_s, repaid in ((1, 5000.0, 0), (2, 1000.0, 1)):
        entry = {"seq": seq, "request_id": "r2", "at_s": at_s, "given": {"p": repaid}}
        write_feedback(str(log), "loan", [entry])
    snapshot(tmp_path, "predictions", "loan")
    apply_features(None, str(tmp_path / "run"), ["a", "p"])
    (rows,) = (t.to_pylist() for t in part_files(str(tmp_path / "run"), "rows").scan())
    assert [row["p"] for row in rows] == [1]
