"""The checks that a version must pass, each a pure function with its source cited.

    GATES["fairness"].params(max=0.1)
    run_gates(candidate, context, {"quality": {"margin": 0.02}, "lending.gates:exposure": {}})

Called by: `training`, which runs them, and `policy`, which names them. Invariants: a gate
never raises through `run_gates`; what cannot be judged is `not_enough_data`; the same
candidate and context give the same result, but for `latency`, which measures this machine.
Must not know: policies, approvals, the registry.
"""

from aios.governance.gates.catalogue import GATES, GateKind, run_gates
from aios.governance.gates.own import is_own

__all__ = ["GATES", "GateKind", "is_own", "run_gates"]
