"""Ports of a runtime: disjoint, free, claimed, and who holds them when they are not."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aios.errors import UsageError
from aios.kernel import ports as room
from aios.kernel.ports import Ports, clear_leftovers, leftovers
from aios.kernel.processes import HOME_VARIABLE, ID_VARIABLE

LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def free() -> Iterator[Ports]:
    ports = Ports.free()
    yield ports
    ports.release()


def listener(port: int, **environment: str) -> subprocess.Popen[bytes]:
    """A process that holds a port, with some variables in its environment."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", LISTEN, str(port)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"listening\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_default_ports_are_the_well_known_ones() -> None:
    ports = Ports.default()
    assert (ports.http, ports.gcs, ports.dashboard) == (8000, 6379, 8265)
    assert (ports.haproxy_stats, ports.haproxy_metrics) == (8404, 9101)


def test_default_takes_the_ports_of_the_settings() -> None:
    ports = Ports.default(http_port=80, ray_port=7000, dashboard_port=7001)
    assert (ports.http, ports.gcs, ports.dashboard) == (80, 7000, 7001)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"http_port": 6379}, "port 6379 is given to both http and gcs"),
        ({"http_port": 8404}, "given to both"),
        ({"ray_port": 10_500}, "is one of those of"),
        ({"dashboard_port": 70_000}, "outside 1..65535"),
    ],
)
def test_ports_that_clash_are_refused_with_their_names(wrong: dict[str, int], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Ports.default(**wrong)


def test_ranges_may_not_overlap() -> None:
    fields = Ports.default().model_dump()
    with pytest.raises(ValidationError, match="overlap"):
        Ports(**{**fields, "direct_ingress_min": 10_002, "direct_ingress_max": 10_003})


@given(st.integers(min_value=0, max_value=(30_000 - 20_000) // 500 - 1))
def test_every_block_is_disjoint_and_inside_itself(index: int) -> None:
    first = room.BLOCK_FIRST + index * room.BLOCK_SIZE
    ports = Ports._block(first)
    numbers = ports.model_dump().values()
    assert min(numbers) == first
    assert max(numbers) < first + room.BLOCK_SIZE


def test_two_private_runtimes_never_share_a_port(free: Ports) -> None:
    other = Ports.free()
    try:
        assert not set(free.model_dump().values()) & set(other.model_dump().values())
    finally:
        other.release()


def test_processes_that_choose_at_once_choose_differently() -> None:
    """Slow, as each is a Python of its own: the claim is about processes."""
    code = (
        "import sys; from aios.kernel.ports import Ports; print(Ports.free().http, flush=True);"
        "sys.stdin.read()"
    )
    choosers = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    try:
        chosen = [int(chooser.stdout.readline()) for chooser in choosers if chooser.stdout]
        assert len(set(chosen)) == 3
    finally:
        for chooser in choosers:
            end(chooser)


def test_a_claim_ends_with_its_process(free: Ports) -> None:
    with room._claims() as folder:
        claim = folder / str(free.http)
        assert room._claimed(claim)
        claim.write_text(json.dumps({"pid": os.getpid(), "created_s": 1.0}))
        assert not room._claimed(claim), "a reused pid must not hold a claim"
        claim.write_text("half a cla")
        assert not room._claimed(claim)


def test_released_ports_can_be_taken_again(free: Ports) -> None:
    free.release()
    with room._claims() as folder:
        assert not (folder / str(free.http)).exists()


def test_free_ports_have_no_holder(free: Ports) -> None:
    assert leftovers(free) == []
    assert clear_leftovers(free) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_foreign_holder_is_named_and_left_alone(free: Ports, host: str) -> None:
    with socket.create_server((host, free.haproxy_stats)):
        (held,) = leftovers(free)
        assert (held.port, held.pid, held.ours) == (free.haproxy_stats, os.getpid(), False)
        assert held.name == psutil.Process().name()
        with pytest.raises(UsageError) as refused:
            clear_leftovers(free)
    message = refused.value.message
    assert f"port {free.haproxy_stats}" in message
    assert f"process {os.getpid()} ({held.name})" in message
    assert "set other ports" in message


def test_what_a_dead_runtime_left_is_ended(free: Ports) -> None:
    left = listener(free.http, **{ID_VARIABLE: "dead0001", HOME_VARIABLE: "/gone"})
    bystander = listener(free.http + 25, **{ID_VARIABLE: "other001"})
    try:
        (held,) = clear_leftovers(free)
        assert (held.pid, held.ours, held.runtime_id) == (left.pid, True, "dead0001")
        assert left.wait(timeout=5) != 0
        assert bystander.poll() is None
        assert leftovers(free) == []
    finally:
        end(left)
        end(bystander)


def test_one_foreign_holder_keeps_everything_as_it_is(free: Ports) -> None:
    left = listener(free.http, **{ID_VARIABLE: "dead0002"})
    try:
        with (
            socket.create_server(("127.0.0.1", free.gcs)),
            pytest.raises(UsageError, match=f"port {free.gcs}"),
        ):
            clear_leftovers(free)
        assert left.poll() is None
    finally:
        end(left)
