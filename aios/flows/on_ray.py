"""Thin Ray shells: workers as detached actors, and steps that want resources as tasks."""

import asyncio
import logging
import os
import signal
import threading
from typing import Any

import ray

from aios.errors import ClusterUnavailable, DeadlineExceeded, PermanentError
from aios.errors import from_problem as error_of
from aios.flows.outcomes import Outcome, Outcomes
from aios.flows.place import Place
from aios.flows.steps import carry_out_step
from aios.flows.worker import FlowWorker
from aios.flows.writing import Step
from aios.records import CodeSource
from aios.records.acting import Definition
from aios.records.cost import Owner
from aios.telemetry.on_ray import Metered
from aios.telemetry.processes import InTurns, worked_for_others

NAMESPACE = "aios"
PLACED_S = 300.0
"""How long a step waits for a node that has what it reserves, where there is none. One takes
minutes to come."""
ANSWER_S = 15.0
"""How long the kernel may take to answer a worker; SQLite takes milliseconds."""
GOING_S = 6.0
"""A step's process that died is told after this time: if the whole runtime goes down, this worker
does before, and the step is begun again where the runtime comes back."""


class WorkerActor:
    """The process of a worker. It ends itself when its lease is over."""

    def __init__(
        self, place: Place, worker_id: str, kernel: str, otlp_endpoint: str | None
    ) -> None:
        logging.basicConfig(level=logging.WARNING)
        self._worker = FlowWorker(
            place,
            worker_id,
            KernelHost(kernel),
            elsewhere=in_a_task,
            lost=lambda: os._exit(1),
            otlp_endpoint=otlp_endpoint,
        )
        # Flows have an event loop of their own; this one is the actor's.
        launched = threading.Thread(target=self._worker.launch)
        launched.start()
        launched.join()
        if not self._worker.lease.held:
            raise RuntimeError(f"worker {worker_id} has no lease")
        Metered(Owner("flows"), changing=lambda: {"calls": dict(self._worker.steps)})

    async def stay(self) -> None:
        """Never returns: whoever waits for it is told when this process ends."""
        await asyncio.Event().wait()


