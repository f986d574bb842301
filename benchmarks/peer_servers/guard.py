"""Runs a server until this process's own standard input ends, and leaves nothing of it behind.

    python -m benchmarks.peer_servers.guard MARK COMMAND ...

The benchmark holds the other end of the input, so the server also ends when the benchmark is
killed. All that the server started carries MARK in its environment, and is found by it.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence

from aios.kernel.processes import ID_VARIABLE, end_all, processes_of


def main(mark: str, command: Sequence[str]) -> int:
    """Run the command; its exit code, if it ended by itself."""
    server = subprocess.Popen(
        command,
        env={**os.environ, ID_VARIABLE: mark},
        stdin=subprocess.PIPE,  # open as long as this process lives
        start_new_session=True,
    )
    threading.Thread(target=_end_with_input, args=(mark,), daemon=True).start()
    try:
        return server.wait()
    finally:
        _end(mark)


def _end_with_input(mark: str) -> None:
    while os.read(0, 1024):  # not sys.stdin: Python could not end while a thread reads it
        pass
    _end(mark)


def _end(mark: str) -> None:
    end_all(lambda: processes_of(mark))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
