"""The kernel's side of users' flows: begin, look, cancel, fork, queue, schedule, take over."""

import logging
import threading
import time
from contextlib import nullcontext
from typing import Any

from aios.clock import CRON, TIME_ZONE, is_cron, is_time_zone
from aios.errors import IllegalTransition, StoreUnavailable, UnknownName, UsageError
from aios.flows.crashes import SOON_S, Crash, Crashes
from aios.flows.durable import json_serializer
from aios.flows.leases import Leases
from aios.flows.place import POLL_S, QUEUE, SCHEDULED, Place
from aios.flows.requests import fork_with, options_of
from aios.flows.views import (
    ENDED,
    STATUSES,
    UNDO,
    first_begun_s,
    fits,
    late_steps_shown,
    queue_shown,
    schedule_shown,
    seconds,
    shown,
    step_shown,
)
from aios.records.acting import Definition
from aios.store.canonical import plain
from aios.store.database import Database

MOST_BYTES = 1024 * 1024
"""Of a flow's arguments; what is larger belongs into a file whose name is given."""
LONGEST_ID = 200
PAGE = 500

logger = logging.getLogger("aios.flows")


class FlowClient:
    """Flows of a place, from outside. Threads may share it.

    The database is opened, and made, when it is first needed.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._opening = threading.Lock()
        self._client: Any = None
        self._crashes = Crashes()
        self.leases: Leases

    def open(self) -> Any:
        """The DBOSClient; makes the tables at the first call.

        Raises:
            StoreUnavailable: the database cannot be reached or written now.
        """
        with self._opening:
            if self._client is None:
                try:
                    self.place.prepare()
                    self.leases = Leases(Database(self.place.url))
                    self.leases.prepare()
                    client = self.place.client(json_serializer())
                    client.register_queue(QUEUE, polling_interval_sec=POLL_S)
                except Exception as error:
                    # DBOS and its drivers have many; none of them is the caller's fault.
                    raise StoreUnavailable(f"flows cannot be kept now: {error!s:.300}") from error
                self._client = client
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.destroy()

    # -- beginning --------------------------------------------------------------------

    def begin(
        self,
        definition: Definition,
        args: list[Any],
        kwargs: dict[str, Any],
        flow_id: str,
        by: str,
        *,
        queue: str = QUEUE,
        attributes: dict[str, Any] | None = None,
        dedup: str | None = None,
        debounce_s: float | None = None,
        **more: Any,
    ) -> str:
        """Begin a flow, once per id; the id of the flow that runs under this name.

        Args:
            dedup: of two flows in a queue with the same text only the first is begun, and its id
                is given, until it has ended.
            debounce_s: begin so long after the last call with the same `dedup`, with its arguments.
            more: `priority`, `queue_partition_key`, `delay_seconds`; None for none.

        Raises:
            UsageError: the id is used for other arguments, or something of this cannot be taken.
        """
        from dbos import error as faults

        check_id(flow_id)
        call = {"args": args, "kwargs": kwargs}
        size = len(plain([call, attributes], f"an argument of flow {definition.name!r}"))
        if size > MOST_BYTES:
            raise UsageError(
                f"the arguments of flow {definition.name!r} are {size:,} bytes as JSON, of at most "
                f"{MOST_BYTES:,}; write them to a file and give its name"
            )
        client = self.open()
        facts: dict[str, Any] = {"flow": definition.name, "version": definition.version, "by": by}
        facts |= {"own": attributes or {}, "queue": queue}
        self._refuse_unfit_queue(queue, more)
        if debounce_s is not None:
            given = (definition.ref, None, call, by)
            return self._debounced(
                options_of(flow_id, facts, queue=queue), dedup, debounce_s, given
            )
        options = options_of(
            flow_id,
            facts,
            queue=queue,
            deduplication_id=dedup,
            duplication_policy=None if dedup is None else "return-existing",
            workflow_id_reuse_policy="reject",
            **more,
        )
        try:
            handle = client.enqueue(options, definition.ref, None, call, by)
        except faults.DBOSWorkflowIDInUseError:
            self._refuse_other(flow_id, definition, call)
            return flow_id
        except faults.DBOSException as error:
            raise UsageError(f"flow {flow_id!r}: {error}") from None
        return str(handle.workflow_id)

    def _debounced(
        self, options: dict[str, Any], dedup: str | None, debounce_s: float, given: tuple[Any, ...]
    ) -> str:
        from dbos import DebouncerClient
        from dbos import error as faults

        if dedup is None:
            raise UsageError('debounce_s needs dedup="...", by which calls belong together')
        try:
            found = DebouncerClient(self.open(), options).debounce(dedup, debounce_s, *given)
        except faults.DBOSQueueDeduplicatedError as error:
            raise UsageError(f"{dedup!r} is in the queue already, without debounce_s") from error
        return str(found.workflow_id)

    def _refuse_other(self, flow_id: str, definition: Definition, call: dict[str, Any]) -> None:
        known = self._status(flow_id)
        ref, _, given = known.input["args"][:3]
        if ref.partition(":")[0] != definition.name or given != call:
            raise UsageError(
                f"flow id {flow_id!r} is used already, by {ref} with other arguments; an id is "
                "for one flow: give this one another"
            )

    # -- looking ----------------------------------------------------------------------

    def view(self, flow_id: str) -> dict[str, Any]:
        """A flow as users see it.

        Raises:
            UnknownName: there is none of this id.
        """
        found = shown(self._status(flow_id))
        crash = self._crashes.last(flow_id)
        if crash is not None and found["status"] == "running" and crash.due_s > time.time():
            found["error"] = _crashed(crash, time.time())
        return found

    def outcome(self, flow_id: str) -> dict[str, Any]:
        """`{"status"}` while it goes on, with `value` or `problem` once it has ended."""
        # Whoever waits asks again and again: what a flow was called with, which may be a MiB, and
        # the thirty columns of a view are not read for that.
        database = self.open()._sys_db
        found = database._read_workflow_result_row(flow_id) if flow_id else None
        if found is None:
            raise _unknown(flow_id)
        status = STATUSES[found[0]]
        if status == "finished":
            value = self.place.outcomes.value(database.serializer.deserialize(found[1]))
            return {"status": status, "value": value}
        if status not in ENDED:
            return {"status": status}
        problem = self.view(flow_id)["problem"]
        return {"status": status} if problem is None else {"status": status, "problem": problem}

    def flows(
        self,
        name: str | None = None,
        status: str | None = None,
        attributes: dict[str, Any] | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """The newest flows that fit, newest first."""
        wanted = [theirs for theirs, ours in STATUSES.items() if ours == status]
        if status is not None and not wanted:
            known = ", ".join(sorted(set(STATUSES.values())))
            raise UsageError(f"no flow is ever {status[:40]!r}; they are {known}")
        found: list[dict[str, Any]] = []
        offset = 0
        while len(found) < limit:
            page = self.open().list_workflows(
                status=wanted or None,
                sort_desc=True,
                limit=PAGE,
                offset=offset,
                load_output=False,
            )
            views = [shown(one) for one in page]
            # SQLite cannot search attributes as DBOS keeps them, so both are searched here.
            found += [one for one in views if fits(one, name, attributes or {})]
            if len(page) < PAGE:
                break
            offset += PAGE
        return self._with_errors(found[:limit])

    def _with_errors(self, views: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Why those of a list failed, which is stored beside what the others returned."""
        failed = [one["id"] for one in views if one["status"] == "failed"]
        if not failed:
            return views
        told = {
            one.workflow_id: shown(one) for one in self.open().list_workflows(workflow_ids=failed)
        }
        return [told.get(one["id"], one) for one in views]

    def ended(self, flow_ids: set[str]) -> set[str]:
        """Those of these flows that have ended, or never were."""
        found = self.open().list_workflows(
            workflow_ids=sorted(flow_ids), load_input=False, load_output=False
        )
        going_on = {one.workflow_id for one in found if STATUSES[one.status] not in ENDED}
        return flow_ids - going_on

    def steps(self, flow_id: str) -> list[dict[str, Any]]:
        """What a flow has done so far, in the order of its text."""
        found = self._status(flow_id)
        steps = [step_shown(one) for one in self.open().list_workflow_steps(flow_id)]
        return sorted(steps + late_steps_shown(found), key=lambda one: int(one["step"]))

    def _status(self, flow_id: str) -> Any:
        found = self.open().list_workflows(workflow_ids=[flow_id]) if flow_id else []
        if not found:
            raise _unknown(flow_id)
        return found[0]

    # -- changing ---------------------------------------------------------------------

    def cancel(self, flow_id: str) -> None:
        """End a flow before its next step, and the flows that it began.

        Raises:
            IllegalTransition: it has ended.
        """
        view = self.view(flow_id)
        if view["status"] in ENDED:
            raise IllegalTransition(f"flow {flow_id!r} has ended already: {view['status']}")
        client = self.open()
        children = client.list_workflows(
            workflow_id_prefix=f"{flow_id}.", status=["ENQUEUED", "DELAYED", "PENDING"]
        )
        for one in (self._status(flow_id), *children):
            self._keep_begin(one)  # DBOS forgets it
            client.cancel_workflow(one.workflow_id)

    def fork(self, flow_id: str, from_step: int, version: int | None = None) -> str:
        """A new flow that has done what this one did before `from_step`; its id.

        Args:
            version: of the text with which it goes on; by default that of the old one.

        Raises:
            UsageError: there is no such step, or one before it was taken back: the fork would
                believe in what is no longer so.
        """
        from dbos import SetWorkflowID

        steps = self.steps(flow_id)
        stored = {one["step"] for one in steps if not one["name"].startswith(UNDO)}
        self._refuse_undone(flow_id, from_step, steps)
        if from_step not in stored and from_step != max(stored, default=0) + 1:
            known = ", ".join(map(str, sorted(stored))) or "none"
            raise UsageError(f"flow {flow_id!r} has no step {from_step}; it has {known}")
        client = self.open()
        with nullcontext() if version is None else SetWorkflowID(fork_with(version)):
            return str(client.fork_workflow(flow_id, from_step, queue_name=QUEUE).workflow_id)

    def _refuse_undone(self, flow_id: str, from_step: int, steps: list[dict[str, Any]]) -> None:
        taken_back = {one["name"].removeprefix(UNDO) for one in steps if _is_undo(one)}
        if not taken_back:
            return
        first = min(one["step"] for one in steps if one["name"] in taken_back)
        if from_step > first:
            [name] = [one["name"] for one in steps if one["step"] == first]
            raise UsageError(
                f"step {first}, {name}, of flow {flow_id!r} was taken back when it failed; fork it "
                f"from_step={first} or before, so that this is done again"
            )

    def register_queue(self, name: str, **limits: Any) -> None:
        """Make a queue, or change its limits."""
        from dbos import error as faults

        try:
            self.open().register_queue(name, polling_interval_sec=POLL_S, **limits)
        except (faults.DBOSException, ValueError) as error:
            raise UsageError(f"queue {name!r}: {error}") from None

    def queues(self) -> list[dict[str, Any]]:
        return [queue_shown(one) for one in self.open().list_queues()]

    def _refuse_unfit_queue(self, name: str, wanted: dict[str, Any]) -> None:
        """A start that its queue would never run, or would take differently than it says."""
        partition, priority = wanted.get("queue_partition_key"), wanted.get("priority")
        if name == QUEUE:
            for what, given in (("partition", partition), ("priority", priority)):
                if given is not None:
                    raise UsageError(f"{what}={given!r:.60} needs queue=..., a name of rt.queue")
            return
        known = {one["name"]: one for one in self.queues()}
        if name not in known:
            raise UnknownName(f"no queue {name[:60]!r}; there are {', '.join(sorted(known))}")
        limits = ("partition_concurrency", "partition_rate")
        divided = any(known[name][one] is not None for one in limits)
        if divided and partition is None:
            raise UsageError(f"queue {name!r} has limits of each partition: give partition=...")
        if partition is not None and not divided:
            raise UsageError(
                f"queue {name!r} has no partitions; rt.queue({name!r}, partition_concurrency=...) "
                "or partition_rate makes them"
            )

    # -- schedules --------------------------------------------------------------------

    def schedule(
        self,
        name: str,
        definition: Definition,
        call: dict[str, Any],
        by: str,
        cron: str,
        timezone: str | None,
        backfill: bool,
    ) -> None:
        """Begin a flow at each time of a cron line, once per time, or change that."""
        from dbos import error as faults

        if not is_cron(cron):
            raise UsageError(f"schedule {name!r}: cron={cron!r:.80} is no cron line: {CRON}")
        if timezone is not None and not is_time_zone(timezone):
            raise UsageError(f"schedule {name!r}: timezone={timezone!r:.80} is {TIME_ZONE}")
        plain(call, f"an argument of flow {definition.name!r}")
        wanted = {
            "schedule_name": name,
            "workflow_name": SCHEDULED,
            "schedule": cron,
            "context": {"ref": definition.ref, "call": call, "by": by},
            "automatic_backfill": backfill,
            "cron_timezone": timezone,
            "queue_name": QUEUE,
        }
        try:
            self.open().apply_schedules([wanted])
        except faults.DBOSException as error:
            raise UsageError(f"schedule {name!r}: {error}") from None

    def unschedule(self, name: str) -> None:
        """Raises:
        UnknownName: there is none of this name.
        """
        if self.open().get_schedule(name) is None:
            known = ", ".join(one["name"] for one in self.schedules()) or "none"
            raise UnknownName(f"no schedule {name[:60]!r}; there are: {known}")
        self.open().delete_schedule(name)

    def schedules(self) -> list[dict[str, Any]]:
        return [schedule_shown(one) for one in self.open().list_schedules()]

    # -- taking over ------------------------------------------------------------------

    def take_over(self, alive: set[str]) -> int:
        """Give the flows of workers that are not there to whoever comes first; how many. Reads
        all that run, so it is for a kernel's begin and now and then."""
        running = self.open().list_workflows(status="PENDING", load_input=False, load_output=False)
        return self._move(running, sorted({one.executor_id for one in running} - alive - {None}))

    def take_over_from(self, gone: list[str]) -> int:
        """The same of workers that are known to be gone."""
        if not gone:
            return 0
        running = self.open().list_workflows(
            status="PENDING", executor_id=gone, load_input=False, load_output=False
        )
        return self._move(running, gone)

    def _move(self, running: list[Any], gone: list[str]) -> int:
        moved = 0
        for one in running:
            if one.executor_id in gone and not self._may_begin_again(one):
                continue
            if one.executor_id in gone:
                self._keep_begin(one)
            # What DBOS's own recovery does, which only runs inside of a worker: of two that are
            # told the same only one moves it, and a flow that somebody has claimed stays there.
            if one.executor_id in gone and self._client._sys_db.reenqueue_for_recovery(
                one.workflow_id, gone, QUEUE
            ):
                moved += 1
        return moved

    def _keep_begin(self, one: Any) -> None:
        """DBOS knows when the last worker began a flow: keep when the first one did."""
        if one.dequeued_at is not None and first_begun_s(one) is None:
            first = {"flow": one.workflow_id, "at_s": seconds(one.dequeued_at)}
            self.open().update_workflow_attributes(one.workflow_id, {"begun": first}, merge=True)

    def _may_begin_again(self, one: Any) -> bool:
        """Whether a flow of a dead worker may be given to another one now."""
        now_s, last = time.time(), self._crashes.last(one.workflow_id)
        if last is None or last.worker != one.executor_id:
            lived_s = now_s - (seconds(one.dequeued_at) or now_s)
            # Thousands may wait on one worker, for long: they are not counted one by one.
            steps = None
            if lived_s < SOON_S:
                steps = len(self.open().list_workflow_steps(one.workflow_id, load_output=False))
            last = self._crashes.died(one.workflow_id, one.executor_id, steps, lived_s, now_s)
            if last.due_s > now_s:
                logger.warning("flow %s: %s", one.workflow_id, _crashed(last, now_s))
        return last.due_s <= now_s


def _is_undo(step: dict[str, Any]) -> bool:
    return str(step["name"]).startswith(UNDO) and step["error"] is None


def _unknown(flow_id: str) -> UnknownName:
    where = "`rt.flows()`, or `aios flows` in a shell, lists the newest"
    return UnknownName(f"no flow has the id {flow_id[:80]!r}; {where}")


def _crashed(crash: Crash, now_s: float) -> str:
    return (
        f"its worker died {crash.times} times in a row before it finished a step; it is begun "
        f"again in {max(0.0, crash.due_s - now_s):.0f} s"
    )


def check_id(flow_id: str) -> None:
    """Raises:
    UsageError: it cannot be the id of a flow.
    """
    good = isinstance(flow_id, str) and flow_id.strip() == flow_id and flow_id.isprintable()
    if not good or not 0 < len(flow_id) <= LONGEST_ID or set("/~") & set(flow_id):
        raise UsageError(
            f"{flow_id!r:.60} is no id of a flow: 1 to {LONGEST_ID} printable characters, without "
            '/ and ~ and without blanks around it, such as "order-42"'
        )
    if flow_id in (".", ".."):
        raise UsageError(f"{flow_id!r} is no id of a flow: addresses have another use for it")
