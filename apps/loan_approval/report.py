"""The report of one run: a page that needs nothing but itself, and its charts as pictures."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from apps.drawing import as_svg, save_png
from apps.loan_approval import charts
from apps.loan_approval.dossier import Dossier
from apps.loan_approval.dossier_report import governed_charts, governed_section
from apps.loan_approval.narrative import RolloutTold, Story
from apps.markup import decimal, milliseconds, page, percent, table, tile


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
    pictures = [save_png(timeline, folder / "timeline.png")]
    evidence = []
    for rollout in story.rollouts:
        figure = charts.evidence(rollout)
        drawn = ""
        if figure is not None:
            pictures.append(save_png(figure, folder / f"evidence-v{rollout.to_version}.png"))
            drawn = as_svg(figure, f"evidence v{rollout.to_version}")
        evidence.append(_evidence_section(rollout, drawn))
    governed = {} if dossier is None else governed_charts(dossier)
    pictures += [
        save_png(drawn, folder / f"governed-{name}.png") for name, drawn in governed.items()
    ]
    body = _BODY.format(
        tiles=_tiles(story),
        timeline=as_svg(timeline, "timeline"),
        rollouts=_rollout_table(story),
        evidence="".join(evidence),
        models=_model_table(story),
        governed="" if dossier is None else governed_section(dossier, governed),
    )
    html = page("The loan story", _headline(story), body, foot=story.machine)
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
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
    return "".join(tile(*told) for told in tiles)


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


_BODY = """<div class="tiles">{tiles}</div>
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
{governed}"""
