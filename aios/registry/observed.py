"""What was observed: windows of what endpoints saw, baselines, feedback, how far watches are.

None of it is a decision, so none of it is in the audit log. Everything can be told twice: a
window's part counts once by its id, feedback that says the same again is not kept again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, union, update

from aios.records.watching import Outcome, Watch, WatchState, Window, WindowPart
from aios.registry.base import from_row
from aios.registry.feedback import NOT_EXPORTED, NOT_LOOKED_FOR, FeedbackStore
from aios.store import tables as t
from aios.telemetry import Summary, merged

HOUR_S = 3600.0
DAY_S = 86_400.0
KEPT_S = ((HOUR_S, 2 * HOUR_S), (DAY_S, 7 * DAY_S))
"""(width of what windows are rolled up into, age at which they are)."""
FORGOTTEN_S = 400 * DAY_S
LATE_ROWS = 100_000
"""How much feedback, back from the newest, is looked at for live quality."""


class Observed(FeedbackStore):
    """The store of observations. Safe to share between threads."""

    # -- windows ----------------------------------------------------------------------

    def add_parts(self, parts: Iterable[WindowPart]) -> None:
        """Add replicas' parts to the windows that they are of, each in a transaction of its own:
        after an hour without a kernel there are so many that nobody else could write meanwhile."""
        for part in parts:
            with self._database.transaction() as connection:
                _add_part(connection, part)

    def windows(
        self,
        endpoint: str,
        *,
        version: int | None = None,
        arm: str | None = None,
        since_s: float = 0.0,
        until_s: float = float("inf"),
        content: bool = True,
    ) -> list[Window]:
        """Windows that begin at `since_s` or later and end by `until_s`, in order of time.

        Args:
            content: whether summaries are wanted too.
        """
        w = t.windows.c
        query = select(t.windows).where(w.endpoint == endpoint, w.start_s >= since_s)
        if not content:
            query = query.with_only_columns(*(one for one in w if one.name != "content"))
        if until_s != float("inf"):
            query = query.where(w.end_s <= until_s)
        if version is not None:
            query = query.where(w.version == version)
        if arm is not None:
            query = query.where(w.arm == arm)
        with self._database.reading() as connection:
            return [
                _window(row)
                for row in connection.execute(query.order_by(w.start_s, w.version, w.arm))
            ]

    def roll_up(self) -> int:
        """Join windows that have become old into hours, then days; drop the oldest. An hour in
        which a block of a watch begins or ends stays as it is while the watch needs that block.

        Returns:
            How many windows went.
        """
        now_s, gone = self._clock.now_s(), 0
        w, cuts = t.windows.c, _cuts(self.watches())
        for width_s, age_s in KEPT_S:
            until_s = (now_s - age_s) - (now_s - age_s) % width_s
            small = (w.end_s <= until_s) & (w.end_s - w.start_s < width_s - 0.5)
            with self._database.reading() as connection:
                keys = connection.execute(
                    select(w.endpoint, w.version, w.arm, w.start_s).where(small)
                ).all()
            groups = sorted({(key[0], key[1], key[2], key[3] - key[3] % width_s) for key in keys})
            for group in groups:
                endpoint, start_s = group[0], group[3]
                if not any(start_s < cut_s < start_s + width_s for cut_s in cuts.get(endpoint, ())):
                    gone += self._join(group, width_s)
        with self._database.transaction() as connection:
            gone += connection.execute(
                delete(t.windows).where(w.end_s < now_s - FORGOTTEN_S)
            ).rowcount
        return gone

    def _join(self, group: tuple[str, int, str, float], width_s: float) -> int:
        endpoint, version, arm, start_s = group
        w = t.windows.c
        within = (w.endpoint == endpoint) & (w.version == version) & (w.arm == arm)
        within &= (w.start_s >= start_s) & (w.end_s <= start_s + width_s)
        with self._database.transaction() as connection:
            rows = connection.execute(select(t.windows).where(within)).all()
            connection.execute(delete(t.windows).where(within))
            joined = {
                "endpoint": endpoint,
                "version": version,
                "arm": arm,
                "start_s": start_s,
                "end_s": start_s + width_s,
                "rows": sum(row.rows for row in rows),
                "dropped": sum(row.dropped for row in rows),
                "parts": [],
                "content": _merge([row.content for row in rows]),
            }
            connection.execute(insert(t.windows).values(**joined))
        return len(rows) - 1

    def baseline(self, endpoint: str, version: int) -> dict[str, Any] | None:
        """What is normal for a version that has no training data; None if not yet known."""
        b = t.baselines.c
        query = select(b.content).where(b.endpoint == endpoint, b.version == version)
        with self._database.reading() as connection:
            found: dict[str, Any] | None = connection.execute(query).scalar()
        return found

    def put_baseline(self, endpoint: str, version: int, content: dict[str, Any]) -> None:
        """Keep what is normal for a version; what was kept before stays."""
        with self._database.transaction() as connection:
            b = t.baselines.c
            known = select(b.version).where(b.endpoint == endpoint, b.version == version)
            if connection.execute(known).first() is None:
                row = {"endpoint": endpoint, "version": version, "content": content}
                connection.execute(insert(t.baselines).values(**row, at_s=self._clock.now_s()))

    # -- feedback, as `FeedbackStore` took it -------------------------------------------

    def feedback_to_export(self, endpoint: str, most: int = 10_000) -> list[dict[str, Any]]:
        """Feedback that is not yet in the Delta table: seq, request_id, at_s, given."""
        return self._waiting(endpoint, NOT_EXPORTED, most)

    def export_waits(self, endpoint: str) -> tuple[float, int]:
        """The numbers of the first and the last feedback that is not yet in the Delta table;
        infinity and 0 if all is."""
        f = t.feedback.c
        waits = select(func.min(f.seq), func.max(f.seq)).where(f.endpoint == endpoint, NOT_EXPORTED)
        with self._database.reading() as connection:
            first, last = connection.execute(waits).one()
        return float("inf") if first is None else first, last or 0

    def exported(self, last_seq: int, endpoint: str) -> None:
        """Feedback up to and with `last_seq` is in the Delta table."""
        f = t.feedback.c
        done = (f.endpoint == endpoint) & (f.seq <= last_seq) & NOT_EXPORTED
        with self._database.transaction() as connection:
            connection.execute(update(t.feedback).where(done).values(exported=True))

    def feedback_to_look_for(self, endpoint: str, most: int = 20_000) -> list[dict[str, Any]]:
        """Feedback whose answers have not been looked for, as `feedback_to_export` gives it."""
        return self._waiting(endpoint, NOT_LOOKED_FOR, most)

    def endpoints_with_feedback_waiting(self) -> list[str]:
        """Those that have feedback to export or to look for."""
        f = t.feedback.c
        waits = [select(f.endpoint).where(one) for one in (NOT_EXPORTED, NOT_LOOKED_FOR)]
        with self._database.reading() as connection:
            return sorted(connection.execute(union(*waits)).scalars())

    def forget_feedback(self, before_s: float) -> int:
        """Remove feedback given before then, but what still is to be exported or looked for.

        Returns:
            How much there was.
        """
        f = t.feedback.c
        old = (f.at_s < before_s) & f.exported & f.looked_for
        with self._database.transaction() as connection:
            return int(connection.execute(delete(t.feedback).where(old)).rowcount)

    def outcomes(
        self,
        endpoint: str,
        version: int | None = None,
        since_s: float = 0.0,
        most: int = 5_000,
        about: Collection[str] = (),
    ) -> list[Outcome]:
        """The newest `most` answers of a version that have feedback, each with the last one given,
        in the order in which that came.

        Args:
            since_s: of the feedback.
            about: only feedback that says something of one of these. Only the last `LATE_ROWS` of
                all feedback are looked at.
        """
        f = t.feedback.c
        mine = f.endpoint == endpoint
        last = select(func.coalesce(func.max(f.seq), 0)).where(mine).scalar_subquery()
        lately = f.seq > last - LATE_ROWS
        newest = select(func.max(f.seq)).where(mine, lately, ~f.history).group_by(f.request_id)
        query = (
            select(f.request_id, f.given, f.at_s, f.answer)
            .where(f.seq.in_(newest), f.answer.is_not(None), f.at_s >= since_s)
            .order_by(f.seq.desc())
            .execution_options(yield_per=1_000)
        )
        found: list[Outcome] = []
        with self._database.reading() as connection:
            for row in connection.execute(query):
                if version not in (None, row.answer["version"]):
                    continue
                if about and all(row.given.get(name) is None for name in about):
                    continue
                found.append(
                    Outcome(
                        request_id=row.request_id, given=row.given, given_s=row.at_s, **row.answer
                    )
                )
                if len(found) == most:
                    break
        return found[::-1]

    def joined_since(self, endpoint: str, seq: int) -> tuple[int, int]:
        """How much feedback after number `seq` has its answer, and the last such number."""
        f = t.feedback.c
        query = select(func.count(), func.coalesce(func.max(f.seq), seq)).where(
            f.endpoint == endpoint, f.seq > seq, f.answer.is_not(None)
        )
        with self._database.reading() as connection:
            count, last = connection.execute(query).one()
        return int(count), int(last)

    def _waiting(self, endpoint: str, waits: Any, most: int) -> list[dict[str, Any]]:
        f = t.feedback.c
        query = (
            select(f.seq, f.request_id, f.at_s, f.given)
            .where(f.endpoint == endpoint, waits)
            .order_by(f.seq)
            .limit(most)
        )
        with self._database.reading() as connection:
            return [row._asdict() for row in connection.execute(query)]

    # -- watches ----------------------------------------------------------------------

    def watches(self, endpoint: str | None = None, *, ended: bool = False) -> list[Watch]:
        """Watches, oldest first; with `ended` those too that were taken off."""
        query = select(t.watches).order_by(t.watches.c.created_s, t.watches.c.id)
        if endpoint is not None:
            query = query.where(t.watches.c.endpoint == endpoint)
        if not ended:
            query = query.where(t.watches.c.active)
        with self._database.reading() as connection:
            return [from_row(Watch, row) for row in connection.execute(query)]

    def save_watch(self, watch_id: str, state: WatchState) -> bool:
        """Keep how far a watch is; whether it is still active."""
        active = (t.watches.c.id == watch_id) & t.watches.c.active
        values = {"state": state.model_dump(mode="json")}
        with self._database.transaction() as connection:
            done = connection.execute(update(t.watches).where(active).values(**values))
            return bool(done.rowcount)


def forget_observed(connection: Connection, endpoint: str) -> None:
    """Forget what was seen at an endpoint: versions of another model have the same numbers. What
    was fed back stays, and is on none of the new model's answers."""
    for table in (t.windows, t.baselines):
        connection.execute(delete(table).where(table.c.endpoint == endpoint))
    mine = t.feedback.c.endpoint == endpoint
    connection.execute(update(t.feedback).where(mine).values(answer=None, looked_for=True))


