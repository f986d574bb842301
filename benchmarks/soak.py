"""Ten minutes of traffic in which the world changes twice and changes back.

Question: does a watch ring when it should and only then, start no retrain that nobody needs, and
does the memory of kernel and replica stay flat?

Method: real loans (`apps.loan_approval.sba`) at 60 requests/s on a private runtime with windows of
3 s: those of 2001, on which the model was trained, for the calm phases, those of 2007 for drift.
Every answer gets feedback. The watch may retrain once an hour, so that only the first drift starts
one; nothing is rolled out. Resident memory is read every 5 s, and its growth is that between the
medians of the second and the last fifth.

Caveats: one machine, also loaded by the client; a fifth is two minutes. Run it with
`python -m benchmarks.soak`, or `--minutes 2` for a look.
"""

import statistics
import time
from dataclasses import dataclass, field

import psutil

import aios
from aios.capacity import machine
from apps.loan_approval import sba
from apps.loan_approval.lending import BusinessLoan
from apps.loan_approval.loop import ENDPOINT, TRAINED_ROWS, Applicants
from benchmarks.commands import begin, parser_of, positive
from benchmarks.results import RESULTS, ResultFile

PHASES = (("calm", 0.25), ("drift", 0.17), ("calm", 0.2), ("drift", 0.17), ("calm", 0.21))
MOST_GROWTH = 0.10
LOOK_S = 5.0
SEED = 3
SETTLE = 0.5
"""The share of a phase after which its alarm must ring, or be over."""


@dataclass
class Soak:
    """What was seen."""

    memory: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    alarms: int = 0
    retrains: int = 0
    sent: int = 0
    failed: int = 0

    def growth(self, name: str) -> float:
        """Growth of a process's memory between the second and the last fifth, as a fraction."""
        fifths = self.fifths(name)
        return fifths[-1] / fifths[1] - 1.0

    def fifths(self, name: str) -> list[float]:
        """A process's resident memory in MiB, as the median of each fifth of the time."""
        found = self.memory[name]
        size = max(1, len(found) // 5)
        begins = [round(part / 4 * (len(found) - size)) for part in range(5)]
        return [statistics.median(found[begin : begin + size]) for begin in begins]


def run(minutes: float) -> Soak:
    """What was seen in so many minutes."""
    loans = sba.load()
    calm, drift = (
        loans[loans[sba.YEAR] == year].sample(frac=1.0, random_state=SEED) for year in (2001, 2007)
    )
    soak = Soak()
    with aios.local(window_s=3) as rt:
        version = rt.retrain(
            ENDPOINT,
            BusinessLoan,
            data=calm.head(TRAINED_ROWS),
            contract=aios.Contract(**sba.fields()),
        )
        rt.deploy(ENDPOINT, version)
        watch = rt.watch(
            ENDPOINT,
            drift="psi > 0.4 on any for 2 windows",
            concept="accuracy < 0.8",
            min_rows=150,
            then=aios.Retrain(BusinessLoan),
        )
        rows = {"calm": calm.iloc[TRAINED_ROWS:], "drift": drift}
        with Applicants(rt, rows["calm"]) as people:
            for name, share in PHASES:
                people.move_to(rows[name])
                _phase(rt, watch, soak, name, share * minutes * 60)
        soak.sent, soak.failed = people.sent, len(people.failed)
        soak.alarms = sum(one["action"] == "alarm" for one in rt.audit(limit=10_000))
        soak.retrains = len(rt.runs(ENDPOINT)) - 1
    return soak


def _phase(rt: aios.Runtime, watch: aios.Watch, soak: Soak, name: str, seconds: float) -> None:
    began_s = time.monotonic()
    while (passed_s := time.monotonic() - began_s) < seconds:
        time.sleep(LOOK_S)
        status = watch.status()
        _remember(rt, soak)
        print(f"{name:<6} {passed_s:4.0f} s  {status.summary}", flush=True)
        if passed_s > SETTLE * seconds and bool(status.alarms) != (name == "drift"):
            soak.wrong.append(f"{name}, {passed_s:.0f} s: {status.summary}")


def _remember(rt: aios.Runtime, soak: Soak) -> None:
    for process in rt.ps():
        name = f"{process['role']} {process['name'] or ''}".strip()
        try:
            used = psutil.Process(process["pid"]).memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
        soak.memory.setdefault(name, []).append(used)


def _told(soak: Soak) -> int:
    print(
        f"{soak.sent:,} requests, {soak.failed} failed; {soak.alarms} alarms, "
        f"{soak.retrains} retrains"
    )
    for name in sorted(soak.memory):
        growth = soak.growth(name)
        fifths = " ".join(f"{used:.1f}" for used in soak.fifths(name))
        print(f"{name:<28} {fifths} MiB, growth {growth:+.1%}")
        if growth > MOST_GROWTH:
            soak.wrong.append(f"{name} grew by {growth:.1%}")
    if soak.failed or soak.retrains != 1:
        soak.wrong.append(f"{soak.failed} requests failed, {soak.retrains} retrains")
    for wrong in soak.wrong:
        print(f"WRONG: {wrong}")
    return 1 if soak.wrong else 0


def main() -> int:
    """Run it, write the result, print what was seen; 0 if nothing was wrong."""
    parser = parser_of("soak", __doc__)
    parser.add_argument("--minutes", type=positive, default=10.0)
    asked = parser.parse_args()
    file = ResultFile(RESULTS, "soak")
    file.run(seed=SEED, machine=machine.describe(), **vars(asked))
    soak = run(asked.minutes)
    for name in soak.memory:
        file.figure(f"memory at the end, MiB: {name}", soak.fifths(name)[-1], "lower")
    code = _told(soak)
    for text in soak.wrong:
        file.note(text)
    return code


if __name__ == "__main__":
    begin(main)
