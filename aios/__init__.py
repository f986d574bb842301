"""aios: one runtime on Ray for the whole life of an AI feature in production.

    import aios

    with aios.local() as rt:                       # or aios.connect() to one that is up
        rt.models.register("loan", estimator, contract=contract, sample=frame)
        loan = rt.deploy("loan", "loan:1")
        loan.predict([{"income": 72}])
        rt.rollout("loan", "loan:2", aios.Canary()).wait()

Importing does nothing but import: no logging set up, no environment read, no Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aios.agents import ChildFailed, Context, agent, mcp_tool, tool
    from aios.contracts import Boolean, Category, Contract, Integer, Number, Tensor, Text
    from aios.errors import (
        AiosError,
        ArtifactRejected,
        BudgetExceeded,
        ClusterUnavailable,
        ContractViolation,
        DeadlineExceeded,
        Forbidden,
        IllegalTransition,
        ModelFailed,
        NotApproved,
        Overloaded,
        PermanentError,
        TemporaryError,
        UnknownEndpoint,
        UnknownModel,
        Unsupported,
        UsageError,
    )
    from aios.flows.writing import ask, flow, operation_id, sleep, step
    from aios.models import PythonModel
    from aios.records import Autoscale, Cached, DataSource, Default, GateResult, Rule
    from aios.records.agents import Budget, Restarts
    from aios.records.alerts import EmailAlert, SlackAlert, WebhookAlert
    from aios.records.events import Files, Kafka, PostgresCDC, RabbitMQ, Schedule, Webhook
    from aios.records.watching import RetrainBudget
    from aios.rollout import BlueGreen, Canary, Shadow
    from aios.runtime.agents import Agent
    from aios.runtime.emitting import emit
    from aios.runtime.flows import FlowHandle
    from aios.runtime.lifecycle import connect, local
    from aios.runtime.monitor import Monitor
    from aios.runtime.objects import Answer, Endpoint, Rollout
    from aios.runtime.runtime import Runtime
    from aios.runtime.training import Run
    from aios.runtime.watching import Retrain, Watch
    from aios.training.recipe import Recipe, choice, integers, loguniform, uniform
    from aios.training.torch_recipe import TorchRecipe

_ROOMS = {
    "aios.agents": ("ChildFailed", "Context", "agent", "mcp_tool", "tool"),
    "aios.contracts": ("Boolean", "Category", "Contract", "Integer", "Number", "Tensor", "Text"),
    "aios.errors": (
        "AiosError",
        "ArtifactRejected",
        "BudgetExceeded",
        "ClusterUnavailable",
        "ContractViolation",
        "DeadlineExceeded",
        "Forbidden",
        "IllegalTransition",
        "ModelFailed",
        "NotApproved",
        "Overloaded",
        "PermanentError",
        "TemporaryError",
        "UnknownEndpoint",
        "UnknownModel",
        "Unsupported",
        "UsageError",
    ),
    "aios.flows.writing": ("ask", "flow", "operation_id", "sleep", "step"),
    "aios.models": ("PythonModel",),
    "aios.records": ("Autoscale", "Cached", "DataSource", "Default", "GateResult", "Rule"),
    "aios.records.agents": ("Budget", "Restarts"),
    "aios.records.alerts": ("EmailAlert", "SlackAlert", "WebhookAlert"),
    "aios.records.events": ("Files", "Kafka", "PostgresCDC", "RabbitMQ", "Schedule", "Webhook"),
    "aios.records.watching": ("RetrainBudget",),
    "aios.rollout": ("BlueGreen", "Canary", "Shadow"),
    "aios.runtime.agents": ("Agent",),
    "aios.runtime.emitting": ("emit",),
    "aios.runtime.flows": ("FlowHandle",),
    "aios.runtime.lifecycle": ("connect", "local"),
    "aios.runtime.monitor": ("Monitor",),
    "aios.runtime.objects": ("Answer", "Endpoint", "Rollout"),
    "aios.runtime.runtime": ("Runtime",),
    "aios.runtime.training": ("Run",),
    "aios.runtime.watching": ("Retrain", "Watch"),
    "aios.training.recipe": ("Recipe", "choice", "integers", "loguniform", "uniform"),
    "aios.training.torch_recipe": ("TorchRecipe",),
}
"""What comes from where, as above. A room is imported when something of it is first asked for: a
replica, which imports a few rooms by their own names, has no use for the others."""
_WHERE = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'aios' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "Agent",
    "AiosError",
    "Answer",
    "ArtifactRejected",
    "Autoscale",
    "BlueGreen",
    "Boolean",
    "Budget",
    "BudgetExceeded",
    "Cached",
    "Canary",
    "Category",
    "ChildFailed",
    "ClusterUnavailable",
    "Context",
    "Contract",
    "ContractViolation",
    "DataSource",
    "DeadlineExceeded",
    "Default",
    "EmailAlert",
    "Endpoint",
    "Files",
    "FlowHandle",
    "Forbidden",
    "GateResult",
    "IllegalTransition",
    "Integer",
    "Kafka",
    "ModelFailed",
    "Monitor",
    "NotApproved",
    "Number",
    "Overloaded",
    "PermanentError",
    "PostgresCDC",
    "PythonModel",
    "RabbitMQ",
    "Recipe",
    "Restarts",
    "Retrain",
    "RetrainBudget",
    "Rollout",
    "Rule",
    "Run",
    "Runtime",
    "Schedule",
    "Shadow",
    "SlackAlert",
    "TemporaryError",
    "Tensor",
    "Text",
    "TorchRecipe",
    "UnknownEndpoint",
    "UnknownModel",
    "Unsupported",
    "UsageError",
    "Watch",
    "Webhook",
    "WebhookAlert",
    "agent",
    "ask",
    "choice",
    "connect",
    "emit",
    "flow",
    "integers",
    "local",
    "loguniform",
    "mcp_tool",
    "operation_id",
    "sleep",
    "step",
    "tool",
    "uniform",
]
