"""Bare Ray actors, and the kernel without HTTP, for `benchmarks.agents`.

python -m benchmarks.agents_on_ray TOLD REF        in the cluster that the environment names
"""

import json
import sys
import time
from typing import Any
from uuid import uuid4

import numpy as np
import ray

from aios.kernel.boot_on_ray import NAME, NAMESPACE
from aios.security import Caller


class BareCounter:
    """Counts its messages, in memory alone."""

    def __init__(self) -> None:
        self._messages = 0

    async def ask(self, message: int) -> int:
        """Count one."""
        self._messages += 1
        return self._messages


def main() -> None:
    """Measure both, and print one JSON line."""
    told, ref = json.loads(sys.argv[1]), sys.argv[2]
    ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    # Two processes of many methods' calls, as agents have two hosts; a process per actor would
    # measure how many processes the machine bears.
    actors = [ray.remote(BareCounter).options(num_cpus=0).remote() for _ in range(2)]
    ray.get([actor.ask.remote(0) for actor in actors])
    kernel = ray.get_actor(NAME, namespace=NAMESPACE)
    found = {
        "actor": {
            **_percentiles([_timed(actors[0]) for _ in range(told["asks"])]),
            "per_s": _per_s(actors, told["messages"]),
        },
        "kernel": _percentiles([_asked(kernel, ref) for _ in range(told["asks"])]),
    }
    print(json.dumps(found))


def _timed(actor: Any) -> float:
    begun_s = time.perf_counter()
    ray.get(actor.ask.remote(1))
    return time.perf_counter() - begun_s


def _per_s(actors: list[Any], messages: int) -> float:
    begun_s = time.perf_counter()
    ray.get([actors[n % len(actors)].ask.remote(n) for n in range(messages)])
    return messages / (time.perf_counter() - begun_s)


def _asked(kernel: Any, ref: str) -> float:
    """Seconds for one question, as the API puts it."""
    caller = Caller("benchmark", "admin")
    begun_s = time.perf_counter()
    operation_id = uuid4().hex
    asked = {"to": ref, "message": 1}
    put = ray.get(kernel.execute.remote("ask_agent", asked, caller, operation_id))
    seq = put["result"]["message"]
    answer = None
    while answer is None:
        waits = kernel.execute.remote("agent_reply", {"seq": seq}, caller, None)
        answer = ray.get(waits)["result"]
    return time.perf_counter() - begun_s


def _percentiles(took_s: list[float]) -> dict[str, float]:
    return {
        "p50_ms": 1e3 * float(np.percentile(took_s, 50)),
        "p99_ms": 1e3 * float(np.percentile(took_s, 99)),
    }


if __name__ == "__main__":
    main()
