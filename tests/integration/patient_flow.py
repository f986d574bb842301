"""A flow whose step, in a process of its own, goes on until a file is there; and a wait for what it
wrote."""

import time
from pathlib import Path

import aios


def cancel(given: None, ledger: str) -> None:
    with Path(ledger).open("a") as file:
        file.write("undone\n")


@aios.step(undo=cancel)
def reserve(ledger: str) -> None:
    with Path(ledger).open("a") as file:
        file.write("reserved\n")


@aios.step(num_cpus=0.1)
def work(ledger: str) -> str:
    with Path(ledger).open("a") as file:
        file.write("begun\n")
    while not Path(f"{ledger}.go").exists():
        time.sleep(0.05)
    return "done"


@aios.flow
def patient(ledger: str) -> str:
    reserve(ledger)
    return work(ledger)


def wait_for_line(file: Path, line: str) -> None:
    give_up_s = time.monotonic() + 90
    while not (file.exists() and line in file.read_text()):
        assert time.monotonic() < give_up_s, f"{file} has no {line!r}"
        time.sleep(0.05)
