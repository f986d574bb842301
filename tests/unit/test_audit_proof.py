"""The audit log under attack: 10,000 random ones on a log in memory, and some on real files."""

import json
import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.clock import ManualClock
from aios.errors import UsageError
from aios.security.signing import SigningKey
from aios.store import audit, tables
from aios.store.audit import START
from aios.store.canonical import canonical
from aios.store.checkpoints import MARK_DIGITS, Checkpoint, Checkpointer
from aios.store.database import Database
from aios.store.merkle import Tree
from aios.store.outside import Outside
from aios.store.verdict import Verdict
from aios.store.verification import judge, verify

ATTACKS = 10_000
ON_FILES = 50
COUNT = 17
EVERY = 5
"""Entries per checkpoint here: 15 of 17 entries are covered by 3 checkpoints."""
COVERED = COUNT // EVERY * EVERY
PRIVATE = Ed25519PrivateKey.generate()
PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
KEY = SigningKey(PRIVATE)
OTHER = SigningKey(Ed25519PrivateKey.generate())
NAMES = ("seq", "at_s", "actor", "action", "subject", "details")


@dataclass
class Log:
    """Everything that an attacker can reach; `first_bad` and `told` are what must be found."""

    entries: list[list[Any]]
    kept: list[list[Any]]
    outside: list[str]
    first_bad: int | None = None
    told: str = ""

    def verdict(self, outside: bool = True) -> Verdict:
        return judge(self.entries, self.kept, self.outside if outside else None, KEY.public)


def entry(seq: int, previous: str, actor: str = "ana") -> list[Any]:
    details = canonical({"n": seq, "why": "because \u00fc"})
    return sealed([seq, 1000.5 + seq, actor, "test", f"loan{seq % 3}", details, previous, ""])


def sealed(row: list[Any]) -> list[Any]:
    content = dict(zip(NAMES, row, strict=False))
    row[7] = audit._seal(row[6], content)
    return row


def signed(
    entries: list[list[Any]], first_seq: int, last_seq: int, newest: Checkpoint | None, key: Any
) -> Checkpoint:
    tree = Tree()
    for row in entries[:last_seq]:
        tree.append(bytes.fromhex(row[7]))
    hashes = [row[7] for row in entries[first_seq - 1 : last_seq]]
    unsigned = Checkpoint(
        number=newest.number + 1 if newest else 1,
        first_seq=first_seq,
        last_seq=last_seq,
        root=tree.root(),
        head_hash=hashes[-1],
        marks="".join(one[:MARK_DIGITS] for one in hashes),
        at_s=1000.0 + last_seq,
        key_id=key.id,
        previous=newest.digest if newest else START,
    )
    return unsigned.model_copy(update={"signature": key.sign(unsigned.signed_bytes)})


def checkpoints(entries: list[list[Any]], key: Any = KEY) -> list[str]:
    newest, made = None, []
    for last_seq in range(EVERY, len(entries) + 1, EVERY):
        newest = signed(entries, last_seq - EVERY + 1, last_seq, newest, key)
        made.append(newest.content)
    return made


def chain(entries: list[list[Any]], seq: int) -> None:
    """Make the chain anew from an entry on, as anybody can who knows how it is made."""
    for index in range(seq - 1, len(entries)):
        previous = entries[index - 1][7] if index else START
        entries[index] = sealed([index + 1, *entries[index][1:6], previous, ""])


def written(count: int = COUNT) -> list[list[Any]]:
    entries: list[list[Any]] = []
    for seq in range(1, count + 1):
        entries.append(entry(seq, entries[-1][7] if entries else START))
    return entries


ENTRIES = written()
SEALS = checkpoints(ENTRIES)
FORGED_SEALS: dict[int, list[str]] = {}


def sound_log() -> Log:
    kept = [[number, content] for number, content in enumerate(SEALS, start=1)]
    return Log([row.copy() for row in ENTRIES], kept, SEALS.copy())


def edit(log: Log, chance: random.Random) -> None:
    seq, column = chance.randrange(1, COUNT + 1), chance.randrange(1, 8)
    row = log.entries[seq - 1]
    if chance.random() < 0.2:
        row[column] = chance.choice((b"\xff\x00", 9e999, None, 7, "\0", "", float("nan")))
    elif column == 1:
        row[1] += chance.choice((1e-6, -1.0))
    else:
        at = chance.randrange(len(row[column]))
        flipped = chr(ord(row[column][at]) ^ 1 << chance.randrange(6))
        row[column] = row[column][:at] + flipped + row[column][at + 1 :]
    log.first_bad, log.told = seq, f"entry {seq} was edited"


