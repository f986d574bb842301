"""The story of a support desk: tickets come in, a classifier learns, processes die, nothing is lost."""

import base64
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aios
from apps.brokers import running_rabbitmq
from apps.support_triage import tickets as data
from apps.support_triage.figures import kpis, ledger, outcomes
from apps.support_triage.people import Desks, Support
from apps.support_triage.traffic import TICKETS, Desk, Traffic
from apps.support_triage.triage import BROKER, ENDPOINT, SUPPORT, Triage

if TYPE_CHECKING:
    from rich.console import Console

SECRET = "support-hook"
PLAN = aios.Canary(
    steps=(0.25, 0.5, 1.0),
    bake_s=8,
    min_requests=20,
    abort_when=("errors worse by 0.1", "latency_p95 > 3x + 200ms", "kpi worse by 0.2"),
    max_stage_s=90,
    no_data_s=30,
)
PRICES = {"currency": "EUR", "default_node_hour": 0.10}
LOOK_S = 0.5


@dataclass(frozen=True)
class Options:
    """How the story is told. `broker` is the URL of a RabbitMQ that runs; None starts one."""

    tickets: int = 1_500
    rate_per_s: float = 10.0
    broker: str | None = None
    out: Path = Path("out")
    worse: bool = False


def main(options: Options, console: "Console | None" = None) -> int:
    from rich.console import Console

    console = console or Console(highlight=False)
    frame = data.load()
    todo = data.unseen(frame, options.tickets)
    with ExitStack() as stack:
        broker = stack.enter_context(_broker(options.broker))
        os.environ[BROKER] = broker
        rt = stack.enter_context(aios.local(window_s=5.0, prices=PRICES))
        console.print(rt.address)
        first, second = data.first_classifier(frame), data.better_classifier(frame)
        for model in (first, second):
            rt.models.register(
                ENDPOINT,
                model,
                contract=data.contract(),
                sample=frame.head(150)[["text"]],
                outputs=data.OUTPUTS,
            )
        rt.deploy(ENDPOINT, f"{ENDPOINT}:1", deadline_s=2.0)
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        (rt.home / "secrets").mkdir(exist_ok=True)
        (rt.home / "secrets" / SECRET).write_text(secret)
        hook = rt.on(aios.Webhook(secret=f"file:{SECRET}"), agent=Triage, key="ticket")
        rt.on(aios.RabbitMQ(broker, queue=TICKETS), agent=Triage, key="ticket")
        person = aios.connect(rt.address, rt.keys.add(SUPPORT, role="viewer").key)
        desk = Desk()
        traffic = Traffic(
            desk, todo, f"{rt.address}{hook.path}", secret, broker, options.rate_per_s
        )
        support = Support(person, {one.id: one for one in todo})
        desks = Desks(rt, desk)
        rollout = None
        with support, desks, traffic:
            killed = set()
            until = time.monotonic() + 600
            while time.monotonic() < until:
                time.sleep(2)
                done = len(desk.sent) / len(todo)
                k = kpis(outcomes(desk))
                console.print(
                    f"{desk.elapsed_s:.0f} sent {len(desk.sent)} answered {k.answered} defl {k.deflection:.2f} acc {k.accuracy:.2f} quick {k.quick.p50_s:.2f}/{k.quick.p95_s:.2f} slow {k.slow.p50_s:.2f}/{k.slow.p95_s:.2f} retries {desk.retries}; {rollout.status().summary if rollout else ''}"
                )
                if done > 0.2 and rollout is None:
                    rollout = rt.rollout(ENDPOINT, f"{ENDPOINT}:2", PLAN)
                if done > 0.5 and "host" not in killed:
                    killed.add("host")
                    for h in rt.agent_hosts():
                        print(h)
                        os.kill(h["pid"], signal.SIGKILL)
                        break
                if done > 0.7 and "worker" not in killed:
                    killed.add("worker")
                    rows = [p for p in rt.ps() if p["role"] == "flow worker"]
                    print(rows)
                    os.kill(rows[0]["pid"], signal.SIGKILL)
                if traffic.failed or support.failed or desks.failed:
                    console.print(traffic.failed, support.failed, desks.failed)
                    break
                if traffic.all_sent and k.answered >= len(todo):
                    break
            time.sleep(3)
        console.print(ledger(desk))
        console.print(rt.rollouts(ENDPOINT))
        console.print(rt.cost(by="kind"))
        console.print(rt.dead_letters())
        console.print(rt.dead_messages())
        console.print(rt.subscriptions())
        console.print(rt.ps())
        if rollout:
            console.print(rollout.status())
    return 0


@contextmanager
def _broker(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with running_rabbitmq() as rabbit:
        yield rabbit.url
