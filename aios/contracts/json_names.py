"""No object in a body may say a name twice: readers differ in which one they believe."""

import re

import orjson

from aios.errors import Malformed

_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')


def malformed_json(error: orjson.JSONDecodeError) -> Malformed:
    """The error for a body that is not JSON."""
    return Malformed(f"the body is not valid JSON: {error}")


def refuse_repeated_names(raw: bytes, names: int) -> None:
    """Compare the names that were read from valid JSON with those that were written.

    Each name is followed by a colon, so as many colons as names show that none was said
    twice. Texts may hold colons too: only then the texts are taken out and counted again.

    Raises:
        Malformed: more names were written than read.
    """
    if raw.count(b":") != names and _TEXT.sub(b"", raw).count(b":") != names:
        raise Malformed("an object in the body says the same name twice")
