"""What does watching for drift cost, and how soon does it see real drift?

`report`: 1,000,000 real loans of 30 features (22 numbers, 8 texts), half of them the reference
and half now, drawn with replacement from those approved until 2003 and later. aios: a `Summary`
of each feature, 10,000 rows at a time, and `judge_windows` with psi on any. Evidently: its drift
report on the same rows, once with the tests that it chooses and once with psi for all columns.
Each in a process of its own, one after the other; reading the files and importing are not timed,
taking columns apart and making Python texts of them is. Evidently needs other versions of pandas
and plotly than aios and gets an environment of its own in the cache folder. The peak of memory is
of the whole process (`ru_maxrss`), from the moment when the rows are there.

`memory`: 200 features (190 numbers, 10 texts of 1,000 different words), made up, 10,000,000
rows in batches. What all summaries take as JSON, and the process's memory, after the first
tenth and at the end.

`verdict`: "psi > 0.2 on any for 3 windows" on 200 such features, windows of 10,000 rows; from
summaries, and from the JSON that is stored.

`request`: see `drift_request.py`. `streams`: see `drift_streams.py`.

Caveats: the machine's other work is in the seconds, so CPU seconds are told too. Summaries are
approximate (rank error 1.3 %) and can be merged and kept; Evidently's tests are exact and need
all rows at once.

    python -m benchmarks.drift [--only report ...] [--rows 1000000] [--cache FOLDER]

With --short only `verdict`: the others take minutes, data of 70 MB, and Evidently's environment.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from aios.capacity.machine import describe
from aios.errors import UsageError
from aios.monitoring.conditions import parse_condition
from aios.monitoring.judging import Seen, judge_windows
from aios.telemetry import Summary
from apps import supplies
from benchmarks import drift_request, drift_streams
from benchmarks.commands import CACHE, arguments, begin, count, environment, parser_of, run
from benchmarks.figures import Goal, Spread
from benchmarks.goals import goal as aim
from benchmarks.peers_evidently import forget_peak, peak_mib
from benchmarks.results import RESULTS, ResultFile

if TYPE_CHECKING:
    import pandas as pd

EVIDENTLY = ("evidently==0.7.23", "pandas<3", "pyarrow")
EVIDENTLYS = "Evidently, preset"
GOAL_ROWS = 1_000_000
SEED = 7
BATCH_ROWS = 10_000
LAST_REFERENCE_YEAR = 2003
NUMBERS, TEXTS = 190, 10
STREAMED_ROWS = 10_000_000
STREAM_BATCH = 50_000
ALPHA = 0.05
DOLLARS = ["DisbursementGross", "ChgOffPrinGr", "GrAppv", "SBA_Appv"]
PLAIN = [
    "Zip",
    "NAICS",
    "Term",
    "NoEmp",
    "NewExist",
    "CreateJob",
    "RetainedJob",
    "FranchiseCode",
    "UrbanRural",
]
WORDS = ["City", "State", "Bank", "BankState", "RevLineCr", "LowDoc", "MIS_Status"]
DAYS = ["ApprovalDate", "DisbursementDate"]


def main() -> None:
    """Measure what is wanted, write the result, and print a JSON line and a few words for each."""
    parser = parser_of("drift", __doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(QUESTIONS), default=list(QUESTIONS))
    parser.add_argument("--rows", type=count, default=GOAL_ROWS, help="of `report`, both halves")
    parser.add_argument("--cache", type=Path, default=CACHE, help="for data and Evidently")
    given = arguments(parser, {"only": ["verdict"]})
    file = ResultFile(RESULTS, "drift")
    told = {"only": given.only, "rows": given.rows, "short": given.short}
    file.run(seed=SEED, machine=describe(), **told)
    for name in given.only:
        begun_s = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                found, said = alone.submit(QUESTIONS[name], given.cache, given.rows).result()
        except UsageError as error:
            found, said = {"left_out": error.message}, f"left out: {error.message}"
        keep(file, name, found)
        print(json.dumps({name: found}))
        print(f"{name} ({time.perf_counter() - begun_s:.0f} s): {said}\n", flush=True)
    print(f"written to {file.path}")


def keep(file: ResultFile, name: str, found: dict[str, Any]) -> None:
    """What a question found: as it is, its figures, and the goals that they tell about."""
    file.add(name, found)
    if "left_out" in found:
        file.note(f"{name}, left out: {found['left_out']}")
    for figure, values in figures(name, found).items():
        for number, value in enumerate(values):
            file.figure(figure, value, "lower", number)
    for one in goals(name, found):
        file.goal(one)


def figures(name: str, found: dict[str, Any]) -> dict[str, list[float]]:
    """By name, the value of each round; less is better. `streams` counts alarms: no figures."""
    if name == "report":
        sides = [one for one in found if isinstance(found[one], dict)]
        return {f"report of {one}, s": [found[one]["seconds"]] for one in sides}
    if name == "memory":
        last = found[f"{STREAMED_ROWS:,} rows"]
        return {f"memory of 200 features, {one}": [last[one]] for one in last}
    if name == "verdict":
        return {"verdict on 200 features, s": found["looks_s"]}
    if name == "request":
        sides = [("serve_us", "a replica on Serve"), ("http_us", "bare uvicorn")]
        return {
            f"CPU of a request to {of}, us, watched {one}": values
            for key, of in sides
            for one, values in found[key].items()
        }
    return {}


def goals(name: str, found: dict[str, Any]) -> list[Goal]:
    """Those that were measured as they are meant."""
    if name == "report" and found.get("rows", 0) >= GOAL_ROWS and EVIDENTLYS in found:
        ratio = found["aios"]["seconds"] / found[EVIDENTLYS]["seconds"]
        return [aim("1,000,000 rows sketched and judged vs. Evidently", [ratio])]
    if name == "verdict":
        return [aim("drift verdict on 200 features", found["looks_s"])]
    if name == "request":
        both = zip(found["serve_us"]["on"], found["serve_us"]["off"], strict=True)
        added = Spread.of(100 * (on / off - 1) for on, off in both)
        return [aim("recording and sketching, CPU added to a request", added)]
    return []


def goal(value: float, most: float, unit: str) -> str:
    """A figure beside what it may be at most.

    >>> goal(0.5, 1.0, " s"), goal(12.3, 10.0, " %")
    ('0.5 s (goal 1 s: met)', '12.3 % (goal 10 %: MISSED)')
    """
    return f"{value:.3g}{unit} (goal {most:g}{unit}: {'met' if value <= most else 'MISSED'})"


# -- report ---------------------------------------------------------------------------


def report(cache: Path, rows: int) -> tuple[dict[str, Any], str]:
    """Our summaries and Evidently's report on the same rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spread(loans(cache), folder, rows)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            found = {"rows": rows, "aios": alone.submit(summarised, folder).result()}
        script = str(Path(__file__).with_name("peers_evidently.py"))
        try:
            python = environment(cache / "evidently", "Evidently", EVIDENTLY)
            for method in ("preset", "psi"):
                command = [python, "-W", "ignore", script, str(folder), method]
                printed = run(command, "Evidently's report failed")
                found[f"Evidently, {method}"] = json.loads(printed.splitlines()[-1])
        except UsageError as error:
            found["left_out"] = error.message
    return found, told_report(found)


