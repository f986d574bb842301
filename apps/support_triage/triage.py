"""What runs on the runtime: the agent that each ticket has, and the flow that asks a person.

Each ticket has an agent of its own, not each customer: the Bureau struck out who complained, so a
ticket is all that belongs together, and no ticket waits for another. The agent remembers what it
decided, so that a ticket which comes in twice is answered once.
"""

import os
from functools import lru_cache

from pydantic import BaseModel

import aios

ENDPOINT = "ticket-product"
AT_LEAST = 0.6
"""Below this confidence a person is asked. On tickets that no classifier has seen the first one is
that sure of 42 % and right in 89 % of them, its successor of 71 % and right in 88 %."""
PERSON = "a person"
GENERAL = "general desk"
"""Where a ticket goes that nobody has placed in time."""
SUPPORT = "support"
"""Who is asked: the identity of a key, or a role."""
PATIENCE_S = 120.0
"""How long a person may take."""
BROKER, REPLIES = "SUPPORT_RABBITMQ", "SUPPORT_REPLIES"
"""Environment variables that say where RabbitMQ is, and how its queue of replies is called."""
SENDER = "support-triage"

LEGAL = ("my attorney", "my lawyer", "lawsuit", "legal action")
NAMED = {
    "credit report": ("equifax", "experian", "transunion"),
    "mortgage": ("escrow",),
    "money transfer": ("coinbase", "moneygram", "zelle"),
    "student loan": ("fedloan", "great lakes", "income based repayment", "sallie mae"),
}
"""Words after which nobody needs a classifier: of the tickets of the training with such words 94 %
or more are of that product (1,234 of 1,271 in all)."""


class Ticket(BaseModel):
    """What a customer wrote."""

    ticket: str
    text: str


class Event(BaseModel):
    """A ticket as it comes in, a CloudEvent."""

    data: Ticket


class Placed(BaseModel):
    """What became of a question to a person; no product if nobody answered."""

    product: str | None


class Answer(BaseModel):
    """What a person is asked for."""

    product: str


class Case(BaseModel):
    """What the agent of a ticket remembers. `guess` and `confidence` are the classifier's."""

    product: str | None = None
    by: str | None = None
    guess: str | None = None
    confidence: float | None = None
    version: int | None = None
    arm: str | None = None
    request_id: str | None = None


def send_reply(ticket: str, case: Case) -> str:
    """Write to the customer: one event on the queue of replies, however often it is tried."""
    told = {"ticket": ticket, "text": letter(case.product or GENERAL), **case.model_dump()}
    to = aios.RabbitMQ(os.environ[BROKER], queue=os.environ[REPLIES])
    return aios.emit("ticket.answered", told, to=to, id=ticket, source=SENDER, key=ticket)


@aios.agent(state=Case, tools=[send_reply], budget=aios.Budget(steps=20))
class Triage:
    """Answers one ticket: by a rule, else by the classifier where it is sure, else by a person."""

    async def on_message(self, ctx: aios.Context, message: Event | Placed) -> str | None:
        case: Case = ctx.state
        if isinstance(message, Placed):
            if case.product is None:
                case.product, case.by = message.product or GENERAL, _who(message)
                await ctx.call(send_reply, ticket=ctx.id, case=case)
        elif case.by is None:
            await self._decide(ctx, message.data)
        return case.product

    async def _decide(self, ctx: aios.Context, ticket: Ticket) -> None:
        case: Case = ctx.state
        row = {"text": ticket.text}
        model = ctx.model(
            ENDPOINT, row, output="product", confidence="confidence", at_least=AT_LEAST
        )
        rules = [ctx.rule(*one) for one in rules_for(ticket.text)]
        try:
            choice = await ctx.decide(*rules, model, otherwise=PERSON)
        except (aios.TemporaryError, aios.ModelFailed) as error:
            choice = PERSON
            ctx.log(choice, f"the classifier does not answer: {error}")
        for found in ctx.predictions:
            case.guess = found.outputs[0]["product"]
            case.confidence = found.outputs[0]["confidence"]
            case.version, case.arm, case.request_id = found.version, found.arm, found.request_id
        case.by = PERSON if choice == PERSON else "model" if ctx.predictions else "rule"
        if choice == PERSON:
            await ctx.start(escalate, ctx.id, ticket.text, case.guess, id=f"escalate-{ctx.id}")
        else:
            case.product = choice
            await ctx.call(send_reply, ticket=ctx.id, case=case)


def rules_for(text: str) -> list[tuple[bool, str, str]]:
    """The desk's rules on a text: whether each holds, what it chooses, and why."""
    low = text.lower()
    legal = next((words for words in LEGAL if words in low), None)
    found = [(legal is not None, PERSON, f"it says {legal!r}: a person reads it")]
    for product, names in NAMED.items():
        name = next((one for one in names if one in low), None)
        found.append((name is not None, product, f"it names {name}"))
    return found


def letter(product: str) -> str:
    """What the customer reads."""
    return f"Thank you for your message. Our {product} desk has it and will write within a day."


def _who(placed: Placed) -> str:
    return "nobody" if placed.product is None else PERSON


@aios.flow
async def escalate(ticket: str, text: str, guess: str | None) -> str | None:
    """Ask a person which product a ticket is about, and tell its agent; silence is no product."""
    hint = "" if guess is None else f" (perhaps {guess})"
    answer = await aios.ask(
        f"{ticket}: which product is it?{hint}\n{text}",
        form=Answer,
        to=SUPPORT,
        timeout_s=PATIENCE_S,
        otherwise=None,
    )
    product = None if answer is None else answer.product
    await tell_agent(ticket, product)
    return product


@aios.step(retries=5)
def tell_agent(ticket: str, product: str | None) -> None:
    """Tell a ticket's agent what the person said. Told twice, it answers once."""
    _runtime().agent("triage", ticket).tell(Placed(product=product))


@lru_cache(maxsize=1)
def _runtime() -> aios.Runtime:
    return aios.connect()