def _cuts(watches: Iterable[Watch]) -> dict[str, set[float]]:
    """The times at which blocks of watches begin and end, by endpoint."""
    found: dict[str, set[float]] = {}
    for watch in watches:
        state, mine = watch.state, found.setdefault(watch.spec.endpoint, set())
        mine.add(state.open_s)
        mine.update(at_s for block in state.blocks for at_s in (block.start_s, block.end_s))
    return found


def _add_part(connection: Connection, part: WindowPart) -> None:
    w = t.windows.c
    same = (w.endpoint == part.endpoint) & (w.version == part.version) & (w.arm == part.arm)
    same &= (w.start_s == part.start_s) & (w.end_s == part.end_s)
    row = connection.execute(select(t.windows).where(same)).first()
    content = {"inputs": part.inputs, "outputs": part.outputs}
    if row is None:
        key = part.model_dump(include={"endpoint", "version", "arm", "start_s", "end_s"})
        counts = {"rows": part.rows, "dropped": part.dropped}
        values = {**key, **counts, "parts": [part.id], "content": content}
        connection.execute(insert(t.windows).values(**values))
    elif part.id not in row.parts:
        values = {
            "rows": row.rows + part.rows,
            "dropped": row.dropped + part.dropped,
            "parts": [*row.parts, part.id],
            "content": _merge([row.content, content]),
        }
        connection.execute(update(t.windows).where(same).values(**values))


def _merge(contents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {}
    for side in ("inputs", "outputs"):
        parts = [
            {name: Summary.from_json(one) for name, one in content[side].items()}
            for content in contents
        ]
        found[side] = {name: one.to_json() for name, one in merged(parts).items()}
    return found


def _window(row: Row[Any]) -> Window:
    fields = row._asdict()
    content = fields.pop("content", None) or {}
    fields.pop("parts")
    return Window(**fields, **content)
