"""Runs a server until this process's own standard input ends, and leaves nothing of it behind.

    python -m benchmarks.peer_servers.guard MARK COMMAND ...

The benchmark holds the other end of the input, so the server also ends when the benchmark is
killed. All that the server started carries MARK in its environment, and is found by it.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from aios.kernel.processes import ID_VARIABLE, end_all, processes_of

GRACE_S = 5.0
"""Triton takes 3 s to unload a model and remove its folder."""


def main(mark: str, command: Sequence[str]) -> int:
    """Run the command; its exit code, if it ended by itself."""
    server = subprocess.Popen(
        command,
        env={**os.environ, ID_VARIABLE: mark},
        stdin=subprocess.PIPE,  # open as long as this process lives
        start_new_session=True,
    )
    threading.Thread(target=_ask_to_end, args=(server,), daemon=True).start()
    try:
        return server.wait()
    finally:
        end_all(lambda: processes_of(mark))


def _ask_to_end(server: "subprocess.Popen[bytes]") -> None:
    """When the input ends: first by itself, so that it can put away what it made, then by force."""
    while os.read(0, 1024):  # not sys.stdin: Python could not end while a thread reads it
        pass
    server.terminate()
    time.sleep(GRACE_S)
    server.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
