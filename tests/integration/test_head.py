"""A real Ray head: comes up closed, comes back from its own death, goes without a trace."""

import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aios.errors import ClusterUnavailable, UsageError
from aios.kernel.head import (
    Head,
    Ports,
    head_is_alive,
    leftovers,
    read_head,
    restart_head,
    start_head,
    stop_head,
)
from aios.kernel.processes import end_all, is_alive, name_of, processes_of

APP = """
import os
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Hello:
    async def __call__(self, request):
        return os.environ["GREETING"]

app = Hello.bind()
"""

OWNER = """
import os, sys, time
from pathlib import Path
from aios.kernel.guard import spawn_guard
from aios.kernel.head import Ports, start_head
home = Path(sys.argv[1])
spawn_guard(home, parent_pid=os.getpid())
start_head(home, Ports.free(), num_cpus=1)
print("up", flush=True)
time.sleep(600)
"""


def call(port: int, path: str, *, method: str = "GET", token: str = "", body: Any = None) -> Any:
    """Status and text of one request; status 0 where nobody answers. Ray's dashboard imports Serve
    with the first application."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10 if body is None else 90)
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError as error:
        return 0, repr(error)
    finally:
        connection.close()


def eventually(condition: Callable[[], bool], within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def kill_all(head: Head, *, but: str = "") -> None:
    """Gone when this returns, with what they began meanwhile: a busy machine takes its time."""

    def doomed() -> list[psutil.Process]:
        processes = processes_of(head.id, str(head.temp_dir))
        return [process for process in processes if name_of(process) != but]

    end_all(doomed, timeout_s=30, terminate_s=-1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime")
    (folder / "hello_app.py").write_text(APP)
    return folder / "home"


@pytest.fixture(scope="module")
def head(home: Path) -> Iterator[Head]:
    """Started in a folder with user code, with an application on it."""
    ports = Ports.free()
    with pytest.MonkeyPatch.context() as here:
        here.chdir(home.parent)
        begun_s = time.monotonic()
        head = start_head(home, ports, num_cpus=2, extra_env={"GREETING": "hello"})
        print(f"start: {time.monotonic() - begun_s:.1f} s")
    try:
        config = {
            "http_options": {"host": "127.0.0.1", "port": ports.http},
            "applications": [
                {"name": "hello", "route_prefix": "/hello", "import_path": "hello_app:app"}
            ],
        }
        path = "/api/serve/applications/"
        status, text = call(ports.dashboard, path, method="PUT", token=head.token(), body=config)
        assert status == 200, text
        assert eventually(lambda: hello(head), 60)
        yield head
    finally:
        stop_head(head, remove_home=True)


def hello(head: Head) -> bool:
    return bool(call(head.ports.http, "/hello") == (200, "hello"))


def test_rest_answers_with_the_token_only(head: Head) -> None:
    path = "/api/serve/applications/"
    status, text = call(head.ports.dashboard, path, token=head.token())
    assert status == 200
    assert "hello" in json.loads(text)["applications"]
    assert call(head.ports.dashboard, path)[0] == 401
    assert call(head.ports.dashboard, path, token="wrong")[0] == 403


def test_token_and_note_are_private(head: Head) -> None:
    for path in (head.token_path, head.home / "runtime.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (head.home, head.temp_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert read_head(head.home) == head


def test_only_serve_listens_to_the_outside(head: Head) -> None:
    """HAProxy's two pages and the replicas' own ports, which Ray 2.60 binds to everything."""
    names = {process.pid: name_of(process) for process in processes_of(head.id)}
    outside = {
        (names[entry.pid], entry.laddr.port)
        for entry in psutil.net_connections(kind="tcp")
        if entry.pid in names
        and entry.status == psutil.CONN_LISTEN
        and entry.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    }
    ours = {("haproxy", head.ports.haproxy_metrics), ("haproxy", head.ports.haproxy_stats)}
    assert all(name.startswith("ray::ServeRepli") for name, _ in outside - ours), outside
    assert head.ports.http not in {port for _, port in outside}


def test_a_driver_connects_with_the_noted_environment(head: Head) -> None:
    code = "import ray; ray.init(log_to_driver=False); print(ray.nodes()[0]['NodeManagerAddress'])"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **head.driver_env()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.strip() == "127.0.0.1", ran.stderr[-2000:]


def test_a_second_start_says_where_the_first_one_runs(head: Head) -> None:
    with pytest.raises(UsageError) as refused:
        start_head(head.home, head.ports)
    assert head.address in refused.value.message
    assert str(head.pids["raylet"]) in refused.value.message
    assert head_is_alive(head)


def test_a_living_runtimes_ports_are_not_taken(head: Head, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="aios runtime at") as refused:
        start_head(tmp_path / "other", head.ports)
    assert str(head.home) in refused.value.message
    assert head_is_alive(head)
    assert read_head(tmp_path / "other") is None


def test_a_dead_control_store_comes_back_beside_living_replicas(head: Head) -> None:
    os.kill(head.pids["gcs"], signal.SIGKILL)
    assert eventually(lambda: not head_is_alive(head), 5)
    assert hello(head)
    revived = restart_head(head)
    assert head_is_alive(revived)
    assert revived.pids["raylet"] == head.pids["raylet"]
    assert hello(head)


def test_a_killed_head_comes_back_with_its_application(head: Head) -> None:
    """Only HAProxy survives it, and holds the ports of the ingress."""
    kill_all(head, but="haproxy")
    assert eventually(lambda: {held.name for held in leftovers(head.ports)} == {"haproxy"}, 10)
    assert not any(held.runtime_alive for held in leftovers(head.ports))
    begun_s = time.monotonic()
    back = restart_head(head)
    assert (back.id, back.address) == (head.id, head.address)
    assert eventually(lambda: hello(head), 60)
    print(f"killed head answers again: {time.monotonic() - begun_s:.1f} s")


def test_stop_leaves_no_process_and_no_taken_port(head: Head) -> None:
    """Neither of the first start nor of the one after a death."""
    kill_all(head)
    current = start_head(head.home, head.ports, num_cpus=1, extra_env={"GREETING": "hello"})
    assert current.id == head.id, "the same runtime goes on"
    processes = processes_of(head.id, str(head.temp_dir))
    begun_s = time.monotonic()
    stop_head(current)
    print(f"stop: {time.monotonic() - begun_s:.1f} s")
    assert not [process for process in processes if is_alive(process)]
    assert leftovers(head.ports) == []
    assert not head.temp_dir.exists()
    assert read_head(head.home) is None
    assert head.home.exists()


def test_a_head_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    ports = Ports.free()
    with pytest.raises(ClusterUnavailable, match="no_module"):
        start_head(tmp_path, ports, extra_env={"RAY_START_HOOK": "no_module.at_all"})
    assert read_head(tmp_path) is None
    assert leftovers(ports) == []
    ports.release()


def test_a_private_runtime_goes_with_its_killed_owner(tmp_path: Path) -> None:
    home = tmp_path / "private"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        head = read_head(home)
        assert head is not None
        processes = processes_of(head.id, str(head.temp_dir))
        assert len(processes) >= 5
    finally:
        owner.kill()
        owner.communicate()
    assert eventually(lambda: not home.exists() and not head.temp_dir.exists(), 20)
    assert not [process for process in processes if is_alive(process)]
    assert leftovers(head.ports) == []
