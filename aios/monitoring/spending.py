"""What was spent in a window, as people ask for it: by endpoint, version, arm, run or kind.

Flows and agents are told by name, and by version where endpoints are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from aios.errors import UsageError
from aios.records.cost import Billed, Owner, Place, Used

HOUR_S = 3600.0
DAY_S = 86_400.0
BY = ("arm", "endpoint", "kind", "run", "version")
HOURLY_S = 4 * DAY_S
"""Longer windows are told by the day."""
_BESIDES = {"flows": "workers of flows", "agents": "hosts of agents"}
"""What these do besides steps and messages."""
_LAST = ("control plane", "overhead", "idle")

Rows = Iterable[tuple[Place, Owner, Used]]


class RunFacts(NamedTuple):
    """What a training run was for: its model, the version that it made, the watch that began it
    (None: a person did)."""

    model: str
    version: int | None
    watch: str | None


Made = Mapping[str, RunFacts]


@dataclass(frozen=True)
class Part:
    """One part of a bill. `share` is of the money, or of the core-hours where there are no prices;
    `per_1000` is the cost of 1,000 calls."""

    what: str
    kind: str
    endpoint: str
    core_hours: float
    gpu_hours: float
    calls: int | None
    cost: float
    share: float
    per_1000: float | None
    because: str | None = None


def check_by(by: str) -> str:
    """What costs can be asked by.

    Raises:
        UsageError: not by this.
    """
    if by not in BY:
        raise UsageError(f"costs are by {', '.join(BY)}; not by {by!r:.40}")
    return by


def spending(
    rows: Rows,
    bills: Iterable[tuple[Place, Billed]],
    *,
    by: str,
    currency: str,
    made: Made,
) -> dict[str, Any]:
    """A bill and its parts, as JSON.

    Only what has a price in `currency` is money; what has none, or another, is told beside it.
    With no currency (no prices) everything without a price counts, in core-hours.
    """
    bill, unpriced, others = _billed(bills, currency)
    mine = [row for row in rows if row[0].currency == currency]
    parts = _parts(mine, by, currency, made, bill)
    told = sum(part.cost if currency else part.core_hours for part in parts)
    whole = bill.cost if currency else bill.core_s / HOUR_S
    return {
        "by": by,
        "currency": currency or None,
        "bill": bill.cost if currency else None,
        "node_hours": bill.node_s / HOUR_S,
        "core_hours": bill.core_s / HOUR_S,
        "gpu_hours": bill.gpu_s / HOUR_S,
        "difference": told - whole,
        "parts": [asdict(part) for part in parts],
        "series": _series(mine, by, currency, made),
        "unpriced_node_hours": unpriced,
        "other_currencies": others,
    }


def _billed(
    bills: Iterable[tuple[Place, Billed]], currency: str
) -> tuple[Billed, dict[str, float], dict[str, float]]:
    bill = Billed()
    unpriced: dict[str, float] = {}
    others: dict[str, float] = {}
    for place, one in bills:
        if place.currency == currency:
            bill += one
        elif place.currency:
            others[place.currency] = others.get(place.currency, 0.0) + one.cost
        else:
            hours = unpriced.get(place.node_type, 0.0)
            unpriced[place.node_type] = hours + one.node_s / HOUR_S
    return bill, unpriced, others


def _parts(rows: Rows, by: str, currency: str, made: Made, bill: Billed) -> list[Part]:
    sums: dict[_Name, Used] = {}
    users: dict[_Name, int] = {}
    for _, owner, used in rows:
        key = _named(owner, by, made)
        sums[key] = sums.get(key, Used()) + used
        # A shadow's calls are copies: its part has them, an endpoint's as a whole has not.
        mine = by in ("arm", "version") or owner.arm != "shadow"
        users[key] = users.get(key, 0) + (used.calls if mine else 0)
    whole = bill.cost if currency else bill.core_s
    found = []
    for key, used in sums.items():
        calls = users[key] if key.kind == "endpoint" else None
        amount = used.cost if currency else used.core_s
        found.append(
            Part(
                what=key.what,
                kind=key.kind,
                endpoint=key.endpoint,
                core_hours=used.core_s / HOUR_S,
                gpu_hours=used.gpu_s / HOUR_S,
                calls=calls,
                cost=used.cost,
                share=amount / whole if whole > 0 else 0.0,
                per_1000=1000 * used.cost / calls if calls and currency else None,
                because=key.because,
            )
        )
    return sorted(found, key=lambda part: (part.kind in _LAST, *_rank(part)))


def _rank(part: Part) -> tuple[int, float, str]:
    place = _LAST.index(part.kind) if part.kind in _LAST else 0
    return place, -part.share, part.what


class _Name(NamedTuple):
    """Of a part: its kind, what it is called, why it is there, and of which endpoint it is."""

    kind: str
    what: str
    because: str | None = None
    endpoint: str = ""


def _named(owner: Owner, by: str, made: Made) -> _Name:
    """The part that an owner belongs to."""
    if owner.kind == "endpoint":
        what = "endpoints" if by == "kind" else _endpoint(owner, by)
        return _Name(owner.kind, what, None, "" if by == "kind" else owner.endpoint)
    if owner.kind == "training":
        return _training(owner, by, made.get(owner.run, RunFacts("unknown models", None, None)))
    return _Name(owner.kind, owner.kind if by == "kind" else _acting(owner, by))


def _acting(owner: Owner, by: str) -> str:
    """Of a flow or a class of agents; of what has no name of its own, what it is."""
    if not owner.model:
        return _BESIDES.get(owner.kind, owner.kind)
    name = f"{owner.model}:{owner.version}" if by in ("arm", "version") else owner.model
    return f"{'flow' if owner.kind == 'flows' else 'agents'} {name}"


def _endpoint(owner: Owner, by: str) -> str:
    if by == "arm":
        return f"{owner.endpoint} {owner.arm}"
    if by == "version":
        version = f"{owner.model}:{owner.version}"
        return version if owner.model == owner.endpoint else f"{version} at {owner.endpoint}"
    return owner.endpoint


def _training(owner: Owner, by: str, run: RunFacts) -> _Name:
    if by == "run":
        return _Name(owner.kind, owner.run, f"watch {run.watch}" if run.watch else "a person")
    if by == "version":
        made = f"{run.model}, no version" if run.version is None else f"{run.model}:{run.version}"
        return _Name(owner.kind, f"training of {made}")
    return _Name(owner.kind, "training" if by == "kind" else f"training of {run.model}")


def _series(rows: Rows, by: str, currency: str, made: Made) -> list[dict[str, Any]]:
    """The parts over time: by the hour, or by the day where the window is long."""
    some = list(rows)
    if not some:
        return []
    starts = [place.start_s for place, _, _ in some]
    long = max(starts) - min(starts) > HOURLY_S or any(p.width_s > HOUR_S for p, _, _ in some)
    width_s = DAY_S if long else HOUR_S
    bars: dict[float, dict[str, float]] = {}
    for place, owner, used in some:
        bar = bars.setdefault(place.start_s - place.start_s % width_s, {})
        what = _named(owner, by, made).what
        bar[what] = bar.get(what, 0.0) + (used.cost if currency else used.core_s / HOUR_S)
    return [{"start_s": at_s, "width_s": width_s, "parts": bars[at_s]} for at_s in sorted(bars)]
