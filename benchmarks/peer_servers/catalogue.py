"""Which peers there are: how each is installed and asked, and by how much aios shall beat it.

A goal is DESIGN section 7's; a peer without one is there for orientation. Versions are pinned, so
that two runs compare the same servers.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from aios.capacity.answers import Place
from benchmarks import peers
from benchmarks.scorer import OUTPUT, Graph

DEBIAN_PYTHON = "/usr/bin/python3.11"
WITH_MODEL = ("onnxruntime==1.32.0", "orjson==3.13.0")


@dataclass(frozen=True)
class Protocol:
    """How a record becomes a body, and where the score is in the answer.

    Attributes:
        path: of the URL.
        body: makes it of a record with the features' names; None: the record is the body.
    """

    path: str
    score_at: Place
    body: Callable[[dict[str, Any], Graph], Any] | None = None

    def bodies(self, records: tuple[bytes, ...], graph: Graph) -> tuple[bytes, ...]:
        """The bodies for these records, which are JSON."""
        if self.body is None:
            return records
        return tuple(orjson.dumps(self.body(orjson.loads(record), graph)) for record in records)


def _row(record: dict[str, Any], graph: Graph) -> list[float]:
    return [float(record[name]) for name in graph.features]


def _tensor(record: dict[str, Any], graph: Graph) -> dict[str, Any]:
    """Of the Open Inference Protocol (v2)."""
    row = _row(record, graph)
    tensor = {"name": "record", "shape": [1, len(row)], "datatype": "FP32", "data": row}
    return {"inputs": [tensor]}


RECORD = Protocol("/predict", OUTPUT)
OPEN_INFERENCE = Protocol("/v2/models/loan/infer", ("outputs", 0, "data", 0), _tensor)
INVOCATIONS = Protocol(
    "/invocations",
    ("predictions", 0),
    lambda record, graph: {"inputs": [_row(record, graph)]},
)


@dataclass(frozen=True)
class Peer:
    """One server of others.

    Attributes:
        name: as in the tables.
        module: what runs in its environment.
        packages: of its environment; none: it runs in the project's own.
        folder: of its environment, in the cache.
        at_least: how many times its requests per second aios shall answer.
        python: which interpreter its environment is made with.
    """

    name: str
    module: str
    protocol: Protocol
    packages: tuple[str, ...] = ()
    folder: str = ""
    at_least: float | None = None
    python: str = sys.executable


SERVERS = "benchmarks.peer_servers"
PEERS = (
    Peer(peers.FASTAPI, "benchmarks.peers_fastapi", RECORD, at_least=1.0),
    Peer(
        "MLServer",
        f"{SERVERS}.on_mlserver",
        OPEN_INFERENCE,
        # With a newer uvloop its pool of workers does not start.
        ("mlserver==1.7.1", "uvloop==0.21.0", *WITH_MODEL),
        "mlserver",
        at_least=1.5,
    ),
    Peer(
        "KServe",
        f"{SERVERS}.on_kserve",
        OPEN_INFERENCE,
        ("kserve==0.21.0", *WITH_MODEL),
        "kserve",
        at_least=1.5,
    ),
    Peer(
        "LitServe",
        f"{SERVERS}.on_litserve",
        RECORD,
        ("litserve==0.2.19", "pyzmq==27.3.0", *WITH_MODEL),
        "litserve",
        at_least=2.5,
    ),
    Peer(
        "BentoML",
        f"{SERVERS}.on_bentoml",
        RECORD,
        ("bentoml==1.4.39", *WITH_MODEL),
        "bentoml",
        at_least=4.0,
    ),
    Peer(
        "MLflow",
        f"{SERVERS}.on_mlflow",
        INVOCATIONS,
        ("mlflow==3.17.2", *WITH_MODEL),
        "mlflow",
    ),
    Peer(
        "Triton",
        f"{SERVERS}.on_triton",
        OPEN_INFERENCE,
        ("nvidia-pytriton==0.7.0", *WITH_MODEL),
        "triton",
        python=DEBIAN_PYTHON,
    ),
)
HAND_MADE_AT_LEAST = 20.0
"""Of the hand-made canary, which is a Ray of its own: `benchmarks.peers.hand_made`."""
