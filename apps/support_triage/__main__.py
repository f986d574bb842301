"""`python -m apps.support_triage`."""

import argparse
import sys
from pathlib import Path

import aios
from apps.support_triage.story import Options, main


def options(arguments: list[str] | None = None) -> Options:
    """What the command line says."""
    default = Options()
    parser = argparse.ArgumentParser(
        prog="python -m apps.support_triage", description="A support desk on aios."
    )
    parser.add_argument(
        "--tickets", type=int, default=default.tickets, help="how many (%(default)s)"
    )
    parser.add_argument(
        "--rate", type=float, default=default.rate_per_s, help="tickets a second (%(default)s)"
    )
    parser.add_argument(
        "--rabbitmq", help="amqp:// URL of a RabbitMQ that runs; by default one is started"
    )
    parser.add_argument(
        "--worse", action="store_true", help="roll out a worse version of the classifier"
    )
    parser.add_argument(
        "--person-cost",
        type=float,
        default=default.person_cost,
        help="EUR of a person's time for one ticket (%(default)s)",
    )
    parser.add_argument("--out", type=Path, default=default.out, help="folder of the report")
    given = parser.parse_args(arguments)
    return Options(
        tickets=given.tickets,
        rate_per_s=given.rate,
        broker=given.rabbitmq,
        worse=given.worse,
        person_cost=given.person_cost,
        out=given.out,
    )


if __name__ == "__main__":
    try:
        sys.exit(main(options()))
    except aios.AiosError as error:
        sys.exit(f"{type(error).__name__}: {error}")
