"""What Ray is told, and that every name exists in the installed Ray."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from aios.kernel.environment import (
    LOOPBACK,
    driver_environment,
    head_environment,
    import_path,
    start_command,
)
from aios.kernel.ports import Ports
from aios.kernel.processes import HOME_VARIABLE, ID_VARIABLE

PORTS = Ports._block(20_000)
RAY = Path(find_spec("ray").origin).parent  # type: ignore[union-attr, arg-type]

READ_BY_PYTHON = (
    "serve/_private/constants.py",
    "dashboard/consts.py",
    "_private/ray_constants.py",
    "_private/node.py",
    "_common/usage/usage_constants.py",
)


def environment(base: dict[str, str], extra: dict[str, str] | None = None) -> dict[str, str]:
    return head_environment(
        base,
        runtime_id="abcd1234",
        home=Path("/home/u/.aios"),
        ports=PORTS,
        temp_dir=Path("/tmp/aios-abcd1234"),
        token_path=Path("/home/u/.aios/ray.token"),
        gcs_path=Path("/home/u/.aios/gcs/abcd1234"),
        python_path="/work",
        extra=extra or {},
    )


def test_no_variable_of_another_cluster_leaks_in() -> None:
    told = environment({"RAY_ADDRESS": "ray://other:1", "RAY_AUTH_TOKEN": "x", "PATH": "/bin"})
    assert told["RAY_ADDRESS"] == "127.0.0.1:20001"
    assert "RAY_AUTH_TOKEN" not in told, "it would win over our token's path"
    assert told["PATH"] == "/bin"


def test_token_mode_and_path_are_always_explicit() -> None:
    told = environment({}, {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "/other"})
    assert told["RAY_AUTH_MODE"] == "token"
    assert told["RAY_AUTH_TOKEN_PATH"] == "/home/u/.aios/ray.token"


def test_extra_wins_over_defaults_but_not_over_identity() -> None:
    told = environment({}, {"RAY_SERVE_KV_TIMEOUT_S": "9", ID_VARIABLE: "fake", "MY": "own"})
    assert told["RAY_SERVE_KV_TIMEOUT_S"] == "9"
    assert told["MY"] == "own"
    assert told[ID_VARIABLE] == "abcd1234"
    assert told[HOME_VARIABLE] == "/home/u/.aios"


def test_the_mark_is_no_setting_and_no_driver_carries_it() -> None:
    assert not ID_VARIABLE.startswith("AIOS_"), "Settings refuses unknown AIOS_ variables"
    assert ID_VARIABLE not in driver_environment(PORTS, Path("/t"))


def test_haproxy_keeps_its_files_with_the_runtime() -> None:
    told = environment({})
    paths = [value for name, value in told.items() if name.startswith("RAY_SERVE_HAPROXY_")]
    assert not [path for path in paths if path.startswith("/tmp/haproxy-serve")]
    assert told["RAY_SERVE_HAPROXY_SOCKET_PATH"] == "/tmp/aios-abcd1234/h/admin.sock"


def test_every_port_is_told_to_somebody() -> None:
    told = [*environment({}).values(), *_command()]
    for name, port in PORTS.model_dump().items():
        if name != "http":  # the kernel's first PUT carries it
            assert any(str(port) in part for part in told), name


def test_import_path_puts_the_folder_first_and_nothing_twice() -> None:
    path = import_path(Path("/work"), {"PYTHONPATH": os.pathsep.join(["/lib", "/work", ""])})
    assert path == os.pathsep.join(["/work", "/lib"])


def test_ray_knows_every_variable() -> None:
    """A variable that Ray renames would otherwise be lost without a word."""
    told = {*environment({}), *LOOPBACK}
    names = {name for name in told if name.startswith(("RAY_", "DASHBOARD_"))}
    python = "".join((RAY / file).read_text() for file in READ_BY_PYTHON)
    # C++ reads RAY_<name> for each of its settings; the names are in the program.
    core = (RAY / "core" / "src" / "ray" / "gcs" / "gcs_server").read_bytes()
    unknown = {
        name
        for name in names
        if name not in python and name.removeprefix("RAY_").encode() not in core
    }
    assert unknown == set()


def test_ray_start_knows_every_option() -> None:
    source = (RAY / "scripts" / "scripts.py").read_text()
    known = [part.split("=")[0] for part in _command() if part.startswith("--")]
    logging = {"--log-style"}
    assert [
        option for option in known if option not in logging and f'"{option}"' not in source
    ] == []


def _command() -> list[str]:
    return start_command(
        PORTS, Path("/tmp/r"), num_cpus=2, memory_bytes=10**9, object_store_bytes=2 * 10**8
    )


def test_importing_cluster_life_does_not_import_ray() -> None:
    code = (
        "import sys, aios.kernel.head, aios.kernel.guard;"
        "print([name for name in ('ray', 'torch', 'sklearn', 'dbos') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
