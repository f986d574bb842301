"""Monitoring: what the replicas' counts say, as evidence and as series.

Called by the kernel (keeps a `Ledger`, fills a `Series` for charts) and by rollout (judges
`Evidence`). Reports are cumulative per replica process and era, so a lost, repeated or late
one changes nothing, and merging is latest-per-process, then sum. Everything here is
memory-only and can be rebuilt from the next second's reports. Must not know rollout plans,
verdicts, the database or Ray.
"""

from aios.monitoring.evidence import ArmEvidence, Evidence, Moments, merge_reports
from aios.monitoring.ledger import EndpointTotals, Ledger, ReplicaStatus
from aios.monitoring.series import Series, SeriesRow

__all__ = [
    "ArmEvidence",
    "EndpointTotals",
    "Evidence",
    "Ledger",
    "Moments",
    "ReplicaStatus",
    "Series",
    "SeriesRow",
    "merge_reports",
]
