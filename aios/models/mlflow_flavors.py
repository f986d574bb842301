"""From the folder of an MLflow model to something that `build` takes, without running it.

ONNX is taken as a file. A scikit-learn model in the skops format is rebuilt from the types
that skops itself holds for safe; the list of trusted types inside the model's own MLmodel
file is not used, for whoever wrote the model wrote that list. A `torch.export` archive is
taken after the check of `aios.models.pt2`, without its pickled sample inputs. All else is a
pickle, which is code: it is loaded only where the caller said `trust=True`.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import yaml

from aios.errors import ArtifactRejected, Unsupported, UsageError
from aios.models.pt2 import check_archive
from aios.models.safety import MAX_FILE_BYTES

_DESCRIPTION = "MLmodel"
_MAX_DESCRIPTION_BYTES = 2**20
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_GRAPH = "models/model.json"

Settings = Mapping[str, Any]


def open_flavor(folder: Path, uri: str, *, trust: bool) -> tuple[Any, dict[str, Any]]:
    """The model in this folder, and the facts `flavor`, `format` and `unpickled`.

    Args:
        folder: What was downloaded; a single-file copy of an ONNX model may be written there.
        uri: For messages.
        trust: Whether code inside the model may run in this process.

    Raises:
        UsageError: it can only be loaded by running code inside it; says what would run.
        Unsupported: none of its flavors is taken; says which are.
        ArtifactRejected: a file is missing or damaged, or a path leads out of the folder.
    """
    flavors = _describe(folder, uri)
    for name, load in _LOADERS.items():
        settings = flavors.get(name)
        if isinstance(settings, dict):
            model, kept, unpickled = load(folder, settings, uri, trust)
            return model, {"flavor": name, "format": kept, "unpickled": unpickled}
    raise Unsupported(
        f"{uri} has the flavors {', '.join(map(str, flavors)) or 'none'}; aios takes "
        f"{', '.join(_LOADERS)}: log the model as ONNX, or register a Python class by import path"
    )


def _describe(folder: Path, uri: str) -> dict[str, Any]:
    path = folder / _DESCRIPTION
    if not path.is_file() or path.stat().st_size > _MAX_DESCRIPTION_BYTES:
        raise ArtifactRejected(f"{uri} holds no readable {_DESCRIPTION} file: no MLflow model")
    try:
        described = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ArtifactRejected(f"{uri}: its {_DESCRIPTION} file is not YAML") from error
    flavors = described.get("flavors") if isinstance(described, dict) else None
    if not isinstance(flavors, dict):
        raise ArtifactRejected(f"{uri}: its {_DESCRIPTION} file names no flavors")
    return flavors


def _part(folder: Path, settings: Settings, key: str, uri: str) -> Path:
    """The file or folder that a setting names, which lies inside of the model's own folder."""
    name = settings.get(key)
    path = (folder / str(name)).resolve()
    if not isinstance(name, str) or not path.is_relative_to(folder.resolve()):
        raise ArtifactRejected(f"{uri}: {key} is {name!r:.80}, which is not in the model's folder")
    if not path.exists():
        raise ArtifactRejected(f"{uri}: the file {name!r:.80} is missing")
    return path


