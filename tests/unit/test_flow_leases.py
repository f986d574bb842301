"""Who may work, and when the kernel takes a worker's place: decisions of times alone."""

from pathlib import Path

import pytest

from aios.errors import IllegalTransition
from aios.flows.leases import LEASE_S, TAKE_S, Lease, Leases
from aios.kernel.flow_workers import PAUSE_S, START_S, Watched
from aios.store.database import Database


class Monotonic:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path}/leases.db")
    Leases(database).prepare()
    return database


class TestLease:
    def test_it_lasts_as_long_as_it_is_renewed(self, database: Database) -> None:
        clock = Monotonic()
        lease = Lease(database, "w", clock)
        lease.take()
        for _ in range(10):
            clock.now_s += LEASE_S - 0.1
            assert lease.renew()
        assert Leases(database).beats() == {"w": 10}

    def test_a_worker_that_froze_has_lost_it_whatever_the_database_says(
        self, database: Database
    ) -> None:
        clock = Monotonic()
        lease = Lease(database, "w", clock)
        lease.take()
        clock.now_s += LEASE_S
        assert not lease.held
        clock.now_s -= LEASE_S  # not even if time went back
        assert not lease.held
        assert not lease.renew()
        assert Leases(database).beats() == {"w": 0}

    def test_a_lease_that_was_taken_cannot_be_renewed(self, database: Database) -> None:
        lease = Lease(database, "w")
        lease.take()
        Leases(database).take("w")
        assert not lease.renew()
        assert not lease.held
        assert Leases(database).beats() == {}

    def test_an_id_is_used_once(self, database: Database) -> None:
        Lease(database, "w").take()
        with pytest.raises(IllegalTransition, match="worker w was there before"):
            Lease(database, "w").take()

    def test_the_kernel_waits_longer_than_a_lease_lasts(self) -> None:
        assert LEASE_S + 1 < TAKE_S < 10


class TestWatched:
    def watched(self, *workers: str, wanted: int = 2) -> Watched:
        watched = Watched(wanted)
        for worker in workers:
            watched.begun(worker, 0.0)
        return watched

    def test_the_first_look_begins_as_many_as_wanted(self) -> None:
        verdict = Watched(3).look({}, set(), 0.0)
        assert (verdict.start, verdict.fence) == (3, frozenset())

    def test_a_death_is_fenced_and_replaced_at_once(self) -> None:
        watched = self.watched("a", "b")
        watched.look({"a": 1, "b": 1}, set(), 1.0)
        verdict = watched.look({"a": 2, "b": 1}, {"b"}, 1.5)
        assert (verdict.fence, verdict.alive, verdict.start) == ({"b"}, {"a"}, 1)

    def test_silence_is_fenced_when_the_lease_is_over_for_sure(self) -> None:
        watched = self.watched("a", "b")
        watched.look({"a": 1, "b": 1}, set(), 1.0)
        assert not watched.look({"a": 2, "b": 1}, set(), 1.0 + TAKE_S - 0.1).fence
        verdict = watched.look({"a": 3, "b": 1}, set(), 1.0 + TAKE_S)
        assert (verdict.fence, verdict.start) == ({"b"}, 1)

    def test_a_start_that_hangs_is_given_up(self) -> None:
        watched = self.watched("a", wanted=1)
        assert not watched.look({}, set(), START_S - 1).fence
        assert watched.look({}, set(), START_S).fence == {"a"}

    def test_workers_that_die_in_their_start_are_not_begun_in_a_hurry(self) -> None:
        watched = self.watched("a", wanted=1)
        assert watched.look({}, {"a"}, 1.0).start == 0
        assert watched.look({}, set(), PAUSE_S).start == 1
        watched.begun("b", PAUSE_S)
        watched.look({"b": 1}, set(), PAUSE_S + 1)  # it came up: the next is begun at once
        assert watched.look({"b": 1}, {"b"}, PAUSE_S + 2).start == 1

    def test_a_lease_of_nobody_is_fenced(self) -> None:
        """Of a worker of a kernel before this one, which is no longer there."""
        assert self.watched("a").look({"a": 1, "gone": 7}, set(), 1.0).fence == {"gone"}
