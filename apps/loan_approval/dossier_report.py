"""The governed act's part of the report."""

import time
from html import escape
from typing import TYPE_CHECKING

from apps.drawing import as_svg
from apps.loan_approval import dossier_charts
from apps.loan_approval.dossier import Candidate, Dossier
from apps.markup import decimal, milliseconds, percent, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = {"passed": ("good", "✓"), "failed": ("bad", "✕")}


def governed_charts(dossier: Dossier) -> "dict[str, Figure]":
    """The act's charts by name: `trials`, `fairness` and `explanation`."""
    found = {
        "trials": dossier_charts.trials(dossier.candidates),
        "fairness": dossier_charts.fairness(dossier.candidates),
    }
    if dossier.explained is not None:
        found["explanation"] = dossier_charts.explanation(dossier.explained)
    return found


def governed_section(dossier: Dossier, drawn: "dict[str, Figure]") -> str:
    """The act as HTML.

    Args:
        dossier: what came out.
        drawn: as `governed_charts` gives them.
    """
    shown = {
        name: f'<div class="chart">{as_svg(figure, f"governed {name}")}</div>'
        for name, figure in drawn.items()
    }
    parts = [
        "<h2>Act two: nothing serves ungoverned</h2>",
        f'<p class="lead">{escape(_headline(dossier))}</p>',
        _surprises(dossier),
        _candidate_table(dossier),
        "<h3>Who is approved</h3>",
        "<p>The fraction of each group that a version approves on the holdout, with 95 % "
        "confidence intervals. The gate compares the upper bound of the largest gap with the "
        "policy's limit. A version that approves nearly everybody treats groups alike and tells "
        "little: quality is a gate of its own.</p>",
        shown["fairness"],
        "<h3>The gates</h3>",
        _gate_table(dossier),
        "<h3>What was tried</h3>",
        shown["trials"],
        "<h3>Who was asked, and who was refused</h3>",
        _people(dossier),
        "<h3>The rollout</h3>",
        f"<p>{escape(_rollout(dossier))}</p>",
        _explained(dossier, shown.get("explanation", "")),
        "<h3>Where it came from</h3>",
        f'<div class="wide">{dossier.lineage}</div>',
        "<h3>What served when</h3>",
        table(("version", "from", "until", "by", "approved by"), dossier.history),
        f"<p>{escape(dossier.audit)}.{_card(dossier)}</p>",
    ]
    return f"<section>{''.join(parts)}</section>"


def _headline(dossier: Dossier) -> str:
    refused = [one for one in dossier.candidates if one.not_passed]
    last = dossier.candidates[-1]
    told = [
        f"{one.ref} has AUC {one.auc:.3f} and may not serve: {', '.join(one.not_passed)}."
        for one in refused
    ]
    approvers = ", ".join(decision.by for decision in last.decisions) or "nobody"
    return " ".join([*told, f"{last.ref} has {last.auc:.3f}, and was approved by {approvers}."])


def _surprises(dossier: Dossier) -> str:
    return "".join(f'<p class="bad">{escape(text)}</p>' for text in dossier.surprises)


def _candidate_table(dossier: Dossier) -> str:
    rows = []
    for one in dossier.candidates:
        fairness = one.gate("fairness")
        gap = None if fairness is None else fairness.value
        tone = "bad" if one.not_passed else "good"
        rows.append(
            (
                one.ref,
                one.about,
                decimal(one.auc),
                decimal(gap),
                f'<b class="{tone}">{escape(_stood(one))}</b>',
                f"{one.seconds:.0f} s",
            )
        )
    heads = ("version", "looks at", "AUC", "largest gap may be", "decision", "retrain took")
    return table(heads, rows, raw=(4,), numbers=(2, 3, 5))


def _stood(candidate: Candidate) -> str:
    if candidate.not_passed:
        return f"refused: {', '.join(candidate.not_passed)}"
    return "approved" if candidate.decisions else "passed"


def _gate_table(dossier: Dossier) -> str:
    names = list(dict.fromkeys(gate.gate for one in dossier.candidates for gate in one.gates))
    rows = [(name, *(_gate_cell(one, name) for one in dossier.candidates)) for name in names]
    heads = ("gate", *(one.ref for one in dossier.candidates))
    return table(heads, rows, raw=tuple(range(1, len(heads))))


def _gate_cell(candidate: Candidate, name: str) -> str:
    gate = candidate.gate(name)
    if gate is None:
        return ""
    tone, mark = _MARKS.get(gate.outcome, ("warning", "?"))
    told = gate.outcome.replace("_", " ")
    return f'<b class="{tone}">{mark}&nbsp;{told}</b><br>{escape(gate.reason)}'


def _people(dossier: Dossier) -> str:
    rows = []
    for one in dossier.candidates:
        rows += [("", one.ref, "the author", f"refused: {said}") for said in one.said_no]
        rows += [
            (_time(decision.at_s), one.ref, decision.by, f"{decision.answer}: {decision.reason}")
            for decision in one.decisions
        ]
    return table(("at", "version", "who", "what"), rows)


def _rollout(dossier: Dossier) -> str:
    rollout, stats = dossier.rollout, dossier.traffic
    return (
        f"v{rollout.from_version} → v{rollout.to_version} was {rollout.outcome.replace('_', ' ')} "
        f"in {rollout.finished_s - rollout.started_s:.0f} s, begun by the run itself once the "
        f"version was cleared. {stats.sent:,} requests, {stats.failed:,} failed, p50 "
        f"{milliseconds(stats.p50_s)}, p99 {milliseconds(stats.p99_s)}."
    )


def _explained(dossier: Dossier, drawn: str) -> str:
    one = dossier.explained
    if one is None:
        return ""
    approvers = ", ".join(one.approvers) or "nobody"
    return (
        "<h3>Why this applicant got this answer</h3>"
        f"<p>Request {escape(one.request_id)}, answered at {_time(one.at_s)} by "
        f"{escape(one.ref)}, which {escape(approvers)} let serve: approval with "
        f"{percent(one.score)} probability.</p>{drawn}"
    )


def _card(dossier: Dossier) -> str:
    if not dossier.card:
        return ""
    return f' The <a href="{escape(dossier.card)}">model card</a> is beside this page.'


def _time(at_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_s))
