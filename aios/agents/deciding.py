"""How an agent decides: rules first, then a model, then whatever else may know; the first layer
that is sure counts, and what each of them said is in the log."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aios.errors import UsageError

Choice = tuple[str, str]
"""What is chosen, and why."""
Layer = Callable[[], "Choice | Awaitable[Choice | None] | None"]


class Predicts(Protocol):
    """What a model's layer needs of a context."""

    async def predict(self, endpoint: str, rows: Any, key: str = "") -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class ByRule:
    """A layer that chooses where something holds."""

    holds: bool
    choice: str
    reason: str

    def __call__(self) -> Choice | None:
        return (self.choice, self.reason) if self.holds else None


@dataclass(frozen=True)
class ByModel:
    """A layer that chooses what an endpoint answers, where that is sure enough."""

    context: Predicts
    endpoint: str
    row: dict[str, Any]
    output: str
    confidence: str | None
    at_least: float

    async def __call__(self) -> Choice | None:
        (found,) = await self.context.predict(self.endpoint, self.row)
        for name in (self.output, *(() if self.confidence is None else (self.confidence,))):
            if name not in found:
                raise UsageError(
                    f"endpoint {self.endpoint} answers {', '.join(found)}, and no {name!r}"
                )
        choice = str(found[self.output])
        if self.confidence is None:
            return choice, f"{self.endpoint} says so"
        sure = float(found[self.confidence])
        if sure < self.at_least:
            return None
        return choice, f"{self.endpoint} says so, {self.confidence} {sure:.3g}"


async def first_sure(layers: tuple[Layer, ...], otherwise: str) -> tuple[str, str, int]:
    """The choice of the first layer that makes one, its reason, and how many layers passed.

    Raises:
        UsageError: a layer gave something else than a choice with its reason, or None.
    """
    for passed, layer in enumerate(layers):
        found: Any = layer()
        if inspect.isawaitable(found):
            found = await found
        if found is None:
            continue
        if not (isinstance(found, tuple) and len(found) == 2):
            raise UsageError(f"a layer gives (choice, reason) or None, not {found!r:.80}")
        return str(found[0]), str(found[1]), passed
    return otherwise, "no layer was sure", len(layers)
