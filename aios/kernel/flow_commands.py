"""Commands and queries about users' flows, and what their workers ask of the kernel."""

from collections.abc import Callable
from typing import Any

from pydantic import Field

from aios.config import Settings
from aios.errors import Forbidden, IllegalTransition, UnknownName, UsageError
from aios.flows.client import FlowClient, check_id
from aios.flows.facts import refuse_unfit_call
from aios.flows.place import QUEUE
from aios.flows.views import ENDED
from aios.kernel.commands import Asked, Commands, Queries, refuse_other_person
from aios.kernel.flow_workers import Crew, FlowWorkers
from aios.kernel.opening import place_of
from aios.kernel.requests import MaybeName, Nothing, OfId, read
from aios.records import CodeSource, Name, Record
from aios.records.acting import Definition, Question, Waiting
from aios.registry import Registry
from aios.security import Caller, holders, permits

REPEATED = ("cancel_flow", "end_schedule", "set_queue", "set_schedule", "start_flow")
"""Commands whose effect is in the flows' database. Asked again under the same operation id they
are carried out again, which does nothing the second time: the first may have ended in between."""
LONGEST_DELAY_S = 10 * 366 * 86_400.0
MOST_QUESTION = 4_000
"""Characters of a question."""


class DefineFlow(Record):
    """The text of a flow."""

    name: Name
    source: CodeSource
    facts: dict[str, Any] = Field(default_factory=dict)


class StartFlow(Record):
    """A flow by name, `refund` or `refund:3`; with `sha256` and `path`, of this text."""

    flow: str
    id: str
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    sha256: str | None = None
    path: str | None = None
    queue: str = QUEUE
    priority: int | None = Field(default=None, ge=1, le=2**31 - 1)
    partition: str | None = Field(default=None, min_length=1, max_length=200)
    delay_s: float | None = Field(default=None, ge=0, le=LONGEST_DELAY_S, allow_inf_nan=False)
    dedup: str | None = Field(default=None, min_length=1, max_length=200)
    debounce_s: float | None = Field(default=None, gt=0, le=86_400)
    attributes: dict[str, Any] = Field(default_factory=dict)


class ForkFlow(Record):
    """A flow again, from a step on."""

    id: str
    from_step: int = Field(ge=1)
    flow: str | None = None
    sha256: str | None = None
    path: str | None = None


class SetQueue(Record):
    """A queue and its limits; None for none. Rates are (starts, seconds)."""

    name: Name
    concurrency: int | None = Field(default=None, ge=1)
    per_worker: int | None = Field(default=None, ge=1)
    rate: tuple[int, float] | None = None
    partition_concurrency: int | None = Field(default=None, ge=1)
    partition_rate: tuple[int, float] | None = None


class SetSchedule(Record):
    """A flow at each time of a cron line."""

    name: Name
    flow: str
    cron: str
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    sha256: str | None = None
    path: str | None = None
    timezone: str | None = None
    backfill: bool = False


class FlowsQuery(Record):
    """The newest flows, of one name, status, or with these attributes."""

    name: str | None = None
    status: str | None = None
    attributes: dict[str, Any] = Field(default_factory=dict)
    limit: int = Field(default=100, ge=1, le=10_000)


