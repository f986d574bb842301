"""The `aios` command: whatever a user gets wrong is one line that says what to do."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aios.cli import app, main

PROGRAM = [sys.executable, "-c", "from aios.cli import main; main()"]
STATUS = (
    b'{"started_s": 0, "now_s": 5, "models": 1, "versions": 2, "endpoints": [], "rollouts": [],'
    b' "problem": null}'
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of whoever runs the tests, and no runtime of his."""
    for name in [name for name in os.environ if name.startswith("AIOS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AIOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in sys.path if part))
    monkeypatch.chdir(tmp_path)


class Api(BaseHTTPRequestHandler):
    """Answers as the control API does; `slow` says nothing for a while."""

    slow = threading.Event()

    def do_GET(self) -> None:
        if self.slow.is_set() and self.path != "/v2/health/ready":
            self.server.asked.set()  # type: ignore[attr-defined]
            self.server.over.wait(20)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(STATUS)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(STATUS)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.asked, server.over = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AIOS_ADDRESS", f"http://127.0.0.1:{server.server_port}")
    try:
        yield server
    finally:
        Api.slow.clear()
        server.over.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that `aios <arguments>` ends with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aios", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("aios: ")
    assert said.err.count("\n") == 1, "one line"
    return said.err


@pytest.mark.parametrize("command", ["status", "ps"])
def test_where_nothing_runs_it_says_how_to_start(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    said = refused(capsys, command, "--home", str(tmp_path / "nowhere"))
    assert f"no runtime is known at {tmp_path}/nowhere" in said
    assert "aios up" in said
    assert not (tmp_path / "nowhere").exists(), "asking makes nothing"


def test_ending_what_does_not_run_is_no_error(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["down", "--home", str(tmp_path / "nowhere")])
    assert (ran.exit_code, ran.output) == (0, f"no runtime was up at {tmp_path}/nowhere\n")


def test_a_misspelt_variable_is_named_with_the_known_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOS_HTP_PORT", "8000")
    said = refused(capsys, "status")
    assert "'AIOS_HTP_PORT'" in said
    assert "Did you mean AIOS_HTTP_PORT?" in said


def test_a_variable_out_of_range_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOS_RAY_PORT", "zero")
    assert "ray_port" in refused(capsys, "status")


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_out_of_range_is_named(capsys: pytest.CaptureFixture[str], port: str) -> None:
    said = refused(capsys, "up", "--port", port)
    assert "http_port" in said
    assert f"'{port}'" in said


def test_ports_that_clash_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "must differ" in refused(capsys, "up", "--port", "8265")
    assert "haproxy_stats" in refused(capsys, "up", "--port", "8404")


def test_a_broken_settings_file_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "aios.toml").write_text("http_port = = 3")
    assert f"aios.toml in {tmp_path} cannot be read" in refused(capsys, "status")
    (tmp_path / "aios.toml").write_bytes(b"\xff\xfe")
    assert "aios.toml" in refused(capsys, "status")
    (tmp_path / "aios.toml").write_text("htp_port = 3")
    assert "unknown key 'htp_port' in aios.toml" in refused(capsys, "status")


def test_a_home_that_cannot_be_one_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(capsys, "up", "--home", str(tmp_path / "file"))
    inside = str(tmp_path / "file" / "home")
    for command in ("up", "down", "status", "ps"):
        assert inside in refused(capsys, command, "--home", inside)


def test_a_damaged_note_is_named_and_its_key_not_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "connection.json").write_text('{"address": "http://x", "key": "aios_secret"')
    said = refused(capsys, "status")
    assert "connection.json" in said
    assert "secret" not in said
    (home / "connection.json").unlink()
    (home / "runtime.json").write_text("{")
    for command in ("status", "down"):
        assert "runtime.json" in refused(capsys, command)


def test_a_key_file_that_holds_no_key_stops_the_start(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for content in (b"", b"mine", b"\xff"):
        (home / "api.key").write_bytes(content)
        said = refused(capsys, "up", "--ray-address", "127.0.0.1:1")
        assert "api.key holds no API key" in said
        assert "mine" not in said


def test_an_address_where_nobody_answers_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert f"nothing answers at {address}" in refused(capsys, "ps", "--address", address)


@pytest.mark.parametrize("address", ["localhost", "ftp://x", "http://", "http://x:y", "http://a b"])
def test_an_address_that_is_none_is_named(capsys: pytest.CaptureFixture[str], address: str) -> None:
    said = refused(capsys, "status", "--address", address)
    assert f"{address!r} is no address" in said


def test_without_a_checkout_the_demo_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [part for part in sys.path if "site-packages" in part])
    monkeypatch.setattr(sys, "meta_path", [Absent("apps"), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "apps"]:
        monkeypatch.delitem(sys.modules, name)
    assert "make demo" in refused(capsys, "demo")


def test_without_its_packages_the_demo_names_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [Absent("matplotlib"), *sys.meta_path])
    for name in [n for n in sys.modules if n.partition(".")[0] in ("apps", "matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    said = refused(capsys, "demo")
    assert "matplotlib" in said
    assert "aios[demo]" in said


class Absent:
    """An import system in which a package is not installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_status_prints_as_a_table(api: ThreadingHTTPServer) -> None:
    ran = CliRunner().invoke(app, ["status"])
    assert ran.exit_code == 0, ran.output
    assert "kernel up 5.0 s, 1 model, 2 versions" in " ".join(ran.output.split())


def test_a_reader_that_has_enough_is_no_error(api: ThreadingHTTPServer) -> None:
    """`aios status | head -0`: the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        ran = subprocess.run(
            [*PROGRAM, "status"], stdout=closed, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert ran.stderr == b""
    assert ran.returncode in (0, 1, 128 + signal.SIGPIPE)


def test_ctrl_c_is_one_line_and_130(api: ThreadingHTTPServer) -> None:
    Api.slow.set()
    with subprocess.Popen([*PROGRAM, "status"], stderr=subprocess.PIPE) as running:
        assert api.asked.wait(20)  # type: ignore[attr-defined]
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert b"Traceback" not in said
    assert said.count(b"\n") <= 2


def test_help_reads_well() -> None:
    ran = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"})
    assert ran.exit_code == 0
    for command in ("up", "down", "status", "ps", "demo"):
        assert f"│ {command} " in ran.output
        told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "100"}).output
        assert f"Usage: aios {command}" in told or f"Usage: root {command}" in told
        assert "PATH" not in told.replace("--out", ""), "a metavar that says nothing"
    assert CliRunner().invoke(app, []).exit_code == 2, "without a command: the help"


def test_an_unknown_command_or_option_is_named() -> None:
    for arguments, named in (["upp"], "upp"), (["up", "--prot"], "--prot"), (["ps", "x"], "x"):
        ran = CliRunner().invoke(app, arguments)
        assert ran.exit_code == 2
        assert named in ran.output
