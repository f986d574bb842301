"""torch modules become ONNX graphs or torch.export archives that answer alike."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aios.contracts import Codec, Contract, Integer, Number, Tensor, Text
from aios.errors import ArtifactRejected, Unsupported, UsageError
from aios.models import Built, build, load_engine
from aios.models.safety import check_onnx
from aios.models.torch_conversion import convert_module
from aios.models.torch_engine import TorchEngine

CONTRACT = Contract(
    inputs={"income": Number(min=-5, max=5), "dependents": Integer(min=0, max=4)},
    outputs={"approve": Number(min=0, max=1)},
)
ROWS = [{"income": (i - 10) / 4, "dependents": i % 5} for i in range(20)]


class Perceptron(nn.Module):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.hidden, self.norm = nn.Linear(2, 8), nn.BatchNorm1d(8)
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(8, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.drop(torch.relu(self.norm(self.hidden(features))))
        return torch.sigmoid(self.out(hidden))


class ByName(nn.Module):
    """One argument per input, an embedding, and a dict of results."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 3), nn.Linear(4, 2)

    def forward(self, dependents: torch.Tensor, income: torch.Tensor) -> dict[str, torch.Tensor]:
        both = self.out(torch.cat([self.embed(dependents), income[:, None]], dim=1))
        return {"approve": torch.sigmoid(both[:, 0]), "logits": both}


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(3, 4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.convolve(image).mean((2, 3))


class Bessel(nn.Module):
    """ONNX has no Bessel function; a torch.export archive has."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2, 4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(torch.special.bessel_j0(self.hidden(features)).sum(-1))


class BakesTheBatch(nn.Module):
    """Answers differ with the number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        values = self.out(features)
        return torch.sigmoid(values - values.mean())


class Branches(nn.Module):
    """Takes another way for other data, which no graph can."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if float(features.sum()) > 0:
            return torch.sigmoid(self.out(features))
        return torch.sigmoid(-self.out(features))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, nn.Module]:
    module = Bessel()
    return build(module, CONTRACT, ROWS, tmp_path_factory.mktemp("archive")), module


def test_a_module_becomes_onnx_in_evaluation_mode_and_stays_as_it_was(tmp_path: Path) -> None:
    module = Perceptron()
    assert module.training
    built = build(module, CONTRACT, ROWS, tmp_path)
    assert built.artifact.engine == "onnx"
    assert module.training
    assert module.drop.training
    assert built.conversion["largest_difference"] < 1e-6
    engine = load_engine(built.folder, built.artifact, CONTRACT)
    batch = Codec(CONTRACT).validate_records(ROWS)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(batch.matrix()))[:, 0]
    for rows in (1, 2, 20):
        found = engine.run(batch.slice(0, rows))["approve"]
        np.testing.assert_allclose(found, expected[:rows], atol=1e-6)


def test_an_exported_graph_is_deterministic_and_tells_nothing_of_this_machine(
    tmp_path: Path,
) -> None:
    module = Perceptron()
    batch = Codec(CONTRACT).validate_records(ROWS)
    first, again = (
        convert_module(module, CONTRACT, batch, None).files["model.onnx"] for _ in range(2)
    )
    assert first == again
    graph = check_onnx(first, "model.onnx")
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
    assert __file__.encode() not in first


def test_arguments_and_results_go_by_name(tmp_path: Path) -> None:
    contract = Contract(
        inputs=CONTRACT.inputs, outputs={"logits": Tensor((2,)), "approve": Number(min=0, max=1)}
    )
    built = build(ByName(), contract, ROWS, tmp_path)
    assert built.artifact.engine == "onnx"
    engine = load_engine(built.folder, built.artifact, contract)
    answer = engine.run(Codec(contract).validate_records(ROWS[:3]))
    assert answer["logits"].shape == (3, 2)
    sigmoid = 1 / (1 + np.exp(-answer["logits"][:, 0]))
    np.testing.assert_allclose(answer["approve"], sigmoid, atol=1e-6)


def test_tensors_go_in_and_come_out(tmp_path: Path) -> None:
    contract = Contract(inputs={"image": Tensor((3, 6, 6))}, outputs={"scores": Tensor((4,))})
    images = np.random.default_rng(1).normal(size=(5, 3, 6, 6)).astype(np.float32)
    module = Picture()
    built = build(module, contract, images, tmp_path)
    engine = load_engine(built.folder, built.artifact, contract)
    batch = Codec(contract).validate_records([{"image": image.tolist()} for image in images])
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(engine.run(batch)["scores"], expected, atol=1e-5)


def test_what_onnx_cannot_express_becomes_an_archive_without_a_pickle(
    archived: tuple[Built, nn.Module],
) -> None:
    built, module = archived
    assert built.artifact.engine == "torch"
    assert "bessel" in built.conversion["why_not_onnx"]
    content = (built.folder / "model.pt2").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            assert not archive.read(name).startswith((b"\x80", b"PK"))
    assert __file__.encode() not in content
    engine = load_engine(built.folder, built.artifact, CONTRACT)
    assert isinstance(engine, TorchEngine)
    batch = Codec(CONTRACT).validate_records(ROWS)
    with torch.no_grad():
        expected = module(torch.from_numpy(batch.matrix())).numpy()
    for rows in (1, 7, 20):
        found = engine.run(batch.slice(0, rows))["approve"]
        np.testing.assert_allclose(found, expected[:rows], atol=1e-6)
    engine.close()


def test_a_module_becomes_what_is_asked_for(tmp_path: Path) -> None:
    built = build(Perceptron(), CONTRACT, ROWS, tmp_path, engine="torch")
    assert built.artifact.engine == "torch"
    assert built.conversion["largest_difference"] < 1e-6
    with pytest.raises(UsageError, match="engine='torch'"):
        build("python_models:Some", CONTRACT, ROWS, tmp_path, engine="torch")
    with pytest.raises(UsageError, match="engine='jax'"):
        build(Perceptron(), CONTRACT, ROWS, tmp_path, engine="jax")  # type: ignore[arg-type]


def test_a_changed_archive_is_refused(archived: tuple[Built, nn.Module], tmp_path: Path) -> None:
    built, _ = archived
    folder = tmp_path / built.artifact.digest
    folder.mkdir()
    for path in built.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / "model.pt2").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.pt2").write_bytes(content)
    with pytest.raises(ArtifactRejected, match=r"model\.pt2"):
        load_engine(folder, built.artifact, CONTRACT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_is_refused_where_there_is_none(archived: tuple[Built, nn.Module]) -> None:
    built, _ = archived
    with pytest.raises(UsageError, match="no CUDA device"):
        load_engine(built.folder, built.artifact, CONTRACT, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_archive_answers_alike_on_cuda(archived: tuple[Built, nn.Module]) -> None:
    built, _ = archived
    batch = Codec(CONTRACT).validate_records(ROWS)
    on_cpu = load_engine(built.folder, built.artifact, CONTRACT).run(batch)
    on_gpu = load_engine(built.folder, built.artifact, CONTRACT, device="cuda").run(batch)
    np.testing.assert_allclose(on_gpu["approve"], on_cpu["approve"], atol=1e-5)


def refused(module: nn.Module, contract: Contract, error: type[Exception], into: Path) -> str:
    with pytest.raises(error) as caught:
        build(module, contract, ROWS, into)
    return str(caught.value)


def test_modules_that_do_not_fit_say_where(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    two = Contract(inputs=CONTRACT.inputs, outputs={"a": Number(), "b": Number()})
    assert "returns {'output_0': [20, 3]}" in refused(Perceptron(3), two, UsageError, tmp_path)
    image = Contract(inputs={"picture": Tensor((3, 6, 6))}, outputs=CONTRACT.outputs)
    with pytest.raises(UsageError, match="forward returns"):
        build(Picture(), image, np.zeros((2, 3, 6, 6), np.float32), tmp_path)
    words = Contract(inputs={"word": Text()}, outputs=CONTRACT.outputs)
    with pytest.raises(UsageError, match="cannot take the texts word"):
        build(Perceptron(), words, [{"word": "a"}], tmp_path)
    message = refused(BakesTheBatch(), CONTRACT, ArtifactRejected, tmp_path)
    assert "alone and among 20 rows" in message
    message = refused(Branches(), CONTRACT, Unsupported, tmp_path)
    assert "neither to ONNX" in message
    assert "register a Python class" in message
    assert "give a sample" in _without_sample(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


def _without_sample(into: Path) -> str:
    with pytest.raises(UsageError) as caught:
        build(Perceptron(), CONTRACT, None, into)
    return caught.value.message


def test_outputs_can_be_chosen_by_column(tmp_path: Path) -> None:
    module: Any = Perceptron(3)
    built = build(module, CONTRACT, ROWS, tmp_path, outputs={"approve": ("output_0", 2)})
    batch = Codec(CONTRACT).validate_records(ROWS)
    found = load_engine(built.folder, built.artifact, CONTRACT).run(batch)["approve"]
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(batch.matrix()))[:, 2]
    np.testing.assert_allclose(found, expected, atol=1e-6)
