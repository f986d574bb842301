"""Steps that reserve what no node has: they wait for a node, but not for ever."""

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest

import aios
from aios.flows import on_ray
from aios.flows.writing import Step, StepOptions

NODES = [
    {"Alive": True, "Resources": {"CPU": 2.0}},
    {"Alive": True, "Resources": {"CPU": 1.0, "GPU": 1.0}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


class Task:
    """A task of Ray's that somebody may end."""

    def __init__(self) -> None:
        self.ends: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.ends


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(on_ray, "PLACED_S", 0.05)
    monkeypatch.setattr(on_ray.ray, "nodes", lambda: NODES)
    monkeypatch.setattr(on_ray.ray, "cancel", lambda task, force: found.append(task))
    return found


def step(**reserved: float) -> Step:
    return Step(step, StepOptions(**reserved))


@pytest.mark.parametrize(
    "reserved", [{"num_cpus": 64}, {"num_gpus": 2}, {"num_cpus": 2, "num_gpus": 1}]
)
def test_a_step_that_no_node_could_take_fails(
    cancelled: list[Any], reserved: dict[str, float]
) -> None:
    task = Task()
    with pytest.raises(aios.PermanentError, match="the most of any node are 2 CPUs and 1 GPUs"):
        asyncio.run(on_ray._placed(task, step(**reserved)))
    assert cancelled == [task]


def test_a_step_that_some_node_could_take_is_waited_for(cancelled: list[Any]) -> None:
    task = Task()

    async def soon() -> Any:
        asyncio.get_running_loop().call_later(0.3, task.ends.set_result, {"value": 1})
        return await on_ray._placed(task, step(num_cpus=2))

    assert asyncio.run(soon()) == {"value": 1}
    assert cancelled == []