def delete(log: Log, chance: random.Random) -> None:
    seq = chance.randrange(1, COUNT)
    much = chance.randrange(1, COUNT - seq + 1)
    del log.entries[seq - 1 : seq - 1 + much]
    log.first_bad, log.told = seq, f"entry {seq} is missing"


def delete_and_renumber(log: Log, chance: random.Random) -> None:
    seq = chance.randrange(1, COUNT)
    del log.entries[seq - 1]
    for row in log.entries[seq - 1 :]:
        row[0] -= 1
    log.first_bad, log.told = seq, f"entry {seq} was edited, inserted or put in another's place"


def reorder(log: Log, chance: random.Random) -> None:
    one, other = sorted(chance.sample(range(1, COUNT + 1), 2))
    rows = log.entries
    rows[one - 1], rows[other - 1] = rows[other - 1], rows[one - 1]
    log.first_bad = one
    if chance.random() < 0.5:
        log.told = f"entry {one} is missing"
        return
    rows[one - 1][0], rows[other - 1][0] = one, other
    log.told = f"entry {one} was edited, inserted or put in another's place"


def insert(log: Log, chance: random.Random) -> None:
    seq = chance.randrange(1, COUNT + 1)
    log.entries.insert(seq - 1, entry(seq, log.entries[seq - 2][7] if seq > 1 else START, "eve"))
    for row in log.entries[seq:]:
        row[0] += 1
    # Only a checkpoint can tell that the inserted one, not the next, is wrong.
    log.first_bad = seq if seq <= COVERED else seq + 1


def reseal(log: Log, chance: random.Random) -> None:
    seq = chance.randrange(1, COUNT)
    log.entries[seq - 1][2] = "eve"
    sealed(log.entries[seq - 1])
    log.first_bad = seq if seq <= COVERED else seq + 1
    log.told = "replaced"


def rechain(log: Log, chance: random.Random) -> None:
    seq = chance.randrange(1, COVERED + 1)
    log.entries[seq - 1][2] = "eve"
    chain(log.entries, seq)
    log.first_bad, log.told = seq, "made anew without the key"


def rechain_without_an_entry(log: Log, chance: random.Random) -> None:
    seq = chance.randrange(1, COVERED + 1)
    del log.entries[seq - 1]
    chain(log.entries, seq)
    log.first_bad, log.told = seq, "made anew without the key"


def rechain_and_sign_with_another_key(log: Log, chance: random.Random) -> None:
    rechain(log, chance)
    # Signing is slow, so the forger's checkpoints are made once for each first entry.
    seq = log.first_bad or 0
    if seq not in FORGED_SEALS:
        FORGED_SEALS[seq] = checkpoints(log.entries, OTHER)
    log.kept = [[number, content] for number, content in enumerate(FORGED_SEALS[seq], start=1)]


def truncate(log: Log, chance: random.Random) -> None:
    left = chance.randrange(COVERED)
    del log.entries[left:]
    log.first_bad, log.told = left + 1, "the end of the log was cut off"


def put_an_old_copy_back(log: Log, chance: random.Random) -> None:
    seals = chance.randrange(len(SEALS))
    left = chance.randrange(seals * EVERY, (seals + 1) * EVERY)
    del log.entries[left:], log.kept[seals:]
    log.first_bad, log.told = left + 1, "old copy"


def go_on_from_an_old_copy(log: Log, chance: random.Random) -> None:
    put_an_old_copy_back(log, chance)
    left = len(log.entries)
    log.entries.append(entry(left + 1, log.entries[-1][7] if left else START, "bob"))
    newest = Checkpoint(**json.loads(log.kept[-1][1])) if log.kept else None
    first_seq = newest.last_seq + 1 if newest else 1
    seal = signed(log.entries, first_seq, left + 1, newest, KEY)
    log.kept.append([seal.number, seal.content])


def edit_a_checkpoint(log: Log, chance: random.Random) -> None:
    number = chance.randrange(1, len(SEALS) + 1)
    where = chance.randrange(3)
    content = log.outside[number - 1]
    at = chance.randrange(len(content))
    bad: Any = content[:at] + chr(ord(content[at]) ^ 1 << chance.randrange(6)) + content[at + 1 :]
    if where == 0:
        bad = chance.choice((bad, bad, b"\xff", None, 9, "[" * 5000, '{"number":NaN}', "{}"))
    if where in (0, 1):
        log.kept[number - 1][1] = bad
    if where in (1, 2):
        log.outside[number - 1] = bad
    log.first_bad = (number - 1) * EVERY + 1


def remove_a_checkpoint(log: Log, chance: random.Random) -> None:
    number = chance.randrange(1, len(SEALS))
    where = chance.randrange(3)
    if where in (0, 1):
        del log.kept[number - 1]
    if where in (1, 2):
        del log.outside[number - 1]
    log.first_bad = (number - 1) * EVERY + 1


