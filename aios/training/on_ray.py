"""Thin Ray shell: the stages of a run in a process of its own, started for it and ended with it."""

import contextlib
import threading
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from aios.errors import (
    AiosError,
    DeadlineExceeded,
    IllegalTransition,
    ModelFailed,
    UsageError,
    from_problem,
)
from aios.monitoring.recorded import find_answer, find_answers, write_feedback
from aios.monitoring.tidying import keys_in_use, tidy
from aios.records import CodeSource, ModelVersion, Record, RunSpec
from aios.records.cost import Owner
from aios.records.watching import RowQuestion
from aios.security.keyring import Keyring
from aios.telemetry.on_ray import metered_as
from aios.telemetry.processes import worked_for_others
from aios.telemetry.runs import of_stage
from aios.telemetry.traces import Tracer
from aios.training.explaining import explain_answer
from aios.training.pipeline import run_stage
from aios.training.row_comparison import compare_recorded
from aios.training.search import check_room, free_cores, share
from aios.training.workspace import Workspace

ATTEMPTS = 3
"""How often a stage is begun when its process dies: of a lost node, or of its own doing."""
NEED_KEYS = ("snapshot", "refit")
"""Stages that read the prediction log, or hash private fields."""
TIDY_S = 3600.0
GONE_S = 3.0
"""After this time a process that was killed reserves nothing more."""
_PREFIX = "aios-run-"
EXPLAIN_S = 60.0
"""Bound of looking an answer up and of explaining it; a new process takes 5 s to be there."""


class StageActor:
    """Carries out stages, one after the other: what one imported the next has.

    An actor, because what a stage starts (trials, their reservations) ends with it.
    """

    def __init__(self, otlp_endpoint: str | None) -> None:
        self._tracer = Tracer(otlp_endpoint, "aios-run")

    def run(
        self,
        stage: str,
        spec: dict[str, Any],
        results: dict[str, Any],
        workspace: Workspace,
        extra: dict[str, Any],
        run_id: str,
        keyring: Keyring | None = None,
    ) -> dict[str, Any]:
        """`{"result": ...}`, or `{"problem": ...}` for an error raised on purpose."""
        asked = RunSpec.model_validate(spec)
        above = of_stage(run_id, asked.cause, stage)
        metered = metered_as(Owner("training", run=workspace.run))
        try:
            with self._tracer.span(f"{stage} in its process", above, {"aios.run": run_id}):
                found = run_stage(stage, asked, results, workspace, extra, keyring)
        except AiosError as error:
            return {"problem": error.to_problem()}
        finally:
            metered.tell()
            self._tracer.close()  # the process may be ended next
        return {"result": found}


