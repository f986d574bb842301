"""Thin Ray shell: a thread that tells the kernel every few seconds what its process uses."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from aios.records.cost import Owner
from aios.telemetry.processes import ProcessMeter

TELL_S = 5.0
"""What a process that is killed has used since it last told is counted as overhead."""
KERNEL = "aios-kernel"
NAMESPACE = "aios"

logger = logging.getLogger("aios.telemetry")


def meter_here(owner: Owner, app: str = "") -> ProcessMeter:
    """A meter of this process, which is a worker of Ray's."""
    import ray

    context = ray.get_runtime_context()
    gpus = float(context.get_assigned_resources().get("GPU", 0.0))
    return ProcessMeter(owner, context.get_node_id(), gpus, app)


class Metered:
    """Tells the kernel what this process uses, until the process ends.

    Args:
        owner: for whom it works.
        app: the Serve application, of a challenger.
        changing: gives the fields of `ProcessUsage` that change.
    """

    here: "Metered | None" = None
    """That of this process, if it works for one owner all along, as an actor does."""

    def __init__(
        self, owner: Owner, app: str = "", changing: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        self.owner = owner
        self._changing = changing
        self._meter = meter_here(owner, app)
        self._kernel: Any = None
        threading.Thread(target=self._run, name="aios-meter", daemon=True).start()

    def tell(self) -> None:
        """Tell now. What does not arrive is made up for by the next, which is cumulative."""
        import ray

        try:
            if self._kernel is None:
                self._kernel = ray.get_actor(KERNEL, namespace=NAMESPACE)
            self._kernel.used.remote(self._meter.usage(self._changing()).model_dump())
        except (ValueError, ray.exceptions.RayError) as error:
            self._kernel = None
            logger.info("what this process uses is told later, no kernel answers: %s", error)
        except Exception:
            logger.exception("what this process uses could not be told")

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(TELL_S):
            self.tell()


def metered_as(owner: Owner) -> Metered:
    """That of this process, begun if it has none yet."""
    Metered.here = Metered.here or Metered(owner)
    return Metered.here