def told_report(found: dict[str, Any]) -> str:
    """The sides, and how much of Evidently's time ours took."""
    ours = found["aios"]
    lines = [f"{found['rows']:,} rows"]
    for name, one in found.items():
        if isinstance(one, dict):
            lines.append(
                f"{name}: {one['seconds']:.1f} s ({one['cpu_s']:.1f} s CPU), at most "
                f"{one['peak_mib']:,.0f} MiB, {one['before_mib']:,.0f} of it before; "
                f"{one['drifted']} of 30 features drifted"
            )
            if one is not ours:
                ratio = goal(ours["seconds"] / one["seconds"], 1.0, "x")
                lines.append(f"  aios takes {ratio} of that")
    if "left_out" in found:
        lines.append(f"Evidently is left out: {found['left_out']}")
    return "\n".join(lines)


def loans(cache: Path) -> "pd.DataFrame":
    """The loans as 30 features and `year`: the file's own, and what follows from them."""
    import pandas as pd

    wanted = [*DOLLARS, *PLAIN, *WORDS, *DAYS, "ApprovalFY"]
    raw = supplies.read(supplies.LOANS, cache, usecols=wanted, low_memory=False)
    frame = raw[PLAIN].astype(float)
    for name in DOLLARS:
        frame[name] = pd.to_numeric(raw[name].str.replace(r"[$, ]", "", regex=True)).astype(float)
    for name in DAYS:
        when = pd.to_datetime(raw[name], format="%d-%b-%y", errors="coerce")
        frame[name] = (when - pd.Timestamp(1970, 1, 1)).dt.days.astype(float)
    frame["waited_days"] = frame.DisbursementDate - frame.ApprovalDate
    frame["guaranteed"] = frame.SBA_Appv / frame.GrAppv
    frame["disbursed"] = frame.DisbursementGross / frame.GrAppv
    frame["monthly"] = frame.GrAppv / frame.Term.clip(lower=1)
    frame["per_employee"] = frame.GrAppv / frame.NoEmp.clip(lower=1)
    frame["jobs"] = frame.CreateJob + frame.RetainedJob
    frame["jobs_share"] = frame.jobs / frame.NoEmp.clip(lower=1)
    for name in WORDS:
        frame[name] = raw[name]
    frame["sector"] = raw.NAICS.astype(str).str[:2]
    frame["year"] = pd.to_numeric(raw.ApprovalFY.astype(str).str[:4])
    return frame.fillna(dict.fromkeys((*WORDS, "sector"), "")).fillna(0.0)


