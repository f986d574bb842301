"""What `rt.retrain` sends, what it refuses before sending, and what it says of a run."""

from typing import Any

import pytest

import aios
from aios.errors import DeadlineExceeded, PermanentError, UnknownModel, UsageError
from aios.runtime.training import Run, start_run

CONTRACT = aios.Contract(inputs={"a": aios.Number()}, outputs={"p": aios.Number()})
VIEW: dict[str, Any] = {
    "id": "loan-run-1",
    "model": "loan",
    "status": "running",
    "stage": "search",
    "version": None,
    "error": None,
    "metrics": {},
    "config": None,
    "metric": "auc",
    "mode": "max",
    "stages": ["snapshot", "split", "search", "refit", "assess", "register", "track", "rollout"],
    "done": ["snapshot", "split"],
    "spec": {"trials": 4},
    "trials": [
        {"number": 0, "config": {"C": 1.0}, "state": "finished", "value": 0.7},
        {"number": 1, "config": {"C": 2.0}, "state": "failed", "error": "no convergence"},
        {"number": 2, "config": {"C": 3.0}, "state": "finished", "value": 0.8},
        {"number": 3, "config": {"C": 4.0}, "state": "running"},
    ],
}
VERSION = {
    "name": "loan",
    "version": 4,
    "artifact": {"digest": "f" * 64, "engine": "onnx", "size_bytes": 10},
    "contract": CONTRACT.to_json(),
    "contract_digest": CONTRACT.digest,
    "created_s": 1.0,
    "created_by": "ann",
}


class Recipe(aios.Recipe):
    label = "y"
    output = "p"

    def fit(self, config: Any, train: Any) -> Any:
        return None


class FakeTransport:
    """Answers with what is laid down, and keeps what was sent."""

    address = "http://runtime"

    def __init__(self, *views: dict[str, Any]) -> None:
        self._views = list(views) or [VIEW]
        self.sent: list[tuple[str, str, Any]] = []

    def get(self, path: str, **query: Any) -> Any:
        if path.startswith("/api/v1/runs/"):
            return self._views.pop(0) if len(self._views) > 1 else self._views[0]
        if path == "/api/v1/models/loan:4":
            return VERSION
        raise UnknownModel(f"no model {path}")

    def change(self, method: str, path: str, body: Any = None, content: bytes = b"") -> Any:
        self.sent.append((method, path, content or body))
        return {"id": "loan-run-1", "location": "/data/rows.parquet"}


def ask(transport: FakeTransport, data: Any = "rows.parquet", **fields: Any) -> Run:
    fields = {"contract": CONTRACT, **fields}
    return start_run(transport, "loan", Recipe, data, **fields)  # type: ignore[arg-type]


def test_what_is_sent_is_all_that_a_run_needs() -> None:
    transport = FakeTransport()
    plan = aios.Canary(steps=(0.5, 1.0))
    run = ask(
        transport,
        search={"C": aios.uniform(0, 1)},
        trials=4,
        seed=7,
        resources={"cpus": 2},
        rollout=("loan", plan),
    )
    ((method, path, body),) = transport.sent
    assert (method, path, run.id) == ("POST", "/api/v1/runs", "loan-run-1")
    spec = body["spec"]
    assert spec["data"]["kind"] == "parquet"
    assert (spec["trials"], spec["seed"], spec["cpus"]) == (4, 7, 2.0)
    assert spec["rollout"] == {"endpoint": "loan", "plan": plan.model_dump(mode="json")}
    assert "class Recipe(aios.Recipe)" in spec["recipe"]["text"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"search": {"C": (0, 1)}}, r"search: C is \(0, 1\)"),
    ({"resources": {"memory": 1}}, "resources are cpus and gpus, not memory"),
    ({"trials": 0}, "trials: .*greater than or equal to 1"),
    ({"seed": -1}, "seed: "),
    ({"trial_time_limit_s": 0}, "trial_time_limit_s: "),
    ({"data": "rows.xls"}, r"ends in \.parquet or \.csv"),
    ({"rollout": ("loan", "canary")}, "aios.Canary"),
    ({"contract": None}, "give contract=aios.Contract"),
]


@pytest.mark.parametrize(("fields", "told"), WRONG)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(
    fields: dict[str, Any], told: str
) -> None:
    transport = FakeTransport()
    with pytest.raises(UsageError, match=told):
        ask(transport, **fields)
    assert transport.sent == []


def test_waiting_ends_when_the_version_is_tracked_also_if_a_rollout_is_to_come() -> None:
    done = VIEW["stages"][:-2]
    untracked = {**VIEW, "stage": "track", "version": 4, "done": done}
    waiting = {**untracked, "stage": "rollout", "done": [*done, "track"]}
    transport = FakeTransport(VIEW, untracked, waiting)
    assert Run(transport, "loan-run-1").wait(10).ref == "loan:4"
    assert transport.get("/api/v1/runs/loan-run-1") == waiting, "it did not return before"
    refused = {**VIEW, "status": "refused", "version": 4}
    assert Run(FakeTransport(refused), "loan-run-1").wait(10).ref == "loan:4"


def test_a_version_that_could_not_be_tracked_comes_with_a_warning() -> None:
    view = {**VIEW, "status": "registered", "version": 4, "error": "track: no MLflow server"}
    with pytest.warns(UserWarning, match="run loan-run-1: track: no MLflow server"):
        assert Run(FakeTransport(view), "loan-run-1").wait(10).ref == "loan:4"


def test_waiting_for_a_run_that_failed_says_where_and_why() -> None:
    failed = {**VIEW, "status": "failed", "error": "refit: no convergence"}
    with pytest.raises(PermanentError, match="loan-run-1 failed: refit: no convergence"):
        ask(FakeTransport(failed)).wait(10)
    with pytest.raises(DeadlineExceeded, match="search, 3 of 4 trials"):
        ask(FakeTransport(VIEW)).wait(0)


def test_a_run_shows_its_trials_and_draws_them() -> None:
    run = ask(FakeTransport())
    told = repr(run.status())
    for part in ("loan-run-1", "search, 3 of 4 trials", "no convergence", "auc"):
        assert part in told
    (axes,) = run.plot().axes
    (best,) = [line for line in axes.lines if line.get_label() == "best so far"]
    assert list(best.get_ydata()) == [0.7, 0.8]
