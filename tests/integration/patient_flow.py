"""A flow whose step takes its time in a process of its own, and who waits for what it wrote."""

import time
from pathlib import Path

import aios


def cancel(given: None, seconds: float, ledger: str) -> None:
    with Path(ledger).open("a") as file:
        file.write("undone\n")


@aios.step(undo=cancel)
def reserve(seconds: float, ledger: str) -> None:
    with Path(ledger).open("a") as file:
        file.write("reserved\n")


@aios.step(num_cpus=0.1)
def work(seconds: float, ledger: str) -> str:
    with Path(ledger).open("a") as file:
        file.write("begun\n")
    time.sleep(seconds)
    return "done"


@aios.flow
def patient(seconds: float, ledger: str) -> str:
    reserve(seconds, ledger)
    return work(seconds, ledger)


def wait_for_line(file: Path, line: str) -> None:
    give_up_s = time.monotonic() + 90
    while not (file.exists() and line in file.read_text()):
        assert time.monotonic() < give_up_s, f"{file} has no {line!r}"
        time.sleep(0.05)
