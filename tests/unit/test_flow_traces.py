"""Flows as a collector sees them: one trace for a flow, its steps and its children."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sample_flows as sample
from flow_worlds import FlowWorld, Host

from aios.flows.worker import FlowWorker
from tests.trace_collector import Received, attributes, collector

Traced = tuple[FlowWorld, FlowWorker, Received]


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    world = FlowWorld(tmp_path)
    with collector() as (address, received):
        worker = FlowWorker(world.place, "traced", Host(), otlp_endpoint=address)
        worker.launch()
        yield world, worker, received
        worker.close()
    world.close()


def spans(traced: Traced) -> list[Any]:
    """Each is there once."""
    _, worker, received = traced
    worker._tracer.flush()
    found = [span for service, span in received if service == "aios-flows"]
    assert len({span.span_id for span in found}) == len(found)
    return found


def test_a_flow_its_steps_and_its_children_are_one_trace(traced: Traced) -> None:
    world, _, _ = traced
    world.begin(sample.parent, "family-1", world.ledger, "f1")
    world.wait("family-1")
    found = spans(traced)
    flows = {span.name: span for span in found if span.name.startswith("flow ")}
    assert set(flows) == {"flow parent", "flow broken", "flow order"}
    root = flows.pop("flow parent")
    assert root.parent_span_id == b""
    assert {span.trace_id for span in found} == {root.trace_id}
    assert {child.parent_span_id for child in flows.values()} == {root.span_id}
    told = attributes(root)
    assert (told["aios.flow"], told["aios.definition"]) == ("family-1", "parent:1")
    assert told["enduser.id"] == "ann"
    steps = [span for span in found if span.name.startswith("step ")]
    above = {span.parent_span_id for span in steps}
    assert above == {root.span_id, *(child.span_id for child in flows.values())}
    assert len([span for span in steps if span.name == "step ship"]) == 2
    for span in steps:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano


def test_what_failed_says_why_and_what_was_undone_is_there(traced: Traced) -> None:
    world, _, _ = traced
    world.begin(sample.broken, "broken-1", world.ledger, "b1")
    assert world.wait("broken-1")["status"] == "failed"
    found = spans(traced)
    failed = {span.name: span.status.message for span in found if span.status.code == 2}
    assert set(failed) == {"flow broken", "step refuse", "step undo book"}
    assert "order b1 is declined" in failed["step refuse"]
    assert len([span for span in found if span.name == "step undo charge"]) == 2


def test_a_collector_that_is_gone_costs_a_flow_nothing(tmp_path: Path) -> None:
    world = FlowWorld(tmp_path)
    worker = FlowWorker(world.place, "untold", Host(), otlp_endpoint="http://127.0.0.1:9")
    worker.launch()
    try:
        world.begin(sample.order, "order-t", world.ledger, "t1", 0.01)
        assert world.wait("order-t")["status"] == "finished"
    finally:
        worker.close()
        world.close()
