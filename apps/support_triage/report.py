"""The report of one run: a page that needs nothing but itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from apps.drawing import as_svg
from apps.markup import page, percent, table, tile
from apps.support_triage import charts
from apps.support_triage.figures import (
    Bill,
    Happened,
    Kpis,
    Ledger,
    Outcome,
    Times,
    by_product,
    kpis,
    share,
)


@dataclass(frozen=True)
class RolloutTold:
    """The rollout of the classifier's second version; times in seconds since the desk opened."""

    outcome: str
    reason: str
    began_s: float
    ended_s: float
    verdicts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Told:
    """One run.

    Attributes:
        outcomes: of every ticket.
        ledger: tickets against replies.
        happened: in order.
        accuracies: of each version on all tickets, when it was trained.
        quality: what the runtime itself says of the live quality, from feedback.
        repeats: tickets that were sent twice.
        machine: where it ran.
    """

    outcomes: tuple[Outcome, ...]
    ledger: Ledger
    bill: Bill
    happened: tuple[Happened, ...]
    rollout: RolloutTold
    accuracies: Mapping[int, float]
    quality: str
    repeats: int
    machine: str = ""


def write_report(told: Told, folder: Path) -> Path:
    """Write `support_triage.html` into a folder, which is made if it is missing.

    Raises:
        aios.UsageError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = kpis(told.outcomes)
    groups = by_product(told.outcomes)
    drawn = {
        "timeline": charts.timeline(told.outcomes, told.happened),
        "products": charts.products(groups),
        "thresholds": charts.thresholds(told.outcomes, list(told.accuracies)),
    }
    body = _BODY.format(
        tiles=_tiles(told, every),
        proof=_proof(told),
        happened=table(
            ("at", "what"),
            [(f"{one.at_s:.0f} s", one.text) for one in told.happened],
            numbers=(0,),
        ),
        rollout=_rollout(told.rollout),
        by_product=_products(groups, told.bill, every),
        versions=_versions(told),
        quality=escape(told.quality),
        by_whom=_by_whom(told.outcomes),
        cost=_cost(told.bill, every),
        **{
            name: f'<div class="chart">{as_svg(figure, f"triage {name}")}</div>'
            for name, figure in drawn.items()
        },
    )
    path = folder / "support_triage.html"
    html = page("The support desk", _headline(told, every), body, foot=told.machine)
    path.write_text(html, encoding="utf-8")
    return path


def _headline(told: Told, every: Kpis) -> str:
    book = told.ledger
    return (
        f"{book.sent:,} real complaints came in, {percent(every.deflection)} were answered without "
        f"a person, while the classifier was replaced and two processes were killed: "
        f"{len(book.lost)} lost, {len(book.twice)} answered twice."
    )


def _tiles(told: Told, every: Kpis) -> str:
    bill = told.bill
    cost = share_of(bill.whole + bill.people(every), every.tickets)
    return "".join(
        (
            tile("deflected", percent(every.deflection), "answered without a person"),
            tile("of these right", percent(every.accuracy), "against the true product"),
            tile("response p50", seconds(every.quick.p50_s), f"p95 {seconds(every.quick.p95_s)}"),
            tile("by a person p50", seconds(every.slow.p50_s), f"p95 {seconds(every.slow.p95_s)}"),
            tile(
                "cost of a ticket",
                f"{cost:.2f} {bill.currency}",
                f"{share_of(bill.whole, every.tickets):.2g} of it machines",
            ),
        )
    )


def _proof(told: Told) -> str:
    book = told.ledger
    ways: dict[str, int] = {}
    for one in told.outcomes:
        ways[one.way] = ways.get(one.way, 0) + 1
    rows = [
        ("tickets sent", f"{book.sent:,}"),
        *((f"by {name}", f"{count:,}") for name, count in ways.items()),
        ("sent a second time", f"{told.repeats:,}"),
        ("messages on the queue of replies", f"{book.replies:,}"),
        ("tickets without a reply", f"{len(book.lost):,}"),
        ("tickets with two", f"{len(book.twice):,}"),
        ("replies to no ticket", f"{len(book.strange):,}"),
    ]
    return table(("what", "count"), rows, numbers=(1,))


def _rollout(told: RolloutTold) -> str:
    rows = [
        (
            str(one["rule"]),
            str(one["state"]).replace("_", " "),
            _number(one.get("estimate")),
            f"{_number(one.get('lower'))} to {_number(one.get('upper'))}",
            _number(one["threshold"]),
        )
        for one in told.verdicts
    ]
    lead = f"{told.outcome.replace('_', ' ')} after {told.ended_s - told.began_s:.0f} s"
    reason = f": {told.reason}" if told.reason else ""
    return f"<p>{escape(lead + reason)}</p>" + table(
        ("rule", "verdict", "estimate", "confidence sequence", "limit"), rows, numbers=(2, 3, 4)
    )


def _products(groups: Mapping[str, Kpis], bill: Bill, every: Kpis) -> str:
    heads = ("product", "tickets", "deflected", "right", "p50 / p95", "by a person p50 / p95")
    heads += (f"machines, {bill.currency}", f"people, {bill.currency}", "each")
    rows = [_product(name, found, bill, every) for name, found in (*groups.items(), ("all", every))]
    return table(heads, rows, numbers=tuple(range(1, len(heads))))


def _product(name: str, found: Kpis, bill: Bill, every: Kpis) -> tuple[str, ...]:
    machines, people = bill.machines(found.tickets, every.tickets), bill.people(found)
    return (
        name,
        f"{found.tickets:,}",
        _percent(found.deflection),
        _percent(found.accuracy),
        _pair(found.quick),
        _pair(found.slow),
        f"{machines:.2g}",
        f"{people:,.2f}",
        f"{share_of(machines + people, found.tickets):.2f}",
    )


def _versions(told: Told) -> str:
    rows = []
    for version, before in told.accuracies.items():
        asked = [one for one in told.outcomes if one.version == version]
        sure = [one for one in asked if one.by == "model"]
        rows.append(
            (
                f"version {version}",
                percent(before),
                f"{len(asked):,}",
                _percent(share(sum(one.guess == one.true for one in asked), len(asked))),
                _percent(share(len(sure), len(asked))),
                _percent(share(sum(one.right for one in sure), len(sure))),
            )
        )
    heads = ("", "right on all tickets, offline", "tickets asked", "right", "sure enough")
    return table((*heads, "right where sure"), rows, numbers=(1, 2, 3, 4, 5))


def _by_whom(found: Sequence[Outcome]) -> str:
    rows = []
    for name in dict.fromkeys(one.by for one in found if one.by is not None):
        mine = [one for one in found if one.by == name]
        right = share(sum(one.right for one in mine), len(mine))
        rows.append((name, f"{len(mine):,}", percent(len(mine) / len(found)), _percent(right)))
    rows.sort(key=lambda row: -int(row[1].replace(",", "")))
    return table(("answered by", "tickets", "share", "right"), rows, numbers=(1, 2, 3))


def _cost(bill: Bill, every: Kpis) -> str:
    rows = [
        (name, f"{amount:.3g}", percent(amount / bill.whole if bill.whole else 0.0))
        for name, amount in sorted(bill.parts.items(), key=lambda part: -part[1])
    ]
    each = f"{share_of(bill.whole, every.tickets):.3g}"
    rows.append(("the bill", f"{bill.whole:.3g}", f"{each} {bill.currency} a ticket"))
    return table(("machines", bill.currency, "share"), rows, numbers=(1, 2))


def share_of(amount: float, count: int) -> float:
    """An amount for each of so many; 0 of none."""
    return amount / count if count else 0.0


def seconds(value: float) -> str:
    """Seconds for people; a dash for NaN."""
    if value != value:
        return "–"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _pair(found: Times) -> str:
    return f"{seconds(found.p50_s)} / {seconds(found.p95_s)}" if found.count else "–"


def _percent(value: float) -> str:
    return "–" if value != value else f"{value:.0%}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


_BODY = """<div class="tiles">{tiles}</div>
<h2>What happened</h2>
{timeline}
{happened}
<h2>Nothing lost, nothing answered twice</h2>
<p>What was sent, counted against the messages on the queue of replies. Each reply is one event
under the ticket's own id, so that a ticket which is sent again, an agent whose process dies, and a
step that runs a second time give no second one.</p>
{proof}
<h2>By product</h2>
{products}
{by_product}
<p>Machines: the runtime's own bill from opening to closing, each ticket the same share of it.
People: an assumption, so much for each ticket that a person read.</p>
<h2>Who answered</h2>
<p>Rules come first, then the classifier where it is sure enough, then a person. The person here is
a stand-in that knows the true product and answers a moment later. Where nobody answers in time, the
ticket goes to the general desk.</p>
{by_whom}
<h2>The classifier</h2>
{versions}
{thresholds}
<p>When a ticket is closed its desk says which product it was: that is feedback on the classifier's
answer, the label of live quality and the KPI of the rollout. The runtime's own word on the last
windows: {quality}.</p>
<h2>The rollout</h2>
{rollout}
<h2>Where the money went</h2>
{cost}"""
