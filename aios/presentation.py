"""How things look to people: one table shape for a terminal and for a notebook."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape
from typing import Any

Rows = Sequence[Sequence[object]]


def as_table(title: str, headings: Sequence[str], rows: Rows) -> Any:
    """A rich table; text is never read as markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def as_html(title: str, headings: Sequence[str], rows: Rows) -> str:
    """An HTML table with everything escaped."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row) + "</tr>"
        for row in rows
    )
    return (
        f"<table><caption>{escape(title)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def as_text(title: str, headings: Sequence[str], rows: Rows) -> str:
    """Plain text, for `repr` and logs."""
    lines = [title]
    for row in rows:
        cells = (f"{h}={_cell(v)}" for h, v in zip(headings, row, strict=True) if v is not None)
        lines.append("  " + " ".join(cells))
    return "\n".join(lines)


class Shown(ABC):
    """Gives an object its three looks from one description, `_shown`."""

    @abstractmethod
    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        """Title, column headings, rows."""

    def __rich__(self) -> Any:
        return as_table(*self._shown())

    def _repr_html_(self) -> str:
        return as_html(*self._shown())

    def __repr__(self) -> str:
        return as_text(*self._shown())


def duration(seconds: float | None) -> str | None:
    """`0.00042` as `0.42 ms`; None stays None."""
    if seconds is None:
        return None
    if seconds < 1.0:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
