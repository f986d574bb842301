"""`python -m apps.predictive_maintenance`: tell the story, with a report in out/."""

import argparse
import os
import sys
from pathlib import Path

import aios
from apps.predictive_maintenance.story import Options, main


def options_of(words: list[str]) -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m apps.predictive_maintenance", description=__doc__
    )
    known = Options()
    parser.add_argument("--readings", type=int, default=known.readings, help="sent at most")
    parser.add_argument("--rate", type=float, default=known.rate_per_s, help="readings per second")
    parser.add_argument("--machines", type=int, default=known.machines)
    parser.add_argument(
        "--kafka",
        default=os.environ.get("MAINTENANCE_KAFKA"),
        metavar="HOST:PORT",
        help="a broker that runs; default: MAINTENANCE_KAFKA, else one is started",
    )
    parser.add_argument("--out", type=Path, default=known.out, help="folder of the report")
    given = parser.parse_args(words)
    return Options(
        readings=given.readings,
        rate_per_s=given.rate,
        machines=given.machines,
        servers=given.kafka,
        out=given.out,
    )


if __name__ == "__main__":
    try:
        sys.exit(main(options_of(sys.argv[1:])))
    except aios.AiosError as error:
        sys.exit(f"{type(error).__name__}: {error}")
