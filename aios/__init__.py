"""aios: one runtime on Ray for the whole life of an AI feature in production.

    import aios

    with aios.local() as rt:                       # or aios.connect() to one that is up
        rt.models.register("loan", estimator, contract=contract, sample=frame)
        loan = rt.deploy("loan", "loan:1")
        loan.predict([{"income": 72}])
        rt.rollout("loan", "loan:2", aios.Canary()).wait()

Importing does nothing but import: no logging set up, no environment read, no Ray.
"""

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
