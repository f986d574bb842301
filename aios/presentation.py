"""How things look to people: one table shape for a terminal, a notebook and a log."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape
from typing import Any

Rows = Sequence[Sequence[object]]

_TONES = {
    "good": ("yes", "running", "promoted", "not_worse", "finished", "passed", "approved", "met"),
    "bad": ("worse", "failed", "rolled_back", "deploy_failed", "unhealthy", "missed"),
    "open": ("undecided", "aborted", "no_data", "starting", "updating", "stopping", "no ("),
}
"""Words that say how a thing stands; a cell that is, or begins with `no (`, one is coloured."""
_RICH = {"good": "green", "bad": "red", "open": "yellow"}
# Readable on white and on black: notebooks have both.
_HTML = {"good": "#2e8b57", "bad": "#d1443c", "open": "#b8860b"}
_STYLES = {
    "table": "border-collapse:collapse;margin:0 0 4px",
    "div": "font-weight:600;padding:2px 0 4px",
    "th": "padding:2px 12px 2px 0;border-bottom:1px solid #8888",
    "td": "padding:2px 12px 2px 0;white-space:pre-wrap",
    "left": "text-align:left",
    "right": "text-align:right;font-variant-numeric:tabular-nums",
}


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
ALARM = "! "
"""A line of a title that begins so is shown in red."""


def harmless(text: str) -> str:
    """Text without what would command a terminal or turn the order of letters; these are told by
    their escapes. Tables may hold what a stranger sent.

    >>> harmless("\\x1b[31mred\\x1b[0m and \\u202eback")
    '\\\\x1b[31mred\\\\x1b[0m and \\\\u202eback'
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def as_table(title: str, headings: Sequence[str], rows: Rows) -> Any:
    """The title and a rich table below; text is never read as markup.

    The title is not the table's own, which would break at the table's width.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    above = Text("\n").join(
        Text(line, style="bold red" if line.startswith(ALARM) else "bold")
        for line in harmless(title).split("\n")
    )
    if not rows:
        return above
    table = Table()
    for heading, right in zip(headings, _numeric(headings, rows), strict=True):
        table.add_column(Text(harmless(heading)), justify="right" if right else "left")
    for row in rows:
        table.add_row(*(Text(cell, style=_RICH.get(_tone(cell), "")) for cell in _cells(row)))
    return Group(above, table)


def as_html(title: str, headings: Sequence[str], rows: Rows) -> str:
    """The title and an HTML table below, with everything escaped. Styles are inline: notebooks
    have rules for tables of their own, and a stylesheet would reach other cells."""
    above = "".join(
        _tag("div", line, f"color:{_HTML['bad']}" if line.startswith(ALARM) else "")
        for line in harmless(title).split("\n")
    )
    if not rows:
        return above
    sides = ["right" if right else "left" for right in _numeric(headings, rows)]
    named = zip(headings, sides, strict=True)
    head = "".join(_tag("th", heading, _STYLES[side]) for heading, side in named)
    body = "".join(
        "<tr>" + "".join(map(_html_cell, cells, sides)) + "</tr>" for cells in map(_cells, rows)
    )
    return (
        f'{above}<table style="{_STYLES["table"]}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def as_text(title: str, headings: Sequence[str], rows: Rows) -> str:
    """Plain text in columns, for `repr`, `print` and logs."""
    lines = [
        [harmless(cell).replace("\n", "\\n") for cell in line]
        for line in (headings, *map(_cells, rows))
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = _numeric(headings, rows)
    table = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, sides, strict=True)
        )
        for line in (lines if rows else [])
    )
    return "\n".join([harmless(title), *(f"  {line}".rstrip() for line in table)])


class Shown(ABC):
    """Gives an object its three looks from one description, `_shown`."""

    __slots__ = ()

    @abstractmethod
    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        """Title, column headings, rows."""

    def __rich__(self) -> Any:
        return as_table(*self._shown())

    def _repr_html_(self) -> str:
        return as_html(*self._shown())

    def __repr__(self) -> str:
        return as_text(*self._shown())

    def __str__(self) -> str:
        return repr(self)  # pydantic has a __str__ of its own


def duration(seconds: float | None) -> str | None:
    """Seconds for people; None stays None.

    >>> duration(0.00042), duration(12.34), duration(7200)
    ('0.42 ms', '12.3 s', '120 min')
    """
    if seconds is None:
        return None
    if seconds < 1.0:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min"


def moment(at_s: float | None) -> str | None:
    """Seconds since 1970 as local date and time; None stays None."""
    if at_s is None:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def _cells(row: Sequence[object]) -> list[str]:
    return [_cell(value) for value in row]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return harmless(str(value))


def _numeric(headings: Sequence[str], rows: Rows) -> list[bool]:
    """For each column whether it holds numbers only."""
    columns: list[list[object]] = [
        [row[index] for row in rows if row[index] is not None] for index in range(len(headings))
    ]
    return [
        bool(column) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in column)
        for column in columns
    ]


def _tone(cell: str) -> str:
    word = cell.lower()
    word = "no (" if word.startswith("no (") else word
    return next((tone for tone, words in _TONES.items() if word in words), "")


def _html_cell(cell: str, side: str) -> str:
    colour = _HTML.get(_tone(cell))
    tint = f"color:{colour};font-weight:600" if colour else ""
    return _tag("td", cell, _STYLES[side], tint)


def _tag(name: str, text: str, *styles: str) -> str:
    style = ";".join(part for part in (_STYLES[name], *styles) if part)
    return f'<{name} style="{style}">{escape(text)}</{name}>'
