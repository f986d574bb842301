"""A version's lineage as OpenLineage run events, which data catalogues take.

Source: OpenLineage object model 2-0-2, openlineage.io/spec/2-0-2/OpenLineage.json, and the facet
schemas that each `_schemaURL` names.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from uuid import NAMESPACE_URL, uuid5

if TYPE_CHECKING:
    from aios.runtime.lineage import Node

SPEC = "https://openlineage.io/spec"
EVENT_SCHEMA = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_ENDS = {"promoted": "COMPLETE", "finished": "COMPLETE", "failed": "FAIL", "running": None}
"""How a rollout ends as an event; every other outcome is one that somebody or a rule chose."""
_IN_URI = ":/?=&@%+,;~$!"
_MODEL_FACTS = ("digest", "size_bytes", "engine", "contract", "metrics", "by")


def run_events(nodes: "Iterable[Node]", ref: str, namespace: str) -> list[dict[str, Any]]:
    """START and, if it has ended, COMPLETE, FAIL or ABORT of the run and of each rollout."""
    by_kind: dict[str, list[Node]] = {}
    for node in nodes:
        by_kind.setdefault(node.kind, []).append(node)
    model = [_model(node, by_kind, namespace) for node in by_kind.get("version", ())]
    data = [_data(node) for node in by_kind.get("snapshot", ())]
    events = []
    for node in by_kind.get("run", ()):
        job = {
            "namespace": namespace,
            "name": f"train {ref.partition(':')[0]}",
            "facets": _recipe(node),
        }
        made = by_kind["version"][0].at_s
        run = _run(node, namespace)
        events.append(_event("START", node.at_s, run, job, data, []))
        events.append(_event("COMPLETE", made, run, job, data, model))
    for node in by_kind.get("rollout", ()):
        endpoint = {"namespace": namespace, "name": f"endpoint {node.facts['endpoint']}"}
        job = {
            "namespace": namespace,
            "name": f"roll out on {node.facts['endpoint']}",
            "facets": {"jobType": _job_type("ROLLOUT")},
        }
        run, ended = _run(node, namespace), _ENDS.get(node.facts["status"], "ABORT")
        if ended == "FAIL":
            run["facets"]["errorMessage"] = _facet(
                "1-0-0/ErrorMessageRunFacet",
                message=node.facts["reason"] or "it failed",
                programmingLanguage="python",
            )
        events.append(_event("START", node.at_s, run, job, model, []))
        if ended is not None:
            outputs = [endpoint] if ended == "COMPLETE" else []
            events.append(_event(ended, node.facts["finished_s"], run, job, model, outputs))
    return sorted(events, key=lambda event: str(event["eventTime"]))


def _event(
    kind: str,
    at_s: float | None,
    run: dict[str, Any],
    job: dict[str, Any],
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "eventType": kind,
        "eventTime": datetime.fromtimestamp(at_s or 0.0, UTC).isoformat(timespec="milliseconds"),
        "producer": _producer(),
        "schemaURL": EVENT_SCHEMA,
        "run": run,
        "job": job,
        "inputs": inputs,
        "outputs": outputs,
    }


def _run(node: "Node", namespace: str) -> dict[str, Any]:
    """The specification wants a UUID: made from the id, the same run has always the same."""
    engine = _facet(
        "1-1-0/ProcessingEngineRunFacet",
        name="aios",
        version=version("aios"),
        openlineageAdapterVersion=version("aios"),
    )
    own = {
        name: value
        for name, value in node.facts.items()
        if name not in ("recipe_text", "finished_s") and value is not None
    }
    return {
        "runId": str(uuid5(NAMESPACE_URL, f"{namespace}/{node.id}")),
        "facets": {"processing_engine": engine, f"aios_{node.kind}": _own_facet("Run", own)},
    }


def _recipe(node: "Node") -> dict[str, Any]:
    source = _facet(
        "1-0-0/SourceCodeJobFacet", language="python", sourceCode=node.facts["recipe_text"]
    )
    return {"jobType": _job_type("TRAINING"), "sourceCode": source}


def _job_type(kind: str) -> dict[str, Any]:
    return _facet("2-0-3/JobTypeJobFacet", processingType="BATCH", integration="AIOS", jobType=kind)


def _data(node: "Node") -> dict[str, Any]:
    """A snapshot as a dataset, named as the specification's naming page asks: by where it is."""
    location = str(node.facts["location"])
    parts = urlsplit(location)
    remote = bool(parts.scheme and parts.netloc)
    columns = [{"name": name, "type": dtype} for name, dtype in node.facts["columns"].items()]
    taken = f"{node.facts['digest']}"
    return {
        "namespace": f"{parts.scheme}://{parts.netloc}" if remote else "file",
        "name": (parts.path.lstrip("/") if remote else location) or "/",
        "facets": {
            "schema": _facet("1-0-0/SchemaDatasetFacet", fields=columns),
            "version": _facet("1-0-0/DatasetVersionDatasetFacet", datasetVersion=taken),
            "dataSource": _facet(
                "1-0-0/DatasourceDatasetFacet",
                name=node.facts["kind"],
                uri=quote(location, safe=_IN_URI) if remote else _file_uri(location),
            ),
        },
        "inputFacets": {
            "inputStatistics": _facet(
                "1-0-0/InputStatisticsInputDatasetFacet", rowCount=node.facts["rows"]
            )
        },
    }


def _file_uri(location: str) -> str:
    path = PurePath(location)
    # The prediction log of an endpoint is named by that endpoint alone.
    return path.as_uri() if path.is_absolute() else f"aios:{quote(location)}"


def _model(node: "Node", by_kind: "dict[str, list[Node]]", namespace: str) -> dict[str, Any]:
    """A version as a dataset: what a training run writes, and a rollout reads."""
    facts = {name: node.facts[name] for name in _MODEL_FACTS}
    for checked in by_kind.get("assessment", ()):
        facts["gates"] = {name: one["outcome"] for name, one in checked.facts["gates"].items()}
        facts["policy"] = checked.facts["policy"]
    facts["approvers"] = [
        who for one in by_kind.get("approval", ()) if one.good for who in one.facts["approvers"]
    ]
    return {
        "namespace": namespace,
        "name": f"model {node.facts['name']}",
        "facets": {
            "version": _facet(
                "1-0-0/DatasetVersionDatasetFacet", datasetVersion=str(node.facts["version"])
            ),
            "aios_model": _own_facet("Dataset", facts),
        },
    }


def _facet(schema: str, **fields: Any) -> dict[str, Any]:
    """A facet of the specification: `1-0-0/SourceCodeJobFacet` is its version and its type."""
    release, _, name = schema.partition("/")
    url = f"{SPEC}/facets/{release}/{name}.json#/$defs/{name}"
    return {"_producer": _producer(), "_schemaURL": url, **fields}


def _own_facet(of: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A facet of ours: the specification lets one have any fields, under a prefix of its own."""
    url = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/{of}Facet"
    return {"_producer": _producer(), "_schemaURL": url, **fields}


def _producer() -> str:
    return f"urn:aios:{version('aios')}"
