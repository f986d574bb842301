"""Artifacts: visible only when whole and true, and a tar from outside harms nothing."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios.errors import ArtifactRejected, PayloadTooLarge, StoreUnavailable, UsageError
from aios.store import ArtifactStore, tar
from tests.conformance_registry import all_at_once

FILES = {"model.onnx": b"\x08\x01" * 700, "labels.json": b"[]", "empty": b""}


def manifest_of(files: dict[str, bytes]) -> bytes:
    entries = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in files.items()
    }
    return json.dumps({"engine": "onnx", "files": entries}, sort_keys=True).encode()


def sealed(files: dict[str, bytes]) -> tuple[dict[str, bytes], str]:
    """The files with their manifest, and the digest."""
    manifest = manifest_of(files)
    return {**files, "manifest.json": manifest}, hashlib.sha256(manifest).hexdigest()


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    if request.param == "folder":
        yield ArtifactStore(str(tmp_path / "store"), tmp_path / "cache")
        return
    root = f"/{uuid4().hex}"
    yield ArtifactStore(f"memory:/{root}", tmp_path / "cache")
    memory = fsspec.filesystem("memory")
    if memory.exists(root):
        memory.rm(root, recursive=True)


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"), tmp_path / "cache")


def test_what_was_put_can_be_fetched(store: ArtifactStore, tmp_path: Path):
    files, digest = sealed(FILES)
    assert not store.exists(digest)
    store.put(folder_of(tmp_path / "made", files), digest)
    store.put(tmp_path / "made", digest)
    assert store.exists(digest)
    assert read(store.fetch(digest)) == files
    assert read(store.fetch(digest)) == files


def test_a_local_store_hands_out_its_own_folder(local: ArtifactStore, tmp_path: Path):
    files, digest = sealed(FILES)
    local.put(folder_of(tmp_path / "made", files), digest)
    assert local.fetch(digest) == tmp_path / "store" / digest
    assert not (tmp_path / "cache").exists()
    assert ArtifactStore(f"file://{tmp_path}/store", tmp_path / "c").exists(digest)


def test_a_model_without_files_is_an_artifact_too(store: ArtifactStore, tmp_path: Path):
    files, digest = sealed({})
    store.put(folder_of(tmp_path / "made", files), digest)
    assert read(store.fetch(digest)) == files


def test_an_artifact_travels_as_a_tar(store: ArtifactStore, tmp_path: Path):
    files, digest = sealed(FILES)
    store.put(folder_of(tmp_path / "made", files), digest)
    packed = store.read_tar(digest)
    assert packed == store.read_tar(digest)
    other = ArtifactStore(str(tmp_path / "other"), tmp_path / "other-cache")
    other.write_tar(packed, digest)
    other.write_tar(packed, digest)
    assert read(other.fetch(digest)) == files
    assert [path.name for path in (tmp_path / "other").iterdir()] == [digest]


def test_what_is_missing_or_no_digest_is_rejected(store: ArtifactStore, tmp_path: Path):
    with pytest.raises(ArtifactRejected, match="register the model again"):
        store.fetch("0" * 64)
    for digest in ("../../etc", "", "A" * 64, "0" * 63, "0" * 64 + "\n"):
        for act in (store.fetch, store.exists, store.read_tar):
            with pytest.raises(ArtifactRejected):
                act(digest)
        with pytest.raises(ArtifactRejected):
            store.put(tmp_path, digest)


def change_a_file(files: dict[str, bytes]) -> None:
    files["model.onnx"] = files["model.onnx"][:-1] + b"\x00"


def remove_a_file(files: dict[str, bytes]) -> None:
    del files["labels.json"]


def add_a_file(files: dict[str, bytes]) -> None:
    files["extra.pkl"] = b"x"


def change_the_manifest(files: dict[str, bytes]) -> None:
    files["manifest.json"] += b" "


def remove_the_manifest(files: dict[str, bytes]) -> None:
    del files["manifest.json"]


@pytest.mark.parametrize(
    "damage",
    [change_a_file, remove_a_file, add_a_file, change_the_manifest, remove_the_manifest],
)
def test_what_is_not_what_its_digest_says_never_becomes_visible(
    store: ArtifactStore, tmp_path: Path, damage: Callable[[dict[str, bytes]], None]
):
    files, digest = sealed(FILES)
    damage(files)
    with pytest.raises(ArtifactRejected):
        store.put(folder_of(tmp_path / "made", files), digest)
    with pytest.raises(ArtifactRejected):
        store.write_tar(tar.pack(files), digest)
    assert not store.exists(digest)
    for parent in (tmp_path / "store", tmp_path / "cache"):
        assert not parent.exists() or list(parent.iterdir()) == []


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{}",
        b'{"files": []}',
        b'{"files": {"a": {}}}',
        b'{"files": {"a": 1}}',
        b'{"files": {"../a": {"sha256": "x"}}}',
        b'{"files": {"manifest.json": {"sha256": "x"}}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_manifest_that_makes_no_sense_is_rejected(local: ArtifactStore, manifest: bytes):
    packed = tar.pack({"manifest.json": manifest})
    with pytest.raises(ArtifactRejected):
        local.write_tar(packed, hashlib.sha256(manifest).hexdigest())


def test_a_link_is_no_file_of_an_artifact(local: ArtifactStore, tmp_path: Path):
    files, digest = sealed(FILES)
    folder = folder_of(tmp_path / "made", files)
    (folder / "labels.json").unlink()
    (tmp_path / "outside").write_bytes(b"[]")
    (folder / "labels.json").symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactRejected, match=r"labels\.json"):
        local.put(folder, digest)


def test_an_artifact_damaged_in_the_store_is_replaced_by_a_sound_one(
    local: ArtifactStore, tmp_path: Path
):
    files, digest = sealed(FILES)
    made = folder_of(tmp_path / "made", files)
    local.put(made, digest)
    (local.fetch(digest) / "model.onnx").write_bytes(b"evil")
    with pytest.raises(ArtifactRejected):
        local.read_tar(digest)
    local.put(made, digest)
    assert read(local.fetch(digest)) == files
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_a_damaged_copy_of_a_remote_artifact_is_fetched_again(tmp_path: Path):
    files, digest = sealed(FILES)
    remote = ArtifactStore(f"memory://{uuid4().hex}", tmp_path / "cache")
    remote.put(folder_of(tmp_path / "made", files), digest)
    (remote.fetch(digest) / "model.onnx").write_bytes(b"evil")
    assert read(remote.fetch(digest)) == files


def test_a_remote_artifact_without_its_manifest_is_not_there_yet(tmp_path: Path):
    files, digest = sealed(FILES)
    root = uuid4().hex
    remote = ArtifactStore(f"memory://{root}", tmp_path / "cache")
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/{root}/{digest}/model.onnx", b"half")
    assert not remote.exists(digest)
    remote.put(folder_of(tmp_path / "made", files), digest)
    assert read(remote.fetch(digest)) == files
    memory.rm(f"/{root}/{digest}/model.onnx")
    with pytest.raises(ArtifactRejected, match="missing"):
        ArtifactStore(f"memory://{root}", tmp_path / "cache2").fetch(digest)


def test_the_same_artifact_may_be_put_by_many_at_once(local: ArtifactStore, tmp_path: Path):
    files, digest = sealed(FILES)
    made = folder_of(tmp_path / "made", files)
    assert all_at_once(8, lambda _index: local.put(made, digest)) == [None] * 8
    assert read(local.fetch(digest)) == files
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_sizes_are_limited(tmp_path: Path):
    files, digest = sealed(FILES)
    small = ArtifactStore(str(tmp_path / "small"), tmp_path / "cache", max_bytes=1000)
    with pytest.raises(PayloadTooLarge):
        small.write_tar(tar.pack(files), digest)
    small.put(folder_of(tmp_path / "made", files), digest)
    with pytest.raises(PayloadTooLarge):
        small.read_tar(digest)


def test_a_store_that_cannot_be_used_says_so(tmp_path: Path):
    files, digest = sealed(FILES)
    (tmp_path / "file").touch()
    blocked = ArtifactStore(str(tmp_path / "file" / "store"), tmp_path / "cache")
    with pytest.raises(StoreUnavailable):
        blocked.put(folder_of(tmp_path / "made", files), digest)
    with pytest.raises(UsageError):
        ArtifactStore("nosuchprotocol://x", tmp_path)


def member(name: str, **fields: object) -> bytes:
    """A tar with one member of that name, made by the standard library, as others make them."""
    target = io.BytesIO()
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"x" * info.size))
    return target.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        member("../evil", size=1),
        member("/etc/evil", size=1),
        member("folder/evil", size=1),
        member("..", size=1),
        member(".hidden", size=1),
        member("", size=1),
        member("a\nb", size=1),
        member("x" * 200, size=1),
        member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("link", type=tarfile.LNKTYPE, linkname="manifest.json"),
        member("folder", type=tarfile.DIRTYPE),
        member("device", type=tarfile.CHRTYPE),
        member("pipe", type=tarfile.FIFOTYPE),
        member("sparse", type=tarfile.GNUTYPE_SPARSE),
        member("global", type=tarfile.XGLTYPE),
        member("a", size=1)[:-10240] + b"after the end",
        gzip.compress(member("a", size=1), mtime=0),
        tar.pack({"a": b"x" * 600})[:1000],
        member("a", size=1)[:1024] * 2,
        b"",
        b"\0" * 1024,
        b"x" * 512,
        b"PK\x03\x04" + b"\0" * 600,
    ],
)
def test_anything_but_a_plain_tar_of_flat_files_is_rejected(content: bytes):
    with pytest.raises(ArtifactRejected):
        tar.unpack(content)


def test_a_negative_size_is_rejected_and_not_followed():
    header = bytearray(member("a", size=0)[:512])
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    with pytest.raises(ArtifactRejected):
        tar.unpack(bytes(header) * 3)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", fullmatch=True),
        st.binary(max_size=1200),
        min_size=1,
        max_size=4,
    )
)
def test_any_files_survive_packing(files: dict[str, bytes]):
    packed = tar.pack(files)
    assert tar.unpack(packed) == files
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == sorted(files)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(at=st.integers(0, 6000), change=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_tar_is_rejected_or_means_the_same(
    local: ArtifactStore, at: int, change: int, cut: bool
):
    files, digest = sealed(FILES)
    content = bytearray(tar.pack(files))
    at %= len(content)
    if cut:
        del content[at:]
    else:
        content[at] ^= change
    try:
        local.write_tar(bytes(content), digest)
    except ArtifactRejected:
        return
    assert read(local.fetch(digest)) == files
