"""What does the audit log cost a command, and how fast are its checkpoints and its check?

A command is a write transaction that stores one remembered operation, as every command of the
kernel does; one kind with `audit.append`, one without, in turn (A B A B), so that both see the
same machine. Each waits for the disk. The log already holds `--entries` entries. Reported is
the difference of the two p99, the p99 of `append` itself, what sealing 1,000 entries takes,
and how many entries per second `verify` checks.

    python -m benchmarks.audit --commands 2000 --entries 100000 [--store postgresql://...]
"""

import argparse
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
from benchmarks.figures import percentile

GOAL_MS = 2.0
ENTRY = {"actor": "ana@example.com", "action": "deploy", "subject": "loan"}
DETAILS = {"version": 7, "artifact": "a" * 64, "revision": 12, "reason": "better on the holdout"}
FILLED_AT_ONCE = 10_000


def main() -> None:
    """Measure, and print one JSON line and a few words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=2000, help="of each kind")
    parser.add_argument("--entries", type=int, default=100_000, help="in the log before")
    parser.add_argument("--store", help="an empty PostgreSQL database; by default a SQLite file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.store or f"sqlite:///{folder}/aios.db"
        found = measure(url, Path(folder), given.commands, given.entries)
    print(json.dumps({"machine": describe(), "store": url.split(":")[0], **found}))
    added = found["p99_added_ms"]
    print(
        f"append adds {found['p50_added_ms']:.3f} ms at p50, {added:.3f} ms at p99 "
        f"(goal {GOAL_MS} ms: {'met' if added <= GOAL_MS else 'missed'}); "
        f"verify: {found['verified_per_s']:,.0f} entries/s"
    )


def measure(url: str, folder: Path, commands: int, entries: int) -> dict[str, Any]:
    """All figures, in milliseconds or per second."""
    database = Database(url)
    database.upgrade()
    fill(database, entries)
    without_ms, with_ms, append_ms = [], [], []
    for number in range(commands):
        without_ms.append(command(database, f"a-{number}", None))
        with_ms.append(command(database, f"b-{number}", append_ms))
    outside = folder / "checkpoints.jsonl"
    checkpointer = Checkpointer(database, signing_key(folder / "key"), Outside(outside))
    first_tick_s = timed(checkpointer.seal)
    seals_s = []
    for _ in range(5):
        fill(database, MOST_ENTRIES)
        seals_s.append(timed(checkpointer.tick))
    verdict_s = timed(lambda: require_sound(url, outside, folder / "key.pub"))
    total = audit_size(database)
    database.close()
    added = [
        percentile(sorted(with_ms), q) - percentile(sorted(without_ms), q) for q in (0.5, 0.99)
    ]
    return {
        "commands": commands,
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


def fill(database: Database, count: int) -> None:
    """Write entries, many to a transaction."""
    for begin in range(0, count, FILLED_AT_ONCE):
        with database.transaction() as connection:
            for _ in range(min(FILLED_AT_ONCE, count - begin)):
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
    main()
