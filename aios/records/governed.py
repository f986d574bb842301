"""What is known of data, training, checks and approvals: the links of one causal chain.

request -> version -> training run -> data snapshot -> gates -> approvals -> rollout.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from aios.presentation import Rows, Shown, moment
from aios.records.base import Given, Name, Record

Outcome = Literal["passed", "failed", "not_enough_data"]
RunStatus = Literal["running", "registered", "refused", "finished", "failed", "cancelled"]
Answered = Literal["approved", "rejected"]
UNDECLARED = "undeclared"
"""The use of a model whose owner has not said what it is for."""


class ColumnProfile(Record):
    """One column of a snapshot.

    `sketch` is a KLL sketch of a number's values (base64 of `telemetry.Sketch` bytes), which
    drift is later measured against; `top` counts the most frequent values of anything else,
    spelled as text. `distinct` is exact up to 10,000 and that afterwards.
    """

    dtype: str
    nulls: int = Field(ge=0)
    distinct: int = Field(ge=0)
    low: float | None = None
    high: float | None = None
    sketch: str = ""
    top: dict[str, int] = {}


def source_words(kind: str, location: str, version: int | None) -> str:
    """Data in words. Where a DataFrame was laid down says nothing to those who read it.

    >>> source_words("delta", "/data/loans", 3), source_words("frame", "/tmp/x.parquet", None)
    ('delta /data/loans version 3', 'a DataFrame')
    """
    if kind == "frame":
        return "a DataFrame"
    return f"{kind} {location}" + ("" if version is None else f" version {version}")


class Snapshot(Shown, Record):
    """Which data a version was made from: enough to find it again and to see that it changed.

    `digest` is sha256 over the content of all rows and columns, whatever the number of files
    or their order. `version` is that of a Delta table (of `predictions` that of the log), else
    None; `feedback_version` that of the feedback that was joined to predictions.
    """

    kind: Literal["parquet", "csv", "delta", "predictions", "frame"]
    location: str
    version: int | None = None
    feedback_version: int | None = None
    rows: int = Field(ge=0)
    duplicate_rows: int = Field(default=0, ge=0)
    columns: dict[str, ColumnProfile]
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    taken_s: float

    @property
    def source(self) -> str:
        """In words, where it came from."""
        return source_words(self.kind, self.location, self.version)

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        title = f"{self.source}, {self.rows:,} rows, {self.digest[:12]}"
        headings = ("column", "type", "nulls", "distinct", "low", "high")
        rows = [
            [name, column.dtype, column.nulls, column.distinct, column.low, column.high]
            for name, column in self.columns.items()
        ]
        return title, headings, rows


class GateResult(Record):
    """What one check found. `value` is compared with `threshold`; `reason` says it in words,
    and `evidence` is JSON that lets somebody else redo the sum."""

    gate: str
    outcome: Outcome
    value: float | None = None
    threshold: float | None = None
    reason: str
    evidence: dict[str, Any] = {}


class Assessment(Shown, Record):
    """All gates run over one version, on one snapshot, under one policy.

    `digest` seals artifact, snapshot, results and policy: an approval is bound to it, and
    is void for any other assessment.
    """

    id: str
    name: Name
    version: int = Field(ge=1)
    run: str | None = None
    artifact_digest: str
    snapshot_digest: str
    policy_digest: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    results: tuple[GateResult, ...]
    card: str = ""
    at_s: float
    by: str

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def passed(self) -> bool:
        return all(result.outcome == "passed" for result in self.results)

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        failed = sum(result.outcome != "passed" for result in self.results)
        told = "all gates passed" if not failed else f"{failed} of {len(self.results)} not passed"
        rows = [
            [result.gate, result.outcome, result.value, result.threshold, result.reason]
            for result in self.results
        ]
        headings = ("gate", "outcome", "value", "threshold", "reason")
        return f"{self.ref}: {told}, at {moment(self.at_s)}", headings, rows


class ModelProfile(Shown, Record):
    """What a model is for, as its owner declared: it decides the risk tier.

    `use` is a word of the policy, such as `credit_scoring`. `protected` are the attributes by
    which fairness is measured; they are in the data and never in the contract.
    """

    name: Name
    use: str = Field(default=UNDECLARED, min_length=1, max_length=100)
    purpose: str = Field(default="", max_length=2000)
    owner: str = Field(default="", max_length=200)
    limits: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    declared_s: float = 0.0
    declared_by: str = ""

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        facts = {
            "use": self.use,
            "purpose": self.purpose,
            "owner": self.owner,
            "limits": "; ".join(self.limits),
            "protected": ", ".join(self.protected),
        }
        title = f"model {self.name}, declared by {self.declared_by or 'nobody'}"
        return title, ("what", "value"), [list(fact) for fact in facts.items()]


class Decision(Record):
    """One person's answer to an approval request."""

    by: str
    answer: Answered
    reason: str = Field(min_length=1, max_length=2000)
    at_s: float


