"""Agents under random kills of their hosts: no message lost, none applied twice, all in order.

Every agent gets the numbers 0, 1, 2, ... while, at random instants, a host is killed, or frozen and
woken later, or the kernel is killed. An agent's memory is the list of numbers that it handled: it
must be 0 to n-1. Some messages pass through two agents, which shows that what a message sent left
once.

    python -m tests.chaos.agent_kills [--kills 100] [--agents 20] [--seed 0]
"""

import argparse
import os
import random
import signal
import sys
import threading
import time
from collections import Counter as Counted
from contextlib import suppress
from typing import Any

import psutil

import aios
from aios.errors import ClusterUnavailable
from tests.integration.agent_classes import Counter, Relay

PAUSE_S = (0.5, 3.0)
"""Between two kills. A host needs some seconds to start; kills come sooner, too."""
FROZEN_SHARE = 0.2
KERNEL_SHARE = 0.1
"""Of the strikes; with the kernel all hosts end."""
SETTLE_S = 300.0
BETWEEN_S = 0.25
"""Between two numbers. Each makes every memory longer, which is written anew with each message."""
MOST_WAITING = 2_000
"""Messages in mailboxes while hosts die: more are not sent until some are handled."""


def main() -> None:
    """Kill, then count; ends with 1 where a number is missing, twice there, or out of order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with aios.local() as rt:
        found = run(rt, given.kills, given.agents, random.Random(given.seed))
    print(found)
    if found["wrong"] or found["dead"] or not found.get("killed"):
        raise SystemExit(1)


def run(rt: Any, kills: int, agents: int, random_: random.Random) -> dict[str, Any]:
    """What was sent, how many hosts died, and the agents whose memory is not what it must be."""
    counters = [rt.spawn(Counter, id=f"c-{n}") for n in range(agents)]
    relay = rt.spawn(Relay, id="r-1")
    rt.spawn(Counter, id="relayed")
    over = threading.Event()
    sent = [0]
    unknown = set()

    def send() -> None:
        while not over.is_set():
            relayed = {"to": "counter/relayed", "message": sent[0]}
            try:
                while sent[0] % 20 == 0 and not over.is_set() and _waiting(rt) > MOST_WAITING:
                    time.sleep(0.5)
                rt.tell_agents([*((one, sent[0]) for one in counters), (relay, relayed)])
            except ClusterUnavailable:
                unknown.add(sent[0])  # all of them have arrived, or none
            sent[0] += 1
            time.sleep(BETWEEN_S)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        struck: Counted[str] = Counted()
        for _ in range(kills):
            done = _struck(rt, random_)
            struck[done] += 1
            print(f"{struck.total()} of {kills}: {done}", file=sys.stderr, flush=True)
    finally:
        over.set()
        sender.join()
    _settle(rt)
    refs = [*counters, rt.agent("counter", "relayed")]
    arrived = set(refs[0].state()["numbers"])
    wanted = [n for n in range(sent[0]) if n not in unknown or n in arrived]
    wrong = [one.ref for one in refs if one.state()["numbers"] != wanted]
    told = {
        **struck,
        "messages": len(wanted) * (agents + 2),
        "unknown": len(unknown),
        "wrong": wrong,
    }
    return {**told, "dead": len(rt.dead_messages())}


def _struck(rt: Any, random_: random.Random) -> str:
    """What was done, at the first try that finds something to do it to."""
    give_up_s = time.monotonic() + SETTLE_S
    while (done := _strike(rt, random_)) is None:
        if time.monotonic() > give_up_s:
            raise SystemExit(f"no host to strike for {SETTLE_S:.0f} s: {rt.agent_hosts()!r}")
    return done


def _strike(rt: Any, random_: random.Random) -> str | None:
    """Kill or freeze a host that is up: which of the two, once a killed one is seen to be gone."""
    time.sleep(random_.uniform(*PAUSE_S))
    if random_.random() < KERNEL_SHARE:
        pid = next(one["pid"] for one in rt.ps() if one["role"] == "kernel")
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)
        return "kernel killed"
    pids = [one["pid"] for one in rt.agent_hosts() if one.get("pid")]
    if not pids:
        return None
    pid = random_.choice(pids)
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        process = psutil.Process(pid)
        if random_.random() < FROZEN_SHARE:
            process.suspend()
            time.sleep(random_.uniform(5, 15))  # from 10 s on it counts as dead
            process.resume()
            return "frozen"
        os.kill(pid, signal.SIGKILL)
        process.wait(timeout=30)
        return "killed"
    return None  # it had ended by itself, or was ended as dead while it was frozen


def _waiting(rt: Any) -> int:
    """How many messages nobody has handled."""
    return sum(one["waiting"] for one in rt.agent_counts())


def _settle(rt: Any) -> None:
    give_up_s = time.monotonic() + SETTLE_S
    while _waiting(rt):
        if time.monotonic() > give_up_s:
            raise SystemExit(f"messages still wait: {rt.agent_counts()!r}")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
