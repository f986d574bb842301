"""What a replica acts on: one traffic plan with all that belongs to it, swapped whole."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import orjson

from aios.contracts import Batch, Codec
from aios.records import Challenger, TrafficPlan
from aios.serving.breaker import Breaker
from aios.serving.fallback import FallbackChain
from aios.serving.runner import Outputs, Runner
from aios.serving.shadow import ShadowQueue
from aios.serving.windows import ArmWindow


class ChallengerClient(Protocol):
    """Asks a challenger's own application; returns outputs and its service seconds.

    Raises ModelFailed, ContractViolation, TimeoutError, or anything else when the
    application does not answer.
    """

    async def __call__(
        self, batch: Batch, timeout_s: float, traceparent: str | None
    ) -> tuple[Outputs, float]: ...


Loaded = tuple[str, int, int, str]
"""What a loaded runner is good for: artifact, most rows, threads, contract."""


@dataclass(frozen=True, slots=True)
class Live:
    """A plan and what acts on it. Requests keep the one they began with."""

    plan: TrafficPlan
    codec: Codec
    runner: Runner
    fallback: FallbackChain
    keys: frozenset[str]
    challenger: Challenger | None
    ask: ChallengerClient | None
    breaker: Breaker
    shadow: ShadowQueue | None
    windows: dict[str, ArmWindow]


def loaded_as(plan: TrafficPlan) -> Loaded:
    """What the plan's stable version must have been loaded as."""
    contract = hashlib.sha256(orjson.dumps(plan.stable.contract)).hexdigest()
    return plan.stable.artifact.digest, plan.spec.max_rows, plan.spec.threads, contract


def windows_of(plan: TrafficPlan, before: Live | None) -> dict[str, ArmWindow]:
    """Windows of an era go on as long as an arm stands for the same version."""
    kept = before.windows if before is not None and before.plan.era == plan.era else {}
    wanted = {"stable": plan.stable.version}
    if plan.challenger is not None:
        wanted[plan.challenger.arm] = plan.challenger.served.version
    fresh = {
        arm: ArmWindow(version)
        for arm, version in wanted.items()
        if arm not in kept or kept[arm].version != version
    }
    return {**kept, **fresh}


def continues(before: Live, window: ArmWindow, deadline_s: float) -> bool:
    """Whether the shadow's queue before fills this window, on the same terms."""
    same_window = before.windows.get("shadow") is window
    return before.shadow is not None and same_window and before.plan.spec.deadline_s == deadline_s
