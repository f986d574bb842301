"""The MLflow server that the user named: one client, its errors in our words, its artifacts.

What a server answers is not trusted. It may name places that artifacts lie in, and these are
followed only if they are the server's own storage, an object store that the user's own
credentials open, or, for a database or a folder on this machine, a local folder. A remote
server could else have us read a local file or call an address of its choosing (the kind of
fault that CVE-2026-2614 was in MLflow itself).
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aios.errors import (
    ArtifactRejected,
    ClusterUnavailable,
    Forbidden,
    Unauthenticated,
    UnknownModel,
    UsageError,
)
from aios.models.safety import MAX_FILE_BYTES

if TYPE_CHECKING:
    import mlflow

MAX_FILES = 1_000
MAX_MODEL_BYTES = 2 * MAX_FILE_BYTES
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_OBJECT_STORES = ("s3", "gs")
"""Their addresses name a bucket and never a host; other stores' do, and could lead anywhere."""
_UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND")
_WRONG = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS")
_PROBE_TIMEOUT_S = 5


def shown(uri: str) -> str:
    """The URI without user, password, query and fragment: for messages and for lineage.

    >>> shown("https://ann:secret@mlflow.example:8443/base?token=x")
    'https://mlflow.example:8443/base'
    """
    # Not by urlunsplit, which drops slashes: sqlite:////data/x.db would name another file.
    return re.sub(r"(?<=://)[^/]*@", "", re.split(r"[?#]", uri, maxsplit=1)[0])


def connect(tracking_uri: str | None) -> "mlflow.MlflowClient":
    """A client of the tracking server, database or folder, which answered just now.

    None takes what the user set for MLflow: `MLFLOW_TRACKING_URI`, `mlflow.set_tracking_uri`.
    Credentials and TLS settings are MLflow's own environment variables.

    Raises:
        UsageError: the extra `mlflow` is not installed, no URI is set, or it is of a kind
            that is not taken.
        ClusterUnavailable: the server does not answer.
    """
    if "mlflow" not in sys.modules:
        # An audited runtime does not report to a third party unasked, nor print into logs.
        # MLflow reads these from the environment only; what the user set there stands.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        import mlflow
    except ImportError as error:
        raise UsageError(
            "MLflow is not installed here; install it with: pip install 'aios[mlflow]'"
        ) from error
    if tracking_uri is None and not mlflow.is_tracking_uri_set():
        raise UsageError(
            "no MLflow server is named: give tracking_uri=, or set MLFLOW_TRACKING_URI"
        )
    uri = tracking_uri if tracking_uri is not None else mlflow.get_tracking_uri()
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme not in ("", "http", "https", "file", *_DATABASES) or not uri.strip():
        raise UsageError(
            f"the tracking URI {shown(uri)!r} is not taken: give http(s)://host:port, a database "
            f"({', '.join(_DATABASES)}) or a folder"
        )
    if is_remote(uri):
        _probe(uri)
    with mlflow_errors(uri):
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_remote(tracking_uri: str) -> bool:
    """Whether it names a server, rather than a database or a folder that we open ourselves."""
    return urlsplit(tracking_uri).scheme in ("http", "https")


@contextmanager
def mlflow_errors(tracking_uri: str) -> Iterator[None]:
    """MLflow's errors, and those of the libraries below it, as ours.

    Raises:
        UnknownModel: no such model, version, alias or run, or its files are not there.
        UsageError: MLflow does not take the call.
        Unauthenticated, Forbidden: it wants other credentials.
        ClusterUnavailable: it does not answer, or fails.
    """
    import requests
    from mlflow.exceptions import MlflowException

    where = f"MLflow at {shown(tracking_uri)}"
    try:
        yield
    except MlflowException as error:
        raise _translated(str(error.error_code), _brief(error.message), where) from error
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        code = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: _UNKNOWN[0]}.get(status, "")
        raise _translated(code, _brief(str(error)), where) from error
    except (OSError, ImportError) as error:
        # Object stores need packages of their own, and fail with exceptions of their own.
        raise ClusterUnavailable(f"{where}: {_brief(str(error))}") from error


def check_location(location: str, tracking_uri: str) -> None:
    """Refuse a place for artifacts that this tracking URI must not lead to.

    Raises:
        ArtifactRejected: says which place, and how to serve artifacts instead.
    """
    found = urlsplit(location)
    if found.scheme in _OBJECT_STORES:
        return
    if is_remote(tracking_uri):
        own = urlsplit(tracking_uri).netloc.rpartition("@")[2]
        if found.scheme == "mlflow-artifacts" and found.netloc in ("", own):
            return
    elif found.scheme in ("", "file") and found.netloc in ("", "localhost"):
        return
    raise ArtifactRejected(
        f"MLflow at {shown(tracking_uri)} says that the files lie at {shown(location)!r:.200}, "
        "which is not its own storage: run `mlflow server --serve-artifacts`, keep them in s3:// "
        "or gs://, or download the model yourself and register the file",
        location=shown(location)[:200],
    )


def download(location: str, tracking_uri: str, into: Path) -> Path:
    """All files that lie at `location`, in the folder `into`.

    Raises:
        UnknownModel: there are none.
        ArtifactRejected: the place must not be followed, or it holds more than `MAX_FILES` files
            or `MAX_MODEL_BYTES`.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    check_location(location, tracking_uri)
    into.mkdir(parents=True)
    with mlflow_errors(tracking_uri):
        repository = get_artifact_repository(
            location, tracking_uri=tracking_uri, registry_uri=tracking_uri
        )
        if not _measure(repository, location):
            raise UnknownModel(f"MLflow holds no files at {shown(location)!r:.200}")
        repository.download_artifacts("", dst_path=str(into))
    return into


def _probe(uri: str) -> None:
    """One quick request: MLflow's client would try again for minutes."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    credentials = get_default_host_creds(uri)
    try:
        http_request(credentials, "/health", "GET", max_retries=0, timeout=_PROBE_TIMEOUT_S)
    except MlflowException as error:
        raise ClusterUnavailable(
            f"no MLflow server answers at {shown(uri)}: is it running, and is the address right?",
            reason=_brief(error.message),
        ) from error


def _measure(repository: Any, location: str) -> int:
    """The number of files, before any of them is fetched."""
    files, size_bytes, folders = 0, 0, [""]
    while folders:
        for entry in repository.list_artifacts(folders.pop() or None):
            files += 1
            size_bytes += int(entry.file_size or 0)
            if entry.is_dir:
                folders.append(entry.path)
            if files > MAX_FILES or size_bytes > MAX_MODEL_BYTES:
                raise ArtifactRejected(
                    f"the model at {shown(location)!r:.200} is larger than {MAX_FILES} files or "
                    f"{MAX_MODEL_BYTES} bytes"
                )
    return files


def _translated(code: str, message: str, where: str) -> Exception:
    told = f"{where}: {message}"
    if code in _UNKNOWN or (code in _WRONG and "not found" in message):
        return UnknownModel(told)
    if code in _WRONG:
        return UsageError(told)
    if code == "PERMISSION_DENIED":
        return Forbidden(told)
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        return Unauthenticated(f"{told}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    return ClusterUnavailable(told)


def _brief(message: str) -> str:
    """The first line, short: MLflow wraps whole tracebacks, and repeats the URL with its user."""
    lines = message.strip().splitlines() or [""]
    words = (shown(word) if "://" in word and "@" in word else word for word in lines[0].split())
    return " ".join(words)[:300]
