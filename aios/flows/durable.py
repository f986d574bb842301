"""One DBOS instance per process, with a JSON serializer and SQLite in WAL mode."""

import json
import threading
from collections.abc import Callable
from contextvars import Context
from datetime import datetime
from typing import Any, Protocol

from aios.errors import (
    AiosError,
    PermanentError,
    StoreUnavailable,
    UsageError,
    describe,
    from_problem,
)
from aios.store.files import begin_file

FlowFunction = Callable[..., Any]
CLOSE_S = 5.0
"""How long `close` waits for flows to leave. What is still in a step then is cut off, which
the next process repairs as after a crash."""
SCHEMA_VERSION = "1"
"""DBOS recovers only flows of the same application version. Our flows keep their state in
the registry and re-read it, so a newer aios may go on with an older one's."""


class FlowInterrupted(BaseException):
    """Raised inside a step to leave its flow where it is: the next process goes on with it.

    Not an `Exception`: DBOS takes one as the flow's result and never runs the flow again. Its
    own signals of this sort are BaseExceptions too.
    """


class Flows(Protocol):
    """What runs flows durably; `FlowEngine` in production."""

    def flow(self, name: str, function: FlowFunction) -> FlowFunction: ...

    def step(self, name: str, function: FlowFunction) -> FlowFunction: ...

    def launch(self) -> None: ...

    def start(self, flow: FlowFunction, *arguments: Any, flow_id: str) -> None: ...

    def close(self) -> None: ...


class FlowEngine:
    """Registers flows and steps, then runs them durably.

    A process has at most one at a time, since DBOS is one per process.

    Args:
        url: SQLAlchemy URL of DBOS's own tables; SQLite or PostgreSQL.
        executor: names this process. The next process with the same name takes over what
            it left unfinished.
    """

    def __init__(self, url: str, executor: str) -> None:
        from dbos import DBOS

        if url.startswith("sqlite:///"):
            begin_file(url.removeprefix("sqlite:///"))
        self._dbos = DBOS
        self._running = 0
        self._left = threading.Condition()
        DBOS(
            config={
                "name": "aios-kernel",
                "system_database_url": url,
                "executor_id": executor,
                "application_version": SCHEMA_VERSION,
                "serializer": json_serializer(),
                "log_level": "WARNING",
                "run_admin_server": False,
            }
        )

    def flow(self, name: str, function: FlowFunction) -> FlowFunction:
        """Register a flow; only before `launch`."""

        def call(*arguments: Any) -> Any:
            with self._left:
                self._running += 1
            try:
                return _as_json(function(*arguments), f"flow {name!r}")
            finally:
                with self._left:
                    self._running -= 1
                    self._left.notify_all()

        # A flow that saw a hundred crashes of its process is still wanted.
        make = self._dbos.workflow(name=name, max_recovery_attempts=None)
        registered: FlowFunction = make(call)
        return registered

    def step(self, name: str, function: FlowFunction) -> FlowFunction:
        """A step: its result is stored, and a finished one never runs again.

        The result is given as JSON brings it back (lists for tuples), so that a flow sees the
        same whether the step ran now or before a crash. One that is not JSON is a UsageError
        in the step.
        """

        def call(*arguments: Any) -> Any:
            return _as_json(function(*arguments), f"step {name!r}")

        registered: FlowFunction = self._dbos.step(name=name)(call)
        return registered

    def launch(self) -> None:
        """Start, and go on with what the last process of this name left unfinished."""
        self._dbos.launch()

    def start(self, flow: FlowFunction, *arguments: Any, flow_id: str) -> None:
        """Run `flow` in the background; the same id never runs twice. A step may start one too:
        it stands by itself and is no part of the step's flow.

        Raises:
            UsageError: the id is empty, which DBOS would take for "no id", or an argument is
                not JSON.
            StoreUnavailable: the start could not be stored; nothing runs.
        """
        from sqlalchemy.exc import DBAPIError

        if not flow_id:
            raise UsageError("a flow id cannot be empty")
        plain = _as_json(list(arguments), f"an argument of flow {flow_id!r}")
        try:
            # DBOS refuses to start a flow inside of a step, which it knows by its context.
            Context().run(self._begin, flow, plain, flow_id)
        except DBAPIError as error:
            raise StoreUnavailable(
                f"flow {flow_id!r} cannot be stored now: {error.orig}"
            ) from error

    def _begin(self, flow: FlowFunction, arguments: list[Any], flow_id: str) -> None:
        from dbos import SetWorkflowID

        with SetWorkflowID(flow_id):
            self._dbos.start_workflow(flow, *arguments)

    def close(self) -> None:
        """Stop taking work and wait for flows that are told to leave (`FlowInterrupted`);
        those in the middle are left for the next process."""
        with self._left:
            self._left.wait_for(lambda: self._running == 0, timeout=CLOSE_S)
        self._dbos.destroy(destroy_registry=True)


def _as_json(value: Any, what: str) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{what} is not JSON ({error}); flows and steps take and return plain values"
        ) from None


def json_serializer() -> Any:
    from dbos import Serializer

    class JsonSerializer(Serializer):  # type: ignore[misc]
        """Only JSON: a database row must never be able to run code."""

        def serialize(self, data: Any) -> str:
            told = {_ERROR: _problem(data)} if isinstance(data, Exception) else data
            return json.dumps(told, default=_moment)

        def deserialize(self, serialized_data: str) -> Any:
            value = json.loads(serialized_data)
            if isinstance(value, dict) and value.keys() == {_ERROR}:
                return from_problem(value[_ERROR])
            return value

        def name(self) -> str:
            return "aios_json"

    return JsonSerializer()


_ERROR = "aios error"


def _moment(value: Any) -> str:
    """DBOS itself gives a scheduled flow the time it was due, as the one value that is no JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _problem(error: Exception) -> dict[str, Any]:
    told = error if isinstance(error, AiosError) else PermanentError(describe(error))
    return told.to_problem()
