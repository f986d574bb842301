"""Delta tables that several processes append to while another one compacts them."""

import random
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

MOST_COMMITS = 10
PAUSE_S = 0.05
KEPT = 30
"""Appends to a table that was opened once. Each costs a little more than the one before, in time
and in memory that is never given back: after 600 an append takes 71 ms, and 13 ms on a table just
opened, which takes 8 ms."""


class DeltaLog:
    """A Delta table to append to, made at the first append. One thread at a time uses it.

    It is kept open for `KEPT` appends: to open a table costs as much as to write to it, and more
    with every file.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._table: Any = None
        self._kept = 0

    def append(self, rows: "pa.Table") -> None:
        """Append rows. Columns that the table lacks are added to it, those that `rows` lack are
        null in them.

        Raises:
            DeltaError, OSError: it cannot be written, or could not for many tries.
        """
        from deltalake.exceptions import CommitFailedError

        for attempt in range(MOST_COMMITS):
            try:
                self._commit(rows)
                return
            except CommitFailedError:
                # Appends do not conflict, but replicas that make the table at once do, and who
                # knows files that were compacted meanwhile must look again.
                self._table = None
                if attempt == MOST_COMMITS - 1:
                    raise
                time.sleep(PAUSE_S * random.random() * (attempt + 1))
            except BaseException:
                self._table = None
                raise

    def _commit(self, rows: "pa.Table") -> None:
        from deltalake import DeltaTable, write_deltalake
        from deltalake.exceptions import TableNotFoundError

        if self._table is None or self._kept >= KEPT:
            try:
                self._table, self._kept = DeltaTable(self.url), 0
            except TableNotFoundError:
                write_deltalake(self.url, rows, mode="append")
                return
        else:
            self._table.update_incremental()
        fields = self._table.schema().fields
        known = [field.name for field in fields]
        merge = None if set(rows.column_names) <= set(known) else "merge"
        if merge is None and rows.column_names != known:
            rows = _completed(rows, known, self._table)
        write_deltalake(self._table, rows, mode="append", schema_mode=merge)
        self._kept += 1


def _completed(rows: "pa.Table", names: list[str], table: Any) -> "pa.Table":
    import pyarrow as pa

    schema = pa.schema(table.schema())
    for name in names:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, schema.field(name).type))
    return rows.select(names)
