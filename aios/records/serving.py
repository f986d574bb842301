"""What is served, and what replicas, kernel and SDK tell each other about it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from aios.presentation import Rows, Shown, moment
from aios.records.base import Given, Name, Record

ArmName = Literal["stable", "canary", "shadow"]
EngineName = Literal["onnx", "torch", "python"]


class Artifact(Record):
    """What a model's bytes are. `digest` is sha256 over the manifest, which holds the
    sha256 of every file; it is both the identity and the folder's name."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    engine: EngineName
    size_bytes: int


class ModelVersion(Shown, Record):
    """One immutable version of a model, with where it came from."""

    name: Name
    version: int = Field(ge=1)
    artifact: Artifact
    contract: dict[str, Any]
    contract_digest: str
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    lineage: dict[str, Any] = {}
    conversion: dict[str, Any] = {}
    created_s: float
    created_by: str

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        inputs = [field["name"] for field in self.contract.get("inputs", ())]
        outputs = [field["name"] for field in self.contract.get("outputs", ())]
        facts = {
            "engine": self.artifact.engine,
            "size": f"{self.artifact.size_bytes:,} bytes",
            "digest": self.artifact.digest[:12],
            "inputs": ", ".join(inputs),
            "outputs": ", ".join(outputs),
            **_outliers_told(self.conversion.get("outliers")),
            **{name: f"{value:.4g}" for name, value in self.metrics.items()},
            **self.tags,
        }
        title = f"{self.ref}, by {self.created_by} at {moment(self.created_s)}"
        return title, ("what", "value"), [list(fact) for fact in facts.items()]


def _outliers_told(found: dict[str, Any] | None) -> dict[str, str]:
    """Whether requests can be told how unusual they are; nothing of versions of before."""
    if found is None:
        return {}
    reason, rows = found.get("reason"), found.get("rows")
    return {"outliers": f"cannot be told: {reason}" if reason else f"told beside {rows:,} rows"}


class Autoscale(Given):
    """Let Ray Serve choose the number of replicas between two bounds.

    `ongoing_requests` is the load per replica it aims for.
    """

    min_replicas: int = Field(ge=1)
    max_replicas: int = Field(ge=1)
    ongoing_requests: float = Field(default=16, gt=0)

    def __init__(self, min_replicas: int = 1, max_replicas: int = 1, **more: Any) -> None:
        more.update(min_replicas=min_replicas, max_replicas=max_replicas)
        super().__init__(**more)

    @model_validator(mode="after")
    def _ordered(self) -> "Autoscale":
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is below min_replicas")
        return self

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return self.min_replicas == self.max_replicas


class Cached(Given):
    """Answer with the last good score for the same key, if it is young enough."""

    kind: Literal["cache"] = "cache"
    max_age_s: float = Field(default=600, gt=0)


class Rule(Given):
    """Answer with a plain function `record -> outputs`, given by import path `module:name`."""

    kind: Literal["rule"] = "rule"
    path: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")

    def __init__(self, path: str, **more: Any) -> None:
        more.update(path=path)
        super().__init__(**more)


class Default(Given):
    """Answer with the same outputs for every record."""

    kind: Literal["default"] = "default"
    outputs: dict[str, Any]

    def __init__(self, outputs: dict[str, Any], **more: Any) -> None:
        more.update(outputs=outputs)
        super().__init__(**more)


Fallback = Annotated[Cached | Rule | Default, Field(discriminator="kind")]


