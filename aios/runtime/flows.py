"""Flows as users hold them: `rt.start`, its handle, the inbox, queues, schedules."""

import asyncio
import json
import math
import time
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from pydantic import BaseModel

from aios.errors import DeadlineExceeded, PermanentError, UnknownName, UsageError, from_problem
from aios.flows.writing import Flow, Step
from aios.packaging import code_of
from aios.presentation import Shown, duration, moment
from aios.records.acting import Waiting
from aios.runtime.inbox import Inbox
from aios.runtime.objects import Live
from aios.runtime.tables import Look, Table
from aios.runtime.transport import Transport
from aios.store.canonical import plain

FIRST_LOOK_S = 0.02
LONGEST_LOOK_S = 1.0
SHOWN_RESULT = 60


class FlowStatus(Shown):
    """A flow at one moment.

    Attributes:
        outcome: `queued`, `delayed`, `running`, `finished`, `failed` or `cancelled`.
        undone: steps that were taken back after a failure, in the order that was done.
        not_undone: `{"step", "error"}` of those that could not be: somebody must look.
        lives: how often it was begun: once, and once more after each death of its worker.
        fields: all of it, as plain values.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.id: str = fields["id"]
        self.flow = f"{fields['flow']}:{fields['version']}"
        self.outcome: str = fields["status"]
        self.error: str | None = fields["error"]
        self.attributes: dict[str, Any] = fields["attributes"]
        self.undone: list[str] = fields["undone"]
        self.not_undone: list[dict[str, str]] = fields["not_undone"]
        self.lives: int = fields["lives"]
        self.fields = fields

    @property
    def ended(self) -> bool:
        return self.outcome in ("finished", "failed", "cancelled")

    @property
    def summary(self) -> str:
        """One line."""
        told = f"{self.outcome}: {self.error}" if self.error else self.outcome
        if self.undone:
            told += f"; undone: {', '.join(self.undone)}"
        if self.not_undone:
            told += f"; NOT undone: {', '.join(one['step'] for one in self.not_undone)}"
        return told

    def _shown(self) -> Look:
        title = f"flow {self.id}, {self.flow}, {self.summary}"
        took = None
        if self.fields["ended_s"] is not None and self.fields["created_s"] is not None:
            took = _took(self.fields)
        headings = ["by", "queue", "begun", "ended", "took", "lives", "attributes"]
        attributes = ", ".join(f"{name} {value}" for name, value in self.attributes.items())
        row = [
            self.fields["by"],
            self.fields["queue"],
            moment(self.fields["begun_s"]),
            moment(self.fields["ended_s"]),
            took,
            self.lives,
            attributes,
        ]
        return title, headings, [row]


class Steps(Table):
    """What a flow has done so far, in the order of its text."""

    def __init__(self, flow_id: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(f"steps of {flow_id}", rows, ())

    def _shown(self) -> Look:
        rows = [
            [one["step"], one["name"], duration(one["took_s"]), one["error"], _result(one)]
            for one in self.rows
        ]
        headings = ["step", "name", "took", "error", "result"]
        return f"{self.title}{'' if rows else ': none'}", headings, rows


def _path(flow_id: str) -> str:
    """Where a flow is served: its id may hold what addresses use otherwise."""
    return f"/api/v1/flows/{quote(str(flow_id), safe='', errors='replace')}"


def _refuse_nan(answer: Any) -> None:
    """An answer is what somebody said; on the way NaN would become "nothing"."""
    try:
        json.dumps(answer, allow_nan=False, default=str)
    except ValueError as error:
        raise UsageError(f"the answer is not JSON: {error}; leave out what is not known") from None


class FlowHandle(Live):
    """A flow that was begun. Holds only its id; every call asks the runtime.

    `await handle` gives its result, as `result` does.
    """

    def __init__(self, transport: Transport, flow_id: str) -> None:
        self._transport = transport
        self.id = flow_id
        self._path = _path(flow_id)

    def status(self) -> FlowStatus:
        """Where it is, and how it ended."""
        return FlowStatus(self._transport.get(self._path))

    def steps(self) -> Steps:
        """What it has done so far."""
        return Steps(self.id, self._transport.get(f"{self._path}/steps"))

    def result(self, timeout_s: float = 3600.0) -> Any:
        """What it returned; waits for it.

        Raises:
            AiosError: it failed, as the error that it raised if that is one of ours, else as a
                PermanentError; `details` tell what was undone and what could not be.
            DeadlineExceeded: it goes on after `timeout_s`.
        """
        if not isinstance(timeout_s, int | float) or not timeout_s >= 0:
            raise UsageError(f"timeout_s is a number of seconds, 0 or more, not {timeout_s!r:.60}")
        give_up_s = time.monotonic() + timeout_s
        pause_s = FIRST_LOOK_S
        while True:
            found = self._outcome()
            if found is not None:
                return self._told(found)
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                raise self._late(timeout_s)
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        pause_s = FIRST_LOOK_S
        while (found := await asyncio.to_thread(self._outcome)) is None:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)
        return self._told(found)

    def cancel(self) -> None:
        """End it before its next step, and the flows that it began. What it did stays done; a
        step that goes on ends, and `steps()` tells what it did.

        Raises:
            IllegalTransition: it has ended.
        """
        self._transport.change("POST", f"{self._path}/cancel")

    def fork(self, *, from_step: int, flow: Any = None) -> "FlowHandle":
        """A new flow that has done what this one did before `from_step`: its steps from there on
        run again.

        Args:
            flow: with which text it goes on: the mended function, whose text is sent if it is
                new, or `"refund:3"`; by default with the text of this one.

        Raises:
            UsageError: there is no such step; says which there are. Or it is another flow's text.
        """
        body = {"from_step": from_step, **({} if flow is None else _named(flow))}
        path = f"{self._path}/fork"
        made = _sent(self._transport, flow, "POST", path, body)
        return FlowHandle(self._transport, made["id"])

    def _outcome(self) -> dict[str, Any] | None:
        found: dict[str, Any] = self._transport.get(f"{self._path}/outcome")
        return found if found["status"] in ("finished", "failed", "cancelled") else None

    def _told(self, found: dict[str, Any]) -> Any:
        if "problem" in found:
            raise from_problem(found["problem"])
        if found["status"] == "cancelled":
            raise PermanentError(f"flow {self.id} was cancelled")
        return found["value"]

    def _late(self, timeout_s: float) -> DeadlineExceeded:
        return DeadlineExceeded(f"flow {self.id} goes on after {timeout_s:g} s; see .status()")

    def _named(self) -> str:
        return f"flow {self.id}"

    def _now(self) -> Shown:
        return self.status()


class Acting:
    """Flows: beginning them, looking at them, answering them."""

    _transport: Transport

    def start(
        self,
        flow: Any,
        *args: Any,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        partition: str | None = None,
        delay_s: float | None = None,
        dedup: str | None = None,
        debounce_s: float | None = None,
        attributes: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> FlowHandle:
        """Begin a flow and return at once; it goes on whatever dies.

        Args:
            flow: a function under `@aios.flow`, whose text is sent if it is new, or the name of
                one that was sent, `"refund"` or `"refund:3"`.
            args, kwargs: what it is called with; plain values.
            id: of the flow. The same id never runs twice: repeated, it gives the same handle.
                Without one it gets a new one.
            queue: see `queue`; by default it runs at once.
            priority: smaller ones go first in a queue, after those without one; 1 and up.
            partition: of a queue with limits for each partition, such as a customer.
            delay_s: to begin later.
            dedup: while a flow with this text is in the queue or runs, no other is begun: the
                handle is that one's.
            debounce_s: with `dedup`: begin so many seconds after the last of such calls, once, with
                that call's arguments.
            attributes: to find it by, `rt.flows(attributes={"region": "eu"})`.

        Raises:
            UsageError: an argument is not plain, the id was used with other arguments, or the
                flow's text cannot travel.
            UnknownName: no flow, version or queue of this name.
        """
        wanted = _called(flow, args, kwargs)
        texts = {"id": id, "queue": queue, "partition": partition, "dedup": dedup}
        for name, value in texts.items():
            if not isinstance(value, str | None):
                raise UsageError(f"{name}={value!r:.60} must be text: {name}={str(value)[:60]!r}")
        if attributes is not None and not isinstance(attributes, Mapping):
            raise UsageError(f"attributes are names with values, not {attributes!r:.60}")
        options = {"priority": priority, "delay_s": delay_s, "debounce_s": debounce_s}
        for name, number in options.items():
            if isinstance(number, float) and not math.isfinite(number):
                raise UsageError(f"{name}={number}: give a finite number")
        if isinstance(flow, Flow):
            given = {**texts, **options, "attributes": attributes}
            flow.refuse_hidden(args, [one for one, value in given.items() if value is not None])
        body = {
            **wanted,
            "id": uuid4().hex if id is None else id,
            "queue": queue,
            "partition": partition,
            "dedup": dedup,
            **options,
            "attributes": dict(attributes or {}),
        }
        plain(body["attributes"], "attributes")
        made = _sent(self._transport, flow, "POST", "/api/v1/flows", body)
        return FlowHandle(self._transport, made["id"])

    def flow(self, flow_id: str) -> FlowHandle:
        """A flow that somebody began.

        Raises:
            UnknownName: there is none of this id.
        """
        if not flow_id:
            raise UsageError("the id of a flow cannot be empty")
        self._transport.get(_path(flow_id))
        return FlowHandle(self._transport, flow_id)

    def flows(
        self,
        name: str | None = None,
        *,
        status: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        limit: int = 100,
    ) -> Table:
        """The newest flows, newest first: of one name, in one status, or with these attributes."""
        if attributes is not None and not isinstance(attributes, Mapping):
            raise UsageError(f'attributes={attributes!r:.60}: give some, as {{"customer": "c-7"}}')
        found = self._transport.get(
            "/api/v1/flows",
            name=name,
            status=status,
            attributes=json.dumps(dict(attributes or {})),
            limit=limit,
        )
        columns = ["id", "flow", "version", "status", "by", "queue", "lives", "error"]
        return Table("flows", found, columns)

    def flow_versions(self, name: str | None = None) -> Table:
        """Versions of flows that were sent, oldest first; `facts` has what they take."""
        found = self._transport.get("/api/v1/flow-definitions", name=name)
        return Table("flow versions", found, ("name", "version", "created_by"))

    def inbox(self) -> Inbox:
        """What nobody has answered yet, by `kind`: `question`s of flows and `tool_call`s of agents
        that need an approval."""
        found = self._transport.get("/api/v1/inbox")
        return Inbox([Waiting.model_validate(one) for one in found])

    def answer(self, waiting: str | Waiting, answer: Any) -> None:
        """Answer what a flow asks, or what an agent wants to call.

        Args:
            waiting: its id, or its row in `rt.inbox()`.
            answer: what its `form` describes, or an instance of it; for a tool call
                `{"approve": True, "reason": "it is owed"}`.

        Raises:
            Forbidden: it is for somebody else.
            UsageError: the answer does not fit its form; names the field.
            IllegalTransition: it is answered or expired.
        """
        given = answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer
        _refuse_nan(given)
        body = {"id": getattr(waiting, "id", waiting), "answer": given}
        self._transport.change("POST", "/api/v1/inbox", body)

    def queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        per_worker: int | None = None,
        rate: tuple[int, float] | None = None,
        partition_concurrency: int | None = None,
        partition_rate: tuple[int, float] | None = None,
    ) -> None:
        """Make a queue, or set its limits anew.

        Args:
            concurrency: how many of its flows run at once, anywhere.
            per_worker: how many run at once in one worker.
            rate: `(10, 60)`: at most 10 begin in any 60 seconds.
            partition_concurrency, partition_rate: the same for each partition; then every start
                names its `partition`.
        """
        body = {
            "concurrency": concurrency,
            "per_worker": per_worker,
            "rate": rate,
            "partition_concurrency": partition_concurrency,
            "partition_rate": partition_rate,
        }
        self._transport.change("PUT", f"/api/v1/queues/{name}", body)

    def queues(self) -> Table:
        """Queues and their limits."""
        columns = ["name", "concurrency", "per_worker", "rate", "partition_concurrency"]
        return Table("queues", self._transport.get("/api/v1/queues"), columns)

    def schedule(
        self,
        flow: Any,
        cron: str,
        *args: Any,
        name: str | None = None,
        timezone: str | None = None,
        backfill: bool = False,
        **kwargs: Any,
    ) -> None:
        """Begin a flow at each time of a cron line, once per time, with the text it has now.

        Args:
            cron: `"0 7 * * 1-5"`; with six fields the first is seconds.
            name: of the schedule, which a second call changes; default: the flow's.
            timezone: such as `"Europe/Prague"`; default UTC.
            backfill: whether times that went by while no worker was up are made up for.

        Raises:
            UsageError: no cron line, or no time zone.
        """
        wanted = _called(flow, args, kwargs)
        if isinstance(flow, Flow):
            given = {"name": name, "timezone": timezone, "backfill": backfill or None}
            flow.refuse_hidden(args, [one for one, value in given.items() if value is not None])
        if name is not None and not (isinstance(name, str) and name):
            raise UsageError(f"name={name!r:.60} is no name of a schedule; one is daily-report")
        name = wanted["flow"].partition(":")[0] if name is None else name
        body = {**wanted, "cron": cron, "timezone": timezone, "backfill": backfill}
        _sent(self._transport, flow, "PUT", f"/api/v1/schedules/{name}", body)

    def schedules(self) -> Table:
        """What begins by itself, and when."""
        columns = ["name", "flow", "cron", "timezone", "backfill", "by", "last_fired"]
        return Table("schedules", self._transport.get("/api/v1/schedules"), columns)

    def unschedule(self, name: str) -> None:
        """Take a schedule off; flows that it began go on."""
        self._transport.change("DELETE", f"/api/v1/schedules/{name}")


def define_flow(transport: Transport, flow: Flow) -> None:
    """Send the text of a flow, and what was read off it."""
    body = {"source": code_of(flow, "flow").model_dump(mode="json"), "facts": flow.facts}
    transport.change("PUT", f"/api/v1/flow-definitions/{flow.name}", body)


def start_by_name(
    transport: Transport, name: str, flow_id: str, arguments: dict[str, Any]
) -> FlowHandle:
    """Begin a flow that was sent, with arguments by their names, whatever these are."""
    body = {"flow": name, "id": flow_id, "kwargs": arguments}
    return FlowHandle(transport, transport.change("POST", "/api/v1/flows", body)["id"])


def _took(fields: Mapping[str, Any]) -> str | None:
    """How long a flow took; of one that was begun the database knows whole seconds."""
    if fields["begun_s"] is None:
        return duration(fields["ended_s"] - fields["created_s"])
    seconds = fields["ended_s"] - fields["begun_s"]
    return duration(seconds) if seconds >= 1 else "under 1 s"


def no_flow(given: Any) -> UsageError:
    """What is said of something that was given as a flow and is none."""
    if isinstance(given, Step):
        advice = "it runs inside of a flow: call it there"
    else:
        advice = "put @aios.flow above the function, or give the name of a flow that was sent"
    return UsageError(f"{given!r:.60} is no flow: {advice}")


def _named(flow: Any) -> dict[str, Any]:
    """Which flow, as the API takes it."""
    if isinstance(flow, Flow):
        source = code_of(flow, "flow")
        return {"flow": flow.name, "sha256": source.sha256, "path": source.path}
    if not isinstance(flow, str):
        raise no_flow(flow)
    return {"flow": flow}


def _called(flow: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Which flow with what."""
    found = _named(flow)
    told: dict[str, Any] = {"args": list(args), "kwargs": kwargs}
    plain(told, f"an argument of flow {found['flow']!r}")
    if isinstance(flow, Flow):
        flow.refuse_unfit(args, kwargs)
    return {**found, **told}


def _sent(
    transport: Transport, flow: Any, method: str, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    """Ask for it; a text that is not known there goes first."""
    try:
        found: dict[str, Any] = transport.change(method, path, body)
    except UnknownName as error:
        if not isinstance(flow, Flow) or error.details.get("text") != "unknown":
            raise
        define_flow(transport, flow)
        found = transport.change(method, path, body)
    return found


def _result(step: dict[str, Any]) -> str | None:
    if step["bytes"] is not None:
        return f"{step['bytes']:,} bytes"
    if step["error"] is not None:
        return None
    text = json.dumps(step["result"])
    return text if len(text) <= SHOWN_RESULT else f"{text[:SHOWN_RESULT]}..."
