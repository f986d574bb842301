"""One agent for each machine: it judges every reading, and opens an intervention when many of the
last ones are anomalous.

Rules come first (a sensor that is missing or shows what it cannot show says nothing of the
machine), then the model. One anomalous reading does nothing: `OPEN_AT` of the last `LAST` do.
"""

import time
from typing import Any

from pydantic import BaseModel

import aios
from apps.predictive_maintenance.intervention import Case, Site, intervene, intervention_id
from apps.predictive_maintenance.plant import TICK_MIN
from apps.predictive_maintenance.sensors import LABEL, LIMITS

ENDPOINT = "anomaly"
ANOMALOUS_FROM = 0.5
LAST = 8
OPEN_AT = 5
QUIET = 12
"""Readings after a refusal in which nothing is opened: the person has just looked."""
SMOOTHING = 0.1
"""Weight of the newest score in the running average."""
KEPT = 20


class Opened(BaseModel):
    """An intervention that was opened: by which reading, sent when, and when its flow was begun."""

    id: str
    reading: int
    sent_s: float
    opened_s: float
    average: float


class Watching(BaseModel):
    """What an agent remembers of its machine.

    Attributes:
        last: number of the last reading; `judged` and `repeated` count readings.
        recent: whether each of the last readings was anomalous, newest last.
        scores: their scores, `average` the running one.
        hours: how long the machine has run.
        episode: how many interventions were opened; `open` the one that is under way.
        quiet: readings until the next may be opened.
    """

    site: Site | None = None
    last: int = 0
    judged: int = 0
    repeated: int = 0
    anomalous: int = 0
    sensor_faults: int = 0
    recent: list[bool] = []
    scores: list[float] = []
    average: float = 0.0
    hours: float = 0.0
    episode: int = 0
    open: str | None = None
    quiet: int = 0
    opened: list[Opened] = []

    def take(self, reading: int, score: float | None) -> bool:
        """Count a reading, with its score or None for a broken sensor; whether an intervention is
        to be opened for it."""
        self.last = reading
        self.judged += 1
        self.hours += TICK_MIN / 60
        self.quiet = max(0, self.quiet - 1)
        if score is None:
            self.sensor_faults += 1
            return False
        is_anomalous = score >= ANOMALOUS_FROM
        self.anomalous += is_anomalous
        self.recent = [*self.recent, is_anomalous][-LAST:]
        self.scores = [*self.scores, round(score, 4)][-KEPT:]
        self.average += SMOOTHING * (score - self.average)
        return self.open is None and not self.quiet and sum(self.recent) >= OPEN_AT

    def opens(self, id: str, reading: int, sent_s: float, opened_s: float) -> None:
        """Note that an intervention was opened."""
        self.episode += 1
        self.open = id
        opened = Opened(
            id=id, reading=reading, sent_s=sent_s, opened_s=opened_s, average=self.average
        )
        self.opened = [*self.opened, opened]

    def ended(self, id: str, repaired: bool) -> bool:
        """An intervention is over; False where it is not the one that is open, as when it is told
        twice."""
        if id != self.open:
            return False
        self.open = None
        self.recent, self.scores = [], []
        self.quiet = 0 if repaired else QUIET
        if repaired:
            self.average = 0.0
        return True


def sensor_fault(data: dict[str, Any]) -> str | None:
    """Which sensor is missing, or shows what it cannot show."""
    for name, (low, high) in LIMITS.items():
        value = data.get(name)
        if not isinstance(value, int | float):
            return f"{name} is missing"
        if not low <= value <= high:
            return f"{name} shows {value:g}, and can show {low:g} to {high:g}"
    return None


@aios.agent(name="machine", state=Watching)
class Machine:
    """Watches one machine."""

    async def on_message(self, ctx: aios.Context, event: dict) -> str:
        data = event["data"]
        if event["type"] == "intervention.ended":
            ctx.state.ended(data["intervention"], data["repaired"])
            ctx.log("ended", data["why"], intervention=data["intervention"])
            return "noted"
        return await self._judge(ctx, data)

    async def _judge(self, ctx: aios.Context, data: dict) -> str:
        if data["reading"] <= ctx.state.last:
            ctx.state.repeated += 1
            return "repeated"
        found: list[float] = []

        async def asked() -> tuple[str, str]:
            [answer] = await ctx.predict(ENDPOINT, {name: data[name] for name in LIMITS})
            found.append(float(answer[LABEL]))
            verdict = "anomalous" if found[0] >= ANOMALOUS_FROM else "normal"
            return verdict, f"{ENDPOINT} says {found[0]:.3f}"

        fault = sensor_fault(data)
        rule = ctx.rule(fault is not None, "sensor", fault or "")
        verdict = await ctx.decide(rule, asked, otherwise="unknown")
        if ctx.state.take(data["reading"], found[0] if found else None):
            await self._open(ctx, data)
        return verdict

    async def _open(self, ctx: aios.Context, data: dict) -> None:
        state: Watching = ctx.state
        if state.site is None:
            raise aios.UsageError(f"agent {ctx.ref} was spawned without its site")
        id = intervention_id(ctx.id, state.episode + 1)
        of = f"{sum(state.recent)} of the last {len(state.recent)} readings are anomalous"
        case = Case(machine=ctx.id, id=id, why=of, site=state.site)
        await ctx.start(intervene, case.model_dump(), id=id, attributes={"machine": ctx.id})
        state.opens(id, data["reading"], data["sent_s"], time.time())
        ctx.log("open", of, intervention=id, average=round(state.average, 3))
