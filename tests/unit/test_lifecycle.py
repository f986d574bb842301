"""Starting and ending runtimes, as far as it goes without Ray: notes, keys, refusals, reasons."""

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import aios
from aios.config import Settings
from aios.errors import AiosError, ClusterUnavailable, UsageError
from aios.kernel.guard import watch
from aios.kernel.processes import HOME_VARIABLE
from aios.kernel.serve_config import API_APP
from aios.runtime.connection import Connection, forget, note, noted, own_key
from aios.runtime.lifecycle import connect, down, local, up
from aios.runtime.readiness import wait_until_ready

KEY = "aios_admin-0123abcd_" + "k" * 43
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("AIOS_", "RAY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


Answer = Callable[[str, str | None], tuple[int, Any]]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Start a server that answers (path, Authorization) with a status and JSON."""
    started: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(answer: Answer) -> str:
        class Exchange(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answer(self.path, self.headers.get("authorization"))
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Exchange)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        key = own_key(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "api.key").stat().st_mode) == 0o600
    assert own_key(tmp_path) == key
    assert [path.name for path in tmp_path.iterdir()] == ["api.key"]


def test_a_note_reads_back_and_is_private_from_its_first_byte(tmp_path: Path) -> None:
    assert noted(tmp_path) is None
    connection = Connection(address="http://127.0.0.1:8000", key=KEY)
    (tmp_path / "connection.json").touch(mode=0o644)
    note(tmp_path, connection)
    assert stat.S_IMODE((tmp_path / "connection.json").stat().st_mode) == 0o600
    assert noted(tmp_path) == connection
    forget(tmp_path)
    forget(tmp_path)
    assert noted(tmp_path) is None


def test_the_noted_key_opens_the_noted_runtime_only(tmp_path: Path, serve: Any) -> None:
    """Another address would learn a key that is none of its business."""
    seen: list[str | None] = []

    def answer(path: str, authorization: str | None) -> tuple[int, Any]:
        seen.append(authorization)
        return 200, {}

    here, elsewhere = serve(answer), serve(answer)
    note(tmp_path, Connection(address=here, key=KEY))
    for address in (None, here, here + "/", elsewhere):
        connect(address, home=tmp_path).close()
    connect(elsewhere, key="other", home=tmp_path).close()
    mine = f"Bearer {KEY}"
    assert seen == [mine, mine, mine, None, "Bearer other"]


def test_code_that_a_runtime_runs_finds_that_runtime_whatever_its_settings_name(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    def answer(path: str, authorization: str | None) -> tuple[int, Any]:
        seen.append(authorization)
        return 200, {}

    here, elsewhere = serve(answer), serve(answer)
    note(tmp_path, Connection(address=here, key=KEY))
    monkeypatch.setenv("AIOS_ADDRESS", elsewhere)
    monkeypatch.setenv("AIOS_KEY", "other")
    with connect() as outside:
        assert outside.address == elsewhere
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    with connect() as inside:
        assert inside.address == here
    with connect(elsewhere) as told:
        assert told.address == elsewhere
    assert seen == ["Bearer other", f"Bearer {KEY}", "Bearer other"]


def test_ending_what_runs_on_another_ray_is_refused_and_forgets_nothing(tmp_path: Path) -> None:
    connection = Connection(address=NOWHERE, key=KEY, ray_address="auto")
    note(tmp_path, connection)
    with pytest.raises(UsageError, match="ray down"):
        down(Settings.load(home=tmp_path))
    assert noted(tmp_path) == connection


def test_ending_forgets_the_address_and_keeps_the_key(tmp_path: Path) -> None:
    key = own_key(tmp_path)
    note(tmp_path, Connection(address=NOWHERE, key=key))
    assert down(Settings.load(home=tmp_path)) is False
    assert noted(tmp_path) is None
    assert own_key(tmp_path) == key


@pytest.mark.parametrize("setting", ["home", "http_port", "ray_port", "ray_address"])
def test_a_private_runtime_chooses_its_own_place(setting: str) -> None:
    with pytest.raises(UsageError, match=f"its own {setting}"):
        local(**{setting: 1})


def test_a_private_runtime_with_a_wrong_setting_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    for wrong in ({"stroe_url": "x"}, {"otlp_endpoint": 3}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            local(**wrong)
    left = [path.name for path in folder.rglob("*") if path.is_file()]
    assert left == ["lock"], "no home, and the claim on its ports given back"


def test_a_ray_that_is_not_there_is_named_and_nothing_noted(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, ray_address="127.0.0.1:1")
    with pytest.raises(AiosError, match=r"127\.0\.0\.1:1") as refused:
        up(settings)
    assert "Traceback" not in refused.value.message.splitlines()[0]
    assert noted(tmp_path) is None


def app(status: str, message: str) -> dict[str, Any]:
    return {"applications": {API_APP: {"status": status, "message": message, "deployments": {}}}}


def test_an_api_that_serve_cannot_start_is_told_with_serves_own_reason(serve: Any) -> None:
    trace = "Traceback (most recent call last):\n  File x\nImportError: no module 'fastapi'\n"
    dashboard = serve(lambda *_: (200, app("DEPLOY_FAILED", trace)))
    with pytest.raises(ClusterUnavailable, match="ImportError: no module 'fastapi'"):
        wait(dashboard, timeout_s=30)


def test_an_api_that_does_not_come_is_told_with_how_far_serve_is(serve: Any) -> None:
    dashboard = serve(lambda *_: (200, app("DEPLOYING", "no CPU is free")))
    with pytest.raises(ClusterUnavailable, match="did not answer within 0 s"):
        wait(dashboard, timeout_s=0)


def test_an_api_that_answers_is_ready(serve: Any) -> None:
    api = serve(lambda path, _: (200 if path == "/v2/health/ready" else 404, {}))
    wait(NOWHERE, timeout_s=5, address=api)


def test_ray_on_a_cluster_is_asked_with_its_token(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    seen: list[str | None] = []

    def answer(path: str, authorization: str | None) -> tuple[int, Any]:
        seen.append(authorization)
        return 200, app("DEPLOY_FAILED", "ValueError: x")

    with pytest.raises(ClusterUnavailable, match="ValueError: x"):
        wait(serve(answer), timeout_s=30)
    assert seen == ["Bearer secret"]


def wait(dashboard: str, *, timeout_s: float, address: str = NOWHERE) -> None:
    port = int(dashboard.rpartition(":")[2])
    wait_until_ready(Connection(address=address, key=KEY), None, port, timeout_s)


def test_a_guard_does_not_outlive_a_home_that_never_came_to_be(tmp_path: Path) -> None:
    watch(tmp_path / "gone", None, restart=False)


def test_a_private_runtime_is_a_runtime() -> None:
    assert issubclass(aios.runtime.lifecycle.LocalRuntime, aios.Runtime)
