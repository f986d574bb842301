"""Waits for a runtime's API, and says why if it does not come."""

import math
import os
import time

from aios.errors import ClusterUnavailable
from aios.kernel.environment import cluster_token
from aios.kernel.head import Head, head_is_alive, read_head
from aios.kernel.serve_client import ServeClient, failure_reason
from aios.kernel.serve_config import API_APP
from aios.runtime.connection import Connection
from aios.runtime.transport import Transport

READY_S = 120.0
LOOK_S = 0.1
ASK_SERVE_S = 2.0
"""Serve is asked less often than the API: its answer matters only when nothing comes."""


def wait_until_ready(
    connection: Connection,
    head: Head | None,
    dashboard_port: int,
    timeout_s: float = READY_S,
) -> None:
    """Return when the API answers.

    Args:
        head: Ray on this machine, or None where it belongs to somebody else.
        dashboard_port: of Ray's dashboard on this machine.

    Raises:
        ClusterUnavailable: Ray died, Serve cannot start the API, or it did not answer in
            `timeout_s`; with Serve's own reason where it tells one.
    """
    token = head.token() if head is not None else cluster_token(os.environ)
    serve = ServeClient(f"http://127.0.0.1:{dashboard_port}", token)
    transport = Transport(connection.address, connection.key)
    begun_s = time.monotonic()
    asked_s = -math.inf
    said = "nothing yet"
    try:
        while not transport.ready():
            now_s = time.monotonic()
            if now_s - asked_s > ASK_SERVE_S:
                asked_s = now_s
                said = _refuse_dead(head, serve)
            if now_s - begun_s > timeout_s:
                raise ClusterUnavailable(
                    f"the API at {connection.address} did not answer within {timeout_s:.0f} s; "
                    f"Serve says: {said}"
                )
            time.sleep(LOOK_S)
    finally:
        transport.close()
        serve.close()


def _refuse_dead(head: Head | None, serve: ServeClient) -> str:
    """What Serve says of the API's application.

    Raises:
        ClusterUnavailable: it will not come.
    """
    # Its guard may have brought a part of it back, with another pid.
    current = read_head(head.home) if head is not None else None
    if head is not None and (current is None or not head_is_alive(current)):
        raise ClusterUnavailable(
            f"Ray at {head.home} died or was stopped while the runtime started"
        )
    try:
        app = serve.statuses().get(API_APP)
    except ClusterUnavailable as error:
        return str(error)
    if app is None:
        return "the kernel has not given it the API yet"
    reason = failure_reason(app.message)
    if app.failed:
        raise ClusterUnavailable(f"Serve cannot start the API: {reason}")
    return f"{app.status}: {reason}"
