"""Prometheus metrics of agents.

| name | type | labels | what |
| --- | --- | --- | --- |
| aios_agents | gauge | agent, status | agents of a name: ready, exhausted, failed or killed |
| aios_agent_messages_waiting | gauge | agent | messages in the mailboxes of a name |
| aios_agent_messages_total | counter | agent | messages that are done, as the store counts them |
| aios_agent_turns_refused_total | counter | | ends of messages that came too late to count |
| aios_agent_hosts | gauge | | processes that run agents |
| aios_agent_tool_calls_waiting | gauge | | tool calls that wait for a person |

`agent` is the name, not the id, so that labels are bounded. A turn is refused where the message was
given to another host meanwhile: some after a host froze are as it should be.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aios.kernel.post import Post
from aios.registry import Registry


class AgentMetrics(Collector):
    """How agents stand, when asked for."""

    def __init__(self, registry: Registry, post: Post) -> None:
        self._registry = registry
        self._post = post
        self.refused = 0

    def collect(self) -> Iterator[Metric]:
        agents = GaugeMetricFamily("aios_agents", "Agents", labels=["agent", "status"])
        waiting = GaugeMetricFamily(
            "aios_agent_messages_waiting", "Messages that wait", labels=["agent"]
        )
        done = CounterMetricFamily("aios_agent_messages", "Messages done", labels=["agent"])
        sums: dict[str, list[int]] = {}
        for row in self._registry.agent_counts():
            agents.add_metric([row["name"], row["status"]], row["agents"])
            known = sums.setdefault(row["name"], [0, 0])
            known[0] += row["waiting"]
            known[1] += row["handled"]
        for name, (wait, handled) in sums.items():
            waiting.add_metric([name], wait)
            done.add_metric([name], handled)
        yield from (agents, waiting, done)
        refused = CounterMetricFamily("aios_agent_turns_refused", "Turns that came too late")
        refused.add_metric([], self.refused)
        yield refused
        yield GaugeMetricFamily("aios_agent_hosts", "Hosts", value=len(self._post.hosts()))
        calls = len(self._registry.waiting_calls())
        yield GaugeMetricFamily(
            "aios_agent_tool_calls_waiting", "Tool calls that wait for a person", value=calls
        )
