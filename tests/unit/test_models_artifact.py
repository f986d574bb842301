"""Artifacts on disk: what is written, and that nothing changed is ever loaded."""

import hashlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from onnx_graphs import FEATURES, model_of, sample_rows, score_contract, score_model, write_model

from aios.contracts import Contract, Number
from aios.errors import ArtifactRejected, UsageError
from aios.models import Built, build, load_engine, verify
from aios.models.artifact import read_verified
from aios.models.manifest import Manifest, parse_manifest
from aios.records import Artifact


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("models")
    return build(write_model(folder), score_contract(), sample_rows(), folder / "artifacts")


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.folder, tmp_path / built.artifact.digest))


def refusal(folder: Path, digest: str) -> str:
    with pytest.raises(ArtifactRejected) as caught:
        verify(folder, digest)
    return caught.value.message


def test_the_digest_names_the_folder_and_covers_the_file(built: Built) -> None:
    content = (built.folder / "manifest.json").read_bytes()
    assert built.folder.name == built.artifact.digest == hashlib.sha256(content).hexdigest()
    manifest = verify(built.folder, built.artifact.digest)
    model = (built.folder / "model.onnx").read_bytes()
    assert manifest.files["model.onnx"].sha256 == hashlib.sha256(model).hexdigest()
    assert manifest.size_bytes == built.artifact.size_bytes == len(model)
    assert manifest.inputs.kind == "matrix"
    assert manifest.inputs.features == FEATURES


def test_the_same_bytes_have_the_same_digest_anywhere_and_twice(
    built: Built, tmp_path: Path
) -> None:
    path = write_model(tmp_path)
    first = build(path, score_contract(), sample_rows(), tmp_path / "a")
    again = build(path, score_contract(), None, tmp_path / "a")
    assert first.artifact == again.artifact == built.artifact
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == [built.artifact.digest]


def test_building_over_a_damaged_folder_is_refused(built: Built, tmp_path: Path) -> None:
    target = tmp_path / built.artifact.digest
    shutil.copytree(built.folder, target)
    (target / "model.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactRejected, match=r"model\.onnx"):
        build(write_model(tmp_path), score_contract(), sample_rows(), tmp_path)


def test_each_kind_of_tampering_is_named(built: Built, copy: Path) -> None:
    digest = built.artifact.digest
    model, manifest = copy / "model.onnx", copy / "manifest.json"
    original, text = model.read_bytes(), manifest.read_bytes()

    assert "has the digest" in refusal(copy, "0" * 64)
    model.write_bytes(original[:-1] + b"?")
    assert "'model.onnx' was changed" in refusal(copy, digest)
    model.write_bytes(original + b"?")
    assert "does not have" in refusal(copy, digest)
    model.unlink()
    assert "'model.onnx' is missing" in refusal(copy, digest)
    model.symlink_to(built.folder / "model.onnx")
    assert "'model.onnx' is a link" in refusal(copy, digest)
    model.unlink()
    model.write_bytes(original)
    (copy / "extra.so").write_bytes(b"")
    assert "'extra.so' is not in the manifest" in refusal(copy, digest)
    (copy / "extra.so").unlink()
    (copy / "folder").mkdir()
    assert "'folder' is a link, folder or device" in refusal(copy, digest)
    (copy / "folder").rmdir()
    os.mkfifo(copy / "pipe")
    assert "'pipe' is a link, folder or device" in refusal(copy, digest)
    (copy / "pipe").unlink()
    manifest.write_bytes(text + b" ")
    assert "has the digest" in refusal(copy, digest)
    manifest.unlink()
    assert "manifest.json is missing" in refusal(copy, digest)
    shutil.rmtree(copy)
    assert "there is no such folder" in refusal(copy, digest)
    copy.symlink_to(built.folder)
    assert "there is no such folder" in refusal(copy, digest)


def test_what_is_loaded_is_what_was_verified(built: Built, copy: Path) -> None:
    manifest = verify(copy, built.artifact.digest)
    (copy / "model.onnx").write_bytes(b"x" * built.artifact.size_bytes)
    with pytest.raises(ArtifactRejected, match="was changed"):
        read_verified(copy, manifest, "model.onnx")
    with pytest.raises(ArtifactRejected, match="names no file"):
        read_verified(copy, manifest, "../model.onnx")


def mutations(canary: Path) -> list[Callable[[Path, random.Random], None]]:
    def flip(folder: Path, chance: random.Random) -> None:
        path = folder / chance.choice(["model.onnx", "manifest.json"])
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)

    def cut(folder: Path, chance: random.Random) -> None:
        path = folder / chance.choice(["model.onnx", "manifest.json"])
        content = path.read_bytes()
        path.write_bytes(content[: chance.randrange(len(content))])

    def add(folder: Path, chance: random.Random) -> None:
        name = chance.choice(
            ["model.pt2", "a.pkl", ".hidden", "model.onnx.data", "sitecustomize.py"]
        )
        (folder / name).write_text(f"open({str(canary)!r}, 'w')")

    def become_python(folder: Path, chance: random.Random) -> None:
        fields = orjson.loads((folder / "manifest.json").read_bytes())
        fields |= {"engine": "python", "inputs": {"kind": "batch"}, "trusted_code": True}
        path = chance.choice(["os:system", "evil_models:Evil", "subprocess:Popen"])
        fields["python"] = {"path": path, "config": {}, "source_sha256": None}
        (folder / "manifest.json").write_bytes(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))

    def link(folder: Path, chance: random.Random) -> None:
        path = folder / chance.choice(["model.onnx", "manifest.json"])
        path.rename(folder.parent / path.name)
        path.symlink_to(folder.parent / path.name)

    def remap(folder: Path, chance: random.Random) -> None:
        fields = orjson.loads((folder / "manifest.json").read_bytes())
        chance.shuffle(fields["inputs"]["features"])
        fields["outputs"]["score"]["at_most"] = chance.random()
        (folder / "manifest.json").write_bytes(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))

    return [flip, cut, add, become_python, link, remap]


