"""Pieces of HTML that all reports share: a page that needs nothing but itself, and its parts."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from apps.drawing import PALETTE


def page(title: str, lead: str, body: str, foot: str = "") -> str:
    """A whole page, light or dark as its reader likes. `body` is markup, the rest is text."""
    return _PAGE.format(
        title=escape(title), style=_style(), lead=escape(lead), body=body, foot=escape(foot)
    )


def tile(name: str, value: str, note: str) -> str:
    """A figure in a frame. Put several into `<div class="tiles">`."""
    return (
        f'<div class="tile"><span>{escape(name)}</span><strong>{escape(value)}</strong>'
        f"<small>{escape(note)}</small></div>"
    )


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    raw: tuple[int, ...] = (),
    numbers: tuple[int, ...] = (),
) -> str:
    """An HTML table. `raw` are columns that hold markup; `numbers` stand to the right."""

    def cell(tag: str, place: int, text: str) -> str:
        side = ' class="number"' if place in numbers else ""
        return f"<{tag}{side}>{text if place in raw and tag == 'td' else escape(text)}</{tag}>"

    head = "".join(cell("th", place, text) for place, text in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(cell('td', place, text) for place, text in enumerate(row))}</tr>"
        for row in rows
    )
    found = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{found}</div>'


def milliseconds(value_s: float) -> str:
    """Seconds as milliseconds; a dash for NaN."""
    return "–" if math.isnan(value_s) else f"{value_s * 1000:.1f} ms"


def decimal(value: float | None) -> str:
    """Three decimals; nothing for None."""
    return "" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A fraction as per cent; nothing for None."""
    return "" if value is None else f"{value:.1%}"


def _style() -> str:
    light = "".join(f"--{name}:{pair[0]};" for name, pair in PALETTE.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in PALETTE.items())
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
<title>aios: {title}</title><style>{style}</style></head><body>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{body}
<footer>{foot}</footer>
</body></html>
"""
