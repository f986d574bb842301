"""Durable flows on DBOS: a function that a crash interrupts goes on where it was.

For: `kernel` (rollouts today). Invariants: steps run at least once, so each carries an
operation id of its own; what is stored is JSON, never a pickle; a flow id runs once. Must
not know: what the flows do.
"""

from aios.flows.durable import FlowEngine, FlowInterrupted, Flows

__all__ = ["FlowEngine", "FlowInterrupted", "Flows"]
