"""Carries out rollouts: looks, lets the policy decide, writes its actions in one transaction.

Each rollout is one durable flow whose steps are stages. The truth is the rollout's row: a
kernel that was killed re-reads it and looks again; as the policy is pure it decides the same.
"""

import hashlib
import logging
import threading
from typing import Any

from aios.clock import Clock
from aios.errors import IllegalTransition, NotApproved, UsageError
from aios.flows import FlowInterrupted, Flows
from aios.kernel.clearing import guard
from aios.kernel.flow_traces import FlowTraces
from aios.kernel.observations import Observations
from aios.kernel.reconcile import Reconciler
from aios.kernel.serve_client import failure_reason
from aios.kernel.serve_config import challenger_app_name
from aios.kernel.traffic import next_plan, served
from aios.records import ApprovalRequest, Challenger
from aios.registry import Change, Registry, RolloutRow
from aios.rollout import (
    Action,
    AskApproval,
    Facts,
    Finish,
    Promote,
    RollBack,
    SetTraffic,
    State,
    begin,
    parse_plan,
    step,
)

LOOK_S = 0.5
EVIDENCE_S = 1.0
LINGER_S = 5.0
"""How long a challenger's application outlives its rollout, so that requests that are in
flight to it are answered."""

APPROVAL_EXPIRES_S = 7 * 86_400.0
"""How long a rollout waits for people before it gives the traffic back."""

logger = logging.getLogger("aios.kernel")


