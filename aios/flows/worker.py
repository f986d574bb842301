"""A worker: one process that runs users' flows, while its lease lasts.

The text of a flow is asked of the kernel by name and version, once, so that any worker goes on
with any flow with the text it began with.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from importlib import import_module
from typing import Any, Protocol

from aios.errors import PermanentError, TemporaryError, UnknownName
from aios.flows.around import Elsewhere, Parent
from aios.flows.durable import json_serializer
from aios.flows.leases import Lease
from aios.flows.outcomes import Outcome, told
from aios.flows.place import APPLICATION, FLOW, QUEUE, SCHEDULED, SCHEMA, VERSION, Place
from aios.flows.requests import options_of, version_of_fork
from aios.flows.running import DurableRun
from aios.flows.steps import load_module
from aios.flows.traces import FlowSpans
from aios.flows.views import LATE
from aios.flows.waiting import Waiting
from aios.flows.writing import Flow
from aios.records import CodeSource
from aios.records.acting import Definition
from aios.store.database import Database
from aios.telemetry.traces import Tracer

logger = logging.getLogger(__name__)
MOST_LIVES = 500
"""How often a flow is begun again after its worker died, before it counts as what killed them."""
ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
ASK_S = 1.0
"""How often the kernel is asked for answers, while questions are open."""
LOOK_S = 0.2
"""How often the database is asked for children that have ended, while any are waited for."""
SWEEP_S = 15.0
"""How often a worker looks for flows that it has claimed and never begun."""


class Host(Protocol):
    """What a worker asks of the kernel. Each raises ClusterUnavailable while that is away."""

    def definition(self, ref: str) -> Definition: ...

    def put_question(self, question: dict[str, Any]) -> dict[str, Any]: ...

    def answers(self, question_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Of those that are no longer open: `{"status", "answer"}`."""
        ...

    def refuse_answer(self, question_id: str, problem: str) -> None: ...