class FlowCommands:
    """What people ask of flows.

    Args:
        crew: where workers run; see `flow_workers`.
    """

    def __init__(self, settings: Settings, registry: Registry, crew: Crew) -> None:
        self._registry = registry
        self.client = FlowClient(place_of(settings))
        self.workers = FlowWorkers(self.client, crew, settings.flow_workers)
        self.commands: Commands = {
            "define_flow": (DefineFlow, self._define),
            "start_flow": (StartFlow, self._start),
            "cancel_flow": (OfId, self._cancel),
            "fork_flow": (ForkFlow, self._fork),
            "set_queue": (SetQueue, self._set_queue),
            "set_schedule": (SetSchedule, self._set_schedule),
            "end_schedule": (OfId, self._end_schedule),
        }
        self.queries: Queries = {
            "flows": (FlowsQuery, self._flows),
            "flow": (OfId, self._flow),
            "flow_outcome": (OfId, self._outcome),
            "flow_steps": (OfId, self._steps),
            "flow_versions": (MaybeName, self._versions),
            "queues": (Nothing, self._queues),
            "schedules": (Nothing, self._schedules),
        }

    def start(self) -> None:
        """Go on with flows of before. Where none was ever sent, nothing begins."""
        if self._registry.definitions("flow"):
            self.workers.start()

    def close(self) -> None:
        self.workers.close()
        self.client.close()

    def begin(self, flow: str, args: list[Any], flow_id: str, by: str, **more: Any) -> str:
        """Begin a flow that is defined, `refund` (its newest version) or `refund:3`, once per id.
        What events and agents begin flows with: repeated, it does nothing.

        Args:
            more: see `FlowClient.begin`.

        Raises:
            UnknownName: no such flow or version.
            UsageError: the id was used for other arguments.
            StoreUnavailable: it could not be stored; nothing runs.
        """
        definition = self._defined(flow)
        self.workers.start()
        return self.client.begin(definition, args, more.pop("kwargs", {}), flow_id, by, **more)

    def begin_for(
        self,
        agent: str,
        told: dict[str, Any],
        source: CodeSource | None,
        facts: dict[str, Any],
        operation: str,
    ) -> str:
        """Begin a flow for an agent, once per id; its id.

        Args:
            told: as `StartFlow`.
            source, facts: the flow's text and what was read off it, kept where it is new.
            operation: of the agent, the same when its message is handled again.

        Raises:
            UnknownName, UsageError, StoreUnavailable: see `begin`.
        """
        request = read(StartFlow, told, "ctx.start")
        caller = Caller(f"agent {agent}", "agent")
        if source is not None:
            request = request.model_copy(update={"sha256": source.sha256, "path": source.path})
            try:
                self._defined(request.flow, source.sha256, source.path)
            except UnknownName:
                sent = DefineFlow(name=request.flow, source=source, facts=facts)
                asked = Asked.of(caller, "define_flow", sent.model_dump(mode="json"), None)
                self._define(sent, asked)
        asked = Asked.of(caller, "start_flow", request.model_dump(mode="json"), operation)
        return str(self._start(request, asked)["id"])

    def _defined(self, ref: str, sha256: str | None = None, path: str | None = None) -> Definition:
        name, _, version = ref.partition(":")
        if sha256 is not None:
            for one in reversed(self._registry.definitions("flow", name)):
                if (one.source.sha256, one.source.path) == (sha256, path):
                    return one
            raise UnknownName(f"flow {name!r} was not sent with this text", text="unknown")
        if version and not version.isdecimal():
            raise UsageError(f"{ref!r:.80} is no flow; one looks like refund, or refund:3")
        return self._registry.definition("flow", name, int(version) if version else None)

    # -- commands ---------------------------------------------------------------------

    def _define(self, request: DefineFlow, asked: Asked) -> dict[str, Any]:
        told = {"sha256": request.source.sha256, "path": request.source.path}
        with asked.change(self._registry, "define_flow", request.name, **told) as change:
            if change.done is not None:
                return change.done
            made = change.define("flow", request.name, request.source, request.facts, asked.actor)
            change.note(version=made.version)
            change.remember({"ref": made.ref})
        self.workers.start()
        return {"ref": made.ref}

    def _start(self, request: StartFlow, asked: Asked) -> dict[str, Any]:
        """Written down first, then begun: beginning is repeated by the caller, and once per id."""
        definition = self._defined(request.flow, request.sha256, request.path)
        refuse_unfit_call(definition, request.args, request.kwargs)
        check_id(request.id)
        if request.debounce_s and (request.delay_s or request.priority or request.partition):
            raise UsageError("debounce_s goes with no delay_s, priority or partition")
        told = {"flow": request.id, "queue": request.queue}
        with asked.change(self._registry, "start_flow", definition.ref, **told) as change:
            if change.done is None:
                change.remember({"id": request.id})
        found = self.begin(
            definition.ref,
            request.args,
            request.id,
            asked.actor,
            kwargs=request.kwargs,
            queue=request.queue,
            priority=request.priority,
            queue_partition_key=request.partition,
            delay_seconds=request.delay_s,
            dedup=request.dedup,
            debounce_s=request.debounce_s,
            attributes=request.attributes,
        )
        return {"id": found, "ref": definition.ref}

    def _cancel(self, request: OfId, asked: Asked) -> dict[str, Any]:
        view = self._flow(request.id)
        if view["status"] in ENDED:
            raise IllegalTransition(f"flow {request.id!r} has ended already: {view['status']}")
        with asked.change(self._registry, "cancel_flow", view["flow"], flow=request.id) as change:
            if change.done is None:
                for one in change.open_questions():
                    if one.flow == request.id or one.flow.startswith(f"{request.id}."):
                        change.end_question(one.id, "withdrawn")
                change.remember({"id": request.id})
        self.client.cancel(request.id)
        return {"id": request.id}

    def _fork(self, request: ForkFlow, asked: Asked) -> dict[str, Any]:
        view = self._flow(request.id)
        told: dict[str, Any] = {"flow": request.id, "from_step": request.from_step}
        version = None
        if request.flow is not None:
            version = self._other_text(request, view).version
            told["version"] = version
        with asked.change(self._registry, "fork_flow", view["flow"], **told) as change:
            if change.done is not None:
                return change.done
            made = {"id": self.client.fork(request.id, request.from_step, version)}
            change.note(fork=made["id"])
            change.remember(made)
        return made

    def _other_text(self, request: ForkFlow, view: dict[str, Any]) -> Definition:
        assert request.flow is not None
        definition = self._defined(request.flow, request.sha256, request.path)
        if view["parent"] is not None:
            raise UsageError(
                f"flow {request.id!r} has the text of the flow that began it: fork "
                f"{view['parent']!r}, which begins it again"
            )
        if definition.name != view["flow"]:
            raise UsageError(
                f"flow {request.id!r} is a {view['flow']}; it cannot go on as a {definition.name}"
            )
        return definition

    def answer(self, question: Question, answer: Any, asked: Asked) -> dict[str, Any]:
        """Give a question a person's answer.

        Raises:
            Forbidden: it is for somebody else.
            UsageError: the answer does not fit the question's form; names the field.
            IllegalTransition: nobody waits for it any more.
        """
        refuse_other(question, asked.caller)
        refuse_unfit(question, answer)
        if self.client.view(question.flow)["status"] in ENDED:
            raise IllegalTransition(f"flow {question.flow!r} has ended; nobody waits for this")
        told = {"question": question.id, "text": question.text}
        with asked.change(self._registry, "answer", question.flow, **told) as change:
            if change.done is not None:
                return change.done
            change.answer_question(question.id, answer, asked.actor)
            change.remember({"id": question.id})
        return {"id": question.id}

    def _set_queue(self, request: SetQueue, asked: Asked) -> dict[str, Any]:
        if request.name == QUEUE:
            raise UsageError(
                f"{QUEUE!r} is the queue of all flows that are started without one; a limit would "
                "hold all of them up: give yours another name"
            )
        told = request.model_dump(exclude={"name"})
        with asked.change(self._registry, "set_queue", request.name, **told) as change:
            if change.done is None:
                change.remember({"name": request.name})
        self.client.register_queue(
            request.name,
            global_concurrency=request.concurrency,
            worker_concurrency=request.per_worker,
            limiter=_limiter(request.rate),
            partition_concurrency=request.partition_concurrency,
            partition_limiter=_limiter(request.partition_rate),
        )
        return {"name": request.name}

    def _set_schedule(self, request: SetSchedule, asked: Asked) -> dict[str, Any]:
        definition = self._defined(request.flow, request.sha256, request.path)
        refuse_unfit_call(definition, request.args, request.kwargs)
        told = {"cron": request.cron, "timezone": request.timezone, "flow": definition.ref}
        with asked.change(self._registry, "set_schedule", request.name, **told) as change:
            if change.done is None:
                change.remember({"name": request.name})
        call = {"args": request.args, "kwargs": request.kwargs}
        self.client.schedule(
            request.name,
            definition,
            call,
            asked.actor,
            request.cron,
            request.timezone,
            request.backfill,
        )
        self.workers.start()
        return {"name": request.name}

    def _end_schedule(self, request: OfId, asked: Asked) -> dict[str, Any]:
        if request.id not in {one["name"] for one in self._schedules()}:
            raise UnknownName(f"no schedule {request.id[:60]!r}; rt.schedules() lists them")
        with asked.change(self._registry, "end_schedule", request.id) as change:
            if change.done is None:
                change.remember({"name": request.id})
        self.client.unschedule(request.id)
        return {"name": request.id}

    # -- queries ----------------------------------------------------------------------

    def _flows(
        self, name: str | None, status: str | None, attributes: dict[str, Any], limit: int
    ) -> list[dict[str, Any]]:
        if not self._registry.definitions("flow"):
            return []
        return self.client.flows(name, status, attributes, limit)

    def _flow(self, id: str) -> Any:
        return self._known(self.client.view, id)

    def _outcome(self, id: str) -> Any:
        return self._known(self.client.outcome, id)

    def _steps(self, id: str) -> Any:
        return self._known(self.client.steps, id)

    def _known(self, question: Callable[[str], Any], flow_id: str) -> Any:
        if not self._registry.definitions("flow"):
            raise UnknownName(f"no flow has the id {flow_id[:80]!r}; none was ever started")
        return question(flow_id)

    def _versions(self, name: str | None = None) -> list[dict[str, Any]]:
        found = self._registry.definitions("flow", name)
        return [one.model_dump(mode="json", exclude={"source", "kind"}) for one in found]

    def _queues(self) -> list[dict[str, Any]]:
        return self.client.queues() if self._registry.definitions("flow") else []

    def _schedules(self) -> list[dict[str, Any]]:
        return self.client.schedules() if self._registry.definitions("flow") else []

    def waiting(self) -> list[Waiting]:
        """Questions that wait for an answer; not what a flow asked that has ended since."""
        waiting = self._registry.open_questions()
        if not waiting:
            return []
        ended = self.client.ended({one.flow for one in waiting})
        return [_waiting(one) for one in waiting if one.flow not in ended]

    def answering(self) -> set[str]:
        """Who may be asked: roles that may answer, and identities of keys that have
        one of them. Others may come: keys are added while questions wait."""
        keys = self._registry.keys()
        return {*holders("answer"), *(k.identity for k in keys if permits(k.role, "answer"))}

    # -- what workers ask; see flows.worker.Host --------------------------------------

    def asked_by_worker(self, what: str, *arguments: Any) -> Any:
        """`definition`, `put_question`, `answers` or `refuse_answer`."""
        return getattr(self, f"_worker_{what}")(*arguments)

    def _worker_definition(self, ref: str) -> dict[str, Any]:
        return self._defined(ref).model_dump(mode="json")

    def _worker_put_question(self, fields: dict[str, Any]) -> dict[str, Any]:
        fields = dict(fields)
        timeout_s = fields.pop("timeout_s")
        if len(fields["text"]) > MOST_QUESTION:
            raise UsageError(f"a question has at most {MOST_QUESTION:,} characters")
        told = {"question": fields["id"], "to": fields["to"]}
        if fields["to"] not in self.answering():
            told["warning"] = "no key that may answer is of this name"
        with self._registry.change(
            actor="kernel", action="ask", subject=fields["flow"], details=told
        ) as change:
            until_s = None if timeout_s is None else change.at_s + timeout_s
            asked = Question(**fields, asked_s=change.at_s, until_s=until_s)
            return change.put_question(asked).model_dump(mode="json")

    def _worker_answers(self, question_ids: list[str]) -> dict[str, dict[str, Any]]:
        found = self._registry.questions_of(question_ids)
        now_s = self._registry.now_s()
        for index, one in enumerate(found):
            if one.status == "open" and one.until_s is not None and one.until_s <= now_s:
                found[index] = self._end(one, "expired")
        return {
            one.id: {"status": one.status, "answer": one.answer}
            for one in found
            if one.status != "open"
        }

    def _end(self, question: Question, how: str) -> Question:
        told = {"question": question.id, "how": how, "text": question.text}
        with self._registry.change(
            actor="kernel", action="end_question", subject=question.flow, details=told
        ) as change:
            return change.end_question(question.id, how)

    def _worker_refuse_answer(self, question_id: str, problem: str) -> None:
        told = {"question": question_id, "problem": problem}
        with self._registry.change(
            actor="kernel", action="refuse_answer", subject=question_id, details=told
        ) as change:
            change.reopen_question(question_id, problem)


