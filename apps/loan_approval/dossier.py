"""What came out of the governed act, as `report` draws it. All times are Unix seconds."""

from dataclasses import dataclass
from typing import Any

from pydantic import Field

import aios
from apps.loan_approval.narrative import RolloutTold, Told
from apps.loan_approval.outcomes import Stats


class GateTold(Told):
    """What one gate found; `evidence` as the runtime gives it."""

    gate: str
    outcome: str
    value: float | None = None
    threshold: float | None = None
    reason: str = ""
    evidence: dict[str, Any] = Field(default_factory=dict)


class TrialTold(Told):
    """One setting that the search tried."""

    number: int
    config: dict[str, Any]
    state: str
    value: float | None = None


class DecisionTold(Told):
    """What a person answered, and why."""

    by: str
    answer: str
    reason: str
    at_s: float


@dataclass(frozen=True)
class Group:
    """How one group of people fares; `rate` is the fraction of it that is approved."""

    attribute: str
    name: str
    rows: int
    rate: float


@dataclass(frozen=True)
class Candidate:
    """One version that a retrain made.

    Attributes:
        ref: such as `mortgage:2`.
        about: which columns it looks at.
        outcome: `registered`, or `refused` if a gate did not pass.
        seconds: from the order to the registered version.
        metric: what the search was for.
        metrics: on the holdout.
        said_no: what the runtime answered to attempts to go around the rules.
        decisions: what people answered.
    """

    ref: str
    about: str
    outcome: str
    seconds: float
    metric: str
    metrics: dict[str, float]
    gates: tuple[GateTold, ...] = ()
    trials: tuple[TrialTold, ...] = ()
    said_no: tuple[str, ...] = ()
    decisions: tuple[DecisionTold, ...] = ()

    @property
    def auc(self) -> float:
        return self.metrics["auc"]

    @property
    def not_passed(self) -> tuple[str, ...]:
        """The gates that keep it from serving."""
        return tuple(gate.gate for gate in self.gates if gate.outcome != "passed")

    def gate(self, name: str) -> GateTold | None:
        """What the gate of this name found; None if it was not run."""
        return next((gate for gate in self.gates if gate.gate == name), None)

    @property
    def groups(self) -> list[Group]:
        """The groups that the fairness gate compared, as its evidence has them."""
        fairness = self.gate("fairness")
        attributes = {} if fairness is None else fairness.evidence.get("attributes", {})
        return [
            Group(attribute, name, int(found["rows"]), float(found["selection_rate"]))
            for attribute, metrics in attributes.items()
            for name, found in metrics["demographic_parity"]["groups"].items()
            if found.get("selection_rate") is not None
        ]

    @classmethod
    def of(cls, run: aios.Run, assessment: Any, about: str, **told: Any) -> "Candidate":
        """From a run that has registered its version, and `rt.assessment` of that."""
        status = run.status()
        gates = assessment.model_dump(mode="json")["results"]
        return cls(
            ref=assessment.ref,
            about=about,
            outcome="registered" if assessment.passed else "refused",
            seconds=assessment.at_s - status.fields["created_s"],
            metric=status.fields["metric"],
            metrics=status.metrics,
            gates=tuple(GateTold.model_validate(gate) for gate in gates),
            trials=tuple(TrialTold.model_validate(trial) for trial in status.fields["trials"]),
            **told,
        )


class Share(Told):
    """What one feature added to an answer, and the standard error of that."""

    feature: str
    value: str
    added: float
    error: float = 0.0


@dataclass(frozen=True)
class Explained:
    """One applicant's answer: `base` is the usual score, and `shares` lead from it to `score`."""

    request_id: str
    ref: str
    at_s: float
    base: float
    score: float
    shares: tuple[Share, ...]
    approvers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dossier:
    """The governed act, for `write_report`.

    Attributes:
        candidates: the versions in the order in which they were made.
        rollout: the one that brought the last to users.
        traffic: what the clients saw meanwhile.
        explained: one answer of the last version.
        lineage: of the last version, as HTML.
        history: rows of (version, from, until, by, cleared by), as text.
        audit: what `rt.audit.verify()` said.
        card: the file with the last version's card.
        surprises: what came out otherwise than told.
    """

    candidates: tuple[Candidate, ...]
    rollout: RolloutTold
    traffic: Stats
    explained: Explained | None = None
    lineage: str = ""
    history: tuple[tuple[str, ...], ...] = ()
    audit: str = ""
    card: str = ""
    surprises: tuple[str, ...] = ()
