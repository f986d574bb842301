"""The report of one run: a page that needs nothing but itself, and its charts as pictures."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from apps.loan_approval import charts
from apps.loan_approval.dossier import Dossier
from apps.loan_approval.dossier_report import governed_charts, governed_section
from apps.loan_approval.markup import decimal, milliseconds, percent, table
from apps.loan_approval.narrative import RolloutTold, Story


@dataclass(frozen=True)
class Report:
    """Where the files are."""

    html: Path
    pictures: tuple[Path, ...]


def write_report(story: Story, folder: Path, dossier: Dossier | None = None) -> Report:
    """Write `report.html`, `timeline.png` and one `evidence-<version>.png` per rollout.

    Args:
        story: what happened in the first act.
        folder: made if missing; files of an earlier run are replaced.
        dossier: what came out of the second, with a `governed-<chart>.png` for each chart.

    Raises:
        aios.UsageError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    timeline = charts.timeline(story)
    pictures = [charts.save_png(timeline, folder / "timeline.png")]
    evidence = []
    for rollout in story.rollouts:
        figure = charts.evidence(rollout)
        drawn = ""
        if figure is not None:
            pictures.append(charts.save_png(figure, folder / f"evidence-v{rollout.to_version}.png"))
            drawn = charts.as_svg(figure, f"evidence v{rollout.to_version}")
        evidence.append(_evidence_section(rollout, drawn))
    governed = {} if dossier is None else governed_charts(dossier)
    pictures += [
        charts.save_png(drawn, folder / f"governed-{name}.png") for name, drawn in governed.items()
    ]
    page = _PAGE.format(
        style=_style(),
        headline=escape(_headline(story)),
        tiles=_tiles(story),
        timeline=charts.as_svg(timeline, "timeline"),
        rollouts=_rollout_table(story),
        evidence="".join(evidence),
        models=_model_table(story),
        governed="" if dossier is None else governed_section(dossier, governed),
        foot=escape(story.machine),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return Report(path, tuple(pictures))


def _headline(story: Story) -> str:
    stats = story.stats
    promoted = sum(rollout.good for rollout in story.rollouts)
    undone = sum(rollout.outcome == "rolled_back" for rollout in story.rollouts)
    return (
        f"{stats.answered:,} loan applications were answered while {len(story.rollouts)} new "
        f"versions were tried: {promoted} promoted, {undone} rolled back, "
        f"{stats.failed:,} requests failed."
    )


def _tiles(story: Story) -> str:
    stats = story.stats
    waits_s = [r.harm_to_end_s for r in story.rollouts if r.harm_to_end_s is not None]
    tiles = [
        ("requests", f"{stats.sent:,}", f"{stats.rate_per_s:,.0f} per second"),
        ("failed", f"{stats.failed:,}", "must be 0"),
        ("degraded", f"{stats.degraded:,}", "answered by a fallback"),
        ("latency p50", milliseconds(stats.p50_s), f"p99 {milliseconds(stats.p99_s)}"),
        (
            "harm to rollback",
            f"{max(waits_s):.1f} s" if waits_s else "none",
            f"the longest of {len(waits_s)}" if waits_s else "nothing was rolled back",
        ),
    ]
    return "".join(
        f'<div class="tile"><span>{escape(name)}</span><strong>{escape(value)}</strong>'
        f"<small>{escape(note)}</small></div>"
        for name, value, note in tiles
    )


def _rollout_table(story: Story) -> str:
    rows = []
    for rollout in story.rollouts:
        counts = story.requests_by_arm(rollout)
        wait_s = rollout.harm_to_end_s
        rows.append(
            (
                f"v{rollout.from_version} → v{rollout.to_version}",
                rollout.about,
                _badge(rollout),
                rollout.reason or "",
                ", ".join(f"{name}: {count:,}" for name, count in counts.items()),
                f"{rollout.finished_s - rollout.started_s:.0f} s",
                "–" if wait_s is None else f"{wait_s:.1f} s",
            )
        )
    heads = (
        "rollout",
        "new version",
        "outcome",
        "stated reason",
        "answers by",
        "took",
        "harm to rollback",
    )
    return table(heads, rows, raw=(2,), numbers=(5, 6))


def _badge(rollout: RolloutTold) -> str:
    tone = "good" if rollout.good else "bad" if rollout.outcome != "undecided" else "warning"
    mark = {"good": "✓", "bad": "↩", "warning": "?"}[tone]
    return f'<b class="{tone}">{mark}&nbsp;{escape(rollout.outcome.replace("_", " "))}</b>'


def _evidence_section(rollout: RolloutTold, drawn: str) -> str:
    title = f"v{rollout.from_version} → v{rollout.to_version}"
    about = f" · {rollout.about}" if rollout.about else ""
    body = f'<div class="chart">{drawn}</div>' if drawn else "<p>No rule was judged.</p>"
    needed = _needed(rollout)
    return (
        f"<section><h3>{escape(title)}{escape(about)} {_badge(rollout)}</h3>"
        f"<p>{escape(rollout.reason or '')}{escape(needed)}</p>{body}</section>"
    )


def _needed(rollout: RolloutTold) -> str:
    if rollout.outcome != "undecided" or not rollout.evidence:
        return ""
    wanted = [
        f"{verdict.rule} needs {verdict.needed:,} more requests"
        for verdict in rollout.evidence[-1].verdicts
        if verdict.state == "undecided" and verdict.needed
    ]
    return f" ({'; '.join(wanted)})" if wanted else ""


def _model_table(story: Story) -> str:
    metrics = list(dict.fromkeys(name for model in story.models for name in model.metrics))
    groups = list(dict.fromkeys(name for model in story.models for name in model.approval_rates))
    sizes = story.group_sizes or {}
    rows: list[tuple[str, ...]] = [
        (
            f"v{model.version}",
            model.kind,
            *(decimal(model.metrics.get(name)) for name in metrics),
            *(percent(model.approval_rates.get(group)) for group in groups),
        )
        for model in story.models
    ]
    if story.lender_rates:
        blank = ("" for _ in metrics)
        rates = (percent(story.lender_rates.get(group)) for group in groups)
        rows.append(("", "the lenders themselves", *blank, *rates))
    heads = ["", "model", *(name.replace("_", " ") for name in metrics)]
    heads += [f"approves {g}" + (f" (n={sizes[g]})" if g in sizes else "") for g in groups]
    return table(heads, rows, numbers=tuple(range(2, len(heads))))


def _style() -> str:
    light = "".join(f"--{name}:{pair[0]};" for name, pair in charts.PALETTE.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in charts.PALETTE.items())
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{_CSS}"
    )


