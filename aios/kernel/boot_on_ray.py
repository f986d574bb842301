"""Starts the kernel's actor on a cluster, without importing what only the kernel needs: a start
waits for this process."""

import logging
import time
from typing import Any

import ray

from aios.kernel.actor import KernelActor
from aios.records.cost import Owner

NAME = "aios-kernel"
NAMESPACE = "aios"
CONTROL_PLANE = Owner("control plane")
LOOK_S = 5.0
SILENT_S = 120.0
"""After this time without an answer of Ray's control store the cluster is taken for gone."""

logger = logging.getLogger("aios.kernel")


def boot(ray_address: str, settings: dict[str, Any], api_key: tuple[str, str]) -> int:
    """Make sure the kernel runs on the cluster at `ray_address`, on its head node.

    Returns:
        The kernel's process id.
    """
    ray.init(address=ray_address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
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


def stay() -> None:
    """Until the kernel is gone for good, or its Ray is.

    All that the kernel starts belongs to the job of the process that started the kernel. Ray takes
    a job for over when that process ends, and from then on ends each worker of it that has nothing
    to do just now: each task would get a new process, which takes 2 s to be there.
    """
    answered_s = time.monotonic()
    while time.monotonic() - answered_s < SILENT_S:
        time.sleep(LOOK_S)
        try:
            ray.get_actor(NAME, namespace=NAMESPACE)
        except ValueError:
            return
        except Exception:
            logger.exception("Ray's control store does not answer")
            continue
        answered_s = time.monotonic()
