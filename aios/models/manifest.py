"""The manifest of an artifact: what its files are and how a batch flows through them.

The manifest's canonical bytes name the artifact: they hold the sha256 of every file and no
time, host or path, so the same model bytes under the same contract have the same digest
wherever and whenever they are built.
"""

import hashlib
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, ValidationError

from aios.errors import ArtifactRejected
from aios.records import EngineName, Record

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
ONNX_FILE = "model.onnx"
TORCH_FILE = "model.pt2"
OUTLIERS_FILE = "outliers.onnx"
MAX_MANIFEST_BYTES = 4 * 2**20
FILE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
"""Files lie flat in the folder, so that no name can lead out of it."""

MatrixType = Literal["float32", "float64", "int64"]
FileName = Annotated[str, Field(pattern=FILE_PATTERN)]
ColumnType = Literal["float32", "float64", "int64", "int32", "bool", "str"]


class FileEntry(Record):
    """One file of the artifact."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class MatrixInput(Record):
    """All features as one matrix [rows, len(features)], in this order."""

    kind: Literal["matrix"] = "matrix"
    name: str
    features: tuple[str, ...]
    dtype: MatrixType = "float32"


class ColumnInput(Record):
    """One field of the contract as one input of the model.

    `shape` is what follows the rows: () for [rows], (1,) for [rows, 1], the tensor's own
    shape for a tensor field.
    """

    field: str
    name: str
    dtype: ColumnType
    shape: tuple[int, ...] = ()


class ColumnsInput(Record):
    """One input of the model per field of the contract."""

    kind: Literal["columns"] = "columns"
    columns: tuple[ColumnInput, ...]


class BatchInput(Record):
    """The batch itself: Python models read what they need from it."""

    kind: Literal["batch"] = "batch"


class OutputSource(Record):
    """Where a contract's output is found in the model's: the name, and the column of a
    matrix output. `at_most` takes off what float32 rounding adds to a probability."""

    name: str
    column: int | None = None
    at_most: float | None = None


class PythonSource(Record):
    """A class by import path: trusted code that is not part of the artifact's bytes.

    `source_sha256` is the digest of the module's file at registration.
    """

    path: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    config: dict[str, Any] = Field(default_factory=dict)
    source_sha256: str | None = None


CategoryValue = bool | int | str | None


class OutlierColumn(Record):
    """How a field becomes a column of the isolation forest.

    A number goes as it is, a boolean as 0 or 1, `fill` (the median of the training rows) for
    null. A category goes as its share of the training rows, 0 for one that never came; null is
    a category too.
    """

    field: str
    fill: float = 0.0
    shares: tuple[tuple[CategoryValue, float], ...] | None = None


class OutlierEntry(Record):
    """The isolation forest of `outliers.onnx`: its columns, and the scores of the rows that it
    was made of, as quantiles from 0 to 1 in equal steps."""

    columns: tuple[OutlierColumn, ...] = Field(min_length=1)
    quantiles: tuple[float, ...] = Field(min_length=2)
    rows: int = Field(ge=1)


class Manifest(Record):
    """Everything needed to load an artifact and run a batch through it.

    `outliers` is left out of the bytes where there is none: artifacts that were made before
    there were any keep their digests.
    """

    format: Literal[1] = 1
    engine: EngineName
    files: dict[FileName, FileEntry] = Field(default_factory=dict)
    inputs: MatrixInput | ColumnsInput | BatchInput = Field(discriminator="kind")
    outputs: dict[str, OutputSource]
    python: PythonSource | None = None
    trusted_code: bool = False
    producers: dict[str, str] = Field(default_factory=dict)
    outliers: OutlierEntry | None = None

    def to_bytes(self) -> bytes:
        """The canonical bytes: JSON with sorted keys and no spaces."""
        left_out = {"outliers"} if self.outliers is None else None
        fields = self.model_dump(mode="json", exclude=left_out)
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """The size of all files together, without the manifest."""
        return sum(entry.size_bytes for entry in self.files.values())


def parse_manifest(content: bytes) -> Manifest:
    """The manifest in these bytes.

    Raises:
        ArtifactRejected: not a manifest, of another format version, or not canonical.
    """
    try:
        fields = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ArtifactRejected(f"{MANIFEST_NAME} is not JSON: {error}") from error
    found = fields.get("format") if isinstance(fields, dict) else None
    if found != FORMAT_VERSION:
        raise ArtifactRejected(
            f"{MANIFEST_NAME} has format {found!r}; this aios reads format {FORMAT_VERSION}"
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactRejected(f"{MANIFEST_NAME}: {where}: {first['msg']}") from error
    if manifest.to_bytes() != content:
        raise ArtifactRejected(f"{MANIFEST_NAME} is not in canonical form: it was edited by hand")
    return manifest
