"""Who may work: each worker's lease, renewed by it and taken from it by the kernel.

A worker that could not renew for `LEASE_S` starts no further step, whatever the database says
by then. The kernel waits longer, `TAKE_S` from the last renewal it saw, before it gives a silent
worker's flows to others. Neither compares clocks of two machines: the worker counts seconds
since it last wrote, the kernel seconds since it last saw something written.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Self

import psutil
import sqlalchemy as sa

from aios.errors import IllegalTransition
from aios.store.database import Database

LEASE_S = 4.0
RENEW_S = 1.0
TAKE_S = 6.0
"""Longer than `LEASE_S`, and so short that flows of a frozen worker go on within 10 s."""

workers = sa.Table(
    "aios_flow_workers",
    sa.MetaData(),
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("beat", sa.BigInteger, nullable=False),
    sa.Column("taken", sa.Boolean, nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("started_s", sa.Double, nullable=False),
)


class Process(NamedTuple):
    """Where a worker runs; with `started_s` it is not mistaken for another of the same pid."""

    host: str
    pid: int
    started_s: float

    @classmethod
    def here(cls) -> Self:
        own = psutil.Process()
        return cls(socket.gethostname(), own.pid, own.create_time())

    def kill(self) -> None:
        """SIGKILL, which also reaches a frozen process; one of another machine is left."""
        if self.host != socket.gethostname():
            return
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.pid)
            if found.create_time() == self.started_s:
                found.kill()


class Leases:
    """The kernel's side: who renews, and taking a lease away for good.

    Args:
        database: that of the flows.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def prepare(self) -> None:
        """Make the table where there is none."""
        with self._database.transaction() as connection:
            workers.create(connection, checkfirst=True)

    def beats(self) -> dict[str, int]:
        """How often each worker renewed, of those whose lease is not taken."""
        with self._database.reading() as connection:
            found = sa.select(workers.c.id, workers.c.beat).where(sa.not_(workers.c.taken))
            return {row.id: row.beat for row in connection.execute(found)}

    def processes(self) -> dict[str, Process]:
        """Where each worker runs, also those whose lease is taken."""
        columns = (workers.c.id, workers.c.host, workers.c.pid, workers.c.started_s)
        with self._database.reading() as connection:
            return {row[0]: Process(*row[1:]) for row in connection.execute(sa.select(*columns))}

    def take(self, worker_id: str) -> None:
        """From now on it cannot renew; what is left of its time is for the caller to wait."""
        with self._database.transaction() as connection:
            mine = workers.c.id == worker_id
            connection.execute(sa.update(workers).where(mine).values(taken=True))

    def forget(self, worker_id: str) -> None:
        """The worker's process is gone, and with it the need to remember that it is fenced."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(workers).where(workers.c.id == worker_id))


class Lease:
    """The worker's side.

    Args:
        monotonic: seconds on a clock that only goes forward, also while the process is frozen.
    """

    def __init__(
        self,
        database: Database,
        worker_id: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self.worker_id = worker_id
        self._monotonic = monotonic
        self._until_s = float("-inf")
        self._lost = False
        self._ended = threading.Event()

    def take(self) -> None:
        """Begin; an id is used once.

        Raises:
            IllegalTransition: it was used before.
        """
        begun_s = self._monotonic()
        with self._database.transaction() as connection:
            known = sa.select(workers.c.id).where(workers.c.id == self.worker_id)
            if connection.execute(known).first() is not None:
                raise IllegalTransition(f"worker {self.worker_id} was there before")
            row = {"id": self.worker_id, "beat": 0, "taken": False, **Process.here()._asdict()}
            connection.execute(sa.insert(workers).values(**row))
        self._until_s = begun_s + LEASE_S

    def renew(self) -> bool:
        """Whether it is still ours. Once lost it never comes back.

        Raises:
            StoreUnavailable: it is not known; the lease runs on to its end.
        """
        begun_s = self._monotonic()
        if not self.held:
            return False
        mine = (workers.c.id == self.worker_id) & sa.not_(workers.c.taken)
        with self._database.transaction() as connection:
            renewed = sa.update(workers).where(mine).values(beat=workers.c.beat + 1)
            if connection.execute(renewed).rowcount == 0:
                self._lost = True
                return False
        self._until_s = begun_s + LEASE_S
        return True

    @property
    def held(self) -> bool:
        """Whether a step may begin, or be written down, now."""
        if self._monotonic() >= self._until_s:
            self._lost = True
        return not self._lost

    def keep(self, lost: Callable[[], None]) -> None:
        """Renew until `end`, in this thread; `lost` is called once when that is over."""
        while not self._ended.wait(RENEW_S):
            with suppress(Exception):  # whatever it was, the lease runs on to its end
                self.renew()
            if not self.held:
                lost()
                return

    def end(self) -> None:
        """Leave of one's own will: nothing begins any more."""
        self._ended.set()
        self._lost = True
