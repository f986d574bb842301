"""One attempt of a step in a process of its own, made of the flow's text."""

import asyncio
import sys
from types import ModuleType
from typing import Any

from aios.errors import UsageError
from aios.flows.outcomes import Outcome, Outcomes, told
from aios.flows.writing import OPERATION, Flow, Step
from aios.packaging import exits_told, load_code
from aios.records import CodeSource


def load_module(source: CodeSource) -> ModuleType:
    """The text of a flow, run.

    Raises:
        UsageError: it cannot be run here, or defines no flow under its name.
    """
    found = load_code(source, "flow")
    if not isinstance(found, Flow):
        raise UsageError(f"{source.path} is no flow: put @aios.flow above it")
    return sys.modules[found.function.__module__]


def carry_out_step(
    source: CodeSource, name: str, call: dict[str, Any], outcomes: Outcomes
) -> Outcome:
    """What the step `name` of a text gave, or how it failed.

    Args:
        call: `args`, `kwargs` and the `operation` id.
    """
    try:
        step = getattr(load_module(source), name, None)
        if not isinstance(step, Step):
            raise UsageError(f"the text of {source.path} has no step {name!r} at its top")
        OPERATION.set(call["operation"])
        with exits_told():
            result = step.function(*call["args"], **call["kwargs"])
            if step.asynchronous:
                result = asyncio.run(result)
        return outcomes.of(result, f"what step {name!r} returns")
    except Exception as error:  # noqa: BLE001 - the step's own, told to its flow
        return {"failed": told(error, source)}
