"""Whether a candidate answers in time, measured on its own engine."""

import time
from typing import Any

import numpy as np

from aios.contracts import Batch
from aios.errors import NotEnoughEvidence
from aios.governance.candidate import Candidate, Context
from aios.governance.gates.params import LatencyParams
from aios.governance.gates.verdicts import verdict
from aios.governance.scoring import frame_batch
from aios.models import Engine
from aios.records import GateResult

_WARM_RUNS = 10
_TIME_LIMIT_S = 10.0
"""So that a slow model cannot hold up the others; what was measured until then is judged."""


def judge_latency(candidate: Candidate, context: Context, params: LatencyParams) -> GateResult:
    """The p95 of one row through the engine, warmed, on rows of the holdout, on this machine.

    The limit is `budget_s`, or else `share` of the endpoint's deadline.
    """
    if params.budget_s is not None:
        limit_s = params.budget_s
    elif context.deadline_s is not None:
        limit_s = params.share * context.deadline_s
    else:
        raise NotEnoughEvidence(
            "there is no deadline to be within: set `budget_s` of the latency gate, or deploy an "
            "endpoint with a deadline"
        )
    if not len(candidate.holdout):
        raise NotEnoughEvidence("the holdout has no rows; give more data")
    batch = frame_batch(candidate.contract, candidate.holdout.iloc[: params.runs])
    times_s = _times_s(candidate.engine, batch, params.runs)
    p50_s, p95_s, p99_s = (float(np.quantile(times_s, q)) for q in (0.5, 0.95, 0.99))
    told = f"p95 of one row is {p95_s * 1e3:.2f} ms over {len(times_s)} runs"
    evidence: dict[str, Any] = {
        "runs": len(times_s),
        "p50_s": p50_s,
        "p99_s": p99_s,
        "deadline_s": context.deadline_s,
        "device": candidate.engine.device,
    }
    if p95_s > limit_s:
        reason = f"{told}; the limit is {limit_s * 1e3:.2f} ms"
        return verdict("latency", "failed", reason, p95_s, limit_s, **evidence)
    return verdict("latency", "passed", told, p95_s, limit_s, **evidence)


def _times_s(engine: Engine, batch: Batch, runs: int) -> list[float]:
    rows = [batch.slice(row, row + 1) for row in range(batch.rows)]
    until_s = time.perf_counter() + _TIME_LIMIT_S
    times_s: list[float] = []
    for run in range(_WARM_RUNS + runs):
        begin_s = time.perf_counter()
        engine.run(rows[run % len(rows)])
        end_s = time.perf_counter()
        if run >= _WARM_RUNS or end_s > until_s:
            times_s.append(end_s - begin_s)
        if end_s > until_s:
            break
    return times_s
