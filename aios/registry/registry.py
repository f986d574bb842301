"""The registry: reads at any time, writes only inside a change."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Connection, insert, select, update

from aios.clock import Clock, SystemClock
from aios.errors import UsageError
from aios.registry.change import Change, Guard
from aios.registry.reads import Reads
from aios.store import audit
from aios.store import tables as t
from aios.store.canonical import canonical
from aios.store.database import Database

_LONGEST_OPERATION_ID = 200


class Registry(Reads):
    """Truth about models, endpoints, rollouts and keys, in one database.

    Safe to share between threads; changes of all threads and processes happen one by one.

    Args:
        database: upgraded already (`Database.upgrade`).
        clock: where times in rows come from.
        guard: asked before a version becomes stable; without one, every version may.
    """

    def __init__(
        self, database: Database, clock: Clock | None = None, guard: Guard | None = None
    ) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        self._guard = guard

    @contextmanager
    def change(
        self,
        *,
        actor: str,
        action: str,
        subject: str,
        details: dict[str, Any] | None = None,
        operation_id: str | None = None,
        request_digest: str | None = None,
    ) -> Iterator[Change]:
        """One transaction: what the block writes, its audit entries, its remembered result.

        All of it is on disk when the block has ended; nothing of it exists if the block raises
        or the process dies. `operation_id` makes a repeat harmless: `Change.done` then holds the
        first result and nothing is written.

        Args:
            actor: who wants it. `action`: what is done. `subject`: to which thing.
            details: what else the audit entry should say; `Change.note` adds to it.
            operation_id: chosen by the caller, one per request, the same when it is repeated.
            request_digest: tells requests apart that come under one operation id; by default
                the digest of actor, action, subject and details.

        Raises:
            UsageError: the operation id is malformed or was used for another request; or this
                thread is in another change.
            StoreUnavailable: the store cannot be written now; nothing was changed.
        """
        digest = request_digest or _digest([actor, action, subject, details or {}])
        _check_operation_id(operation_id)
        with self._database.transaction() as connection:
            change = Change(connection, self._clock.now_s(), actor, self._guard)
            if operation_id is not None:
                change.done = change.remembered(operation_id, digest)
            yield change
            if change.done is not None:
                return
            entries = [(action, {**(details or {}), **change.notes}), *change.others]
            for what, told in entries:
                audit.append(
                    connection,
                    at_s=change.at_s,
                    actor=actor,
                    action=what,
                    subject=subject,
                    details=told,
                )
            if operation_id is not None:
                row = {"request_digest": digest, "result": change.result, "at_s": change.at_s}
                connection.execute(insert(t.operations).values(id=operation_id, **row))

    def save_progress(
        self, rollout_id: str, state: dict[str, Any], stage: str | None = None
    ) -> bool:
        """Save where a running rollout is, without an audit entry: it decides nothing.

        Returns:
            Whether it was still running; if not, nothing is saved.
        """
        values: dict[str, Any] = {"state": state}
        if stage is not None:
            values["stage"] = stage
        running = (t.rollouts.c.id == rollout_id) & (t.rollouts.c.status == "running")
        with self._database.transaction() as connection:
            done = connection.execute(update(t.rollouts).where(running).values(**values))
            return bool(done.rowcount)

    def save_run_progress(self, run_id: str, stage: str, results: dict[str, Any]) -> bool:
        """Save where a training run is, without an audit entry: it decides nothing.

        Returns:
            Whether it was still active; if not, nothing is saved.
        """
        active = (t.runs.c.id == run_id) & (t.runs.c.status == "running")
        values = {"stage": stage, "results": results}
        with self._database.transaction() as connection:
            done = connection.execute(update(t.runs).where(active).values(**values))
            return bool(done.rowcount)

    def add_evidence(self, rollout_id: str, era: str, at_s: float, payload: dict[str, Any]) -> None:
        """Write down what a rollout saw, without an audit entry.

        Raises:
            UnknownRollout: none has this id.
        """
        with self._database.transaction() as connection:
            known = select(t.rollouts.c.id).where(t.rollouts.c.id == rollout_id)
            if connection.execute(known).first() is not None:
                row = {"rollout_id": rollout_id, "era": era, "at_s": at_s, "payload": payload}
                connection.execute(insert(t.evidence).values(**row))
                return
        self.rollout(rollout_id)

    def verify_audit(self) -> int | None:
        """None if the audit log is sound, else the number of its first bad entry."""
        with self._database.reading() as connection:
            return audit.verify(connection)

    def audit_head(self) -> tuple[int, str]:
        """Number and hash of the newest audit entry, to be kept elsewhere as a checkpoint."""
        with self._database.reading() as connection:
            return audit.head(connection)

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._database.reading()

    def now_s(self) -> float:
        return self._clock.now_s()


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()


def _check_operation_id(operation_id: str | None) -> None:
    if operation_id is None:
        return
    sized = 0 < len(operation_id) <= _LONGEST_OPERATION_ID
    if not sized or not operation_id.isprintable():
        raise UsageError(
            f"operation id must have 1 to {_LONGEST_OPERATION_ID} printable characters"
        )
