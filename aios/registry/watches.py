"""Watches: what is watched, changed only inside an audited change."""

from sqlalchemy import insert, select, update

from aios.errors import IllegalTransition, UnknownName
from aios.records.watching import Watch, WatchState
from aios.registry.base import Reading, Writing, from_row, listed, shown
from aios.store import tables as t


class WatchReads(Reading):
    """Questions about watches."""

    def watch(self, watch_id: str) -> Watch:
        """A watch, active or taken off.

        Raises:
            UnknownName: none has this id; the message lists those that are active.
        """
        with self._reading() as connection:
            row = connection.execute(select(t.watches).where(t.watches.c.id == watch_id)).first()
            if row is None:
                active = select(t.watches.c.id).where(t.watches.c.active)
                known = listed(connection.execute(active.order_by(t.watches.c.id)).scalars())
                raise UnknownName(f"no watch {shown(watch_id)}; active: {known}")
        return from_row(Watch, row)


class WatchWrites(Writing, WatchReads):
    """Changes of watches. How far one is, where nobody need be told: `Observed.save_watch`."""

    def add_watch(self, watch: Watch) -> None:
        """Watch an endpoint from now on."""
        row = watch.model_dump(mode="json")
        self._open().execute(insert(t.watches).values(**row, endpoint=watch.spec.endpoint))

    def move_watch(self, watch_id: str, state: WatchState) -> None:
        """Keep how far a watch is.

        Raises:
            UnknownName: there is none with this id.
            IllegalTransition: it was taken off.
        """
        self.require_active(watch_id)
        values = {"state": state.model_dump(mode="json")}
        self._open().execute(update(t.watches).where(t.watches.c.id == watch_id).values(**values))

    def end_watch(self, watch_id: str) -> Watch:
        """Take a watch off; what it did stays.

        Raises:
            UnknownName: there is none with this id.
            IllegalTransition: it was taken off before.
        """
        found = self.require_active(watch_id)
        mine = t.watches.c.id == watch_id
        self._open().execute(update(t.watches).where(mine).values(active=False))
        return found

    def require_active(self, watch_id: str) -> Watch:
        """A watch that is not taken off.

        Raises:
            UnknownName: there is none with this id.
            IllegalTransition: it was taken off.
        """
        found = self.watch(watch_id)
        if not found.active:
            raise IllegalTransition(f"watch {shown(watch_id)} was taken off before")
        return found
