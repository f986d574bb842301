"""Signed checkpoints of the audit log, kept in the database and outside of it.

The hash chain alone can be made anew by whoever can write to the database, and cut off at its
end. A checkpoint holds the Merkle root over all entries so far under a signature whose key is
not in the database, so neither goes unseen for entries under it; and its copy outside shows
when the database was put back to an older state. What is newer than the newest checkpoint, at
most 1,000 entries or 60 s, is held by the chain alone.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from pydantic import Field, model_validator
from sqlalchemy import Connection, bindparam, insert, select

from aios.clock import Clock, SystemClock
from aios.errors import StoreCorrupt, UsageError
from aios.records import Record
from aios.security.signing import PublicKey, SigningKey
from aios.store import audit
from aios.store.audit import START
from aios.store.canonical import canonical
from aios.store.database import Database
from aios.store.merkle import Tree
from aios.store.outside import Outside
from aios.store.tables import audit as entries
from aios.store.tables import audit_checkpoints as kept

MOST_ENTRIES = 1000
EVERY_S = 60.0
MARK_DIGITS = 8
"""How much of each entry's hash a checkpoint keeps. Not what makes it safe, which the root is:
it tells from which entry on a chain was made anew, where the root only tells that it was."""

_AT_ONCE = 100
"""Checkpoints in one transaction, which others wait for."""

_HASH = r"^[0-9a-f]{64}$"
_NEWEST = select(kept.c.content).order_by(kept.c.number.desc()).limit(1)
_ONE = select(kept.c.content).where(kept.c.number == bindparam("wanted"))
_LATER = select(kept.c.content).where(kept.c.number > bindparam("known")).order_by(kept.c.number)
_HASHES = (
    select(entries.c.seq, entries.c.previous, entries.c.hash)
    .where(entries.c.seq > bindparam("known"), entries.c.seq <= bindparam("wanted"))
    .order_by(entries.c.seq)
)


class Checkpoint(Record):
    """What was true of the audit log at a time, signed.

    `root` is the Merkle tree hash (RFC 6962) over the hashes of entries 1 to `last_seq`,
    `head_hash` the hash of the last of them; `first_seq` is the first that no earlier checkpoint
    covers, and `marks` the beginnings of the hashes from there on. `previous` is the digest of
    the checkpoint before it, so that none can be left out.
    """

    number: int = Field(ge=1)
    first_seq: int = Field(ge=1)
    last_seq: int = Field(ge=1)
    root: str = Field(pattern=_HASH)
    head_hash: str = Field(pattern=_HASH)
    marks: str = Field(pattern=r"^[0-9a-f]+$", max_length=MOST_ENTRIES * MARK_DIGITS)
    at_s: float
    key_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    previous: str = Field(pattern=_HASH)
    signature: str = Field(default="", pattern=r"^([0-9a-f]{128})?$")

    @model_validator(mode="after")
    def _one_mark_per_entry(self) -> "Checkpoint":
        if len(self.marks) != (self.last_seq - self.first_seq + 1) * MARK_DIGITS:
            raise ValueError("a checkpoint has one mark for each of its entries")
        return self

    @property
    def content(self) -> str:
        """The one spelling in which it is kept: canonical JSON, one line."""
        return canonical(self.model_dump())

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content.encode("ascii")).hexdigest()

    @property
    def signed_bytes(self) -> bytes:
        return canonical(self.model_dump(exclude={"signature"})).encode("ascii")


def read_checkpoint(content: object, public_key: PublicKey | None) -> Checkpoint | str:
    """A checkpoint from where it was kept, or what is wrong with it. Never raises.

    Without a public key the signature is not checked.
    """
    try:
        made = Checkpoint.model_validate(json.loads(content), strict=True)  # type: ignore[arg-type]
        if made.content != content:
            return "is spelled otherwise than it was written"
    except (ValueError, TypeError, RecursionError, UsageError):
        return "cannot be read"
    if public_key is None:
        return made
    if made.key_id != public_key.id:
        return f"was signed by the key {made.key_id}, not by {public_key.id}"
    if not public_key.verifies(made.signed_bytes, made.signature):
        return "does not have the key's signature: it was edited, or made without the key"
    return made


class Checkpointer:
    """Seals what is new in the audit log; safe to call from several threads and processes.

    Args:
        database: upgraded already.
        signer: from `security.signing.signing_key`.
        outside: where checkpoints are also kept, from `store.outside.Outside`.
        clock: tells when the next one is due.
    """

    def __init__(
        self, database: Database, signer: SigningKey, outside: Outside, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._signer = signer
        self._outside = outside
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._tree = Tree()
        self._copied = -1

    def tick(self) -> int:
        """Seal what is new if it is 1,000 entries or 60 s have passed; call it every second.

        Also brings outside what a crash or a full disk has kept from there. Costs two queries
        when nothing is due. The first call reads the whole log, about 3 s for a million entries.

        Returns:
            The number of new checkpoints.

        Raises:
            StoreCorrupt: the log, its checkpoints and those outside do not belong together: an
                entry was changed, or an old copy of the database was put back. Nothing is sealed
                any more; a person has to look.
            StoreUnavailable: database or outside cannot be written now. The next call goes on;
                while only the outside fails, the database still gets its checkpoints, unless
                it has failed since the start.
        """
        with self._lock:
            return self._advance(only_due=True)

    def seal(self) -> int:
        """Seal all that is new, due or not: before an orderly end. Raises what `tick` raises."""
        with self._lock:
            return self._advance(only_due=False)

    def _advance(self, only_due: bool) -> int:
        with self._database.reading() as connection:
            newest = self._newest(connection)
            head_seq, _ = audit.head(connection)
        if not 0 <= self._copied <= (newest.number if newest else 0):
            # What is outside may tell that this database is an old copy, which must not go on.
            self._bring_outside(newest)
        sealed = newest.last_seq if newest else 0
        if head_seq < sealed:
            raise StoreCorrupt(
                f"the audit log ends at entry {head_seq}, but entries to {sealed} were sealed: "
                "its tail was cut off; run `aios audit verify`"
            )
        made = 0
        if head_seq > sealed and (not only_due or self._is_due(newest, head_seq - sealed)):
            newest, made = self._seal_to(newest, head_seq)
        self._bring_outside(newest)
        return made

    def _seal_to(self, newest: Checkpoint | None, wanted: int) -> tuple[Checkpoint | None, int]:
        """Make checkpoints up to an entry; the newest then, and how many were made."""
        sealed, made = newest.last_seq if newest else 0, 0
        while sealed < wanted:
            batch, tree = self._make(newest, min(wanted, sealed + _AT_ONCE * MOST_ENTRIES))
            if not self._keep(newest, batch):
                break
            self._tree, newest, made = tree, batch[-1], made + len(batch)
            sealed = newest.last_seq
        return newest, made

    def _is_due(self, newest: Checkpoint | None, fresh: int) -> bool:
        # A clock that was put back must not put checkpoints off.
        passed_s = EVERY_S if newest is None else self._clock.now_s() - newest.at_s
        return fresh >= MOST_ENTRIES or not 0 <= passed_s < EVERY_S

    def _newest(self, connection: Connection) -> Checkpoint | None:
        content = connection.execute(_NEWEST).scalar()
        return None if content is None else self._read(content)

    def _read(self, content: str) -> Checkpoint:
        found = read_checkpoint(content, self._signer.public)
        if isinstance(found, str):
            raise StoreCorrupt(
                f"the newest checkpoint of the audit log {found}; put the signing key back if it "
                "was replaced, and run `aios audit verify`"
            )
        return found

    def _make(self, newest: Checkpoint | None, wanted: int) -> tuple[list[Checkpoint], Tree]:
        """Checkpoints over the entries after the newest one up to a number, and their tree."""
        made: list[Checkpoint] = []
        digest, previous = (newest.digest, newest.head_hash) if newest else (START, START)
        with self._database.reading() as connection:
            self._tree = self._caught_up(connection, newest)
            tree = self._tree.copy()
            hashes = _hashes(connection, tree.size, wanted, previous)
            while some := list(islice(hashes, MOST_ENTRIES)):
                first_seq = tree.size + 1
                for one in some:
                    tree.append(bytes.fromhex(one))
                number = len(made) + 1 + (newest.number if newest else 0)
                made.append(self._signed(number, first_seq, tree, some, digest))
                digest = made[-1].digest
        return made, tree

    def _signed(
        self, number: int, first_seq: int, tree: Tree, hashes: Sequence[str], previous: str
    ) -> Checkpoint:
        unsigned = Checkpoint(
            number=number,
            first_seq=first_seq,
            last_seq=tree.size,
            root=tree.root(),
            head_hash=hashes[-1],
            marks="".join(one[:MARK_DIGITS] for one in hashes),
            at_s=self._clock.now_s(),
            key_id=self._signer.id,
            previous=previous,
        )
        signature = self._signer.sign(unsigned.signed_bytes)
        return unsigned.model_copy(update={"signature": signature})

    def _caught_up(self, connection: Connection, newest: Checkpoint | None) -> Tree:
        """The tree over the entries that are sealed: after a start, or if others sealed some."""
        sealed = newest.last_seq if newest else 0
        tree = self._tree.copy() if self._tree.size <= sealed else Tree()
        previous = None if tree.size else START
        for one in _hashes(connection, tree.size, sealed, previous):
            tree.append(bytes.fromhex(one))
        if newest and tree.root() != newest.root:
            raise StoreCorrupt(
                f"entries 1 to {sealed} of the audit log are not those that were sealed; run "
                "`aios audit verify`"
            )
        return tree

    def _keep(self, newest: Checkpoint | None, made: Sequence[Checkpoint]) -> bool:
        """Write them, unless another process did so meanwhile; whether they were written.

        All reading, hashing and signing was before: other writers wait for this transaction.
        """
        rows = [{"number": one.number, "content": one.content} for one in made]
        with self._database.transaction() as connection:
            if connection.execute(_NEWEST).scalar() != (newest.content if newest else None):
                return False
            connection.execute(insert(kept), rows)
        return True

    def _bring_outside(self, newest: Checkpoint | None) -> None:
        number = newest.number if newest else 0
        if self._copied == number:
            return
        with self._outside.writing() as outside, self._database.reading() as connection:
            last = outside.newest()
            known = 0
            if last is not None:
                known = self._known_outside(connection, last)
            while (
                some := connection.execute(_LATER.limit(_AT_ONCE), {"known": known}).scalars().all()
            ):
                outside.append(some)
                known += len(some)
        self._copied = known

    def _known_outside(self, connection: Connection, last: str) -> int:
        found = read_checkpoint(last, self._signer.public)
        if isinstance(found, str):
            raise StoreCorrupt(
                f"the newest checkpoint in {self._outside.place} {found}; keep it as evidence, "
                "find out who changed it, and move it away to go on"
            )
        here = connection.execute(_ONE, {"wanted": found.number}).scalar()
        if here == last:
            return found.number
        what = "lacks it" if here is None else "has another one in its place"
        raise StoreCorrupt(
            f"{self._outside.place} has checkpoint {found.number} over entries to "
            f"{found.last_seq}, and the database {what}: an old copy of the database was put back "
            "or its end was cut off. Entries are lost. If a backup was restored on purpose, move "
            f"{self._outside.place} away, keep it as evidence, and start again"
        )


def _hashes(connection: Connection, known: int, wanted: int, previous: str | None) -> Iterator[str]:
    """Hashes of the entries after `known` up to `wanted`, which follow each other and the one
    with the hash `previous` (None: whatever that is)."""
    bounds: dict[str, Any] = {"known": known, "wanted": wanted}
    expected = known
    for row in connection.execute(_HASHES.execution_options(yield_per=1000), bounds):
        expected += 1
        follows = previous is None or row.previous == previous
        if row.seq != expected or not follows or not _is_hash(row.hash):
            raise StoreCorrupt(
                f"entry {expected} of the audit log does not follow the one before it; run "
                "`aios audit verify`"
            )
        previous = row.hash
        yield row.hash
    if expected != wanted:
        raise StoreCorrupt(f"entry {expected + 1} of the audit log is missing")


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
