"""From an artifact's folder to a warmed engine."""

from collections.abc import Callable
from pathlib import Path

from aios.contracts import Contract
from aios.errors import ArtifactRejected, UsageError
from aios.models.artifact import read_manifest, read_verified, verify
from aios.models.engine import Engine, EngineBase, misfit
from aios.models.manifest import ONNX_FILE, OUTLIERS_FILE, TORCH_FILE, Manifest
from aios.models.onnx_engine import OnnxEngine
from aios.models.outliers import OutlierDetector
from aios.models.python_engine import PythonEngine
from aios.models.safety import check_onnx
from aios.models.torch_engine import TorchEngine
from aios.records import Artifact, EngineName


def load_engine(
    folder: Path,
    artifact: Artifact,
    contract: Contract,
    *,
    device: str = "cpu",
    threads: int = 1,
    ref: str | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Engine:
    """The engine of an artifact: verified, checked, loaded, warmed and timed.

    Args:
        folder: The artifact's folder.
        artifact: What it must be; every byte is hashed again.
        contract: What it promises; its fields must be those the artifact was built for.
        device: `cpu`, `cuda` or `cuda:<index>`. Python models see only the CPU.
        threads: Threads inside one run. One by default: replicas, not threads, fill a
            machine. For torch it holds for the process, and 0 leaves it alone.
        ref: How errors call the model, such as `loan:7`; the digest's beginning otherwise.
        on_step: told `loaded` and `warmed` when it is.

    Raises:
        ArtifactRejected: a byte differs, the file is unsafe or cannot be loaded, or it does
            not fit the contract.
        UsageError: the device is not here, or the Python class cannot be imported.
        ModelFailed: the model answers no made-up record at all.
    """
    _check_device(device)
    if threads < 0:
        raise UsageError(f"threads must be 0 or more, not {threads}")
    ref = ref or f"model {artifact.digest[:12]}"
    manifest = verify(folder, artifact.digest)
    if manifest.engine != artifact.engine:
        raise ArtifactRejected(f"{ref} is for the engine {manifest.engine}, not {artifact.engine}")
    reason = misfit(manifest, contract)
    if reason:
        raise ArtifactRejected(f"{ref} does not fit its contract: {reason}")
    engine = _open(folder, manifest, contract, ref, device, threads)
    on_step("loaded")
    try:
        engine.warm()
        engine.measure()
    except BaseException:
        engine.close()
        raise
    on_step("warmed")
    return engine


def device_for(engine: EngineName, gpus: float) -> str:
    """Where a model runs in a process that was given so many GPUs, or a share of one.

    A Python class stays on the CPU as far as aios knows: it finds the GPU itself.
    """
    return "cuda" if gpus > 0 and engine != "python" else "cpu"


def load_outliers(
    folder: Path, artifact: Artifact, contract: Contract, *, ref: str | None = None
) -> OutlierDetector | None:
    """What tells how unusual a record is; None where the artifact has no such thing.

    Only its own file is read and hashed again, not the model's.

    Raises:
        ArtifactRejected: a byte differs, or the file is unsafe or cannot be loaded.
    """
    manifest = read_manifest(folder, artifact.digest)
    if manifest.outliers is None:
        return None
    content = read_verified(folder, manifest, OUTLIERS_FILE)
    ref = ref or f"model {artifact.digest[:12]}"
    return OutlierDetector(content, manifest.outliers, contract, ref=ref)


def _open(
    folder: Path, manifest: Manifest, contract: Contract, ref: str, device: str, threads: int
) -> EngineBase:
    if manifest.engine == "onnx":
        content = read_verified(folder, manifest, ONNX_FILE)
        check_onnx(content, ONNX_FILE)
        return OnnxEngine(
            content, manifest, contract, ref=ref, device=device, threads=max(threads, 1)
        )
    if manifest.engine == "torch":
        content = read_verified(folder, manifest, TORCH_FILE)
        return TorchEngine(content, manifest, contract, ref=ref, device=device, threads=threads)
    if device != "cpu":
        raise UsageError(f"{ref} is a Python model and runs on the CPU, not on {device!r}")
    return PythonEngine(folder, manifest, contract, ref=ref)


def _check_device(device: str) -> None:
    name, _, index = device.partition(":")
    if name not in ("cpu", "cuda") or (index and (name == "cpu" or not index.isdecimal())):
        raise UsageError(f'no device {device!r}; there are "cpu", "cuda" and "cuda:<index>"')
