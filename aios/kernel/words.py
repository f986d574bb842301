"""Commands in the words of who gives them: what the SDK calls them."""

from collections.abc import Mapping

WORDS: Mapping[str, str] = {
    "agent": "rt.agent",
    "agent_counts": "rt.agent_counts",
    "agent_hosts": "rt.agent_hosts",
    "agent_log": "rt.agent(...).log",
    "agent_plans": "rt.agent_rollouts",
    "agent_reply": "rt.agent(...).ask",
    "agent_versions": "rt.agent_versions",
    "agents": "rt.agents",
    "answer": "rt.answer",
    "ask_agent": "rt.agent(...).ask",
    "cancel_flow": "rt.flow(...).cancel",
    "dead_letters": "rt.dead_letters",
    "dead_mail": "rt.dead_messages",
    "define_agent": "rt.roll_out_agent",
    "define_flow": "rt.start",
    "discard": "rt.discard",
    "emit": "rt.emit",
    "end_schedule": "rt.unschedule",
    "flow": "rt.flow",
    "flow_outcome": "rt.flow(...).result",
    "flow_steps": "rt.flow(...).steps",
    "flow_versions": "rt.flow_versions",
    "flows": "rt.flows",
    "fork_flow": "rt.flow(...).fork",
    "give_up": "rt.give_up",
    "grant_agent": "rt.agent(...).grant",
    "inbox": "rt.inbox",
    "kill_agent": "rt.agent(...).kill",
    "outbox": "rt.outbox",
    "queues": "rt.queues",
    "replay": "rt.replay",
    "revive_agent": "rt.agent(...).revive",
    "revive_mail": "rt.revive_message",
    "roll_back_agent": "rt.roll_back_agent",
    "roll_out_agent": "rt.roll_out_agent",
    "schedules": "rt.schedules",
    "set_queue": "rt.queue",
    "set_schedule": "rt.schedule",
    "spawn_agent": "rt.spawn",
    "start_flow": "rt.start",
    "subscribe": "rt.on",
    "subscriptions": "rt.subscriptions",
    "tell_agents": "rt.agent(...).tell",
    "unsubscribe": "rt.off",
}
"""The method of each command about flows, events and agents; a webhook is no method's."""


def spoken(command: str) -> str:
    """A command as messages name it."""
    return WORDS.get(command, command)
