"""What each command and query of the kernel takes.

They are checked before anything is done, so a call that lacks something is answered by what
it lacks, whichever door it came through.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from aios.errors import UsageError
from aios.records import Artifact, Record

_Kind = TypeVar("_Kind", bound=Record)


def read(kind: type[_Kind], fields: Mapping[str, Any], what: str) -> _Kind:
    """A record from what came in.

    Raises:
        UsageError: it does not fit; the message names `what` it was for and each bad field.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part)[:60] for part in fault['loc']) or 'value'}: {fault['msg'][:200]}"
            for fault in error.errors(include_url=False)[:5]
        ]
        raise UsageError(f"{what}: {'; '.join(faults)}") from None


class Register(Record):
    """A version of the model `name`; its artifact is stored already."""

    name: str
    artifact: Artifact
    contract: dict[str, Any]
    metrics: dict[str, float] | None = None
    tags: dict[str, str] | None = None
    lineage: dict[str, Any] | None = None
    conversion: dict[str, Any] | None = None


class Deploy(Record):
    """`version` such as `loan:1`; `spec` holds the fields of an EndpointSpec but the model."""

    version: str
    spec: dict[str, Any]


class StartRollout(Record):
    """`version` such as `loan:2`; `plan` with its `kind`."""

    endpoint: str
    version: str
    plan: dict[str, Any]


class CommandRollout(Record):
    """A person's word on a running rollout."""

    id: str
    command: Literal["promote", "abort"]
    reason: str | None = None


class Rollback(Record):
    """Give users of an endpoint what they had before."""

    endpoint: str
    reason: str | None = None


class AuditQuery(Record):
    """The newest `limit` entries, of one subject or of all."""

    limit: int = Field(default=100, ge=1, le=10_000)
    subject: str | None = None


class OfName(Record):
    """A thing called `name`."""

    name: str


class OfReference(Record):
    """A version: `loan:7`, `loan@stable`, or `loan` for its newest."""

    ref: str


class OfId(Record):
    """A rollout."""

    id: str


class OfEndpoint(Record):
    """What belongs to one endpoint."""

    endpoint: str


class MaybeName(Record):
    """Of one name, or of all."""

    name: str | None = None


class MaybeEndpoint(Record):
    """Of one endpoint, or of all."""

    endpoint: str | None = None


class Nothing(Record):
    """No arguments."""
