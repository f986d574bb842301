"""JSON lines of one run, written as they come, so that a run cut short is not lost."""

import time
from pathlib import Path
from typing import Any

import orjson

RESULTS = Path(__file__).parent / "results"


class ResultFile:
    """The result of one run of a benchmark: a line of kind `run` that says what was run and on
    what machine, then what was found. `aios bench compare` reads lines of kind `figure` (`name`,
    `value`, `better`: higher or lower) and `round`."""

    def __init__(self, folder: Path, benchmark: str) -> None:
        folder.mkdir(exist_ok=True)
        self._benchmark = benchmark
        self.path = folder / f"{benchmark}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"

    def run(self, **facts: Any) -> None:
        """What is run: its arguments, and `machine`."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.add("run", {"benchmark": self._benchmark, "at": at, **facts})

    def add(self, kind: str, fields: dict[str, Any]) -> None:
        """One line."""
        with self.path.open("ab") as file:
            file.write(orjson.dumps({"kind": kind, **fields}) + b"\n")
