"""`rt.measure` on a real endpoint: load on it, a measurement from it, a plan from that."""

from pathlib import Path
from typing import Any

import pytest

import aios
from aios.capacity.measurement import Measurement
from aios.capacity.planning import Demand, Node, plan
from aios.errors import IllegalTransition, UnknownEndpoint
from benchmarks import runtimes

ENDPOINT = "sized"


def test_an_endpoint_is_measured_and_planned_for(
    rt: aios.Runtime,
    toy_contract: aios.Contract,
    toy_frame: Any,
    toy_model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UnknownEndpoint, match="nowhere"):
        rt.measure("nowhere", p99_s=1)
    rt.models.register(ENDPOINT, toy_model, contract=toy_contract, sample=toy_frame)
    endpoint = rt.deploy(ENDPOINT, f"{ENDPOINT}:1")
    try:
        found = rt.measure(ENDPOINT, p99_s=2.0, seconds=0.5, steps=2)
        asked = sum(point.good for point in (found.light, *found.points))
        assert found.light.failed == 0, found.light.failures
        assert found.light.p99_s is not None
        assert found.full_per_s > 10
        assert (found.version, found.replicas) == (f"{ENDPOINT}:1", 1)
        assert found.machine["cores"]
        assert endpoint.status()["requests"] > asked, "the endpoint counted them itself"
        found.save(tmp_path / "sized.json")
        again = Measurement.read(tmp_path / "sized.json")
        answer = plan(again, Demand(found.full_per_s * 10, 2.0), Node(hour_price=0.1))
        assert answer.replicas > 5
        assert answer.month_cost is not None
        watch = rt.watch(ENDPOINT, drift="psi > 0.5 on any")
        try:
            with pytest.raises(IllegalTransition, match=rf"it is watched .*{ENDPOINT}"):
                rt.measure(ENDPOINT, p99_s=2.0)
        finally:
            watch.end()
        lent_and_taken_back(rt, monkeypatch)
    finally:
        rt.remove(ENDPOINT)


def lent_and_taken_back(rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark may borrow the runtime of its suite, and leaves its endpoints as they were."""
    monkeypatch.setitem(runtimes.SUITE, "runtime", str(rt.home))
    with runtimes.runtime() as lent:
        lent.deploy("borrowed", f"{ENDPOINT}:1", wait_s=0)
        assert {one["name"] for one in rt.status().endpoints} >= {ENDPOINT, "borrowed"}
    left = {one["name"] for one in rt.status().endpoints}
    assert ENDPOINT in left
    assert "borrowed" not in left
