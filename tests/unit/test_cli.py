"""The `aios` command: whatever a user gets wrong is one line that says what to do."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from governed_world import governed
from typer.testing import CliRunner

from aios.cli import app, main
from aios.cli.acting import _answer
from aios.errors import UsageError
from aios.kernel.sealing import CHECKPOINTS, KEY, Sealing, audit_folder
from aios.store.database import Database

PROGRAM = [sys.executable, "-c", "from aios.cli import main; main()"]
STATUS = (
    b'{"started_s": 0, "now_s": 5, "models": 1, "versions": 2, "endpoints": [], "rollouts": [],'
    b' "problem": null, "broken_glass": [], "uncleared": []}'
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
    """Answers as the control API does, with what is `given` by method and path; `slow` says
    nothing for a while. `asked` keeps the bodies of changes."""

    slow = threading.Event()
    given: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[tuple[str, Any]]] = []

    def do_GET(self) -> None:
        if self.slow.is_set() and self.path != "/v2/health/ready":
            self.server.asked.set()  # type: ignore[attr-defined]
            self.server.over.wait(20)  # type: ignore[attr-defined]
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.asked.append((f"{self.command} {self.path}", json.loads(body)))
        self._answer()

    do_PUT = do_DELETE = do_POST

    def _answer(self) -> None:
        found = self.given.get(f"{self.command} {self.path.partition('?')[0]}")
        content = STATUS if found is None else json.dumps(found).encode()
        problem = isinstance(found, dict) and "code" in found
        self.send_response(400 if problem else 200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)

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
        Api.given.clear()
        Api.asked.clear()
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
    for command in (
        "up",
        "down",
        "status",
        "ps",
        "demo",
        "audit",
        "lineage",
        "explain",
        "keys",
        "log",
    ):
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


# -- who may serve, and what happened -------------------------------------------------

ASKING = {
    "id": "q1",
    "subject": "loan:2",
    "name": "loan",
    "version": 2,
    "digest": "e" * 64,
    "needed": 1,
    "author": "ann",
    "requested_s": 1.0,
    "expires_s": 2.0,
    "decisions": [{"by": "bea", "answer": "approved", "reason": "fine", "at_s": 1.5}],
}
REPRODUCED = {
    "ref": "loan:2",
    "verdict": "different",
    "tolerance": 1e-6,
    "metrics": {"auc": [0.8, 0.7]},
    "causes": [{"what": "seed", "original": 7, "again": 8}],
}
RUN = {
    "id": "r",
    "model": "loan",
    "status": "finished",
    "stage": "refit",
    "version": None,
    "error": None,
    "metrics": {},
    "config": None,
    "trials": [],
    "done": [],
}


def run(*arguments: str, code: int = 0) -> str:
    ran = CliRunner().invoke(app, list(arguments))
    assert ran.exit_code == code, ran.output
    return ran.output


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a runtime that is down; its audit log is sealed."""
    world = governed(tmp_path_factory.mktemp("governed"))
    database = Database(world.settings.store_url)
    assert Sealing(world.settings, database, world.clock).verify()["sound"]
    database.close()
    return Path(world.settings.home)


def test_an_audit_log_is_proved_offline(home: Path) -> None:
    said = run("audit", "verify", "--home", str(home))
    assert "audit log: sound" in said
    assert "checked" in said


