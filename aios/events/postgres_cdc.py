"""Changes of rows in PostgreSQL as a source, by a logical replication slot (pgoutput).

Read by `pg_logical_slot_peek_binary_changes`, and let go of by `pg_replication_slot_advance` once
what was read is on disk: plain SQL, at the cost of a query twice a second.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from aios.errors import PermanentError, TemporaryError, UsageError
from aios.events.consumer import Batch
from aios.events.pgoutput import Change, Decoder, lsn_text
from aios.events.reading import Message
from aios.records.events import PostgresCDC

CONNECT_S = 10
MADE = "aios: the slot {slot} was made"
"""How the publication's comment begins: by it a lost slot is told from one that never was. The
tables follow: by them a table that was dropped is told from a change of `tables=`."""


class PostgresConsumer:
    """The one reader of a slot.

    Raises:
        PermanentError: the slot is lost, and with it changes; a person must answer.
        UsageError: PostgreSQL lacks a table or a setting, or the user a right.
        TemporaryError: it cannot be reached.
    """

    def __init__(self, postgres: PostgresCDC, subscription: str, password: str | None) -> None:
        try:
            import psycopg
        except ImportError:
            raise UsageError("PostgreSQL needs its client: pip install 'aios[postgres]'") from None
        self._library = psycopg
        self._postgres = postgres
        self._tables: set[int] = set()
        self.slot = postgres.slot or f"aios_{subscription.replace('-', '_')}"
        parts = urlsplit(postgres.url)
        with self._told():
            self._connection = psycopg.connect(
                host=parts.hostname,
                port=parts.port or 5432,
                dbname=unquote(parts.path.strip("/")),
                user=postgres.user,
                password=password,
                connect_timeout=CONNECT_S,
                application_name="aios",
                autocommit=True,
            )
        try:
            with self._told():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def poll(self, most: int, wait_s: float) -> Batch:
        with self._told():
            self._guard()
            [(until,)] = self._rows("SELECT pg_current_wal_flush_lsn()::text")
            rows = self._rows(
                "SELECT data FROM pg_logical_slot_peek_binary_changes"
                "(%s, %s::pg_lsn, %s, 'proto_version', '1', 'publication_names', %s)",
                (self.slot, until, most, self.slot),
            )
            changes = Decoder().decode(bytes(data) for (data,) in rows)
            if not changes:
                # Other tables' changes must not keep PostgreSQL's log for ever.
                self._advance(until)
                time.sleep(wait_s)
                return Batch([])
        return Batch([self._message(one) for one in changes], lsn_text(changes[-1].end_lsn))

    def ack(self, batch: Batch) -> None:
        with self._told():
            self._advance(batch.mark)

    def idle(self) -> None:
        """The slot waits."""

    def lag(self) -> int | None:
        """Bytes of PostgreSQL's log that the slot keeps."""
        with self._told():
            [(size,)] = self._rows(
                "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint "
                "FROM pg_replication_slots WHERE slot_name = %s",
                (self.slot,),
            ) or [(None,)]
        return None if size is None else max(0, int(size))

    def close(self) -> None:
        self._connection.close()

    def _prepare(self) -> None:
        """Make publication and slot where there are none; publish the tables asked for."""
        sql, name = self._library.sql, self._library.sql.Identifier(self.slot)
        [(level,)] = self._rows("SHOW wal_level")
        if level != "logical":
            raise UsageError(
                f"PostgreSQL's wal_level is {level}; logical replication needs wal_level = logical "
                "and a restart of it"
            )
        made = MADE.format(slot=self.slot)
        comment = f"{made} for {', '.join(self._postgres.tables)}"
        known = "SELECT obj_description(oid, 'pg_publication') FROM pg_publication"
        there = self._rows(f"{known} WHERE pubname = %s", (self.slot,))
        noted = there[0][0] if there else None
        ours = str(noted).startswith(made)
        self._publish(there=bool(there), ours=ours, same=noted == comment)
        if not ours and not self._slot():
            self._rows("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (self.slot,))
        if noted != comment:
            self._connection.execute(
                sql.SQL("COMMENT ON PUBLICATION {} IS {}").format(name, sql.Literal(comment))
            )
        self._guard()

    def _publish(self, *, there: bool, ours: bool, same: bool) -> None:
        """Make the publication one of the wanted tables; `same`: which it was made for."""
        sql = self._library.sql
        tables = [sql.Identifier(*one.split(".")) for one in self._postgres.tables]
        self._tables = {self._oid(one) for one in tables}
        if same or self._published() == self._tables:
            return  # a table that is missing although it was there is a matter of `_guard`
        if there and not ours:
            raise UsageError(
                f"{self._postgres.shown}: there is a publication {self.slot} of other tables than "
                f"{', '.join(self._postgres.tables)}; give another slot=, or drop it"
            )
        change = (
            "ALTER PUBLICATION {} SET TABLE {}" if there else "CREATE PUBLICATION {} FOR TABLE {}"
        )
        name, listed = sql.Identifier(self.slot), sql.SQL(", ").join(tables)
        self._connection.execute(sql.SQL(change).format(name, listed))

    def _published(self) -> set[int]:
        """The tables whose changes the publication tells."""
        query = "SELECT prrelid FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid"
        return {oid for (oid,) in self._rows(f"{query} WHERE p.pubname = %s", (self.slot,))}

    def _oid(self, table: Any) -> int:
        """The oid of a table whose changes can be published.

        Raises:
            UsageError: it is not there, or nothing names its rows: published, it could be added to,
                and no more.
        """
        name = table.as_string(self._connection)
        found = self._rows(
            "SELECT c.oid, c.relreplident IN ('f', 'i') OR c.relreplident = 'd' AND EXISTS "
            "(SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) "
            "FROM pg_class c WHERE c.oid = to_regclass(%s)",
            (name,),
        )
        if not found:
            raise UsageError(
                f"{self._postgres.shown}: there is no table {name} here; one of another schema "
                'than the user\'s own is named with it, tables=("crm.orders",)'
            )
        [(oid, named)] = found
        if not named:
            raise UsageError(
                f"{self._postgres.shown}: the table {name} has no primary key, and PostgreSQL "
                "would refuse each UPDATE and DELETE of it once its changes are published. Give it "
                f"one, or: ALTER TABLE {name} REPLICA IDENTITY FULL"
            )
        return int(oid)

    def _slot(self) -> list[Any]:
        return self._rows(
            "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", (self.slot,)
        )

    def _guard(self) -> None:
        found = self._slot()
        if not found:
            raise self._lost("it is gone")
        if found[0][0] == "lost":
            raise self._lost("PostgreSQL gave it up, which needed the room")
        if self._published() != self._tables:
            raise self._lost("a table of it was dropped, or taken out of the publication")

    def _lost(self, why: str) -> PermanentError:
        return PermanentError(
            f"the replication slot {self.slot}: {why}; changes since then are lost. Bring what "
            "acts on them up to date by hand, then begin anew: SELECT pg_drop_replication_slot("
            f"'{self.slot}') if it is there, and DROP PUBLICATION {self.slot}"
        )

    def _advance(self, lsn: str) -> None:
        self._rows(
            "SELECT pg_replication_slot_advance(slot_name, %s::pg_lsn) FROM pg_replication_slots "
            "WHERE slot_name = %s AND confirmed_flush_lsn < %s::pg_lsn",
            (lsn, self.slot, lsn),
        )

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        found: list[Any] = self._connection.execute(query, values).fetchall()
        return found

    def _message(self, change: Change) -> Message:
        data = {
            "op": change.operation,
            "table": change.table,
            "key": change.key,
            "row": change.row,
            "old": change.old,
        }
        name = json.dumps(list(change.key.values()), ensure_ascii=False)
        return Message(
            coordinates=f"{lsn_text(change.end_lsn)}/{change.index}",
            body=json.dumps(data).encode(),
            source=f"postgres:{urlsplit(self._postgres.url).path.strip('/')}",
            kind=f"row.{change.operation}",
            subject=f"{change.table}:{name}"[:500] if change.key else None,
            time_s=change.committed_s,
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The library's errors as ours."""
        errors = self._library.errors
        try:
            yield
        except (errors.UndefinedTable, errors.InsufficientPrivilege, errors.ObjectInUse) as error:
            raise UsageError(f"{self._postgres.shown}: {str(error).strip()[:300]}") from None
        except self._library.Error as error:
            raise TemporaryError(f"{self._postgres.shown}: {str(error).strip()[:300]}") from None
