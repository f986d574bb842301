"""Data larger than memory, and recipes' own features, on a Ray of two workers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LIMIT_BYTES = 76 * 2**20
"""Of the object store, all that Ray's workers share; about the least that Ray takes."""
GROWTH_BYTES = 80 * 2**20
"""Of the largest process, in memory of its own, from data of the limit's size to five times as
much: what allocators keep, and no rows."""

CODE = """
import json, os, sys, threading, time
import psutil, ray
import ray.data
from aios.errors import UsageError
from aios.records import DataSource
from aios.training.data import TrainingData, apply_features
from aios.training.snapshot import take_snapshot
from aios.training.splitting import split

folder, limit_bytes = sys.argv[1], int(sys.argv[2])
ray.init(num_cpus=2, object_store_memory=limit_bytes, include_dashboard=False,
         log_to_driver=False, logging_level="ERROR")
HALVES = {"key": "id", "time": None, "holdout_fraction": 0.2, "validation_fraction": 0.2, "seed": 7}

def processes():
    found = [psutil.Process()]
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::" in process.name():
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found

def memory(process):
    # What a process has of its own: mapped files and the shared store are not in it.
    try:
        info = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return info.rss - info.shared

def watch():
    # To look at each is cheap and is done often; to list all that there are is not.
    global peak
    while True:
        found = processes()
        for _ in range(10):
            peak = max([peak, *map(memory, found)])
            time.sleep(0.02)

def add(data):
    def inner(batch):
        batch["sum"] = batch["x0"] + batch["x1"]
        return batch
    return data.map_batches(inner, batch_size=2_000)

def stages(name):
    started = time.perf_counter()
    run = folder + "/run-" + name
    source = DataSource(kind="parquet", location=folder + "/" + name)
    taken = take_snapshot(source, run, folder + "/log", 1.0)
    rows = apply_features(add, run, ["label", "sum"])
    told = split(run, label="label", **HALVES)
    data = TrainingData(run, ("train",), ["x0", "sum"], "label")
    seen = sum(len(batch) for batch in data.batches())
    assert seen == told["rows"]["train"] == data.rows
    return taken.rows, rows, sum(told["rows"].values()), time.perf_counter() - started

def raises(data):
    def inner(batch):
        return batch["income"]
    return data.map_batches(inner)

def at_once(data):
    return data.nothing

CASES = {
    "drops": lambda data: data.drop_columns(["label"]),
    "raises": raises,
    "wrong": lambda data: data.map_batches(lambda batch: 5),
    "at_once": at_once,
    "none": lambda data: None,
    "frame": lambda data: data.to_pandas(),
    "filters": lambda data: data.map_batches(lambda batch: {
        name: values[:0] for name, values in batch.items()}),
}

peak = 0
threading.Thread(target=watch, daemon=True).start()
stages("small")
base, peak = peak, 0
*rows, seconds = stages("large")
told = {"rows": rows, "base": base, "peak": peak, "seconds": seconds}

run = folder + "/run"
take_snapshot(DataSource(kind="parquet", location=folder + "/tiny"), run, "/no", 1.0)
for name, features in CASES.items():
    try:
        apply_features(features, run, ["label"])
    except UsageError as error:
        told[name] = error.message
told["applied"] = apply_features(add, run, ["sum", "label"])
split(run, label="label", **HALVES)
data = TrainingData(run, ("train",), ["sum", "x0"], "label")
told["columns"] = data.dataset().columns()
told["counted"] = [data.dataset().count(), data.rows]
print(json.dumps(told))
"""


def write_rows(path: Path, files: int, rows: int, columns: int, text_bytes: int = 8) -> int:
    """Parquet of numbers and one long value in each row, all random; its size in bytes."""
    path.mkdir()
    noise = np.random.default_rng(0)
    for number in range(files):
        first = number * rows
        table = pa.table(
            {
                "id": np.arange(first, first + rows) // 2,
                "label": noise.integers(0, 2, rows),
                **{f"x{index}": noise.random(rows) for index in range(columns)},
                "scan": [noise.bytes(text_bytes) for _ in range(rows)],
            }
        )
        place = path / f"{number:02d}.parquet"
        pq.write_table(table, place, row_group_size=rows // 4, use_dictionary=False)
    return sum(file.stat().st_size for file in path.iterdir())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process of its own, with a small Ray of its own, found."""
    folder = tmp_path_factory.mktemp("data")
    size_bytes = write_rows(folder / "large", files=6, rows=14_000, columns=40, text_bytes=4500)
    small_bytes = write_rows(folder / "small", files=1, rows=16_500, columns=40, text_bytes=4500)
    write_rows(folder / "tiny", files=1, rows=400, columns=2)
    assert size_bytes >= 5 * LIMIT_BYTES
    assert small_bytes <= 1.05 * LIMIT_BYTES
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(LIMIT_BYTES)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "stderr": done.stderr}


def test_data_five_times_the_memory_limit_stream_through(told: dict[str, Any]) -> None:
    assert told["rows"] == [84_000] * 3
    assert told["peak"] - told["base"] < GROWTH_BYTES
    assert told["stderr"] == "", "nothing is shown while it runs"


def test_features_of_a_recipe_are_applied(told: dict[str, Any]) -> None:
    assert told["applied"] == 400
    assert told["columns"] == ["sum", "x0", "label"]
    assert told["counted"][0] == told["counted"][1] > 0


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("drops", "features() gave no column 'label'; columns: id, x0, x1, scan"),
        ("raises", "features() failed: KeyError: 'income' (<string>, line "),
        ("raises", ", in inner)"),
        ("wrong", "features() failed: ValueError: The `fn` you passed to `map_batches` returned"),
        ("at_once", "features() failed: AttributeError: 'Dataset' object has no attribute"),
        ("at_once", ", in at_once)"),
        ("none", "gave nothing: return a Ray Dataset"),
        ("frame", "gave a DataFrame: return a Ray Dataset"),
        ("filters", "features() gave no rows"),
    ],
)
def test_a_mistake_in_features_is_told_in_one_line(
    told: dict[str, Any], case: str, said: str
) -> None:
    assert said in told[case]
    assert "\n" not in told[case]
