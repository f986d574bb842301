"""A Ray head as operating system processes: start, find, bring back, and end to the last one.

    start_head(home, ports) -> Head      ray start, in an environment of our own, until it answers
    read_head(home) -> Head | None       the note of a runtime, living or dead
    head_is_alive(head)                  its store and its node both run
    restart_head(head) -> Head           bring back what died, on the same persistent store
    stop_head(head)                      everything of this runtime and nothing else; idempotent

No supervisor stands over Ray: `ray start --block` would take the whole head, serving replicas
included, down with any one helper process. Instead `restart_head` starts a dead GCS or
dashboard again beside the living replicas (no request fails, back in 4 s) and the whole head
only if its node is gone. `aios.kernel.guard` is the process that watches and calls it.
"""

import http.client
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from aios.errors import ClusterUnavailable, UsageError
from aios.kernel.environment import import_path, start_command
from aios.kernel.note import (
    NOTE,
    Head,
    locked,
    read_head,
    short_temp_dir,
    write_head,
    write_private,
)
from aios.kernel.ports import Occupied, Ports, clear_leftovers, leftovers, runtime_alive, settle
from aios.kernel.processes import (
    belongs_to,
    command_of,
    end_all,
    is_alive,
    name_of,
    processes_of,
    spawn_detached,
)

__all__ = [
    "Head",
    "Occupied",
    "Ports",
    "clear_leftovers",
    "head_is_alive",
    "leftovers",
    "read_head",
    "restart_head",
    "start_head",
    "stop_head",
]

START_S = 150.0
"""Bound of a start: 6 s on two idle cores, more when CI runs on them too."""
OBJECT_STORE_BYTES = 200_000_000
"""Ray's default is 30 % of memory. Requests do not pass through the object store here."""
_SINGLY = ("gcs", "dashboard")
"""What can be started again beside a living node."""


def start_head(
    home: Path,
    ports: Ports,
    *,
    num_cpus: int | None = None,
    memory_bytes: int | None = None,
    extra_env: Mapping[str, str] | None = None,
    timeout_s: float = START_S,
) -> Head:
    """Start a head whose state is in `home`, and return when its REST interface answers.

    A note of a dead runtime with the same ports is taken up where it stopped, with id, token
    and GCS store, so applications come back by themselves. With other ports, or if that store
    cannot be opened, the runtime begins afresh: the kernel's database has what is wanted.
    Replicas import from the current folder and the caller's PYTHONPATH.

    Args:
        num_cpus: CPUs Ray may give out; None counts them.
        memory_bytes: memory Ray may give out; None takes what is free.
        extra_env: variables for all processes of the head.
        timeout_s: bound of the whole start.

    Raises:
        UsageError: a runtime already lives at `home`, or somebody holds a port.
        ClusterUnavailable: Ray did not come up; the message ends with its last log lines.
            Everything that was started has been stopped.
    """
    home = Path(home).absolute()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = {
        "num_cpus": num_cpus,
        "memory_bytes": memory_bytes,
        "extra_env": dict(extra_env or {}),
        "folder": Path.cwd(),
        "python_path": import_path(Path.cwd(), os.environ),
    }
    with locked(home):
        dead = _dead_head(home)
        if dead and dead.ports == ports and dead.gcs_path.exists():
            try:
                return _launch(dead.model_copy(update=settings), timeout_s)
            except ClusterUnavailable:
                _forget(dead)
        elif dead:
            _forget(dead)
        try:
            return _launch_anew(home, ports, settings, 0.6 * timeout_s)
        except ClusterUnavailable:
            # On a busy machine Ray's node can miss its own start-up limit of half a minute.
            return _launch_anew(home, ports, settings, 0.4 * timeout_s)


def _launch_anew(
    home: Path, ports: Ports, settings: Mapping[str, object], timeout_s: float
) -> Head:
    head = _new_head(home, ports, settings)
    try:
        return _launch(head, timeout_s)
    except BaseException:
        _forget(head)
        raise


def head_is_alive(head: Head) -> bool:
    """Whether GCS, node and dashboard all run; cheap enough to ask every second."""
    return bool(head.pids) and not _dead_parts(head)


