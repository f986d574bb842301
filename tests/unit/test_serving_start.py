"""What a replica's start takes along, and what it tells of itself."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from onnx_graphs import sample_rows, score_contract, write_model

import aios
from aios.models import build
from aios.models.loading import load_engine
from aios.serving.starting import TOLD, Start

NEEDLESS = {
    *("torch", "sklearn", "pandas", "pyarrow", "deltalake", "scipy", "skl2onnx", "onnxscript"),
    *("sqlalchemy", "alembic", "dbos", "mlflow", "optuna", "river", "fairlearn", "matplotlib"),
    *("fastapi", "rich", "typer"),
}
"""Ray Serve itself brings pandas and FastAPI along; nothing of ours may, nor the others."""
CONTROL_PLANE = ("aios.kernel.kernel", "aios.kernel.on_ray", "aios.registry", "aios.training")

REPLICA = """
import json, sys
from pathlib import Path
import aios.kernel.actor  # Ray imports it for the handle that a replica asks for its plan with
from aios.contracts import Codec, Contract
from aios.models import load_engine
from aios.records import Artifact
from aios.serving import challenger, control_headers, endpoint, http, live, outliers
from aios.serving.recorder import Recorder
from aios.serving.runner import Runner
from aios.store.artifacts import ArtifactStore

folder, artifact, contract = sys.argv[1:]
artifact = Artifact.model_validate_json(artifact)
contract = Contract.from_json(json.loads(contract))
found = ArtifactStore(folder, Path(folder)).fetch(artifact.digest)
Runner(load_engine(found, artifact, contract), Codec(contract, 100))
print(json.dumps(sorted(sys.modules)))
"""


def test_a_replica_of_an_onnx_model_imports_nothing_that_it_has_no_use_for(tmp_path: Path) -> None:
    built = build(write_model(tmp_path), score_contract(), sample_rows(), tmp_path / "artifacts")
    contract = json.dumps(score_contract().to_json())
    arguments = [str(tmp_path / "artifacts"), built.artifact.model_dump_json(), contract]
    done = subprocess.run(
        [sys.executable, "-c", REPLICA, *arguments], capture_output=True, text=True, check=True
    )
    roots = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "onnxruntime" in roots, "a model was loaded"
    assert roots & NEEDLESS == set()
    rooms = {name for name in json.loads(done.stdout) if name.startswith("aios.")}
    assert {name for name in rooms if name.startswith(CONTROL_PLANE)} == set()


def test_the_kernels_actor_has_every_method_of_the_kernel_behind_it() -> None:
    """By the source: to import the latter is to import Ray."""
    methods = []
    for file, name in (("actor.py", "KernelActor"), ("on_ray.py", "Resident")):
        tree = ast.parse((Path(aios.__file__).parent / "kernel" / file).read_text())
        (found,) = (node for node in tree.body if getattr(node, "name", None) == name)
        assert isinstance(found, ast.ClassDef)
        methods.append(
            {
                node.name: ast.unparse(node.args)
                for node in found.body
                if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_")
            }
        )
    assert methods[0] == methods[1]
    assert "next_plan" in methods[0]


def test_a_start_is_told_step_by_step_and_each_step_once(tmp_path: Path) -> None:
    built = build(write_model(tmp_path), score_contract(), sample_rows(), tmp_path)
    clock = iter([11.0, 12.0, 13.0, 14.0, 15.0, 16.0])
    start = Start(10.0, lambda: next(clock))
    for _ in range(2):  # the second is a version that is loaded later
        load_engine(built.folder, built.artifact, score_contract(), on_step=start.reached)
    line = start.line("loan", 42)
    assert line.startswith(TOLD)
    told = orjson.loads(line.removeprefix(TOLD))
    assert told == {
        "name": "loan",
        "pid": 42,
        "at_s": {"imported": 10.0, "loaded": 11.0, "warmed": 12.0},
    }


@pytest.mark.parametrize(
    ("module", "needless"),
    [
        ("aios.kernel.boot_on_ray", {"ray.serve", "sqlalchemy", "fastapi", "numpy"}),
        ("aios.kernel.api_on_ray", {"sqlalchemy", "dbos", "aios.kernel.kernel"}),
        ("aios.kernel.on_ray", {"ray.serve", "fastapi", "pandas"}),
    ],
)
def test_what_a_runtime_waits_for_when_it_starts_imports_only_what_it_needs(
    module: str, needless: set[str]
) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & needless == set()