class RolloutDriver:
    """Drives every running rollout; at most one per endpoint.

    `deciding` is held over each decision and its transaction, and taken before the store's
    own lock: a look and a person's command never decide on the same state.
    """

    def __init__(
        self,
        registry: Registry,
        observations: Observations,
        reconciler: Reconciler,
        flows: Flows,
        clock: Clock,
        traces: FlowTraces,
    ) -> None:
        self._registry = registry
        self._observations = observations
        self._reconciler = reconciler
        self._flows = flows
        self._clock = clock
        self._traces = traces
        self.deciding = threading.RLock()
        self._woken: dict[str, threading.Event] = {}
        self._lingering: dict[str, tuple[RolloutRow, float]] = {}
        self._wrote_evidence_s: dict[str, float] = {}
        self._closed = threading.Event()
        self._stage_step = flows.step("rollout_stage", self._until_stage_ends)
        self._flow = flows.flow("rollout", self._drive)

    def start(self) -> None:
        """Go on with what a former kernel left. A rollout whose row was written but whose
        flow was not yet started is started now: the flow's id is the rollout's."""
        self._flows.launch()
        for row in self._registry.active_rollouts():
            self.drive(row.id)

    def close(self) -> None:
        """End every flow where it is; the next kernel goes on with it."""
        self._closed.set()
        for event in list(self._woken.values()):
            event.set()
        self._flows.close()

    def first_state(self, plan: Any, rollout_id: str) -> dict[str, Any]:
        """The state a new rollout's row begins with."""
        state, _ = begin(plan, rollout_id, self._clock.now_s())
        return state.model_dump(mode="json")

    def drive(self, rollout_id: str) -> None:
        """Start the rollout's flow, once."""
        self._flows.start(self._flow, rollout_id, flow_id=rollout_id)

    def wake(self, rollout_id: str) -> None:
        """Something changed for this rollout: look now, and let Serve follow."""
        self._reconciler.changed()
        event = self._woken.get(rollout_id)
        if event is not None:
            event.set()

    def challengers(self, endpoint: str) -> dict[str, int]:
        """Applications, with their versions, that are needed beside the endpoint now."""
        now_s = self._clock.monotonic_s()
        wanted = {
            _app(row): row.to_version
            for row in self._registry.active_rollouts()
            if row.endpoint == endpoint
        }
        for app, (row, until_s) in list(self._lingering.items()):
            if until_s < now_s:
                self._lingering.pop(app, None)
            elif row.endpoint == endpoint:
                wanted[app] = row.to_version
        return wanted

    # -- the flow ---------------------------------------------------------------------

    def _drive(self, rollout_id: str) -> str:
        """Durable: one checkpointed step per stage, until the rollout is over."""
        while True:
            try:
                ended: dict[str, Any] = self._stage_step(rollout_id)
            except Exception:
                # The stage's checkpoint could not be stored. A flow that raises never runs
                # again, and the truth is the row: look again.
                logger.exception("rollout %s: a stage was not checkpointed", rollout_id)
                self._pause(self._closed)
                continue
            if ended["outcome"] is not None:
                return str(ended["outcome"])

    def _until_stage_ends(self, rollout_id: str) -> dict[str, Any]:
        event = self._woken.setdefault(rollout_id, threading.Event())
        began: tuple[str, int] | None = None
        failure = ""
        while True:
            event.clear()
            try:
                row = self.look(rollout_id)
            except Exception as error:
                # A look that failed (a full disk, say) decided nothing; the next one may.
                if failure != repr(error):
                    logger.exception("rollout %s: a look failed; looking again", rollout_id)
                failure = repr(error)
                self._pause(event)
                continue
            failure = ""
            if row.status != "running":
                self._woken.pop(rollout_id, None)
                self._wrote_evidence_s.pop(rollout_id, None)
                return {"stage": row.stage, "outcome": row.status}
            state = State.model_validate(row.state)
            stage = (state.stage, state.index)
            if began is not None and stage != began:
                return {"stage": row.stage, "outcome": None}
            began = stage
            self._pause(event)

    def _pause(self, event: threading.Event) -> None:
        event.wait(LOOK_S)
        if self._closed.is_set():
            raise FlowInterrupted("the kernel is closing; the next one goes on")

    # -- decisions --------------------------------------------------------------------

    def look(self, rollout_id: str) -> RolloutRow:
        """One look at a running rollout: decide, and write the decision.

        Nothing is decided before Serve was seen: to a kernel that has just started every
        challenger would seem to be down.
        """
        with self.deciding:
            row = self._registry.rollout(rollout_id)
            if row.status != "running" or not self._reconciler.has_looked:
                return row
            state = State.model_validate(row.state)
            evidence = self._observations.evidence(row.endpoint, state.era)
            plan = parse_plan(row.plan)
            facts = self._facts(row, state)
            refused = self._refused(row, state)
            if refused is not None:
                told = {"command": "abort", "command_reason": refused}
                facts = facts.model_copy(update=told)
            after, actions = step(plan, state, evidence, facts, self._clock.now_s())
            try:
                self._advance(row, after, actions)
            except NotApproved as error:
                # What cleared the version is no longer so: the policy changed, or it was
                # assessed again. It goes no further.
                told = {"command": "abort", "command_reason": error.message}
                facts = facts.model_copy(update=told)
                after, actions = step(plan, state, evidence, facts, self._clock.now_s())
                self._advance(row, after, actions)
            self._write_evidence(row, state.era, after)
            return self._registry.rollout(rollout_id)

    def _advance(self, row: RolloutRow, after: State, actions: list[Action]) -> None:
        if not actions:
            self._registry.save_progress(row.id, after.model_dump(mode="json"))
            return
        with self._registry.change(
            actor="kernel",
            action="advance_rollout",
            subject=row.endpoint,
            details=_told(row, after),
        ) as change:
            self._write(change, row, after, actions)
        self._trace(row, after)
        self._reconciler.changed()

    def command(self, change: Change, rollout_id: str, command: str, reason: str) -> dict[str, Any]:
        """Carry out a person's `promote` or `abort` inside an open change; hold `deciding`.

        Raises:
            IllegalTransition: the rollout has ended, or its plan never promotes.
        """
        row = change.rollout(rollout_id)
        if row.status != "running":
            raise IllegalTransition(
                f"rollout {row.id} has ended: {row.status}, {row.reason}; start another one"
            )
        if command == "promote" and row.plan.get("kind") == "shadow":
            raise IllegalTransition(
                "a Shadow rollout is never promoted; start a Canary or BlueGreen rollout"
            )
        if command not in ("promote", "abort"):
            raise UsageError(f"unknown command {command[:40]!r}; use promote or abort")
        state = State.model_validate(row.state)
        facts = self._facts(row, state).model_copy(
            update={"command": command, "command_reason": f"{change.actor}: {reason}".rstrip(": ")}
        )
        after, actions = step(parse_plan(row.plan), state, None, facts, self._clock.now_s())
        change.note(**_told(row, after))
        self._write(change, row, after, actions)
        self._trace(row, after)
        return {"id": row.id, "stage": after.stage, "reason": after.reason}

    def _trace(self, row: RolloutRow, after: State) -> None:
        before = State.model_validate(row.state)
        self._traces.rollout_stage(row, before, after, _stage_name(before))

    def _facts(self, row: RolloutRow, state: State) -> Facts:
        app = self._reconciler.statuses().get(_app(row))
        replicas = self._observations.replicas(row.endpoint)
        plan = self._registry.plan(row.endpoint)
        # A refusal of a plan from before this rollout says nothing about its challenger.
        ours = plan is not None and plan.era == state.era
        refused = next((replica.refused for replica in replicas if ours and replica.refused), None)
        failed = failure_reason(app.message) if app is not None and app.failed else refused
        approved, rejected = self._answers(row, state)
        return Facts(
            approved=approved,
            rejected=rejected,
            challenger_ready=app is not None and app.ready and refused is None,
            challenger_failed=failed,
            plan_live=bool(replicas)
            and plan is not None
            and all(replica.revision >= plan.revision for replica in replicas),
        )

    def _refused(self, row: RolloutRow, state: State) -> str | None:
        """Why a version that answers users now may do so no longer; None if it may."""
        if state.stage not in ("canary", "baking"):
            return None
        model = self._registry.endpoint(row.endpoint).spec.model
        found = guard(self._registry, self._registry.version(f"{model}:{row.to_version}"))
        if found.allowed:
            return None
        return f"{model}:{row.to_version} may serve no longer: {'; '.join(found.missing)}"

    def _answers(self, row: RolloutRow, state: State) -> tuple[tuple[float, ...], str | None]:
        """The weights that people said yes to, and why the one asked for last was not approved."""
        approved: list[float] = []
        rejected = None
        for weight in parse_plan(row.plan).approve_before:
            requests = self._registry.approvals(_subject(row, weight))
            if not requests:
                continue
            now_s = self._clock.now_s()
            how = requests[-1].state(now_s)
            # What was approved in time stays so for this rollout: its traffic is there already.
            if len(requests[-1].approvers) >= requests[-1].needed and not requests[-1].rejected:
                approved.append(weight)
            elif how == "rejected" and weight == state.asked:
                no = next(one for one in requests[-1].decisions if one.answer == "rejected")
                rejected = f"{no.by}: {no.reason}"
            elif how == "expired" and weight == state.asked:
                rejected = "nobody answered in time"
        return tuple(approved), rejected

    def _ask(self, change: Change, row: RolloutRow, weight_fraction: float) -> None:
        spec = change.endpoint(row.endpoint).spec
        version = change.version(f"{spec.model}:{row.to_version}")
        subject = _subject(row, weight_fraction)
        told = f"{subject} {version.artifact.digest}"
        change.request_approval(
            ApprovalRequest(
                id=f"approval-{hashlib.sha256(told.encode()).hexdigest()[:12]}",
                subject=subject,
                name=version.name,
                version=version.version,
                digest=hashlib.sha256(told.encode()).hexdigest(),
                needed=1,
                author=row.created_by,
                requested_s=change.at_s,
                expires_s=change.at_s + APPROVAL_EXPIRES_S,
            )
        )

    def _write(self, change: Change, row: RolloutRow, after: State, actions: list[Action]) -> None:
        for action in actions:
            self._carry_out(change, row, action)
        finish = next((action for action in actions if isinstance(action, Finish)), None)
        change.save_rollout(
            row.id,
            finish.outcome if finish is not None else "running",
            after.model_dump(mode="json"),
            reason=after.reason,
            stage=_stage_name(after),
        )
        if finish is not None:
            until_s = self._clock.monotonic_s() + LINGER_S
            self._lingering[_app(row)] = (row, until_s)

    def _carry_out(self, change: Change, row: RolloutRow, action: Action) -> None:
        spec = change.endpoint(row.endpoint).spec
        old = change.version(f"{spec.model}:{row.from_version}")
        new = change.version(f"{spec.model}:{row.to_version}")
        if isinstance(action, SetTraffic):
            if action.arm != "shadow":
                change.require_clearance(new)
            challenger = Challenger(
                served=served(new),
                app=_app(row),
                arm="shadow" if action.arm == "shadow" else "canary",
                weight_fraction=action.weight_fraction,
            )
            plan = next_plan(change, spec, old, challenger=challenger, era=action.era, salt=row.id)
            change.publish(plan)
        elif isinstance(action, AskApproval):
            self._ask(change, row, action.weight_fraction)
        elif isinstance(action, Promote):
            change.put_endpoint(spec, new.version, cause="rollout")
            change.set_alias(spec.model, "stable", new.version)
            change.publish(next_plan(change, spec, new, era=action.era))
        elif isinstance(action, RollBack):
            stable = change.endpoint(row.endpoint).stable_version
            if stable != old.version:
                stable = self._go_back(change, row, old.version)
            version = change.version(f"{spec.model}:{stable}")
            change.publish(next_plan(change, spec, version))
        elif isinstance(action, Finish):
            newest = change.plan(row.endpoint)
            if newest is not None and newest.challenger is not None:
                change.publish(next_plan(change, spec, old))

    def _go_back(self, change: Change, row: RolloutRow, before: int) -> int:
        """Make stable what was stable before this rollout, or, if that served only because glass
        was broken, the last version that was cleared; where there is none, the promoted one
        stays. Returns what is stable now."""
        spec = change.endpoint(row.endpoint).spec
        for version in (before, change.rollback_target(row.endpoint)):
            if version is None:
                continue
            try:
                change.put_endpoint(spec, version, rejected=True, cause="rollback")
            except NotApproved as error:
                change.note(not_back_to=version, because=error.message)
                continue
            change.set_alias(spec.model, "stable", version)
            return version
        return change.endpoint(row.endpoint).stable_version

    def _write_evidence(self, row: RolloutRow, era: str, after: State) -> None:
        now_s = self._clock.monotonic_s()
        recent = now_s - self._wrote_evidence_s.get(row.id, -EVIDENCE_S) < EVIDENCE_S
        if not after.verdicts or (recent and not after.terminal):
            return
        self._wrote_evidence_s[row.id] = now_s
        payload = {"verdicts": _verdicts(after), "stage": _stage_name(after)}
        self._registry.add_evidence(row.id, era, self._clock.now_s(), payload)

    def view(self, row: RolloutRow) -> dict[str, Any]:
        """A rollout as users see it."""
        state = State.model_validate(row.state)
        return {
            "id": row.id,
            "endpoint": row.endpoint,
            "from_version": row.from_version,
            "to_version": row.to_version,
            "plan": row.plan,
            "status": row.status,
            "stage": _stage_name(state),
            "reason": state.reason or row.reason,
            "rule": state.rule,
            "weight_fraction": state.weight_fraction,
            "verdicts": _verdicts(state),
            "harmed_since_s": state.harmed_since_s,
            "created_s": row.created_s,
            "finished_s": row.finished_s,
            "created_by": row.created_by,
        }


def _app(row: RolloutRow) -> str:
    return challenger_app_name(row.endpoint, row.to_version, row.id)


def _subject(row: RolloutRow, weight_fraction: float) -> str:
    """What people say yes to when a rollout wants its next share of the traffic."""
    return f"{row.id}@{weight_fraction:g}"


def _verdicts(state: State) -> list[dict[str, Any]]:
    return [
        {"rule": rule, **verdict.model_dump(mode="json")}
        for rule, verdict in state.verdicts.items()
    ]


def _told(row: RolloutRow, after: State) -> dict[str, Any]:
    return {
        "rollout": row.id,
        "stage": _stage_name(after),
        "reason": after.reason,
        "verdicts": {rule: verdict.state for rule, verdict in after.verdicts.items()},
    }


def _stage_name(state: State) -> str:
    if state.stage == "canary":
        return f"canary {state.weight_fraction:.0%}"
    return state.outcome or state.stage
