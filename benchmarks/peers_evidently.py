"""Peer: Evidently's drift report on two tables, timed by itself.

    python peers_evidently.py FOLDER METHOD

Runs in an environment of its own, by path: it imports neither aios nor other benchmarks. FOLDER
holds `reference.parquet` and `now.parquet`; METHOD is `preset` for what Evidently chooses, or the
name of one of its tests for all columns. Prints one JSON object. Importing, and reading the
files, are not timed; the report is made and its scores are read, no page is drawn.
"""

import json
import resource
import sys
import time
from pathlib import Path


def main(folder: Path, method: str) -> None:
    """Make the report, and print seconds, CPU seconds, memory in MiB and the drifted columns."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    reference, now = (pd.read_parquet(folder / f"{one}.parquet") for one in ("reference", "now"))
    texts = [name for name in now if now[name].dtype == object]
    kinds = DataDefinition(
        numerical_columns=[name for name in now if name not in texts], categorical_columns=texts
    )
    forget_peak()
    before_mib = peak_mib()
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    preset = DataDriftPreset(method=None if method == "preset" else method)
    report = Report([preset], include_tests=False)
    sides = [Dataset.from_pandas(one, data_definition=kinds) for one in (now, reference)]
    found = report.run(*sides).dict()
    seconds, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    drifted = int(found["metrics"][0]["value"]["count"])
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_s": cpu_s,
                "peak_mib": peak_mib(),
                "before_mib": before_mib,
                "drifted": drifted,
            }
        )
    )


def forget_peak() -> None:
    """Let the peak begin at what is in use now: reading the files needed more. Linux only."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(f"the peak counts reading the files too: {error}", file=sys.stderr)


def peak_mib() -> float:
    """The most memory that this process had at once. On Linux from the kernel's own account of it:
    `ru_maxrss` begins at what the process that started this one had, and cannot be set back."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
