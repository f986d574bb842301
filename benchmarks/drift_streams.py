"""How soon is real drift seen, and how often is there an alarm without any?

The stream is the electricity market of New South Wales: 45,312 half hours, six inputs, and whether
the price goes up. A logistic regression is fitted on 3,000 rows; then rows come one at a time, each
with its label at once. Replays differ by the order of the rows, which is drawn anew:

* `nothing`: all from the time after 2 May 1997, in random order. Every alarm is false.
* `market`: from before 2 May 1997 (row 17,424), each in random order, and from after it. On that
  day the market of Victoria was joined, and three of the inputs began to vary. Really happened.
* `season`: from the middle of the data (rows 17,424 to 31,000), then from its end. A real change,
  and a slow one, made sudden.
* `flip 20 %`, `flip 40 %`: as `nothing`, but after the change so many of the labels, drawn at
  random, are turned round: concept drift that no input shows.
* `apart`: as `nothing`, but after the change each input is that of another row: no input alone is
  distributed otherwise, and they no longer go together.

`in order` is the stream as it was, told for comparison: its rows depend on each other and nobody
knows when it drifted, so nothing there is called false.

aios is judged as the kernel's watch does: windows of 336 rows (a week), labels each 100, of which
`error drift` reads the newest 5,000 again; a third of the error probability, 0.05, for each
condition and all its looks. `domain_auc` compares with 2,000 of the reference's rows. `accuracy`
is bad below what the model had on the next 3,000 rows of its own time, less 0.05. An alarm of aios
is a condition's first "holds". river's detectors are asked after each row, with their defaults:
ADWIN, DDM and Page-Hinkley on the model's errors (an alarm is `drift_detected` in any direction),
KSWIN on the model's output, and ADWIN on each input ("any").

Delay is in rows from the change to the first alarm at or after it, its median over the replays
that had one; an alarm before the change, or in `nothing`, is false. A replay that had a false
alarm counts for that alone. Rows in random order are independent, as the bounds assume; `in order`
they are not.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aios.kernel.watcher import STREAM_LABELS
from aios.monitoring.conditions import parse_condition
from aios.monitoring.judging import Seen, judge_windows
from aios.monitoring.labelled import Labelled, judge_feedback
from aios.monitoring.multivariate import Rows, compare_rows, judge_rows
from aios.records.watching import Condition
from aios.telemetry import Summary
from aios.training.reference import REFERENCE_ROWS
from apps import supplies

Numbers = NDArray[np.float64]
JOINED, MIDDLE = 17_424, 31_000
FITTED, CHECKED = 3_000, 3_000
BEFORE, AFTER = 4_000, 4_000
"""Rows of a replay before the change and after it."""
WINDOW_ROWS, LABELS = 336, 100
ALPHA = 0.05
CONDITIONS = 3
REPLAYS = {
    "nothing": 100,
    "market": 20,
    "season": 20,
    "flip 20 %": 20,
    "flip 40 %": 20,
    "apart": 20,
}
BY_ROWS = "aios: domain_auc > 0.65 for 2 windows"
SLOW = ("KSWIN on the output", BY_ROWS)
SLOW_REPLAYS = 5
"""KSWIN takes a quarter of a millisecond a row, fitted classifiers half of one; they see fewer
replays."""


@dataclass(frozen=True)
class Stream:
    """Rows in the order in which they come, after the model was fitted.

    Attributes:
        reference: shape [n, 6], the inputs that the model was fitted on.
        reference_outputs: shape [n], its answers to rows it was not fitted on.
        inputs, outputs, labels: shape [m, 6], [m] and [m].
        accuracy: of the model on rows of its own time.
        change: the row from which on the stream is another; None if it never is.
    """

    reference: Numbers
    reference_outputs: Numbers
    inputs: Numbers
    outputs: Numbers
    labels: Numbers
    accuracy: float
    change: int | None

    @property
    def errors(self) -> NDArray[np.int64]:
        """1 where the model was wrong."""
        return ((self.outputs >= 0.5) != (self.labels >= 0.5)).astype(np.int64)


Detect = Callable[[Stream], "Iterator[int]"]
"""Yields the numbers of the rows after which there was an alarm, ascending."""


def measured(cache: Path, rows: int) -> tuple[dict[str, Any], str]:
    """All replays under all detectors, and their table."""
    del rows
    frame = supplies.read(supplies.ELECTRICITY, cache)
    names = [name for name in frame if name != "target"]
    inputs, labels = frame[names].to_numpy(np.float64), frame["target"].to_numpy(np.float64)
    found: dict[str, dict[str, list[tuple[str, int | None]]]] = {}
    spent_s = dict.fromkeys(DETECTORS, 0.0)
    wrong: dict[str, list[list[float]]] = {}
    for scenario, count in REPLAYS.items():
        random = np.random.default_rng(7)
        for number in range(count):
            stream = replay(scenario, inputs, labels, random)
            errors = np.split(stream.errors, [BEFORE])
            wrong.setdefault(scenario, []).append([float(part.mean()) for part in errors])
            for name, detect in DETECTORS.items():
                if name in SLOW and number >= SLOW_REPLAYS:
                    continue
                begun_s = time.process_time()
                verdict = judged(next(detect(stream), None), stream.change)
                spent_s[name] += time.process_time() - begun_s
                found.setdefault(name, {}).setdefault(scenario, []).append(verdict)
    real = in_order(inputs, labels)
    alarms = {}
    for name, detect in DETECTORS.items():
        if name not in SLOW:
            alarms[name] = list(detect(real))
    means = {scenario: np.mean(each, axis=0).tolist() for scenario, each in wrong.items()}
    lines = [table(found, means), "", "in order, from row 6,000: first alarm at row, alarms"]
    for name, at in alarms.items():
        first = f"{at[0] + FITTED + CHECKED:,}" if at else "none"
        lines.append(f"  {name}: {first}, {len(at):,}")
    return {
        "replays": found,
        "wrong": means,
        "in_order": {name: at[:1000] for name, at in alarms.items()},
        "cpu_s": spent_s,
    }, "\n".join(lines)


# -- streams --------------------------------------------------------------------------


def replay(scenario: str, inputs: Numbers, labels: Numbers, random: np.random.Generator) -> Stream:
    """One replay: a model fitted on rows from before the change, and 8,000 rows after that."""
    early = np.arange(JOINED)
    middle, late = np.arange(JOINED, MIDDLE), np.arange(MIDDLE, len(labels))
    pools = {"market": (early, late), "season": (middle, late)}
    first = FITTED + CHECKED + BEFORE
    if scenario in pools:
        before, after = (random.permutation(pool) for pool in pools[scenario])
        rows = np.concatenate([before[:first], after[:AFTER]])
    else:
        rows = random.permutation(np.concatenate([middle, late]))[: first + AFTER]
    turned = labels[rows].copy()
    if scenario.startswith("flip"):
        share = float(scenario.split()[1]) / 100
        where = first + np.flatnonzero(random.random(AFTER) < share)
        turned[where] = 1 - turned[where]
    change = None if scenario == "nothing" else BEFORE
    shown = inputs[rows]
    if scenario == "apart":
        shown[first:] = random.permuted(shown[first:], axis=0)
    return _stream(shown, turned, change)


def in_order(inputs: Numbers, labels: Numbers) -> Stream:
    """The stream as it was."""
    return _stream(inputs, labels, None)


def _stream(inputs: Numbers, labels: Numbers, change: int | None) -> Stream:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(inputs[:FITTED], labels[:FITTED])
    outputs: Numbers = model.predict_proba(inputs[FITTED:])[:, 1]
    right = (outputs >= 0.5) == (labels[FITTED:] >= 0.5)
    return Stream(
        reference=inputs[: FITTED + CHECKED],
        reference_outputs=outputs[:CHECKED],
        inputs=inputs[FITTED + CHECKED :],
        outputs=outputs[CHECKED:],
        labels=labels[FITTED + CHECKED :],
        accuracy=float(right[:CHECKED].mean()),
        change=change,
    )


# -- aios -----------------------------------------------------------------------------


def by_windows(text: str) -> Detect:
    """A condition on what came in and went out, judged after each window."""

    def detect(stream: Stream) -> Iterator[int]:
        condition = parse_condition(text, "drift")
        reference = _seen(stream.reference, stream.reference_outputs)
        windows: list[Seen] = []
        held = False
        for look, stop in enumerate(range(WINDOW_ROWS, len(stream.labels) + 1, WINDOW_ROWS), 1):
            part = slice(stop - WINDOW_ROWS, stop)
            windows = [*windows, _seen(stream.inputs[part], stream.outputs[part])]
            windows = windows[-condition.windows :]
            finding = judge_windows(condition, reference, windows, ALPHA / CONDITIONS, look)
            if finding.state == "holds" and not held:
                yield stop - 1
            held = finding.state == "holds" or (held and finding.state != "clear")

    return detect


def by_rows(text: str) -> Detect:
    """A condition on whole rows, judged after each window."""

    def detect(stream: Stream) -> Iterator[int]:
        condition = parse_condition(text, "drift")
        drawn = np.random.default_rng(0).permutation(len(stream.reference))[:REFERENCE_ROWS]
        reference = _columns(stream.reference[drawn])
        windows: list[Rows] = []
        held = False
        for look, stop in enumerate(range(WINDOW_ROWS, len(stream.labels) + 1, WINDOW_ROWS), 1):
            windows = [*windows, _columns(stream.inputs[stop - WINDOW_ROWS : stop])]
            windows = windows[-condition.windows :]
            found = compare_rows(reference, windows)
            state = judge_rows(condition, found, ALPHA / CONDITIONS, look).state
            if state == "holds" and not held:
                yield stop - 1
            held = state == "holds" or (held and state != "clear")

    return detect


def _columns(inputs: Numbers) -> Rows:
    return {f"x{place}": column.tolist() for place, column in enumerate(inputs.T)}


def by_feedback(text: str) -> Detect:
    """A condition on labels, judged after each 100; `x` in it is the limit of the accuracy."""

    def detect(stream: Stream) -> Iterator[int]:
        limit = f"{stream.accuracy - 0.05:.3f}"
        condition = parse_condition(text.replace("x", limit), "concept")
        held = False
        for look in range(1, len(stream.labels) // LABELS + 1):
            state = _judge(condition, stream, look)
            if state == "holds" and not held:
                yield look * LABELS - 1
            held = state == "holds" or (held and state != "clear")

    return detect


def _judge(condition: Condition, stream: Stream, look: int) -> str:
    part = slice(max(0, look * LABELS - STREAM_LABELS), look * LABELS)
    known = Labelled.single(stream.outputs[part], stream.labels[part])
    finding = judge_feedback(condition, known, LABELS, ALPHA / CONDITIONS, look)
    return finding.state


def _seen(inputs: Numbers, outputs: Numbers) -> Seen:
    summaries = {}
    for place in range(inputs.shape[1]):
        summaries[f"x{place}"] = Summary("number")
        summaries[f"x{place}"].add(inputs[:, place])
    output = Summary("number")
    output.add(outputs)
    return Seen(summaries, {"p": output})


# -- river ----------------------------------------------------------------------------


def by_river(make: Callable[[Any], Any], chosen: Callable[[Stream], "list[list[Any]]"]) -> Detect:
    """A detector for each series; an alarm is one of any of them."""

    def detect(stream: Stream) -> Iterator[int]:
        from river import drift

        series = chosen(stream)
        detectors = [make(drift) for _ in series]
        for row, values in enumerate(zip(*series, strict=True)):
            found = False
            for detector, value in zip(detectors, values, strict=True):
                detector.update(value)
                found = found or detector.drift_detected
            if found:
                yield row

    return detect


def _errors(stream: Stream) -> list[list[Any]]:
    return [stream.errors.tolist()]


def _outputs(stream: Stream) -> list[list[Any]]:
    return [stream.outputs.tolist()]


def _inputs(stream: Stream) -> list[list[Any]]:
    return [column.tolist() for column in stream.inputs.T]


DETECTORS: Mapping[str, Detect] = {
    "aios: error drift": by_feedback("error drift"),
    "aios: accuracy < x for 3 windows": by_feedback("accuracy < x for 3 windows"),
    "aios: psi > 0.2 on any for 2 windows": by_windows("psi > 0.2 on any for 2 windows"),
    BY_ROWS: by_rows("domain_auc > 0.65 for 2 windows"),
    "ADWIN on errors": by_river(lambda drift: drift.ADWIN(), _errors),
    "DDM on errors": by_river(lambda drift: drift.binary.DDM(), _errors),
    "Page-Hinkley on errors": by_river(lambda drift: drift.PageHinkley(), _errors),
    "ADWIN on any input": by_river(lambda drift: drift.ADWIN(), _inputs),
    "KSWIN on the output": by_river(lambda drift: drift.KSWIN(seed=7), _outputs),
}


# -- verdicts -------------------------------------------------------------------------


def judged(alarm: int | None, change: int | None) -> tuple[str, int | None]:
    """What the first alarm was: `false`, `found` with its delay in rows, or `silent`.

    >>> judged(120, 100), judged(80, 100), judged(None, 100), judged(5, None)
    (('found', 20), ('false', None), ('silent', None), ('false', None))
    """
    if alarm is None:
        return "silent", None
    if change is None or alarm < change:
        return "false", None
    return "found", alarm - change


def table(
    found: Mapping[str, Mapping[str, list[tuple[str, int | None]]]],
    wrong: Mapping[str, list[float]],
) -> str:
    """For each detector and scenario: found of all replays, median delay, false alarms.

    Args:
        wrong: the mean error before and after the change, by scenario.
    """
    scenarios = list(wrong)
    lines = [f"| detector | {' | '.join(scenarios)} |", "| --- " * (len(scenarios) + 1) + "|"]
    shown = [f"{before:.2f}, then {after:.2f}" for before, after in wrong.values()]
    lines.append(f"| (the model's error) | {' | '.join(shown)} |")
    for name, by_scenario in found.items():
        cells = [cell(by_scenario[scenario], scenario != "nothing") for scenario in scenarios]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(verdicts: list[tuple[str, int | None]], changed: bool) -> str:
    """One cell of the table.

    >>> cell([("found", 10), ("found", 30), ("false", None), ("silent", None)], True)
    '2 of 4 after 20; 1 false'
    >>> cell([("silent", None), ("false", None)], False)
    '1 of 2 false'
    """
    false = sum(what == "false" for what, _ in verdicts)
    if not changed:
        return f"{false} of {len(verdicts)} false"
    delays = [delay for what, delay in verdicts if what == "found" and delay is not None]
    after = f" after {np.median(delays):,.0f}" if delays else ""
    return f"{len(delays)} of {len(verdicts)}{after}; {false} false"
