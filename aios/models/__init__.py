"""Artifacts and engines: from what a user trained to something that answers batches.

`build` takes a scikit-learn estimator, a torch module, an ONNX file or a Python class,
converts it, proves on a sample that it still answers the same, and writes a content-addressed
folder. `load_engine` verifies every byte of such a folder again and gives an `Engine`;
`load_outliers` gives what tells how unusual a record is beside the rows it was made of.

Called by: registry (at registration) and serving (at load). Invariants: an artifact's digest
covers every byte that is loaded, but for Python classes, which are trusted code and marked so;
nothing is unpickled; no runtime sees bytes that `safety` or `pt2` have not passed. Must not
know: names and versions of models, endpoints, traffic, Ray.
"""

from aios.models.artifact import verify
from aios.models.build import Built, PythonModel, build
from aios.models.engine import Engine
from aios.models.loading import device_for, load_engine, load_outliers
from aios.models.manifest import Manifest
from aios.models.mlflow_models import MlflowModel, from_mlflow, is_mlflow_uri
from aios.models.outliers import OutlierDetector, OutlierScores, scored_fields
from aios.models.synthetic import synthetic_batch

__all__ = [
    "Built",
    "Engine",
    "Manifest",
    "MlflowModel",
    "OutlierDetector",
    "OutlierScores",
    "PythonModel",
    "build",
    "device_for",
    "from_mlflow",
    "is_mlflow_uri",
    "load_engine",
    "load_outliers",
    "scored_fields",
    "synthetic_batch",
    "verify",
]
