"""What the cluster cost and who used it, by the hour; and how far the metering is.

Two tables that are written apart: `bills` is price x time of the nodes, `usage` is what was made of
it. That the one sums to the other can be checked, and `rt.cost()` does. How far the metering is
stands in the same transaction, so what was counted is counted once, whenever the kernel dies.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select, update

from aios.clock import Clock
from aios.records.cost import Billed, Kpis, Owner, Place, Used
from aios.store import tables as t
from aios.store.database import Database

DAY_S = 86_400.0
HOURS_KEPT_S = 60 * DAY_S
FORGOTTEN_S = 400 * DAY_S
_AMOUNTS = {
    "usage": ("core_s", "gpu_s", "calls", "cost"),
    "bills": ("node_s", "core_s", "gpu_s", "cost"),
}


class UsageStore:
    """The store of cost. Safe to share between threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def save(
        self,
        sequence: int,
        usage: Mapping[tuple[Place, Owner], Used],
        bills: Mapping[Place, Billed],
        progress: Mapping[str, Any],
    ) -> None:
        """Add to what is known, and keep how far the metering is, in one transaction. What was
        saved under the same or a later number is not added again."""
        m = t.metering.c
        with self._database.transaction() as connection:
            before = connection.execute(select(m.sequence).where(m.id == 1)).scalar()
            if before is not None and before >= sequence:
                return
            for (place, owner), used in usage.items():
                _add(connection, t.usage, {**place._asdict(), **owner._asdict()}, asdict(used))
            for place, billed in bills.items():
                _add(connection, t.bills, place._asdict(), asdict(billed))
            row = {"sequence": sequence, "content": dict(progress)}
            if before is None:
                connection.execute(insert(t.metering).values(id=1, **row))
            else:
                connection.execute(update(t.metering).where(m.id == 1).values(**row))

    def progress(self) -> tuple[int, dict[str, Any]]:
        """How far the metering is: the number of the last `save`, 0 before the first, and what it
        was given."""
        query = select(t.metering.c.sequence, t.metering.c.content).where(t.metering.c.id == 1)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return (0, {}) if row is None else (int(row.sequence), row.content)

    def used(self, since_s: float, until_s: float) -> list[tuple[Place, Owner, Used]]:
        """Who used what, in the hours and days that begin between two times."""
        return [
            (
                Place(*(row[name] for name in Place._fields)),
                Owner(*(row[name] for name in Owner._fields)),
                Used(*(row[name] for name in _AMOUNTS["usage"])),
            )
            for row in self._rows(t.usage, since_s, until_s)
        ]

    def billed(self, since_s: float, until_s: float) -> list[tuple[Place, Billed]]:
        """What nodes there were, in the hours and days that begin between two times."""
        return [
            (
                Place(*(row[name] for name in Place._fields)),
                Billed(*(row[name] for name in _AMOUNTS["bills"])),
            )
            for row in self._rows(t.bills, since_s, until_s)
        ]

    def _rows(self, table: Table, since_s: float, until_s: float) -> list[Mapping[str, Any]]:
        c = table.c
        query = select(table).where(c.start_s >= since_s, c.start_s < until_s).order_by(c.start_s)
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def roll_up(self) -> int:
        """Join hours that have become old into days, and drop the oldest days.

        Returns:
            How many rows went.
        """
        now_s = self._clock.now_s()
        until_s = (now_s - HOURS_KEPT_S) - (now_s - HOURS_KEPT_S) % DAY_S
        gone = 0
        with self._database.transaction() as connection:
            for table in (t.usage, t.bills):
                old = (table.c.start_s < until_s) & (table.c.width_s < DAY_S)
                hours = connection.execute(select(table).where(old)).mappings().all()
                connection.execute(delete(table).where(old))
                amounts = _AMOUNTS[table.name]
                for row in hours:
                    start_s = row["start_s"] - row["start_s"] % DAY_S
                    key = {name: value for name, value in row.items() if name not in amounts}
                    key.update(start_s=start_s, width_s=DAY_S)
                    _add(connection, table, key, {name: row[name] for name in amounts})
                gone += len(hours)
                forgotten = table.c.start_s < now_s - FORGOTTEN_S
                gone += connection.execute(delete(table).where(forgotten)).rowcount
        return gone

    def kpis(self, endpoint: str, since_s: float, until_s: float) -> dict[int, Kpis]:
        """The last `kpi` that was fed back on each answer given between two times, by version.
        Answers that are not in the prediction log belong to no version, and are left out."""
        f = t.feedback.c
        query = (
            select(f.request_id, f.given, f.answer)
            .where(f.endpoint == endpoint, f.at_s >= since_s, f.answer.is_not(None))
            .order_by(f.seq)
        )
        last: dict[str, tuple[int, float]] = {}
        with self._database.reading() as connection:
            for request_id, given, answer in connection.execute(query):
                if "kpi" not in given or not since_s <= answer["answered_s"] < until_s:
                    continue
                value = given["kpi"]
                if isinstance(value, int | float) and not isinstance(value, bool):
                    last[request_id] = (int(answer["version"]), float(value))
                else:
                    last.pop(request_id, None)  # it was taken back
        found: dict[int, Kpis] = {}
        for version, value in last.values():
            found[version] = found.get(version, Kpis()).add(value)
        return found


def _add(
    connection: Connection, table: Table, key: Mapping[str, Any], amounts: Mapping[str, Any]
) -> None:
    """Add amounts to the row of this key, or make it."""
    same = [table.c[name] == value for name, value in key.items()]
    more = {name: table.c[name] + value for name, value in amounts.items()}
    if not connection.execute(update(table).where(*same).values(**more)).rowcount:
        connection.execute(insert(table).values(**key, **amounts))
