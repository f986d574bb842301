"""`rt.models`: register versions and look at them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aios.contracts import Contract
from aios.errors import UsageError
from aios.models import build, from_mlflow, is_mlflow_uri
from aios.records import EngineName, ModelVersion
from aios.runtime.objects import spinner
from aios.runtime.tables import ModelVersions
from aios.runtime.transport import Transport
from aios.store.artifacts import ArtifactStore


class Models:
    """The model registry of one runtime."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(
        self,
        name: str,
        model: Any,
        *,
        contract: Contract,
        sample: Any = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        lineage: Mapping[str, Any] | None = None,
        tolerance: float = 1e-4,
        tracking_uri: str | None = None,
        trust: bool = False,
        outputs: Mapping[str, Any] | None = None,
        engine: EngineName | None = None,
    ) -> ModelVersion:
        """Convert, check and store a model as the next version of `name`.

        Args:
            model: a fitted scikit-learn estimator or pipeline, a torch module, the path of an
                `.onnx` file, `aios.PythonModel("module:Class", config)`: trusted code, or a model
                in MLflow: `models:/loan@champion`, `models:/loan/3`, `runs:/<id>/model`.
            contract: what goes in and out.
            sample: records or a DataFrame on which the converted model must answer as the
                original does. With 100 rows or more, give rows that it was trained on: requests
                can then be told how unusual they are beside these (`predict(outlier=True)`).
            metrics: what you measured, shown with the version.
            tags, lineage: kept with the version; lineage says where it came from. A model from
                MLflow adds its facts as `mlflow`.
            tolerance: largest difference allowed on the sample, absolute plus relative.
            tracking_uri: where MLflow is; None takes `MLFLOW_TRACKING_URI`.
            outputs: contract output -> model output, or (model output, column), where names do
                not say it. A classifier of scikit-learn has `label`, `probabilities` and
                `confidence`, the probability of the label.
            engine: what a torch module becomes: an "onnx" graph, or a "torch" archive; None takes
                ONNX where that can say it.
            trust: let code inside a model from MLflow run: pickles are refused without it.

        Raises:
            ArtifactRejected: the converted model answers differently; names the worst row.
            Unsupported: this kind of model cannot be taken; says which can.
            ContractViolation: the sample does not fit the contract.
        """
        if not isinstance(contract, Contract):
            raise UsageError(
                f"contract is {contract!r:.60}; give aios.Contract(inputs=..., outputs=...)"
            )
        with (
            tempfile.TemporaryDirectory(prefix="aios-build-") as folder,
            spinner(f"registering {name}"),
        ):
            if is_mlflow_uri(model):
                fetched = from_mlflow(model, Path(folder), tracking_uri=tracking_uri, trust=trust)
                model, lineage = fetched.model, {**(lineage or {}), "mlflow": fetched.facts}
            built = build(
                model,
                contract,
                sample,
                Path(folder),
                tolerance=tolerance,
                outputs=outputs,
                background=sample,
                engine=engine,
            )
            digest = built.artifact.digest
            content = ArtifactStore(folder, Path(folder)).read_tar(digest)
            self._transport.change("PUT", f"/api/v1/artifacts/{digest}", content=content)
        body = {
            "artifact": built.artifact.model_dump(mode="json"),
            "contract": contract.to_json(),
            "metrics": {key: float(value) for key, value in (metrics or {}).items()},
            "tags": dict(tags or {}),
            "lineage": dict(lineage or {}),
            "conversion": built.conversion,
        }
        found = self._transport.change("POST", f"/api/v1/models/{name}/versions", body)
        return ModelVersion.model_validate(found)

    def list(self, name: str | None = None) -> ModelVersions:
        """All versions, oldest first, of one model or of all."""
        found = self._transport.get("/api/v1/models", name=name)
        return ModelVersions([ModelVersion.model_validate(fields) for fields in found])

    def get(self, ref: str) -> ModelVersion:
        """The version that `loan:7`, `loan@stable` or `loan` (the newest) names.

        Raises:
            UnknownModel: there is none; says what there is.
        """
        return ModelVersion.model_validate(self._transport.get(f"/api/v1/models/{ref}"))
