"""What replicas tell of the values they saw, and what a watch wants, knows and has done."""

from typing import Any, Literal

from pydantic import Field, model_validator

from aios.records.alerts import Alert
from aios.records.base import Given, Name, Record
from aios.records.governed import RunSpec


class WindowPart(Record):
    """What one replica saw of one arm between two moments; sent once, when they have passed.

    `inputs` and `outputs` hold `telemetry.Summary.to_json` by field. `id` is the same when it is
    sent again, so that it is counted once. Only requests that the model answered are in
    `outputs`.
    """

    id: str
    endpoint: Name
    arm: str
    version: int = Field(ge=1)
    start_s: float
    end_s: float
    rows: int = Field(ge=1)
    dropped: int = Field(default=0, ge=0)
    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]


class Window(Record):
    """One window of one arm, over all replicas. `inputs` and `outputs` hold
    `telemetry.Summary.to_json` by field."""

    endpoint: str
    version: int
    arm: str
    start_s: float
    end_s: float
    rows: int
    dropped: int
    inputs: dict[str, dict[str, Any]] = {}
    outputs: dict[str, dict[str, Any]] = {}


class Outcome(Record):
    """Feedback on a request, with what was answered: `outputs` holds one object for each
    record of the request; so does `inputs`, of those inputs that say who it was about."""

    request_id: str
    given: dict[str, Any]
    given_s: float
    answered_s: float
    version: int
    arm: str
    outputs: list[dict[str, Any]]
    inputs: list[dict[str, Any]] = []


class RetrainBudget(Given):
    """What a watch may spend on retraining in any `per_s` seconds."""

    retrains: int = Field(default=5, ge=1)
    cpu_hours: float = Field(default=24.0, gt=0)
    per_s: float = Field(default=86_400.0, gt=0)


class Condition(Record):
    """One parsed condition of a watch; see `monitoring.conditions`.

    `on` is `any`, `inputs`, `outputs`, the name of a field, or what tells groups of people apart.
    `windows` is in how many consecutive windows it must hold.
    """

    text: str
    measure: str
    above: bool
    limit: float
    on: str = "any"
    windows: int = Field(default=1, ge=1, le=100)


class WatchSpec(Record):
    """What is watched at an endpoint, and what happens then.

    `min_rows` and `min_labels` are what a window needs to be judged; smaller ones are joined.
    `error_probability` bounds the chance of any false alarm over the life of the watch, for rows,
    and for requests with feedback, that are independent. No condition is exempt, and no bound is
    asymptotic; only the rank error of sketches, which holds at 99 % and which `outside` leaves out,
    makes those of numbers' drift, of `outside` and of `estimated_accuracy` approximate where a
    window has more values than a sketch keeps. `estimated_accuracy` trusts the model's own
    probabilities. Feedback on a request counts once, however many records that had. `label` is the
    feedback that is the truth of output `output`. `schedule` is a cron line, in UTC. `then` is the
    run that is started; None only raises alarms. `alerts` is where people are told of alarms and of
    their end; the kernel's log has them anyway.
    """

    endpoint: Name
    conditions: tuple[Condition, ...] = ()
    output: str | None = None
    label: str | None = None
    min_rows: int = Field(default=200, ge=20)
    min_labels: int = Field(default=100, ge=20)
    error_probability: float = Field(default=0.05, gt=0, lt=1)
    cooldown_s: float = Field(default=3600.0, ge=0)
    budget: RetrainBudget = RetrainBudget()
    schedule: str | None = Field(default=None, max_length=100)
    then: RunSpec | None = None
    alerts: tuple[Alert, ...] = Field(default=(), max_length=10)

    @model_validator(mode="after")
    def _has_a_cause(self) -> "WatchSpec":
        if not self.conditions and self.schedule is None:
            raise ValueError("a watch needs a condition (drift, quality, concept) or a schedule")
        if self.schedule is not None and self.then is None:
            raise ValueError("a schedule without `then` would do nothing")
        return self


class Finding(Record):
    """What the newest windows say about one condition.

    `clear` is on the safe side of the limit with room to spare; `near` is neither. `subject` is
    the field that is furthest off; `evidence` is JSON for charts and lineage.
    """

    condition: str
    state: Literal["holds", "near", "clear", "not_enough_data"]
    subject: str = ""
    score: float | None = None
    reason: str
    evidence: dict[str, Any] = {}


class Alarm(Record):
    """A condition that holds, since when, and how it was found."""

    id: str
    condition: str
    finding: Finding
    since_s: float


class Block(Record):
    """Consecutive windows that are judged as one, because one alone had too few rows."""

    start_s: float
    end_s: float
    rows: int


class RowQuestion(Record):
    """Which recorded rows to compare: those of a version in `blocks`, oldest first, with the rows
    that `run` trained it on; None: with the first that it was asked."""

    endpoint: str
    version: int
    run: str | None
    blocks: tuple[Block, ...]


class Separated(Record):
    """How well rows of now were told from the reference, both held out: the area under the ROC
    curve, and of how many independent pairs of rows it is the mean (see `monitoring.multivariate`).
    """

    auc: float
    pairs: int


class RowComparison(Record):
    """What comparing rows found.

    `windows` is the AUC of each window, oldest first, None without rows; `last` has for 1, 2, ...
    windows, back from the newest, that of all of them together. `telling` is by how much the AUC
    falls when one field is shuffled, largest first. `vanished` fields had values in the reference
    and have none now, `appeared` ones the other way round. `why` says why nothing was found.
    """

    reference: str = ""
    reference_rows: int = 0
    rows: tuple[int, ...] = ()
    windows: tuple[float | None, ...] = ()
    last: tuple[Separated | None, ...] = ()
    telling: dict[str, float] = {}
    vanished: tuple[str, ...] = ()
    appeared: tuple[str, ...] = ()
    why: str | None = None


class WatchState(Record):
    """How far a watch is. `model` is what its endpoint serves, and the watch ends when that is
    another one. `version` is the one that is watched now, `since_s` since when; `open_s`
    is where the next block begins. `looks`, `row_looks` and `label_looks` count the judgements of
    summaries, rows and feedback made so far, which share one error probability; `rows_end_s` is
    the end of the last block whose rows were judged, `label_seq` the last feedback that was.
    `row_scores` has the end and the AUC of the last blocks whose rows were compared.
    `triggers` are the times of recent retrains, `triggered` counts all, `run` is the last one.
    `held_back` says why an alarm starts none just now; one that could not be started is tried
    again at `retry_s`. `retrained_look` is how many looks there were at the last retrain."""

    model: str | None = None
    version: int | None = None
    since_s: float = 0.0
    open_s: float = 0.0
    blocks: tuple[Block, ...] = ()
    looks: int = 0
    row_looks: int = 0
    rows_end_s: float = 0.0
    row_scores: tuple[tuple[float, float], ...] = ()
    label_looks: int = 0
    label_seq: int = 0
    findings: tuple[Finding, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    alarms_raised: int = 0
    triggers: tuple[float, ...] = ()
    triggered: int = 0
    run: str | None = None
    held_back: str | None = None
    retry_s: float | None = None
    retrained_look: int | None = None
    scheduled_s: float | None = None


class Watch(Record):
    """A watch as stored."""

    id: str
    spec: WatchSpec
    state: WatchState = WatchState()
    active: bool = True
    created_s: float
    created_by: str
