"""Markdown from facts and from texts of users, which can add no markup of their own."""

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$])")
_OPENING = re.compile(r"^(\d{1,9}(?=[.)])|[-+=:])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def one_line(text: object) -> str:
    """The text with line breaks, control and other unprintable characters as spaces, also
    those that change the writing direction. Not escaped."""
    return " ".join("".join(each if each.isprintable() else " " for each in str(text)).split())


def plain(text: object) -> str:
    r"""One line that Markdown and HTML show as it is.

    It is `one_line` with markup characters escaped, HTML's as entities.

    >>> plain("# a *b*\n<script>")
    '\\# a \\*b\\* &lt;script&gt;'
    """
    line = "".join(_ENTITIES.get(letter, letter) for letter in one_line(text))
    line = _SPECIAL.sub(r"\\\1", line)
    found = _OPENING.match(line)
    if found is None:
        return line
    opening, rest = line[: found.end()], line[found.end() :]
    return f"{opening}\\{rest}" if opening.isdigit() else f"\\{line}"


def bullets(lines: Iterable[str]) -> str:
    """A list. The lines are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)


def table(headings: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells are texts of users. None is an empty cell, numbers have four digits."""
    cells = [[_cell(heading) for heading in headings], ["---"] * len(headings)]
    cells += [[_cell(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return plain(value)
