"""The note that a runtime leaves at its home, `home/runtime.json`: enough to find it again,
bring it back and end it, from any process and long after the one that started it."""

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, ValidationError

from aios.errors import StoreCorrupt, TemporaryError, UsageError
from aios.kernel.environment import driver_environment, head_environment
from aios.kernel.ports import Ports
from aios.records import Record

NOTE = "runtime.json"
SOCKET_PATH_BYTES = 103
"""Longest unix socket path on macOS; Linux has 107."""
_LONGEST_SOCKET = f"/h/{'0' * 56}/metrics.sock.{'0' * 7}.tmp"


class Head(Record):
    """A runtime's head as noted in `home/runtime.json`, mode 0600.

    `commands` are the command lines of the processes that can be started again alone.
    `extra_env` may hold secrets, which is one reason for the mode.
    """

    id: str
    home: Path
    ports: Ports
    temp_dir: Path
    token_path: Path
    gcs_path: Path
    folder: Path
    python_path: str
    started_s: float
    num_cpus: int | None = None
    memory_bytes: int | None = None
    extra_env: dict[str, str] = Field(default={})
    pids: dict[str, int] = Field(default={})
    commands: dict[str, list[str]] = Field(default={})

    @property
    def address(self) -> str:
        """URL of the ingress."""
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def gcs_address(self) -> str:
        """`host:port` for `ray.init(address=...)`, with `driver_env` set before."""
        return f"127.0.0.1:{self.ports.gcs}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.dashboard}"

    @property
    def log_dir(self) -> Path:
        """Ray's and Serve's logs; gone with the runtime."""
        return self.temp_dir / "r" / "session_latest" / "logs"

    def token(self) -> str:
        """Ray's cluster token: whoever has it owns the cluster. Send it as a bearer token."""
        return self.token_path.read_text()

    def driver_env(self) -> dict[str, str]:
        """Environment of a process that connects with ray; set it before `import ray`."""
        return driver_environment(self.ports, self.token_path)

    def process_env(self) -> dict[str, str]:
        """Environment of the head's own processes. What gets it is ended by `stop_head`."""
        return head_environment(
            os.environ,
            runtime_id=self.id,
            home=self.home,
            ports=self.ports,
            temp_dir=self.temp_dir,
            token_path=self.token_path,
            gcs_path=self.gcs_path,
            python_path=self.python_path,
            extra=self.extra_env,
        )


def read_head(home: Path) -> Head | None:
    """The head noted at `home`, or None. It may be dead: ask `head_is_alive`.

    Raises:
        StoreCorrupt: the note cannot be read as one.
    """
    note = Path(home) / NOTE
    try:
        return Head.model_validate_json(note.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise StoreCorrupt(
            f"{note} is not the note of a runtime: {reason[:300]}. If no runtime runs here, "
            "remove that file and start again."
        ) from error


def write_head(head: Head) -> None:
    """Note the head at its home."""
    write_private(head.home / NOTE, json.dumps(head.model_dump(mode="json"), indent=1))


def write_private(path: Path, text: str) -> None:
    """Replace the file at once, readable by its owner only from its first byte on."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def short_temp_dir(runtime_id: str) -> Path:
    """A folder so short that Ray's and HAProxy's unix sockets fit under it.

    Raises:
        UsageError: TMPDIR and /tmp are both too long.
    """
    for parent in (tempfile.gettempdir(), "/tmp"):
        folder = Path(parent) / f"aios-{runtime_id}"
        if len(os.fsencode(f"{folder}{_LONGEST_SOCKET}")) <= SOCKET_PATH_BYTES:
            return folder
    raise UsageError("no temporary folder is short enough for unix sockets. Set TMPDIR to one.")


@contextmanager
def locked(home: Path, timeout_s: float = 20.0) -> Iterator[None]:
    """One start, restart or stop at a time per home; ends with the process that holds it."""
    deadline_s = time.monotonic() + timeout_s
    with (home / "runtime.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise TemporaryError(
                        f"another start or stop of the runtime at {home} is under way for "
                        f"{timeout_s:.0f} s. Wait for it, then try again."
                    ) from None
                time.sleep(0.1)
        yield