def _onnx(folder: Path, settings: Settings, uri: str, trust: bool) -> tuple[Any, str, bool]:
    """One `.onnx` file. MLflow by default keeps large tensors beside it: they are put in."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_model, uses_external_data

    path = _part(folder, settings, "data", uri)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ArtifactRejected(f"{uri}: {path.name} is larger than {MAX_FILE_BYTES} bytes")
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not any(map(uses_external_data, model.graph.initializer)):
            # Byte for byte, so that its digest is the one that was logged.
            return _named_onnx(path), "onnx", False
        # onnx itself refuses tensors outside of the folder, and links.
        load_external_data_for_model(model, str(path.parent))
        joined = path.with_name("joined.onnx")
        onnx.save_model(model, str(joined))
    except Exception as error:
        reason = str(error).strip().splitlines()[:1]
        raise ArtifactRejected(f"{uri}: {path.name} is not a readable ONNX model {reason}") from (
            error
        )
    return joined, "onnx", False


def _named_onnx(path: Path) -> Path:
    return path if path.suffix == ".onnx" else path.rename(path.with_name("model.onnx"))


def _sklearn(folder: Path, settings: Settings, uri: str, trust: bool) -> tuple[Any, str, bool]:
    path = _part(folder, settings, "pickled_model", uri)
    kept = str(settings.get("serialization_format") or "pickle")
    if kept == "skops":
        unknown = _unknown_types(path, uri)
        if unknown and not trust:
            raise UsageError(
                f"{uri} holds objects of {', '.join(unknown[:10])}, and making them runs code "
                "that skops does not hold for safe: give trust=True if you trust whoever logged "
                "it, or log it as ONNX"
            )
        import skops.io

        return _loaded(lambda: skops.io.load(path, trusted=unknown), uri), kept, bool(unknown)
    _need_trust(path, kept, uri, trust)
    import mlflow.sklearn

    return _loaded(lambda: mlflow.sklearn.load_model(str(folder)), uri), kept, True


def _unknown_types(path: Path, uri: str) -> list[str]:
    try:
        import skops.io
    except ImportError as error:
        raise UsageError(
            f"{uri} is in the skops format; install it with: pip install skops"
        ) from error
    try:
        return list(skops.io.get_untrusted_types(file=path))
    except Exception as error:
        raise ArtifactRejected(f"{uri}: {path.name} is not a skops file, or is damaged") from error


def _pytorch(folder: Path, settings: Settings, uri: str, trust: bool) -> tuple[Any, str, bool]:
    data = _part(folder, settings, "model_data", uri)
    archive = data / "model.pt2"
    if not archive.is_file():
        _need_trust(data / "model.pth", "pickle", uri, trust)
        import mlflow.pytorch

        module = _loaded(lambda: mlflow.pytorch.load_model(str(folder), map_location="cpu"), uri)
        return module, "pickle", True
    try:
        content = _without_pickles(archive, uri)
        check_archive(content, f"{uri}: {archive.name}")
    except ArtifactRejected as error:
        if not trust:
            raise UsageError(
                f"{error.message}; loading it may run code inside it: give trust=True if you "
                "trust whoever logged it, or log it as ONNX"
            ) from error
        return _exported(archive.read_bytes(), uri), "pt2", True
    return _exported(content, uri), "pt2", False


def _without_pickles(archive: Path, uri: str) -> bytes:
    """The archive without what torch would unpickle and the graph does not need: the sample
    inputs, and the record of which submodule made which call."""
    if archive.stat().st_size > MAX_FILE_BYTES:
        raise ArtifactRejected(f"{uri}: {archive.name} is larger than {MAX_FILE_BYTES} bytes")
    kept = io.BytesIO()
    try:
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(kept, "w") as target:
            for entry in source.infolist():
                name = entry.filename.partition("/")[2]
                content = b"" if name == _SAMPLE_INPUTS else source.read(entry)
                target.writestr(entry.filename, _root_call(content) if name == _GRAPH else content)
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactRejected(f"{uri}: {archive.name} is damaged or cut short") from error
    return kept.getvalue()


def _root_call(content: bytes) -> bytes:
    program = orjson.loads(content)
    graph = program["graph_module"]
    graph["module_call_graph"] = [e for e in graph["module_call_graph"] if e["fqn"] == ""]
    return orjson.dumps(program)


def _exported(content: bytes, uri: str) -> Any:
    import torch

    module = _loaded(lambda: torch.export.load(io.BytesIO(content)).module(), uri)
    # An exported graph is as it was when exported, and raises where a module would switch.
    module.train = lambda mode=True: module
    module.eval = lambda: module
    return module


def _need_trust(path: Path, kept: str, uri: str, trust: bool) -> None:
    if not trust:
        raise UsageError(
            f"{uri} is kept as {kept} ({path.name}), and loading it runs whatever code whoever "
            "logged it put inside, here and now, with your rights: give trust=True if you trust "
            "them, or log the model as ONNX, skops or torch.export (pt2)"
        )


def _loaded(load: Callable[[], Any], uri: str) -> Any:
    try:
        return load()
    except Exception as error:
        raise UsageError(
            f"{uri} cannot be loaded here: {type(error).__name__}: {str(error)[:300]}; it may need "
            "the packages in its requirements.txt"
        ) from error


_LOADERS: dict[str, Callable[[Path, Settings, str, bool], tuple[Any, str, bool]]] = {
    "onnx": _onnx,
    "sklearn": _sklearn,
    "pytorch": _pytorch,
}
"""In this order where a model has several."""
