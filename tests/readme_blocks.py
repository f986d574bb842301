"""The README's code, for the tests that run it."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def needs_runtime(block: str) -> bool:
    """Whether it is for tests/integration; the others run in tests/house."""
    return re.search(r"\brt\b", block) is not None
