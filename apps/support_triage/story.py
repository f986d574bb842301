"""The story of a support desk: tickets come in, a classifier is replaced, processes are killed, and
every ticket is answered once."""

import base64
import os
import platform
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aios
from apps import drawing, supplies
from apps.brokers import rabbitmq_server, running_rabbitmq
from apps.support_triage import tickets as data
from apps.support_triage.display import Screen, told
from apps.support_triage.figures import (
    Bill,
    Happened,
    Spent,
    bill_between,
    kpis,
    ledger,
    outcomes,
)
from apps.support_triage.people import Desks, Support
from apps.support_triage.report import RolloutTold, Told, write_report
from apps.support_triage.tickets import Ticket
from apps.support_triage.traffic import Broker, Desk, Traffic, drop, reach
from apps.support_triage.triage import BROKER, ENDPOINT, REPLIES, SUPPORT, Triage

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

SECRET = "support-hook"
PLAN = aios.Canary(
    steps=(0.25, 0.5, 1.0),
    bake_s=6,
    abort_when=("errors worse by 0.1", "latency_p50 > 3x + 100ms", "kpi worse by 0.2"),
    max_stage_s=300,
    no_data_s=60,
)
"""The KPI is whether the classifier named the product that the ticket had when it was closed."""
ROLLOUT_AT, HOST_DIES_AT, WORKER_DIES_AT = 0.2, 0.45, 0.6
"""After which share of the tickets."""
CURRENCY, NODE_HOUR = "EUR", 0.10
TRIALS = 4
"""Tickets with which the desk is tried before it opens: the first of each kind starts a process."""
LOOK_S = 0.5
QUIET_S = 15.0
"""After the last reply a rollout that is not decided by then never will be."""
TRIAL_LIMIT_S = 240.0
AFTER_LIMIT_S = 900.0
"""How long after the last ticket answers are waited for: a busy machine takes its time."""


@dataclass(frozen=True)
class Options:
    """How the story is told.

    Attributes:
        tickets: how many.
        rate_per_s: how many come in each second.
        broker: URL of a RabbitMQ that runs; None starts one.
        worse: roll out a version that is worse.
        person_cost: what a person's time for a ticket costs, an assumption: five minutes at 30
            an hour.
        out: folder of the report.
        cache: folder of the data.
        plan: of the rollout.
    """

    tickets: int = 1_500
    rate_per_s: float = 10.0
    broker: str | None = None
    worse: bool = False
    person_cost: float = 2.50
    out: Path = Path("out")
    cache: Path = supplies.CACHE
    plan: aios.Canary = PLAN


def main(options: Options, console: "Console | None" = None) -> int:
    """Tell the story on a private runtime, and write the report.

    Returns:
        0 if every ticket was answered once and the rollout ended as it should; else 1.

    Raises:
        UsageError: an option cannot be taken, or something that is needed is not there; before
            anything is started.
    """
    from rich.console import Console

    console = console or Console(highlight=False)
    drawing.blank_figure(1, 1)
    _check(options)
    if options.broker is None:
        rabbitmq_server()
    else:
        reach(options.broker)
    frame = data.load(options.cache)
    todo = data.unseen(frame, options.tickets)
    console.print("[bold]aios: a support desk[/bold] on complaints to the US CFPB")
    with (
        _broker(options.broker) as broker,
        _environment({BROKER: broker.url, REPLIES: broker.replies}),
    ):
        prices = {"currency": CURRENCY, "default_node_hour": NODE_HOUR}
        with aios.local(window_s=5.0, prices=prices) as rt:
            console.print(f"a private runtime is up at {rt.address}, RabbitMQ at {broker.url}")
            return _Story(rt, options, frame, todo, broker, console).tell()


def _check(options: Options) -> None:
    if not 0 < options.rate_per_s <= 1_000:
        raise aios.UsageError(f"{options.rate_per_s:g} tickets a second: give 0 to 1,000")
    if not 0 <= options.person_cost < float("inf"):
        raise aios.UsageError(f"{options.person_cost:g} for a person's time: give 0 or more")
    if find_spec("aio_pika") is None:
        raise aios.UsageError("RabbitMQ is reached by aio-pika: `pip install 'aios[rabbitmq]'`")


