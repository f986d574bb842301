"""YAML from people, read as plain data: no surprises, no bombs, no code."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from aios.errors import PayloadTooLarge, UsageError

MAX_TEXT_BYTES = 2**20
"""A policy has some kilobytes; more is a mistake or an attack."""
MAX_DEPTH = 20
"""A policy is five levels deep; parsers recurse on each."""
MAX_VALUES = 20_000
"""Keys and values together: a mebibyte of commas would take 20 s to read."""
_LONG_NUMBER = re.compile(r"[-+]?[0-9][-+0-9a-fA-FxX_:.]{40,}")
"""Python takes quadratic time to read one, and refuses to spell it in a message."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, which also refuses a key that is there twice, and `<<`."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        built: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            mark = key_node.start_mark
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {str(key)[:80]!r} is no text: put it in quotes", mark
                )
            if key in built:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key[:80]!r} is there twice", mark
                )
            built[key] = self.construct_object(value_node, deep=True)
        return built


def read_mapping(text: str, what: str) -> dict[str, Any]:
    """The mapping that this text holds.

    Refused are anchors and aliases (a few lines with them can stand for billions), explicit
    tags, more than one document, a key that is there twice, keys that are no text, more than
    `MAX_DEPTH` levels, `MAX_VALUES` keys and values, and `MAX_TEXT_BYTES`.

    Args:
        what: what the text is, for messages: `the policy`.

    Raises:
        UsageError: says what is wrong and where in the text.
        PayloadTooLarge: a kind of UsageError.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise PayloadTooLarge(f"{what} has more than {MAX_TEXT_BYTES:,} bytes; make it shorter")
    try:
        _check_events(text, what)
        found = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date without that day, text that is no Unicode.
        told = " ".join(str(error).split())
        raise UsageError(f"{what} is not readable YAML: {told[:300]}") from None
    if not isinstance(found, dict):
        raise UsageError(
            f"{what} must be a mapping (`name: ...`), not {type(found).__name__}; "
            "give a pathlib.Path to read it from a file"
        )
    return found


def _check_events(text: str, what: str) -> None:
    """Look at the text as a stream, which takes no more memory than the text itself."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise UsageError(
                f"{what}, line {line}: anchors and aliases are not taken; write it out"
            )
        if tag := getattr(event, "tag", None):
            raise UsageError(f"{what}, line {line}: the tag {tag!r:.80} is not taken")
        if isinstance(event, yaml.ScalarEvent) and _LONG_NUMBER.fullmatch(event.value):
            raise UsageError(f"{what}, line {line}: a number of over 40 digits is not taken")
        if count > MAX_VALUES:
            raise UsageError(f"{what}, line {line}: more than {MAX_VALUES:,} keys and values")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise UsageError(f"{what}, line {line}: more than {MAX_DEPTH} levels deep")
