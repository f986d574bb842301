"""The report of one run: a page that needs nothing but itself."""

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from apps import markup
from apps.drawing import as_svg, save_png
from apps.predictive_maintenance import charts, costs, plant
from apps.predictive_maintenance.outcome import Outcome, surprises
from apps.predictive_maintenance.plant import TICK_MIN, TICKS_AN_HOUR
from apps.predictive_maintenance.watching import LAST, OPEN_AT

if TYPE_CHECKING:
    from rich.console import Console

FILE = "predictive_maintenance.html"
NEVER, ROUTINE, OURS = "never stopped", "fixed schedule", "with aios"


def write_report(found: Outcome, folder: Path) -> Path:
    """Write the page, and its timeline as a picture beside it.

    Raises:
        aios.UsageError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    timeline = charts.timeline(found)
    save_png(timeline, folder / "predictive_maintenance.png")
    parts = [
        f'<div class="tiles">{_tiles(found)}</div>',
        "<h2>Every machine's time</h2>",
        _chart(as_svg(timeline, "timeline")),
        "<h2>Standstill</h2>",
        _policies(found),
        _chart(as_svg(charts.standstill(found), "standstill")),
        "<h2>Interventions</h2>",
        _interventions(found),
        "<h2>Nothing lost, nothing twice</h2>",
        _proof(found),
        _chart(as_svg(charts.stream(found), "stream")),
        "<h2>What it took</h2>",
        _cost(found),
        "<h2>What is real, and what is made up</h2>",
        _honest(found),
    ]
    path = folder / FILE
    page = markup.page("Predictive maintenance", lead(found), "".join(parts), found.machine)
    path.write_text(page, encoding="utf-8")
    return path


def lead(found: Outcome) -> str:
    """One sentence."""
    ours, never, routine = (found.bills[name] for name in (OURS, NEVER, ROUTINE))
    return (
        f"{len(found.machines)} machines stood still for {ours.hours:.0f} hours instead of "
        f"{never.hours:.0f} without intervention and {routine.hours:.0f} on a fixed schedule; "
        f"{found.sent:,} readings were sent and {found.judged:,} judged while "
        f"{len(found.kills)} processes were killed."
    )


def finish(found: Outcome, written: Path, console: "Console") -> int:
    """Print what happened; 0 if it happened as it should."""
    from rich.table import Table

    table = Table(title="standstill in hours", title_justify="left")
    for heading in ("policy", "breakdowns", "planned stops", "together", "EUR"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name, bill in found.bills.items():
        table.add_row(
            name,
            f"{bill.breakdowns} ({bill.breakdown_hours:.0f})",
            f"{bill.stops} ({bill.stop_hours:.0f})",
            f"{bill.hours:.0f}",
            f"{bill.eur:,.0f}",
        )
    console.print(table)
    console.print(f"{_detection(found)}; response {_response(found)}")
    console.print(f"{lead(found)}\nreport: {written}")
    wrong = surprises(found)
    for text in wrong:
        console.print(f"[red]not as it should be: {text}[/red]")
    return 1 if wrong else 0


def _detection(found: Outcome) -> str:
    hours = [lead / TICKS_AN_HOUR for lead in found.leads]
    told = f", {sum(hours) / len(hours):.1f} h before the breakdown" if hours else ""
    return (
        f"{len(found.interventions)} interventions, precision {_percent(found.precision)}, recall "
        f"{_percent(found.recall)}; {len(hours)} machines stopped in time{told}"
    )


def _response(found: Outcome) -> str:
    middle_s, late_s = found.responses_s
    return f"p50 {middle_s:.2f} s, p95 {late_s:.2f} s"


def _tiles(found: Outcome) -> str:
    ours, never = found.bills[OURS], found.bills[NEVER]
    became = [one.became for one in found.interventions]
    no = became.count("refused") + became.count("unanswered")
    middle_s, late_s = found.responses_s
    saved = f"{1 - ours.hours / never.hours:.0%} less" if never.hours else "as much"
    tiles = [
        ("standstill", f"{ours.hours:.0f} h", f"{saved} than run to failure"),
        ("interventions", f"{len(became)}", f"{no} without a yes"),
        (
            "precision / recall",
            f"{_percent(found.precision)} / {_percent(found.recall)}",
            "of interventions, by wear",
        ),
        ("response p50", f"{middle_s:.2f} s", f"p95 {late_s:.2f} s, reading to intervention"),
        ("sent = judged", f"{found.judged:,}", f"of {found.sent:,}; {len(found.kills)} kills"),
    ]
    return "".join(markup.tile(*one) for one in tiles)


def _policies(found: Outcome) -> str:
    rows = [
        (
            name,
            f"{bill.breakdowns}",
            f"{bill.breakdown_hours:.1f}",
            f"{bill.stops}",
            f"{bill.stop_hours:.1f}",
            f"{bill.hours:.1f}",
            f"{bill.eur:,.0f}",
        )
        for name, bill in found.bills.items()
    ]
    heads = ("policy", "breakdowns", "hours", "planned stops", "hours", "together", "EUR")
    told = (
        f"<p>The same plan of wear, lived through three times. {escape(_detection(found))}. "
        "Precision counts interventions that were opened while the machine was wearing out, recall "
        "the wears for which one was opened.</p>"
    )
    return told + markup.table(heads, rows, numbers=tuple(range(1, 7)))


def _interventions(found: Outcome) -> str:
    rows = [
        (
            one.id,
            f"{one.tick / TICKS_AN_HOUR:.1f}",
            "wearing out" if one.right else "well",
            _badge(one.became),
            one.why,
            f"{one.response_s:.2f} s",
            f"{one.lives}",
        )
        for one in found.interventions
    ]
    heads = ("intervention", "at hour", "the machine was", "became", "said", "response", "lives")
    about = (
        f"<p>Opened where {OPEN_AT} of the last {LAST} readings were anomalous. A person is asked, "
        "and no answer is no yes: the reservation of the technician is undone then, and the agent "
        "waits for a while. Lives are how often a flow was taken up: more than one where its "
        "worker was killed.</p>"
    )
    return about + markup.table(heads, rows, raw=(3,), numbers=(1, 5, 6))


def _badge(became: str) -> str:
    tone = {"repaired": "good", "too late": "bad"}.get(became, "warning")
    return f'<b class="{tone}">{escape(became)}</b>'


def _proof(found: Outcome) -> str:
    states = [row["state"] for row in found.reservations]
    made = sum(what == "reserve" for what, _ in found.calls)
    rows = [
        ("readings sent by the machines", f"{found.sent:,}"),
        ("readings judged by their agents", f"{found.judged:,}"),
        ("readings that came to an agent twice", f"{found.repeated:,}"),
        ("messages and events given up", f"{found.dead:,}"),
        ("interventions opened by agents", f"{len(found.interventions):,}"),
        ("flows of interventions", f"{len(found.flow_ids):,}"),
        ("technicians reserved", f"{len(states):,} ({made:,} calls)"),
        ("reservations used", f"{states.count('used'):,}"),
        ("reservations taken back", f"{states.count('released'):,}"),
    ]
    killed = "; ".join(f"the {kill.what} (pid {kill.pid})" for kill in found.kills) or "nothing"
    return f"<p>Killed by SIGKILL: {escape(killed)}.</p>" + markup.table(
        ("count", ""), rows, numbers=(1,)
    )


def _cost(found: Outcome) -> str:
    counted = "core-hours" if found.cost.currency is None else found.cost.currency
    rows = [
        (
            str(part["what"]),
            f"{part['core_hours']:.4f}",
            f"{part['share']:.1%}",
            "" if part["calls"] is None else f"{part['calls']:,}",
        )
        for part in found.cost.parts
    ]
    confusion = found.confusion
    heads = ("part", "core-hours", "share", "calls")
    told = (
        f"<p>What the cluster was used for, in {escape(counted)}. The model: "
        f"{', '.join(f'{name} {value:.3f}' for name, value in found.model.items())} on held-out "
        f"history; on the machines' readings it judged {confusion[True, 'anomalous']:,} of "
        f"{confusion[True, 'anomalous'] + confusion[True, 'normal']:,} anomalous ones anomalous, "
        f"and {confusion[False, 'anomalous']:,} others.</p>"
    )
    return told + markup.table(heads, rows, numbers=(1, 2, 3))


def _honest(found: Outcome) -> str:
    low, high = plant.WEAR_TICKS
    return (
        "<p><b>Real:</b> the readings of nine sensors of a Space Shuttle's radiators, each with "
        "its label (UCI, Statlog (Shuttle), CC BY 4.0, 49,097 rows); the model sees the first six "
        "tenths, machines send of the rest, in the file's order. Real too: broker, runtime, kills, "
        "times.</p>"
        "<p><b>Made up:</b> the file was shuffled before it was published, so which machine a "
        "reading belongs to and when a machine wears out is a plan of ours, by a seed: for "
        f"{low * TICK_MIN / 60:.0f} to {high * TICK_MIN / 60:.0f} hours {plant.SHARES[0]:.0%} to "
        f"{plant.SHARES[1]:.0%} of the readings are anomalous ones, then it breaks; 1 in 100 is "
        "anomalous while it is well, and some machines have a short burst. A reading stands for "
        f"{TICK_MIN:.0f} minutes ({found.tick_s:.2f} s here). A breakdown is "
        f"{plant.BREAKDOWN_TICKS / TICKS_AN_HOUR:.0f} hours and {costs.BREAKDOWN_EUR:,.0f} EUR, a "
        f"planned stop about {plant.PLANNED_TICKS / TICKS_AN_HOUR:.0f} hours and "
        f"{costs.STOP_EUR:,.0f} EUR, an hour of standstill {costs.HOUR_EUR:,.0f} EUR. The "
        "technicians are a file, and the person who approves is a program that looks at the last "
        "readings, and was away once.</p>"
    )


def _chart(svg: str) -> str:
    return f'<div class="chart">{svg}</div>'


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"
