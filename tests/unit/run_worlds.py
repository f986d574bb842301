"""A world in which training runs go on: what their stages give, and a policy to pass."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kernel_fakes import CONTRACT, QUICK, World

from aios.flows import FlowInterrupted
from aios.governance import seal
from aios.records import CodeSource, DataSource, GateResult, RunSpec, Snapshot
from aios.security import Caller

BOB = Caller("bob", "approver")
EVE = Caller("eve", "deployer")
DATA = "d" * 64
POLICY = """
name: house
tiers:
  forbidden: {prohibited: true, articles: ["Article 5"]}
  high: {gates: {contract: {}, artifact: {}}, approvals: 1, approval_expires_s: 3600}
  free: {}
undeclared: free
uses:
  credit: {tier: high}
  toy: {tier: free}
  scoring_people: {tier: forbidden, article: "Article 5(1)(c)"}
"""
OTHER_POLICY = POLICY.replace("approvals: 1", "approvals: 1, description: stricter")


def spec(**fields: Any) -> dict[str, Any]:
    """The specification of a run, as a command takes it."""
    made = RunSpec(
        model=fields.pop("model", "loan"),
        recipe=CodeSource(path="recipe:Recipe", text="class Recipe: ...", sha256="c" * 64),
        data=fields.pop("data", DataSource(kind="parquet", location="rows.parquet")),
        contract=fields.pop("contract", CONTRACT).to_json(),
        **fields,
    )
    return made.model_dump(mode="json")


def snapshot(at_s: float) -> dict[str, Any]:
    taken = Snapshot(
        kind="parquet", location="rows.parquet", rows=100, columns={}, digest=DATA, taken_s=at_s
    )
    return {"snapshot": taken.model_dump(mode="json"), "rows": 100}


def assessed(told: dict[str, Any], digest: str, *failing: str, card: str = "") -> dict[str, Any]:
    """What the stage `assess` gives when all gates but these pass."""
    if told["version"] is not None:
        digest = told["version"]["artifact"]["digest"]
    results = tuple(
        GateResult(gate=gate, outcome="failed" if gate in failing else "passed", reason="as laid")
        for gate in told["gates"]
    )
    policy = told["policy"]["digest"]
    return {
        "results": [result.model_dump(mode="json") for result in results],
        "card": card or "# {{version}}",
        "policy_digest": policy,
        "digest": seal(digest, DATA, results, policy),
    }


def lay_stages(world: World, *failing: str, digest: str = "f" * 64, card: str = "") -> None:
    """Let every stage succeed, and these gates fail."""
    world.bench.gives = {
        "snapshot": snapshot(world.clock.now_s()),
        "split": {"task": "binary"},
        "search": {"config": {"C": 1.0}, "trials": [], "metric": "auc", "mode": "max"},
        "refit": {
            "artifact": {"digest": digest, "engine": "onnx", "size_bytes": 10},
            "conversion": {},
            "metrics": {"auc": 0.8},
            "environment": {"python": "3"},
        },
        "assess": lambda told: assessed(told, digest, *failing, card=card),
        "track": {"mlflow_run": "m1"},
    }


def govern(world: World, use: str = "credit") -> None:
    """Set a policy, and declare the model."""
    world.do("set_policy", text=POLICY)
    world.do("declare", name="loan", use=use)


def start(world: World, operation_id: str | None = None, /, **fields: Any) -> str:
    return str(world.do("start_run", operation_id, spec=spec(**fields))["id"])


def run(world: World, **fields: Any) -> dict[str, Any]:
    """Start a run and carry it out; its view at the end."""
    started = start(world, **fields)
    world.flows.carry_out(started)
    return dict(world.do("run", id=started))


def rolling(plan: Any = QUICK) -> dict[str, Any]:
    return {"endpoint": "loan", "plan": plan.model_dump(mode="json")}


def stages_of(world: World) -> list[str]:
    """The stages that the workbench was asked for, in order."""
    return [stage for stage, _ in world.bench.asked]


def versions(world: World) -> int:
    return len(world.do("models", name="loan"))


@contextmanager
def carried_out(world: World, run_id: str, stage: str) -> Iterator[None]:
    """The run goes on in a thread of its own; inside, it has come to `stage`; after, it is over."""

    def go_on() -> None:
        with suppress(FlowInterrupted):
            world.flows.carry_out(run_id)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    tick = threading.Event()
    for _ in range(500):
        if world.kernel.registry.run(run_id).stage == stage:
            break
        tick.wait(0.01)
    else:
        raise AssertionError(f"it never came to {stage}")
    yield
    thread.join(10)
    assert not thread.is_alive()
