"""What was measured of an endpoint, as a file: from it every other question is answered."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from hdrh.histogram import HdrHistogram
from pydantic import Field, ValidationError, field_validator

from aios.capacity.arrivals import Arrivals
from aios.capacity.load import Outcome, quantile_s
from aios.capacity.queueing import Times
from aios.errors import UsageError
from aios.presentation import Rows, Shown, duration, moment
from aios.records.base import Record

_MOST_VALUES = 200
"""Of a distribution that formulas add up over."""
_SURE = 1.96
"""Standard deviations on both sides that hold 95 %."""
SAME = ("cpu", "cores", "memory_gib")
MEMORY_OFF = 0.02
"""What kernels take of the same machine's memory differs: 23.5 and 23.6 GiB are one kind."""


class Point(Record):
    """One rate, over some seconds. Quantiles count failures as infinitely late; None is that.

    `took` is the `HdrHistogram` of the good answers in microseconds, encoded as its other
    implementations read it. `held_back` says why the figures are rather the generator's.
    """

    arrivals: Arrivals
    rate_per_s: float = Field(gt=0)
    good: int = Field(ge=0)
    failed: int = Field(ge=0)
    good_per_s: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    late_p99_s: float
    cpu_fraction: float
    held_back: str | None
    failures: tuple[str, ...] = ()
    took: str

    @field_validator("took")
    @classmethod
    def _is_a_histogram(cls, took: str) -> str:
        try:
            HdrHistogram.decode(took)
        except Exception as error:  # noqa: BLE001 - zlib's, struct's, binascii's and its own
            raise ValueError(f"no HdrHistogram: {error}") from None
        return took

    @classmethod
    def of(cls, outcome: Outcome, arrivals: Arrivals, rate_per_s: float) -> Self:
        """What an open stream of this rate saw."""
        found = [outcome.quantile_s(fraction) for fraction in (0.5, 0.95, 0.99)]
        p50_s, p95_s, p99_s = (None if math.isinf(value) else value for value in found)
        return cls(
            arrivals=arrivals,
            rate_per_s=rate_per_s,
            good=outcome.good,
            failed=outcome.failed,
            good_per_s=outcome.good_per_s,
            p50_s=p50_s,
            p95_s=p95_s,
            p99_s=p99_s,
            late_p99_s=outcome.late_s(0.99),
            cpu_fraction=outcome.cpu_fraction,
            held_back=outcome.held_back,
            failures=tuple(outcome.failures),
            took=outcome.took,
        )

    def within(self, p99_s: float) -> bool:
        """Whether 99 of 100 requests, failed ones included, were answered in time."""
        return self.p99_s is not None and self.p99_s <= p99_s

    def p99_between(self) -> tuple[float, float]:
        """Where the p99 lies with 95 % certainty, in seconds, if requests are independent: ranks
        of order statistics (Conover, Practical Nonparametric Statistics, section 3.2)."""
        count = self.good + self.failed
        spread = _SURE * math.sqrt(count * 0.99 * 0.01)
        low, high = ((0.99 * count + sign * spread) / count for sign in (-1, 1))
        return tuple(  # type: ignore[return-value]
            quantile_s(self.took, self.good, self.failed, min(one, 1.0)) for one in (low, high)
        )

    @cached_property
    def mean_s(self) -> float:
        """The mean time of the good answers; kept, as a curve of plans asks for it at each rate."""
        return self.times().mean_s

    def times(self) -> Times:
        """The distribution of the good answers."""
        values_s, counts = [], []
        for one in HdrHistogram.decode(self.took).get_recorded_iterator():  # always the same object
            values_s.append(one.value_iterated_to / 1e6)
            counts.append(one.count_added_in_this_iter_step)
        whole = Times.counted(values_s, counts)
        if len(values_s) <= _MOST_VALUES:
            return whole
        # More of them where it matters: the last tenth gets half.
        half = _MOST_VALUES // 2
        ends = [0.9 * (i + 1) / half for i in range(half)]
        ends += [0.9 + 0.1 * (i + 1) / half for i in range(half)]
        shares = [end - before for end, before in zip(ends, [0.0, *ends], strict=False)]
        return Times.counted([whole.quantile_s(end) for end in ends], shares)