def _told(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What a function found, as JSON; see `StageActor.run`."""
    try:
        found = function(*arguments)
    except AiosError as error:
        return {"problem": error.to_problem()}
    finally:
        worked_for_others()
    return {"result": found.model_dump(mode="json") if isinstance(found, Record) else found}


_ASKED = ray.remote(num_cpus=0, max_retries=1)(_told)
"""Made once: each one that is made stays in Ray's control store."""


@dataclass
class _Process:
    """A run's actor, and whether somebody ended it."""

    actor: Any
    cancelled: bool = False


class Workbench:
    """Runs stages as Ray actors, one per run. Ray must be initialised; threads may share it.

    Args:
        runs_url: the folder in which every run has its own, named by its id.
        artifacts_url, log_url: the stores; see `Workspace`.
        cache: a local folder on every node.
        otlp_endpoint: takes spans of the stages; None for none.
    """

    def __init__(
        self,
        runs_url: str,
        artifacts_url: str,
        log_url: str,
        cache: str | Path,
        otlp_endpoint: str | None = None,
    ) -> None:
        self._runs_url = runs_url.rstrip("/")
        self._artifacts_url = artifacts_url
        self._log_url = log_url
        self._cache = str(cache)
        self._otlp_endpoint = otlp_endpoint
        self._lock = threading.Lock()
        self._processes: dict[str, _Process] = {}
        self._cancelled: set[str] = set()
        self._keyring: Callable[[], Keyring | None] = lambda: None

    def use_keys(self, keyring: Callable[[], Keyring]) -> None:
        """The keys of the prediction log: given to the processes that read or write it, and to
        those alone."""
        self._keyring = keyring

    def workspace(self, run_id: str) -> Workspace:
        """The run's folder."""
        return Workspace(
            url=f"{self._runs_url}/{run_id}",
            artifacts_url=self._artifacts_url,
            cache=self._cache,
            log_url=self._log_url,
        )

    def trials(self, run_id: str) -> list[dict[str, Any]]:
        """The trials of a run so far, as `records.Trial` has them."""
        return [trial.model_dump(mode="json") for trial in self.workspace(run_id).trials()]

    def run(
        self, run_id: str, stage: str, spec: RunSpec, results: dict[str, Any], extra: dict[str, Any]
    ) -> dict[str, Any]:
        """Carry out one stage and return its result as JSON.

        Raises:
            IllegalTransition: the run was cancelled meanwhile.
            ModelFailed: the stage's process died each time it was begun.
            AiosError: whatever the stage raised.
        """
        keyring = self._keyring() if stage in NEED_KEYS else None
        told, folder = spec.model_dump(mode="json"), self.workspace(run_id)
        arguments = (stage, told, results, folder, extra, run_id, keyring)
        # It fits in its own process and, for that, reserves what a trial does.
        alone = stage == "refit" and (spec.gpus or spec.memory_limit_bytes or spec.cpus > 1)
        for _ in range(ATTEMPTS):
            process = self._process(run_id, spec if alone else None)
            try:
                answer = ray.get(process.actor.run.remote(*arguments))
            except ray.exceptions.RayActorError:
                self._drop(run_id, process)
                if process.cancelled:
                    raise IllegalTransition(f"run {run_id} was cancelled in {stage}") from None
                continue
            except ray.exceptions.RayTaskError as error:
                raise ModelFailed(f"{stage} failed unexpectedly: {error.cause!r:.500}") from error
            if alone or stage == "assess" or "problem" in answer:
                self._end(run_id)
            if "problem" in answer:
                raise from_problem(answer["problem"])
            found: dict[str, Any] = answer["result"]
            return found
        limit = spec.memory_limit_bytes
        raise UsageError(
            f"the process of {stage} ended {ATTEMPTS} times; the recipe most likely wants more "
            f"memory than {'there is' if limit is None else f'its {limit:,} bytes'}: read "
            "train.batches() instead of train.frame(), or raise the limit"
        )

    def cancel(self, run_id: str) -> None:
        """End what runs for this run, and begin nothing more for it until `release`."""
        with self._lock:
            self._cancelled.add(run_id)
        self._end(run_id)

    def release(self, run_id: str) -> None:
        """The run is over, or left to the next kernel: end its process, forget about it."""
        self._end(run_id)
        with self._lock:
            self._cancelled.discard(run_id)

    def _end(self, run_id: str) -> None:
        with self._lock:
            process = self._processes.pop(run_id, None)
        if process is not None:
            process.cancelled = True
            _kill(process.actor)

    def find_answer(self, endpoints: Collection[str], request_id: str, row: int) -> dict[str, Any]:
        """One answer in the prediction log; see `monitoring.recorded`.

        Raises:
            UnknownName: it is not there.
            StoreUnavailable, DeadlineExceeded: the log cannot be read now.
        """
        asked = (self._log_url, list(endpoints), request_id, row, self._keyring())
        return _asked("find_answer", find_answer, *asked)

    def find_answers(
        self, endpoint: str, request_ids: Collection[str], inputs: Collection[str] = ()
    ) -> dict[str, dict[str, Any]]:
        """Answers in the prediction log; see `monitoring.recorded`."""
        asked = (self._log_url, endpoint, list(request_ids), list(inputs), self._keyring())
        return _asked("find_answers", find_answers, *asked)

    def write_feedback(self, endpoint: str, entries: Sequence[dict[str, Any]]) -> None:
        """Append feedback to its Delta table; see `monitoring.recorded`."""
        asked = (self._log_url, endpoint, list(entries), self._keyring())
        _asked("write_feedback", write_feedback, *asked)

    def tidy(
        self,
        endpoint: str,
        keep_days: float | None,
        pinned: Sequence[tuple[int | None, int | None]],
    ) -> dict[str, Any]:
        """Tidy an endpoint's log; see `monitoring.tidying`.

        Raises:
            StoreUnavailable, DeadlineExceeded: it cannot be done now.
        """
        asked = (self._log_url, endpoint, keep_days, self._keyring(), list(pinned))
        return _asked("tidy", tidy, *asked, timeout_s=TIDY_S)

    def keys_in_use(self, endpoints: Sequence[str]) -> dict[str, list[str]]:
        """The ids of the keys that rows are under, by endpoint; see `monitoring.tidying`."""
        return _asked("keys_in_use", keys_in_use, self._log_url, list(endpoints))

    def compare_rows(self, question: dict[str, Any]) -> dict[str, Any]:
        """A `RowQuestion`'s `RowComparison`; see `training.row_comparison`.

        Raises:
            StoreUnavailable: the log cannot be read now.
            ModelFailed, DeadlineExceeded: the process that compares died, or takes too long.
        """
        asked = RowQuestion.model_validate(question)
        run = None if asked.run is None else self.workspace(asked.run)
        baseline = self.workspace(f"baselines/{asked.endpoint}-{asked.version}")
        given = (asked, self._log_url, run, baseline, self._keyring())
        return _asked("compare_rows", compare_recorded, *given)

    def explain(
        self, run_id: str, version: dict[str, Any], inputs: dict[str, Any], recipe: CodeSource
    ) -> dict[str, Any]:
        """Why a version answers so, against rows of a run, as `training.explaining.Reasons`.

        Raises:
            ModelFailed, DeadlineExceeded: the process that asks the model died, or hangs.
        """
        told = ModelVersion.model_validate(version)
        return _asked("explain", explain_answer, told, inputs, recipe, self.workspace(run_id))

    def _process(self, run_id: str, alone: RunSpec | None) -> _Process:
        """The run's process; a new one with what a trial reserves where `alone` is given.

        Raises:
            IllegalTransition: the run was cancelled.
        """
        needs: dict[str, Any] = {"num_cpus": 0}
        if alone is not None:
            self._end(run_id)
            check_room(alone.cpus, alone.gpus)
            cores = share(alone.cpus, free_cores())[1]
            needs = {"num_cpus": cores, "num_gpus": alone.gpus}
        with self._lock:
            if run_id in self._cancelled:
                raise IllegalTransition(f"run {run_id} was cancelled")
            if run_id not in self._processes:
                self._processes[run_id] = _Process(_start_actor(run_id, needs, self._otlp_endpoint))
            return self._processes[run_id]

    def _drop(self, run_id: str, process: _Process) -> None:
        with self._lock:
            if self._processes.get(run_id) is process:
                del self._processes[run_id]


def _start_actor(run_id: str, needs: dict[str, Any], otlp_endpoint: str | None) -> Any:
    """A fresh process of a run; those that a former kernel left are ended first.

    Detached, because Ray gives back what an actor's trials reserve only if the actor is, or at
    the end of the whole job, which is the kernel's.
    """
    prefix = f"{_PREFIX}{run_id}-"
    for name in ray.util.list_named_actors():
        if name.startswith(prefix):
            with contextlib.suppress(ValueError):  # it ended meanwhile
                _kill(ray.get_actor(name))
    options = {"lifetime": "detached", "name": prefix + uuid.uuid4().hex[:8], "max_restarts": 0}
    return ray.remote(StageActor).options(**options, **needs).remote(otlp_endpoint)


def _kill(actor: Any) -> None:
    """End an actor; what it reserved comes back at once, or a moment later.

    Ray takes an actor for dead before its process is. What that reserves in between, for the next
    trial, would stay reserved for ever: of 15 that did nothing but reserve, 10 left something.
    """
    ray.kill(actor)
    later = threading.Timer(GONE_S, _give_back)
    later.daemon = True
    later.start()


def _give_back() -> None:
    """Release what dead actors reserved and Ray did not; its public interface has no creators."""
    from ray._private.state import state
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    if not ray.is_initialized():
        return
    table = gcs_pb2.PlacementGroupTableData
    for stored in state._connect_and_get_accessor().get_placement_group_table():
        one = table.FromString(stored)
        if one.state == table.REMOVED or one.is_detached:
            continue
        if state.actor_table(one.creator_actor_id.hex()).get("State") == "DEAD":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(one.placement_group_id)))


def _asked(
    name: str, function: Callable[..., Any], *arguments: Any, timeout_s: float = EXPLAIN_S
) -> dict[str, Any]:
    """Call a function in a process of Ray's, which is reused by the next such call.

    Raises:
        AiosError: whatever the function raised.
        ModelFailed: its process died.
        DeadlineExceeded: it takes longer than `timeout_s`; it is ended.
    """
    pending = _ASKED.options(name=name).remote(function, *arguments)
    try:
        answer = ray.get(pending, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(pending, force=True)
        raise DeadlineExceeded(f"{name} took longer than {timeout_s:.0f} s and was ended") from None
    except ray.exceptions.RayError as error:
        raise ModelFailed(f"{name} failed unexpectedly: {error!s:.500}") from error
    if "problem" in answer:
        raise from_problem(answer["problem"])
    found: dict[str, Any] = answer["result"]
    return found
