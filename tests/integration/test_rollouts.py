"""Rollouts on a real runtime under continuous traffic: no user's request may ever fail."""

import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from math import sqrt
from pathlib import Path

import psutil
import pytest

import aios
from aios.serving.line import LENGTH_BYTES, NONCE_BYTES, UNPROVED_BYTES
from apps.loan_approval.replay import Replay

ROLLOUTS = int(os.environ.get("CHAOS_ROLLOUTS", "4"))
"""`make chaos` does 20."""
QUICK = {"bake_s": 0.5, "min_requests": 10, "abort_when": ("errors worse by 0.2",)}


class Fixed:
    """A Python model that always answers the same."""

    def __init__(self, config: dict) -> None:
        self._p = config["p"]

    def predict(self, batch):
        import numpy as np

        return {"p": np.full(batch.rows, self._p)}


class FailsToLoad(Fixed):
    """Loads where it is registered and nowhere else."""

    def load(self, folder: Path) -> None:
        if os.environ.get("AIOS_TEST_REGISTERING") != str(os.getpid()):
            raise OSError("the weights are not on this machine")


@pytest.fixture(scope="module")
def endpoint(rt, toy_model, toy_contract, toy_frame) -> Iterator[aios.Endpoint]:
    for _ in range(2):
        rt.models.register("roll", toy_model, contract=toy_contract, sample=toy_frame)
    yield rt.deploy("roll", "roll:1", deadline_s=1.0)
    rt.remove("roll")


@pytest.fixture(autouse=True)
def ended(rt, endpoint) -> Iterator[None]:
    """What a test that failed left running fails none of the next."""
    yield
    for row in rt.rollouts(endpoint.name):
        if row["status"] == "running":
            rt.get_rollout(row["id"]).abort("its test has ended")
            rt.get_rollout(row["id"]).wait(30)


@pytest.fixture
def traffic(rt, endpoint) -> Iterator[Replay]:
    records = [{"id": f"k{n}", "a": (n % 100) / 50 - 1, "b": None} for n in range(2000)]
    with Replay(rt.address, rt.key, records, rate_per_s=80, endpoint=endpoint.name) as replay:
        yield replay


def other(version: int) -> int:
    return 2 if version == 1 else 1


def challenger_pid(rt: aios.Runtime, name: str) -> int:
    return next(
        row["pid"]
        for row in rt.ps()
        if row["role"] == "challenger" and row["name"] == name and row["state"] == "RUNNING"
    )


def wait_for_stage(rollout: aios.Rollout, stage: str, timeout_s: float = 60) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not rollout.status().stage.startswith(stage):
        assert time.monotonic() < give_up_s, rollout.status()
        assert not rollout.status().finished, rollout.status()
        time.sleep(0.05)


def test_rollouts_and_rollbacks_with_kills_fail_no_request(rt, endpoint, traffic):
    promoted = turned_back = kills = 0
    for number in range(ROLLOUTS):
        before = endpoint.status()["version"]
        rollout = rt.rollout(
            endpoint.name, f"roll:{other(before)}", aios.Canary(steps=(0.5, 1.0), **QUICK)
        )
        if number % 4 == 1:
            wait_for_stage(rollout, "canary")
            os.kill(challenger_pid(rt, endpoint.name), signal.SIGKILL)
            kills += 1
            outcome = rollout.wait(90).outcome
            assert outcome in ("promoted", "rolled_back")
        elif number % 4 == 3:
            wait_for_stage(rollout, "canary")
            rollout.abort("changed our mind")
            outcome = rollout.wait(30).outcome
            assert outcome == "aborted"
        else:
            outcome = rollout.wait(90).outcome
            assert outcome == "promoted", rollout
        after = endpoint.status()["version"]
        assert after == (other(before) if outcome == "promoted" else before)
        promoted += outcome == "promoted"
        if number % 4 == 2:
            assert rt.rollback(endpoint.name, "drill") == before
            turned_back += 1
        turned_back += outcome in ("aborted", "rolled_back")
    stats = traffic.stop()
    assert kills == ROLLOUTS // 4
    assert promoted >= ROLLOUTS // 2
    assert turned_back >= ROLLOUTS // 2
    assert stats.failed == 0, traffic.failures
    assert stats.sent > 50 * ROLLOUTS
    assert stats.by_arm["canary"] > 5 * ROLLOUTS


def test_a_killed_kernel_goes_on_at_the_same_stage_and_users_do_not_notice(rt, endpoint, traffic):
    before = endpoint.status()["version"]
    plan = aios.Canary(
        steps=(0.2, 0.5, 1.0),
        bake_s=5,
        shadow_first_s=5,
        min_requests=5,
        abort_when=("errors worse by 0.2",),
    )
    rollout = rt.rollout(endpoint.name, f"roll:{other(before)}", plan)
    pids = []
    stages = ["starting", "shadow", "canary 20%", "canary 50%", "promoting", "promoted"]
    for index in range(4):
        wait_for_stage(rollout, stages[index])
        pid = next(row["pid"] for row in rt.ps() if row["role"] == "kernel")
        os.kill(pid, signal.SIGKILL)
        pids.append(pid)
        assert rollout.status().stage in stages[index:], "it never goes back"
    assert rollout.wait(120).outcome == "promoted"
    assert len(set(pids)) == 4
    advanced = [
        entry["details"]["stage"]
        for entry in reversed(list(rt.audit(limit=200, subject=endpoint.name)))
        if entry["action"] == "advance_rollout" and entry["details"]["rollout"] == rollout.id
    ]
    assert advanced == ["shadow", "canary 20%", "canary 50%", "promoting", "promoted"]
    stats = traffic.stop()
    assert stats.failed == 0, traffic.failures


