"""What is plain: the same for what flows are given and for what they give."""

import datetime
import enum
import json
import math
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import UsageError
from aios.flows.outcomes import Outcomes
from aios.store.canonical import plain

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


@given(PLAIN)
def test_what_is_plain_comes_back_as_it_was(value: Any) -> None:
    text = plain(value, "it")
    assert json.loads(text) == orjson.loads(text) == value


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (2**80, "64-bit"),
        (-(2**64), "64-bit"),
        (math.nan, "not JSON compliant"),
        (-math.inf, "not JSON compliant"),
        ("a\0b", "holds a NUL character"),
        ({"a\0": 1}, "holds a NUL character"),
        ("half \ud800", "surrogates"),
        ({1: "a"}, "must be str"),
        (datetime.datetime(2026, 1, 1), "datetime is not JSON"),
        (uuid.UUID(int=1), "UUID is not JSON"),
        (Colour.RED, "Colour is not JSON"),
        (b"bytes", "bytes is not JSON"),
        ({1, 2}, "set is not JSON"),
        pytest.param(object(), "object is not JSON", id="object"),
    ],
    ids=repr,
)
def test_what_is_not_plain_is_refused_as_argument_and_as_result(value: Any, told: str) -> None:
    for nested in (value, {"deep": [1, value]}):
        with pytest.raises(UsageError, match=f"it is not JSON .*{told}.*; give plain values"):
            plain(nested, "it")
        with pytest.raises(UsageError, match="what step 's' returns is not JSON"):
            Outcomes("/nowhere").of(nested, "what step 's' returns")


def test_a_backslash_before_u0000_is_no_nul() -> None:
    assert json.loads(plain("\\u0000", "it")) == "\\u0000"
