"""What a replica acts on: one traffic plan with all that belongs to it, swapped whole."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import orjson

from aios.contracts import Batch, Codec
from aios.records import Challenger, TrafficPlan
from aios.security.keys import allowed
from aios.serving.breaker import Breaker
from aios.serving.fallback import FallbackChain
from aios.serving.runner import Outputs, Runner
from aios.serving.shadow import ShadowQueue
from aios.serving.windows import ArmWindow


class Keys:
    """The keys of a plan, by their digests.

    Hashing a key for each request takes 8 us of 69 in one process. Those that passed are therefore
    held in memory in the clear, a few of them, as long as the plan is in force: one that was taken
    back goes with its plan.
    """

    MOST = 64

    def __init__(self, digests: Iterable[str]) -> None:
        self._digests = frozenset(digests)
        self._passed: set[bytes] = set()

    def allow(self, key: bytes | None) -> bool:
        if key in self._passed:
            return True
        if key is None or not allowed(key, self._digests):
            return False
        if len(self._passed) < self.MOST:
            self._passed.add(key)
        return True


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
    keys: Keys
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
