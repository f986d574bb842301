"""What the registry gives back, beyond the records that everybody shares."""

from typing import Any, Literal

from pydantic import Field

from aios.records import EndpointSpec, Name, Record

RolloutStatus = Literal[
    "running", "promoted", "rolled_back", "aborted", "failed", "finished", "undecided"
]
ServingCause = Literal["deploy", "rollout", "rollback"]


class EndpointState(Record):
    """The desired state of an endpoint.

    `previous_version` is what a rollback leads to: the newest other version of this model that
    was stable here since the endpoint was deployed, by the rules and not only because glass
    was broken, and was not taken back. None if there is none. `revision` is that of the
    newest traffic plan, 0 if none was ever published.
    """

    spec: EndpointSpec
    stable_version: int
    previous_version: int | None
    revision: int
    created_s: float
    updated_s: float


class RolloutRow(Record):
    """A rollout as stored: `plan` and `state` belong to the rollout's own code.

    Only `running` is active; every other status is final and has `finished_s`.
    """

    id: str = Field(min_length=1, max_length=200)
    endpoint: Name
    from_version: int = Field(ge=1)
    to_version: int = Field(ge=1)
    plan: dict[str, Any]
    status: RolloutStatus = "running"
    stage: str
    state: dict[str, Any] = Field(default_factory=dict)
    reason: str | None = None
    created_s: float
    finished_s: float | None = None
    created_by: str


class Evidence(Record):
    """Something that a rollout's decisions are based on, in one era (stage) of it."""

    era: str
    at_s: float
    payload: dict[str, Any]


class ApiKey(Record):
    """A key that may call now. `digest` is the sha256 of the plain key, which is nowhere."""

    id: str
    identity: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    role: Name
    created_s: float
    expires_s: float | None = None


class AuditEntry(Record):
    """Who did what to which thing, sealed by a hash over it and all entries before it."""

    seq: int
    at_s: float
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    hash: str
