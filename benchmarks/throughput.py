"""How many records per second does one replica bear, and what does the runtime cost beside that?

    python -m benchmarks.throughput [--model mlp minilm ...] [--engine onnxruntime torch]
        [--batch 1 32] [--sequence 128] [--threads 1] [--device cpu] [--precision fp32]
        [--rates 0.5 0.8] [--connections 4] [--rounds 3] [--seconds 2]

The models are in `benchmarks.models`: what they are, and how requests for them are made. Levels:

    engine    onnxruntime or torch in a plain loop of this process, one batch after the other
              (`benchmarks.alone`); on a GPU with inputs sent there and answers fetched
    endpoint  the replica on its own port: contract, recorder, metrics and key, no HAProxy
    ingress   the same through HAProxy, as users ask

Endpoint and ingress are asked by closed loops of one connection (what a request takes) and of
`--connections` ("saturated": what it bears), and the ingress by open streams of Poisson arrivals at
shares of that (`--rates`), latency from when a request was due. Tabular models get JSON records,
the others binary tensors of the Open Inference Protocol. Each request has `--batch` records; a
replica joins requests that wait into batches of up to 256. In each round all levels are asked, in
every second one in reverse order; ratios are of the same round. CPU is that of the loop's process,
of the replica (recording and reporting too), or of replica and HAProxy, in the window. Every answer
is compared with the engine's once, before; what fails in a measured window ends the run.

With `--device cuda` the replica keeps its model on a GPU (`gpus=1`): torch as CUDA graphs over
pinned memory, onnxruntime by its CUDA provider. Combinations that do not exist are named and left
out; no GPU at all ends the run at once with exit code 2.

Caveats: the load generator shares the machine, and is told where it could not keep up. Closed loops
hide queueing. One replica. torch's threads are those of the process. The prediction log is on, but
for images.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from aios.capacity import machine
from aios.errors import UsageError
from aios.runtime.lifecycle import LocalRuntime
from benchmarks import models
from benchmarks.commands import CACHE, begin
from benchmarks.figures import Goal, Spread, goals_table
from benchmarks.levels import DEADLINE_S, LEVELS, SATURATED, Round, Served, body_of, measure
from benchmarks.results import RESULTS, ResultFile
from benchmarks.runtimes import runtime

READY_S = 600.0
MOST_SECONDS = 3600.0
NO_GPU = 2
GPU_GOAL = 0.95
SHORT = {"model": ["mlp"], "batch": [32], "rounds": 1, "seconds": 1.0, "rates": []}


@dataclass(frozen=True)
class Variant:
    """A model as it is served. `sequence` is None for models that are not of texts."""

    model: str
    engine: str
    precision: str
    sequence: int | None

    def __str__(self) -> str:
        tokens = f", {self.sequence} tokens" if self.sequence else ""
        return f"{self.model}, {self.engine} {self.precision}{tokens}"


def variants(
    wanted: argparse.Namespace,
) -> tuple[list[Variant], dict[str, str]]:
    """What is measured; and what is left out, with the reasons.

    Raises:
        UsageError: nothing is left.
    """
    found, left_out = [], {}
    for model, engine, precision in itertools.product(
        wanted.model, wanted.engine, wanted.precision
    ):
        reason = models.refusal(model, engine, precision, wanted.device)
        if reason is not None:
            left_out[f"{model}, {engine} {precision} on {wanted.device}"] = reason
            continue
        sequences = wanted.sequence if model in models.SEQUENCES else [None]
        found += [Variant(model, engine, precision, sequence) for sequence in sequences]
    if not found:
        told = "; ".join(f"{what}: {why}" for what, why in left_out.items())
        raise UsageError(f"nothing is left to measure ({told})")
    return found, left_out


def gpu_problem(
    engines: Sequence[str], *, devices: bool, torch_sees: bool, providers: Sequence[str]
) -> str | None:
    """Why nothing can be measured on a GPU; None if it can."""
    if not devices and not torch_sees:
        return "the system has no NVIDIA device"
    if "torch" in engines and not torch_sees:
        return "this torch was built without CUDA, or finds no driver"
    if "onnxruntime" in engines and "CUDAExecutionProvider" not in providers:
        return "this onnxruntime has no CUDA provider; install onnxruntime-gpu"
    return None


def _gpu_problem_here(engines: Sequence[str]) -> str | None:
    import onnxruntime
    import torch

    return gpu_problem(
        engines,
        devices=any(Path("/dev").glob("nvidia[0-9]*")),
        torch_sees=torch.cuda.is_available(),
        providers=onnxruntime.get_available_providers(),
    )


def kept(entry: Round) -> Iterator[tuple[str, dict[str, Any]]]:
    """A round as lines of a result: its kind and fields."""
    yield "level", {**asdict(entry), "p95_ms": entry.ms(0.95)}
    for text, value, better in (
        ("records/s", entry.records_per_s, "higher"),
        ("CPU ms per record", entry.cpu_ms, "lower"),
        ("p50 ms", entry.ms(0.5), "lower"),
        ("p99 ms", entry.ms(0.99), "lower"),
    ):
        if value is None:
            continue
        name = f"{entry.name}: {text}"
        yield "figure", {"name": name, "value": value, "better": better, "round": entry.number}
    if entry.level != "engine":
        told = {"name": entry.name, "rate_per_s": entry.rate_per_s, "hdr": entry.took}
        yield "histogram", told


def shares(rounds: Sequence[Round]) -> dict[tuple[str, int, str], Spread]:
    """By variant, batch and level: records/s at saturation over the engine's, round by round."""
    alone = {
        (one.variant, one.batch, one.number): one.records_per_s
        for one in rounds
        if one.level == "engine"
    }
    found: dict[tuple[str, int, str], list[float]] = {}
    for one in rounds:
        if one.load == SATURATED:
            engine = alone[(one.variant, one.batch, one.number)]
            name = (one.variant, one.batch, one.level)
            found.setdefault(name, []).append(one.records_per_s / engine)
    return {name: Spread.of(values) for name, values in found.items()}


