"""`rt.cost` and `rt.roi`: what everything costs, and what an endpoint brings."""

import io
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aios.errors import UsageError
from aios.presentation import ALARM, Shown, as_html, moment
from aios.runtime.tables import Look
from aios.runtime.transport import Transport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Time = float | datetime
HOUR_S = 3600.0
DAY_S = 86_400.0
MOST_COLOURS = 7
_GREYS = {"control plane": "#8a8a8a", "overhead": "#bdbdbd", "idle": "#e6e6e6"}
_COLOURS = ("#2e6f9e", "#e08a3c", "#4f9d69", "#a2547f", "#8f7fc2", "#c2a83e", "#5bb0c4")
_REST = "all others"
NO_PRICES = (
    "no prices are set, so this is in core-hours; say what a node costs in aios.toml ([prices] "
    'currency = "EUR", default_node_hour = 0.10), in AIOS_PRICES, or with '
    'aios.local(prices={"currency": "EUR", "default_node_hour": 0.10})'
)


class Costs(Shown):
    """A bill and its parts. The parts sum to the bill; `difference` says how nearly.

    Attributes:
        bill: what all nodes cost in the window; None without prices.
        parts: `what`, `kind`, `core_hours`, `gpu_hours`, `calls`, `cost`, `share`, `per_1000` (the
            cost of 1,000 calls) and `because` each, idle last.
        core_hours, node_hours, gpu_hours: what the nodes had, used or not.
        fields: all of it, as plain values.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self.fields = found
        self.by: str = found["by"]
        self.currency: str | None = found["currency"]
        self.bill: float | None = found["bill"]
        self.parts: list[dict[str, Any]] = found["parts"]
        self.core_hours: float = found["core_hours"]
        self.node_hours: float = found["node_hours"]
        self.gpu_hours: float = found["gpu_hours"]
        self.difference: float = found["difference"]

    @property
    def idle_share(self) -> float:
        """Which part of the bill nothing was done for."""
        return float(sum(part["share"] for part in self.parts if part["kind"] == "idle"))

    @property
    def adds_up(self) -> bool:
        """Whether the parts sum to the bill, to rounding."""
        whole = self.core_hours if self.bill is None else self.bill
        return abs(self.difference) <= 1e-6 * max(whole, 1e-6)

    def of(self, endpoint: str) -> str:
        """The parts of one endpoint alone, as HTML."""
        parts = [part for part in self.parts if part["endpoint"] == endpoint]
        share = sum(part["share"] for part in parts)
        of_what = "core-hours" if self.bill is None else f"{money(self.bill)} {self.currency}"
        title = f"cost since {self._since()}: {share:.1%} of the cluster's {of_what}"
        return as_html(title, *self._table(parts))

    def _shown(self) -> Look:
        return self._title(), *self._table(self.parts)

    def _table(self, parts: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
        rows = [self._row(part) for part in parts]
        amount = (
            [] if self.currency is None else [self.currency, f"{self.currency} per 1,000 calls"]
        )
        headings = [self.by, "share", *amount, "core-hours", "GPU-hours", "calls"]
        if self.by == "run":
            headings.append("begun by")
        if not self.gpu_hours:
            place = headings.index("GPU-hours")
            headings.pop(place)
            for row in rows:
                row.pop(place)
        return headings, rows

    def _row(self, part: dict[str, Any]) -> list[Any]:
        amount = [] if self.currency is None else [_money(part["cost"]), _money(part["per_1000"])]
        hours = [_hours(part["core_hours"]), _hours(part["gpu_hours"])]
        row = [part["what"], _percent(part["share"]), *amount, *hours, part["calls"]]
        return [*row, part["because"]] if self.by == "run" else row

    def _title(self) -> str:
        found = self.fields
        window = f"{self._since()} to {moment(found['until_s'])}"
        if not self.parts:
            return f"cost, {window}: nothing was metered yet; the first figures come within 20 s"
        hours = f"{self.node_hours:,.4g} node-hours, {self.core_hours:,.4g} core-hours"
        whole = f"{money(self.bill)} {self.currency}" if self.currency else hours
        beside = f" ({hours})" if self.currency else ""
        lines = [f"cost, {window}: {whole}{beside}, {self.idle_share:.0%} idle"]
        if self.adds_up:
            lines.append("the parts sum to the bill")
        else:
            lines.append(f"{ALARM}the parts do not sum to the bill: {self.difference:+.6g}")
        if self.currency is None:
            lines.append(NO_PRICES)
        else:
            for kind, hours_there in found["unpriced_node_hours"].items():
                told = f"{hours_there:,.4g} node-hours of type {kind!r}"
                lines.append(f"{ALARM}{told} had no price and are not in it")
        for currency, amount in found["other_currencies"].items():
            lines.append(f"{ALARM}{money(amount)} {currency} from before are not in it")
        return "\n".join(lines)

    def _since(self) -> str | None:
        found = self.fields
        return moment(max(found["since_s"], found["first_s"] or found["since_s"]))

    def figure(self) -> "Figure":
        """The parts over time, by the hour or the day, as a matplotlib figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.5, 3.2), layout="constrained")
        axes = figure.add_subplot()
        series = self.fields["series"]
        names = _drawn(self.parts)
        bottoms = [0.0] * len(series)
        places = range(len(series))
        for name, colour in names.items():
            heights = [_height(bar["parts"], name, names) for bar in series]
            axes.bar(places, heights, 0.8, bottoms, label=name, color=colour)
            bottoms = [low + high for low, high in zip(bottoms, heights, strict=True)]
        daily = bool(series) and series[0]["width_s"] >= DAY_S
        step = max(1, len(series) // 12)
        labels = [_label(bar["start_s"], daily) for bar in series]
        axes.set_xticks(list(places)[::step], labels[::step], fontsize=8)
        axes.set_xlim(-0.6, max(len(series), 4) - 0.4)
        unit = self.currency or "core-hours"
        axes.set_ylabel(f"{unit} by the {'day' if daily else 'hour'}", fontsize=9)
        axes.tick_params(axis="y", labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if series:
            handles, told = axes.get_legend_handles_labels()
            figure.legend(handles[::-1], told[::-1], loc="outside right upper", fontsize=8)
        return figure

    def _repr_html_(self) -> str:
        table = super()._repr_html_()
        if not self.fields["series"]:
            return table
        try:
            figure = self.figure()
        except ModuleNotFoundError:
            return table  # without matplotlib there is the table
        text = io.StringIO()
        figure.savefig(text, format="svg")
        drawn = text.getvalue()
        return table + drawn[drawn.index("<svg") :]


class Roi(Shown):
    """What an endpoint's answers were worth, beside what they cost.

    Attributes:
        value: money; None where nobody fed a kpi back. `error` is half of its 95 % interval, 0
            where nothing was extrapolated.
        cost, net, ratio: over all versions; `ratio` is value by cost.
        kpi_share: for which part of the calls a kpi is known.
        break_even_s: when it will have paid for itself if days go on like these, Unix seconds;
            None if it has (`paid`), or never will.
        versions: the same for each version, with `serving`, `training` and `maintenance`.
        fields: all of it, as plain values.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self.fields = found
        self.endpoint: str = found["endpoint"]
        self.currency: str | None = found["currency"]
        self.value: float | None = found["value"]
        self.error: float = found["error"]
        self.cost: float = found["cost"]
        self.net: float | None = found["net"]
        self.ratio: float | None = found["ratio"]
        self.kpi_share: float | None = found["kpi_share"]
        self.paid: bool | None = found["paid"]
        self.break_even_s: float | None = found["break_even_s"]
        self.versions: list[dict[str, Any]] = found["versions"]

    @property
    def verdict(self) -> str:
        """One line: what it brought, or why that is not known."""
        unit = f" {self.currency}" if self.currency else ""
        if self.value is None:
            if self.fields["extrapolate"] and self.fields["kpis"]:
                return (
                    f"not enough data: {self.fields['kpis']} answers with a kpi are too few to say "
                    "anything of the others"
                )
            return (
                "not enough data: no answer has a kpi yet; tell what answers were worth with "
                f'rt.feedback(request_id, {{"kpi": 12.5}}, endpoint="{self.endpoint}")'
            )
        error = f" ± {money(self.error)}" if self.error else ""
        told = f"brought {money(self.value)}{error}{unit} for {money(self.cost)}{unit}"
        return f"{told}: net {money(self.net)}{unit}{self._when()}"

    def _when(self) -> str:
        if self.paid:
            return ", it has paid for itself"
        if self.break_even_s is not None:
            day = moment(self.break_even_s)
            return f"; if days go on like these it has paid for itself on {(day or '')[:10]}"
        return "; as days are, it never pays for itself" if self.paid is False else ""

    def _shown(self) -> Look:
        found = self.fields
        window = f"{moment(found['since_s'])} to {moment(found['until_s'])}"
        lines = [f"{self.endpoint}, {window}: {self.verdict}"]
        if found["kpis"]:
            lines.append(self._known())
        if self.currency is None:
            lines.append(f"{ALARM}the cost lacks machines: {NO_PRICES.partition(';')[2].strip()}")
        names = ["serving", "training", "maintenance", "cost"]
        headings = ["version", "calls", "with kpi", "value", *names, "net", "ratio"]
        rows = [
            [
                self._version(row["version"]),
                row["calls"],
                row["kpis"],
                _money(row["value"]),
                *(_money(row[name]) for name in names),
                _money(row["net"]),
                None if row["ratio"] is None else Written(row["ratio"], f"{row['ratio']:.2f}x"),
            ]
            for row in self.versions
        ]
        return "\n".join(lines), headings, rows

    def _version(self, version: int | None) -> str:
        return "no version" if version is None else f"{self.fields['model']}:{version}"

    def _known(self) -> str:
        share = "" if self.kpi_share is None else f", {self.kpi_share:.1%} of the calls"
        rest = "are taken to be worth as much" if self.fields["extrapolate"] else "count nothing"
        told = f"a kpi is known for {self.fields['kpis']:,} answers{share}; the others {rest}"
        blank = [self._version(row["version"]) for row in self.versions if row["value"] is None]
        if blank:
            told += f"; what {', '.join(blank)} brought is not known, and counts nothing"
        fraction = self.fields["record_fraction"]
        if fraction < 1:
            told += f" (only {fraction:.0%} of answers are recorded and can have one)"
        return told


class Accounted:
    """What things cost, and what they bring."""

    _transport: Transport

    def cost(
        self, since: Time | None = None, until: Time | None = None, *, by: str = "endpoint"
    ) -> Costs:
        """What the cluster cost, and who made it cost that: endpoints, training, the control
        plane, overhead (Ray, HAProxy, the system), idle. The parts sum to the bill.

        Nodes cost what `[prices]` in the settings says; a process pays for the CPU seconds that
        it used and the GPUs that it reserved. Figures are at most 20 s old.

        Args:
            since: default 7 days ago; a datetime or Unix seconds, from the start of its hour (of
                its day, where it is more than 60 days ago).
            until: default now.
            by: `endpoint`, `version`, `arm`, `run` (training runs) or `kind`.

        Raises:
            UsageError: it ends before it begins, or `by` is something else.
        """
        found = self._transport.get(
            "/api/v1/costs", since_s=_seconds(since), until_s=_seconds(until), by=by
        )
        return Costs(found)

    def roi(
        self,
        endpoint: str,
        *,
        value_per_kpi: float = 1.0,
        since: Time | None = None,
        until: Time | None = None,
        maintenance_per_month: float = 0.0,
        extrapolate: bool = False,
    ) -> Roi:
        """What an endpoint's answers were worth, by the `kpi` that was fed back, beside what it
        cost: serving and training each version, and its share of what keeps all running.

        Args:
            value_per_kpi: money for one unit of kpi, in the currency of the prices.
            since, until: as in `cost`; default the last 30 days.
            maintenance_per_month: what the people cost who look after it.
            extrapolate: take answers without a kpi to be worth as much as those with one. That
                holds where what is fed back is a fair sample.

        Raises:
            UnknownEndpoint: it is not deployed.
        """
        found = self._transport.get(
            f"/api/v1/endpoints/{endpoint}/roi",
            since_s=_seconds(since),
            until_s=_seconds(until),
            value_per_kpi=value_per_kpi,
            maintenance_per_month=maintenance_per_month,
            extrapolate=extrapolate,
        )
        return Roi(found)


def _seconds(at: Time | None) -> float | None:
    if at is None:
        return None
    if isinstance(at, datetime):
        return at.timestamp()
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
        raise UsageError(f"a time is a datetime or Unix seconds, not {at!r:.60}")
    return float(at)


class Written(float):
    """A number that is shown as it was written, and set to the right as numbers are."""

    text: str

    def __new__(cls, value: float, text: str) -> "Written":
        found = super().__new__(cls, value)
        found.text = text
        return found

    def __format__(self, spec: str) -> str:
        return self.text


def _money(amount: float | None) -> Written | None:
    return None if amount is None else Written(amount, money(amount) or "")


def money(amount: float | None) -> str | None:
    """Money for people: two digits after the point, or what a small amount needs.

    >>> money(1234.5), money(0.0123456), money(0.0), money(-3.0)
    ('1,234.50', '0.0123', '0.00', '-3.00')
    """
    if amount is None:
        return None
    return f"{amount:,.2f}" if amount == 0 or abs(amount) >= 0.1 else f"{amount:.3g}"


def _hours(hours: float) -> Written:
    return Written(hours, f"{hours:,.2f}" if hours >= 1 else f"{hours:.4f}")


def _percent(share: float) -> Written:
    return Written(share, f"{share:.1%}")


def _drawn(parts: list[dict[str, Any]]) -> dict[str, str]:
    """The names in a figure with their colours, from below: the largest first, the rest as one,
    then in grey what served nobody in particular."""
    mine = [part["what"] for part in parts if part["kind"] not in _GREYS]
    found = dict(zip(mine[:MOST_COLOURS], _COLOURS, strict=False))
    if len(mine) > MOST_COLOURS:
        found[_REST] = "#6b6b6b"
    greys = {part["what"]: _GREYS[part["kind"]] for part in parts if part["kind"] in _GREYS}
    return {**found, **greys}


def _height(parts: dict[str, float], name: str, names: dict[str, str]) -> float:
    if name == _REST:
        return sum(amount for what, amount in parts.items() if what not in names)
    return parts.get(name, 0.0)


def _label(start_s: float, daily: bool) -> str:
    """Days are UTC's, as they are kept; hours are told in local time."""
    if daily:
        return datetime.fromtimestamp(start_s, UTC).strftime("%d %b")
    return (moment(start_s) or "")[5:16].replace(" ", "\n")
