"""One attempt of a step in a process of its own, made of the flow's text."""

import asyncio
import sys
from typing import Any

from aios.errors import UsageError
from aios.flows.outcomes import Outcome, Outcomes, told
from aios.flows.writing import OPERATION, Step
from aios.packaging import load_code
from aios.records import CodeSource


def carry_out_step(
    source: CodeSource, name: str, call: dict[str, Any], outcomes: Outcomes
) -> Outcome:
    """What the step `name` of a text gave, or how it failed.

    Args:
        call: `args`, `kwargs` and the `operation` id.
    """
    try:
        found = load_code(source, "flow")
        step = getattr(sys.modules[found.function.__module__], name, None)
        if not isinstance(step, Step):
            raise UsageError(f"the text of {source.path} has no step {name!r} at its top")
        OPERATION.set(call["operation"])
        result = step.function(*call["args"], **call["kwargs"])
        if step.asynchronous:
            result = asyncio.run(result)
        return outcomes.of(result, f"what step {name!r} returns")
    except Exception as error:  # noqa: BLE001 - the step's own, told to its flow
        return {"failed": told(error, source)}