class EndpointSpec(Record):
    """What a user asks of an endpoint; a rollout never changes it.

    `deadline_s` is the whole budget of one request. `max_queued` bounds the requests that
    one replica takes at a time; over it the answer is 503 with Retry-After.
    `record_fraction` is the share of requests written to the prediction log. `threads` is how many
    threads one run of the model uses. `gpus` is the share of a GPU that each replica gets, on which
    it then keeps its model, as a canary's or shadow's replicas do on a share of their own; 0 is
    the CPU.
    """

    name: Name
    model: Name
    deadline_s: float = Field(default=1.0, gt=0, le=3600)
    replicas: Autoscale = Autoscale(1, 1)
    fallback: tuple[Fallback, ...] = ()
    max_queued: int = Field(default=256, ge=1)
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    max_rows: int = Field(default=10_000, ge=1)
    record_fraction: float = Field(default=1.0, ge=0, le=1)
    require_key: bool = True
    threads: int = Field(default=1, ge=1, le=256)
    gpus: float = Field(default=0.0, ge=0, le=1)


class ServedVersion(Record):
    """A version as a replica needs it: which artifact, and what it promises."""

    version: int = Field(ge=1)
    artifact: Artifact
    contract: dict[str, Any]


class Challenger(Record):
    """A version that takes part beside stable, in a Serve application of its own.

    `weight_fraction` is its share of keys as canary; a shadow has none and gets copies.
    """

    served: ServedVersion
    app: str
    arm: Literal["canary", "shadow"]
    weight_fraction: float = Field(default=0.0, ge=0, le=1)


class TrafficPlan(Record):
    """The immutable record that replicas act on.

    `revision` grows by one with every change of the endpoint. `era` names the stage of a
    rollout: replicas count each era from zero, so that arms are compared over the same
    time. `salt` fixes which keys a weight covers; a growing weight never moves a key back.
    `keys` are sha256 hex digests of the API keys that may call.
    """

    revision: int = Field(ge=1)
    spec: EndpointSpec
    stable: ServedVersion
    challenger: Challenger | None = None
    era: str = "steady"
    salt: str = ""
    keys: tuple[str, ...] = ()


class Buckets(Record):
    """How many durations fell into each bucket of a `telemetry.Histogram`, and their sum."""

    counts: tuple[int, ...] = ()
    sum_s: float = 0.0


class ArmReport(Record):
    """What one replica counted for one arm in one era, cumulative since the era began.

    `errors` counts attempts of the arm that failed, by kind (`model_failed`, `deadline`,
    `unavailable`, `bad_output`); for a challenger the request was then answered by stable,
    so users did not see them. `latency` is a KLL sketch of the arm's own service time in
    seconds: queueing and running the model, without the hop to another process; `service`
    counts the same exactly, in buckets.
    `outputs` holds a KLL sketch for every numeric output. `agreement` sums, for a shadow,
    the paired absolute difference to stable's answer: {"pairs", "sum", "over_tolerance"}.
    """

    version: int
    attempts: int = 0
    errors: dict[str, int] = {}
    degraded: int = 0
    latency: bytes = b""
    service: Buckets = Buckets()
    outputs: dict[str, bytes] = {}
    agreement: dict[str, float] = {}


class WindowReport(Record):
    """Sent by each replica about once a second, cumulative, so a lost one costs nothing.

    `latency` is a KLL sketch of whole requests inside the replica, in seconds; `took` counts
    the same exactly, in buckets. `queued` is how many calls wait for stable's model just now.
    `refused` says why the replica did not take the newest plan; it then serves the one before.
    `outliers_missed` counts who asked how unusual records are and was not told in spite of a
    detector. `violations` counts requests that broke the contract, by field and kind of fault.
    `recorder_problem` says why predictions cannot be recorded now.
    """

    endpoint: str
    replica: str
    era: str
    revision: int
    sequence: int
    at_s: float
    pid: int
    node: str
    requests: int = 0
    failed: int = 0
    rejected: int = 0
    in_flight: int = 0
    queued: int = 0
    shadow_dropped: int = 0
    recorder_dropped: int = 0
    outliers_missed: int = 0
    violations: dict[str, dict[str, int]] = {}
    recorder_problem: str | None = None
    refused: str | None = None
    latency: bytes = b""
    took: Buckets = Buckets()
    arms: dict[str, ArmReport] = {}
