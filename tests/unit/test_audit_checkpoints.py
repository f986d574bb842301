"""Checkpoints of the audit log: when they are due, what a crash leaves, and who may sign."""

import json
import os
import stat
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.clock import ManualClock
from aios.errors import StoreCorrupt, StoreUnavailable, UsageError
from aios.security.signing import public_key, signing_key
from aios.store import audit
from aios.store.checkpoints import EVERY_S, MOST_ENTRIES, Checkpointer
from aios.store.database import Database
from aios.store.merkle import Tree
from aios.store.outside import Outside
from aios.store.verification import verify

WHO = {"actor": "ana", "action": "test", "subject": "loan"}


class Home:
    """A store with its key and the file outside, at a clock that moves when told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/aios.db"
        self.file = folder / "outside" / "checkpoints.jsonl"
        self.clock = ManualClock(1000.0)
        self.database = Database(self.url)
        self.database.upgrade()
        self.key = signing_key(folder / "audit" / "ed25519.key")

    def checkpointer(self) -> Checkpointer:
        """As after a start of the kernel."""
        return Checkpointer(self.database, self.key, Outside(self.file), self.clock)

    def write(self, count: int) -> None:
        with self.database.transaction() as connection:
            for _ in range(count):
                audit.append(connection, at_s=self.clock.now_s(), details={}, **WHO)

    def outside(self) -> list[tuple[int, int]]:
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [(line["first_seq"], line["last_seq"]) for line in lines]

    def kept(self) -> list[str]:
        with self.database.reading() as connection:
            query = "SELECT content FROM audit_checkpoints ORDER BY number"
            return list(connection.exec_driver_sql(query).scalars())

    def tamper(self, *statements: str) -> None:
        """Do what somebody with the file can: drop the triggers and change rows."""
        with self.database.transaction() as connection:
            for table in ("audit", "audit_checkpoints"):
                for name in ("no_update", "no_delete", "appends"):
                    connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table}_{name}")
            for statement in statements:
                connection.exec_driver_sql(statement)

    def verdict(self):
        return verify(self.folder / "aios.db", self.file, self.folder / "audit" / "ed25519.key.pub")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


# The tree.


def test_the_tree_hash_is_that_of_the_rfc():
    # The test vectors of Certificate Transparency's reference implementation.
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    leaves.append("606162636465666768696a6b6c6d6e6f")
    roots = {
        0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for size, root in roots.items():
        tree = Tree()
        for leaf in leaves[:size]:
            tree.append(bytes.fromhex(leaf))
        assert tree.root() == root


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=4), max_size=40))
def test_a_tree_that_grew_is_the_tree_by_its_definition(leaves: list[bytes]):
    import hashlib

    def by_definition(some: list[bytes]) -> bytes:
        if len(some) == 1:
            return hashlib.sha256(b"\x00" + some[0]).digest()
        split = 1 << (len(some) - 1).bit_length() - 1
        halves = by_definition(some[:split]) + by_definition(some[split:])
        return hashlib.sha256(b"\x01" + halves).digest()

    tree = Tree()
    for leaf in leaves:
        tree.copy().append(b"else")
        tree.append(leaf)
    if leaves:
        assert tree.root() == by_definition(leaves).hex()


# When.


def test_a_checkpoint_is_made_after_so_many_entries_or_so_much_time(home: Home):
    checkpointer = home.checkpointer()
    assert checkpointer.tick() == 0
    home.write(1)
    assert checkpointer.tick() == 1
    home.write(MOST_ENTRIES - 1)
    home.clock.advance(EVERY_S - 1)
    assert checkpointer.tick() == 0
    home.write(1)
    assert checkpointer.tick() == 1
    home.clock.advance(EVERY_S)
    assert checkpointer.tick() == 0
    home.write(2)
    assert checkpointer.tick() == 1
    home.write(1)
    assert (checkpointer.tick(), checkpointer.seal(), checkpointer.seal()) == (0, 1, 0)
    assert home.outside() == [(1, 1), (2, 1001), (1002, 1003), (1004, 1004)]
    assert (home.verdict().sound, home.verdict().sealed) == (True, 1004)


def test_a_clock_that_was_put_back_does_not_put_checkpoints_off(home: Home):
    home.write(1)
    home.checkpointer().tick()
    home.write(1)
    home.clock.advance(-500)
    assert home.checkpointer().tick() == 1


def test_a_long_log_without_checkpoints_gets_many(home: Home):
    home.write(2 * MOST_ENTRIES + 5)
    assert home.checkpointer().tick() == 3
    assert home.outside() == [(1, 1000), (1001, 2000), (2001, 2005)]
    assert home.verdict().sound


def test_the_database_refuses_to_change_checkpoints(home: Home):
    home.write(1)
    home.checkpointer().tick()
    for statement in (
        "UPDATE audit_checkpoints SET content = ''",
        "DELETE FROM audit_checkpoints",
        "INSERT OR REPLACE INTO audit_checkpoints VALUES (1, '')",
        "INSERT INTO audit_checkpoints VALUES (3, '')",
    ):
        with (
            pytest.raises(Exception, match=r"never changed|only appended"),
            home.database.transaction() as connection,
        ):
            connection.exec_driver_sql(statement)


# After a crash.


@pytest.mark.parametrize("left", ["nothing", "a part", "all but the end of the line", "no file"])
def test_what_a_crash_kept_from_the_file_is_written_at_the_next_tick(home: Home, left: str):
    checkpointer = home.checkpointer()
    for _ in range(3):
        home.write(2)
        checkpointer.seal()
    first, second, third = home.file.read_text().splitlines(keepends=True)
    if left == "no file":
        home.file.unlink()
    else:
        kept = {"nothing": "", "a part": third[:50], "all but the end of the line": third[:-1]}
        home.file.write_text(first + second + kept[left])
        assert home.verdict().sound
        # Twice in a row, as a machine does that has no space.
        with home.file.open("a") as file:
            file.write("\n" + third[:20] if left == "a part" else "")
    assert home.checkpointer().tick() == 0
    lines = home.file.read_text().splitlines()
    assert [line + "\n" for line in lines if line.endswith("}")] == [first, second, third]
    verdict = home.verdict()
    assert (verdict.sound, verdict.checkpoints, verdict.outside) == (True, 3, 3)
    home.write(1)
    assert home.checkpointer().seal() == 1
    assert home.verdict().outside == 4


def test_a_beginning_of_a_line_that_nothing_follows_up_is_no_crash(home: Home):
    checkpointer = home.checkpointer()
    for _ in range(3):
        home.write(2)
        checkpointer.seal()
    first, second, third = home.file.read_text().splitlines(keepends=True)
    home.file.write_text(first + second[:50] + "\n" + third)
    verdict = home.verdict()
    assert (verdict.sound, verdict.first_bad) == (False, 3)
    assert verdict.reason == "checkpoint 2 outside cannot be read"


def test_a_place_that_cannot_be_written_is_told_and_caught_up_with(home: Home):
    checkpointer = three_checkpoints(home)
    content = home.file.read_text()
    home.file.unlink()
    home.file.mkdir()
    for _ in range(2):
        home.write(2)
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            checkpointer.seal()
    assert len(home.kept()) == 5
    home.file.rmdir()
    home.file.write_text(content)
    assert checkpointer.tick() == 0
    assert home.outside() == [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)]


def test_two_checkpointers_on_one_store_take_turns(home: Home):
    one, other = home.checkpointer(), home.checkpointer()
    for count in (3, 1, 1500):
        for checkpointer in (one, other, other, one):
            home.write(count)
            checkpointer.seal()
    assert home.verdict().sound
    assert home.verdict().outside == home.verdict().checkpoints == len(home.kept())


class InterruptedClock(ManualClock):
    """Lets somebody else go first, once, while a checkpoint is being made."""

    def __init__(self, first: Checkpointer) -> None:
        super().__init__(1000.0)
        self._first: Checkpointer | None = first

    def now_s(self) -> float:
        first, self._first = self._first, None
        if first is not None:
            assert first.seal() == 1
        return super().now_s()


def test_who_comes_second_to_the_same_entries_seals_nothing(home: Home):
    three_checkpoints(home)
    home.write(1)
    clock = InterruptedClock(home.checkpointer())
    late = Checkpointer(home.database, home.key, Outside(home.file), clock)
    assert late.seal() == 0
    home.write(1)
    assert late.seal() == 1
    assert (home.verdict().sound, home.verdict().outside) == (True, 5)


# After an attack: nothing more is sealed.


def three_checkpoints(home: Home) -> Checkpointer:
    checkpointer = home.checkpointer()
    for _ in range(3):
        home.write(2)
        checkpointer.seal()
    return checkpointer


def test_an_old_copy_that_was_put_back_is_told_and_not_gone_on_with(home: Home):
    running = three_checkpoints(home)
    home.tamper("DELETE FROM audit WHERE seq > 3", "DELETE FROM audit_checkpoints WHERE number > 1")
    home.clock.advance(1)
    home.write(5)
    for checkpointer in (running, home.checkpointer()):
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match="old copy of the database was put back"):
                checkpointer.seal()
    assert len(home.kept()) == 1
    verdict = home.verdict()
    assert (verdict.sound, verdict.first_bad) == (False, 4)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM audit WHERE seq > 5", "its tail was cut off"),
        ("DELETE FROM audit WHERE seq = 2", "entry 2 of the audit log does not follow"),
        (f"UPDATE audit SET hash = '{'0' * 64}' WHERE seq = 6", "not those that were sealed"),
        ("UPDATE audit_checkpoints SET content = '{}' WHERE number = 3", "cannot be read"),
    ],
)
def test_a_changed_log_is_not_sealed(home: Home, statement: str, told: str):
    three_checkpoints(home)
    home.tamper(statement)
    home.clock.advance(EVERY_S)
    if "cut" not in told:
        home.write(1)
    with pytest.raises(StoreCorrupt, match=told):
        home.checkpointer().tick()
    assert len(home.kept()) == 3
    assert not home.verdict().sound


def test_a_file_with_somebody_elses_lines_is_told(home: Home):
    three_checkpoints(home)
    with home.file.open("a") as file:
        file.write('{"number":4}\n')
    with pytest.raises(StoreCorrupt, match="keep it as evidence"):
        home.checkpointer().tick()


# The key.


def test_the_key_is_made_once_and_only_for_its_owner(tmp_path: Path):
    path = tmp_path / "audit" / "ed25519.key"
    made = signing_key(path)
    assert signing_key(path).id == made.id == public_key(tmp_path / "audit/ed25519.key.pub").id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    signature = made.sign(b"content")
    assert made.public.verifies(b"content", signature)
    assert not made.public.verifies(b"Content", signature)
    assert not made.public.verifies(b"content", "no hex")
    assert sorted(os.listdir(path.parent)) == ["ed25519.key", "ed25519.key.pub"]


def test_a_key_that_is_not_right_is_refused(tmp_path: Path):
    path, other = tmp_path / "a" / "key", tmp_path / "b" / "key"
    beside = path.with_name("key.pub")
    signing_key(path)
    signing_key(other)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="can be read by others"):
        signing_key(path)
    path.chmod(0o600)
    own = beside.read_bytes()
    beside.write_bytes(other.with_name("key.pub").read_bytes())
    with pytest.raises(UsageError, match="is not the public half"):
        signing_key(path)
    beside.write_bytes(own)
    private = path.read_bytes()
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no private key"):
        signing_key(path)
    path.unlink()
    with pytest.raises(UsageError, match="is gone"):
        signing_key(path)
    with pytest.raises(UsageError, match="no public key"):
        public_key(other)
    path.write_bytes(private)
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        signing_key(path / "below")


def test_another_key_does_not_go_on_in_the_first_ones_name(home: Home):
    three_checkpoints(home)
    home.write(1)
    other = signing_key(home.folder / "other" / "key")
    with pytest.raises(StoreCorrupt, match="put the signing key back"):
        Checkpointer(home.database, other, Outside(home.file), home.clock).seal()


# Writers.


def write_some(url: str, name: str) -> None:
    database = Database(url)
    for number in range(5):
        names = {"actor": name, "action": "test", "subject": "loan"}
        with database.transaction() as connection:
            audit.append(connection, at_s=1.0, details={"n": number}, **names)
    database.close()


def test_sixty_four_writers_in_four_processes_keep_one_chain(home: Home):
    home.database.close()
    writers = [
        get_context("forkserver").Process(target=sixteen_writers, args=(home.url, number))
        for number in range(4)
    ]
    for writer in writers:
        writer.start()
    checkpointer = home.checkpointer()
    while any(writer.is_alive() for writer in writers):
        checkpointer.seal()
        writers[0].join(0.05)
    for writer in writers:
        writer.join()
    checkpointer.seal()
    assert [writer.exitcode for writer in writers] == [0] * 4
    verdict = home.verdict()
    assert (verdict.sound, verdict.entries, verdict.sealed) == (True, 320, 320)
    assert verdict.outside == verdict.checkpoints >= 1


def sixteen_writers(url: str, number: int) -> None:
    names = [f"writer {number}-{thread}" for thread in range(16)]
    threads = [threading.Thread(target=write_some, args=(url, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_only_postgresql_has_roles(home: Home):
    with pytest.raises(UsageError, match="only PostgreSQL has roles"):
        audit.restrict(home.database, "app")