def goals(
    found: Mapping[tuple[str, int, str], Spread], device: str, connections: int
) -> list[Goal]:
    """On a GPU the endpoint must give at least 0.95 of what the engine alone gives."""
    if device == "cpu":
        return []
    return [
        Goal(
            f"{variant}, batch {batch}: endpoint / engine, records/s", connections, ratio, GPU_GOAL
        )
        for (variant, batch, level), ratio in found.items()
        if level == "endpoint"
    ]


def table(rounds: Sequence[Round]) -> str:
    """Markdown: medians (smallest-largest) of the rounds."""
    heads = ["model", "batch", "level", "load", "records/s", "of the engine", "CPU ms/record"]
    lines = [f"| {' | '.join([*heads, 'p50 ms', 'p95 ms', 'p99 ms'])} |", "| --- " * 10 + "|"]
    ratios = shares(rounds)
    groups: dict[tuple[str, int, str, str], list[Round]] = {}
    for one in sorted(rounds, key=lambda one: LEVELS.index(one.level)):
        groups.setdefault((one.variant, one.batch, one.level, one.load), []).append(one)
    for (variant, batch, level, load), some in sorted(groups.items(), key=lambda item: item[0][:2]):
        ratio = f"{ratios[(variant, batch, level)]}" if load == SATURATED else ""
        cells = [variant, str(batch), level, load]
        cells += [str(Spread.of(one.records_per_s for one in some)), ratio]
        cpu_ms = [one.cpu_ms for one in some if one.cpu_ms is not None]
        cells.append(f"{median(cpu_ms):.3g}" if cpu_ms else "not known")
        cells += [str(Spread.of(one.ms(q) for one in some)) for q in (0.5, 0.95, 0.99)]
        lines.append(f"| {' | '.join(cells)} |")
    held = {f"{one.name}: {one.held_back}" for one in rounds if one.held_back}
    notes = [f"the load generator held back, {one}" for one in sorted(held)]
    return "\n".join(lines + (["", *notes] if notes else []))


