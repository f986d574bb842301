"""What answers when the model cannot: the last good score, a rule, or a constant."""

import importlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from aios.contracts import Batch, Codec
from aios.errors import AiosError, UsageError
from aios.records import Cached, Default, Rule

Outputs = dict[str, np.ndarray]
Degraded = Literal["cache", "rule", "default"]
RuleFunction = Callable[[dict[str, Any]], dict[str, Any]]

MAX_CACHED_KEYS = 100_000
"""Per replica; about 50 MB of small scores."""


def load_rule(path: str) -> RuleFunction:
    """The function at `module:name`.

    Raises:
        UsageError: there is no such module or function, or the module raises.
    """
    module_name, _, name = path.partition(":")
    try:
        found: RuleFunction = getattr(importlib.import_module(module_name), name)
    except Exception as error:
        raise UsageError(
            f"fallback rule {path!r} cannot be imported: {error!r}; it must be on the "
            "PYTHONPATH of the machine that started the runtime"
        ) from error
    if not callable(found):
        raise UsageError(f"fallback rule {path!r} is no function but {type(found).__name__}")
    return found


class FallbackChain:
    """The steps of an endpoint's fallback, tried in order until one covers the whole batch."""

    def __init__(self, steps: Sequence[Cached | Rule | Default], codec: Codec) -> None:
        self._steps = tuple(steps)
        self._codec = codec
        self._rules = {step.path: load_rule(step.path) for step in steps if isinstance(step, Rule)}
        self.remembers = any(isinstance(step, Cached) for step in steps)
        self._scores: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()

    def remember(self, batch: Batch, outputs: Outputs) -> None:
        """Keep the good scores of the records that have a key."""
        if batch.keys is None:
            return
        now_s = time.monotonic()
        for row, key in enumerate(batch.keys):
            if key is not None:
                # A row of a tensor is a view that would keep its whole batch in memory.
                score = {
                    name: values[row] if values.ndim == 1 else values[row].copy()
                    for name, values in outputs.items()
                }
                self._scores[key] = (now_s, score)
                self._scores.move_to_end(key)
        while len(self._scores) > MAX_CACHED_KEYS:
            self._scores.popitem(last=False)

    def answer(self, batch: Batch) -> tuple[Outputs, Degraded] | None:
        """The first step's answer that fits the contract, or None when no step has one."""
        for step in self._steps:
            if isinstance(step, Cached):
                rows = self._cached(batch, step.max_age_s)
                kind: Degraded = "cache"
            elif isinstance(step, Rule):
                rows, kind = self._ruled(batch, self._rules[step.path]), "rule"
            else:
                rows, kind = [step.outputs] * batch.rows, "default"
            if rows is None:
                continue
            outputs = self._columns(rows)
            if outputs is not None:
                return outputs, kind
        return None

    def _cached(self, batch: Batch, max_age_s: float) -> list[dict[str, Any]] | None:
        if batch.keys is None:
            return None
        oldest_s = time.monotonic() - max_age_s
        rows: list[dict[str, Any]] = []
        for key in batch.keys:
            found = self._scores.get(key) if key is not None else None
            if found is None or found[0] < oldest_s:
                return None
            rows.append(found[1])
        return rows

    def _ruled(self, batch: Batch, rule: RuleFunction) -> list[dict[str, Any]] | None:
        try:
            return [rule(record) for record in batch.records()]
        except Exception:  # noqa: BLE001 - a user's rule may raise anything; the next step answers
            return None

    def _columns(self, rows: list[dict[str, Any]]) -> Outputs | None:
        try:
            outputs = {
                name: np.asarray([row[name] for row in rows])
                for name in self._codec.contract.outputs
            }
            self._codec.check_outputs(outputs, len(rows))
        except (AiosError, LookupError, TypeError, ValueError, OverflowError):
            return None
        return outputs

    def inherit(self, other: "FallbackChain") -> None:
        """Take over what an earlier chain remembered, when a new plan replaces it."""
        self._scores = other._scores