UNDER_OUTSIDE = (put_an_old_copy_back, go_on_from_an_old_copy, remove_a_checkpoint)
KINDS = (
    *(edit, edit, edit, delete, delete_and_renumber, reorder, insert, reseal, rechain),
    *(rechain_without_an_entry, rechain_and_sign_with_another_key, truncate),
    *(edit_a_checkpoint, *UNDER_OUTSIDE),
)


def test_a_log_that_nobody_touched_is_sound():
    verdict = sound_log().verdict()
    assert verdict.sound
    assert (verdict.entries, verdict.checkpoints, verdict.sealed) == (COUNT, 3, COVERED)
    assert (verdict.outside, verdict.signed, verdict.first_bad) == (3, True, None)
    assert f"sound, {COUNT} entries" in repr(verdict)
    assert judge([], [], [], KEY.public).sound


def test_every_one_of_ten_thousand_attacks_is_found_and_its_first_bad_entry_named():
    chance = random.Random(36)
    for number in range(ATTACKS):
        log, kind = sound_log(), KINDS[number % len(KINDS)]
        kind(log, chance)
        verdict = log.verdict()
        assert not verdict.sound, (kind, number)
        assert verdict.first_bad == log.first_bad, (kind, number, verdict)
        assert log.told in (verdict.reason or ""), (kind, number, verdict)


VALUES = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.lists(VALUES, max_size=9), min_size=1, max_size=3),
    kept=st.lists(st.lists(VALUES, max_size=3), max_size=2),
    lines=st.lists(st.text(max_size=5), max_size=2),
)
def test_no_content_at_all_makes_the_check_raise(rows: list, kept: list, lines: list):
    assert judge(rows, kept, lines, KEY.public).first_bad == 1
    good = sound_log()
    assert judge([*good.entries, *rows], good.kept, good.outside, None).first_bad == COUNT + 1


def test_without_the_outside_only_a_cut_tail_and_an_old_copy_go_unseen():
    chance = random.Random(38)
    for kind in KINDS:
        log = sound_log()
        kind(log, chance)
        unseen = kind in (*UNDER_OUTSIDE, edit_a_checkpoint)
        assert unseen or not log.verdict(outside=False).sound, kind
    log = sound_log()
    put_an_old_copy_back(log, chance)
    verdict = log.verdict(outside=False)
    assert verdict.sound
    assert verdict.outside is None
    assert "not looked at" in repr(verdict)


def test_forged_marks_do_not_help():
    # Somebody who finds another entry whose hash begins alike: the root still differs.
    log = sound_log()
    log.entries[9][2] = "eve"
    chain(log.entries, 10)
    seal = Checkpoint(**json.loads(SEALS[1]))
    marks = "".join(row[7][:MARK_DIGITS] for row in log.entries[EVERY : 2 * EVERY])
    forged = seal.model_copy(update={"marks": marks})
    forged = forged.model_copy(update={"signature": KEY.sign(forged.signed_bytes)})
    log.kept[1][1] = log.outside[1] = forged.content
    verdict = log.verdict()
    assert (verdict.sound, verdict.first_bad) == (False, EVERY + 1)


def test_another_key_does_not_vouch_for_the_log():
    log = sound_log()
    verdict = judge(log.entries, log.kept, log.outside, OTHER.public)
    assert not verdict.sound
    assert f"signed by the key {KEY.id}, not by {OTHER.id}" in (verdict.reason or "")
    unsigned = judge(log.entries, log.kept, log.outside, None)
    assert unsigned.sound
    assert not unsigned.signed


