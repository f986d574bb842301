"""What the runtime returns and a user calls: answers, endpoints, rollouts."""

import math
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aios.errors import AiosError, DeadlineExceeded, UsageError
from aios.presentation import Shown, duration
from aios.runtime.tables import EndpointStatus, Look, RolloutStatus
from aios.runtime.transport import Transport

LOOK_S = 0.25
SHOWN_ROWS = 20
"""Answers are shown up to here; `outputs` has all."""


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """What a prediction returned.

    Attributes:
        outputs: one object per record, in order.
        arm: `stable`, or `canary` while a rollout tries a version.
        degraded: None, or `cache`, `rule`, `default` when a fallback answered.
        latency_s: seconds at this client, network included.
        outlier: with `predict(..., outlier=True)` how unusual each record is beside those that the
            version was trained on, 0 to 1: about 0.5 or less is ordinary, towards 1 an outlier.
            None if it was not asked for or cannot be told; `outlier_reason` then says why.
        outlier_beyond: the share of the training rows that are less unusual than the record.
    """

    outputs: list[dict[str, Any]]
    version: int
    arm: str
    request_id: str
    degraded: str | None
    latency_s: float
    outlier: list[float] | None = None
    outlier_beyond: list[float] | None = None
    outlier_reason: str | None = None

    def _shown(self) -> Look:
        names = list(self.outputs[0]) if self.outputs else []
        shown = self.outputs[:SHOWN_ROWS]
        rows = [[index, *output.values()] for index, output in enumerate(shown)]
        if self.outlier is not None and self.outlier_beyond is not None:
            names += ["outlier", "more unusual than"]
            told = zip(self.outlier, self.outlier_beyond, strict=True)
            rows = [
                [*row, score, f"{100 * beyond:.1f} %"]
                for row, (score, beyond) in zip(rows, told, strict=False)
            ]
        degraded = f", degraded: {self.degraded}" if self.degraded else ""
        more = (
            f", first {SHOWN_ROWS} of {len(self.outputs)}" if len(self.outputs) > len(rows) else ""
        )
        title = f"version {self.version} ({self.arm}{degraded}), {duration(self.latency_s)}{more}"
        if self.outlier_reason is not None:
            title += f"\nno outlier scores: {self.outlier_reason}"
        return title, ["row", *names], rows


class Live(Shown):
    """Something that asks the runtime each time it is shown. `repr` asks nobody: a debugger
    or a failing test must not wait for a network."""

    @abstractmethod
    def _named(self) -> str:
        """What it is, without asking."""

    @abstractmethod
    def _now(self) -> Shown:
        """How it stands.

        Raises:
            AiosError: nobody can tell.
        """

    def _shown(self) -> Look:
        try:
            return self._now()._shown()
        except AiosError as error:
            return f"{self._named()}: {error}", [], []

    def __repr__(self) -> str:
        return f"<{self._named()}>"


class Endpoint(Live):
    """A served thing. Holds only its name; every call asks the runtime."""

    def __init__(self, transport: Transport, name: str) -> None:
        self._transport = transport
        self.name = name

    def predict(
        self,
        records: Any,
        *,
        key: str | None = None,
        request_id: str | None = None,
        outlier: bool = False,
    ) -> Answer:
        """Ask for predictions.

        Args:
            records: a list of objects, one object, or a DataFrame; fields as in the contract.
            key: decides between stable and canary instead of the first record's key field.
            request_id: yours, to find the request again; made by the endpoint if not given.
            outlier: ask also how unusual each record is beside those that the version was
                trained on; it counts toward the deadline.

        Raises:
            ContractViolation: a record does not fit; says which row and field.
            DeadlineExceeded, ModelFailed, Overloaded: no version and no fallback answered.
            UsageError: the records cannot be sent; says why.
        """
        headers = {
            name: _header(name, value)
            for name, value in (
                ("x-aios-key", key),
                ("x-request-id", request_id),
                ("x-aios-outlier", "1" if outlier else None),
            )
            if value is not None
        }
        body, latency_s = self._transport.predict(self.name, _as_records(records), headers)
        return Answer(latency_s=latency_s, **body)

    def feedback(self, answer: Answer, kpi: float, **values: Any) -> None:
        """Tell what an answer was worth to the business; more is better. Feeds the abort
        rule `kpi worse` of a running rollout. `values` are kept as `rt.feedback` keeps them."""
        if not isinstance(answer, Answer) or isinstance(kpi, bool) or not _finite(kpi):
            raise UsageError(
                f"an endpoint's feedback is (answer, kpi), an Answer and a finite number, not "
                f"({answer!r:.40}, {kpi!r:.40}); for labels: rt.feedback(answer.request_id, "
                "{'approve': 1})"
            )
        said = {"request_id": answer.request_id, "arm": answer.arm, "version": answer.version}
        entry = {**said, "kpi": kpi, "values": values}
        self._transport.change(
            "POST", f"/api/v1/endpoints/{self.name}/feedback", {"answers": [entry]}
        )

    def status(self) -> EndpointStatus:
        """What is wanted and what runs."""
        return EndpointStatus(self._transport.get(f"/api/v1/endpoints/{self.name}"))

    def series(self) -> list[dict[str, Any]]:
        """Per second and arm: count, errors, p50/p95/p99 in seconds; the last hour."""
        found: list[dict[str, Any]] = self._transport.get(f"/api/v1/endpoints/{self.name}/series")
        return found

    def wait(self, timeout_s: float = 120.0) -> "Endpoint":
        """Wait until all replicas act on the newest plan.

        Raises:
            DeadlineExceeded: they do not after `timeout_s`; says what Serve reports.
        """
        give_up_s = time.monotonic() + timeout_s
        with spinner(f"deploying {self.name}") as show:
            while True:
                status = self.status()
                if status["ready"]:
                    return self
                show(f"deploying {self.name}: {status['status'].lower()}")
                if status["status"] == "DEPLOY_FAILED" or time.monotonic() > give_up_s:
                    raise DeadlineExceeded(
                        f"endpoint {self.name!r} is not ready: {status['status']}; "
                        f"{status['problem'] or 'no reason was given'}"
                    )
                time.sleep(LOOK_S)

    def _named(self) -> str:
        return f"endpoint {self.name} at {self._transport.address}"

    def _now(self) -> Shown:
        return self.status()


