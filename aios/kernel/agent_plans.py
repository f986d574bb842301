"""Versions of agents, rolled out by key: a share of the ids, shadows, and back."""

from collections import Counter
from typing import Any
from uuid import uuid4

from pydantic import Field

from aios.errors import IllegalTransition
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.mailroom import version_of
from aios.kernel.requests import MaybeName, Nothing, OfName
from aios.records import CodeSource, Record
from aios.records.agents import AgentFacts, AgentPlan, AgentRow
from aios.records.base import Name
from aios.registry import Registry

MOST_WORSE = 3
"""One may have failed of something that has passed since; three times is no accident."""


class RollOut(Record):
    """A version for a share of the agents of a name; as a shadow it handles copies alone."""

    name: Name
    version: int
    share: float = Field(ge=0, le=1)
    shadow: bool = False


class Define(Record):
    """A version of an agent, for later."""

    name: Name
    source: CodeSource
    facts: AgentFacts
    anew: bool = True


class AgentPlans:
    """Which agents run another version than the one that they were spawned with."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: list[AgentPlan] | None = None
        self._worse: Counter[tuple[str, int]] = Counter()
        self.commands: Commands = {
            "define_agent": (Define, self._define),
            "roll_out_agent": (RollOut, self._roll_out),
            "roll_back_agent": (OfName, self._roll_back),
        }
        self.queries: Queries = {
            "agent_plans": (Nothing, self._list),
            "agent_versions": (MaybeName, self._versions),
        }

    def all(self) -> list[AgentPlan]:
        """The plans in force."""
        if self._known is None:
            self._known = self._registry.agent_plans()
        return self._known

    def worse(self, name: str, version: int) -> None:
        """A version on trial failed a message that the agent's own version then handled. Some of
        them end the trial."""
        self._worse[name, version] += 1
        plan = next((one for one in self.all() if one.name == name), None)
        if plan is None or plan.version != version or self._worse[name, version] < MOST_WORSE:
            return
        why = f"it failed {MOST_WORSE} messages that the agents' own version then handled"
        with self._registry.change(
            actor="kernel",
            action="roll_back_agent",
            subject=name,
            details={"version": version, "reason": why},
        ) as change:
            change.drop_agent_plan(name)
        del self._worse[name, version]
        self._known = None

    def version_of(self, agent: AgentRow) -> int:
        """The version that an agent runs now."""
        plans = {plan.name: plan for plan in self.all()}
        return version_of(agent, plans.get(agent.name))

    def _define(self, request: Define, asked: Asked) -> dict[str, Any]:
        with asked.change(self._registry, "define_agent", request.name) as change:
            if change.done is not None:
                return change.done
            facts = request.facts.model_dump(mode="json")
            known = [] if request.anew else change.definitions("agent", request.name)
            made = next(
                (
                    one
                    for one in reversed(known)
                    if (one.source, one.facts) == (request.source, facts)
                ),
                None,
            ) or change.define("agent", request.name, request.source, facts, asked.actor)
            change.note(version=made.version)
            change.remember({"name": made.name, "version": made.version})
        return {"name": made.name, "version": made.version}

    def _roll_out(self, request: RollOut, asked: Asked) -> dict[str, Any]:
        told = request.model_dump(exclude={"name"})
        with asked.change(self._registry, "roll_out_agent", request.name, **told) as change:
            if change.done is not None:
                return change.done
            change.definition("agent", request.name, request.version)
            before = change.agent_plan(request.name)
            salt = uuid4().hex[:8]
            if before is not None and before.version == request.version:
                salt = before.salt  # a growing share only ever adds agents
            elif before is not None and not before.shadow:
                if before.share < 1:
                    raise IllegalTransition(
                        f"version {before.version} runs on {100 * before.share:.0f} % of the "
                        f"agents {request.name}; give it all of them or roll it back first"
                    )
                change.settle_agents(request.name, before.version)
            plan = AgentPlan(**request.model_dump(), salt=salt, at_s=change.at_s, by=asked.actor)
            change.put_agent_plan(plan)
            change.remember(plan.model_dump(mode="json"))
        self._known = None
        return plan.model_dump(mode="json")

    def _roll_back(self, request: OfName, asked: Asked) -> dict[str, Any]:
        with asked.change(self._registry, "roll_back_agent", request.name) as change:
            if change.done is not None:
                return change.done
            plan = change.agent_plan(request.name)
            if plan is None:
                raise IllegalTransition(
                    f"no version of agent {request.name!r} is rolled out; every agent runs its own"
                )
            change.drop_agent_plan(request.name)
            change.note(version=plan.version)
            change.remember(plan.model_dump(mode="json"))
        self._known = None
        return plan.model_dump(mode="json")

    def _versions(self, name: str | None = None) -> list[dict[str, Any]]:
        if name is not None:
            self._registry.definition("agent", name)
        found = self._registry.definitions("agent", name)
        return [one.model_dump(mode="json", exclude={"source"}) for one in found]

    def _list(self) -> list[dict[str, Any]]:
        return [plan.model_dump(mode="json") for plan in self.all()]