def test_every_mutant_of_an_artifact_is_refused_and_runs_no_code(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "evil_models.py").write_text(f"open({str(canary)!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(modules))
    chance = random.Random(11)
    for number in range(300):
        folder = tmp_path / f"m{number}" / built.artifact.digest
        shutil.copytree(built.folder, folder)
        mutate = chance.choice(mutations(canary))
        mutate(folder, chance)
        with pytest.raises(ArtifactRejected):
            load_engine(folder, built.artifact, score_contract())
    assert not canary.exists()


def forged(folder: Path, content: bytes, manifest: Manifest) -> tuple[Path, Artifact]:
    """An artifact with a digest of its own, as someone with access to the store makes it."""
    entry = manifest.files["model.onnx"].model_copy(
        update={"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    )
    changed = manifest.model_copy(update={"files": {"model.onnx": entry}})
    target = folder / changed.digest
    target.mkdir()
    (target / "model.onnx").write_bytes(content)
    (target / "manifest.json").write_bytes(changed.to_bytes())
    return target, Artifact(digest=changed.digest, engine="onnx", size_bytes=len(content))


def test_a_right_digest_does_not_make_an_unsafe_file_safe(built: Built, tmp_path: Path) -> None:
    from onnx import helper

    manifest = verify(built.folder, built.artifact.digest)
    node = helper.make_node("Run", ["x"], ["score"], domain="com.evil")
    outside = score_model()
    outside.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    for content in (
        model_of([node], [], domains=("", "com.evil")).SerializeToString(),
        outside.SerializeToString(),
        b"\x80\x04.",
    ):
        folder, artifact = forged(tmp_path, content, manifest)
        with pytest.raises(ArtifactRejected, match=r"model\.onnx"):
            load_engine(folder, artifact, score_contract())


def test_a_contract_of_other_fields_is_refused_at_load(built: Built) -> None:
    inputs = {**score_contract().inputs}
    del inputs["age"]
    less = Contract(inputs=inputs, outputs=score_contract().outputs)
    with pytest.raises(ArtifactRejected, match="reads age"):
        load_engine(built.folder, built.artifact, less)
    more = Contract(inputs=score_contract().inputs, outputs={"score": Number(), "risk": Number()})
    with pytest.raises(ArtifactRejected, match="promises risk"):
        load_engine(built.folder, built.artifact, more)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", ""])
def test_a_device_that_does_not_exist_is_named(built: Built, device: str) -> None:
    with pytest.raises(UsageError, match="no device"):
        load_engine(built.folder, built.artifact, score_contract(), device=device)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "format None"),
        (b'{"format":2}', "format 2"),
        (b'{"format":1,"engine":"pickle"}', "engine"),
        (b'{"format":1,"surprise":1}', "manifest.json: "),
    ],
)
def test_a_manifest_that_is_none_says_why(content: bytes, message: str) -> None:
    with pytest.raises(ArtifactRejected, match=message):
        parse_manifest(content)


def test_a_manifest_cannot_name_a_file_elsewhere(built: Built) -> None:
    fields = orjson.loads((built.folder / "manifest.json").read_bytes())
    for name in ("../model.onnx", "/etc/passwd", "a/b", ".hidden", ""):
        changed = {**fields, "files": {name: fields["files"]["model.onnx"]}}
        with pytest.raises(ArtifactRejected, match="files"):
            parse_manifest(orjson.dumps(changed, option=orjson.OPT_SORT_KEYS))


def test_a_manifest_written_otherwise_is_refused(built: Built) -> None:
    content = (built.folder / "manifest.json").read_bytes()
    assert parse_manifest(content).to_bytes() == content
    with pytest.raises(ArtifactRejected, match="not in canonical form"):
        parse_manifest(orjson.dumps(orjson.loads(content), option=orjson.OPT_INDENT_2))
