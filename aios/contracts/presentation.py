"""A contract as a table in a terminal and in a notebook."""

from html import escape
from typing import Any

Line = tuple[str, str, str, str]
_HEADINGS = ("role", "name", "type", "allowed")


def as_table(title: str, lines: list[Line]) -> Any:
    """A rich table."""
    from rich.markup import escape as escape_markup
    from rich.table import Table

    table = Table(title=escape_markup(title), title_justify="left")
    for heading in _HEADINGS:
        table.add_column(heading)
    for line in lines:
        table.add_row(*(escape_markup(cell) for cell in line))
    return table


def as_html(title: str, lines: list[Line]) -> str:
    """An HTML table with everything escaped."""
    head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    return (
        f"<table><caption>{escape(title)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