class Rollout(Live):
    """A rollout, running or ended. Holds only its id; every call asks the runtime."""

    def __init__(self, transport: Transport, rollout_id: str) -> None:
        self._transport = transport
        self.id = rollout_id

    def status(self) -> RolloutStatus:
        """Where it stands, and each rule's verdict."""
        return RolloutStatus(self._transport.get(f"/api/v1/rollouts/{self.id}"))

    def evidence(self) -> list[dict[str, Any]]:
        """What each look saw: `{"era", "at_s", "payload"}`, in order."""
        found: list[dict[str, Any]] = self._transport.get(f"/api/v1/rollouts/{self.id}/evidence")
        return found

    def wait(self, timeout_s: float = 600.0) -> RolloutStatus:
        """Wait until it has ended, whatever the outcome.

        Raises:
            DeadlineExceeded: it runs on after `timeout_s`; it is not touched.
        """
        give_up_s = time.monotonic() + timeout_s
        with spinner(f"rollout {self.id}") as show:
            while True:
                status = self.status()
                if status.finished:
                    return status
                show(f"rollout {self.id}: {status.summary}")
                if time.monotonic() > give_up_s:
                    raise DeadlineExceeded(
                        f"rollout {self.id} still runs after {timeout_s} s: {status.summary}"
                    )
                time.sleep(LOOK_S)

    def promote(self, reason: str = "") -> None:
        """Promote now, whatever the evidence; recorded with your name and reason.

        Raises:
            IllegalTransition: it has ended.
        """
        self._transport.change("POST", f"/api/v1/rollouts/{self.id}/promote", {"reason": reason})

    def abort(self, reason: str = "") -> None:
        """Give all traffic back to stable now.

        Raises:
            IllegalTransition: it has ended.
        """
        self._transport.change("POST", f"/api/v1/rollouts/{self.id}/abort", {"reason": reason})

    def _named(self) -> str:
        return f"rollout {self.id} at {self._transport.address}"

    def _now(self) -> Shown:
        return self.status()


def _as_records(records: Any) -> list[dict[str, Any]]:
    if hasattr(records, "to_dict") and hasattr(records, "columns"):
        clean = records.astype(object).where(records.notna(), None)
        found: list[dict[str, Any]] = clean.to_dict(orient="records")
        return found
    if isinstance(records, Mapping):
        return [dict(records)]
    if isinstance(records, Sequence) and not isinstance(records, str | bytes):
        wrong = next((record for record in records if not isinstance(record, Mapping)), None)
        if wrong is None:
            return [dict(record) for record in records]
        raise UsageError(f"each record is an object such as {{'age': 40}}, not {wrong!r:.80}")
    raise UsageError(
        f"predict takes a list of objects, one object or a DataFrame, not {type(records).__name__}"
    )


def _header(name: str, value: str) -> str:
    """A value that HTTP takes; quietly changed it would be another key.

    Raises:
        UsageError: it has other than printable ASCII characters.
    """
    if not (isinstance(value, str) and value.isascii() and value.isprintable()):
        raise UsageError(f"{name} travels as a header: printable ASCII only, not {value!r:.80}")
    return value


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """A line that tells what is being waited for; silent when nobody watches a terminal."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
