"""What is known of a machine that wrote or ran a recipe: enough to make the same again."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from aios.training.recipe import Recipe
from aios.training.recipe_source import recipe_source

_GIT_WAIT_S = 5.0


def describe_environment(folder: str | Path | None = None) -> dict[str, Any]:
    """JSON of this machine: `git` (`commit`, `dirty`) of the folder, or None outside of a
    repository; `packages` as name -> version; `python`, `platform`, `cpus`.

    Args:
        folder: of the recipe; None where only the machine is of interest.
    """
    return {
        "git": None if folder is None else _git(Path(folder)),
        "packages": dict(_packages()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def seen_here(recipe: Recipe | type[Recipe]) -> dict[str, Any]:
    """What the author's machine knows: `describe_environment` of the recipe's folder.

    Raises:
        UsageError: it is no recipe that could be sent.
    """
    return describe_environment(recipe_source(recipe).folder)


@lru_cache(maxsize=1)
def _packages() -> tuple[tuple[str, str], ...]:
    """The installed packages, by name as package indexes spell it."""
    found = {
        name.lower().replace("_", "-"): one.version
        for one in metadata.distributions()
        if (name := one.metadata["Name"])
    }
    return tuple(sorted(found.items()))


def _git(folder: Path) -> dict[str, Any] | None:
    commit = _ask_git(folder, "rev-parse", "HEAD")
    changes = _ask_git(folder, "status", "--porcelain")
    if not commit or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _ask_git(folder: Path, *question: str) -> str | None:
    """What git says; None if it is not installed, too slow, or this is no repository."""
    try:
        said = subprocess.run(
            ["git", "-C", str(folder), *question],
            capture_output=True,
            text=True,
            timeout=_GIT_WAIT_S,
            check=True,
            # Looking must not take the lock that the author's own git may want.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
