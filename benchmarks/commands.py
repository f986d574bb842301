"""Other programs that benchmarks run."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from aios.errors import UsageError

CACHE = Path("~/.cache/aios/benchmarks").expanduser()
"""Where data and the environments of peers are kept from run to run."""


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


def environment(folder: Path, name: str, packages: Sequence[str]) -> str:
    """The interpreter of an environment of its own for a peer, made if it is not there.

    Raises:
        UsageError: it cannot be made; says why.
    """
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        run([sys.executable, "-m", "venv", str(folder)], "no environment can be made")
        pip = [str(python), "-m", "pip", "install", "--quiet", *packages]
        run(pip, f"{name} cannot be installed")
        (folder / "installed").touch()
    return str(python)
