"""JSON lines of one run, written as they come, so that a run cut short is not lost."""

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson

from aios.errors import UsageError
from benchmarks.figures import Goal

SUITE_VARIABLE = "_AIOS_BENCHMARK_SUITE"
"""What `aios bench all` tells the benchmarks that it runs, as JSON: `folder` for their results,
`load_average_1min` before the first of them, `others_cores`, how many cores others kept busy just
before this one, an `id` by which it finds its processes, and, where one is lent, the home of a
`runtime`. No `AIOS_` prefix: those are settings."""
SUITE: dict[str, Any] = orjson.loads(os.environ.get(SUITE_VARIABLE, "{}"))
UNFINISHED = ".unfinished"
"""Behind the name of what was broken off."""
RESULTS = Path(SUITE.get("folder", Path(__file__).parent / "results"))


class ResultFile:
    """The result of one run of a benchmark: a line of kind `run` that says what was run and on
    what machine, then what was found, in lines of these kinds:

    * `figure`: `name`, `value`, `better` (higher or lower), `round`; for `aios bench compare`.
    * `goal`: a `Goal` and whether it is `met`; for `aios bench goals`.
    * `histogram`: `name`, `rate_per_s` or null, `hdr`: latencies, as `aios.capacity` encodes them.
    * `measurement`: `file`, beside this one, as `rt.measure` saves it.
    * `note`: `text`, such as what was left out and why.
    * anything else; where a line says that the generator was `held_back`, the report says so.
    """

    made: ClassVar[list["ResultFile"]] = []
    """By this process."""

    def __init__(self, folder: Path, benchmark: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"results go to {folder}, which is no folder: {error.strerror}"
            ) from None
        self._benchmark = benchmark
        self.path = folder / f"{benchmark}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
        try:
            self.path.touch(exist_ok=False)
        except FileExistsError:
            raise UsageError(f"{self.path} is written by another run, begun this second") from None
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}") from None
        self.made.append(self)

    def give_up(self) -> None:
        """Keep what there is under a name that nobody takes for a result."""
        if self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()
        elif self.path.exists():
            self.path.rename(self.path.with_name(self.path.name + UNFINISHED))

    def run(self, **facts: Any) -> None:
        """What is run: its arguments, and `machine`."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        within = {"suite": SUITE} if SUITE else {}
        self.add("run", {"benchmark": self._benchmark, "at": at, **within, **facts})

    def add(self, kind: str, fields: dict[str, Any]) -> None:
        """One line."""
        with self.path.open("ab") as file:
            file.write(orjson.dumps({"kind": kind, **fields}, default=str) + b"\n")

    def figure(
        self, name: str, value: float, better: Literal["higher", "lower"], number: int = 0
    ) -> None:
        """A figure of round `number`."""
        self.add("figure", {"name": name, "value": value, "better": better, "round": number})

    def goal(self, goal: Goal) -> None:
        """A goal that this run can tell about."""
        self.add("goal", {**asdict(goal), "met": goal.met})

    def note(self, text: str) -> None:
        """What a reader of the figures should know."""
        self.add("note", {"text": text})