def restart_head(head: Head, *, timeout_s: float = START_S) -> Head:
    """Bring back what died, and return the head with its new pids.

    GCS or dashboard alone start again beside the living node. If the node is gone, the rest is
    ended and the whole head starts on the same ports and GCS store; Serve's applications and
    detached actors come back, actors without their memory.

    Raises:
        UsageError: it was stopped meanwhile, or somebody else took a port.
        ClusterUnavailable: it did not come back; everything was stopped, the note is kept.
    """
    with locked(head.home):
        noted = read_head(head.home)
        if noted is None or noted.id != head.id:
            raise UsageError(f"the runtime at {head.home} was stopped. Start it with `aios up`.")
        head = noted
        dead = _dead_parts(head)
        if not dead:
            return head
        if set(dead) <= set(_SINGLY) and head.commands.keys() >= set(dead):
            try:
                return _revive(head, dead, timeout_s)
            except ClusterUnavailable:
                _end(head)
        else:
            _end(head)
        return _launch(head, timeout_s)


def stop_head(head: Head, *, remove_home: bool = False, timeout_s: float = 10.0) -> None:
    """End every process of this runtime, remove its temporary folder and its note.

    The home with database and artifacts stays, unless `remove_home`. Calling it again, or for
    a runtime that died, does no harm.

    Raises:
        TemporaryError: a process did not end in `timeout_s`; note and folders are kept.
    """
    if head.home.exists():
        with locked(head.home):
            _end(head, timeout_s)
            _forget(head)
    else:
        _end(head, timeout_s)
    shutil.rmtree(head.temp_dir, ignore_errors=True)
    head.ports.release()
    if remove_home:
        shutil.rmtree(head.home, ignore_errors=True)


def _new_head(home: Path, ports: Ports, settings: Mapping[str, object]) -> Head:
    runtime_id = secrets.token_hex(4)
    return Head.model_validate(
        {
            "id": runtime_id,
            "home": home,
            "ports": ports,
            "temp_dir": short_temp_dir(runtime_id),
            "token_path": home / "ray.token",
            "gcs_path": home / "gcs" / runtime_id,
            "started_s": time.time(),
            **settings,
        }
    )


def _launch(head: Head, timeout_s: float) -> Head:
    """Start all of Ray; the note is written first, so that a guard always finds the runtime."""
    deadline_s = time.monotonic() + timeout_s
    clear_leftovers(head.ports)
    _prepare(head)
    write_head(head.model_copy(update={"pids": {}, "commands": {}}))
    started: Head | None = None
    log = head.home / "start.log"
    try:
        _ray_start(head, log, timeout_s)
        _wait_for_rest(head, deadline_s)
        started = _with_processes(head)
        write_head(started)
        return started
    except (subprocess.TimeoutExpired, ClusterUnavailable) as error:
        reason = (
            str(error)
            if isinstance(error, ClusterUnavailable)
            else f"`ray start` took longer than {timeout_s:.0f} s"
        )
        lines = _last_lines([log, *_ray_logs(head)])
        raise ClusterUnavailable(
            f"Ray did not start at {head.home}: {reason}. Last lines of its logs:\n{lines}"
        ) from error
    finally:
        if started is None:
            _end(head)
            write_head(head)


def _revive(head: Head, dead: list[str], timeout_s: float) -> Head:
    deadline_s = time.monotonic() + timeout_s
    for part in _SINGLY:
        if part in dead:
            spawn_detached(
                head.commands[part],
                environment=head.process_env(),
                folder=_working_folder(head),
                log=head.home / "start.log",
            )
    _wait_for_rest(head, deadline_s)
    revived = _with_processes(head)
    write_head(revived)
    return revived


def _ray_start(head: Head, log: Path, timeout_s: float) -> None:
    """Run `ray start`, which leaves the daemons behind and returns."""
    command = start_command(
        head.ports,
        head.temp_dir / "r",
        num_cpus=head.num_cpus,
        memory_bytes=head.memory_bytes,
        object_store_bytes=OBJECT_STORE_BYTES,
    )
    with log.open("ab") as output:
        code = subprocess.run(
            command,
            env=head.process_env(),
            cwd=_working_folder(head),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=timeout_s,
            start_new_session=True,  # a Ctrl-C here is not meant for Ray
            check=False,
        ).returncode
    if code != 0:
        raise ClusterUnavailable(f"`ray start` ended with exit code {code}")


def _working_folder(head: Head) -> Path:
    return head.folder if head.folder.is_dir() else head.home


