"""What came in and went out of a replica, summarised by field, in windows of time."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from aios.contracts import Batch
from aios.contracts.batch import Layout, python_values
from aios.records.watching import WindowPart
from aios.serving.privacy import Privacy
from aios.serving.runner import Outputs
from aios.telemetry import Summary

MAX_PENDING_ROWS = 50_000
"""Rows held between two folds, a second apart; beyond, new ones are counted as dropped."""
MAX_READY = 120
"""Parts kept while the kernel cannot be reached: two hours of one arm by minutes."""

_Entry = tuple[str, int, Batch, Outputs | None]


@dataclass
class _Open:
    """The window that is going on, of one arm and version."""

    start_s: float
    rows: int
    dropped: int
    inputs: dict[str, Summary]
    outputs: dict[str, Summary]


class FeatureWindows:
    """Summaries of inputs and outputs, of each arm, in windows of `width_s` seconds.

    `add` only appends; `fold` does the work, off the event loop, about once a second. A window
    is ready when its time has passed; a replica that is killed loses the one that is going on.
    Tensors are left out. Private fields are left out too, or told apart by their hashes only.

    Args:
        endpoint: whose windows these are.
        replica: this replica's name, part of the ids of what it sends.
        width_s: how long a window is; all replicas cut at multiples of it.
        privacy: which fields are private; none by default.
    """

    def __init__(
        self, endpoint: str, replica: str, width_s: float, privacy: Privacy | None = None
    ) -> None:
        self.privacy = privacy or Privacy()
        self._endpoint = endpoint
        self._source = f"{replica}-{os.getpid()}"
        self._width_s = width_s
        self._pending: list[_Entry] = []
        self._pending_rows = 0
        self._dropped = 0
        self._open: dict[tuple[str, int], _Open] = {}
        self._ready: dict[str, WindowPart] = {}
        self._closed = 0

    def add(self, arm: str, version: int, batch: Batch, outputs: Outputs | None) -> None:
        """Take one answered request; `outputs` is None where a fallback answered."""
        if self._pending_rows >= MAX_PENDING_ROWS:
            self._dropped += batch.rows
            return
        self._pending.append((arm, version, batch, outputs))
        self._pending_rows += batch.rows

    def take(self) -> list[_Entry]:
        """What is pending, for `fold`; call it where `add` is called."""
        taken, self._pending, self._pending_rows = self._pending, [], 0
        return taken

    def fold(self, entries: list[_Entry], now_s: float) -> list[WindowPart]:
        """Count entries into the windows of `now_s`; what is ready and was not yet `sent`."""
        start_s = now_s - now_s % self._width_s
        self._close(start_s)
        groups: dict[tuple[str, int, Layout], list[_Entry]] = {}
        for entry in entries:
            groups.setdefault((entry[0], entry[1], entry[2].layout), []).append(entry)
        for (arm, version, _), group in groups.items():
            window = self._open.setdefault((arm, version), _Open(start_s, 0, 0, {}, {}))
            _count(window, group, self.privacy)
        if self._dropped and self._open:
            next(iter(self._open.values())).dropped += self._dropped
            self._dropped = 0
        return list(self._ready.values())

    def finish(self, now_s: float) -> list[WindowPart]:
        """Close what is going on, at the end of the replica's life."""
        self.fold(self.take(), now_s)
        self._close(now_s + self._width_s)
        return list(self._ready.values())

    def sent(self, parts: list[WindowPart]) -> None:
        """The kernel has them."""
        for part in parts:
            self._ready.pop(part.id, None)

    def _close(self, start_s: float) -> None:
        """Make ready what began before `start_s`, or after it: a clock may be set back."""
        for (arm, version), window in list(self._open.items()):
            if window.start_s == start_s:
                continue
            del self._open[(arm, version)]
            # Numbered, as a minute comes twice where a clock is set back.
            self._closed += 1
            part = WindowPart(
                id=f"{self._source}-{arm}-{version}-{window.start_s:.3f}-{self._closed}",
                endpoint=self._endpoint,
                arm=arm,
                version=version,
                start_s=window.start_s,
                end_s=window.start_s + self._width_s,
                rows=window.rows,
                dropped=window.dropped,
                inputs={name: one.to_json() for name, one in window.inputs.items()},
                outputs={name: one.to_json() for name, one in window.outputs.items()},
            )
            self._ready[part.id] = part
        while len(self._ready) > MAX_READY:
            self._dropped += self._ready.pop(next(iter(self._ready))).rows


def _count(window: _Open, group: list[_Entry], privacy: Privacy) -> None:
    batch = Batch.concat([entry[2] for entry in group])
    layout, rules = batch.layout, privacy.rules(group[0][1])
    window.rows += batch.rows
    scalars = [name for name in layout.names if name not in layout.tensors]
    for name, column in batch.columns(scalars).items():
        place = layout.index[name]
        if name in rules.inputs:
            values = python_values(column, layout.readers[place])
            _add(window.inputs, name, privacy.kept(rules.inputs[name], values))
        elif column.dtype.kind in "fiu" and layout.readers[place] != "bool":
            _add(window.inputs, name, column)
        else:
            _add(window.inputs, name, python_values(column, layout.readers[place]))
    answers = [entry[3] for entry in group if entry[3] is not None]
    for name in answers[0] if answers else ():
        arrays = [answer[name] for answer in answers if name in answer]
        if all(array.ndim == 1 or array[0].size == 1 for array in arrays if len(array)):
            given: Any = np.concatenate([array.ravel() for array in arrays])
            if name in rules.outputs:
                given = privacy.kept(rules.outputs[name], given.tolist())
            _add(window.outputs, name, given)


def _add(summaries: dict[str, Summary], name: str, values: Any) -> None:
    if values is None:
        return  # nothing of it may be kept
    number = isinstance(values, np.ndarray) and values.dtype.kind in "fiu"
    kind: Any = "number" if number else "text"
    if name not in summaries:
        summaries[name] = Summary(kind)
    summaries[name].add(values)
