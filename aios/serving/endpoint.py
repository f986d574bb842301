"""One endpoint replica: acts on a traffic plan, answers predictions, counts what happened.

A plain class: tests drive it without Ray by passing their own `call_challenger` and
`load`. Everything that depends on the plan is one immutable `Live` object, swapped whole.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aios.clock import Clock
from aios.contracts import Batch, Codec, ViolationCounts
from aios.errors import (
    AiosError,
    ContractViolation,
    DeadlineExceeded,
    ModelFailed,
    Overloaded,
    UnknownModel,
)
from aios.records import (
    ArmName,
    Autoscale,
    Challenger,
    EndpointSpec,
    ServedVersion,
    TrafficPlan,
    WindowReport,
)
from aios.serving.breaker import Breaker
from aios.serving.fallback import Degraded, FallbackChain
from aios.serving.features import FeatureWindows
from aios.serving.live import ChallengerClient, Keys, Live, Loaded, continues, loaded_as, windows_of
from aios.serving.outliers import Outliers, Unusual
from aios.serving.recorder import Recorder
from aios.serving.runner import Outputs, Runner, failure_kind
from aios.serving.shadow import ShadowQueue
from aios.serving.split import covered
from aios.serving.windows import ArmWindow
from aios.telemetry.histogram import Histogram
from aios.telemetry.sketches import Sketch
from aios.telemetry.traces import Tracer

STABLE_RESERVE_FRACTION = 0.2
"""Share of the deadline kept back for stable while a canary is asked, so that a canary
that hangs leaves enough time to answer from stable."""

KEPT_RUNNERS = 2
"""Versions a replica keeps loaded beside stable: rolling back to one needs no load."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request got: outputs by name, and who gave them."""

    outputs: Outputs
    version: int
    arm: ArmName
    degraded: Degraded | None = None


logger = logging.getLogger("aios.serving")
Load = Callable[[ServedVersion, EndpointSpec], tuple[Runner, Codec]]
Connect = Callable[[Challenger, Autoscale], ChallengerClient]


