"""The support desk's story, told short on a real runtime with a real RabbitMQ."""

import os
from pathlib import Path

import pytest
from rich.console import Console

import aios
from apps.brokers import running_rabbitmq
from apps.support_triage.story import Options, main
from apps.support_triage.triage import BROKER

QUICK = aios.Canary(
    steps=(0.5, 1.0),
    bake_s=2,
    min_requests=5,
    abort_when=("errors worse by 0.4",),
    max_stage_s=200,
    no_data_s=100,
)
"""A plan that few tickets decide."""


@pytest.mark.timeout(1500)  # the story gives up before that, and says of what
def test_every_ticket_is_answered_once_through_a_rollout_and_two_kills(tmp_path: Path) -> None:
    console = Console(record=True, width=120)
    with running_rabbitmq() as rabbit:
        options = Options(tickets=90, rate_per_s=5, broker=rabbit.url, plan=QUICK, out=tmp_path)
        try:
            assert main(options, console) == 0, console.export_text()
        except aios.AiosError as error:
            pytest.fail(f"{error}\n{console.export_text()}")
    said = console.export_text()
    assert "90 tickets, 90 replies on the queue: 0 lost, 0 answered twice" in said
    for text in (
        "an agent host is killed",
        "a flow worker is killed",
        "the rollout is over: promoted",
        "90 of 90 answered (0 wait)",
        "the parts sum to the bill",
    ):
        assert text in said
    page = (tmp_path / "support_triage.html").read_text()
    for text in ("90 real complaints came in", "answered by", "version 2", "a person"):
        assert text in page
    assert BROKER not in os.environ