class _Story:
    def __init__(
        self,
        rt: Any,
        options: Options,
        frame: "pd.DataFrame",
        todo: list[Ticket],
        broker: Broker,
        console: "Console",
    ) -> None:
        self._rt = rt
        self._options = options
        self._frame = frame
        self._todo = todo
        self._broker = broker
        self._console = console
        self._secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self._happened: list[Happened] = []
        self._surprises: list[str] = []
        self._rollout: aios.Rollout | None = None
        self._over = False
        self._due = {
            "rollout": (ROLLOUT_AT, self._roll_out),
            "host": (HOST_DIES_AT, self._kill_host),
            "worker": (WORKER_DIES_AT, self._kill_worker),
        }

    def tell(self) -> int:
        rt = self._rt
        accuracies = self._register()
        rt.deploy(ENDPOINT, f"{ENDPOINT}:1", deadline_s=5.0)
        watch = rt.watch(ENDPOINT, concept="accuracy < 0.5", output="product", min_labels=100)
        self._hook = self._subscribe()
        self._person = aios.connect(rt.address, rt.keys.add(SUPPORT, role="viewer").key)
        self._try_out()
        before = self._spent()
        self._desk = Desk()
        with Screen(self._desk, len(self._todo), self._console) as self._screen:
            self._work()
        bill = bill_between(before, self._spent(), CURRENCY, self._options.person_cost)
        return self._end(accuracies, bill, watch)

    # -- before the doors open --------------------------------------------------------

    def _register(self) -> dict[int, float]:
        """Two versions of the classifier; how often each is right on the tickets to come."""
        second = data.worse_classifier if self._options.worse else data.better_classifier
        found = {}
        for version, train in ((1, data.first_classifier), (2, second)):
            model = train(self._frame)
            found[version] = data.accuracy(model, self._todo)
            self._rt.models.register(
                ENDPOINT,
                model,
                contract=data.contract(),
                sample=self._frame.head(200)[[data.TEXT]],
                outputs=data.OUTPUTS,
                metrics={"accuracy": found[version]},
            )
            self._console.print(f"version {version} names the product of {found[version]:.1%}")
        return found

    def _subscribe(self) -> str:
        """Let an agent handle each ticket, whichever way it comes; the webhook's URL."""
        folder = self._rt.home / "secrets"
        folder.mkdir(exist_ok=True)
        (folder / SECRET).write_text(self._secret)
        source = aios.Webhook(secret=f"file:{SECRET}")
        hook = self._rt.on(source, agent=Triage, key="ticket")
        self._rt.on(
            aios.RabbitMQ(self._broker.url, queue=self._broker.tickets), agent=Triage, key="ticket"
        )
        return f"{self._rt.address}{hook.path}"

    def _try_out(self) -> None:
        """Answer a few tickets of old, one of them by a person, until every process is up."""
        rows = self._frame.head(TRIALS).itertuples(index=False)
        trials = [Ticket(f"trial-{n}", row.text, row.product) for n, row in enumerate(rows)]
        trials[-1] = Ticket("trial-legal", "My lawyer says that you owe me.", "debt collection")
        desk = Desk()
        by_id = {one.id: one for one in trials}
        with (
            self._console.status("trying the desk out"),
            Support(self._person, by_id) as support,
            self._traffic(desk, trials, rate=100) as traffic,
        ):
            _wait(lambda: len(desk.answered) == TRIALS, TRIAL_LIMIT_S, traffic, support)
        self._console.print(f"{TRIALS} tickets on trial were answered: the desk opens")

    def _traffic(self, desk: Desk, todo: list[Ticket], rate: float) -> Traffic:
        return Traffic(desk, todo, self._broker, self._hook, self._secret, rate)

    # -- while they are open ----------------------------------------------------------

    def _work(self) -> None:
        by_id = {one.id: one for one in self._todo}
        with (
            Support(self._person, by_id) as support,
            Desks(self._rt, self._desk) as desks,
            self._traffic(self._desk, self._todo, self._options.rate_per_s) as self._sending,
        ):
            limit_s = len(self._todo) / self._options.rate_per_s + AFTER_LIMIT_S
            try:
                _wait(self._looked, limit_s, self._sending, support, desks)
            except aios.DeadlineExceeded as error:
                raise aios.DeadlineExceeded(f"{error.message}: {self._still()}") from None

    def _looked(self) -> bool:
        """Do what is due; whether all is over."""
        sent = len(self._desk.sent) / len(self._todo)
        for name in [name for name, (at, _) in self._due.items() if sent >= at]:
            _, act = self._due.pop(name)
            act()
        status = None if self._rollout is None else self._rollout.status()
        running = status is not None and not status.finished
        # On a busy machine it takes long to start: then all tickets would be over before it is up.
        self._sending.held = status is not None and status.stage == "starting"
        self._screen.show(status.fields if status is not None and running else None)
        if status is not None and not running and not self._over:
            self._over = True
            self._tell(f"the rollout is over: {status.summary}", "green")
        answered = len(self._desk.answered) == len(self._todo)
        if self._rollout is not None and answered and running and self._quiet_s() > QUIET_S:
            self._rollout.abort("the tickets were over before it was decided")
        return answered and not running

    def _still(self) -> str:
        """What is not over yet."""
        desk, rollout = self._desk, self._rollout
        answered = f"{len(desk.answered)} of {len(desk.sent)} sent tickets are answered"
        return f"{answered}; rollout: {rollout.status().summary if rollout else 'none'}"

    def _quiet_s(self) -> float:
        """Since the last reply."""
        return self._desk.elapsed_s - self._desk.replies[-1].at_s

    def _roll_out(self) -> None:
        self._rollout = self._rt.rollout(ENDPOINT, f"{ENDPOINT}:2", self._options.plan)
        kind = "a worse" if self._options.worse else "a better"
        self._tell(f"{kind} classifier is rolled out behind a canary, by ticket", "yellow")

    def _kill_host(self) -> None:
        pids = [one["pid"] for one in self._rt.agent_hosts() if one.get("pid")]
        self._kill(pids, "an agent host")

    def _kill_worker(self) -> None:
        pids = [one["pid"] for one in self._rt.ps() if one["role"] == "flow worker" and one["pid"]]
        self._kill(pids, "a flow worker")

    def _kill(self, pids: list[int], what: str) -> None:
        if not pids:
            self._expect(False, f"{what} was to be killed, and there is none")
            return
        os.kill(pids[0], signal.SIGKILL)
        self._tell(f"{what} is killed (pid {pids[0]})", "red")

    # -- afterwards -------------------------------------------------------------------

    def _end(self, accuracies: dict[int, float], bill: Bill, watch: aios.Watch) -> int:
        found, book = outcomes(self._desk), ledger(self._desk)
        self._expect(
            book.balanced,
            f"lost {book.lost[:3]}, answered twice {book.twice[:3]}, strange {book.strange[:3]}",
        )
        self._expect(bill.adds_up, f"the parts do not sum to the bill: {bill.parts}")
        self._expect(not self._due, "not all that was to be killed was")
        rollout = self._rollout_told()
        wanted = "rolled_back" if self._options.worse else "promoted"
        self._expect(rollout.outcome == wanted, f"the rollout ended {rollout.outcome}")
        self._expect(not list(self._rt.dead_messages()), "messages were given up")
        self._expect(not list(self._rt.dead_letters()), "events were set aside")
        findings = watch.status().findings
        quality = findings[0]["reason"] if findings else "no label came"
        report = write_report(
            Told(
                outcomes=tuple(found),
                ledger=book,
                bill=bill,
                happened=tuple(self._happened),
                rollout=rollout,
                accuracies=accuracies,
                quality=quality,
                repeats=self._desk.repeats,
                machine=f"{platform.machine()}, {os.cpu_count()} cores",
            ),
            self._options.out,
        )
        self._console.print(self._rt.cost(by="kind"))
        self._console.print(watch.status())
        every = kpis(found)
        cost = bill.whole / len(found)
        self._console.print(
            f"{book.sent:,} tickets, {book.replies:,} replies on the queue: {len(book.lost)} lost, "
            f"{len(book.twice)} answered twice\n{told(every)}\n"
            f"a ticket cost {cost:.2g} {CURRENCY} of machines and, at "
            f"{bill.person_cost:g} {CURRENCY} for each that a person read, "
            f"{bill.people(every) / len(found):.2f} {CURRENCY} of people\nreport: {report}"
        )
        for surprise in self._surprises:
            self._console.print(f"[red]not as expected: {surprise}[/red]")
        return 1 if self._surprises else 0

    def _rollout_told(self) -> RolloutTold:
        if self._rollout is None:
            return RolloutTold("never begun", "", 0.0, 0.0, ())
        status = self._rollout.status()
        began_s = time.time() - self._desk.elapsed_s
        ended_s = (status.finished_s or time.time()) - began_s
        return RolloutTold(
            status.outcome,
            status.reason or "",
            status.created_s - began_s,
            ended_s,
            tuple(status.verdicts),
        )

    def _spent(self) -> Spent:
        found = self._rt.cost(by="kind")
        return Spent(found.bill, {part["what"]: part["cost"] for part in found.parts})

    def _tell(self, text: str, style: str) -> None:
        self._happened.append(Happened(self._desk.elapsed_s, text))
        self._screen.say(text, style)

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._surprises.append(otherwise)


def _wait(over: Any, limit_s: float, *threads: Any) -> None:
    """Look until it is over, too late, or a thread failed.

    Raises:
        DeadlineExceeded: it is not over after so long.
        Exception: what a thread failed of.
    """
    give_up_s = time.monotonic() + limit_s
    while not over():
        for thread in threads:
            if thread.failed is not None:
                raise thread.failed
        if time.monotonic() > give_up_s:
            raise aios.DeadlineExceeded(f"the desk is not done after {limit_s:.0f} s")
        time.sleep(LOOK_S)


@contextmanager
def _broker(given: str | None) -> Iterator[Broker]:
    """A RabbitMQ, ours if none is given, with queues of this run alone."""
    run = secrets.token_hex(4)
    with ExitStack() as stack:
        url = given or stack.enter_context(running_rabbitmq()).url
        broker = Broker(url, tickets=f"tickets-{run}", replies=f"replies-{run}")
        yield broker
        drop(broker)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