def spread(frame: "pd.DataFrame", folder: Path, rows: int) -> None:
    """Draw both halves from the loans, with replacement, and write them."""
    early = frame.year <= LAST_REFERENCE_YEAR
    for name, part in (("reference", frame[early]), ("now", frame[~early])):
        drawn = part.drop(columns="year").sample(rows // 2, replace=True, random_state=SEED)
        drawn.to_parquet(folder / f"{name}.parquet", index=False)


def summarised(folder: Path) -> dict[str, float]:
    """Sketch both halves and judge them: seconds, CPU seconds, memory, drifted features."""
    import pandas as pd

    reference, now = (pd.read_parquet(folder / f"{one}.parquet") for one in ("reference", "now"))
    Summary("number"), Summary("text").add(["warm"])
    forget_peak()
    before_mib = peak_mib()
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    sides = [Seen(sketched(one), {}) for one in (reference, now)]
    condition = parse_condition("psi > 0.2 on any", "drift")
    finding = judge_windows(condition, sides[0], sides[1:], ALPHA, 1)
    return {
        "seconds": time.perf_counter() - begun_s,
        "cpu_s": time.process_time() - begun_cpu_s,
        "peak_mib": peak_mib(),
        "before_mib": before_mib,
        "drifted": len(finding.evidence["holding"]),
    }


def sketched(frame: "pd.DataFrame") -> dict[str, Summary]:
    """A summary of each column, some rows at a time, as they would come from a file."""
    found = {name: Summary("number" if frame[name].dtype.kind == "f" else "text") for name in frame}
    for start in range(0, len(frame), BATCH_ROWS):
        part = frame.iloc[start : start + BATCH_ROWS]
        for name, summary in found.items():
            summary.add(part[name].to_numpy())
    return found


# -- memory and verdict ---------------------------------------------------------------


def memory(cache: Path, rows: int) -> tuple[dict[str, Any], str]:
    """What the summaries of 200 features take after a tenth of the rows, and after all."""
    del cache, rows
    draw = drawing(STREAM_BATCH)
    summaries = fresh()
    found: dict[str, Any] = {"rows": STREAMED_ROWS}
    begun_cpu_s = time.process_time()
    for done in range(STREAM_BATCH, STREAMED_ROWS + 1, STREAM_BATCH):
        add(summaries, draw())
        if done in (STREAMED_ROWS // 10, STREAMED_ROWS):
            text = json.dumps({name: one.to_json() for name, one in summaries.items()})
            found[f"{done:,} rows"] = {
                "json_kib": len(text) / 1024,
                "process_mib": psutil.Process().memory_info().rss / 2**20,
            }
    found["cpu_s"] = time.process_time() - begun_cpu_s
    first, last = found[f"{STREAMED_ROWS // 10:,} rows"], found[f"{STREAMED_ROWS:,} rows"]
    return found, (
        f"{NUMBERS + TEXTS} features: {first['json_kib']:,.0f} KiB as JSON after "
        f"{STREAMED_ROWS // 10:,} rows, {last['json_kib']:,.0f} KiB after {STREAMED_ROWS:,}; the "
        f"process {first['process_mib']:,.0f} and {last['process_mib']:,.0f} MiB"
    )


def verdict(cache: Path, rows: int) -> tuple[dict[str, Any], str]:
    """Seconds of one judgement of 200 features in three windows."""
    del cache, rows
    draw = drawing(BATCH_ROWS)
    sides = []
    for _ in range(4):
        sides.append(fresh())
        add(sides[-1], draw())
    stored = [{name: one.to_json() for name, one in side.items()} for side in sides]
    condition = parse_condition("psi > 0.2 on any for 3 windows", "drift")
    alone_s, read_s = [], []
    for look in range(1, 6):
        begun_s = time.perf_counter()
        seen = [
            Seen({name: Summary.from_json(one) for name, one in side.items()}, {})
            for side in stored
        ]
        read_s.append(time.perf_counter() - begun_s)
        begun_s = time.perf_counter()
        judge_windows(condition, seen[0], seen[1:], ALPHA, look)
        alone_s.append(time.perf_counter() - begun_s)
    seconds, with_reading = median(alone_s), median(read_s) + median(alone_s)
    told = f"{goal(seconds, 1.0, ' s')} for {NUMBERS + TEXTS} features and 3 windows; "
    told += f"{with_reading:.2f} s from stored JSON"
    return {"seconds": seconds, "with_reading_s": with_reading, "looks_s": alone_s}, told


def fresh() -> dict[str, Summary]:
    """Empty summaries of 190 numbers and 10 texts."""
    kinds = ["number"] * NUMBERS + ["text"] * TEXTS
    return {f"{kind}-{place}": Summary(kind) for place, kind in enumerate(kinds)}


def drawing(rows: int) -> "Callable[[], list[np.ndarray[Any, Any]]]":
    """What draws the next batch: one array of `rows` values for each feature."""
    random = np.random.default_rng(SEED)
    words = np.array([f"word {number}" for number in range(1000)], dtype=object)

    def draw() -> "list[np.ndarray[Any, Any]]":
        numbers = random.standard_normal((NUMBERS, rows), dtype=np.float32)
        return [*numbers, *(words[random.integers(0, 1000, rows)] for _ in range(TEXTS))]

    return draw


def add(summaries: dict[str, Summary], columns: "list[np.ndarray[Any, Any]]") -> None:
    """One batch, a column for each summary."""
    for summary, values in zip(summaries.values(), columns, strict=True):
        summary.add(values)


QUESTIONS: dict[str, Callable[[Path, int], tuple[dict[str, Any], str]]] = {
    "report": report,
    "memory": memory,
    "verdict": verdict,
    "request": drift_request.measured,
    "streams": drift_streams.measured,
}


if __name__ == "__main__":
    begin(main)
