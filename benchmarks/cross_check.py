"""Does the load generator hold the servers back? `wrk`, where installed, is asked too."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from aios.capacity.load import Loop, Target, run_load
from benchmarks.peers import Contestant
from benchmarks.scorer import OUTPUT
from benchmarks.workload import Workload

CONNECTIONS = 16
SECONDS = 3


def against_wrk(contestant: Contestant, workload: Workload) -> dict[str, Any] | None:
    """Requests per second of one contestant under `wrk` and under our generator, in turn.

    Returns:
        Both figures and their ratio in words, or None where `wrk` is not installed.
    """
    program = shutil.which("wrk")
    if program is None:
        return None
    theirs, ours = [], []
    for _ in range(2):
        theirs.append(
            wrk_per_s(program, contestant.target, workload.bodies[0], CONNECTIONS, SECONDS)
        )
        outcome = run_load(
            contestant.target,
            workload.bodies,
            Loop(CONNECTIONS, SECONDS),
            warm_up_s=0.2,
            expected=workload.expected,
            output=OUTPUT,
        )
        ours.append(outcome.good_per_s)
    wrk, own = sum(theirs) / 2, sum(ours) / 2
    text = (
        f"cross-check on {contestant.name} at {CONNECTIONS} connections: wrk {wrk:,.0f} req/s, "
        f"our generator {own:,.0f} ({own / wrk:.2f}x)"
    )
    return {"wrk_requests_per_s": wrk, "own_requests_per_s": own, "text": text}


def wrk_per_s(program: str, target: Target, body: bytes, connections: int, seconds: int) -> float:
    """Requests per second of one server under `wrk`, the same body again and again.

    Raises:
        RuntimeError: it got refusals, or said something else than its figures.
    """
    headers = {"Content-Type": "application/json", **target.headers}
    lines = ['wrk.method = "POST"', f"wrk.body = {json.dumps(body.decode())}"]
    lines += [f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in headers.items()]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text("\n".join(lines))
        command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
        done = subprocess.run([*command, target.url], capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout:
        raise RuntimeError(f"wrk got refusals: {done.stdout}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk said nothing that is understood: {done.stdout}")
    return float(found.group(1))
