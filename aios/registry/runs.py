"""Training runs: where each one is, so that one that was killed goes on there."""

from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from aios.errors import IllegalTransition, UnknownName
from aios.records import RunStatus, TrainingRun
from aios.registry.base import Reading, Writing, from_row, listed, shown, valid
from aios.store import tables as t


class RunReads(Reading):
    """Questions about training runs."""

    def run(self, run_id: str) -> TrainingRun:
        """A training run, active or ended.

        Raises:
            UnknownName: none has this id; the message lists those that are active.
        """
        with self._reading() as connection:
            row = connection.execute(select(t.runs).where(t.runs.c.id == run_id)).first()
        if row is None:
            active = listed(f"{one.id} of {one.model}" for one in self.active_runs())
            raise UnknownName(f"no training run {shown(run_id)}; active: {active}")
        return from_row(TrainingRun, row)

    def runs(self, model: str | None = None) -> list[TrainingRun]:
        """All training runs of a model, or of all models, oldest first."""
        query = select(t.runs).order_by(t.runs.c.created_s, t.runs.c.id)
        if model is not None:
            query = query.where(t.runs.c.model == model)
        with self._reading() as connection:
            return [from_row(TrainingRun, row) for row in connection.execute(query)]

    def recent_runs(self, model: str, since_s: float, until_s: float) -> list[TrainingRun]:
        """Those of a model that are active, or were begun between two times, oldest first;
        without their results, which are large."""
        r = t.runs.c
        wanted = (r.status == "running") | ((r.created_s >= since_s) & (r.created_s <= until_s))
        query = select(*(one for one in r if one.name != "results"))
        query = query.where(r.model == model, wanted).order_by(r.created_s, r.id)
        with self._reading() as connection:
            return [from_row(TrainingRun, row) for row in connection.execute(query)]

    def active_runs(self) -> list[TrainingRun]:
        """The training runs that have not ended, oldest first."""
        query = select(t.runs).where(t.runs.c.status == "running")
        with self._reading() as connection:
            rows = connection.execute(query.order_by(t.runs.c.created_s, t.runs.c.id))
            return [from_row(TrainingRun, row) for row in rows]


class RunWrites(Writing, RunReads):
    """Changes of training runs. Progress that decides nothing: `Registry.save_run_progress`."""

    def create_run(self, run: TrainingRun) -> None:
        """Start a training run.

        Raises:
            IllegalTransition: the id was used before.
        """
        try:
            self._open().execute(insert(t.runs).values(**run.model_dump(mode="json")))
        except IntegrityError:
            raise IllegalTransition(
                f"training run {shown(run.id)} cannot be created: its id was used before"
            ) from None

    def save_run(
        self,
        run_id: str,
        status: RunStatus,
        stage: str,
        results: dict[str, Any],
        *,
        version: int | None = None,
        error: str | None = None,
    ) -> TrainingRun:
        """Move an active run on, or end it with a final status.

        Raises:
            UnknownName: there is none with this id.
            IllegalTransition: it has ended already.
        """
        old = self.run(run_id)
        if old.status != "running":
            raise IllegalTransition(
                f"training run {run_id} of {old.model} has ended ({old.status}); start a new one"
            )
        fields = old.model_dump() | {
            "status": status,
            "stage": stage,
            "results": results,
            "version": old.version if version is None else version,
            "error": old.error if error is None else error,
            "finished_s": None if status == "running" else self.at_s,
        }
        new = valid(TrainingRun, **fields)
        changed = new.model_dump(mode="json", exclude={"id", "spec"})
        self._open().execute(update(t.runs).where(t.runs.c.id == run_id).values(**changed))
        return new
