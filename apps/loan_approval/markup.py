"""Pieces of HTML that the parts of the report share."""

import math
from collections.abc import Iterable, Sequence
from html import escape


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