class Measurement(Shown, Record):
    """How an endpoint did under load. `rt.measure` makes one; `plan` answers from it.

    Attributes:
        replicas: how many answered; their number did not change meanwhile.
        p99_s: the budget that was looked for.
        requests: where their content came from.
        machine: CPU, cores, memory, versions, commit of where the generator ran; with
            `same_machine` the server ran there too.
        full_per_s: good answers per second in a closed loop: the most that there is.
        light: a rate at which hardly anybody waits.
        points: rates that were tried, in order.
    """

    format: Literal["aios-measurement-1"] = "aios-measurement-1"
    endpoint: str
    version: str
    replicas: int = Field(ge=1)
    p99_s: float = Field(gt=0)
    at_s: float
    seconds: float
    seed: int
    connections: int
    requests: str
    machine: dict[str, Any]
    same_machine: bool
    full_per_s: float = Field(gt=0)
    light: Point
    points: tuple[Point, ...]

    def save(self, path: "str | Path") -> None:
        """Write it as JSON.

        Raises:
            UsageError: it cannot be written.
        """
        try:
            Path(path).write_text(self.model_dump_json(indent=1) + "\n", "utf-8")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None

    @classmethod
    def read(cls, path: "str | Path") -> Self:
        """One that was saved.

        Raises:
            UsageError: there is none, or the file is something else.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"]) or "the file"
            beside = sorted(Path(path).parent.glob(f"{Path(path).stem}-*.json"))
            hint = f"; its measurements lie beside it: {beside[0]}" if beside else ""
            raise UsageError(
                f"{path} is no measurement of `aios plan`: {where}: {fault['msg']}{hint}"
            ) from None

    def judged_by(self, p99_s: float) -> Self:
        """The same, shown beside another budget than it was made for."""
        return self.model_copy(update={"p99_s": p99_s})

    @property
    def knee_per_s(self) -> float | None:
        """The largest rate within the budget, of those tried before the first that was not;
        None if there was none."""
        return self.bounds(self.p99_s)[0]

    def bounds(self, p99_s: float) -> tuple[float | None, float | None]:
        """The largest rate that kept this p99 and the smallest that did not, as measured. One that
        the generator held back counts like any other: who buys machines is told what was seen
        to go well, and that the endpoint may do better."""
        tried = (self.light, *self.points)
        broken = [one.rate_per_s for one in tried if not one.within(p99_s)]
        above = min(broken, default=None)
        kept = [
            one.rate_per_s
            for one in tried
            if one.within(p99_s) and (above is None or one.rate_per_s < above)
        ]
        return max(kept, default=None), above

    def _shown(self) -> tuple[str, tuple[str, ...], Rows]:
        knee = self.knee_per_s
        found = f"{knee:,.0f} requests/s" if knee else "no rate"
        title = (
            f"{self.endpoint} ({self.version}, {self.replicas} replicas) at {moment(self.at_s)}: "
            f"{found} within a p99 of {duration(self.p99_s)}; at most {self.full_per_s:,.0f}/s"
        )
        headings = ("requests/s", "answered", "failed", "p50", "p95", "p99", "within", "generator")
        ordered = sorted((self.light, *self.points), key=lambda one: one.rate_per_s)
        rows = [
            [
                round(one.rate_per_s, 1),
                one.good,
                one.failed,
                duration(one.p50_s),
                duration(one.p95_s),
                duration(one.p99_s),
                "yes" if one.within(self.p99_s) else "no",
                one.held_back,
            ]
            for one in ordered
        ]
        return title, headings, rows


def same_machine(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results come from machines of one kind: CPU, cores and memory."""
    sizes = [found.get("memory_gib") or 0.0 for found in (one, other)]
    alike = abs(sizes[0] - sizes[1]) <= MEMORY_OFF * max(sizes)
    return alike and all(one.get(name) == other.get(name) for name in ("cpu", "cores"))