def _prepare(head: Head) -> None:
    """Folders, the token, and no store of an earlier runtime."""
    for folder in (head.temp_dir, head.temp_dir / "h", head.temp_dir / "r", head.gcs_path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if head.temp_dir.stat().st_uid != os.getuid():
        raise UsageError(f"{head.temp_dir} belongs to another user. Set TMPDIR to your own folder.")
    for other in head.gcs_path.parent.iterdir():
        if other != head.gcs_path:
            shutil.rmtree(other, ignore_errors=True)
    (head.home / "start.log").unlink(missing_ok=True)
    if not head.token_path.exists():
        write_private(head.token_path, secrets.token_hex(32))


def _with_processes(head: Head) -> Head:
    """The head with pid and command line of its main processes."""
    pids: dict[str, int] = {}
    commands: dict[str, list[str]] = {}
    for process in processes_of(head.id, str(head.temp_dir)):
        command = command_of(process)
        part = _part(name_of(process), command)
        if part:
            pids[part] = process.pid
        if part in _SINGLY:
            commands[part] = command
    return head.model_copy(update={"pids": pids, "commands": commands})


def _part(name: str, command: list[str]) -> str | None:
    """Which main process of Ray this is, if it is one."""
    if name in ("gcs_server", "raylet"):
        return name.removesuffix("_server")
    dashboard = os.path.join("dashboard", "dashboard.py")
    return "dashboard" if len(command) > 1 and command[1].endswith(dashboard) else None


def _dead_parts(head: Head) -> list[str]:
    parts = ("gcs", "raylet", "dashboard")
    return [part for part in parts if not _runs(head, head.pids.get(part))]


def _runs(head: Head, pid: int | None) -> bool:
    """Whether the pid is still a process of this runtime, and not a reused number."""
    if pid is None or not psutil.pid_exists(pid):
        return False
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return False
    return is_alive(process) and belongs_to(process, head.id, str(head.temp_dir))


def _dead_head(home: Path) -> Head | None:
    """The note of a dead runtime, after ending what it left.

    Raises:
        UsageError: the runtime lives; says where.
    """
    head = read_head(home)
    if head is None:
        return None
    # We hold the lock: a note without pids is of a start whose process was killed.
    if head.pids and runtime_alive(processes_of(head.id, str(head.temp_dir))):
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(head.started_s))
        pid = head.pids.get("raylet") or head.pids.get("gcs")
        raise UsageError(
            f"a runtime already runs at {home}: {head.address}, pid {pid}, since {since}. "
            "Use it with aios.connect(), stop it with `aios down`, or choose another home.",
            address=head.address,
            pid=pid,
            started_s=head.started_s,
        )
    _end(head)
    return head


def _end(head: Head, timeout_s: float = 10.0) -> None:
    end_all(lambda: processes_of(head.id, str(head.temp_dir)), timeout_s)
    settle(head.ports)


def _forget(head: Head) -> None:
    """Remove what was its own; a younger runtime at the same home keeps note and token."""
    noted = read_head(head.home)
    if noted is None or noted.id == head.id:
        for path in (head.home / NOTE, head.token_path, head.home / "start.log"):
            path.unlink(missing_ok=True)
    for folder in (head.gcs_path, head.temp_dir):
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_rest(head: Head, deadline_s: float) -> None:
    while time.monotonic() < deadline_s:
        reason = _rest_fault(head)
        if reason is None:
            return
        time.sleep(0.1)
    raise ClusterUnavailable(f"{head.dashboard_url}/api/serve/applications/ answers {reason}")


def _rest_fault(head: Head) -> str | None:
    """None if Serve's REST interface answers, else why not."""
    connection = http.client.HTTPConnection("127.0.0.1", head.ports.dashboard, timeout=5)
    try:
        headers = {"Authorization": f"Bearer {head.token()}"}
        connection.request("GET", "/api/serve/applications/", headers=headers)
        response = connection.getresponse()
        response.read()
        return None if response.status == 200 else f"HTTP {response.status}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()


def _ray_logs(head: Head) -> list[Path]:
    names = ("gcs_server.out", "gcs_server.err", "raylet.err", "dashboard.log", "dashboard.err")
    return [head.log_dir / name for name in names]


def _last_lines(paths: list[Path], count: int = 8) -> str:
    parts = []
    for path in paths:
        if path.exists() and path.stat().st_size:
            lines = path.read_text(errors="replace").splitlines()[-count:]
            parts += [f"[{path.name}]", *(line[:300] for line in lines)]
    return "\n".join(parts) or "(no logs)"