def refuse_other(question: Question, caller: Caller) -> None:
    """Raises:
    Forbidden: it is for somebody else, or who answers an approver's question began the flow.
    """
    refuse_other_person(f"question {question.id!r}", question.to, caller)
    if question.to == "approver" and caller.identity == question.asked_by:
        raise Forbidden(
            f"{caller.identity} began flow {question.flow!r}, so somebody else must approve"
        )


def refuse_unfit(question: Question, answer: Any) -> None:
    """Raises:
    UsageError: the answer does not fit the question's form; names the field.
    """
    from jsonschema import Draft202012Validator

    if question.form is None:
        return
    faults = list(Draft202012Validator(_closed(question.form)).iter_errors(answer))
    if faults:
        told = "; ".join(
            f"{'.'.join(map(str, one.absolute_path)) or 'the answer'}: {one.message[:200]}"
            for one in faults[:5]
        )
        raise UsageError(f"the answer to {question.id!r} does not fit its form: {told}")


def _closed(schema: Any) -> Any:
    """The schema with no fields but its own, where it does not say that others may be. A field's
    name that is wrong by a letter must not become that field's default."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(one) for name, one in schema.items()}
    if isinstance(schema.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    return found


def _waiting(question: Question) -> Waiting:
    return Waiting(kind="question", **question.model_dump(include=set(Waiting.model_fields)))


def _limiter(rate: tuple[int, float] | None) -> dict[str, float] | None:
    if rate is None:
        return None
    if rate[0] < 1 or not 0 < rate[1] < float("inf"):
        raise UsageError(f"rate={rate!r}: give (starts, seconds), such as (10, 60)")
    return {"limit": rate[0], "period": rate[1]}
