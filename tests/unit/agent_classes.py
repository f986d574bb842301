"""Agents that tests run. Their text is sent to hosts, so they are in a file of their own."""

import asyncio
import sys

from agent_notes import CALLS
from pydantic import BaseModel, Field

import aios


class Memory(BaseModel):
    """What a clerk knows."""

    seen: list[str] = []
    level: int = Field(default=0, le=3)


def note(text: str, times: int = 1, idempotency_key: str = "") -> str:
    """Write something down."""
    CALLS.append((text, idempotency_key))
    return text * times


@aios.tool(scopes="refunds")
def refund(order: str, idempotency_key: str = "") -> str:
    """Give money back."""
    CALLS.append((order, idempotency_key))
    return f"refunded {order}"


@aios.tool(scopes="refunds", approval="support", dry="dry")
def big_refund(order: str, idempotency_key: str = "") -> str:
    """Give much money back."""
    assert aios.operation_id() == idempotency_key
    CALLS.append((order, idempotency_key))
    return f"refunded much of {order}"


def leave() -> None:
    """End whatever runs it."""
    sys.exit(2)


@aios.flow
def pay_back(order: str) -> str:
    """What a clerk begins."""
    return order


class Speechless(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("in __str__")


@aios.agent(
    state=Memory,
    tools=[note, refund, big_refund, leave],
    restarts=aios.Restarts(retries=2, backoff_s=1, limit=1, within_s=1000),
)
class Clerk:
    """Remembers, and does what it is told."""

    async def on_message(self, ctx: aios.Context, message: dict) -> object:
        do = message.get("do", "remember")
        ctx.state.seen.append(str(message.get("text", do)))
        return await getattr(self, f"_{do}")(ctx, message)

    async def on_child_failed(self, ctx: aios.Context, child: aios.ChildFailed) -> None:
        ctx.state.seen.append(f"failed: {child.child}")
        await ctx.revive(child.child)

    async def _remember(self, ctx, message):
        ctx.log("remember", "it was told to")
        return len(ctx.state.seen)

    async def _fail(self, ctx, message):
        await ctx.tell(ctx.ref, {"text": "never sent"})
        raise ValueError("it cannot be done")

    async def _tell(self, ctx, message):
        await ctx.tell(message["to"], message["message"])

    async def _ask(self, ctx, message):
        return await ctx.ask(message["to"], message["message"])

    async def _call(self, ctx, message):
        return await ctx.call(message["tool"], **message["arguments"])

    async def _call_and_fail(self, ctx, message):
        await ctx.call(message["tool"], **message["arguments"])
        raise ValueError("after the call")

    async def _predict(self, ctx, message):
        return await ctx.predict("model", {"a": 1})

    async def _request_ids(self, ctx, message):
        model = ctx.model("model", {"a": 1}, output="topic", confidence="p", at_least=0.9)
        await ctx.predict("model", [{"a": 1}, {"a": 2}], key="mine")
        await ctx.decide(model, otherwise="person")
        return [(one.endpoint, one.request_id, len(one.outputs)) for one in ctx.predictions]

    async def _decide(self, ctx, message):
        text = message["text"]
        return await ctx.decide(
            ctx.rule("refund" in text, "billing", "it says refund"),
            ctx.model("topics", {"text": text}, output="topic", confidence="p", at_least=0.8),
            lambda: ("long", "it is long") if len(text) > 20 else None,
            otherwise="person",
        )

    async def _loop(self, ctx, message):
        for _ in range(1000):
            await ctx.call("note", text="again")

    async def _start(self, ctx, message):
        found = await ctx.start(pay_back, message["order"], id=message["id"])
        if message.get("fails"):
            raise ValueError("after the flow began")
        return found

    async def _sleep(self, ctx, message):
        await asyncio.sleep(3600)

    async def _spawn(self, ctx, message):
        return await ctx.spawn("clerk", message["id"], scopes=message.get("scopes", []))

    async def _spend(self, ctx, message):
        ctx.spend(usd=message["usd"])
        return ctx.remaining["usd"]

    async def _leave(self, ctx, message):
        if message["how"] == "exit":
            sys.exit("enough")
        if message["how"] == "cancel":
            raise asyncio.CancelledError
        if message["how"] == "interrupt":
            raise KeyboardInterrupt
        if message["how"] == "speechless":
            raise Speechless
        if message["how"] == "half a character":
            raise ValueError(f"cannot read bill-{chr(0xDCFF)}{chr(0)}")
        if message["how"] == "half a reply":
            return chr(0xD800)
        if message["how"] == "panic":
            raise BaseException("a panic")
        if message["how"] == "tool":
            await ctx.call("leave")
        if message["how"] == "state":
            ctx.state.level = 99
        if message["how"] == "dict":
            ctx.state = {"level": 1}
        if message["how"] == "forgets":
            ctx.call("note", text="never written")
        return None

    async def _odd(self, ctx, message):
        return {1, 2, object()}
