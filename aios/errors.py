"""Every error aios raises on purpose, drawn once.

    AiosError
     |- UsageError       fix the call
     |   |- UnknownName        UnknownEndpoint, UnknownModel, UnknownRollout
     |   |- ContractViolation  the input does not fit the contract
     |   |- IllegalTransition  the thing is not in a state that allows this
     |   |- Unsupported        this kind of object cannot be taken; says which can
     |   |- Malformed          the body cannot be read: broken JSON, truncated tensor
     |   |- PayloadTooLarge    the body or batch is over its limit
     |   |- NotAllowed         this address does not take this HTTP method
     |   |- NotApproved, Forbidden, Unauthenticated
     |   |- BudgetExceeded     an agent has spent what it may spend
     |- TemporaryError   try again later
     |   |- ClusterUnavailable, StoreUnavailable, Overloaded(retry_after_s)
     |   |- NotEnoughEvidence, DeadlineExceeded
     `- PermanentError   tell a person
         |- ModelFailed, ArtifactRejected, FlowDiverged, StoreCorrupt

Messages say what happened, to which thing, and what to do next. Every error survives
pickling and a trip over HTTP (`to_problem` and `from_problem`). HTTP statuses are not
here: they live in one table at the edge (`aios.contracts.problems`).
"""

from collections.abc import Sequence
from typing import Any

MOST_TOLD = 3
"""Of the errors in a group, how many are described."""


class AiosError(Exception):
    """Base of all errors raised on purpose. `details` is JSON and travels with it."""

    def __init__(self, message: str, **details: Any) -> None:
        self.message = storable(str(message))
        super().__init__(self.message)
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self).__name__, self.message, self.details)

    def to_problem(self) -> dict[str, Any]:
        """A JSON object that `from_problem` turns back into the same error."""
        return {"code": type(self).__name__, "detail": self.message, "details": self.details}


class UsageError(AiosError):
    """The call is wrong: fix it and call again."""


class TemporaryError(AiosError):
    """The call is right and may succeed later."""


class PermanentError(AiosError):
    """Something is broken that neither waiting nor another call will mend."""


class UnknownName(UsageError):
    """A name that nothing carries."""


class UnknownEndpoint(UnknownName):
    """No endpoint has this name."""


class UnknownModel(UnknownName):
    """No model or version has this name."""


class UnknownRollout(UnknownName):
    """No rollout has this id."""


class ContractViolation(UsageError):
    """Input or output does not fit the contract.

    `violations` lists, for each fault found, the row (or None), the field, the value
    (shortened), what is allowed, and the kind of fault. `kinds` has the field and kind of every
    fault, also of those for which the list has no room; it does not travel.
    """

    kinds: frozenset[tuple[str, str]] = frozenset()

    @property
    def violations(self) -> Sequence[dict[str, Any]]:
        found: Sequence[dict[str, Any]] = self.details.get("violations", ())
        return found


class IllegalTransition(UsageError):
    """The thing is not in a state that allows this."""


class Unsupported(UsageError):
    """This kind of object or body cannot be taken; the message says which can."""


class Malformed(UsageError):
    """The body cannot be read: broken JSON, a truncated tensor, a missing part."""


class PayloadTooLarge(UsageError):
    """The body or the batch is over its limit."""


class NotAllowed(UsageError):
    """The address exists and does not take this HTTP method; `details["allow"]` says which."""


class NotApproved(UsageError):
    """An approval is missing."""


class Unauthenticated(UsageError):
    """No valid key came with the call."""


class Forbidden(UsageError):
    """The key is valid and may not do this."""


class BudgetExceeded(UsageError):
    """An agent has spent what it may spend; give it more, or leave it."""


class ClusterUnavailable(TemporaryError):
    """The runtime does not answer."""


class StoreUnavailable(TemporaryError):
    """The store cannot be read or written just now: disk full, locked, or unreachable."""


class Overloaded(TemporaryError):
    """Too much is queued. `retry_after_s` says when to come back."""

    @property
    def retry_after_s(self) -> float:
        return float(self.details.get("retry_after_s", 1.0))


class NotEnoughEvidence(TemporaryError):
    """A decision cannot be made yet."""


class DeadlineExceeded(TemporaryError):
    """The answer was not ready within the budget."""


class ModelFailed(PermanentError):
    """A model raised, or gave an answer that its contract forbids."""


class ArtifactRejected(PermanentError):
    """An artifact is unsafe, damaged, or not what its digest says."""


class FlowDiverged(PermanentError):
    """A durable flow no longer matches its recorded history."""


class StoreCorrupt(PermanentError):
    """The store breaks one of its own invariants."""


def storable(text: str) -> str:
    """A text as JSON, HTTP and every database take it: half characters, as in the names of files
    that are not UTF-8, and NULs are spelled out."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode(errors="backslashreplace").decode()
    return text.replace("\x00", "\\x00")


def describe(error: BaseException) -> str:
    """What any error says, with its class where it is none of ours; of a group also the first few
    that are in it. Never fails, though an error's own `__str__` may."""
    if isinstance(error, AiosError):
        return error.message
    try:
        text = str(error)
    except Exception as fault:  # noqa: BLE001 - it is of the one who wrote the error
        text = f"its text cannot be made, that raised {type(fault).__name__}"
    if isinstance(error, BaseExceptionGroup):
        text += f": {'; '.join(map(describe, error.exceptions[:MOST_TOLD]))}"
    return storable(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _subclasses(root: type[AiosError]) -> dict[str, type[AiosError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_subclasses(child))
    return found


def _rebuild(name: str, message: str, details: dict[str, Any]) -> AiosError:
    return _subclasses(AiosError).get(name, PermanentError)(message, **details)


def from_problem(problem: dict[str, Any]) -> AiosError:
    """The error that `to_problem` described; an unknown code becomes a PermanentError."""
    details = problem.get("details") or {}
    return _rebuild(str(problem.get("code")), str(problem.get("detail")), dict(details))
