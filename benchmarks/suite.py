"""All benchmarks, one after the other, and a report of what they found.

    python -m benchmarks.suite [--short] [--only NAME ...] [--out FOLDER]

Each runs in a process of its own. One that fails, or takes longer than `--limit-s`, is said and the
others go on; the suite then ends with 1. What a broken one had written is named `.unfinished`, so
that nobody takes it for a result. Results and report go to `--out`, by default `results/`. Ctrl-C
ends the benchmark that runs, with all that it started, and removes what it had written.

Short versions of those that need nothing but a runtime share one, which the suite starts for the
first of them and ends after the last; after one that went wrong the next gets a new one.

`soak` is left out: it asks what ten minutes of traffic do, and no short version answers that.

Caveats: what ran before leaves caches warm and, for a minute, a load average; so the load before
the suite, and the cores that others kept busy just before each benchmark, are told in its result.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import psutil

from aios.cli.benching import CATALOGUE, importing
from aios.cli.foreground import OutOfTime, run_to_its_end
from aios.kernel.processes import end_all, is_alive, name_of
from benchmarks import report
from benchmarks.commands import begin, parser_of, positive
from benchmarks.plots import Price
from benchmarks.results import RESULTS, SUITE_VARIABLE, UNFINISHED
from benchmarks.runtimes import BORROWERS, Lender

LEFT_OUT = ("soak",)
CHECKOUT = Path(__file__).parents[1]
SHORT_LIMIT_S, LONG_LIMIT_S = 150.0, 3600.0
LOOK_S = 0.5
"""For so long others are watched before each benchmark."""
GONE_S = 10.0
"""By then a private runtime is gone whose owner was killed."""
LAST_WORDS = 12
"""Lines of what a broken benchmark said last."""


@dataclass(frozen=True)
class Ended:
    """How one benchmark went: `wrong` is None if it ended well, and then it has results."""

    name: str
    seconds: float
    wrong: str | None
    results: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Runs benchmarks by their names.

    Attributes:
        modules: by name, what `python -m` takes.
        folder: for results.
        arguments: of each.
        limit_s: for each.
        borrowers: names of those that are lent a runtime.
        tell: takes lines for users.
        show: takes what goes on just now, a few times a second; nothing, and it shows nothing.
    """

    modules: Mapping[str, str]
    folder: Path
    arguments: tuple[str, ...] = ()
    limit_s: float = LONG_LIMIT_S
    borrowers: Collection[str] = ()
    lender: Lender = field(default_factory=Lender)
    checkout: Path = CHECKOUT
    tell: Callable[[str], None] = print
    show: Callable[[str], None] = lambda text: None

    def run(self) -> list[Ended]:
        """All of them, in their order."""
        load, ended = psutil.getloadavg()[0], list[Ended]()
        self.folder.mkdir(parents=True, exist_ok=True)
        waiting = [name for name in self.modules if name in self.borrowers]
        try:
            for number, name in enumerate(self.modules, 1):
                title = f"[{number}/{len(self.modules)}] {name}"
                self.tell(title)
                ended.append(self._one(name, title, load))
                self.tell(f"    {how(ended, len(self.modules))}")
                if name in waiting and (name == waiting[-1] or ended[-1].wrong is not None):
                    self.lender.end()
        finally:
            self.lender.end()
        return ended

    def _one(self, name: str, title: str, load: float) -> Ended:
        mark, begun_s = uuid4().hex, time.monotonic()
        told = {"id": mark, "load_average_1min": round(load, 2)}
        if name in self.borrowers:
            self.show("")  # the start of a runtime has a line of its own
            home = self.lender.home()
            told |= {} if home is None else {"runtime": str(home)}
        before = self._files()
        with tempfile.NamedTemporaryFile() as output:
            said = Path(output.name)

            def meanwhile() -> None:
                last = next(reversed(_lines(said)), "")
                self.show(f"{title}: {time.monotonic() - begun_s:.0f} s  {last:.80}")

            try:
                code = run_to_its_end(
                    [sys.executable, "-m", self.modules[name], *self.arguments],
                    folder=self.checkout,
                    environment=self._environment(told),
                    output=output,
                    limit_s=self.limit_s,
                    meanwhile=meanwhile,
                )
                wrong = f"it ended with {code}" if code else None
            except OutOfTime:
                wrong = f"it took longer than {self.limit_s:.0f} s"
            except BaseException:
                end_what_is_left(mark)
                for path in self._files() - before:
                    path.unlink()
                raise
            wrong = wrong or _left(end_what_is_left(mark))
            written = sorted(self._files() - before)
            if wrong is None and not any(path.suffix == ".jsonl" for path in written):
                wrong = "it wrote no result"
            if wrong is not None:
                for line in _lines(said)[-LAST_WORDS:]:
                    self.tell(f"    | {line}")
                for path in written:
                    if path.suffix != UNFINISHED:
                        path.rename(path.with_name(path.name + UNFINISHED))
                written = []
        return Ended(name, time.monotonic() - begun_s, wrong, tuple(written))

    def _environment(self, told: dict[str, Any]) -> dict[str, str]:
        busy = psutil.cpu_percent(LOOK_S) / 100 * (psutil.cpu_count() or 1)
        told = {**told, "folder": str(self.folder.resolve()), "others_cores": round(busy, 2)}
        return {**importing(self.checkout), SUITE_VARIABLE: orjson.dumps(told).decode()}

    def _files(self) -> set[Path]:
        return set(self.folder.glob("*.json*"))


