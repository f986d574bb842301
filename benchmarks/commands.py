"""Other programs that benchmarks run."""

import subprocess
from collections.abc import Sequence

from aios.errors import UsageError


def run(command: Sequence[str], what: str) -> str:
    """What a command printed.

    Raises:
        UsageError: it failed; begins with `what` and ends with its last words.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UsageError(f"{what}: {why[:300]}")
    return done.stdout