class KernelHost:
    """The kernel, as workers ask it; see `worker.Host`.

    Args:
        name: of its actor.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def definition(self, ref: str) -> Definition:
        return Definition.model_validate(self._ask("definition", ref))

    def put_question(self, question: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("put_question", question)
        return found

    def answers(self, question_ids: list[str]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self._ask("answers", question_ids)
        return found

    def refuse_answer(self, question_id: str, problem: str) -> None:
        self._ask("refuse_answer", question_id, problem)

    def _ask(self, what: str, *arguments: Any) -> Any:
        try:
            kernel = ray.get_actor(self._name, namespace=NAMESPACE)
            answer = ray.get(kernel.ask_flows.remote(what, arguments), timeout=ANSWER_S)
        except (ValueError, ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as error:
            raise ClusterUnavailable("the control plane does not answer a flow") from error
        if "problem" in answer:
            raise error_of(answer["problem"])
        return answer["result"]


async def in_a_task(
    ref: str, source: CodeSource, step: Step, call: dict[str, Any], outcomes: Outcomes
) -> Outcome:
    """A step as a Ray task with what it reserves; see `running.Elsewhere`.

    Raises:
        DeadlineExceeded: it took longer than it may; its process is ended.
        PermanentError: its process died, or no node has what it reserves.
    """
    options = step.options
    reserved = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus, "max_retries": 0}
    task = ray.remote(_step_here).options(**reserved).remote(ref, source, step.name, call, outcomes)
    try:
        async with asyncio.timeout(options.timeout_s) as bound:
            found: Outcome = await _placed(task, step)
            return found
    except TimeoutError:
        if not bound.expired():
            raise
        ray.cancel(task, force=True)
        raise DeadlineExceeded(
            f"step {step.name} took longer than {options.timeout_s:g} s"
        ) from None
    except asyncio.CancelledError:
        ray.cancel(task, force=True)
        raise
    except ray.exceptions.RayError as error:
        await asyncio.sleep(GOING_S)
        raise PermanentError(f"the process of step {step.name} died: {error!s:.300}") from None


async def _placed(task: Any, step: Step) -> Any:
    """What a task gives. One that no node could ever take waits for one that can, which an
    autoscaler may bring, but not for ever."""
    waited = asyncio.ensure_future(asyncio.wrap_future(task.future()))
    while True:
        done, _ = await asyncio.wait([waited], timeout=PLACED_S)
        if done:
            return waited.result()
        missing = await asyncio.to_thread(_missing, step)
        if missing:
            ray.cancel(task, force=True)
            raise PermanentError(f"step {step.name} waited {PLACED_S:.0f} s in vain: {missing}")


def _missing(step: Step) -> str:
    """What a step reserves that no node has; empty if one has it."""
    wanted = {"CPU": step.options.num_cpus, "GPU": step.options.num_gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0.0) >= wanted[name] for name in wanted) for node in nodes):
        return ""
    most = [
        f"{max((node.get(one, 0.0) for node in nodes), default=0.0):g} {one}s" for one in wanted
    ]
    wants = f"num_cpus={wanted['CPU']:g}, num_gpus={wanted['GPU']:g}"
    return f"no node has {wants}; the most of any node are {' and '.join(most)}"


_TURNS = InTurns()
_metered: Metered | None = None


def _step_here(
    ref: str, source: CodeSource, name: str, call: dict[str, Any], outcomes: Outcomes
) -> Outcome:
    """A step in a process of Ray's, which may do steps of other flows before and after."""
    global _metered
    _metered = _metered or Metered(Owner("flows"), changing=_TURNS.told)
    # Ray would raise SystemExit in the middle of the step, as if that had called it.
    before = signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    gpus = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
    _TURNS.begin(ref, float(gpus))
    try:
        return carry_out_step(source, name, call, outcomes)
    finally:
        _metered.tell()  # the process may be gone before it would tell by itself
        _TURNS.end()
        worked_for_others()
        signal.signal(signal.SIGTERM, before)


class RayCrew:
    """Workers as detached actors: they outlive a kernel that dies. Ray must be initialised.

    Args:
        kernel: name of the kernel's actor.
        otlp_endpoint: takes spans of flows; None for none.
    """

    def __init__(self, place: Place, kernel: str, otlp_endpoint: str | None = None) -> None:
        self._place = place
        self._otlp_endpoint = otlp_endpoint
        self._kernel = kernel
        self._actors: dict[str, Any] = {}
        self._stays: dict[Any, str] = {}

    def start(self, worker_id: str) -> None:
        # SQLite is a file of the head's; PostgreSQL is reached from every node.
        where: dict[str, Any] = {"scheduling_strategy": "SPREAD"}
        if self._place.on_one_machine:
            where = {"resources": {"node:__internal_head__": 0.001}}
        actor = (
            ray.remote(WorkerActor)
            .options(
                name=worker_id,
                namespace=NAMESPACE,
                lifetime="detached",
                max_restarts=0,
                num_cpus=0,
                max_concurrency=8,
                **where,
            )
            .remote(self._place, worker_id, self._kernel, self._otlp_endpoint)
        )
        self._watch(worker_id, actor)

    def find(self, worker_id: str) -> bool:
        try:
            self._watch(worker_id, ray.get_actor(worker_id, namespace=NAMESPACE))
        except ValueError:
            return False
        return True

    def _watch(self, worker_id: str, actor: Any) -> None:
        self._actors[worker_id] = actor
        self._stays[actor.stay.remote()] = worker_id

    def ended(self, wait_s: float) -> set[str]:
        if not self._stays:
            threading.Event().wait(wait_s)
            return set()
        done, _ = ray.wait(list(self._stays), num_returns=1, timeout=wait_s)
        more, _ = ray.wait(list(self._stays), num_returns=len(self._stays), timeout=0)
        return {self._stays.pop(one) for one in {*done, *more}}

    def end(self, worker_id: str) -> None:
        actor = self._actors.pop(worker_id, None)
        if actor is not None:
            ray.kill(actor, no_restart=True)
