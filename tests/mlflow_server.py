"""A real MLflow server for tests, on a port and in a folder of its own, ended by its group."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_READY_S = 120


@contextmanager
def running_mlflow() -> Iterator[str]:
    """The tracking URI of a new, empty server that serves its artifacts itself."""
    with tempfile.TemporaryDirectory(prefix="aios-mlflow-server-") as folder:
        port = _free_port()
        log = Path(folder) / "log"
        with log.open("wb") as out:
            server = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                    *("--host", "127.0.0.1", "--port", str(port), "--serve-artifacts"),
                    *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
                    *("--artifacts-destination", f"{folder}/artifacts"),
                ],
                stdout=out,
                stderr=out,
                cwd=folder,
                env={
                    **os.environ,
                    # The command starts `uvicorn` and job runners by name.
                    "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
                start_new_session=True,
            )
        try:
            uri = f"http://127.0.0.1:{port}"
            _wait_until_ready(uri, server, log)
            yield uri
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(timeout=15)
            finally:
                _end_group(server.pid)


def _end_group(group: int) -> None:
    """Whatever of the group outlived its leader."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(uri: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + _READY_S
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            if server.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"MLflow did not start:\n{log.read_text()}") from None
            time.sleep(0.1)
        else:
            return