# Real files.


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 17 entries and 3 checkpoints, at rest."""
    home = tmp_path_factory.mktemp("home")
    database = Database(f"sqlite:///{home}/aios.db")
    database.upgrade()
    checkpointer = Checkpointer(
        database,
        KEY,
        Outside(home / "checkpoints.jsonl"),
        ManualClock(1000.0),
    )
    for seq in range(1, COUNT + 1):
        who = {"actor": "ana", "action": "test", "subject": f"loan{seq % 3}"}
        with database.transaction() as connection:
            audit.append(connection, at_s=1000.5 + seq, details={"n": seq}, **who)
        if seq % EVERY == 0:
            assert checkpointer.seal() == 1
    database.close()
    (home / "ed25519.key.pub").write_bytes(PUBLIC_PEM)
    return home


def check(home: Path, **changed: Any) -> Verdict:
    places = {
        "database": home / "aios.db",
        "checkpoints": home / "checkpoints.jsonl",
        "public_key": home / "ed25519.key.pub",
    }
    return verify(**{**places, **changed})


def attacked(home: Path, target: Path, chance: random.Random, kind: Any) -> Log:
    """Carry an attack out on a copy of the files, as somebody who may write to them would."""
    target.mkdir()
    for name in ("aios.db", "checkpoints.jsonl", "ed25519.key.pub"):
        (target / name).write_bytes((home / name).read_bytes())
    connection = sqlite3.connect(target / "aios.db", isolation_level=None)
    log = Log(
        [list(row) for row in connection.execute("SELECT * FROM audit ORDER BY seq")],
        [list(row) for row in connection.execute("SELECT * FROM audit_checkpoints")],
        (target / "checkpoints.jsonl").read_text().splitlines(),
    )
    kind(log, chance)
    # Without types and rules: the triggers go with the tables.
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("DROP TABLE audit")
    connection.execute("DROP TABLE audit_checkpoints")
    names = ", ".join(tables.audit.columns.keys())
    connection.execute(f"CREATE TABLE audit ({names})")
    connection.execute("CREATE TABLE audit_checkpoints (number, content)")
    connection.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", log.entries)
    connection.executemany("INSERT INTO audit_checkpoints VALUES (?, ?)", log.kept)
    connection.close()
    (target / "checkpoints.jsonl").write_text("".join(line + "\n" for line in log.outside))
    return log


def test_attacks_on_files_are_found_too(home: Path, tmp_path: Path):
    assert check(home).sound
    chance = random.Random(39)
    # A table is read in order, whatever the order in its file.
    kinds = [kind for kind in KINDS if kind is not reorder]
    for number in range(ON_FILES):
        kind = kinds[number % len(kinds)]
        log = attacked(home, tmp_path / str(number), chance, kind)
        verdict = check(tmp_path / str(number))
        assert (verdict.sound, verdict.first_bad) == (False, log.first_bad), (kind, verdict)
        assert log.told in (verdict.reason or ""), (kind, number, verdict)


def test_damaged_files_give_a_verdict_and_no_traceback(home: Path, tmp_path: Path):
    chance, found = random.Random(40), 0
    for number in range(200):
        name = chance.choice(("aios.db", "aios.db", "checkpoints.jsonl"))
        content = bytearray((home / name).read_bytes())
        for _ in range(chance.choice((1, 10, 100))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.2:
            del content[chance.randrange(len(content)) :]
        changed = tmp_path / f"{number}-{name}"
        changed.write_bytes(content)
        place = "database" if name == "aios.db" else "checkpoints"
        found += not check(home, **{place: changed}).sound
    # The rest hit pages that hold no audit log.
    assert found > 60


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        (["DROP TABLE audit"], "no audit log"),
        (["DROP TABLE audit_checkpoints"], "checkpoint 1 in the database is missing"),
        (
            [
                "DROP TABLE audit",
                "CREATE VIEW audit AS WITH RECURSIVE n(seq) AS (SELECT 0 UNION ALL SELECT seq FROM "
                "n) SELECT seq, 1.0 AS at_s, '' AS actor, '' AS action, '' AS subject, "
                "'' AS details, '' AS previous, '' AS hash FROM n WHERE seq > 0",
            ],
            "no audit log",
        ),
    ],
)
def test_a_database_of_another_shape_is_not_sound(
    home: Path, tmp_path: Path, statements: list[str], told: str
):
    (tmp_path / "aios.db").write_bytes((home / "aios.db").read_bytes())
    with sqlite3.connect(tmp_path / "aios.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    verdict = check(home, database=tmp_path / "aios.db")
    assert not verdict.sound
    assert told in (verdict.reason or "")


def test_a_copy_is_only_read(home: Path, tmp_path: Path):
    copy = tmp_path / "copy" / "aios.db"
    copy.parent.mkdir()
    copy.write_bytes((home / "aios.db").read_bytes())
    assert verify(str(copy)).sound
    assert verify(f"sqlite:///{copy}", home / "checkpoints.jsonl").outside == 3
    assert [path.name for path in copy.parent.iterdir()] == ["aios.db"]
    assert copy.read_bytes() == (home / "aios.db").read_bytes()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"database": "/nowhere/aios.db"}, "no database file"),
        ({"database": "mysql://host/name"}, "not supported"),
        ({"checkpoints": "/nowhere/checkpoints.jsonl"}, "cannot be read"),
        ({"public_key": "/nowhere/key.pub"}, "cannot be read"),
        ({"public_key": __file__}, "no public key in PEM"),
    ],
)
def test_a_file_that_is_not_there_is_a_usage_error(home: Path, changed: dict, told: str):
    with pytest.raises(UsageError, match=told):
        check(home, **changed)
