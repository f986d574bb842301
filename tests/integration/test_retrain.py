"""A search on real Ray whose trials raise and whose kernel is killed; and bad inputs."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import aios
from aios.errors import AiosError
from tests.integration import retrain_recipes as recipes


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    draws = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draws.normal(size=800), "b": draws.normal(size=800)})
    frame["y"] = (frame.a + frame.b + draws.normal(size=800) > 0).astype(int)
    return frame


def wait_until(what: Callable[[], bool], limit_s: float = 60) -> None:
    give_up_s = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < give_up_s
        time.sleep(0.1)


def test_a_search_survives_bad_trials_and_a_killed_kernel(rt, toy_contract, rows) -> None:
    search = {"C": aios.loguniform(0.01, 10), "how": aios.choice(["well", "raises", "slow"])}
    run = rt.start_retrain(
        "retrained",
        recipes.Toy,
        data=rows,
        contract=toy_contract,
        search=search,
        trials=4,
        # The first trial does well, the second is slow, and of those that Tune draws one raises: be
        # it that it begins with the first or the second, or that the kernel dies before.
        seed=141,
        trial_time_limit_s=60,
    )
    wait_until(lambda: any(trial.state != "running" for trial in run.status().trials))
    assert run.status().stage == "search"
    os.kill(next(row["pid"] for row in rt.ps() if row["role"] == "kernel"), signal.SIGKILL)
    version = run.wait(180)
    status = run.status()
    assert (status.outcome, version.ref) == ("registered", "retrained:1")
    assert len(rt.models.list("retrained")) == 1
    states = [(trial.config["how"], trial.state) for trial in status.trials]
    assert len(states) == 4
    told = {"well": "finished", "slow": "finished", "raises": "failed"}
    assert states == [(how, told[how]) for how, _ in states]
    assert {how for how, _ in states} == told.keys()
    assert version.lineage["config"]["how"] != "raises"
    assert rt.assessment("retrained:1").passed
    assert rt.reproduce("retrained:1").verdict in ("identical", "equal")
    assert len(rt.models.list("retrained")) == 1
    assert rt.audit.verify().sound


def bad_inputs(rows: pd.DataFrame) -> list[tuple[Any, pd.DataFrame, str]]:
    """Recipe, data, and what the message must say."""
    return [
        (recipes.Raises, rows, r"fit raised ValueError: no convergence \(line \d+, in fit"),
        (recipes.ReturnsNothing, rows, "fit returned nothing"),
        (recipes.Hangs, rows, "not done after 4 s"),
        (recipes.Leaks, rows, "label 'a' is also an input"),
        (recipes.Unknown, rows, "no column 'gender'"),
        (recipes.Toy, rows.drop(columns="b"), "no column 'b'"),
        (recipes.Toy, rows.assign(y=1), "y"),
        (recipes.Toy, rows.head(0), "no rows"),
        (recipes.Toy, rows.assign(a=np.nan), "a"),
    ]


def test_what_cannot_be_trained_is_told_in_one_sentence_and_registers_nothing(
    rt, toy_contract, rows
) -> None:
    fields = {"contract": toy_contract, "trial_time_limit_s": 2}
    for recipe, data, told in bad_inputs(rows):
        with pytest.raises(AiosError, match=told) as caught:
            rt.start_retrain("never", recipe, data=data, **fields).wait(90)
        assert "Traceback" not in caught.value.message
    assert "never" not in {version.name for version in rt.models.list()}