_CSS = """
body{margin:0 auto;max-width:68rem;padding:2rem 1.25rem 4rem;background:var(--surface);
  color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.5rem 0 .5rem}
h3{font-size:1rem;margin:1.6rem 0 .2rem;font-weight:600}
p{margin:.2rem 0 .6rem;max-width:60rem;color:var(--muted)}p.lead{font-size:1.05rem;color:var(--ink)}
.tiles{display:flex;flex-wrap:wrap;gap:.75rem;margin:1.25rem 0}
.tile{flex:1 1 9rem;border:1px solid var(--grid);border-radius:8px;padding:.6rem .9rem}
.tile span,.tile small{display:block;color:var(--muted);font-size:.82rem}
.tile strong{font-size:1.5rem;font-weight:600}
.chart svg{width:100%;height:auto;display:block}
.chart svg text{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif!important}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{text-align:left;padding:.4rem .7rem .4rem 0;border-bottom:1px solid var(--grid);
  vertical-align:top}
th{color:var(--muted);font-weight:500}.number{text-align:right;font-variant-numeric:tabular-nums}
b{font-weight:600;white-space:nowrap}.good{color:var(--good)}.bad{color:var(--bad)}
td:first-child{white-space:nowrap}.warning{color:var(--warning)}footer{margin-top:3rem;color:var(--muted);font-size:.82rem}
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>aios: the loan story</title><style>{style}</style></head><body>
<h1>The loan story</h1>
<p class="lead">{headline}</p>
<div class="tiles">{tiles}</div>
<h2>What the clients saw</h2>
<div class="chart">{timeline}</div>
<h2>What happened</h2>
{rollouts}
<h2>The evidence</h2>
<p>Each rule compares the new version with stable over the same time. The line is the estimate,
the band its confidence sequence, which holds at every look at once; the dashed line is the limit.
A band wholly above the limit means worse, wholly below it no worse. Dotted lines begin a stage,
and each stage counts afresh.</p>
{evidence}
<h2>The models</h2>
<p>Figures on applications that no model was trained on. Race is not among the inputs; the
approval rates show what the models do all the same.</p>
{models}
{governed}
<footer>{foot}</footer>
</body></html>
"""
