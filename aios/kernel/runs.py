"""Carries out training runs: one stage after the other, each written down when it is done.

Each run is one durable flow. The truth is the run's row, which holds what every finished stage
gave: a kernel that was killed starts the stage again that was going on, and stages can be run
again. Only `register` touches what users can see, in one transaction.
"""

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from aios.clock import Clock
from aios.contracts import Contract, compatibility
from aios.errors import (
    AiosError,
    IllegalTransition,
    PermanentError,
    TemporaryError,
    UnknownName,
    UsageError,
)
from aios.flows import FlowInterrupted, Flows
from aios.kernel.clearing import policy_of
from aios.kernel.flow_traces import FlowTraces
from aios.kernel.registering import refuse_prohibited, register, void_reason
from aios.kernel.stages import ASSESSED, REPRODUCED, next_stage, stages_of, status_with
from aios.kernel.traffic import served
from aios.records import (
    CodeSource,
    EndpointSpec,
    ModelVersion,
    RunSpec,
    RunStatus,
    TrainingRun,
)
from aios.registry import Registry
from aios.rollout import parse_plan
from aios.security.keyring import Keyring

AFTERWARDS = ("track", "rollout")
"""Stages after the version exists: what goes wrong in one is told, and fails no run."""
OURS = ("register", "rollout")
"""Stages of the kernel itself. They wait for its store as long as it takes: hours of training
are not given up for a full disk."""
RETRIES = 5
"""How often any other stage is begun again after an error that may pass: within a minute."""
PAUSE_S = 2.0
LONGEST_PAUSE_S = 30.0
LOOK_S = 5.0
"""How often a run that waits for people looks whether their answer came too late."""

logger = logging.getLogger("aios.kernel")


class Workbench(Protocol):
    """Where stages run; Ray tasks in production."""

    def run(
        self, run_id: str, stage: str, spec: RunSpec, results: dict[str, Any], extra: dict[str, Any]
    ) -> dict[str, Any]:
        """Carry out one stage and return its result as JSON.

        Raises:
            AiosError: it cannot be done.
        """
        ...

    def trials(self, run_id: str) -> list[dict[str, Any]]:
        """The trials of a run so far, as `records.Trial` has them."""
        ...

    def cancel(self, run_id: str) -> None:
        """End what runs for this run, and begin nothing more for it."""
        ...

    def release(self, run_id: str) -> None:
        """The run is over or left to the next kernel: end its process, forget about it."""
        ...

    def use_keys(self, keyring: Callable[[], Keyring]) -> None:
        """The keys of the prediction log, as they are whenever they are needed."""
        ...

    def tidy(
        self,
        endpoint: str,
        keep_days: float | None,
        pinned: Sequence[tuple[int | None, int | None]],
    ) -> dict[str, Any]:
        """Tidy an endpoint's log; see `monitoring.tidying`."""
        ...

    def keys_in_use(self, endpoints: Sequence[str]) -> dict[str, list[str]]:
        """The ids of the keys that rows are under, by endpoint; see `monitoring.tidying`."""
        ...

    def find_answer(self, endpoints: Collection[str], request_id: str, row: int) -> dict[str, Any]:
        """One answer in the prediction log; see `monitoring.recorded`.

        Raises:
            UnknownName: it is not there.
        """
        ...

    def find_answers(
        self, endpoint: str, request_ids: Collection[str], inputs: Collection[str] = ()
    ) -> dict[str, dict[str, Any]]:
        """Answers in the prediction log by request id; see `monitoring.recorded`."""
        ...

    def compare_rows(self, question: dict[str, Any]) -> dict[str, Any]:
        """Recorded rows beside those of the training; see `training.row_comparison`."""
        ...

    def write_feedback(self, endpoint: str, entries: Sequence[dict[str, Any]]) -> None:
        """Append feedback to its Delta table; see `monitoring.recorded`."""
        ...

    def explain(
        self, run_id: str, version: dict[str, Any], inputs: dict[str, Any], recipe: CodeSource
    ) -> dict[str, Any]:
        """Why a version answers so, against rows of a run; see `training.explaining.Reasons`."""
        ...


