"""The story of twelve machines: replayed through Kafka, watched, stopped in time, and counted."""

import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aios
from apps import brokers
from apps.predictive_maintenance import outcome, plant, roster, sensors
from apps.predictive_maintenance.display import Screen
from apps.predictive_maintenance.intervention import Site as Place
from apps.predictive_maintenance.intervention import rehearse
from apps.predictive_maintenance.operations import Operations
from apps.predictive_maintenance.outcome import Kill, Look, Outcome
from apps.predictive_maintenance.stream import Site
from apps.predictive_maintenance.watching import ENDPOINT, Machine, Watching

if TYPE_CHECKING:
    from rich.console import Console

SUBSCRIPTION = "machines"
PARTITIONS = 3
LOOK_S = 1.0
BROKER_S = 5.0
THINK_TICKS = 4.0
"""A person answers 40 minutes of a machine's time after they were asked."""
ANSWER_TICKS = 18.0
"""Within 3 hours, or the default counts."""
DRAIN_S = 120.0
REHEARSE_S = 120.0
KILLS = {0.35: "agent host", 0.5: "flow worker", 0.65: "event reader"}
"""What is killed, when so much of the stream is sent."""


@dataclass(frozen=True)
class Options:
    """How the story is told.

    Args:
        readings: that are sent at most, of all machines; less while machines stand still.
        rate_per_s: at which they are.
        servers: a broker's address; without one a broker is started.
        out: folder of the report.
        kills: whether processes are killed.
    """

    readings: int = 4_800
    rate_per_s: float = 40.0
    machines: int = 12
    servers: str | None = None
    out: Path = Path("out")
    seed: int = 4
    kills: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.machines <= 99:
            raise aios.UsageError(f"machines={self.machines}: give 1 to 99")
        if not 1 <= self.rate_per_s <= 1_000:
            raise aios.UsageError(f"rate={self.rate_per_s:g}: give 1 to 1,000 readings per second")
        least = self.machines * plant.WEAR_TICKS[1] * 2
        if self.readings < least:
            raise aios.UsageError(
                f"readings={self.readings}: {self.machines} machines need {least:,} to wear out"
            )

    @property
    def ticks(self) -> int:
        """How long each machine is watched."""
        return self.readings // self.machines

    @property
    def tick_s(self) -> float:
        return self.machines / self.rate_per_s


def main(options: Options, console: "Console | None" = None) -> int:
    """Tell the story, print what happened, write the report.

    Returns:
        0 if everything that `outcome.surprises` asks for holds, else 1.

    Raises:
        UsageError: something is missing that the story needs; said before anything is started.
    """
    from rich.console import Console

    from apps.predictive_maintenance import report

    console = console or Console(highlight=False)
    found = tell(options, console)
    written = report.write_report(found, options.out)
    return report.finish(found, written, console)


def tell(options: Options, console: "Console") -> Outcome:
    """What happened, from the start of the broker to its end."""
    refuse_what_is_missing()
    with _broker(options.servers, console) as servers:
        return _told(options, servers, console)


def _told(options: Options, servers: str, console: "Console") -> Outcome:
    console.print(
        "[bold]aios: predictive maintenance[/bold], machines with a Space Shuttle's sensors"
    )
    frame = sensors.load()
    history, later = sensors.split(frame)
    console.print(f"{len(history):,} readings are history, {len(later):,} are there for machines")
    model, measured = sensors.train(history)
    with aios.local() as rt:
        console.print(f"a private runtime is up at {rt.address}")
        sample = history[list(sensors.SENSORS)].astype(float).head(2_000)
        rt.models.register(
            ENDPOINT, model, contract=sensors.contract(), sample=sample, metrics=measured
        )
        rt.deploy(ENDPOINT, f"{ENDPOINT}:1", deadline_s=2.0)
        console.print(f"endpoint {ENDPOINT} serves, AUC {measured['auc']:.3f} on held-out history")
        return _Telling(rt, servers, options, sensors.readings(later), measured, console).tell()


def refuse_what_is_missing() -> None:
    """Raises:
    UsageError: a package is not installed that the story needs.
    """
    for package in ("confluent_kafka", "matplotlib", "rich"):
        try:
            __import__(package)
        except ImportError:
            raise aios.UsageError(
                f"this needs {package}: `pip install 'aios[kafka,demo]'`"
            ) from None


@contextmanager
def _broker(servers: str | None, console: "Console") -> Iterator[str]:
    if servers is not None:
        _refuse_silent(servers)
        yield servers
        return
    with console.status("starting a broker that speaks Kafka's protocol"):
        starting = brokers.running_kafka()
        address = starting.__enter__()
    try:
        console.print(f"a broker is up at {address}")
        yield address
    finally:
        starting.__exit__(None, None, None)


def _refuse_silent(servers: str) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        AdminClient({"bootstrap.servers": servers, "log_level": 0}).list_topics(timeout=BROKER_S)
    except KafkaException as error:
        raise aios.UsageError(f"no broker answers at {servers}: {error}") from None


