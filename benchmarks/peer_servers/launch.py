"""Starts a peer in its own environment, waits until it answers rightly, and ends all of it."""

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import psutil

from aios.capacity.answers import Judge, scores_as
from aios.capacity.load import Target
from aios.errors import UsageError
from aios.kernel.processes import end_all, processes_of
from benchmarks.commands import CACHE, environment, is_made, last_words
from benchmarks.peer_servers.catalogue import Peer
from benchmarks.peers import Contestant, free_port, numbered
from benchmarks.workload import Workload

STARTUP_S = 120.0
"""MLflow's imports take half a minute on a busy machine."""
REST_S = 30.0
AT_REST_CPU = 0.1
"""Of a core: a worker that still imports takes more, one that waits for requests less."""
END_S = 20.0
ROOT = Path(__file__).parents[2]
PATHS = (str(ROOT),)
"""Where Python looks for the server's module."""


class DoesNotServe(Exception):
    """A peer that cannot be installed, does not start or answers wrongly; says why."""


def is_installed(peer: Peer) -> bool:
    """Whether it can be started without installing anything."""
    return not peer.packages or is_made(CACHE / peer.folder, peer.packages)


def interpreter(peer: Peer) -> str:
    """The interpreter of the peer's environment, which is made if it is not there.

    Raises:
        DoesNotServe: it cannot be made.
    """
    if not peer.packages:
        return sys.executable
    if not Path(peer.python).exists():
        raise DoesNotServe(f"it needs {peer.python}, which is not there")
    try:
        return environment(CACHE / peer.folder, peer.name, peer.packages, peer.python)
    except UsageError as error:
        raise DoesNotServe(error.message) from error


@contextmanager
def serving(peer: Peer, workload: Workload, workers: int) -> Iterator[Contestant]:
    """The peer with so many workers, until the block ends.

    Raises:
        DoesNotServe: it ended, gave no right answer in time, or could not be installed.
    """
    python = interpreter(peer)
    port = free_port()
    mark = f"bench-{os.getpid()}-{port}"
    target = Target(f"http://127.0.0.1:{port}{peer.protocol.path}", {})
    bodies = peer.protocol.bodies(workload.bodies, workload.graph)
    with tempfile.TemporaryDirectory(prefix="aios-b-") as name:
        folder = Path(name)
        log = folder / "log"
        command = [python, "-m", peer.module, str(port), workload.graph.to_json(), str(workers)]
        with log.open("wb") as written:
            guard = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.peer_servers.guard", mark, *command, name],
                cwd=ROOT,
                env=_environment(python, name),
                stdin=subprocess.PIPE,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for this process, which then ends that one
            )
        try:
            judge = scores_as(workload.expected, peer.protocol.score_at)
            _wait(guard, log, target, bodies[0], judge)
            yield Contestant(
                peer.name,
                target,
                numbered("process", _at_rest(mark)),
                bodies=bodies,
                score_at=peer.protocol.score_at,
            )
        finally:
            _end(guard, mark)


def _end(guard: subprocess.Popen[bytes], mark: str) -> None:
    assert guard.stdin is not None
    guard.stdin.close()
    try:
        guard.wait(END_S)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()
        end_all(lambda: processes_of(mark))


def _environment(python: str, folder: str) -> dict[str, str]:
    """Of the server: nothing of aios' and Ray's settings, its own programs first, and what it
    leaves lying about in the folder that goes with it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AIOS_"))}
    path = os.pathsep.join([str(Path(python).parent), kept.get("PATH", "")])
    own = {
        "PATH": path,
        "PYTHONPATH": os.pathsep.join(PATHS),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": folder,
    }
    return {**kept, **own}


def _processes(mark: str) -> list[psutil.Process]:
    """All that the server is made of, the oldest first."""
    return sorted(processes_of(mark), key=lambda process: process.create_time())


def _at_rest(mark: str) -> list[psutil.Process]:
    """Its processes when the last worker has started too: the first answer comes from the first."""
    give_up_s = time.monotonic() + REST_S
    while True:
        before = {process: sum(process.cpu_times()[:2]) for process in _processes(mark)}
        time.sleep(1.0)
        after = {process: sum(process.cpu_times()[:2]) for process in _processes(mark)}
        used_s = sum(after.values()) - sum(before.values())
        at_rest = set(before) == set(after) and used_s < AT_REST_CPU
        if at_rest or time.monotonic() > give_up_s:
            return list(after)


def _wait(
    guard: subprocess.Popen[bytes], log: Path, target: Target, body: bytes, judge: Judge
) -> None:
    """Until the first right answer."""
    give_up_s = time.monotonic() + STARTUP_S
    while True:
        status, answer = _asked(target, body)
        wrong = judge(0, status, answer)
        if wrong is None:
            return
        if guard.poll() is not None:
            raise DoesNotServe(f"it ended: {last_words(log)}")
        if status == b"200":
            raise DoesNotServe(f"its answer is wrong: {wrong}")
        if time.monotonic() > give_up_s:
            raise DoesNotServe(f"no answer within {STARTUP_S:.0f} s ({wrong}): {last_words(log)}")
        time.sleep(0.25)


def _asked(target: Target, body: bytes) -> tuple[bytes, bytes]:
    """Status and answer; without an answer, 000 and why."""
    request = urllib.request.Request(target.url, body, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return str(answer.status).encode(), answer.read()
    except urllib.error.HTTPError as error:
        return str(error.code).encode(), error.read()
    except (OSError, HTTPException) as error:
        return b"000", str(error).encode()
