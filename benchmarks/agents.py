"""What do agents cost: asking one, messages per second, and ten thousand that are idle?

One private runtime. An agent counts its messages, which is durable: state, reply and the end of the
message are on disk before the answer. Beside it, in the same Ray and in the same rounds, an async
Ray actor that counts too, and forgets when it dies. Everything is asked

  sdk     `Agent.ask` over HTTP: HAProxy, the API's replica, the kernel, a host, and back
  kernel  the same without HTTP: a Ray call to the kernel, as the API makes it
  actor   `ray.get(actor.ask.remote())`

one after the other (p50 and p99), and many at once: messages for `--agents` agents in batches of
1,000, until all are handled, against as many calls to as many actors' methods awaited together.
Then `--idle` agents are spawned and told one message each; memory is that of the hosts and of the
kernel (RSS) before and after, and again once the agents were let go.

    python -m benchmarks.agents [--rounds 3] [--asks 200] [--messages 5000] [--idle 10000]

Caveats: load and servers share the machine; a spinning disk would show in every durable figure.
"""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
from pydantic import BaseModel

import aios
from aios.agents.host import IDLE_S
from aios.capacity.machine import describe
from aios.kernel.head import Head, read_head
from aios.kernel.processes import processes_of
from benchmarks.commands import arguments, begin, count, parser_of
from benchmarks.results import RESULTS, ResultFile
from benchmarks.runtimes import runtime

BATCH = 1_000
SPAWNERS = 8
STARTUP_S = 120.0


class Count(BaseModel):
    """What a counter remembers."""

    messages: int = 0


@aios.agent(state=Count)
class Counter:
    """Counts its messages."""

    async def on_message(self, ctx: aios.Context, message: int) -> int:
        ctx.state.messages += 1
        found: int = ctx.state.messages
        return found


def main() -> None:
    """Measure, write the result, and print one JSON line."""
    parser = parser_of("agents", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="0: only `--idle`")
    parser.add_argument("--asks", type=count, default=200)
    parser.add_argument("--messages", type=count, default=5_000)
    parser.add_argument("--agents", type=count, default=100)
    parser.add_argument("--idle", type=int, default=10_000, help="0: none")
    short = {"rounds": 2, "asks": 50, "messages": 1_000, "agents": 20, "idle": 0}
    given = arguments(parser, short)
    file = ResultFile(RESULTS, "agents")
    file.run(seed=None, machine=describe(), **vars(given))
    with runtime() as rt:
        head = read_head(rt.home)
        assert head is not None
        counters = [rt.spawn(Counter, id=f"c-{n}") for n in range(given.agents)]
        counters[0].ask(0)
        _wait_for_hosts(rt)
        rounds = []
        for number in range(given.rounds):
            rounds.append(_round(rt, head, counters, given))
            _keep(file, rounds[-1], number)
        found: dict[str, Any] = {}
        if rounds:
            found = {name: _medians([one[name] for one in rounds]) for name in rounds[0]}
            found |= _ratios(found)
        if given.idle > 0:
            found["idle"] = _idle(rt, head, given.idle)
            for name, better in IDLE.items():
                file.figure(f"idle: {name}", found["idle"][name], better)
            file.add("idle", found["idle"])
    print(json.dumps({"machine": describe(), **vars(given), **found}))
    print(f"written to {file.path}")


IDLE: dict[str, Any] = {
    "spawn_per_s": "higher",
    "messages_per_s": "higher",
    "woken_s": "lower",
    "bytes_per_idle_agent": "lower",
}


def _keep(file: ResultFile, found: dict[str, dict[str, float]], number: int) -> None:
    for side, figures in found.items():
        for name, value in figures.items():
            better: Any = "higher" if name == "per_s" else "lower"
            file.figure(f"{side}: {name}", value, better, number)
            print(f"round {number + 1}, {side}: {name} {value:.2f}", file=sys.stderr, flush=True)


def _round(rt: Any, head: Head, counters: list[Any], given: Any) -> dict[str, dict[str, float]]:
    """Each of the three, one after the other."""
    told = {"asks": given.asks, "messages": given.messages, "actors": given.agents}
    beside = _on_ray(head, told, counters[0].ref)
    took_s = [_timed(lambda: counters[0].ask(1)) for _ in range(given.asks)]
    return {"sdk": {**_percentiles(took_s), "per_s": _told(rt, counters, given.messages)}, **beside}