class _Telling:
    def __init__(
        self,
        rt: aios.Runtime,
        servers: str,
        options: Options,
        readings: sensors.Readings,
        measured: dict[str, float],
        console: "Console",
    ) -> None:
        self._rt = rt
        self._servers = servers
        self._options = options
        self._readings = readings
        self._measured = measured
        self._console = console
        self._plans = plant.make_plans(options.machines, options.ticks, options.seed)
        self._looks: list[Look] = []
        self._kills: list[Kill] = []
        self._due = dict(KILLS) if options.kills else {}
        self._roster = rt.home / "roster.db"  # goes with the private runtime

    def tell(self) -> Outcome:
        run, options = uuid4().hex[:6], self._options
        place = Place(
            servers=self._servers,
            readings=f"readings-{run}",
            commands=f"commands-{run}",
            roster=str(self._roster),
            answer_s=ANSWER_TICKS * options.tick_s,
            repair_s=plant.PLANNED_TICKS * options.tick_s,
        )
        roster.make(self._roster)
        brokers.make_topic(self._servers, place.readings, PARTITIONS)
        brokers.make_topic(self._servers, place.commands, 1)
        for plan in self._plans:
            self._rt.spawn(Machine, id=plan.machine, state=Watching(site=place))
        source = aios.Kafka(self._servers, topic=place.readings)
        self._rt.on(source, agent=Machine, key=sensors.KEY, id=SUBSCRIPTION)
        self._rehearse()
        site = Site(
            self._servers,
            self._plans,
            self._readings.pour(),
            readings=place.readings,
            commands=place.commands,
            rate_per_s=options.rate_per_s,
            ticks=options.ticks,
            seed=options.seed,
        )
        people = Operations(self._rt, THINK_TICKS * options.tick_s)
        with people, site, Screen(site, self._console) as screen:
            self._follow(site, people, screen)
            states = self._drain(site, screen)
        return self._collected(site, people, states)

    def _rehearse(self) -> None:
        """Wait for hosts, workers and the reader, which begin with what needs them first."""
        told = {"intervention": "none", "repaired": False, "why": "a rehearsal"}
        event = {"type": "intervention.ended", "data": told}
        with self._console.status("agents, flows and the reader begin"):
            self._rt.start(rehearse, id="rehearsal").result(REHEARSE_S)
            for plan in self._plans:
                self._rt.agent("machine", plan.machine).ask(event, timeout_s=REHEARSE_S)
            give_up_s = time.monotonic() + REHEARSE_S
            while not self._rt.subscriptions()[SUBSCRIPTION].fields["pids"]:
                if time.monotonic() > give_up_s:
                    raise aios.ClusterUnavailable("the reader of the stream does not begin")
                time.sleep(LOOK_S)

    def _follow(self, site: Site, people: Operations, screen: Screen) -> None:
        """Look every second until everything is sent, and kill what is due."""
        while not site.over.wait(LOOK_S):
            site.check()
            people.check()
            self._look(site, screen)
            self._strike(site, screen)

    def _strike(self, site: Site, screen: Screen) -> None:
        """Kill what is due, if it has something to do now; else at a later look."""
        for share in [one for one in self._due if site.tick >= one * site.ticks]:
            pid = self._kill(self._due[share])
            if pid is not None:
                what = self._due.pop(share)
                self._kills.append(Kill(what, pid, site.tick, time.time()))
                screen.say(f"SIGKILL to the {what}, pid {pid}", "red")

    def _look(self, site: Site, screen: Screen) -> None:
        status = self._rt.subscriptions()[SUBSCRIPTION]
        agents = self._rt.agent_counts()
        waiting = sum(row["waiting"] for row in agents)
        self._looks.append(
            Look(site.tick, site.readings_sent, status.lag or 0, status.waiting + waiting)
        )
        flows = self._rt.flows("intervene", limit=1_000)
        screen.show(self._looks[-1], list(flows), len(self._rt.inbox()))

    def _kill(self, what: str) -> int | None:
        """SIGKILL one process of a kind, at a moment when it has something to do."""
        if what == "agent host":
            pids = [row["pid"] for row in self._rt.agent_hosts() if row.get("pid")]
        elif what == "flow worker":
            if not list(self._rt.flows("intervene", status="running")):
                return None
            pids = [row["pid"] for row in self._rt.ps() if row["role"] == what and row["pid"]]
        else:
            pids = self._rt.subscriptions()[SUBSCRIPTION].fields["pids"]
        if not pids:
            return None
        os.kill(int(pids[0]), signal.SIGKILL)
        return int(pids[0])

    def _drain(self, site: Site, screen: Screen) -> dict[str, Watching]:
        """Wait until every reading is judged and every intervention has ended."""
        screen.say(f"{site.readings_sent:,} readings are sent; what was begun is finished")
        give_up_s = time.monotonic() + DRAIN_S
        while True:
            site.check()
            self._strike(site, screen)
            states = {
                plan.machine: self._rt.agent("machine", plan.machine).state(Watching)
                for plan in self._plans
            }
            judged = sum(state.judged for state in states.values())
            still = [state.open for state in states.values() if state.open]
            flows = [row for row in self._rt.flows("intervene", limit=1_000) if not ended(row)]
            if judged >= site.readings_sent and not still and not flows:
                return states
            if time.monotonic() > give_up_s:
                screen.say(f"{judged:,} are judged; {still} are open: given up", "red")
                return states
            time.sleep(LOOK_S)

    def _collected(self, site: Site, people: Operations, states: dict[str, Watching]) -> Outcome:
        logs = {
            machine: [
                entry["choice"]
                for entry in reversed(list(self._rt.agent("machine", machine).log(10_000)))
                if entry["kind"] == "choice" and entry["choice"] in outcome.VERDICTS
            ]
            for machine in states
        }
        return outcome.collect(
            site,
            states,
            logs,
            plans=self._plans,
            flows=list(self._rt.flows("intervene", limit=1_000)),
            reservations=roster.reservations(self._roster),
            calls=roster.calls(self._roster),
            said=people.said,
            looks=self._looks,
            kills=self._kills,
            kills_wanted=len(KILLS) if self._options.kills else 0,
            dead=[*self._rt.dead_messages(), *self._rt.dead_letters()],
            cost=self._rt.cost(),
            model=self._measured,
            machine=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        )


def ended(flow: dict[str, Any]) -> bool:
    """Whether a flow's row is that of one that has ended."""
    return flow["status"] in ("finished", "failed", "cancelled")
