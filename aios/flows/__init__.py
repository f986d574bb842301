"""Durable flows on DBOS: a function that a crash interrupts goes on where it was.

For: `kernel`, whose own flows (rollouts, runs) `FlowEngine` drives, and users, who write flows
with `flow`, `step`, `sleep` and `ask`; those run in workers, with a database of their own.
Invariants: steps run at least once, so each carries an operation id of its own; what is stored is
JSON, never a pickle; a flow id runs once; a flow goes on with the text it began with; who has
no lease begins no step and writes nothing down. Must not know: what the flows do.
"""

from aios.flows.durable import FlowEngine, FlowInterrupted, Flows
from aios.flows.writing import Flow, Step, ask, flow, operation_id, sleep, step

__all__ = [
    "Flow",
    "FlowEngine",
    "FlowInterrupted",
    "Flows",
    "Step",
    "ask",
    "flow",
    "operation_id",
    "sleep",
    "step",
]
