"""Small made-up results of benchmarks."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from capacity_worlds import MACHINE, SimulatedEndpoint, measured

from benchmarks.results import ResultFile

HERE = {**MACHINE, "commit": "abc123", "python": "3.11.7", "versions": {"ray": "2.60.0"}}
NOON = datetime.fromisoformat("2026-11-28T12:00:00+00:00")


def result(
    folder: Path, benchmark: str, *lines: dict[str, Any], minute: int = 0, **run: Any
) -> Path:
    """A result file of `benchmark` whose run began at so many minutes past noon."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{benchmark}-{minute}.jsonl"
    at = (NOON + timedelta(minutes=minute)).isoformat()
    first = {"kind": "run", "benchmark": benchmark, "at": at, "machine": HERE, **run}
    path.write_bytes(b"\n".join(orjson.dumps(line) for line in (first, *lines)) + b"\n")
    return path


def figure(name: str, value: float, better: str = "higher", number: int = 0) -> dict[str, Any]:
    return {"kind": "figure", "name": name, "value": value, "better": better, "round": number}


def goal(text: str, middle: float, connections: int | None = None, **bounds: Any) -> dict[str, Any]:
    ratio = {"middle": middle, "least": 0.9 * middle, "most": 1.1 * middle}
    return {"kind": "goal", "text": text, "connections": connections, "ratio": ratio, **bounds}


def round_(contestant: str, requests: int, **more: Any) -> dict[str, Any]:
    fields = {
        "kind": "round",
        "contestant": contestant,
        "connections": 16,
        "group": "side by side",
        "requests": requests,
        "failed": 0,
        "window_s": 2.0,
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "p99_ms": 3.0,
        "cpu_s": {"replica": 0.4},
        "canary_fraction": 0.0,
        "client_cpu_fraction": 0.1,
        "requests_per_s": requests / 2.0,
        "cpu_s_per_1000": 400 / requests,
    }
    return {**fields, **more}


def measurement(folder: Path, benchmark: str = "latency", **changes: Any) -> Path:
    """A result of `latency` with one measurement beside it."""
    folder.mkdir(exist_ok=True)
    found = measured(SimulatedEndpoint(most=2_000), 0.06, machine=HERE, **changes)
    found.save(folder / "measured.json")
    rates = figure("most requests/s", found.full_per_s)
    return result(folder, benchmark, rates, {"kind": "measurement", "file": "measured.json"})


__all__ = ["HERE", "NOON", "ResultFile", "figure", "goal", "measurement", "result", "round_"]
