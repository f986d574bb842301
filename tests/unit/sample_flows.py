"""Flows that the tests send. Steps append what they do to a ledger, by operation id."""

import asyncio
import os
import sys
import time
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, field_validator

import aios

LEFT: list[Any] = []


class Declined(Exception):
    """Known only in this text."""


class Overdrawn(Exception):
    """Takes other arguments than it keeps."""

    def __init__(self, account: str, by: int) -> None:
        super().__init__(f"{account} is overdrawn by {by}")


class Speechless(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("in __str__")


class Decision(BaseModel):
    approve: bool
    note: str = ""

    @field_validator("note")
    @classmethod
    def _no_shouting(cls, note: str) -> str:
        if note.isupper():
            raise ValueError("do not shout")
        return note


def write(ledger: str, what: str) -> None:
    with open(ledger, "a") as file:
        file.write(f"{what} {aios.operation_id()} {os.getpid()}\n")


def give_back(receipt: str, ledger: str, order: str) -> None:
    write(ledger, f"give-back-{receipt}")


def cannot_give_back(receipt: str, ledger: str, order: str) -> None:
    raise Declined(f"no way back from {receipt}")


class Panic(BaseException):
    """What is no Exception, and nobody's signal."""


@aios.step(retries=3, backoff=0.0)
def leave(ledger: str, kind: str) -> None:
    write(ledger, f"leave-{kind}")
    if kind == "exit":
        sys.exit("enough")
    if kind == "cancelled":
        raise asyncio.CancelledError
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "panic":
        raise Panic("a library written in Rust has it")
    if kind == "at the end":
        next(iter(()))
    if kind == "permanent":
        raise aios.PermanentError("nothing will mend this")
    if kind == "speechless":
        raise Speechless
    if kind == "half a character":
        raise ValueError(f"cannot read {os.fsdecode(b'bill-' + bytes([255]))}")
    raise Overdrawn(kind, 3)


@aios.step
async def leave_async() -> None:
    sys.exit(3)


@aios.step
async def give_up() -> None:
    raise asyncio.CancelledError


@aios.step
async def interrupt() -> None:
    raise KeyboardInterrupt


@aios.flow
async def leaving(ledger: str, kind: str) -> str:
    if kind == "flow":
        sys.exit(4)
    if kind == "flow's interrupt":
        raise KeyboardInterrupt
    if kind == "flow's end":
        raise GeneratorExit
    if kind == "flow's group":
        raise BaseExceptionGroup("two", [KeyboardInterrupt(), ValueError()])
    if kind == "flow's two":
        raise ExceptionGroup("two", [ValueError("one"), LookupError("other")])
    try:
        others = {"async": leave_async, "given up": give_up, "async interrupt": interrupt}
        other = others.get(kind)
        await (leave(ledger, kind) if other is None else other())
    except Overdrawn as error:
        return str(error)
    return "went on"


@aios.flow
def leaving_at_once() -> None:
    sys.exit(5)


@aios.step(undo=give_back)
def charge(ledger: str, order: str) -> str:
    write(ledger, f"charge-{order}")
    return f"receipt-{order}"


@aios.step(undo=cannot_give_back, backoff=0.0)
async def book(ledger: str, order: str) -> str:
    write(ledger, f"book-{order}")
    return f"booked-{order}"


@aios.step
async def ship(ledger: str, order: str, pause_s: float = 0.0) -> str:
    await asyncio.sleep(pause_s)
    write(ledger, f"ship-{order}")
    return f"shipped-{order}"


@aios.step(retries=2, backoff=0.01)
def shaky(ledger: str, order: str) -> str:
    write(ledger, f"try-{order}")
    with open(ledger) as file:
        if file.read().count(f"try-{order} ") < 3:
            raise ConnectionError("not yet")
    return "at last"


@aios.step
def refuse(order: str) -> None:
    raise Declined(f"order {order} is declined", 42)


@aios.step
def large(size: int) -> str:
    return "x" * size


@aios.step
def no_json() -> object:
    return object()


@aios.step(timeout_s=0.05)
async def hangs() -> None:
    await asyncio.sleep(60)


@aios.step
def number_of(ledger: str) -> int:
    """Another answer each time it runs."""
    write(ledger, "number")
    return time.time_ns()


@aios.flow
async def order(ledger: str, name: str, pause_s: float = 0.0) -> list[str]:
    receipt = await charge(ledger, name)
    await aios.sleep(pause_s)
    both = await asyncio.gather(ship(ledger, f"{name}-a"), ship(ledger, f"{name}-b"))
    return [receipt, *both]


@aios.flow
async def ordered(event: dict[str, Any]) -> str:
    return await charge(event["data"]["ledger"], event["data"]["name"])


@aios.flow
def plain_order(ledger: str, name: str) -> list[str]:
    receipt = charge(ledger, name)
    aios.sleep(0.01)
    return [receipt, shaky(ledger, name)]


@aios.flow
async def broken(ledger: str, name: str) -> None:
    await charge(ledger, f"{name}-1")
    await book(ledger, f"{name}-2")
    await charge(ledger, f"{name}-3")
    await refuse(name)


@aios.flow
async def parent(ledger: str, name: str) -> list[object]:
    try:
        await broken(ledger, name)
    except Declined as error:
        return [error.args[1], await order(ledger, name)]
    return []


@aios.flow
async def deeper(left: int) -> int:
    return 1 + await deeper(left - 1) if left else 0


@aios.flow
async def asking(timeout_s: float | None = None) -> object:
    found = (
        await aios.ask(
            "approve?", form=Decision, to="approver", timeout_s=timeout_s, otherwise=None
        )
        if timeout_s is not None
        else await aios.ask("approve?", form=Decision, to="approver")
    )
    return None if found is None else [type(found).__name__, found.approve]


@aios.flow
async def unanswered() -> object:
    return await aios.ask("approve?", timeout_s=0.0)


@aios.flow
async def sized(size: int) -> str:
    return await large(size)


@aios.flow
async def forgetful(ledger: str) -> None:
    charge(ledger, "x")


@aios.flow
async def bad_result() -> object:
    return await no_json()


@aios.flow
async def hanging() -> None:
    await hangs()


@aios.flow
async def swallowing(ledger: str, marker: str) -> str:
    """Does another thing when it is run again, and swallows whatever that leads to."""
    if os.path.exists(marker):
        with suppress(Exception):
            await number_of(ledger)
    else:
        await charge(ledger, "swallowed")
    await ship(ledger, "swallowed", 3.0)
    return "swallowed"


@aios.flow
async def counted(ledger: str, name: str, steps: int, pause_s: float) -> list[int]:
    """Many steps, of which each may run twice only while it was not done."""
    found = [await number_of(ledger) for _ in range(steps)]
    await ship(ledger, name, pause_s)
    return found


@aios.step(num_cpus=0.1)
def far() -> list[object]:
    return [os.getpid(), aios.operation_id()]


@aios.step(timeout_s=0.5)
def hangs_in_c() -> None:
    time.sleep(60)


@aios.flow
async def elsewhere() -> list[object]:
    found = await far()
    try:
        await hangs_in_c()
    except aios.DeadlineExceeded as error:
        return [*found, str(error)]
    return found


@aios.step(undo=give_back, retries=2, backoff=0.0)
async def slow_booking(ledger: str, order: str) -> str:
    await asyncio.sleep(0.3)
    write(ledger, f"slow-{order}")
    return f"slow-{order}"


@aios.step(undo=give_back)
def slow_in_a_thread(ledger: str, order: str) -> str:
    time.sleep(0.3)
    write(ledger, f"slow-{order}")
    return f"slow-{order}"


@aios.step
async def refuse_at_once() -> None:
    raise Declined("no")


@aios.step(retries=5, backoff=60.0)
async def never(ledger: str) -> None:
    write(ledger, "never")
    raise Declined("never")


@aios.flow
async def side_by_side(ledger: str, order: str, how: str) -> str:
    slow = slow_in_a_thread if "thread" in how else slow_booking
    if how == "left":
        LEFT.append(asyncio.ensure_future(slow(ledger, order)))
        await asyncio.sleep(0)
        return "left"
    if how == "left failing":
        LEFT.append(asyncio.ensure_future(refuse_at_once()))
        await slow(ledger, order)
        return "not told"
    if how == "never begun":
        LEFT.append(asyncio.ensure_future(slow(ledger, order)))
        return "never begun"
    if how.startswith("given up"):
        with suppress(TimeoutError):
            await asyncio.wait_for(slow(ledger, order), 0.05)
        if "failing" in how:
            raise Declined("given up")
        return "given up"
    if how == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(slow(ledger, order))
            group.create_task(refuse_at_once())
    if how == "child":
        await asyncio.gather(sleeping_child(ledger), refuse_at_once())
    if how == "trying":
        await asyncio.gather(never(ledger), after_a_while())
    if how == "cancelled":
        both = asyncio.gather(slow(ledger, order), after_a_while())
        with suppress(Declined):
            await both
        await slow(ledger, f"{order}-second")
    if how == "branch":
        await asyncio.gather(_branch(slow, ledger, order), refuse_at_once())
    await asyncio.gather(slow(ledger, order), refuse_at_once())
    return "not reached"


async def _branch(slow: Any, ledger: str, order: str) -> None:
    await slow(ledger, order)
    await slow(ledger, f"{order}-second")


@aios.step
async def after_a_while() -> None:
    await asyncio.sleep(0.2)
    raise Declined("after a while")


@aios.flow
async def sleeping_child(ledger: str) -> None:
    await aios.sleep(1.0)


@aios.step(
    undo=lambda result, ledger, basket: write(ledger, f"undo-{basket}"), retries=1, backoff=0.0
)
async def take_out(ledger: str, basket: dict[str, Any]) -> list[str]:
    taken = basket["items"].pop()
    basket["items"].append("spoilt")
    if aios.operation_id().endswith("/1") and taken == "spoilt":
        raise Declined("it was spoilt")
    write(ledger, f"took-{taken}")
    return [taken]


@aios.flow
async def changing(ledger: str, fail: bool) -> list[Any]:
    basket = {"items": ["apple"]}
    taken = await take_out(ledger, basket)
    if fail:
        taken.append("more")
        basket["items"].append("pear")
        raise Declined("changed")
    return [taken, basket["items"]]


@aios.flow
async def urgent(order: str, priority: int = 1) -> None: ...
