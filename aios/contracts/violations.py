"""Faults of one batch, collected and told in one message, and how often each kind came."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aios.contracts.fields import MISSING, FaultKind, RefusedValue
from aios.errors import ContractViolation

MOST_TOLD = 10
"""How many faults one answer lists: enough to fix the cause, few enough to stay small."""

MOST_COUNTED = 100
"""Fields and kinds that one endpoint's counts tell apart; what comes after is among the others."""
MOST_UNKNOWN = 20
"""How many of them may be names that no contract has: callers choose those."""
OTHERS = "(others)"

_SHOWN_CHARACTERS = 60
_LAST = 10**9


def shorten(value: Any) -> str:
    """The value as text of at most 60 characters, safe to print and to encode."""
    if value is None:
        return "null"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 190:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        text = '"' + value[:_SHOWN_CHARACTERS].replace("\0", "\\0") + '"'
        text = text.encode("utf-8", "backslashreplace").decode()
    elif isinstance(value, list | tuple):
        text = f"a list of {len(value)}"
    elif isinstance(value, dict):
        text = f"an object of {len(value)} fields"
    elif isinstance(value, np.ndarray):
        text = f"an array of shape {list(value.shape)}"
    elif isinstance(value, int | float):
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    if len(text) > _SHOWN_CHARACTERS:
        return text[: _SHOWN_CHARACTERS - 1] + "…"
    return text


class Faults:
    """Collects what is wrong with a batch; at most ten faults of one field are looked for."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._found: list[tuple[int, int, dict[str, Any], str]] = []
        self._kinds: set[tuple[str, str]] = set()
        self._truncated = False

    def add(
        self,
        row: int | None,
        field: str | None,
        value: Any,
        reason: str,
        allowed: str,
        order: int = _LAST,
        kind: FaultKind = "wrong_type",
    ) -> None:
        """Note one fault; `order` is the field's place in the contract."""
        shown = "nothing" if value is MISSING else shorten(value)
        sentence = reason if value is MISSING else f"{shown} {reason}"
        name = None if field is None else shorten(field)[1:-1]
        place = ", ".join(
            ([] if row is None else [f"row {row}"]) + ([] if name is None else [f'field "{name}"'])
        )
        entry = {"row": row, "field": name, "value": shown, "allowed": allowed, "reason": reason}
        entry["kind"] = kind
        told = f"{place}: {sentence}" if place else sentence
        self._found.append((-1 if row is None else row, order, entry, told))
        self._kinds.add((name or "", kind))

    def refuse(
        self,
        row: int | None,
        field: str,
        value: Any,
        refusal: RefusedValue,
        allowed: str,
        order: int = _LAST,
    ) -> None:
        """Note a value that its field refused."""
        self.add(row, field, value, str(refusal), allowed, order, refusal.kind)

    def truncate(self) -> None:
        """Say that there may be more faults than were collected."""
        self._truncated = True

    def __len__(self) -> int:
        return len(self._found)

    def error(self) -> ContractViolation:
        """The faults as one error, the first rows first."""
        found = sorted(self._found, key=lambda fault: (fault[0], fault[1]))
        told = [fault[3] for fault in found[:3]]
        more = len(found) - len(told)
        ending = f" (and {'at least ' if self._truncated else ''}{more} more)" if more else ""
        if len(found) == 1:
            ending = f"; allowed: {found[0][2]['allowed']}"
        error = ContractViolation(
            f"{self._subject} {'; '.join(told)}{ending}".strip(),
            violations=[fault[2] for fault in found[:MOST_TOLD]],
        )
        error.kinds = frozenset(self._kinds)
        return error

    def raise_if_any(self) -> None:
        """Raise what was found.

        Raises:
            ContractViolation: something was found.
        """
        if self._found:
            raise self.error()


def _printable(name: str) -> str:
    """Names that end up in terminals and logs: no line breaks, no escapes."""
    return "".join(mark if mark.isprintable() else "�" for mark in name)


class ViolationCounts:
    """How often requests broke the contract, by field and kind of fault.

    Names may come from strangers, so the memory is bounded: beyond `MOST_COUNTED` fields and
    kinds, and beyond `MOST_UNKNOWN` names that no contract has, the count is that of `OTHERS`.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._unknown = 0

    def add(self, field: str, kind: str, count: int = 1) -> None:
        """Count requests in which this field had this fault; "" is the body as a whole."""
        key = _printable(field), kind
        if key not in self._counts:
            unknown = kind == "unknown"
            if len(self._counts) >= MOST_COUNTED or (unknown and self._unknown >= MOST_UNKNOWN):
                key = OTHERS, kind
            else:
                self._unknown += unknown
        self._counts[key] = self._counts.get(key, 0) + count

    def add_growth(
        self, now: Mapping[str, Mapping[str, int]], before: Mapping[str, Mapping[str, int]]
    ) -> None:
        """Count what grew between two reports of one process; a count that fell began anew."""
        for field, kinds in now.items():
            for kind, count in kinds.items():
                earlier = before.get(field, {}).get(kind, 0)
                grown = count - earlier if count >= earlier else count
                if grown:
                    self.add(field, kind, grown)

    def by_field(self) -> dict[str, dict[str, int]]:
        """`{field: {kind: requests}}`, as it travels."""
        found: dict[str, dict[str, int]] = {}
        for (field, kind), count in self._counts.items():
            found.setdefault(field, {})[kind] = count
        return found
