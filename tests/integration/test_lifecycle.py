"""`aios up`, `status`, `ps` and `down` as a user types them, and what they leave behind."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aios
from aios.errors import UnknownEndpoint, UnknownName
from aios.kernel.head import Head, Ports, leftovers, read_head, stop_head
from aios.kernel.processes import command_of, is_alive, processes_of
from tests.integration.patient_flow import patient, wait_for_line

PROGRAM = "from aios.cli import main; main()"


class Shell:
    """Runs `aios ...` with one home and ports that nobody else uses."""

    def __init__(self, home: Path, ports: Ports) -> None:
        self.home = home
        self.port = ports.http
        settings = {
            "AIOS_HOME": str(home),
            "AIOS_RAY_PORT": str(ports.gcs),
            "AIOS_DASHBOARD_PORT": str(ports.dashboard),
            "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
            "COLUMNS": "160",
        }
        self._environment = {**os.environ, **settings}

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code, and both outputs."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert "Traceback" not in done.stdout
        return done.returncode, done.stdout

    def up(self, **settings: str) -> str:
        """Start; returns the API key that was printed."""
        self._environment |= settings
        code, said = self("up", "--port", str(self.port))
        assert code == 0, said
        assert f"aios is up at http://127.0.0.1:{self.port}" in said
        found = re.search(r"API key: (aios_\S+)", said)
        assert found is not None
        return found[1]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    ports = Ports.free()
    try:
        yield Shell(tmp_path / "home", ports)
    finally:
        head = read_head(tmp_path / "home")
        if head is not None:
            stop_head(head)
        ports.release()


def test_a_lasting_runtime_comes_goes_and_comes_back(
    shell: Shell, toy_contract: aios.Contract, toy_frame: Any, toy_model: Any
) -> None:
    assert shell("status") == (1, said_of_nothing(shell))
    key = shell.up()
    head = read_head(shell.home)
    assert head is not None
    for name in ("api.key", "connection.json", "runtime.json"):
        assert stat.S_IMODE((shell.home / name).stat().st_mode) == 0o600

    code, said = shell("up", "--port", str(shell.port))
    assert code == 1
    assert head.address in said
    assert "already runs" in said
    assert str(head.pids["raylet"]) in said

    with aios.connect(home=shell.home) as rt:
        rt.models.register("toy", toy_model, contract=toy_contract, sample=toy_frame)
        before = rt.deploy("toy", "toy:1").predict([{"a": 1.0, "b": None, "id": "x"}])
    code, said = shell("status")
    assert code == 0
    assert "toy:1" in said
    assert "yes" in said
    code, said = shell("ps")
    assert code == 0
    assert all(role in said for role in ("kernel", "api", "endpoint"))

    ledger = shell.home.parent / "ledger"
    with aios.connect(home=shell.home) as rt:
        rt.start(patient, str(ledger), id="patient")
    wait_for_line(ledger, "begun")
    processes = processes_of(head.id, str(head.temp_dir))
    assert shell("down") == (0, "aios is down\n")
    assert not [process for process in processes if is_alive(process)]
    assert leftovers(head.ports) == []
    assert not (shell.home / "connection.json").exists()
    assert not head.temp_dir.exists()
    assert shell("down") == (0, f"no runtime was up at {shell.home}\n")
    assert shell("ps") == (1, said_of_nothing(shell))

    assert shell.up(AIOS_SPARE_WORKERS="0") == key
    with aios.connect(home=shell.home) as rt:
        Path(f"{ledger}.go").touch()
        assert rt.flow("patient").result(timeout_s=120) == "done"
        assert ledger.read_text().split() == ["reserved", "begun", "begun"], "nothing is undone"
        assert [version.ref for version in rt.models.list()] == ["toy:1"]
        after = rt.endpoint("toy").wait(60).predict([{"a": 1.0, "b": None, "id": "x"}])
        assert (after.version, after.outputs) == (1, before.outputs)
        with pytest.raises(UnknownEndpoint, match="deployed: toy"):
            rt.endpoint("other")
        with pytest.raises(UnknownName):  # which a process of Ray's finds out
            rt.explain("nothing")
        waiting = idle(shell)
        time.sleep(2.5)
        assert idle(shell) & waiting, "a process that did something stays for what comes next"
    assert shell("down") == (0, "aios is down\n")


def test_ctrl_c_while_a_private_runtime_starts_leaves_nothing(tmp_path: Path) -> None:
    code = "import aios; aios.local(num_cpus=1)"
    starting = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        head = note_with_processes(tmp_path, within_s=200)
        processes = processes_of(head.id, str(head.temp_dir))
        assert len(processes) >= 3
        os.killpg(starting.pid, signal.SIGINT)  # as a terminal does
        _, said = starting.communicate(timeout=120)
    finally:
        starting.kill()
        starting.wait()
    assert b"KeyboardInterrupt" in said
    assert not [process for process in processes if is_alive(process)]
    assert not head.home.exists()
    assert not head.temp_dir.exists()
    assert leftovers(head.ports) == []


def note_with_processes(folder: Path, within_s: float) -> Head:
    """The note of the private runtime that starts under `folder`, once its Ray is up."""
    give_up_s = time.monotonic() + within_s
    while time.monotonic() < give_up_s:
        for note in folder.glob("aios-*/runtime.json"):
            head = read_head(note.parent)
            if head is not None and head.pids:
                return head
        time.sleep(0.05)
    raise AssertionError(f"no Ray came up under {folder}")


def idle(shell: Shell) -> set[int]:
    """The processes of Ray's that wait for work."""
    head = read_head(shell.home)
    assert head is not None
    found = processes_of(head.id, str(head.temp_dir))
    return {one.pid for one in found if command_of(one)[:1] == ["ray::IDLE"]}


def said_of_nothing(shell: Shell) -> str:
    return (
        f"aios: no runtime is known at {shell.home}: start one with `aios up`, set AIOS_ADDRESS "
        "and AIOS_KEY, or use `with aios.local() as rt:`\n"
    )
