"""What does the audit log cost a command, and how fast are its checkpoints and its check?

A command is a write transaction that stores one remembered operation, as every command of the
kernel does; one kind with `audit.append`, one without, in turn (A B A B), so that both see the
same machine. Each waits for the disk. The log already holds `--entries` entries. Reported is
the difference of the two p99, the p99 of `append` itself, what sealing 1,000 entries takes,
and how many entries per second `verify` checks.

    python -m benchmarks.audit [--commands 2000] [--entries 100000] [--store postgresql://...]

The commands are cut into `--rounds` parts, each with medians of its own, for `aios bench compare`;
the p99 and the goal are of all.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from aios.capacity.machine import describe
from aios.security.signing import signing_key
from aios.store import audit, tables
from aios.store.checkpoints import MOST_ENTRIES, Checkpointer
from aios.store.database import Database
from aios.store.outside import Outside
from aios.store.verification import verify
from benchmarks.commands import arguments, begin, count, parser_of
from benchmarks.figures import percentile
from benchmarks.goals import goal
from benchmarks.results import RESULTS, ResultFile

ENTRY = {"actor": "ana@example.com", "action": "deploy", "subject": "loan"}
DETAILS = {"version": 7, "artifact": "a" * 64, "revision": 12, "reason": "better on the holdout"}
FILLED_AT_ONCE = 10_000


def main() -> None:
    """Measure, write the result, and print one JSON line and a few words."""
    parser = parser_of("audit", __doc__)
    parser.add_argument("--commands", type=count, default=2000, help="of each kind")
    parser.add_argument("--entries", type=count, default=100_000, help="in the log before")
    parser.add_argument("--rounds", type=count, default=4)
    parser.add_argument("--store", help="an empty PostgreSQL database; by default a SQLite file")
    given = arguments(parser, {"commands": 400, "entries": 10_000})
    file = ResultFile(RESULTS, "audit")
    with tempfile.TemporaryDirectory() as folder:
        url = given.store or f"sqlite:///{folder}/aios.db"
        told = {**vars(given), "store": url.split(":")[0]}
        file.run(seed=None, machine=describe(), **told)
        found = measure(url, Path(folder), given, file)
    file.add("audit", found)
    added = goal("audit entry, added to a command at p99", [found["p99_added_ms"]])
    file.goal(added)
    print(json.dumps({**told, **found}))
    print(
        f"append adds {found['p50_added_ms']:.3f} ms at p50, {found['p99_added_ms']:.3f} ms at p99 "
        f"(goal {added.at_most:g} ms: {'met' if added.met else 'missed'}); "
        f"verify: {found['verified_per_s']:,.0f} entries/s\nwritten to {file.path}"
    )


def measure(url: str, folder: Path, given: Any, file: ResultFile) -> dict[str, Any]:
    """All figures, in milliseconds or per second."""
    database = Database(url)
    database.upgrade()
    fill(database, given.entries)
    without_ms, with_ms, append_ms = [], [], []
    for number in range(given.commands):
        without_ms.append(command(database, f"a-{number}", None))
        with_ms.append(command(database, f"b-{number}", append_ms))
    kinds = {"a command": without_ms, "a command with an entry": with_ms, "append": append_ms}
    for kind, taken_ms in kinds.items():
        for number in range(given.rounds):
            part = sorted(taken_ms[number :: given.rounds])
            file.figure(f"{kind}, p50 ms", percentile(part, 0.5), "lower", number)
    outside = folder / "checkpoints.jsonl"
    checkpointer = Checkpointer(database, signing_key(folder / "key"), Outside(outside))
    first_tick_s = timed(checkpointer.seal)
    seals_s = []
    for number in range(5):
        fill(database, MOST_ENTRIES)
        seals_s.append(timed(checkpointer.tick))
        file.figure("sealing 1,000 entries, ms", 1000 * seals_s[-1], "lower", number)
    verdict_s = timed(lambda: require_sound(url, outside, folder / "key.pub"))
    total = audit_size(database)
    file.figure("verified/s", total / verdict_s, "higher")
    database.close()
    added = [
        percentile(sorted(with_ms), q) - percentile(sorted(without_ms), q) for q in (0.5, 0.99)
    ]
    return {
        "entries": total,
        "without_p50_ms": percentile(sorted(without_ms), 0.5),
        "without_p99_ms": percentile(sorted(without_ms), 0.99),
        "with_p50_ms": percentile(sorted(with_ms), 0.5),
        "with_p99_ms": percentile(sorted(with_ms), 0.99),
        "p50_added_ms": added[0],
        "p99_added_ms": added[1],
        "append_p50_ms": percentile(sorted(append_ms), 0.5),
        "append_p99_ms": percentile(sorted(append_ms), 0.99),
        "first_tick_s": first_tick_s,
        "seal_1000_entries_ms": sorted(seals_s)[2] * 1000,
        "verified_per_s": total / verdict_s,
    }


def command(database: Database, name: str, append_ms: list[float] | None) -> float:
    """One command in milliseconds; with an audit entry if there is a list for its time."""
    row = {"id": name, "request_digest": "d" * 64, "result": {"revision": 12}, "at_s": 1.0}
    begun_s = time.perf_counter()
    with database.transaction() as connection:
        connection.execute(insert(tables.operations), row)
        if append_ms is not None:
            before_s = time.perf_counter()
            audit.append(connection, at_s=time.time(), details=DETAILS, **ENTRY)
            append_ms.append((time.perf_counter() - before_s) * 1000)
    return (time.perf_counter() - begun_s) * 1000


def fill(database: Database, size: int) -> None:
    """Write entries, many to a transaction."""
    for start in range(0, size, FILLED_AT_ONCE):
        with database.transaction() as connection:
            for _ in range(min(FILLED_AT_ONCE, size - start)):
                audit.append(connection, at_s=time.time(), details=DETAILS, **ENTRY)


def require_sound(url: str, outside: Path, key: Path) -> None:
    """Verify, and end the benchmark if what it measured is not a sound log."""
    verdict = verify(url, outside, key)
    if not verdict.sound:
        raise RuntimeError(f"the benchmark's own log is not sound: {verdict.reason}")


def audit_size(database: Database) -> int:
    """How many entries there are."""
    with database.reading() as connection:
        return audit.head(connection)[0]


def timed(act: Any) -> float:
    """Seconds that a call takes."""
    begun_s = time.perf_counter()
    act()
    return time.perf_counter() - begun_s


if __name__ == "__main__":
    begin(main)