def how(ended: Sequence[Ended], count: int) -> str:
    """How the last one went, and what is left at the pace of those so far.

    >>> how([Ended("a", 40, None), Ended("b", 80, "it ended with 1")], 5)
    'FAILED after 80 s: it ended with 1; 3 left, about 3 min'
    >>> how([Ended("a", 40, None)], 1)
    'done in 40 s'
    """
    last, left = ended[-1], count - len(ended)
    if last.wrong is None:
        text = f"done in {last.seconds:.0f} s"
    else:
        text = f"FAILED after {last.seconds:.0f} s: {last.wrong}"
    minutes = left * sum(one.seconds for one in ended) / len(ended) / 60
    return f"{text}; {left} left, about {max(minutes, 1):.0f} min" if left else text


def end_what_is_left(mark: str) -> list[str]:
    """End what was started by a benchmark and is still there; returns what it was."""
    give_up_s = time.monotonic() + GONE_S
    while (left := marked(mark)) and time.monotonic() < give_up_s:
        time.sleep(0.1)
    found = [f"{name_of(one)} ({one.pid})" for one in left]
    end_all(lambda: marked(mark))
    return found


def marked(mark: str) -> list[psutil.Process]:
    """Living processes that have this mark in their environment, which children inherit."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        if mark in environment.get(SUITE_VARIABLE, "") and is_alive(process):
            found.append(process)
    return [one for one in found if one.pid != os.getpid()]


def _left(found: Sequence[str]) -> str | None:
    return f"it left processes behind, which were ended: {', '.join(found)}" if found else None


def _lines(said: Path) -> list[str]:
    """What is not empty of what was printed; a progress bar's line is its last state."""
    lines = said.read_text("utf-8", errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()]


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """A line in a terminal that says what goes on; nothing elsewhere."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as status:

        def show(text: str) -> None:
            status.update(Text(text))
            (status.start if text else status.stop)()

        yield show


def main() -> int:
    """Run them, write the report; 1 if one failed."""
    known = [name for name in CATALOGUE if name not in LEFT_OUT]
    parser = parser_of("all", __doc__)
    parser.add_argument("--short", action="store_true", help="a short version of each")
    parser.add_argument("--only", nargs="+", choices=known, default=known, metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder")
    parser.add_argument(
        "--limit-s",
        type=positive,
        help=f"for each; default {LONG_LIMIT_S:.0f}, with --short {SHORT_LIMIT_S:.0f}",
    )
    parser.add_argument("--price", type=positive, help="of a node by the hour, for the report")
    parser.add_argument("--currency", help="of the price")
    asked = parser.parse_args()
    price = report.price_of(asked.price, asked.currency)
    with _status() as show:
        ended = Suite(
            {name: f"benchmarks.{CATALOGUE[name]}" for name in asked.only},
            asked.out,
            arguments=("--short",) if asked.short else (),
            limit_s=asked.limit_s or (SHORT_LIMIT_S if asked.short else LONG_LIMIT_S),
            borrowers=BORROWERS if asked.short else (),
            tell=lambda text: print(text, file=sys.stderr, flush=True),
            show=show,
        ).run()
    return finish(ended, asked.out, price)


def finish(ended: Sequence[Ended], folder: Path, price: Price) -> int:
    """Write the report of what ended well, and say what did not."""
    failed = [one for one in ended if one.wrong is not None]
    wrong = [f"{one.name} failed and is left out: {one.wrong}" for one in failed]
    paths = [path for one in ended for path in one.results if path.suffix == ".jsonl"]
    if paths:
        results, _ = report.results_of(paths)
        written = report.write(results, folder, price, wrong)
        print(written[1].read_text("utf-8"))
        print(f"written: {', '.join(str(path) for path in written)}", file=sys.stderr)
    minutes = sum(one.seconds for one in ended) / 60
    text = f"{len(ended) - len(failed)} of {len(ended)} benchmarks ended well, {minutes:.1f} min"
    print(text, *wrong, sep="\n", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    begin(main)
