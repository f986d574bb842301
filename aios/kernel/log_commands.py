"""Commands and queries about the prediction log: its keys, its age, its files."""

from collections.abc import Callable
from typing import Any

from aios.clock import Clock
from aios.config import Settings
from aios.errors import IllegalTransition
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.explaining import ever_deployed
from aios.kernel.housekeeping import Housekeeping
from aios.kernel.log_keys import LogKeys
from aios.kernel.log_metrics import LogMetrics
from aios.kernel.requests import Nothing, OfEndpoint, OfId
from aios.kernel.runs import Workbench
from aios.registry import Observed, Registry

SUBJECT = "prediction log"


class LogCommands:
    """`rotate_log_key`, `retire_log_key`, `compact_log` and `log`, and what they command.

    Args:
        workbench: reads and tidies the log elsewhere; it is told the keys.
        changed: called after a change of keys, to tell all replicas.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        observed: Observed,
        workbench: Workbench,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._log = workbench
        self.keys = LogKeys(settings, clock)
        workbench.use_keys(self.keys.current)
        self.housekeeping = Housekeeping(settings, registry, observed, workbench, clock)
        self.metrics = LogMetrics(self.housekeeping)
        self._changed = changed
        self.commands: Commands = {
            "rotate_log_key": (Nothing, self._rotate),
            "retire_log_key": (OfId, self._retire),
            "compact_log": (OfEndpoint, self._compact),
        }
        self.queries: Queries = {"log": (Nothing, self._state)}

    def _rotate(self, _: Nothing, asked: Asked) -> dict[str, Any]:
        with asked.change(self._registry, "rotate_log_key", SUBJECT) as change:
            if change.done is not None:
                return change.done
            made = {"id": self.keys.rotate()}
            change.note(**made)
            change.remember(made)
        self._changed()
        return made

    def _retire(self, request: OfId, asked: Asked) -> dict[str, Any]:
        self.keys.current().without(request.id)  # refused before anything is read
        endpoints = sorted(ever_deployed(self._registry))
        using = [
            name for name, keys in self._log.keys_in_use(endpoints).items() if request.id in keys
        ]
        with asked.change(self._registry, "retire_log_key", SUBJECT, id=request.id) as change:
            if change.done is not None:
                return change.done
            if using:
                raise IllegalTransition(
                    f"rows of {', '.join(using)} are under key {request.id[:40]}: they come under "
                    "the newest key within two hours, or after rt.compact_log(endpoint) if they "
                    "are 10 minutes old"
                )
            self.keys.retire(request.id)
            change.remember({"id": request.id})
        self._changed()
        return {"id": request.id}

    def _compact(self, request: OfEndpoint, asked: Asked) -> dict[str, Any]:
        if request.endpoint not in ever_deployed(self._registry):
            self._registry.endpoint(request.endpoint)
        with asked.change(self._registry, "compact_log", request.endpoint) as change:
            if change.done is not None:
                return change.done
            result = {"endpoint": request.endpoint, "asked_s": change.at_s}
            change.remember(result)
        self.housekeeping.ask(request.endpoint)
        return result

    def _state(self) -> dict[str, Any]:
        ring = self.keys.current()
        return {
            "encrypted": ring.encrypts,
            "keys": ring.ids,
            "keep_days": self._settings.log_keep_days or None,
            "endpoints": [
                {**one, "counts": dict(self.housekeeping.counts.get(name, {}))}
                for name, one in sorted(self.housekeeping.last.items())
            ],
        }
