"""The keys of the prediction log: one private file, and what can be opened with which."""

import pickle

import numpy as np
import pytest

from aios.errors import StoreCorrupt, StoreUnavailable, UsageError
from aios.security.keyring import Keyring, context, key_of, load_keyring, save_keyring

WHERE = context("loan", "r1", 0, "inputs")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys" / "log.json"


@pytest.fixture
def ring(path):
    return load_keyring(path, encrypts=True)


def sealed(ring, text=b'{"a":1}', where=WHERE):
    sealer = ring.sealer()
    return sealer.tag, sealer.seal(text, where).decode()


def test_the_file_is_its_owners_alone_and_gives_the_same_keys_again(path, ring):
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    again = load_keyring(path, encrypts=True)
    assert (again.ids, again.stamp, again.hashed(1)) == (ring.ids, ring.stamp, ring.hashed(1))
    assert again.open(*sealed(ring), WHERE) == b'{"a":1}'


def test_a_file_that_others_may_read_is_refused(path, ring):
    path.chmod(0o640)
    with pytest.raises(UsageError, match=r"can be read by others \(mode 0640\).*chmod 600"):
        load_keyring(path, encrypts=True)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"hash_key": "ab", "keys": []}', '{"hash_key": 5, "keys": []}']
)
def test_a_file_that_holds_no_keys_is_refused_and_stays(path, ring, content):
    path.write_text(content)
    with pytest.raises(UsageError, match="put the file back"):
        load_keyring(path, encrypts=True)
    assert path.read_text() == content


def test_a_home_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "keys").write_text("a file where the folder should be")
    with pytest.raises(StoreUnavailable, match="keys"):
        load_keyring(tmp_path / "keys" / "log.json", encrypts=False)


def test_without_encryption_there_is_a_hash_key_and_nothing_is_sealed(path):
    plain = load_keyring(path, encrypts=False)
    assert (plain.ids, plain.sealer()) == ([], None)
    later = load_keyring(path, encrypts=True)
    assert len(later.ids) == 1
    assert later.hashed("x") == plain.hashed("x")
    assert load_keyring(path, encrypts=False).ids == later.ids, "older rows must stay readable"


def test_no_key_is_ever_shown(ring, path):
    secrets = path.read_text().split('"')
    for shown in (repr(ring), str(ring), ring.stamp, f"{ring.ids}"):
        assert not any(len(secret) == 64 and secret in shown for secret in secrets)


def test_a_value_opens_only_where_it_belongs(ring):
    tag, text = sealed(ring)
    assert ring.open(tag, text, WHERE) == b'{"a":1}'
    for other in (
        context("fraud", "r1", 0, "inputs"),
        context("loan", "r2", 0, "inputs"),
        context("loan", "r1", 1, "inputs"),
        context("loan", "r1", 0, "outputs"),
    ):
        with pytest.raises(StoreCorrupt, match="is of another row"):
            ring.open(tag, text, other)
    for damaged in (text[:-8] + "AAAAAA==", text[:20], "", "not base64!"):
        with pytest.raises(StoreCorrupt):
            ring.open(tag, damaged, WHERE)


def test_equal_values_are_encrypted_differently_each_time(ring):
    assert sealed(ring)[1] != sealed(ring)[1]
    sealer = ring.sealer()
    texts = {sealer.seal(b"x", WHERE) for _ in range(1000)}
    assert len({text[:16] for text in texts}) == 1000, "a nonce came twice"


def test_after_a_rotation_old_rows_open_and_new_ones_use_the_new_key(ring):
    old = sealed(ring)
    rotated = ring.rotated()
    assert rotated.ids[:-1] == ring.ids
    new = sealed(rotated)
    assert key_of(new[0]) == rotated.ids[-1] != key_of(old[0])
    assert rotated.open(*old, WHERE) == rotated.open(*new, WHERE)
    assert rotated.stamp != ring.stamp
    assert rotated.hashed("x") == ring.hashed("x")
    with pytest.raises(UsageError, match=f"with key '{rotated.ids[-1]}'.*put the file"):
        ring.open(*new, WHERE)


def test_a_wrong_key_of_the_same_name_opens_nothing(ring):
    tag, text = sealed(ring)
    wrong = Keyring(b"h" * 32, {ring.ids[0]: b"k" * 32}, True)
    with pytest.raises(StoreCorrupt, match=f"key {ring.ids[0]} is not the one"):
        wrong.open(tag, text, WHERE)


def test_the_newest_key_is_never_retired(ring):
    with pytest.raises(UsageError, match="rotate first"):
        ring.without(ring.ids[0])
    with pytest.raises(UsageError, match="no key 'zz'"):
        ring.without("zz")
    rotated = ring.rotated()
    assert rotated.without(ring.ids[0]).ids == rotated.ids[1:]


def test_a_retired_key_is_gone_from_the_file(path, ring):
    rotated = ring.rotated()
    save_keyring(path, rotated.without(ring.ids[0]))
    assert load_keyring(path, encrypts=True).ids == rotated.ids[1:]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("one", "other"),
    [(2, 2.0), (2.0, np.float64(2.0)), ("a", "a"), ([1.0, 2.0], [1.0, 2.0]), (True, True)],
)
def test_equal_values_have_equal_hashes(ring, one, other):
    assert ring.hashed(one) == ring.hashed(other)
    assert ring.hashed(one).startswith("hmac:")


def test_different_values_differ_and_nothing_stays_nothing(ring):
    values = ["a", "b", "1", 1, 1.5, True, False, "true", ""]
    assert len({ring.hashed(value) for value in values}) == len(values)
    assert ring.hashed(None) is ring.hashed(float("nan")) is None
    assert ring.hashed_all(["a", None, "a"]) == [ring.hashed("a"), None, ring.hashed("a")]
    assert ring.hashed_all([1.0, float("nan")]) == [ring.hashed(1), None]
    assert ring.hashed_all([[1, 2]]) == [ring.hashed([1, 2])]


def test_hashes_cannot_be_compared_between_installations(tmp_path, ring):
    other = load_keyring(tmp_path / "other" / "log.json", encrypts=False)
    assert other.hashed("ann@example.com") != ring.hashed("ann@example.com")


def test_a_keyring_travels_to_another_process(ring):
    again = pickle.loads(pickle.dumps(ring))
    assert again.open(*sealed(ring), WHERE) == b'{"a":1}'
    assert again.encrypts
