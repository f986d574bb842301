"""Hypothesis strategies: contracts, records that may fit them, and arrays of every datatype."""

import numpy as np
from hypothesis import strategies as st

from aios.contracts import Boolean, Category, Contract, Integer, Number, Tensor, Text
from aios.contracts.datatypes import DATATYPES

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(0, 2), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)


@st.composite
def numbers(draw):
    low, high = sorted([draw(FLOATS), draw(FLOATS)])
    return Number(
        min=draw(st.sampled_from([None, low])),
        max=draw(st.sampled_from([None, high])),
        nullable=draw(st.booleans()),
    )


@st.composite
def integers(draw):
    nullable = draw(st.booleans())
    reach = 2**53 if nullable else 2**63 - 1
    bounds = st.integers(-reach, reach) | st.integers(-9, 9)
    low, high = sorted([draw(bounds), draw(bounds)])
    return Integer(
        min=draw(st.sampled_from([None, low])),
        max=draw(st.sampled_from([None, high])),
        nullable=nullable,
    )


CATEGORIES = st.one_of(
    st.lists(st.integers(-5, 5), min_size=1, unique=True),
    st.lists(TEXTS, min_size=1, unique=True),
    st.lists(st.booleans(), min_size=1, unique=True),
).flatmap(lambda values: st.builds(Category, st.just(values), nullable=st.booleans()))
SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
TENSORS = st.builds(Tensor, SHAPES, st.sampled_from(list(DATATYPES)))
FIELDS = st.one_of(
    numbers(),
    integers(),
    st.builds(Boolean, nullable=st.booleans()),
    st.builds(Text, max_length=st.integers(1, 12), nullable=st.booleans()),
    CATEGORIES,
    TENSORS,
)
PAIRS = st.one_of(
    st.tuples(numbers(), numbers()),
    st.tuples(integers(), integers() | numbers()),
    st.tuples(CATEGORIES, CATEGORIES | integers() | numbers()),
    st.tuples(FIELDS, FIELDS),
)
NAMES = st.text("abcdefg", min_size=1, max_size=3)


@st.composite
def contracts(draw):
    inputs = draw(st.dictionaries(NAMES, FIELDS, min_size=1, max_size=4))
    outputs = draw(st.dictionaries(NAMES, FIELDS, min_size=1, max_size=3))
    return Contract(inputs, outputs, key=draw(st.sampled_from([None, "key"])))


def elements_of(datatype: str):
    dtype = DATATYPES[datatype]
    if dtype.kind == "O":
        return TEXTS
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind == "f":
        width = 16 if datatype in ("FP16", "BF16") else dtype.itemsize * 8
        floats = st.floats(allow_nan=False, allow_infinity=False, width=width)
        return floats.map(bfloat16) if datatype == "BF16" else floats
    info = np.iinfo(dtype)
    return st.integers(int(info.min), int(info.max))


def bfloat16(value: float) -> float:
    """The value with the low 16 bits of its 32-bit form cut off."""
    bits = np.array([value], dtype="<f4").view("<u4") & np.uint32(0xFFFF0000)
    return float(bits.view("<f4")[0])


def whole_numbers(low: float, high: float):
    """A few small integers between the limits."""
    found = [n for n in range(-3, 4) if low <= n <= high]
    return st.sampled_from(found) if found else st.nothing()


def fitting(field):
    """Values that the field takes, mostly."""
    if isinstance(field, Number):
        low, high = field.limits
        # Adding 0.0 turns -0.0 into 0.0, which hypothesis wants in order.
        values = st.floats(low + 0.0, high + 0.0) | whole_numbers(low, high)
    elif isinstance(field, Integer):
        low, high = field.limits
        values = st.integers(low, high) | whole_numbers(low, high).map(float)
    elif isinstance(field, Boolean):
        values = st.booleans()
    elif isinstance(field, Text):
        values = TEXTS.map(lambda text: text[: field.max_length])
    elif isinstance(field, Category):
        values = st.sampled_from(field.values)
    else:
        values = elements_of(field.dtype)
        for size in reversed(field.shape):
            values = st.lists(values, min_size=size, max_size=size)
    return values | st.none() if field.nullable else values


@st.composite
def maybe_records(draw, contract):
    """A record that fits, or has one thing wrong with it, or several."""
    record = {name: draw(fitting(field)) for name, field in contract.inputs.items()}
    if contract.key is not None and draw(st.booleans()):
        record[contract.key] = draw(st.one_of(st.just("k1"), st.integers(-9, 9), JUNK))
    for name in draw(st.lists(st.sampled_from([*contract.inputs, "other"]), max_size=2)):
        if draw(st.booleans()):
            record.pop(name, None)
        else:
            record[name] = draw(JUNK)
    return record