class ApprovalRequest(Shown, Record):
    """Something waits for people: a version that wants to serve, or a rollout between two steps.

    `subject` is `loan:2` or a rollout's id with its step. `digest` is what they say yes to;
    if it changes, the answers are void and a new request is made. `author` may not answer.
    """

    id: str
    subject: str
    name: Name
    version: int = Field(ge=1)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    needed: int = Field(ge=1)
    author: str
    requested_s: float
    expires_s: float
    decisions: tuple[Decision, ...] = ()

    @property
    def rejected(self) -> bool:
        return any(decision.answer == "rejected" for decision in self.decisions)

    @property
    def approvers(self) -> tuple[str, ...]:
        """Who said yes, each once, in order."""
        yes = (decision.by for decision in self.decisions if decision.answer == "approved")
        return tuple(dict.fromkeys(yes))

    def state(self, now_s: float) -> Literal["waiting", "approved", "rejected", "expired"]:
        """How it stands. An approval that was reached in time expires too."""
        if self.rejected:
            return "rejected"
        if now_s >= self.expires_s:
            return "expired"
        return "approved" if len(self.approvers) >= self.needed else "waiting"

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        title = (
            f"{self.subject}: {len(self.approvers)} of {self.needed} approvals, asked for by "
            f"{self.author}, until {moment(self.expires_s)}"
        )
        rows = [
            [decision.by, decision.answer, decision.reason, moment(decision.at_s)]
            for decision in self.decisions
        ]
        return title, ("by", "answer", "reason", "at"), rows


class BreakGlass(Shown, Record):
    """An administrator's leave to serve a model around its gates, for a few minutes."""

    id: str
    name: Name
    by: str
    reason: str = Field(min_length=1, max_length=2000)
    from_s: float
    until_s: float

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        title = f"glass is broken for {self.name} by {self.by} until {moment(self.until_s)}"
        return title, ("what", "is"), [["id", self.id], ["reason", self.reason]]


class Serving(Record):
    """One version as stable of one endpoint, for a time. The newest has no `until_s`.

    `cleared_by` says what let it serve: an assessment's digest with its approvers, or
    `break-glass <id>`, or the tier that asks for nothing. `bad` marks one that was taken
    back: a rollback never leads to it.
    """

    endpoint: Name
    model: Name
    version: int = Field(ge=1)
    cause: Literal["deploy", "rollout", "rollback"]
    by: str
    cleared_by: dict[str, Any] = {}
    from_s: float
    until_s: float | None = None
    bad: bool = False


class Clearance(Shown, Record):
    """Whether a version may become stable now, and if not, everything that is missing.

    `cleared_by` is what a `Serving` keeps of it.
    """

    ref: str
    tier: str
    allowed: bool
    missing: tuple[str, ...] = ()
    cleared_by: dict[str, Any] = {}

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        told = "may serve" if self.allowed else "may not serve"
        title = f"{self.ref} {told} (tier {self.tier})"
        return title, ("missing",), [[reason] for reason in self.missing]


class CodeSource(Record):
    """Code that users wrote: a class or function by name in a file whose text travels with it.

    What runs is this text, so that it can be run again. `path` is `module:Class`; `folder`
    is where its neighbours are imported from, on the machine that sent it.
    """

    path: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    text: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    folder: str | None = None


class DataSource(Given):
    """Where rows come from. `frame` was uploaded as Parquet by the SDK; `predictions` is an
    endpoint's prediction log joined with its feedback, `location` the endpoint's name."""

    kind: Literal["parquet", "csv", "delta", "predictions", "frame"]
    location: str = Field(min_length=1, max_length=2000)
    version: int | None = Field(default=None, ge=0)
    feedback_version: int | None = Field(default=None, ge=0)

    @field_validator("location")
    @classmethod
    def _no_secret(cls, location: str) -> str:
        if re.search(r"://[^/]*:[^/]*@", location):
            raise ValueError(
                "holds a password, which would be kept with the version; give it to the cluster's "
                "machines as a variable instead"
            )
        return location

    def __str__(self) -> str:
        return source_words(self.kind, self.location, self.version)


class Domain(Record):
    """The values of one searched setting; `aios.uniform(0, 1)` and its like make one."""

    kind: Literal["uniform", "loguniform", "integers", "choice"]
    low: float | None = None
    high: float | None = None
    options: tuple[Any, ...] = ()


class RunSpec(Record):
    """All that a training run was asked to do; with the snapshot it is enough to repeat it.

    `assesses` names a version that exists and is only assessed, on this data: nothing is
    trained then. `reproduces` names one that is made again, to see whether it comes out the
    same; nothing is registered. `environment` holds what the author's machine knew: git
    commit and dirty flag, installed packages, Python, platform. `rollout` is a plan with its
    endpoint, started once the version is cleared. `cause` is what a watch found, if one started
    the run; nobody else may give one.
    """

    model: Name
    recipe: CodeSource
    data: DataSource
    contract: dict[str, Any]
    search: dict[str, Domain] = {}
    trials: int = Field(default=1, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)
    trial_time_limit_s: float = Field(default=600.0, gt=0)
    memory_limit_bytes: int | None = Field(default=None, gt=0)
    environment: dict[str, Any] = {}
    tracking_uri: str | None = None
    rollout: dict[str, Any] | None = None
    assesses: str | None = None
    reproduces: str | None = None
    cause: dict[str, Any] | None = None


class Trial(Record):
    """One setting that was tried. `value` is of the metric that the search is for; None until
    known. `state` `stopped` is one that early stopping ended."""

    number: int
    config: dict[str, Any]
    state: Literal["running", "finished", "stopped", "failed", "timed_out"]
    value: float | None = None
    metrics: dict[str, float] = {}
    error: str | None = None
    seconds: float | None = None


class TrainingRun(Record):
    """A run as stored. `results` holds what each finished stage gave, by its name; a run that
    was killed goes on after the last of them. Only `running` is active."""

    id: str
    model: Name
    status: RunStatus = "running"
    stage: str
    spec: RunSpec
    results: dict[str, Any] = {}
    version: int | None = None
    error: str | None = None
    created_s: float
    finished_s: float | None = None
    created_by: str
