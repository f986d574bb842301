"""Agents that the integration tests run. Their text travels to the hosts."""

import asyncio
from pathlib import Path

from pydantic import BaseModel

import aios


class Count(BaseModel):
    """What a counter remembers."""

    numbers: list[int] = []


@aios.agent(state=Count, restarts=aios.Restarts(retries=1, backoff_s=0.1, limit=50))
class Counter:
    """Remembers numbers, slowly enough to be killed between two of them."""

    async def on_message(self, ctx, message: int) -> list[int]:
        ctx.state.numbers.append(message)
        await asyncio.sleep(0.005)
        return ctx.state.numbers


@aios.agent
class Slow:
    """Takes as many seconds as it is told."""

    async def on_message(self, ctx, message: float) -> float:
        await asyncio.sleep(message)
        return message


@aios.agent(name="counter", state=Count, budget=aios.Budget(steps=1))
class NextCounter:
    """The next version of the counter."""

    async def on_message(self, ctx, message: int) -> str:
        ctx.state.numbers.append(message)
        return f"{len(ctx.state.numbers)} numbers"


@aios.agent(restarts=aios.Restarts(limit=50))
class Relay:
    """Passes messages on."""

    async def on_message(self, ctx, message: dict) -> None:
        await asyncio.sleep(0.005)
        await ctx.tell(message["to"], message["message"])


@aios.tool(scopes="payments", approval="finance", dry="not paid")
def pay(path: str, amount: float, idempotency_key: str) -> str:
    """Pay, which is one line in a file."""
    with Path(path).open("a") as file:
        file.write(f"{idempotency_key} {amount}\n")
    return f"paid {amount}"


@aios.agent(tools=[pay], restarts=aios.Restarts(retries=0))
class Desk:
    """Does what it is told, with all that an agent can do."""

    async def on_message(self, ctx, message: dict):
        do = message.pop("do")
        if do == "predict":
            (outputs,) = await ctx.predict("toy", message["row"])
            choice = "good" if outputs["p"] > 0.5 else "bad"
            ctx.log(choice, f"p is {outputs['p']:.2f}")
            return choice
        if do == "ask":
            return await ctx.ask(message["to"], message["message"])
        if do == "ring":
            return await ctx.ask(
                message["to"], {"do": "ask", "to": ctx.ref, "message": {"do": "x"}}
            )
        if do == "pay":
            return await ctx.call("pay", path=message["path"], amount=message["amount"])
        if do == "spin":
            while True:
                pass
        raise ValueError(f"cannot {do}")