class RunDriver:
    """Drives every training run that has not ended.

    Args:
        workbench: what carries out the stages that need data, models or code of users.
        start_rollout: begins a rollout on behalf of an identity: (endpoint, version, plan,
            identity, operation id) -> the rollout's id.
    """

    def __init__(
        self,
        registry: Registry,
        workbench: Workbench,
        flows: Flows,
        clock: Clock,
        start_rollout: Callable[[str, str, dict[str, Any], str, str], str],
        traces: FlowTraces,
    ) -> None:
        self._registry = registry
        self._workbench = workbench
        self._flows = flows
        self._clock = clock
        self._start_rollout = start_rollout
        self._traces = traces
        self._closed = threading.Event()
        self._woken: dict[str, threading.Event] = {}
        self._stage_step = flows.step("run_stage", self._carry_out_stage)
        self._flow = flows.flow("run", self._drive)

    def start(self) -> None:
        """Go on with what a former kernel left; flows must be launched."""
        for run in self._registry.active_runs():
            self.drive(run.id)

    def close(self) -> None:
        """Leave every run where it is; the next kernel goes on with it."""
        self._closed.set()
        for run_id, event in list(self._woken.items()):
            event.set()
            self._workbench.cancel(run_id)

    def drive(self, run_id: str) -> None:
        """Start the run's flow, once."""
        self._flows.start(self._flow, run_id, flow_id=run_id)

    def cancelled(self, run_id: str) -> None:
        """The run's row says that it was cancelled: end what runs for it."""
        self._workbench.cancel(run_id)
        self.wake(run_id)

    def wake(self, run_id: str | None = None) -> None:
        """Something changed that a run may wait for, such as an approval."""
        for waiting, event in list(self._woken.items()):
            if run_id in (None, waiting):
                event.set()

    def view(self, run: TrainingRun) -> dict[str, Any]:
        """A run as users see it, with its trials so far."""
        stages = stages_of(run.spec)
        return {
            **run.model_dump(mode="json", exclude={"spec", "results"}),
            "error": run.error or _afterwards(run),
            "stages": list(stages),
            "done": [stage for stage in stages if stage in run.results],
            "trials": self._workbench.trials(run.id) if "split" in run.results else [],
            "metrics": run.results.get("refit", {}).get("metrics", {}),
            "config": run.results.get("search", {}).get("config"),
            "metric": run.results.get("search", {}).get("metric"),
            "mode": run.results.get("search", {}).get("mode"),
            "version": run.results.get("register", {}).get("version", run.version),
            "rollout": run.results.get("rollout", {}).get("rollout"),
            "spec": run.spec.model_dump(
                mode="json", exclude={"environment", "contract", "tracking_uri"}
            ),
        }

    # -- the flow ---------------------------------------------------------------------

    def _drive(self, run_id: str) -> str:
        """Durable: one checkpointed step per stage, until the run is over."""
        event = self._woken.setdefault(run_id, threading.Event())
        try:
            while True:
                try:
                    run = self._registry.run(run_id)
                    stage = next_stage(run)
                    if stage is None:
                        self._traces.run(run)
                        return run.status
                    self._stage_step(run_id, stage)
                except UnknownName:
                    # An older copy of the store was put back, and with it the run is gone.
                    return "unknown"
                except Exception:
                    # A checkpoint could not be stored, say. A flow that raises never runs
                    # again, and the truth is the row: look again.
                    logger.exception("run %s: a stage was not checkpointed", run_id)
                    event.wait(PAUSE_S)
                    self._leave_if_closed()
        finally:
            self._woken.pop(run_id, None)
            self._workbench.release(run_id)

    def _carry_out_stage(self, run_id: str, stage: str) -> str:
        """One stage, with its outcome in the row: its result, or the end of the run."""
        event = self._woken[run_id]
        failures = 0
        started_s = self._clock.now_s()
        while True:
            event.clear()
            self._leave_if_closed()
            try:
                if self._attempt(run_id, stage, last=failures >= RETRIES):
                    self._traces.run_stage(run_id, stage, started_s, failures + 1)
                return stage
            except TemporaryError as error:
                logger.warning("run %s: %s is begun again: %s", run_id, stage, error.message)
                event.wait(min(PAUSE_S * 2**failures, LONGEST_PAUSE_S))
                failures += 1

    def _attempt(self, run_id: str, stage: str, last: bool) -> bool:
        """Whether the stage was still to be done. Raises TemporaryError: nothing has happened,
        begin the stage again later."""
        run = self._registry.run(run_id)
        if next_stage(run) != stage:
            return False
        if not self._registry.save_run_progress(run.id, stage, run.results):
            return False
        try:
            if stage == "register":
                register(self._registry, run)
                return True
            result = self._result_of(run, stage)
        except AiosError as error:
            self._leave_if_closed()
            if isinstance(error, TemporaryError) and (stage in OURS or not last):
                raise
            self._give_up(run, stage, error)
        except Exception as error:
            logger.exception("run %s: %s failed unexpectedly", run.id, stage)
            told = f"unexpected {type(error).__name__}: {error!s:.500}; the kernel's log has more"
            self._give_up(run, stage, PermanentError(told))
        else:
            try:
                self._finish(run, stage, result)
            except TemporaryError:
                raise
            except AiosError as error:
                self._give_up(run, stage, error)
        return True

    def _result_of(self, run: TrainingRun, stage: str) -> dict[str, Any]:
        if stage == "rollout":
            return self._roll_out(run)
        as_of_s = self._clock.now_s()
        extra = self._facts(run) if stage in ("assess", "track") else {}
        result = self._workbench.run(run.id, stage, run.spec, run.results, extra)
        return {**result, "as_of_s": as_of_s} if stage == "assess" else result

    def _finish(self, run: TrainingRun, stage: str, result: dict[str, Any]) -> None:
        results = {**run.results, stage: result}
        status = status_with(run.spec, results)
        if status == "running":
            self._registry.save_run_progress(run.id, stage, results)
        else:
            self._end(run, status, stage, results, None)

    def _give_up(self, run: TrainingRun, stage: str, error: AiosError) -> None:
        if stage in AFTERWARDS:
            self._finish(run, stage, {"error": error.message})
        else:
            self._end(run, "failed", stage, run.results, f"{stage}: {error.message}")

    def _end(
        self,
        run: TrainingRun,
        status: RunStatus,
        stage: str,
        results: dict[str, Any],
        error: str | None,
    ) -> None:
        details = {"run": run.id, "status": status, "error": error, "version": run.version}
        try:
            with self._registry.change(
                actor="kernel", action="end_run", subject=run.model, details=details
            ) as change:
                change.save_run(run.id, status, stage, results, error=error)
        except IllegalTransition:
            logger.info("run %s was cancelled while it was in %s", run.id, stage)

    def _leave_if_closed(self) -> None:
        if self._closed.is_set():
            raise FlowInterrupted("the kernel is closing; the next one goes on")

    # -- what the kernel adds ---------------------------------------------------------

    def _facts(self, run: TrainingRun) -> dict[str, Any]:
        """What the gates are run against, as it is now."""
        registry = self._registry
        profile = registry.profile(run.model)
        policy = policy_of(registry)
        tier_name, tier = policy.tier_of(profile.use)
        stable = self._stable(run)
        endpoints = [one.spec for one in registry.endpoints() if one.spec.model == run.model]
        assessed = None if run.spec.assesses is None else registry.version(run.spec.assesses)
        return {
            "run": run.id,
            "by": run.created_by,
            "profile": profile.model_dump(mode="json"),
            "policy": {
                "name": policy.name,
                "digest": policy.digest,
                "tier": tier_name,
                "article": policy.uses[profile.use].article if profile.use in policy.uses else "",
            },
            "gates": dict(tier.gates),
            "stable": None
            if stable is None
            else {"ref": stable.ref, **served(stable).model_dump(mode="json")},
            "deadline_s": min(
                (spec.deadline_s for spec in endpoints),
                default=EndpointSpec(name=run.model, model=run.model).deadline_s,
            ),
            "version": None if assessed is None else assessed.model_dump(mode="json"),
        }

    def _stable(self, run: TrainingRun) -> ModelVersion | None:
        """The version that a candidate is compared with: what the endpoint of its rollout
        serves, else what any serves; while none is deployed, what did last and was not taken
        back, so that to remove an endpoint makes no gate easier."""
        good = [one for one in self._registry.servings_of(run.model) if not one.bad]
        now = [one for one in good if one.until_s is None]
        wanted = None if run.spec.rollout is None else run.spec.rollout.get("endpoint")
        serving = [one for one in now if one.endpoint == wanted] or now or good
        if not serving:
            return None
        found = self._registry.version(f"{run.model}:{serving[-1].version}")
        return None if run.spec.assesses == found.ref else found

    def _roll_out(self, run: TrainingRun) -> dict[str, Any]:
        """Wait until the version may serve, however long that takes, then begin its rollout."""
        wanted, told = run.spec.rollout, run.results["register"]
        if wanted is None or not told["passed"]:
            return {"rollout": None}
        refused = self._await_approval(run, told["request"]) if told["request"] else None
        if refused is not None:
            return {"rollout": None, "reason": refused}
        started = self._start_rollout(
            wanted["endpoint"],
            told["ref"],
            wanted["plan"],
            run.created_by,
            f"{run.id}-rollout",
        )
        return {"rollout": started}

    def _await_approval(self, run: TrainingRun, request_id: str) -> str | None:
        """None once the request is approved, else why it never will be.

        Raises:
            IllegalTransition: the run was cancelled meanwhile.
        """
        event = self._woken[run.id]
        self._registry.save_run_progress(run.id, "waiting for approval", run.results)
        while True:
            event.clear()
            self._leave_if_closed()
            if self._registry.run(run.id).status != "running":
                raise IllegalTransition(f"run {run.id} was cancelled")
            request = self._registry.approval(request_id)
            state = request.state(self._clock.now_s())
            if state == "approved":
                return None
            if state != "waiting":
                return f"the approval was {state}"
            void = void_reason(self._registry, request)
            if void is not None:
                return void
            event.wait(LOOK_S)


