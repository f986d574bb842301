"""One DBOS instance per process, with a JSON serializer and SQLite in WAL mode."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from aios.errors import UsageError

FlowFunction = Callable[..., Any]
SCHEMA_VERSION = "1"
"""DBOS recovers only flows of the same application version. Our flows keep their state in
the registry and re-read it, so a newer aios may go on with an older one's."""


class FlowEngine:
    """Registers flows and steps, then runs them durably.

    Args:
        url: SQLAlchemy URL of DBOS's own tables; SQLite or PostgreSQL.
        executor: names this process. The next process with the same name takes over what
            it left unfinished.
    """

    def __init__(self, url: str, executor: str) -> None:
        from dbos import DBOS

        if url.startswith("sqlite:///"):
            # WAL is a property of the file; DBOS does not ask for it itself.
            connection = sqlite3.connect(url.removeprefix("sqlite:///"))
            connection.execute("PRAGMA journal_mode=WAL")
            connection.close()
        self._dbos = DBOS
        DBOS(
            config={
                "name": "aios-kernel",
                "system_database_url": url,
                "executor_id": executor,
                "application_version": SCHEMA_VERSION,
                "serializer": _json_serializer(),
                "log_level": "WARNING",
                "run_admin_server": False,
            }
        )

    def flow(self, name: str, function: FlowFunction) -> FlowFunction:
        """Register a flow; only before `launch`."""
        registered: FlowFunction = self._dbos.workflow(name=name)(_plain(function))
        return registered

    def step(self, name: str, function: FlowFunction) -> FlowFunction:
        """A step: its result is stored, and a finished one never runs again."""
        registered: FlowFunction = self._dbos.step(name=name)(_plain(function))
        return registered

    def launch(self) -> None:
        """Start, and go on with what the last process of this name left unfinished."""
        self._dbos.launch()

    def start(self, flow: FlowFunction, *arguments: Any, flow_id: str) -> None:
        """Run `flow` in the background; the same id never runs twice.

        Raises:
            UsageError: the id is empty, which DBOS would take for "no id".
        """
        from dbos import SetWorkflowID

        if not flow_id:
            raise UsageError("a flow id cannot be empty")
        with SetWorkflowID(flow_id):
            self._dbos.start_workflow(flow, *arguments)

    def close(self) -> None:
        """Stop taking work; flows in the middle are left for the next process."""
        self._dbos.destroy()


def _plain(function: FlowFunction) -> FlowFunction:
    """DBOS marks what it registers with attributes, which bound methods do not take."""

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


def _json_serializer() -> Any:
    from dbos import Serializer

    class JsonSerializer(Serializer):  # type: ignore[misc]
        """Only JSON: a database row must never be able to run code."""

        def serialize(self, data: Any) -> str:
            return json.dumps(data, default=_exception_as_text)

        def deserialize(self, serialized_data: str) -> Any:
            return json.loads(serialized_data)

        def name(self) -> str:
            return "aios_json"

    return JsonSerializer()


def _exception_as_text(value: Any) -> Any:
    if isinstance(value, BaseException):
        return {"error": type(value).__name__, "message": str(value)}
    raise TypeError(f"{type(value).__name__} is not JSON; pass plain values to flows and steps")
