"""Small runs for tests of training: data, recipes, a specification, and stages in one process."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import aios
from aios.governance import default_policy
from aios.records import CodeSource, DataSource, Domain, ModelProfile, RunSpec
from aios.training import Recipe, recipe_source
from aios.training.pipeline import run_stage
from aios.training.workspace import Workspace

CONTRACT = aios.Contract(
    inputs={"a": aios.Number(), "b": aios.Number()},
    outputs={"p": aios.Number(min=0, max=1)},
    key="id",
)


class Logistic(Recipe):
    """What most tests train."""

    label = "y"
    output = "p"
    protected = ("group",)

    def fit(self, config: dict[str, Any], train: Any) -> Any:
        from sklearn.linear_model import LogisticRegression

        frame = train.frame()
        model = LogisticRegression(C=config.get("C", 1.0))
        return model.fit(frame[train.features], frame[train.label])


def spec_of(source: CodeSource, location: str = "rows.parquet", **more: Any) -> RunSpec:
    """A specification over the data of `make_rows`."""
    given: dict[str, Any] = {
        "model": "toy",
        "recipe": source,
        "data": DataSource(kind="parquet", location=location),
        "contract": CONTRACT.to_json(),
        "seed": 7,
    }
    return RunSpec(**{**given, **more})


def make_rows(path: Path, rows: int = 400) -> str:
    """Rows whose label follows from the inputs, with noise."""
    noise = np.random.default_rng(0)
    frame = pd.DataFrame({"a": noise.normal(size=rows), "b": noise.normal(size=rows)})
    frame["y"] = (frame.a + frame.b + 0.5 * noise.normal(size=rows) > 0).astype(int)
    frame["group"] = noise.integers(0, 2, rows)
    frame["id"] = [f"r{number}" for number in range(rows)]
    frame.to_parquet(path)
    return str(path)


def facts(**more: Any) -> dict[str, Any]:
    """What the kernel adds to the last stage."""
    policy = default_policy()
    name, tier = policy.tier_of("credit_scoring")
    profile = ModelProfile(
        name="toy", use="credit_scoring", purpose="tests", owner="a team", limits=("tests only",)
    )
    return {
        "run": "run-1",
        "by": "ann",
        "profile": profile.model_dump(mode="json"),
        "policy": {"name": policy.name, "digest": policy.digest, "tier": name},
        "gates": dict(tier.gates),
        "stable": None,
        "deadline_s": 0.2,
        "version": None,
        **more,
    }


class Here:
    """Runs stages in this process."""

    def __init__(self, folder: Path, recipe: type[Recipe] = Logistic, **more: Any) -> None:
        location = make_rows(folder / "rows.parquet")
        self.spec = spec_of(recipe_source(recipe), location, **more)
        self.workspace = Workspace(
            str(folder / "run"), str(folder / "artifacts"), str(folder / "cache")
        )
        self.results: dict[str, Any] = {}

    def run(self, *stages: str, **more: Any) -> Any:
        """Carry out these stages; what the last one gave."""
        for stage in stages:
            extra = facts(**more) if stage == "assess" else {}
            self.results[stage] = run_stage(stage, self.spec, self.results, self.workspace, extra)
        return self.results[stages[-1]]


def search_space(**domains: Domain) -> dict[str, Domain]:
    return domains
