"""cluster.yaml is what `ray up` would take, and carries the flags that the code relies on."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aios.kernel.environment import FAILURE_DETECTION, PRELOAD, SERVING

ROOT = Path(__file__).parents[2]

# What `ray up` does before it talks to AWS (autoscaler/_private/commands.py). In a process of
# its own, as importing ray takes seconds and this reads all configurations in one go.
CHECK = """
import copy, json, sys
from ray.autoscaler._private.util import prepare_config, validate_config
faults = []
for config in json.load(sys.stdin):
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
        faults.append(None)
    except Exception as error:
        faults.append(f"{type(error).__name__}: {error}"[:300])
print(json.dumps(faults))
"""


def broken(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Copies with one mistake each, of the kinds one makes by hand."""
    copies = {
        name: copy.deepcopy(config)
        for name in ("misspelt key", "head type", "resources", "too many", "text", "provider")
    }
    copies["misspelt key"]["max_worker"] = copies["misspelt key"].pop("max_workers")
    copies["head type"]["head_node_type"] = "haed"
    del copies["resources"]["available_node_types"]["cpu_worker"]["resources"]
    copies["too many"]["available_node_types"]["cpu_worker"]["min_workers"] = 99
    copies["text"]["head_start_ray_commands"] = "ray start --head"
    del copies["provider"]["provider"]["type"]
    return copies


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def faults(config: dict[str, Any]) -> dict[str, str | None]:
    named = {"as it is": config, **broken(config)}
    ran = subprocess.run(
        [sys.executable, "-c", CHECK],
        input=json.dumps(list(named.values())),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return dict(zip(named, json.loads(ran.stdout.splitlines()[-1]), strict=True))


def test_ray_up_accepts_the_file(faults: dict[str, str | None]) -> None:
    assert faults["as it is"] is None


@pytest.mark.parametrize(
    "mistake", ["misspelt key", "head type", "resources", "too many", "text", "provider"]
)
def test_ray_up_refuses_a_broken_copy(faults: dict[str, str | None], mistake: str) -> None:
    assert faults[mistake] is not None


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_starts_ray_with_our_flags(config: dict[str, Any], commands: str) -> None:
    start = next(line for line in config[commands] if "ray start" in line)
    before_start = start.split("ray start")[0]
    wanted = {**SERVING, **FAILURE_DETECTION, **PRELOAD}
    del wanted["RAY_gcs_server_port_wait_time_s"]  # a cluster's store may take its time
    for name, value in wanted.items():
        assert f"{name}={value}" in before_start.replace(";", " ").split()
    assert "RAY_AUTH_MODE=token" in before_start
    assert "RAY_AUTH_TOKEN_PATH=" in before_start


def test_the_head_keeps_its_state_outside(config: dict[str, Any]) -> None:
    up = next(line for line in config["head_start_ray_commands"] if "aios up" in line)
    assert "--ray-address auto" in up
    assert "--store-url postgresql+psycopg://" in up
    assert "--artifacts-url s3://" in up


def test_no_security_group_of_ray_opens_ssh_to_the_world(config: dict[str, Any]) -> None:
    assert "security_group" not in config["provider"]
    for node_type in config["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"]