class FlowWorker:
    """Runs flows of a place; one per process, since DBOS is.

    Args:
        worker_id: used once; a process that takes its place has another.
        host: the kernel.
        elsewhere: runs steps that want resources; None: they run here.
        lost: called when the lease is over. A worker that is not ended by it does nothing more.
        otlp_endpoint: takes spans of flows and their steps; None for none.
    """

    def __init__(
        self,
        place: Place,
        worker_id: str,
        host: Host,
        elsewhere: Elsewhere | None = None,
        lost: Callable[[], None] = lambda: None,
        otlp_endpoint: str | None = None,
    ) -> None:
        from dbos import DBOS

        self.place = place
        self.outcomes = place.outcomes
        self.elsewhere = elsewhere
        self.steps: Counter[str] = Counter()
        self._host = host
        self._lost = lost
        self._tracer = Tracer(otlp_endpoint, "aios-flows")
        self._database = Database(place.url)
        self.lease = Lease(self._database, worker_id)
        self._loading = threading.Lock()
        self._modules: dict[str, Any] = {}
        self._texts: dict[str, tuple[CodeSource, Any]] = {}
        self._leaving = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._questions = Waiting(self._answers, ASK_S)
        self._children = Waiting(self._ends, LOOK_S)
        self._dbos = DBOS
        self._dbos_here = DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": place.dbos_url,
                "dbos_system_schema": SCHEMA,
                "executor_id": worker_id,
                "application_version": VERSION,
                "serializer": json_serializer(),
                "log_level": "WARNING",
                "run_admin_server": False,
                "run_migrations": False,
                "scheduler_polling_interval_sec": 5.0,
            }
        )
        DBOS.workflow(name=FLOW, max_recovery_attempts=MOST_LIVES)(self._flow())
        DBOS.workflow(name=SCHEDULED, max_recovery_attempts=MOST_LIVES)(self._scheduled())

    def launch(self) -> None:
        """Take the lease and begin. Not in a thread with an event loop: flows have their own."""
        self.lease.take()
        self._client = self.place.client(json_serializer())
        self._spans = FlowSpans(self._tracer, self._client)
        keeper = threading.Thread(target=self.lease.keep, args=(self._lost,), name="aios-lease")
        keeper.daemon = True
        keeper.start()
        threading.Thread(target=self._sweep, name="aios-sweep", daemon=True).start()
        self._dbos.launch()

    def close(self) -> None:
        """Begin nothing more and leave; flows in the middle are for others."""
        self.lease.end()
        self._leaving.set()
        self._dbos.destroy(destroy_registry=True)
        self._tracer.close()
        self._client.destroy()
        self._database.close()

    def _sweep(self) -> None:
        idle: set[str] = set()
        while not self._leaving.wait(SWEEP_S):
            if self._loop is not None and self._loop.is_closed():
                logger.error("the event loop of this worker's flows has ended, and so does it")
                self._lost()
                return
            try:
                idle = self.put_back(idle)
            except Exception as error:  # noqa: BLE001 - the next look finds the same
                if not self._leaving.is_set():
                    logger.warning("flows that were not begun are looked for later: %s", error)

    def put_back(self, before: set[str]) -> set[str]:
        """Flows that this worker claimed and does not run: an error between the two is only
        logged by DBOS, and leaves a flow with a worker that is there and knows nothing of it.

        Args:
            before: what an earlier look gave. Those still idle are given to whoever comes first.
        """
        idle = self._claimed() - set(self._dbos_here._active_workflows_set.activeList())
        mine = [self.lease.worker_id]
        for flow_id in sorted(idle & before):
            if self._client._sys_db.reenqueue_for_recovery(flow_id, mine, QUEUE):
                logger.warning("flow %s was claimed and not begun; once more", flow_id)
        return idle

    def _claimed(self) -> set[str]:
        found = self._client.list_workflows(
            status="PENDING",
            executor_id=[self.lease.worker_id],
            load_input=False,
            load_output=False,
        )
        return {one.workflow_id for one in found}

    # -- the two workflows ------------------------------------------------------------

    def _flow(self) -> Callable[..., Any]:
        async def flow(ref: str, path: str | None, call: dict[str, Any], by: str) -> Outcome:
            return await self._carry_out(ref, path, call, by)

        return flow

    def _scheduled(self) -> Callable[..., Any]:
        async def scheduled(due: Any, wanted: dict[str, Any]) -> Outcome:
            return await self._carry_out(wanted["ref"], None, wanted["call"], wanted["by"])

        return scheduled

    async def _carry_out(
        self, ref: str, path: str | None, call: dict[str, Any], by: str
    ) -> Outcome:
        flow_id, self._loop = str(self._dbos.workflow_id), asyncio.get_running_loop()
        version = version_of_fork(flow_id)
        if version is not None:
            ref = f"{ref.partition(':')[0]}:{version}"
        source, module = await self._text(ref)
        flow = _flow_at(module, source, path, ref)
        run = DurableRun(self, flow_id, ref, by, source, module, flow)
        try:
            outcome = await run.carry_out(call["args"], call["kwargs"])
        except Exception as error:  # not one of those that leave the flow to another worker
            await self._spans.over(flow_id, ref, by, str(error)[:500])
            raise
        await self._spans.over(flow_id, ref, by)
        return outcome

    async def _text(self, ref: str) -> tuple[CodeSource, Any]:
        """The text of a definition and its module. What it does at its top happens once."""
        if ref not in self._texts:
            source = (await self._asked(self._host.definition, ref)).source
            self._texts[ref] = (source, await asyncio.to_thread(self._module, source))
        return self._texts[ref]

    def _module(self, source: CodeSource) -> Any:
        with self._loading:
            known = self._modules.get(source.sha256)
            if known is None:
                known = load_module(source)
                self._modules[source.sha256] = known
            return known

    async def _asked(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """The kernel's answer, however long it is away."""
        while True:
            try:
                return await asyncio.to_thread(question, *arguments)
            except TemporaryError:
                await asyncio.sleep(ASK_S)

    # -- what running flows need; see running.Around ----------------------------------

    def start_child(self, flow_id: str, parent: Parent, flow: Flow, call: Any) -> None:
        path = f"{flow.function.__module__}:{flow.function.__name__}"
        if flow.function.__module__ == parent.module_name:
            path = f":{flow.function.__name__}"
        options = options_of(
            flow_id,
            {
                "flow": flow.name,
                "version": parent.version,
                "by": parent.by,
                "parent": parent.flow_id,
            },
            queue=QUEUE,
        )
        # A context of its own: what a step starts is, for DBOS, no part of its flow.
        Context().run(self._client.enqueue, options, parent.ref, path, call, parent.by)

    async def ended(self, flow_id: str) -> Outcome:
        """A child's outcome, once it has ended."""
        found: Outcome = await self._children.wait(flow_id)
        return found

    async def _ends(self, flow_ids: list[str]) -> dict[str, Outcome]:
        def look() -> dict[str, Outcome]:
            found = self._client.list_workflows(
                workflow_ids=flow_ids, status=ENDED, load_input=False
            )
            return {one.workflow_id: end_of(one) for one in found}

        return await asyncio.to_thread(look)

    async def steps_stored(self, flow_id: str) -> int:
        def count() -> int:
            found = self._client.list_workflow_steps(flow_id, load_output=False)
            return max((one["function_id"] for one in found), default=0)

        return await asyncio.to_thread(count)

    async def tell_late(self, flow_id: str, number: int, name: str, did: Outcome) -> None:
        """What a step did that ended after its flow was cancelled; not of a flow that others
        have taken over, who do it again under the same operation id."""

        def tell() -> None:
            status = self._client.list_workflows(workflow_ids=[flow_id], status="CANCELLED")
            if status:
                fact = {f"{LATE}{number}": {"flow": flow_id, "name": name, "did": did}}
                self._client.update_workflow_attributes(flow_id, fact, merge=True)

        await asyncio.to_thread(tell)

    async def put_question(self, question: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = await self._asked(self._host.put_question, question)
        return found

    async def refuse_answer(self, question_id: str, problem: str) -> None:
        await self._asked(self._host.refuse_answer, question_id, problem)

    async def answered(self, question_id: str) -> dict[str, Any]:
        """Wait until a question is no longer open."""
        found: dict[str, Any] = await self._questions.wait(question_id)
        return found

    async def _answers(self, question_ids: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = await self._asked(self._host.answers, question_ids)
        return found


def end_of(status: Any) -> Outcome:
    """The outcome of a flow that has ended, as DBOS has it."""
    if status.status == "SUCCESS":
        return dict(status.output)
    if status.status == "ERROR":
        return {"failed": failure_of(status.error)}
    what = f"flow {status.workflow_id} was cancelled"
    if status.status != "CANCELLED":
        what = f"flow {status.workflow_id} was given up: its workers died {MOST_LIVES} times"
    return {"failed": told(PermanentError(what))}


def failure_of(error: Exception) -> dict[str, Any]:
    """A flow's error as its own text raised it."""
    found = getattr(error, "details", {}).get("failed")
    return told(error) if found is None else dict(found)


def _flow_at(module: Any, source: CodeSource, path: str | None, ref: str) -> Flow:
    """The flow that is meant: the definition's own, another of its text, or one that it imports."""
    name = source.path.partition(":")[2]
    where = module
    if path is not None:
        imported, _, name = path.partition(":")
        where = import_module(imported) if imported else module
    found = getattr(where, name, None)
    if not isinstance(found, Flow):
        raise UnknownName(f"the text of {ref} has no flow {name!r}")
    return found
