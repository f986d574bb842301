"""Private fields: said in the contract, kept by whoever takes its place."""

import pickle

import orjson
import pytest

from aios.contracts import Boolean, Category, Contract, Integer, Number, Tensor, Text
from aios.errors import UsageError


def contract(private=None, key=None, output=None):
    return Contract(
        inputs={"a": Number(private=private), "b": Text()},
        outputs={"p": Number(private=output)},
        key="id",
        private_key=key,
    )


@pytest.mark.parametrize(
    "field",
    [
        Number(private="hash"),
        Integer(private="omit"),
        Boolean(private="hash"),
        Text(private="omit"),
        Category(["a", "b"], private="hash"),
        Tensor((2,), "FP32", private="omit"),
    ],
    ids=lambda field: field.kind,
)
def test_every_kind_of_field_may_be_private_and_survives_its_json(field):
    made = Contract(inputs={"x": field}, outputs={"y": Number()}, private_key="hash")
    for again in (
        Contract.from_json(made.to_json()),
        Contract.from_json(orjson.dumps(made.to_json())),
        pickle.loads(pickle.dumps(made)),
    ):
        assert again == made
        assert again.inputs["x"] == field
        assert (again.inputs["x"].private, again.private_key) == (field.private, "hash")
    assert field.private in repr(field)


def test_a_contract_without_private_fields_says_nothing_of_them():
    document = contract().to_json()
    assert set(document) == {"version", "key", "inputs", "outputs"}
    assert document["inputs"][0] == {
        "name": "a",
        "type": "number",
        "min": None,
        "max": None,
        "nullable": False,
    }
    # As it was before fields could be private: registered versions keep their digests.
    assert contract().digest == "a4294a5f307c8d79cec6e3161ec5519c8c6b8672c9590d45300b79db73db5643"


def test_privacy_is_part_of_what_a_contract_is():
    every = {contract(), contract("hash"), contract("omit"), contract(key="hash")}
    assert len({one.digest for one in every}) == 4


@pytest.mark.parametrize("wrong", ["hide", 1, ["hash"], True])
def test_another_word_is_refused_by_name(wrong):
    with pytest.raises(UsageError, match='input "a": private must be "hash", "omit" or None'):
        contract(wrong)
    with pytest.raises(UsageError, match='the key: private must be "hash"'):
        contract(key=wrong)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (contract("hash"), contract(), 'input "a" is private (hash) and may not become open'),
        (contract("omit"), contract("hash"), "(omit) and may not become hashed only"),
        (contract(output="omit"), contract(), 'output "p" is private (omit)'),
        (contract(key="hash"), contract(), "the key is private (hash) and may not become open"),
    ],
)
def test_what_was_private_may_not_become_open_with_a_new_version(old, new, why):
    (reason,) = old.check_compatible(new)
    assert why in reason
    assert new.check_compatible(old) == []


def test_a_contract_shows_what_is_private():
    shown = repr(contract("hash", key="omit"))
    assert "private='hash'" in shown
    assert "private_key='omit'" in shown
    assert "(private: hash)" in str(contract("hash")._shown())