def run(wanted: argparse.Namespace, file: ResultFile, chosen: Sequence[Variant]) -> list[Round]:
    """Serve and measure one variant after the other."""
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as folder, runtime() as rt:
        for place, variant in enumerate(chosen):
            name = f"bench-{place}"
            _say(f"{variant}: making, registering and deploying it")
            sequence = variant.sequence or models.SEQUENCE
            made = (variant.model, variant.engine, variant.precision, sequence)
            model = models.make(*made, CACHE, Path(folder))
            _deploy(rt, model, name, wanted)
            served = Served(rt, model, name, wanted.device, wanted.threads)
            asked = [served.asked(batch) for batch in wanted.batch]
            for one in asked:
                one.check(models.TOLERANCES[variant.precision])
            for number in range(wanted.rounds):
                for one in asked:
                    for entry in measure(one, str(variant), number, wanted):
                        rounds.append(entry)
                        for kind, fields in kept(entry):
                            file.add(kind, fields)
                _say(f"{variant}: round {number + 1} of {wanted.rounds}")
            rt.remove(name)
    return rounds


def _deploy(rt: LocalRuntime, model: models.Model, name: str, wanted: argparse.Namespace) -> None:
    rt.models.register(name, model.source, contract=model.contract, **model.options)
    columns = model.columns(max(wanted.batch), 0)
    body_bytes = len(body_of(model, columns)[0])
    rt.deploy(
        name,
        f"{name}:1",
        deadline_s=DEADLINE_S,
        wait_s=READY_S,
        record_fraction=model.record_fraction,
        max_body_bytes=max(16 * 2**20, 2 * body_bytes),
        threads=wanted.threads,
        gpus=1.0 if wanted.device == "cuda" else 0.0,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    several: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--model", choices=models.MODELS, default=["mlp", "gbt"], **several)
    parser.add_argument("--engine", choices=models.ENGINES, default=["onnxruntime"], **several)
    parser.add_argument("--precision", choices=models.PRECISIONS, default=["fp32"], **several)
    parser.add_argument("--batch", nargs="+", type=_count(1_024), default=[1, 32])
    parser.add_argument("--sequence", nargs="+", type=_count(512), default=[models.SEQUENCE])
    parser.add_argument("--device", choices=models.DEVICES, default="cpu")
    parser.add_argument("--threads", type=_count(256), default=1, help="of one run of the model")
    parser.add_argument("--connections", type=_count(900), default=4, help="when saturated")
    parser.add_argument("--rates", nargs="*", type=_share, default=[0.5, 0.8])
    parser.add_argument("--rounds", type=_count(1_000), default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load in a round")
    parser.add_argument("--short", action="store_true", help="one model, half a minute")
    given = sys.argv[1:] if given is None else given
    if "--short" in given:
        parser.set_defaults(**SHORT)
    wanted = parser.parse_args(given)
    if not 0 < wanted.seconds <= MOST_SECONDS:
        parser.error(f"--seconds is up to {MOST_SECONDS:g} and above 0, not {wanted.seconds:g}")
    return wanted


def _count(most: int) -> Any:
    def number(text: str) -> int:
        if not (text.isdecimal() and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"a whole number from 1 to {most}, not {text!r:.20}")
        return int(text)

    return number


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"a share of the most, such as 0.8, not {text!r:.20}")
    return share


def main(given: Sequence[str] | None = None) -> None:
    """Check what is asked for, measure, write the result, print the tables."""
    wanted = _arguments(given)
    if wanted.device == "cuda" and (problem := _gpu_problem_here(wanted.engine)):
        print(f"no GPU here: {problem}", file=sys.stderr)
        raise SystemExit(NO_GPU)
    try:
        chosen, left_out = variants(wanted)
        host = machine.describe()
        file = ResultFile(RESULTS, "throughput")
        file.run(**vars(wanted), seed=models.SEED, machine=host, left_out=left_out)
        rounds = run(wanted, file, chosen)
    except UsageError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    found = goals(shares(rounds), wanted.device, wanted.connections)
    for goal in found:
        file.add("goal", {**asdict(goal), "met": goal.met})
    print(f"\n{host['cpu']}, {host['cores']} cores, commit {host['commit']}, {wanted.device}, ")
    print(f"{wanted.threads} threads, {wanted.connections} connections when saturated\n")
    print(table(rounds))
    for what, why in left_out.items():
        print(f"left out: {what}: {why}")
    if found:
        print(f"\n{goals_table(found)}")
    print(f"\nwritten to {file.path}")


if __name__ == "__main__":
    begin(main)