def test_an_edited_copy_of_an_audit_log_is_found_and_ends_with_1(
    home: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    with sqlite3.connect(home / "aios.db") as source, sqlite3.connect(copy) as target:
        source.backup(target)
    folder = audit_folder(home)
    where = (
        *("--database", str(copy), "--checkpoints", str(folder / CHECKPOINTS)),
        *("--public-key", str(folder / f"{KEY}.pub")),
    )
    assert "sound" in run("audit", "verify", *where)
    assert "not looked at" in run("audit", "verify", "--database", str(copy)), "and says so"
    with contextlib.closing(sqlite3.connect(copy)) as edited, edited:
        for (trigger,) in list(
            edited.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        ):
            edited.execute(f"DROP TRIGGER {trigger}")
        edited.execute("UPDATE audit SET actor = 'eve' WHERE seq = 3")
    assert "NOT SOUND from entry 3" in run("audit", "verify", *where, code=1)


def test_checkpoints_that_are_gone_are_no_weaker_check_but_an_error(
    capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home, tmp_path / "robbed")
    (audit_folder(tmp_path / "robbed") / CHECKPOINTS).unlink()
    assert CHECKPOINTS in refused(capsys, "audit", "verify", "--home", str(tmp_path / "robbed"))


def test_an_answer_goes_out_with_its_reason(api: ThreadingHTTPServer) -> None:
    for word in ("approve", "reject"):
        Api.given[f"POST /api/v1/approvals/loan:2/{word}"] = ASKING
        assert "1 of 1 approvals" in run(word, "loan:2", "--reason", "I looked")
        told = {"reason": "I looked", "request": None}
        assert Api.asked[-1] == (f"POST /api/v1/approvals/loan:2/{word}", told)
    assert "--reason" in run("approve", "loan:2", code=2), "nobody answers without one"


def test_a_refusal_is_one_line(
    capsys: pytest.CaptureFixture[str], api: ThreadingHTTPServer
) -> None:
    Api.given["POST /api/v1/approvals/loan:2/approve"] = {
        "code": "Forbidden",
        "detail": "ann made loan:2 and may not answer about it; somebody else must",
    }
    assert "ann made loan:2" in refused(capsys, "approve", "loan:2", "--reason", "mine")


def test_lists_print(api: ThreadingHTTPServer) -> None:
    Api.given |= {"GET /api/v1/approvals": [ASKING], "GET /api/v1/runs": [RUN]}
    Api.given |= {"GET /api/v1/endpoints/loan/history": [], "GET /api/v1/keys": []}
    Api.given["GET /api/v1/audit"] = [
        {"seq": 1, "at_s": 1.0, "actor": "ann", "action": "deploy", "subject": "loan"}
    ]
    assert "loan:2" in run("approvals")
    assert "refit" in run("runs")
    assert "what loan served: nothing" in run("history", "loan")
    assert "keys: none" in run("keys", "list")
    assert "deploy" in run("audit", "log", "--limit", "5")


def test_a_lineage_prints_or_is_written_to_files(api: ThreadingHTTPServer, tmp_path: Path) -> None:
    node = {"id": "version loan:2", "kind": "version", "label": "may serve", "at_s": 1.0}
    version = {**node, "good": True, "facts": {}}
    Api.given["GET /api/v1/models/loan:2/lineage"] = {
        "ref": "loan:2",
        "because": None,
        "edges": [],
        "nodes": [version | {"id": "endpoint loan", "kind": "endpoint"}],
    }
    assert "endpoint loan: may serve" in run("lineage", "loan:2")
    page, events = tmp_path / "page.html", tmp_path / "events.json"
    assert run("lineage", "loan:2", "--html", str(page), "--openlineage", str(events)) == ""
    assert "<b>" in page.read_text()
    assert json.loads(events.read_text()) == []


def test_what_comes_out_different_ends_with_1(api: ThreadingHTTPServer) -> None:
    Api.given |= {
        "POST /api/v1/models/loan:2/reproduce": {"id": "r"},
        "GET /api/v1/runs/r": RUN,
        "GET /api/v1/runs/r/reproduction": REPRODUCED,
    }
    assert "not made again" in run("reproduce", "loan:2", code=1)
    Api.given["GET /api/v1/runs/r/reproduction"] = REPRODUCED | {"verdict": "identical"}
    assert "byte for byte" in run("reproduce", "loan:2")


def test_a_run_that_fails_reproduces_nothing(
    capsys: pytest.CaptureFixture[str], api: ThreadingHTTPServer
) -> None:
    Api.given |= {
        "POST /api/v1/models/loan:2/reproduce": {"id": "r"},
        "GET /api/v1/runs/r": RUN | {"status": "failed", "error": "the data are gone"},
    }
    assert "the data are gone" in refused(capsys, "reproduce", "loan:2")


def test_a_policy_travels_as_yaml(api: ThreadingHTTPServer, tmp_path: Path) -> None:
    text = "name: ours\ntiers: {}\nuses: {}\nundeclared: minimal\n"
    Api.given |= {
        "GET /api/v1/policy": {"name": "ours", "digest": "a" * 64, "text": text},
        "PUT /api/v1/policy": {},
    }
    (tmp_path / "policy.yaml").write_text(run("policy", "show"))
    assert "policy ours" in run("policy", "set", str(tmp_path / "policy.yaml"))
    assert Api.asked[-1][1]["text"].strip() == text.strip()


def test_a_new_key_is_all_that_goes_to_standard_output(api: ThreadingHTTPServer) -> None:
    made = {"key": "aios_secret", "id": "k1", "identity": "bea", "role": "approver"}
    Api.given["POST /api/v1/keys"] = {**made, "expires_s": None}
    ran = CliRunner().invoke(app, ["keys", "add", "bea", "--role", "approver"])
    assert (ran.exit_code, ran.stdout) == (0, "aios_secret\n")
    assert "bea is approver" in ran.stderr
    assert "k1 is revoked" in run("keys", "revoke", "k1")
    assert Api.asked[-1][0] == "DELETE /api/v1/keys/k1"


def bill() -> dict[str, Any]:
    """What the API tells of a window's costs."""
    part = {"what": "loan", "kind": "endpoint", "endpoint": "loan", "share": 1.0, "cost": 12.5}
    part |= {"core_hours": 2.0, "gpu_hours": 0.0, "calls": 1000, "per_1000": 12.5, "because": None}
    found = {"by": "version", "currency": "EUR", "bill": 12.5, "node_hours": 1.0, "core_hours": 2.0}
    found |= {"gpu_hours": 0.0, "difference": 0.0, "parts": [part], "series": [], "first_s": None}
    found |= {"since_s": 0.0, "until_s": 1.0, "unpriced_node_hours": {}, "other_currencies": {}}
    return found


def test_metrics_and_watches_print(api: ThreadingHTTPServer) -> None:
    Api.given["GET /metrics"] = {"aios_replicas": 1}
    assert run("metrics") == '{"aios_replicas": 1}', "as it is, for a scraper's file"
    Api.given["GET /api/v1/watches"] = []
    assert run("watches") == "watches: none\n"
    assert run("watches", "loan") == "watches: none\n"


def test_a_watch_is_taken_off_by_its_id(
    capsys: pytest.CaptureFixture[str], api: ThreadingHTTPServer
) -> None:
    Api.given["GET /api/v1/watches"] = [{"id": "loan-watch-1", "spec": {"endpoint": "loan"}}]
    Api.given["DELETE /api/v1/watches/loan-watch-1"] = {"id": "loan-watch-1"}
    assert run("unwatch", "loan-watch-1") == "loan-watch-1 is taken off\n"
    assert Api.asked[-1][0] == "DELETE /api/v1/watches/loan-watch-1"
    assert "there are: loan-watch-1" in refused(capsys, "unwatch", "other")


def test_a_monitor_prints_or_is_written(api: ThreadingHTTPServer, tmp_path: Path) -> None:
    Api.given["GET /api/v1/endpoints/loan"] = {"name": "loan"}
    Api.given["GET /api/v1/endpoints/loan/monitor"] = {
        "endpoint": "loan",
        "version": "loan:2",
        "normal": None,
        "fields": {},
        "windows": [],
        "quality": [],
        "feedback": {"joined": 7},
        "refused": {},
        "domain_auc": [],
        "groups": {},
        "watches": [],
    }
    Api.given["GET /api/v1/costs"] = bill()
    assert "loan serves loan:2: 0 rows" in run("monitor", "loan")
    page = tmp_path / "page.html"
    assert run("monitor", "loan", "--html", str(page)) == ""
    assert "loan:2" in page.read_text()


def test_feedback_tells_bad_rows_and_ends_with_1(api: ThreadingHTTPServer, tmp_path: Path) -> None:
    told = {"taken": 1, "unchanged": 0, "refused": 1}
    problems = [{"place": 1, "reason": "approve is 7, which is outside 0 to 1"}]
    Api.given["POST /api/v1/endpoints/loan/feedback"] = {**told, "problems": problems}
    file = tmp_path / "given.csv"
    file.write_text("request_id,approve\nr1,1\nr2,7\nr3\n")
    said = run("feedback", str(file), "--endpoint", "loan", code=1)
    assert "line 3: approve is 7" in said
    assert "line 4: it has 1 cells for 2 columns" in said
    assert "3 rows: 1 taken, 0 known already, 2 refused" in said
    assert [one["request_id"] for one in Api.asked[-1][1]["answers"]] == ["r1", "r2"]
    file.write_text("request_id,approve\nr1,1\n")
    Api.given["POST /api/v1/endpoints/loan/feedback"] = {**told, "refused": 0, "problems": []}
    assert "1 rows: 1 taken" in run("feedback", str(file), "--endpoint", "loan")


def test_a_file_without_request_ids_is_one_line(
    capsys: pytest.CaptureFixture[str], api: ThreadingHTTPServer, tmp_path: Path
) -> None:
    (tmp_path / "given.csv").write_text("id,approve\n")
    file = str(tmp_path / "given.csv")
    assert "request_id" in refused(capsys, "feedback", file, "--endpoint", "loan")


def test_what_it_costs_and_brings_prints(
    capsys: pytest.CaptureFixture[str], api: ThreadingHTTPServer
) -> None:
    Api.given["GET /api/v1/costs"] = bill()
    said = run("cost", "--days", "2", "--by", "version")
    assert "12.50 EUR" in said
    assert "the parts sum to the bill" in said
    Api.given["GET /api/v1/costs"] = {"code": "UsageError", "detail": "costs are by arm, kind"}
    assert "costs are by arm" in refused(capsys, "cost", "--by", "colour")
    brought = {"endpoint": "loan", "model": "loan", "currency": "EUR", "value": 30.0, "cost": 12.5}
    brought |= {"error": 0.0, "net": 17.5, "ratio": 2.4, "kpi_share": 0.5, "kpis": 3, "paid": True}
    brought |= {"since_s": 0.0, "until_s": 1.0, "break_even_s": None, "versions": []}
    brought |= {"extrapolate": False, "record_fraction": 1.0}
    Api.given["GET /api/v1/endpoints/loan/roi"] = brought
    assert "net 17.50 EUR" in run("roi", "loan", "--maintenance", "10", "--value-per-kpi", "2")


def test_a_field_that_is_answered_twice_is_refused() -> None:
    assert _answer(["approve=true", "note=fine"]) == {"approve": True, "note": "fine"}
    with pytest.raises(UsageError, match="'approve' is given twice"):
        _answer(["approve=true", "approve=false"])
