"""Commands and queries about policy, assessments, approvals, broken glass and training runs."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from pydantic import Field

from aios.errors import Forbidden, IllegalTransition, UnknownName, UsageError
from aios.governance import Policy
from aios.kernel.clearing import guard, policy_of
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.lineage import lineage, made_by
from aios.kernel.registering import refuse_prohibited, void_reason
from aios.kernel.requests import MaybeName, Nothing, OfId, OfName, OfReference, read
from aios.kernel.runs import RunDriver, check_spec
from aios.records import (
    ApprovalRequest,
    Assessment,
    BreakGlass,
    Decision,
    ModelProfile,
    ModelVersion,
    Record,
    RunSpec,
    TrainingRun,
)
from aios.records.governed import UNDECLARED
from aios.registry import Change, Reads, Registry
from aios.training.reproduce import compare

BREAK_GLASS_S = 15 * 60.0


class Declare(Record):
    """What a model is for; see `ModelProfile`."""

    name: str
    use: str
    purpose: str = ""
    owner: str = ""
    limits: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()


class SetPolicy(Record):
    """A policy as YAML text."""

    text: str


class Answer(Record):
    """Somebody's answer about `subject`: a version (`loan:2`) or a rollout's id. With `request`
    it counts for the approval request of this id alone, the one that was looked at."""

    subject: str
    reason: str = Field(max_length=2000)
    request: str | None = Field(default=None, max_length=100)


class BreakTheGlass(Record):
    """Let the model `name` serve around its gates for `lasts_s` seconds, at most 15 minutes."""

    name: str
    reason: str = Field(max_length=2000)
    lasts_s: float = Field(default=BREAK_GLASS_S, gt=0, le=BREAK_GLASS_S)


class StartRun(Record):
    """A training run."""

    spec: RunSpec


class HistoryQuery(Record):
    """What an endpoint served: all of it, or at a time (Unix seconds)."""

    endpoint: str
    at_s: float | None = Field(default=None, allow_inf_nan=False)


class GovernanceCommands:
    """Everything that decides who may serve, and the runs that make candidates.

    Args:
        answered: called after an answer to an approval request, with its subject.
    """

    def __init__(
        self,
        registry: Registry,
        runs: RunDriver,
        answered: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._runs = runs
        self._answered = answered
        self.commands: Commands = {
            "declare": (Declare, self._declare),
            "set_policy": (SetPolicy, self._set_policy),
            "approve": (Answer, self._approve),
            "reject": (Answer, self._reject),
            "break_glass": (BreakTheGlass, self._break_glass),
            "start_run": (StartRun, self._start_run),
            "cancel_run": (OfId, self._cancel_run),
            "reproduce": (OfReference, self._reproduce),
        }
        self.queries: Queries = {
            "profile": (OfName, self._profile),
            "policy": (Nothing, self._policy),
            "assessment": (OfReference, self._assessment),
            "clearance": (OfReference, self._clearance),
            "approvals": (Nothing, self._approvals),
            "runs": (MaybeName, self._list_runs),
            "run": (OfId, self._run),
            "reproduction": (OfId, self._reproduction),
            "lineage": (OfReference, lambda ref: lineage(self._registry, ref)),
            "history": (HistoryQuery, self._history),
        }

    # -- commands ---------------------------------------------------------------------

    def _declare(self, request: Declare, asked: Asked) -> dict[str, Any]:
        profile = read(ModelProfile, request.model_dump(), f"the declaration of {request.name}")
        with asked.change(self._registry, "declare", request.name) as change:
            if change.done is not None:
                return change.done
            refuse_prohibited(policy_of(change), profile.name, profile.use)
            _refuse_other_use(change.profile(profile.name), profile, asked)
            result = change.declare(profile).model_dump(mode="json")
            change.remember(result)
        return result

    def _set_policy(self, request: SetPolicy, asked: Asked) -> dict[str, Any]:
        policy = Policy.parse(request.text)
        told = {"digest": policy.digest, "name": policy.name}
        with asked.change(self._registry, "set_policy", policy.name[:100]) as change:
            if change.done is not None:
                return change.done
            change.set_policy(policy.model_dump(mode="json"), policy.digest)
            change.remember(told)
        self._runs.wake()
        return told

    def _approve(self, request: Answer, asked: Asked) -> dict[str, Any]:
        return self._decide(request, asked, "approved")

    def _reject(self, request: Answer, asked: Asked) -> dict[str, Any]:
        return self._decide(request, asked, "rejected")

    def _decide(self, request: Answer, asked: Asked, answer: Any) -> dict[str, Any]:
        if not request.reason.strip():
            raise UsageError(f"give a reason for {request.subject}: it is kept in the audit log")
        with asked.change(self._registry, answer, request.subject) as change:
            if change.done is not None:
                return change.done
            found = _waiting_for(change, request.subject)
            if request.request not in (None, found.id):
                raise IllegalTransition(
                    f"the request about {found.subject} that you looked at is an older one: what "
                    "is asked about has changed since; look at rt.approvals() again"
                )
            _refuse_own_or_void(change, found, asked.actor)
            decision = Decision(
                by=asked.actor, answer=answer, reason=request.reason, at_s=change.at_s
            )
            result = change.decide(found.id, decision).model_dump(mode="json")
            change.remember(result)
        self._runs.wake()
        self._answered(found.subject)
        return result

    def _break_glass(self, request: BreakTheGlass, asked: Asked) -> dict[str, Any]:
        if not request.reason.strip():
            raise UsageError("give a reason for breaking the glass: it is kept in the audit log")
        with asked.change(self._registry, "break_glass", request.name) as change:
            if change.done is not None:
                return change.done
            broken = BreakGlass(
                id=f"glass-{uuid4().hex[:8]}",
                name=request.name,
                by=asked.actor,
                reason=request.reason,
                from_s=change.at_s,
                until_s=change.at_s + request.lasts_s,
            )
            change.add_break_glass(broken)
            result = broken.model_dump(mode="json")
            change.remember(result)
        return result

    def _start_run(self, request: StartRun, asked: Asked) -> dict[str, Any]:
        if request.spec.cause is not None:
            raise UsageError("the cause of a run is what a watch found: leave it out")
        return self.begin_run(request.spec, {}, asked)

    def _reproduce(self, request: OfReference, asked: Asked) -> dict[str, Any]:
        """Make a version again from its own run: same data, recipe, seed and settings."""
        version = self._registry.version(request.ref)
        original = _run_of(self._registry, version)
        if "search" not in original.results:
            raise UsageError(f"run {original.id} did not make {version.ref}: it trained nothing")
        taken = original.results["snapshot"]["snapshot"]
        versions = {name: taken.get(name) for name in ("version", "feedback_version")}
        spec = original.spec.model_copy(
            update={
                "reproduces": version.ref,
                "rollout": None,
                "tracking_uri": None,
                "cause": None,
                # A table that has grown since is read as it was then.
                "data": original.spec.data.model_copy(update=versions),
            }
        )
        return self.begin_run(spec, {"search": original.results["search"]}, asked)

    def begin_run(self, spec: RunSpec, results: dict[str, Any], asked: Asked) -> dict[str, Any]:
        """Start a training run; `results` of stages that need not be run.

        Raises:
            IllegalTransition: the watch that wants it was taken off.
        """
        check_spec(self._registry, spec)
        if spec.assesses is not None:
            # An alias may stand for another version by the time that the gates have run.
            ref = self._registry.version(spec.assesses).ref
            spec = spec.model_copy(update={"assesses": ref})
        told = {"recipe": spec.recipe.sha256, "data": spec.data.location, "trials": spec.trials}
        with asked.change(self._registry, "start_run", spec.model, **told) as change:
            if change.done is not None:
                self._runs.drive(change.done["id"])
                return change.done
            if spec.cause is not None:
                change.require_active(spec.cause["watch"])
            run = TrainingRun(
                id=f"{spec.model}-run-{uuid4().hex[:8]}",
                model=spec.model,
                stage="starting",
                spec=spec,
                results=results,
                created_s=change.at_s,
                created_by=asked.actor,
            )
            change.note(run=run.id)
            change.create_run(run)
            change.remember({"id": run.id})
        self._runs.drive(run.id)
        return {"id": run.id}

    def _cancel_run(self, request: OfId, asked: Asked) -> dict[str, Any]:
        model = self._registry.run(request.id).model
        with asked.change(self._registry, "cancel_run", model, run=request.id) as change:
            if change.done is not None:
                return change.done
            run = change.run(request.id)
            reason = f"cancelled by {asked.actor}"
            change.save_run(run.id, "cancelled", run.stage, run.results, error=reason)
            change.remember({"id": run.id})
        self._runs.cancelled(request.id)
        return {"id": request.id}

    # -- queries ----------------------------------------------------------------------

    def _profile(self, name: str) -> dict[str, Any]:
        return self._registry.profile(name).model_dump(mode="json")

    def _policy(self) -> dict[str, Any]:
        policy = policy_of(self._registry)
        return {"name": policy.name, "digest": policy.digest, "text": policy.to_yaml()}

    def _assessment(self, ref: str) -> dict[str, Any]:
        return assessed(self._registry, ref).model_dump(mode="json")

    def _clearance(self, ref: str) -> dict[str, Any]:
        return guard(self._registry, self._registry.version(ref)).model_dump(mode="json")

    def _approvals(self) -> list[dict[str, Any]]:
        waiting = self._registry.waiting_approvals()
        return [request.model_dump(mode="json") for request in waiting]

    def _list_runs(self, name: str | None = None) -> list[dict[str, Any]]:
        return [
            run.model_dump(mode="json", exclude={"spec", "results"})
            for run in self._registry.runs(name)
        ]

    def _run(self, id: str) -> dict[str, Any]:
        return self._runs.view(self._registry.run(id))

    def _reproduction(self, id: str) -> dict[str, Any]:
        """How the run `id`, which made a version again, compares with the one that made it."""
        again = self._registry.run(id)
        if again.spec.reproduces is None or again.status != "finished":
            raise IllegalTransition(
                f"run {id} has reproduced nothing: it is {again.status}"
                f"{f' ({again.error})' if again.error else ''}"
            )
        version = self._registry.version(again.spec.reproduces)
        original = _run_of(self._registry, version)
        found = compare(version.ref, (original.spec, original.results), (again.spec, again.results))
        return found.model_dump(mode="json")

    def _history(self, endpoint: str, at_s: float | None = None) -> list[dict[str, Any]]:
        servings = self._registry.servings(endpoint)
        if at_s is not None:
            servings = [
                one
                for one in servings
                if one.from_s <= at_s and (one.until_s is None or at_s < one.until_s)
            ]
        return [serving.model_dump(mode="json") for serving in servings]


def _refuse_other_use(before: ModelProfile, profile: ModelProfile, asked: Asked) -> None:
    """What a model is for decides its gates: who must pass them cannot choose others.

    Raises:
        Forbidden: the use was declared before and only an administrator may change it.
    """
    if before.use not in (UNDECLARED, profile.use) and asked.caller.role != "admin":
        raise Forbidden(
            f"{profile.name} is declared for {before.use!r} by {before.declared_by}; another use "
            "may have other gates, so only an administrator changes it"
        )


def _run_of(reads: Reads, version: ModelVersion) -> TrainingRun:
    run = made_by(reads, version)
    if run is None:
        raise UsageError(
            f"{version.ref} was registered by hand and not made by a run of rt.retrain, so that "
            "it cannot be made again"
        )
    return run


def assessed(reads: Reads, ref: str) -> Assessment:
    """The newest assessment of a version.

    Raises:
        UnknownName: it was never assessed.
        UnknownModel: there is no such version.
    """
    found = reads.assessment(ref)
    if found is None:
        told = reads.version(ref).ref
        raise UnknownName(f'{told} was never assessed; run rt.assess("{told}", recipe, data=...)')
    return found


def _waiting_for(change: Change, subject: str) -> ApprovalRequest:
    """The request that waits about a version, or about the next step of a rollout."""
    waiting = change.waiting_approvals()
    found = [one for one in waiting if subject in (one.subject, one.subject.partition("@")[0])]
    if found:
        return found[-1]
    ended = change.approvals(subject)
    if ended:
        raise IllegalTransition(
            f"the approval of {subject} is {ended[-1].state(change.at_s)} and takes no more answers"
        )
    known = ", ".join(one.subject for one in waiting) or "nothing"
    raise UnknownName(f"no approval of {subject[:80]!r} was asked for; waiting: {known}")


def _refuse_own_or_void(change: Change, request: ApprovalRequest, actor: str) -> None:
    """Nobody answers about what they made, nor about what is no longer there.

    Raises:
        Forbidden: the version is the actor's own.
        IllegalTransition: the version was assessed again since, or the policy changed.
    """
    version = change.version(f"{request.name}:{request.version}")
    if version.created_by == actor:
        raise Forbidden(
            f"{actor} made {version.ref} and may not answer about it; somebody else must"
        )
    void = void_reason(change, request)
    if void is not None:
        raise IllegalTransition(void)
