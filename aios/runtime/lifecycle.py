"""Start and end runtimes: `up` and `down` for a lasting one, `local` for a private one."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aios.config import Settings
from aios.errors import AiosError, ClusterUnavailable, UsageError
from aios.kernel.driver import start_driver
from aios.kernel.environment import PRELOAD
from aios.kernel.guard import spawn_guard
from aios.kernel.head import Head, Ports, head_is_alive, read_head, start_head, stop_head
from aios.kernel.processes import HOME_VARIABLE, ID_VARIABLE
from aios.runtime.connection import Connection, forget, note, noted, own_key
from aios.runtime.objects import spinner
from aios.runtime.readiness import wait_until_ready
from aios.runtime.runtime import Runtime
from aios.security.keys import digest

RAY_ANSWERS_S = 5.0


def up(settings: Settings, *, num_cpus: int | None = None) -> Connection:
    """Start a runtime that lasts until `down`, or bring the kernel up on an existing Ray.

    Started again after a crash or a `down`, it goes on with what its home holds: models,
    endpoints, rollouts, and the same API key.

    Args:
        num_cpus: CPUs that Ray may give out; None counts them. Of no use with an existing Ray.

    Raises:
        UsageError: one runs at this home already, or a port is taken; says by whom.
        ClusterUnavailable: Ray or the kernel did not come up. A Ray of our own is ended again.
    """
    _make_home(settings.home)
    if settings.ray_address is not None:
        return _start_on_existing(settings)
    ports = Ports.default(settings.http_port, settings.ray_port, settings.dashboard_port)
    return _start(settings, ports, num_cpus=num_cpus, private=False)[0]


def down(settings: Settings) -> bool:
    """End the runtime at this home; what it stored stays. False if none was there.

    Raises:
        UsageError: it runs on a Ray that aios did not start and therefore does not end.
        TemporaryError: a process does not end; says which.
    """
    head = read_head(settings.home)
    connection = noted(settings.home)
    if head is None and connection is not None and connection.ray_address is not None:
        raise UsageError(
            f"the runtime of {settings.home} runs on the Ray at {connection.ray_address}, which "
            "aios did not start: end that one, with `ray down cluster.yaml` or `ray stop`"
        )
    forget(settings.home)
    if head is None:
        return False
    stop_head(head)
    return True


def connect(address: str | None = None, key: str | None = None, home: Any = None) -> Runtime:
    """The runtime at `address`, at AIOS_ADDRESS, or the one that `aios up` started here. In code
    that a runtime runs, such as a flow's step or an agent's tool, it is that runtime.

    Args:
        address: URL of the ingress.
        key: API key; by default AIOS_KEY, or for a runtime of this machine what `aios up` noted.
        home: folder of the runtime, by default `~/.aios`.

    Raises:
        UsageError: no address is given and none is noted.
        ClusterUnavailable: nothing answers there.
    """
    own = os.environ.get(HOME_VARIABLE) if address is None and home is None else None
    settings = Settings.load(address=address, key=key, home=own or home)
    here = noted(settings.home)
    elsewhere = None if own else settings.address
    where = elsewhere or (here.address if here else None)
    if where is None:
        raise UsageError(_nothing_known(settings.home))
    # The noted key opens the noted runtime; another address has no business to see it.
    known = here.key if here and where.rstrip("/") == here.address else None
    chosen = key if own else settings.key
    runtime = Runtime(where, chosen or known)
    if not runtime._transport.ready():
        runtime.close()
        raise ClusterUnavailable(f"nothing answers at {where}: {_why_silent(settings, where)}")
    return runtime


class LocalRuntime(Runtime):
    """A private runtime: own Ray, own ports, own folder. Ends with the block, or with this
    process, and leaves nothing behind."""

    def __init__(self, connection: Connection, head: Head) -> None:
        super().__init__(connection.address, connection.key)
        self._head = head

    @property
    def home(self) -> Path:
        """Its folder, with database, artifacts and logs; gone when it ends."""
        return self._head.home

    def close(self) -> None:
        """End the runtime and remove its folder. Doing it twice does no harm."""
        super().close()
        stop_head(self._head, remove_home=True)


def local(*, num_cpus: int | None = None, **settings: Any) -> LocalRuntime:
    """Start a private runtime; use it as `with aios.local() as rt:`.

    Args:
        num_cpus: CPUs that Ray may give out; None counts them.
        settings: as in `aios.toml`, such as `otlp_endpoint` or `store_url`. Without
            `spare_workers` there are none: what ends soon deploys little.

    Raises:
        UsageError: a setting is unknown or wrong, or one that a private runtime chooses itself.
        ClusterUnavailable: Ray or the kernel did not come up; nothing is left behind.
    """
    if num_cpus is not None and (not isinstance(num_cpus, int) or num_cpus < 1):
        raise UsageError(f"num_cpus={num_cpus!r:.40}: give a whole number of CPUs, or leave it out")
    own = {"home", "http_port", "ray_port", "dashboard_port", "ray_address"} & settings.keys()
    if own:
        raise UsageError(
            f"a private runtime chooses its own {', '.join(sorted(own))}; for one with an address "
            "of your choice use `aios up`"
        )
    ports = Ports.free()
    home = Path(tempfile.mkdtemp(prefix="aios-"))
    try:
        loaded = Settings.load(
            home=home,
            http_port=ports.http,
            ray_port=ports.gcs,
            dashboard_port=ports.dashboard,
            **{"spare_workers": 0, **settings},
        ).model_copy(update={"ray_address": None})
        connection, head = _start(loaded, ports, num_cpus=num_cpus, private=True)
        return LocalRuntime(connection, head)
    except BaseException:
        _clear(home)
        ports.release()
        raise


def _start(
    settings: Settings, ports: Ports, *, num_cpus: int | None, private: bool
) -> tuple[Connection, Head]:
    """Ray, the kernel, the API; whatever goes wrong, also Ctrl-C, ends what was started."""
    key = own_key(settings.home)
    with spinner("starting Ray") as show:
        if private:
            spawn_guard(settings.home, parent_pid=os.getpid())
        preload = PRELOAD if settings.spare_workers else None
        head = start_head(settings.home, ports, num_cpus=num_cpus, extra_env=preload)
        try:
            if not private:
                spawn_guard(settings.home, restart=True)
            connection = Connection(address=head.address, key=key)
            marks = {ID_VARIABLE: head.id, HOME_VARIABLE: str(head.home)}
            environment = {**os.environ, **head.driver_env(), **marks}
            _bring_up(settings, head.gcs_address, head, connection, environment, show)
        except BaseException:
            forget(settings.home)
            stop_head(head)
            raise
    return connection, head


def _start_on_existing(settings: Settings) -> Connection:
    """Only the kernel and what it deploys; Ray belongs to somebody else (`ray up`)."""
    head = read_head(settings.home)
    if head is not None and head_is_alive(head):
        raise UsageError(
            f"a runtime of its own already runs at {settings.home}: {head.address}. Stop it with "
            "`aios down`, or choose another home for the one on that Ray."
        )
    key = own_key(settings.home)
    _refuse_absent(str(settings.ray_address))
    connection = Connection(
        address=f"http://127.0.0.1:{settings.http_port}",
        key=key,
        ray_address=settings.ray_address,
    )
    with spinner("starting the kernel") as show:
        address = str(settings.ray_address)
        _bring_up(settings, address, None, connection, dict(os.environ), show)
    return connection


def _refuse_absent(ray_address: str) -> None:
    """Ray itself looks for a minute before it says that nobody is there."""
    host, _, port = ray_address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=RAY_ANSWERS_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterUnavailable(f"no Ray answers at {ray_address}: {error}") from None


def _bring_up(
    settings: Settings,
    ray_address: str,
    head: Head | None,
    connection: Connection,
    environment: dict[str, str],
    show: Callable[[str], None],
) -> None:
    show("starting the kernel")
    _boot(settings, ray_address, connection, environment)
    show("starting the API")
    wait_until_ready(connection, head, settings.dashboard_port)
    note(settings.home, connection)


def _boot(
    settings: Settings, ray_address: str, connection: Connection, environment: dict[str, str]
) -> None:
    """Start the kernel, from a process of its own, which stays: this one stays free of Ray."""
    request = {
        "ray_address": ray_address,
        "settings": settings.model_dump(mode="json", exclude={"key", "address"}),
        "api_key": ["admin", digest(connection.key)],
    }
    start_driver(request, environment, settings.home / "driver.log")


def _clear(home: Path) -> None:
    """End what still runs there before its note goes: without one nobody could find it."""
    head = read_head(home)
    if head is not None:
        stop_head(head)
    shutil.rmtree(home, ignore_errors=True)


def _make_home(home: Path) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{home} cannot be the runtime's folder: {error}") from None


def _nothing_known(home: Path) -> str:
    if read_head(home) is not None:
        return (
            f"the runtime at {home} is being started, or its start was cut off; wait a moment, "
            "or clean up with `aios down`"
        )
    return (
        f"no runtime is known at {home}: start one with `aios up`, set AIOS_ADDRESS and AIOS_KEY, "
        "or use `with aios.local() as rt:`"
    )


def _why_silent(settings: Settings, where: str) -> str:
    try:
        head = read_head(settings.home)
    except AiosError as error:
        return str(error)
    if head is None or head.address != where.rstrip("/"):
        return "is it the right address, and is the runtime up? `aios up` starts one here"
    if not head_is_alive(head):
        return (
            f"the runtime at {settings.home} died; it comes back by itself within seconds if it "
            "can, else `aios up` brings it back"
        )
    return f"its Ray runs but its API does not answer (yet); logs are in {head.log_dir}"