def test_the_split_is_fair_and_a_growing_weight_moves_no_key_back(rt, endpoint):
    before = endpoint.status()["version"]
    new = other(before)
    plan = aios.Canary(
        steps=(0.1, 0.3, 1.0), bake_s=12, min_requests=1, abort_when=("errors worse by 0.5",)
    )
    keys = [f"customer-{n}" for n in range(400)]
    rollout = rt.rollout(endpoint.name, f"roll:{new}", plan)

    def moved() -> set[str]:
        return {key for key in keys if endpoint.predict({"a": 0.1}, key=key).version == new}

    wait_for_stage(rollout, "canary 10%")
    endpoint.wait(30)  # the stage is written before the replicas hear of it
    first, again = moved(), moved()
    assert again == first
    assert_binomial(len(first), len(keys), 0.1)
    assert on_a_line(rt, endpoint.name)
    wait_for_stage(rollout, "canary 30%")
    endpoint.wait(30)
    second = moved()
    assert rollout.status().stage == "canary 30%"
    assert first < second
    assert_binomial(len(second), len(keys), 0.3)
    rollout.abort("seen enough")
    assert rollout.wait(30).outcome == "aborted"
    endpoint.wait(30)
    assert not moved()


def on_a_line(rt: aios.Runtime, name: str) -> bool:
    """Whether the endpoint holds a connection to the port at which its challenger takes lines: the
    one that answers a nonce with a nonce and a proof."""
    pids = {row["role"]: row["pid"] for row in rt.ps() if row["name"] == name}
    challenger = psutil.Process(challenger_pid(rt, name))
    ports = {one.laddr.port for one in challenger.net_connections() if one.status == "LISTEN"}
    lines = {port for port in ports if takes_lines(port)}
    assert len(lines) == 1, ports
    held = psutil.Process(pids["endpoint"]).net_connections()
    return any(one.raddr and one.raddr.port in lines for one in held)


def takes_lines(port: int) -> bool:
    nonce = (NONCE_BYTES).to_bytes(LENGTH_BYTES, "little") + secrets.token_bytes(NONCE_BYTES)
    with closing(socket.create_connection(("127.0.0.1", port), 5.0)) as connection:
        connection.settimeout(1.0)
        try:
            connection.sendall(nonce)
            answer = connection.recv(1024)
        except OSError:  # who speaks another protocol may hang up, or wait
            return False
    return answer[:LENGTH_BYTES] == UNPROVED_BYTES.to_bytes(LENGTH_BYTES, "little")


def assert_binomial(hits: int, trials: int, share: float) -> None:
    """Within 4 standard deviations: wrong once in 16,000 runs."""
    assert abs(hits - trials * share) <= 4 * sqrt(trials * share * (1 - share))


def test_an_artifact_changed_on_disk_is_refused_and_stable_goes_on(
    rt, endpoint, toy_contract, toy_frame
):
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    estimator = make_pipeline(SimpleImputer(), LogisticRegression(C=0.5))
    estimator.fit(toy_frame, (toy_frame.a > 0).astype(int))
    version = rt.models.register("roll", estimator, contract=toy_contract, sample=toy_frame)
    model = next((rt.home / "artifacts" / version.artifact.digest).glob("*.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    before = endpoint.status()["version"]
    status = rt.rollout(endpoint.name, version, aios.Canary(steps=(0.5, 1.0), **QUICK)).wait(90)
    assert status.outcome == "failed"
    assert "was changed" in status.reason
    assert endpoint.status()["version"] == before
    assert endpoint.predict({"a": 1.0}).version == before


def test_a_model_that_cannot_load_fails_the_rollout_with_its_reason(
    rt, endpoint, toy_contract, monkeypatch
):
    monkeypatch.setenv("AIOS_TEST_REGISTERING", str(os.getpid()))
    model = aios.PythonModel("tests.integration.test_rollouts:FailsToLoad", {"p": 0.5})
    version = rt.models.register("roll", model, contract=toy_contract)
    before = endpoint.status()["version"]
    status = rt.rollout(endpoint.name, version, aios.Canary(steps=(0.5, 1.0), **QUICK)).wait(90)
    assert status.outcome == "failed"
    assert "cannot start" in status.reason
    assert endpoint.predict({"a": 1.0}).version == before


def test_a_second_rollout_is_refused_and_a_command_promotes(rt, endpoint):
    before = endpoint.status()["version"]
    plan = aios.Canary(steps=(0.1, 1.0), bake_s=300)
    rollout = rt.rollout(endpoint.name, f"roll:{other(before)}", plan)
    with pytest.raises(aios.IllegalTransition, match=rollout.id):
        rt.rollout(endpoint.name, f"roll:{other(before)}", plan)
    wait_for_stage(rollout, "canary")
    rollout.promote("tested by hand")
    status = rollout.wait(30)
    assert status.outcome == "promoted"
    assert "tested by hand" in status.reason
    with pytest.raises(aios.IllegalTransition, match="ended"):
        rollout.abort("too late")
    assert rt.rollback(endpoint.name) == before
