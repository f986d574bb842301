"""What an endpoint's answers were worth, beside what they cost. Pure arithmetic."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aios.monitoring.spending import Made
from aios.records.cost import Kpis, Owner, Used

DAY_S = 86_400.0
MONTH_S = 365.25 / 12 * DAY_S
LEAST_KPIS = 30
"""Below this many values nothing is said about answers without one."""
NORMAL_95 = 1.959964


@dataclass(frozen=True)
class VersionReturn:
    """One version: what it brought, and what it cost. `version` None is training that came to no
    version. `value` is None where nobody fed a kpi back; `error` is half of its 95 % interval,
    0 where nothing was extrapolated."""

    version: int | None
    calls: int
    kpis: int
    value: float | None
    error: float
    serving: float
    training: float
    maintenance: float

    @property
    def cost(self) -> float:
        return self.serving + self.training + self.maintenance


@dataclass(frozen=True)
class Asked:
    """What a return is asked for. `value_per_kpi` is money for one unit of kpi;
    `maintenance_per_month` is what people cost who keep the endpoint; `extrapolate` assumes that
    answers without feedback are worth as much as those with it."""

    since_s: float
    until_s: float
    value_per_kpi: float = 1.0
    maintenance_per_month: float = 0.0
    extrapolate: bool = False


def roi(
    asked: Asked,
    used: Mapping[Owner, Used],
    values: Mapping[int, Kpis],
    *,
    endpoint: str,
    model: str,
    made: Made,
) -> dict[str, Any]:
    """An endpoint's return over a window, as JSON.

    Cost of a version: its arms, the runs that made it, and a share of what keeps everything
    running (control plane, overhead, idle), by its share of what endpoints and training cost;
    people's part is divided in the same way over this endpoint's versions. Value of a version:
    the sum of the last kpi of each answer, times `value_per_kpi`.

    Args:
        used: who used what in the window, of the whole cluster.
        values: kpis by version.
        made: what each training run was for, by its id.
    """
    direct = _direct(used, endpoint, model, made)
    every = sum(one.cost for who, one in used.items() if who.kind in ("endpoint", "training"))
    shared = sum(one.cost for one in used.values()) - every
    mine = sum(serving + training for serving, training, _ in direct.values())
    people = asked.maintenance_per_month * (asked.until_s - asked.since_s) / MONTH_S
    rows = []
    for version in sorted(direct.keys() | values.keys(), key=lambda one: (one is None, one or 0)):
        serving, training, calls = direct.get(version, (0.0, 0.0, 0))
        cost = serving + training
        kept = shared * _part(cost, every) + people * _part(cost, mine)
        if not mine:  # nothing had a price: people's part is all there is
            kept = people * _part(calls, sum(one[2] for one in direct.values()))
        known = values.get(version, Kpis()) if version is not None else Kpis()
        value, error = _value(known, calls, asked)
        rows.append(
            VersionReturn(version, calls, known.count, value, error, serving, training, kept)
        )
    return _summed(asked, rows)


def _direct(
    used: Mapping[Owner, Used], endpoint: str, model: str, made: Made
) -> dict[int | None, tuple[float, float, int]]:
    """By version: cost of serving, cost of training, calls that users made."""
    found: dict[int | None, tuple[float, float, int]] = {}
    for owner, one in used.items():
        version: int | None
        if owner.kind == "endpoint" and owner.endpoint == endpoint:
            version, more = owner.version, (one.cost, 0.0, one.calls * (owner.arm != "shadow"))
        elif owner.kind == "training" and owner.run in made and made[owner.run].model == model:
            version, more = made[owner.run].version, (0.0, one.cost, 0)
        else:
            continue
        known = found.get(version, (0.0, 0.0, 0))
        found[version] = (known[0] + more[0], known[1] + more[1], known[2] + more[2])
    return found


def _value(known: Kpis, calls: int, asked: Asked) -> tuple[float | None, float]:
    """Money, and half of its 95 % interval.

    Extrapolated over a population of `calls` from a sample of `count`: Cochran, Sampling
    Techniques (1977), section 2.9, with its correction for a finite population.
    """
    if not known.count:
        return None, 0.0
    if not asked.extrapolate or calls <= known.count:
        return known.total * asked.value_per_kpi, 0.0
    if known.count < LEAST_KPIS:
        return None, 0.0
    mean = known.total / known.count
    square = known.squares / known.count
    variance = max(0.0, square - mean * mean) * known.count / (known.count - 1)
    if variance < 1e-12 * square:  # the rounding of two large numbers' difference
        variance = 0.0
    rest = 1 - known.count / calls
    error = NORMAL_95 * calls * math.sqrt(variance / known.count * rest)
    return mean * calls * asked.value_per_kpi, error * abs(asked.value_per_kpi)


def _summed(asked: Asked, rows: list[VersionReturn]) -> dict[str, Any]:
    valued = [row.value for row in rows if row.value is not None]
    cost = sum(row.cost for row in rows)
    calls, kpis = sum(row.calls for row in rows), sum(row.kpis for row in rows)
    value = sum(valued) if valued else None
    error = math.sqrt(sum(row.error**2 for row in rows))
    return {
        **asdict(asked),
        "versions": [{**asdict(row), "cost": row.cost, **_net(row)} for row in rows],
        "calls": calls,
        "kpis": kpis,
        "kpi_share": _part(kpis, calls) if calls else None,
        "value": value,
        "error": error,
        "cost": cost,
        "net": None if value is None else value - cost,
        "ratio": None if value is None or not cost else value / cost,
        **_break_even(asked, rows, value, cost),
    }


def _net(row: VersionReturn) -> dict[str, float | None]:
    if row.value is None:
        return {"net": None, "ratio": None}
    return {"net": row.value - row.cost, "ratio": row.value / row.cost if row.cost else None}


def _break_even(
    asked: Asked, rows: list[VersionReturn], value: float | None, cost: float
) -> dict[str, Any]:
    """When what came in has paid for what was spent, if the days to come are as the window was.

    Training is spent once; value, serving and maintenance come every day.
    """
    days = (asked.until_s - asked.since_s) / DAY_S
    if value is None or not cost or days <= 0:
        return {"break_even_s": None, "a_day": None, "paid": None}
    a_day = (value - sum(row.serving + row.maintenance for row in rows)) / days
    if value >= cost:
        return {"break_even_s": None, "a_day": a_day, "paid": True}
    when_s = asked.until_s + (cost - value) / a_day * DAY_S if a_day > 0 else None
    return {"break_even_s": when_s, "a_day": a_day, "paid": False}


def _part(some: float, every: float) -> float:
    return some / every if every > 0 else 0.0
