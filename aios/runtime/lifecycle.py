"""Start and end runtimes: `up` and `down` for a lasting one, `local` for a private one."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aios.config import Settings
from aios.errors import ClusterUnavailable, UsageError
from aios.kernel.guard import spawn_guard
from aios.kernel.head import Head, Ports, read_head, start_head, stop_head
from aios.records import Record
from aios.runtime.objects import spinner
from aios.runtime.runtime import Runtime
from aios.runtime.transport import Transport
from aios.security.keys import digest, new_key

CONNECTION = "connection.json"
READY_S = 120.0
KERNEL_START_S = 120.0


class Connection(Record):
    """How to reach a runtime, as noted in its home with mode 0600."""

    address: str
    key: str


def up(settings: Settings, *, num_cpus: int | None = None) -> Connection:
    """Start a runtime that lasts until `down`, or bring the kernel up on an existing Ray.

    Started again after a crash or a `down`, it goes on with what its home holds.

    Raises:
        UsageError: one runs at this home already, or a port is taken; says by whom.
        ClusterUnavailable: Ray or the kernel did not come up; nothing is left behind.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    if settings.ray_address is not None:
        return _boot_on_existing(settings)
    ports = Ports.default(
        settings.http_port, settings.ray_port, settings.dashboard_port
    )
    return _start(settings, ports, num_cpus=num_cpus, restart=True)


def down(settings: Settings) -> bool:
    """End the runtime at this home; what it stored stays. False if none was there."""
    head = read_head(settings.home)
    (settings.home / CONNECTION).unlink(missing_ok=True)
    if head is None:
        return False
    stop_head(head)
    return True


def connect(address: str | None = None, key: str | None = None, home: Any = None) -> Runtime:
    """The runtime at `address`, at AIOS_ADDRESS, or the one that `aios up` started here.

    Args:
        address: URL of the ingress.
        key: API key; by default AIOS_KEY or what `aios up` noted.
        home: folder of the runtime, by default `~/.aios`.

    Raises:
        UsageError: no address is given and none is noted.
        ClusterUnavailable: nothing answers there.
    """
    settings = Settings.load(address=address, key=key, home=home)
    noted = _noted(settings.home)
    where = settings.address or (noted.address if noted else None)
    if where is None:
        raise UsageError(
            f"no runtime is known at {settings.home}: start one with `aios up`, set AIOS_ADDRESS "
            "and AIOS_KEY, or use `with aios.local() as rt:`"
        )
    runtime = Runtime(where, settings.key or (noted.key if noted else None))
    if not runtime._transport.ready():
        raise ClusterUnavailable(
            f"nothing answers at {where}; `aios status` tells more, `aios up` starts a runtime"
        )
    return runtime


class LocalRuntime(Runtime):
    """A private runtime: own Ray, own ports, own folder. Ends with the block, or with this
    process, and leaves nothing behind."""

    def __init__(self, connection: Connection, head: Head) -> None:
        super().__init__(connection.address, connection.key)
        self._head = head

    @property
    def home(self) -> Path:
        return self._head.home

    def close(self) -> None:
        super().close()
        stop_head(self._head, remove_home=True)


def local(*, num_cpus: int | None = None, **settings: Any) -> LocalRuntime:
    """Start a private runtime; use it as `with aios.local() as rt:`.

    Args:
        num_cpus: CPUs that Ray may give out; None counts them.
        settings: as in `aios.toml`, such as `otlp_endpoint` or `store_url`.

    Raises:
        ClusterUnavailable: Ray or the kernel did not come up; nothing is left behind.
    """
    home = Path(tempfile.mkdtemp(prefix="aios-"))
    try:
        ports = Ports.free()
        loaded = Settings.load(
            home=home,
            http_port=ports.http,
            ray_port=ports.gcs,
            dashboard_port=ports.dashboard,
            **settings,
        )
        connection = _start(loaded, ports, num_cpus=num_cpus, restart=False)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    head = read_head(home)
    if head is None:
        raise ClusterUnavailable(f"the runtime at {home} was stopped while it started")
    return LocalRuntime(connection, head)


def _start(settings: Settings, ports: Ports, *, num_cpus: int | None, restart: bool) -> Connection:
    with spinner("starting Ray") as show:
        if not restart:
            spawn_guard(settings.home, parent_pid=os.getpid())
        head = start_head(settings.home, ports, num_cpus=num_cpus)
        try:
            if restart:
                spawn_guard(settings.home, restart=True)
            show("starting the kernel")
            connection = _connection(settings, head.address)
            environment = {**os.environ, **head.driver_env()}
            _boot(settings, head.gcs_address, connection, environment)
            show("starting the API")
            _wait_ready(connection)
        except BaseException:
            stop_head(head)
            raise
    return connection


def _boot_on_existing(settings: Settings) -> Connection:
    """Only the kernel and what it deploys; Ray belongs to somebody else (`ray up`)."""
    connection = _connection(settings, f"http://127.0.0.1:{settings.http_port}")
    with spinner("starting the kernel"):
        _boot(settings, str(settings.ray_address), connection, dict(os.environ))
        _wait_ready(connection)
    return connection


def _connection(settings: Settings, address: str) -> Connection:
    """The noted connection with its key, or a new one. A key outlives `down`."""
    noted = _noted(settings.home, "key.json")
    key = noted.key if noted is not None else new_key("admin")[0]
    connection = Connection(address=address, key=key)
    for name in ("key.json", CONNECTION):
        path = settings.home / name
        path.touch(mode=0o600)
        path.write_text(connection.model_dump_json())
    return connection


def _noted(home: Path, name: str = CONNECTION) -> Connection | None:
    path = home / name
    return Connection.model_validate_json(path.read_text()) if path.exists() else None


def _boot(
    settings: Settings, ray_address: str, connection: Connection, environment: dict[str, str]
) -> None:
    request = {
        "ray_address": ray_address,
        "settings": settings.model_dump(mode="json", exclude={"key", "address"}),
        "api_key": ["admin", digest(connection.key)],
    }
    done = subprocess.run(
        [sys.executable, "-m", "aios.kernel"],
        input=json.dumps(request),
        env=environment,
        capture_output=True,
        text=True,
        timeout=KERNEL_START_S,
        check=False,
    )
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-6:])
        raise ClusterUnavailable(f"the kernel did not start:\n{last}")


def _wait_ready(connection: Connection) -> None:
    transport = Transport(connection.address, connection.key)
    give_up_s = time.monotonic() + READY_S
    try:
        while not transport.ready():
            if time.monotonic() > give_up_s:
                raise ClusterUnavailable(
                    f"the API at {connection.address} did not answer within {READY_S:.0f} s"
                )
            time.sleep(0.1)
    finally:
        transport.close()
