"""Starts the kernel's actor on a cluster, without importing what only the kernel needs: a start
waits for this process."""

from typing import Any

import ray

from aios.kernel.actor import KernelActor
from aios.records.cost import Owner

NAME = "aios-kernel"
NAMESPACE = "aios"
CONTROL_PLANE = Owner("control plane")


def boot(ray_address: str, settings: dict[str, Any], api_key: tuple[str, str]) -> int:
    """Make sure the kernel runs on the cluster at `ray_address`, on its head node.

    Returns:
        The kernel's process id.
    """
    ray.init(address=ray_address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    try:
        actor = (
            ray.remote(KernelActor)
            .options(
                name=NAME,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=10_000,
                num_cpus=0.1,
                resources={"node:__internal_head__": 0.001},
            )
            .remote(settings, api_key)
        )
        pid: int = ray.get(actor.ready.remote(), timeout=120)
        return pid
    finally:
        ray.shutdown()
