"""The flow that `benchmarks.flows` measures: steps that do nothing, one after the other."""

from typing import Any

import aios


@aios.step
async def step(number: int) -> dict[str, Any]:
    return {"number": number}


@aios.flow
async def chain(steps: int) -> int:
    for number in range(steps):
        await step(number)
    return steps