def _told(rt: Any, counters: list[Any], messages: int) -> float:
    """Messages handled per second, from the first that is sent to the last that is done."""
    before = _handled(rt)
    begun_s = time.perf_counter()
    for start in range(0, messages, BATCH):
        size = min(BATCH, messages - start)
        rt.tell_agents([(counters[(start + n) % len(counters)], n) for n in range(size)])
    while _handled(rt) < before + messages:
        time.sleep(0.02)
    return messages / (time.perf_counter() - begun_s)


def _handled(rt: Any) -> int:
    return sum(one["handled"] for one in rt.agent_counts())


def _on_ray(head: Head, told: dict[str, int], ref: str) -> dict[str, dict[str, float]]:
    """What the process measures that joins the same Ray."""
    command = [sys.executable, "-m", "benchmarks.agents_on_ray", json.dumps(told), ref]
    done = subprocess.run(
        command,
        env=head.driver_env(),
        capture_output=True,
        text=True,
        timeout=STARTUP_S + 300,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the calls beside failed: {done.stderr[-2000:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _idle(rt: Any, head: Head, count: int) -> dict[str, Any]:
    """Memory of many agents: before there are any, with all of them awake, and asleep."""
    before = _memory(rt, head)
    begun_s = time.perf_counter()
    with ThreadPoolExecutor(SPAWNERS) as threads:
        refs = list(threads.map(lambda n: rt.spawn("counter", id=f"idle-{n}").ref, range(count)))
    spawned_s = time.perf_counter() - begun_s
    handled = _handled(rt)
    for start in range(0, count, BATCH):
        rt.tell_agents([(ref, 1) for ref in refs[start : start + BATCH]])
    while _handled(rt) < handled + count:
        time.sleep(0.2)
    told_s = time.perf_counter() - begun_s - spawned_s
    awake = _memory(rt, head)
    time.sleep(1.5 * IDLE_S)
    asleep = _memory(rt, head)
    woken_s = _timed(lambda: rt.agent("counter", "idle-7").ask(1))
    return {
        "agents": count,
        "spawn_per_s": count / spawned_s,
        "messages_per_s": count / told_s,
        "before": before,
        "after_one_message_each": awake,
        "asleep": asleep,
        "woken_s": woken_s,
        "bytes_per_idle_agent": (asleep["rss"] - before["rss"]) / count,
    }


def _memory(rt: Any, head: Head) -> dict[str, int]:
    """RSS of the hosts and the kernel, in bytes, and agents that hosts have in memory."""
    time.sleep(2.5)  # hosts tell how they are every 2 s
    hosts = list(rt.agent_hosts())
    kernel = next(one["pid"] for one in rt.ps() if one["role"] == "kernel")
    pids = [kernel, *(one["pid"] for one in hosts)]
    known = {process.pid for process in processes_of(head.id)}
    rss = sum(psutil.Process(pid).memory_info().rss for pid in pids if pid in known)
    return {"rss": rss, "awake": sum(one["awake"] for one in hosts)}


def _wait_for_hosts(rt: Any) -> None:
    give_up_s = time.monotonic() + STARTUP_S
    while not all(one.get("pid") for one in rt.agent_hosts()):
        if time.monotonic() > give_up_s:
            raise RuntimeError("the hosts did not start")
        time.sleep(0.5)


def _timed(call: Any) -> float:
    begun_s = time.perf_counter()
    call()
    return time.perf_counter() - begun_s


def _percentiles(took_s: list[float]) -> dict[str, float]:
    return {
        "p50_ms": 1e3 * float(np.percentile(took_s, 50)),
        "p99_ms": 1e3 * float(np.percentile(took_s, 99)),
    }


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([one[name] for one in rounds])) for name in rounds[0]}


def _ratios(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Ours against bare actor calls: times longer, and share of their messages."""
    actor = found["actor"]
    return {
        "sdk_ask_times_actor": found["sdk"]["p50_ms"] / actor["p50_ms"],
        "kernel_ask_times_actor": found["kernel"]["p50_ms"] / actor["p50_ms"],
        "messages_of_actor": found["sdk"]["per_s"] / actor["per_s"],
    }


if __name__ == "__main__":
    begin(main)
