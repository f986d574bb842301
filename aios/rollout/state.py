"""What a rollout knows between two looks, what it is told, and what it asks for."""

from typing import Any, Literal

from pydantic import Field

from aios.records import ArmName, Record
from aios.rollout.plans import StageKind
from aios.rollout.sequential import Verdict

Outcome = Literal["promoted", "rolled_back", "aborted", "failed", "finished", "undecided"]


class State(Record):
    """A rollout as the database keeps it: JSON, and all that `step` needs to go on.

    Durations are summed from look to look rather than taken as differences of wall times,
    so neither a clock set back nor an hour without a kernel ends a stage: `stage_s` since
    the stage began, `baked_s` of it with the plan live on every replica and the challenger
    up, `quiet_s` without data, `down_s` with the challenger down, `stale_s` without a new
    report. `since_s` and `harmed_since_s` (when a rule's point estimate last went beyond
    its limit, or the challenger went down) are wall times, for people.

    `index` counts the plan's stages with traffic, -1 before the first. `baseline` is
    stable's evidence from before a blue-green switch (`ArmEvidence.to_json`). `commanded`
    is the reason that came with "promote". `asked` is the weight whose approval was asked
    for last. `rule` is the rule that ended it.
    """

    rollout: str
    stage: StageKind = "starting"
    index: int = -1
    era: str
    weight_fraction: float = 0.0
    since_s: float
    clock_s: float
    stage_s: float = 0.0
    baked_s: float = 0.0
    quiet_s: float = 0.0
    down_s: float = 0.0
    stale_s: float = 0.0
    is_down: bool = False
    falls: int = 0
    attempts_seen: int = 0
    reports_seen: int | None = None
    harmed_since_s: float | None = None
    verdicts: dict[str, Verdict] = Field(default_factory=dict)
    baseline: dict[str, Any] | None = None
    commanded: str | None = None
    asked: float | None = None
    outcome: Outcome | None = None
    reason: str = ""
    rule: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether the rollout is over."""
        return self.stage == "done"


class Facts(Record):
    """What the kernel sees of the world at this look.

    `challenger_ready` means loaded, warmed and answering. `challenger_failed` says why it
    is not, when it is known to have failed. `plan_live` is true when every live replica
    acts on the newest traffic plan. A command needs to be given once; it is remembered. A
    `Shadow` plan cannot be promoted: the command is without effect, so refuse it earlier.
    `approved` are weights that people said yes to; `rejected` says why one was not, or that
    nobody answered in time.
    """

    challenger_ready: bool = False
    challenger_failed: str | None = None
    plan_live: bool = False
    command: Literal["promote", "abort"] | None = None
    command_reason: str = ""
    approved: tuple[float, ...] = ()
    rejected: str | None = None


class StartChallenger(Record):
    """Deploy the challenger's own application, without traffic, and warm it."""


class SetTraffic(Record):
    """Publish a traffic plan with the challenger in this arm, counted as `era`."""

    arm: ArmName
    weight_fraction: float
    era: str


class AskApproval(Record):
    """Ask people whether the challenger may get this share of the traffic."""

    weight_fraction: float


class Promote(Record):
    """Make the challenger's version the stable one, in every replica, counted as `era`."""

    era: str


class RollBack(Record):
    """Publish a traffic plan with the former stable alone. `rule` is the broken abort rule,
    None when it was something else."""

    reason: str
    rule: str | None = None


class Finish(Record):
    """The rollout is over: publish a traffic plan without the challenger if the newest one
    still names it, take its application down, and record the outcome."""

    outcome: Outcome
    reason: str


Action = StartChallenger | SetTraffic | AskApproval | Promote | RollBack | Finish
