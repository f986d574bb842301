"""A kernel with a version that went all the way: data, run, gates, approval, rollout, endpoint."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from kernel_fakes import CONTRACT, World

from aios.clock import ManualClock
from aios.governance import request_for, seal
from aios.kernel.clearing import policy_of
from aios.records import (
    Artifact,
    Assessment,
    CodeSource,
    ColumnProfile,
    DataSource,
    GateResult,
    ModelVersion,
    RunSpec,
    Snapshot,
    TrainingRun,
)
from aios.registry import RolloutRow
from aios.security import Caller

BEA = Caller("bea", "approver")
TEXT = "class LoanRecipe: ...\n"
RUN = "loan-run-1"
DATA = "d" * 64
WHO = {"actor": "ann", "action": "test"}


def governed(home: Path) -> World:
    """`loan:1` by hand, then `loan:2` trained, checked, approved by bea and rolled out on loan."""
    world = World(home)
    world.register()
    world.deploy()
    world.clock.advance(100)
    world.do("declare", name="loan", use="credit_scoring", purpose="p", owner="o")
    world.clock.advance(10)
    version = register_trained(world)
    asked = assess(world, version)
    world.clock.advance(5)
    world.kernel.execute("approve", {"subject": asked, "reason": "I <looked>"}, BEA, None)
    world.clock.advance(5)
    roll_out(world, version)
    world.clock.advance(60)
    return world


def again(template: World, folder: Path) -> World:
    """Such a world of one's own: making it takes longer than most tests."""
    shutil.copytree(template.settings.home, folder, dirs_exist_ok=True)
    return World(folder, ManualClock(template.clock.now_s()))


def refused(world: World) -> ModelVersion:
    """One more version, of which a gate failed."""
    version = register_trained(world, run=f"{RUN}b")
    assess(world, version, fails="fairness")
    return version


def register_trained(world: World, run: str = RUN) -> ModelVersion:
    """A version as the stage `register` makes it."""
    recipe = CodeSource(
        path="recipe:LoanRecipe", text=TEXT, sha256=hashlib.sha256(TEXT.encode()).hexdigest()
    )
    spec = RunSpec(
        model="loan",
        recipe=recipe,
        data=DataSource(kind="parquet", location="s3://lake/<loans>/"),
        contract=CONTRACT.to_json(),
        trials=20,
        seed=7,
    )
    snapshot = Snapshot(
        kind="parquet",
        location="s3://lake/<loans>/",
        rows=12_345,
        columns={"a": ColumnProfile(dtype="double", nulls=0, distinct=5)},
        digest=DATA,
        taken_s=world.clock.now_s(),
    )
    with world.kernel.registry.change(subject="loan", **WHO) as change:
        change.add_snapshot(snapshot)
        training = TrainingRun(
            id=run,
            model="loan",
            stage="register",
            spec=spec,
            results={
                "search": {"config": {"depth": 3}},
                "refit": {"artifact": {"digest": "b" * 64}},
            },
            created_s=change.at_s,
            created_by="ann",
        )
        change.create_run(training)
        version = change.register(
            "loan",
            Artifact(digest="b" * 64, engine="onnx", size_bytes=10),
            CONTRACT.to_json(),
            CONTRACT.digest,
            metrics={"auc": 0.8125},
            lineage={"run": run, "snapshot": DATA, "config": {"depth": 3}, "seed": 7},
            created_by="ann",
        )
        change.save_run(run, "registered", "register", training.results, version=version.version)
    return version


def assess(world: World, version: ModelVersion, fails: str = "") -> str:
    """Gate results as the stage `register` keeps them; the request's subject."""
    registry = world.kernel.registry
    world.clock.advance(1)
    with registry.change(subject="loan", **WHO) as change:
        policy = policy_of(change)
        tier = policy.tier_of(change.profile("loan").use)[1]
        results = tuple(
            GateResult(
                gate=gate,
                outcome="failed" if gate == fails else "passed",
                value=0.8,
                threshold=0.7,
                reason="a <reason>",
            )
            for gate in tier.gates
        )
        made = Assessment(
            id=f"assessment-{version.version}",
            name="loan",
            version=version.version,
            run=RUN,
            artifact_digest=version.artifact.digest,
            snapshot_digest=DATA,
            policy_digest=policy.digest,
            digest=seal(version.artifact.digest, DATA, results, policy.digest),
            results=results,
            card="---\nlicense: other\n---\n# loan\n",
            at_s=change.at_s,
            by="ann",
        )
        change.add_assessment(made)
        request = request_for(tier, made, "ann", change.at_s)
        if request is None:
            return ""
        change.request_approval(request)
        return request.subject


def roll_out(world: World, version: ModelVersion) -> None:
    """What a rollout that promotes leaves behind."""
    registry = world.kernel.registry
    with registry.change(subject="loan", **WHO) as change:
        change.create_rollout(
            RolloutRow(
                id="loan-2-ab",
                endpoint="loan",
                from_version=1,
                to_version=version.version,
                plan={"kind": "canary"},
                stage="starting",
                created_s=change.at_s,
                created_by="ann",
            )
        )
    world.clock.advance(30)
    with registry.change(subject="loan", **WHO) as change:
        state = change.endpoint("loan")
        change.save_rollout("loan-2-ab", "promoted", {}, "not worse")
        change.put_endpoint(state.spec, version.version, cause="rollout")
        change.set_alias("loan", "stable", version.version)


def answer(**more: Any) -> dict[str, Any]:
    """What the log has of one answer of `loan:2`."""
    return {
        "endpoint": "loan",
        "request_id": "r1",
        "row": 0,
        "rows": 1,
        "at_s": 1_000_190.0,
        "key": "k",
        "version": 2,
        "arm": "stable",
        "degraded": None,
        "latency_s": 0.002,
        "inputs": {"a": 4.5},
        "outputs": {"approve": 0.75},
        **more,
    }
