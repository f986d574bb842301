"""The runtime that a benchmark runs on: a private one of its own, or one that the suite lends.

A start takes half a minute of two cores: short versions that need nothing but a runtime share one.
What borrows it names its models so that no other benchmark has them, and is the only one that uses
it meanwhile; its endpoints go when it ends.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aios
from aios.errors import AiosError, ClusterUnavailable
from aios.kernel.head import Head, read_head
from aios.runtime.connection import Connection, noted
from aios.runtime.lifecycle import LocalRuntime
from benchmarks.results import SUITE

BORROWERS = ("latency", "throughput", "scaling", "rollout", "training", "agents")
"""Benchmarks that use `runtime`; one after the other in the catalogue, so that the runtime that
they share stands beside no other."""


class Lent(LocalRuntime):
    """Somebody else's: closed here, it runs on, without the endpoints that came meanwhile."""

    def __init__(self, connection: Connection, head: Head) -> None:
        super().__init__(connection, head)
        self._before = self._endpoints()

    def close(self) -> None:
        """Leave it as it was found, but for models and agents."""
        for name in self._endpoints() - self._before:
            self.remove(name)
        aios.Runtime.close(self)

    def _endpoints(self) -> set[str]:
        return {endpoint["name"] for endpoint in self.status().endpoints}


@contextmanager
def runtime() -> Iterator[LocalRuntime]:
    """The one that the suite lends, else a private one, which ends with the block."""
    home = SUITE.get("runtime")
    with aios.local() if home is None else _lent(Path(home)) as found:
        yield found


def _lent(home: Path) -> Lent:
    connection, head = noted(home), read_head(home)
    if connection is None or head is None:
        raise ClusterUnavailable(f"the runtime that was lent is gone: nothing is noted in {home}")
    return Lent(connection, head)


class Lender:
    """One runtime for all that borrow one, there from when one asks first until it is ended."""

    def __init__(self, start: Callable[[], LocalRuntime] = aios.local) -> None:
        self._start = start
        self._lent: LocalRuntime | None = None

    def home(self) -> Path | None:
        """Its folder; None if no runtime starts, which who asked then meets and tells."""
        if self._lent is None:
            try:
                self._lent = self._start()
            except AiosError:
                return None
        return self._lent.home

    def end(self) -> None:
        """End it, if it is there."""
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.close()
