"""API keys: made once, stored as digests, recognised cheaply."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aios.errors import UsageError
from aios.security import allowed, digest, key_id, new_key


def test_a_new_key_is_allowed_by_its_digest_and_by_no_other():
    plain, stored = new_key("Ana Smith <ana@bank.example>")
    other, other_stored = new_key("Ana Smith <ana@bank.example>")
    assert plain.startswith("aios_ana-smith-ana-bank-example-")
    assert stored == digest(plain) == hashlib.sha256(plain.encode()).hexdigest()
    assert allowed(plain, frozenset({stored, other_stored}))
    assert allowed(plain.encode(), frozenset({stored}))
    assert not allowed(other, frozenset({stored}))
    assert not allowed(plain, frozenset())


def test_the_secret_has_256_bits_and_the_id_is_public_and_unique():
    keys = [new_key("ana")[0] for _ in range(100)]
    secrets = {plain[-43:] for plain in keys}
    assert len(secrets) == len({key_id(plain) for plain in keys}) == 100
    assert all(key_id(plain) + "_" + plain[-43:] == plain[5:] for plain in keys)


@example("\ud800")
@example("aios_ana_" + "x" * 10_000)
@given(st.none() | st.text() | st.binary() | st.text().map("aios_".__add__))
def test_whatever_is_no_key_is_refused_without_an_error(candidate: bytes | str | None):
    _plain, stored = new_key("ana")
    assert not allowed(candidate, frozenset({stored}))


def test_what_has_not_the_form_of_a_key_is_refused_even_if_its_digest_is_stored():
    for odd in ("", "Bearer x", "aios_", "x" * 60, "aios_" + "x" * 200):
        assert not allowed(odd, frozenset({hashlib.sha256(odd.encode()).hexdigest()}))


@given(st.text(max_size=60))
def test_any_identity_makes_a_wellformed_key_or_is_refused(identity: str):
    try:
        plain, _ = new_key(identity)
    except UsageError:
        assert not any(c.isascii() and c.isalnum() for c in identity.lower())
    else:
        assert key_id(plain)
        assert plain.isascii()


def test_an_id_is_not_read_from_something_else_and_the_message_keeps_it_secret():
    with pytest.raises(UsageError) as caught:
        key_id("aios_ana_my-password")
    assert "my-password" not in str(caught.value)