class Endpoint:
    """Answers for one endpoint, on the plan it was last given.

    Args:
        load: loads and warms a version as the spec wants it; called off the event loop.
        connect: gives the client of a challenger's application.
        recorder: takes a copy of each answered request.
        features: summarises what came in and went out.
        outliers: tells how unusual records are.
        replica: this replica's name in reports.
    """

    def __init__(
        self,
        *,
        load: Load,
        connect: Connect,
        recorder: Recorder,
        features: FeatureWindows,
        outliers: Outliers,
        tracer: Tracer,
        clock: Clock,
        replica: str,
    ) -> None:
        self._load = load
        self._connect = connect
        self._recorder = recorder
        self._features = features
        self._outliers = outliers
        self.tracer = tracer
        self._clock = clock
        self._replica = replica
        self._node = socket.gethostname()
        self._runners: dict[Loaded, tuple[Runner, Codec]] = {}
        self._current: Live | None = None
        self._changing = asyncio.Lock()
        self._refused: str | None = None
        self._latency = Sketch()
        self._took = Histogram()
        self._pending_latency_s: list[float] = []
        self._sequence = 0
        self._requests = self._failed = self._rejected = self._in_flight = 0
        self._violations = ViolationCounts()

    # -- the plan ---------------------------------------------------------------------

    async def reconfigure(self, plan: TrafficPlan) -> None:
        """Act on `plan` from now on. Requests in flight finish on the plan they began with.

        A plan that cannot be acted on (its artifact was changed, say) is refused and the
        one before stays; the refusal travels in the next report. Only the first plan of a
        replica raises, because there is nothing to go on with.
        """
        async with self._changing:
            before = self._current
            if before is not None and (plan.revision < before.plan.revision or plan == before.plan):
                return
            try:
                live = await self._prepare(plan, before)
            except Exception as error:
                if before is None:
                    raise
                logger.warning("revision %d is refused", plan.revision, exc_info=error)
                reason = str(error) if isinstance(error, AiosError) else repr(error)
                self._refused = f"revision {plan.revision}: {reason}"
                return
            self._refused = None
            self._current = live
            if before is not None and before.shadow is not live.shadow and before.shadow:
                before.shadow.close()
            self._forget_old_runners(live)

    async def _prepare(self, plan: TrafficPlan, before: Live | None) -> Live:
        runner, codec = await self._loaded(plan)
        for privacy in (self._recorder.privacy, self._features.privacy):
            privacy.learn(plan)
        loop = asyncio.get_running_loop()
        # Off the event loop: a rule's module is imported here.
        fallback = await loop.run_in_executor(None, FallbackChain, plan.spec.fallback, codec)
        if before is not None:
            fallback.inherit(before.fallback)
        windows = windows_of(plan, before)
        challenger = plan.challenger
        same = before is not None and before.challenger is not None and challenger is not None
        same = same and before.challenger.app == challenger.app  # type: ignore[union-attr]
        ask = None
        if challenger is not None:
            ask = before.ask if same and before else self._connect(challenger, plan.spec.replicas)
        shadow = None
        if challenger is not None and challenger.arm == "shadow" and ask is not None:
            window, deadline_s = windows["shadow"], plan.spec.deadline_s
            if before is not None and same and continues(before, window, deadline_s):
                shadow = before.shadow
            else:
                shadow = ShadowQueue(self._shadow_call(ask, window, deadline_s))
        return Live(
            plan=plan,
            codec=codec,
            runner=runner,
            fallback=fallback,
            keys=Keys(plan.keys),
            challenger=challenger,
            ask=ask,
            breaker=before.breaker if same and before else Breaker(),
            shadow=shadow,
            windows=windows,
        )

    async def _loaded(self, plan: TrafficPlan) -> tuple[Runner, Codec]:
        wanted = loaded_as(plan)
        if wanted not in self._runners:
            loop = asyncio.get_running_loop()
            loading = loop.run_in_executor(None, self._load, plan.stable, plan.spec)
            self._runners[wanted] = await loading
        return self._runners[wanted]

    def _forget_old_runners(self, live: Live) -> None:
        current = loaded_as(live.plan)
        self._runners[current] = self._runners.pop(current)  # newest last
        for old in list(self._runners)[: -1 - KEPT_RUNNERS]:
            self._runners.pop(old)[0].close()

    def _shadow_call(
        self, ask: ChallengerClient, window: ArmWindow, timeout_s: float
    ) -> Callable[[Batch, Outputs], Awaitable[None]]:
        async def send(batch: Batch, stable: Outputs) -> None:
            try:
                async with asyncio.timeout(timeout_s):
                    outputs, service_s = await ask(batch, timeout_s, None)
            except Exception as error:  # noqa: BLE001 - whatever a shadow does is only counted
                window.failed(failure_kind(error))
            else:
                window.succeeded(service_s, outputs)
                window.compared(outputs, stable)

        return send

    @property
    def live(self) -> Live:
        """The plan acted on now, with what belongs to it.

        Raises:
            Overloaded: no plan has arrived yet.
        """
        if self._current is None:
            raise Overloaded("this replica has no traffic plan yet", retry_after_s=1.0)
        return self._current

    # -- requests ---------------------------------------------------------------------

    def authenticated(self, key: bytes | None) -> bool:
        live = self.live
        return not live.plan.spec.require_key or live.keys.allow(key)

    def admit(self) -> Live:
        """Take one request in, on the plan of this moment; pair with `release`.

        Raises:
            Overloaded: as many as the endpoint allows are in flight.
        """
        live = self.live
        if self._in_flight >= live.plan.spec.max_queued:
            self._rejected += 1
            raise Overloaded(
                f"endpoint {live.plan.spec.name!r} has {self._in_flight} requests in flight "
                "on this replica, its limit; try again shortly",
                retry_after_s=1.0,
            )
        self._in_flight += 1
        live.runner.hold()
        return live

    def release(self, live: Live, latency_s: float, *, failed: bool) -> None:
        self._in_flight -= 1
        live.runner.let_go()
        self._requests += 1
        self._failed += failed
        self._pending_latency_s.append(latency_s)

    def refused(self, error: AiosError) -> None:
        """Count a body that could not be taken, by what was wrong with it."""
        kinds = error.kinds if isinstance(error, ContractViolation) else None
        for field, kind in kinds or {("", "malformed")}:
            self._violations.add(field, kind)

    async def predict(
        self,
        live: Live,
        batch: Batch,
        key: str,
        *,
        request_id: str,
        started_s: float,
        version: int | None = None,
        traceparent: str | None = None,
    ) -> Answer:
        """Answer one decoded batch.

        Args:
            live: what `admit` returned.
            key: decides between stable and canary; the same key always falls alike.
            started_s: monotonic seconds when the whole request was here; the deadline counts
                from it, so that a slow upload is not held against the model.
            version: ask this version alone: no split, no fallback.

        Raises:
            DeadlineExceeded, ModelFailed, Overloaded: neither an arm nor a fallback could
                answer.
            UnknownModel: `version` takes no part in the current plan.
        """
        deadline_s = started_s + live.plan.spec.deadline_s
        if version is not None:
            answer = await self._asked_version(live, batch, version, deadline_s, traceparent)
        else:
            answer = await self._split(live, batch, key, deadline_s, traceparent)
        latency_s = time.monotonic() - started_s
        self._recorder.add(batch, answer, key=key, request_id=request_id, latency_s=latency_s)
        given = answer.outputs if answer.degraded is None else None
        self._features.add(answer.arm, answer.version, batch, given)
        return answer

    async def outliers(self, live: Live, batch: Batch, answer: Answer, started_s: float) -> Unusual:
        """How unusual the rows are beside those that the version that answered was made of. It
        counts toward the deadline, and never fails."""
        stable, challenger = live.plan.stable, live.challenger
        canary = answer.arm == "canary" and challenger is not None
        served = challenger.served if canary else stable  # type: ignore[union-attr]
        deadline_s = started_s + live.plan.spec.deadline_s
        return await self._outliers.score(served, batch, deadline_s)

    async def _split(
        self, live: Live, batch: Batch, key: str, deadline_s: float, traceparent: str | None
    ) -> Answer:
        challenger = live.challenger
        if (
            challenger is not None
            and challenger.arm == "canary"
            and covered(live.plan.salt, key, challenger.weight_fraction)
        ):
            answer = await self._canary(live, challenger, batch, deadline_s, traceparent)
            if answer is not None:
                return answer
        answer = await self._stable(live, batch, deadline_s)
        if live.shadow is not None and answer.degraded is None:
            live.shadow.put(batch, answer.outputs)
        return answer

    async def _canary(
        self,
        live: Live,
        challenger: Challenger,
        batch: Batch,
        deadline_s: float,
        traceparent: str | None,
    ) -> Answer | None:
        """The canary's answer, or None: then stable answers and the user notices nothing."""
        assert live.ask is not None
        now_s = time.monotonic()
        if not live.breaker.allows(now_s):
            return None
        timeout_s = deadline_s - now_s - STABLE_RESERVE_FRACTION * live.plan.spec.deadline_s
        if timeout_s <= 0.0:
            return None  # spent before the canary had a chance: nothing to hold against it
        window = live.windows["canary"]
        try:
            async with asyncio.timeout(timeout_s):
                outputs, service_s = await live.ask(batch, timeout_s, traceparent)
        except Exception as error:  # noqa: BLE001 - whatever a canary does, stable answers
            kind = failure_kind(error)
            window.failed(kind)
            if kind in ("deadline", "unavailable"):
                live.breaker.failed(time.monotonic())
            else:
                live.breaker.succeeded()
            return None
        live.breaker.succeeded()
        window.succeeded(service_s, outputs)
        if live.fallback.remembers:
            live.fallback.remember(batch, outputs)
        return Answer(outputs, challenger.served.version, "canary")

    async def _stable(self, live: Live, batch: Batch, deadline_s: float) -> Answer:
        window = live.windows["stable"]
        version = live.plan.stable.version
        try:
            if live.runner.runs_inline(batch):
                outputs, service_s = await live.runner.run(batch)
            else:
                async with asyncio.timeout(max(deadline_s - time.monotonic(), 0.0)):
                    outputs, service_s = await live.runner.run(batch)
        except (AiosError, TimeoutError) as error:
            window.failed(failure_kind(error))
            return self._degrade(live, batch, window, error)
        window.succeeded(service_s, outputs)
        if live.fallback.remembers:
            live.fallback.remember(batch, outputs)
        return Answer(outputs, version, "stable")

    def _degrade(
        self, live: Live, batch: Batch, window: ArmWindow, error: AiosError | TimeoutError
    ) -> Answer:
        found = live.fallback.answer(batch)
        if found is not None:
            window.degraded()
            return Answer(found[0], live.plan.stable.version, "stable", found[1])
        version = live.plan.stable.version
        raise _unanswered(live, version, error, "no fallback covers this request") from error

    async def _asked_version(
        self,
        live: Live,
        batch: Batch,
        version: int,
        deadline_s: float,
        traceparent: str | None,
    ) -> Answer:
        left_s = deadline_s - time.monotonic()
        challenger = _answering(live)
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                if version == live.plan.stable.version:
                    return Answer((await live.runner.run(batch))[0], version, "stable")
                if challenger is not None and version == challenger.served.version:
                    assert live.ask is not None
                    outputs, _ = await live.ask(batch, left_s, traceparent)
                    return Answer(outputs, version, challenger.arm)
        except Exception as error:
            note = "a version asked for by number has no fallback"
            raise _unanswered(live, version, error, note) from error
        raise UnknownModel(
            f"endpoint {live.plan.spec.name!r} does not serve version {version}; "
            f"it serves {', '.join(map(str, self.versions()))}"
        )

    def versions(self) -> list[int]:
        """The versions that answer users under the current plan, stable first."""
        live = self.live
        found = [live.plan.stable.version]
        challenger = _answering(live)
        if challenger is not None:
            found.append(challenger.served.version)
        return found

    # -- reports ----------------------------------------------------------------------

    def report(self) -> WindowReport | None:
        """Cumulative counts for the kernel, or None before the first plan."""
        live = self._current
        if live is None:
            return None
        latencies, self._pending_latency_s = self._pending_latency_s, []
        if latencies:
            self._latency.update_many(latencies)
            self._took.update_many(latencies)
        self._sequence += 1
        return WindowReport(
            endpoint=live.plan.spec.name,
            replica=self._replica,
            era=live.plan.era,
            revision=live.plan.revision,
            sequence=self._sequence,
            at_s=self._clock.now_s(),
            pid=os.getpid(),
            node=self._node,
            requests=self._requests,
            failed=self._failed,
            rejected=self._rejected,
            in_flight=self._in_flight,
            queued=live.runner.queued,
            shadow_dropped=live.shadow.dropped if live.shadow is not None else 0,
            recorder_dropped=self._recorder.dropped,
            outliers_missed=self._outliers.missed,
            violations=self._violations.by_field(),
            recorder_problem=self._recorder.problem,
            refused=self._refused,
            latency=self._latency.to_bytes(),
            took=self._took.buckets(),
            arms={name: window.report() for name, window in live.windows.items()},
        )


def _answering(live: Live) -> Challenger | None:
    """The challenger, if its answers may reach users; those of a shadow may not."""
    challenger = live.challenger
    return challenger if challenger is not None and challenger.arm == "canary" else None


def _unanswered(live: Live, version: int, error: Exception, note: str) -> AiosError:
    """What the caller is told when nothing could answer."""
    ref = f"{live.plan.spec.model}:{version}"
    kind = failure_kind(error)
    if kind == "deadline":
        return DeadlineExceeded(
            f"{ref} did not answer within {live.plan.spec.deadline_s} s and {note}"
        )
    if kind == "unavailable":
        return Overloaded(f"{ref} is not available just now and {note}", retry_after_s=1.0)
    return ModelFailed(f"{ref} failed on this input and {note}")
