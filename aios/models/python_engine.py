"""The python engine: a class by import path. Trusted code: it runs with all rights of the
process, it is not part of the artifact's bytes, and the manifest marks it so."""

import hashlib
import importlib
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aios.contracts import Batch, Contract
from aios.errors import ArtifactRejected, ModelFailed, UsageError
from aios.models.engine import Array, EngineBase
from aios.models.manifest import Manifest, PythonSource

_log = logging.getLogger("aios.models")


class PythonEngine(EngineBase):
    """Runs `predict(batch) -> {output: [rows]}` of an instance of the class."""

    def __init__(self, folder: Path, manifest: Manifest, contract: Contract, *, ref: str) -> None:
        super().__init__(contract, ref=ref, device="cpu")
        source = manifest.python
        if source is None:
            raise ArtifactRejected(f"{ref}: the manifest names no Python class; register it again")
        self._names = list(contract.outputs)
        self._model = _make(source, folder, ref)

    def run(self, batch: Batch) -> dict[str, Array]:
        try:
            answer = self._model.predict(batch)
        except Exception as error:
            raise self._failed(error, batch.rows) from error
        if not isinstance(answer, Mapping):
            raise self._bad_output(
                f"returned {type(answer).__name__} from predict, not a dict of arrays"
            )
        found: dict[str, Array] = {}
        for name in self._names:
            if name not in answer:
                raise self._bad_output(f"did not return the output {name!r}")
            value = np.asarray(answer[name])
            if value.shape[:1] != (batch.rows,):
                raise self._bad_output(
                    f"returned {name!r} of shape {value.shape} for {batch.rows} rows"
                )
            found[name] = value
        return found

    def close(self) -> None:
        model = self.__dict__.pop("_model")
        if callable(getattr(model, "close", None)):
            model.close()


def import_class(path: str) -> type[Any]:
    """The class that `module:Class` names.

    Raises:
        UsageError: there is no such module or class, or the class has no `predict`.
    """
    module_name, _, class_name = path.partition(":")
    if module_name == "__main__":
        raise UsageError(
            f"{path} lives in the running script, which replicas cannot import: move it to a module"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"cannot import {module_name!r} of {path!r}: {error}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise UsageError(f"module {module_name!r} has no class {class_name!r}")
    if not callable(getattr(found, "predict", None)):
        raise UsageError(f"{path} has no method predict(batch) -> dict of arrays")
    return found


def source_digest(found: type[Any]) -> str | None:
    """sha256 of the file that defines the class; None where there is no file."""
    try:
        path = inspect.getsourcefile(found)
    except TypeError:
        return None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else None


def takes_config(found: type[Any]) -> bool:
    """Whether the class's constructor has a parameter called `config`."""
    return "config" in inspect.signature(found).parameters


def _make(source: PythonSource, folder: Path, ref: str) -> Any:
    found = import_class(source.path)
    if source.source_sha256 != source_digest(found):
        _log.warning(
            "%s: the source of %s changed since it was registered; register it as a new version",
            ref,
            source.path,
        )
    try:
        model = found(config=dict(source.config)) if takes_config(found) else found()
        if callable(getattr(model, "load", None)):
            model.load(folder)
    except Exception as error:
        raise ModelFailed(
            f"{ref} ({source.path}) raised {type(error).__name__} while loading",
            ref=ref,
            error=type(error).__name__,
        ) from error
    return model
