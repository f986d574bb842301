"""API keys: made once, stored as digests, recognised cheaply, revoked for good."""

import hashlib
import threading

import pytest
import uvicorn
from api_fakes import Client, api_of, is_problem
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_fakes import KEY, World, make_template, make_world

from aios.errors import Forbidden, IllegalTransition, UnknownName, UsageError
from aios.runtime.keys import Keys
from aios.runtime.runtime import Runtime
from aios.runtime.transport import Transport
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


# -- keys of a running kernel ---------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template, tmp_path):
    return make_world(template, tmp_path)


def add(world: World, identity="bob", role="viewer", **more):
    made = world.do("add_key", identity=identity, role=role, **more)
    world.reconcile()
    return made


def status_of(world: World, header):
    headers = [(b"authorization", value) for value in header]
    return Client(api_of(world), None)("GET", "/api/v1/models", raw=headers)


def bearer(key):
    return [b"Bearer " + key.encode()]


def test_a_key_is_shown_once_and_is_nowhere_in_the_store(world: World):
    made = world.do("add_key", "op-1", identity="Bob", role="deployer")
    plain = made.pop("key")
    assert key_id(plain) == made["id"]
    assert world.do("keys")[0] == {**made, "created_s": world.clock.now_s()}
    (entry,) = world.do("audit", limit=10, subject="Bob")
    assert (entry["action"], entry["details"]) == ("add_key", made)
    kept = [path for path in world.settings.home.rglob("*") if path.is_file()]
    assert any(made["id"].encode() in path.read_bytes() for path in kept)
    assert not any(plain[-43:].encode() in path.read_bytes() for path in kept)
    assert digest(plain) not in str(world.do("keys"))


def test_a_key_is_not_made_twice_when_the_request_is_repeated(world: World):
    made = world.do("add_key", "op-1", identity="bob", role="viewer")
    before = world.do("keys")
    with pytest.raises(IllegalTransition, match=f"revoke {made['id']}"):
        world.do("add_key", "op-1", identity="bob", role="viewer")
    assert world.do("keys") == before
    world.do("revoke_key", "op-2", id=made["id"])
    assert world.do("revoke_key", "op-2", id=made["id"]) == {"id": made["id"]}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"identity": ""}, "identity"),
        ({"identity": " bob"}, "spaces around"),
        ({"identity": "bob\nadmin"}, "one line"),
        ({"identity": "b" * 101}, "identity"),
        ({"identity": "!!"}, "name a person or service"),
        ({"identity": "Kernel"}, "what aios calls itself"),
        ({"role": "root"}, "'admin', 'approver'"),
        ({"expires_s": 3600}, "in the past"),
        ({"expires_s": float("inf")}, "finite"),
        ({"scope": "all"}, "scope"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(world: World, fields, told):
    before = world.do("keys")
    with pytest.raises(UsageError, match=told):
        world.do("add_key", **{"identity": "bob", "role": "viewer", **fields})
    assert world.do("keys") == before


def test_keys_that_do_not_open(world: World):
    good, revoked = add(world)["key"], add(world)
    expired = add(world, expires_s=world.clock.now_s() + 60)["key"]
    world.do("revoke_key", id=revoked["id"])
    world.clock.advance(61)
    world.reconcile()
    assert status_of(world, bearer(good)).status_code == 200
    for header in (
        [],
        [b""],
        [b"Bearer "],
        [good.encode()],
        [b"Basic " + good.encode()],
        bearer(good) * 2,
        bearer(good) + bearer(revoked["key"]),
        bearer(good + "x"),
        bearer(new_key("foreign")[0]),
        bearer(revoked["key"]),
        bearer(expired),
        bearer(digest(good)),
    ):
        is_problem(status_of(world, header), 401, "Unauthenticated")


def test_endpoints_learn_at_once_of_added_revoked_and_expired_keys(world: World):
    told = []
    world.kernel.on_change(lambda: told.append(world.plan().keys))
    made = add(world, role="operator")
    assert digest(made["key"]) in told[-1]
    world.do("revoke_key", id=made["id"])
    assert told[-1] == (KEY[1],)
    expiring = add(world, expires_s=world.clock.now_s() + 60)
    assert digest(expiring["key"]) in told[-1]
    world.clock.advance(61)
    world.reconcile()
    assert told[-1] == (KEY[1],)


def test_an_auditors_key_opens_no_endpoint(world: World):
    keys = {role: digest(add(world, role=role)["key"]) for role in ("auditor", "approver")}
    assert set(world.plan().keys) == {KEY[1], keys["approver"]}


def test_the_last_lasting_admin_key_cannot_be_revoked(world: World):
    (own,) = [key["id"] for key in world.do("keys")]
    expiring = add(world, role="admin", expires_s=world.clock.now_s() + 60)
    with pytest.raises(IllegalTransition, match="add another one first"):
        world.do("revoke_key", id=own)
    world.do("revoke_key", id=expiring["id"])
    other = add(world, role="admin")
    world.do("revoke_key", id=own)
    with pytest.raises(IllegalTransition, match="last admin key"):
        world.do("revoke_key", id=other["id"])
    with pytest.raises(UnknownName, match=other["id"]):
        world.do("revoke_key", id="bib-1")
    world.restart()
    assert [key["id"] for key in world.do("keys")] == [other["id"]], "revoked for good"


# -- rt.keys --------------------------------------------------------------------------


@pytest.fixture
def runtime(world: World):
    """The SDK against the API over HTTP; whose keys Serve learns late, as in life."""
    admin = add(world, identity="ada", role="admin")["key"]
    server = uvicorn.Server(uvicorn.Config(api_of(world), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    world.kernel.on_change(lambda: threading.Timer(0.15, world.reconcile).start())
    with Runtime(f"http://127.0.0.1:{port}", admin) as rt:
        yield rt
    server.should_exit = True
    thread.join()


def test_a_new_key_works_when_add_returns_and_prints_without_its_secret(runtime: Runtime):
    made = runtime.keys.add("Bob", role="viewer")
    shown = repr(made) + made._repr_html_()
    assert made.key[-43:] not in shown
    assert made.id in shown
    bobs = Transport(runtime.address, made.key, patience_s=0)
    assert bobs.get("/api/v1/whoami") == {"identity": "Bob", "role": "viewer"}
    with pytest.raises(Forbidden, match="viewer"):
        Keys(bobs).list()
    assert made.id in repr(runtime.keys.list())
    runtime.keys.revoke(made.key)
    assert made.id not in repr(runtime.keys.list())
    bobs.close()


@pytest.mark.parametrize("identity", ["ANN", "Ann", "\u0430nn", "\uff41nn"])
def test_one_person_gets_no_second_spelling(world: World, identity: str) -> None:
    world.do("add_key", identity="ann", role="deployer")
    with pytest.raises(UsageError, match=r"capital letters only|ASCII"):
        world.do("add_key", identity=identity, role="approver")
    world.do("add_key", identity="ann", role="approver")
