"""What happened in one run of the story, as `report` draws it. All times are Unix seconds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from apps.loan_approval.outcomes import Outcomes, Stats

GOOD_OUTCOMES = ("promoted", "finished")


class Told(BaseModel):
    """Frozen; takes the runtime's JSON as it is and leaves out what the report does not show."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Verdict(Told):
    """What the sequential test said about one rule at one look; None is unbounded."""

    rule: str
    state: str
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    threshold: float
    needed: int | None = None


class Look(Told):
    """One look of the rollout at its evidence, as `Rollout.evidence()` gives it."""

    at_s: float
    era: str
    stage: str = ""
    verdicts: tuple[Verdict, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _unpacked(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(value.get("payload"), Mapping):
            return {**value["payload"], **value}
        return value


class RolloutTold(Told):
    """One rollout.

    `about` says what is special about the new version. `rule` is the abort rule that was
    broken. `harm_s` is when the challenger first did harm.
    """

    id: str
    from_version: int
    to_version: int
    about: str = ""
    outcome: str
    reason: str | None = None
    rule: str | None = None
    started_s: float
    finished_s: float
    harm_s: float | None = None
    evidence: tuple[Look, ...] = ()

    @classmethod
    def of(
        cls,
        fields: Mapping[str, Any],
        evidence: Iterable[Mapping[str, Any]] = (),
        *,
        about: str = "",
        harm_s: float | None = None,
    ) -> Self:
        """From `RolloutStatus.fields` and `Rollout.evidence()` of a rollout that has ended.

        Args:
            fields: as the runtime gives them.
            evidence: the looks, in order.
            about: what is special about the new version.
            harm_s: when it began to do harm; else what the rollout itself recorded.
        """
        return cls.model_validate(
            {
                **fields,
                "about": about,
                "outcome": fields["status"],
                "started_s": fields["created_s"],
                "harm_s": harm_s if harm_s is not None else fields.get("harmed_since_s"),
                "evidence": tuple(evidence),
            }
        )

    @property
    def good(self) -> bool:
        """Whether the new version won."""
        return self.outcome in GOOD_OUTCOMES

    @property
    def harm_to_end_s(self) -> float | None:
        """From the first harm to the rollback; None if there was none of either."""
        if self.good or self.harm_s is None:
            return None
        return max(0.0, self.finished_s - self.harm_s)

    @property
    def stages(self) -> list[tuple[float, str]]:
        """When each stage was first seen, and its name."""
        found: list[tuple[float, str]] = []
        for look in self.evidence:
            if look.stage and (not found or found[-1][1] != look.stage):
                found.append((look.at_s, look.stage))
        return found

    @property
    def rules(self) -> list[str]:
        """Every rule that was judged, in the order of its first verdict."""
        return list(dict.fromkeys(v.rule for look in self.evidence for v in look.verdicts))


class ModelTold(Told):
    """One version: its figures on the holdout, and the fraction of each group it approves."""

    version: int
    kind: str
    metrics: dict[str, float] = {}
    approval_rates: dict[str, float] = {}


class Event(Told):
    """Something that happened to the system, such as a process being killed."""

    at_s: float
    text: str


class ArmSecond(Told):
    """What one arm did in one second, inside the runtime, as `Endpoint.series()` gives it."""

    at_s: float
    arm: str
    version: int
    count: int
    errors: int = 0


@dataclass(frozen=True)
class Story:
    """One run, for `write_report`.

    Attributes:
        outcomes: every request as its client saw it.
        stats: the clients' totals.
        rollouts: in the order in which they ran.
        models: by version.
        events: what else happened.
        arm_seconds: the runtime's own view: copies sent to a shadow, failures of a canary
            that stable made good.
        lender_rates: the fraction of each group that the lenders approved.
        group_sizes: how many of the holdout are in each group.
        machine: where it ran, for the foot of the page.
    """

    outcomes: Outcomes
    stats: Stats
    rollouts: tuple[RolloutTold, ...] = ()
    models: tuple[ModelTold, ...] = ()
    events: tuple[Event, ...] = ()
    arm_seconds: tuple[ArmSecond, ...] = ()
    lender_rates: Mapping[str, float] | None = None
    group_sizes: Mapping[str, int] | None = None
    machine: str = ""

    def requests_by_arm(self, rollout: RolloutTold) -> dict[str, int]:
        """Good answers between the rollout's start and end, by arm, and copies to a shadow."""
        rows = self.outcomes
        at_s = rows.started_s + rows.answered_s
        during = (at_s >= rollout.started_s) & (at_s <= rollout.finished_s) & ~rows.failed
        new = rows.version == rollout.to_version
        found = {
            f"v{rollout.from_version}": int((during & ~new).sum()),
            f"v{rollout.to_version}": int((during & new).sum()),
        }
        copies = sum(
            second.count
            for second in self.arm_seconds
            if second.arm == "shadow" and second.version == rollout.to_version
        )
        if copies:
            found["shadow copies"] = copies
        return found