def _afterwards(run: TrainingRun) -> str | None:
    """What went wrong once the version existed, which failed no run; None if nothing did."""
    results = ((stage, run.results.get(stage, {})) for stage in AFTERWARDS)
    told = ((stage, result.get("error") or result.get("reason")) for stage, result in results)
    return "; ".join(f"{stage}: {reason}" for stage, reason in told if reason) or None


def check_spec(registry: Registry, spec: RunSpec) -> None:
    """Refuse at once what could only fail later.

    Raises:
        UsageError: the use of the model is prohibited, the contract cannot be read, or the
            version could not be rolled out as asked.
        UnknownModel: the version to assess does not exist.
        UnknownEndpoint: that of the rollout does not exist.
    """
    contract = Contract.from_json(spec.contract)
    if spec.assesses is not None and registry.version(spec.assesses).name != spec.model:
        raise UsageError(f"{spec.assesses} is no version of the model {spec.model}")
    refuse_prohibited(policy_of(registry), spec.model, registry.profile(spec.model).use)
    if spec.rollout is not None:
        _check_rollout(registry, spec, spec.rollout, contract)


def _check_rollout(
    registry: Registry, spec: RunSpec, wanted: dict[str, Any], contract: Contract
) -> None:
    name = wanted.get("endpoint")
    if wanted.keys() != {"endpoint", "plan"} or not isinstance(name, str):
        raise UsageError("the rollout of a run is an endpoint's name and a plan, nothing else")
    if stages_of(spec) in (ASSESSED, REPRODUCED):
        raise UsageError("a run that trains nothing new starts no rollout; use rt.rollout")
    parse_plan(wanted["plan"])
    state = registry.endpoint(name)
    if state.spec.model != spec.model:
        raise UsageError(f"endpoint {name!r} serves the model {state.spec.model!r}")
    stable = registry.version(f"{state.spec.model}:{state.stable_version}")
    reasons = compatibility(Contract.from_json(stable.contract), contract)
    if reasons:
        raise UsageError(
            f"the new version could not replace {stable.ref} on {name!r}, its contract is "
            f"narrower: {'; '.join(reasons)}"
        )
