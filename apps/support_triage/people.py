"""Stand-ins for people, openly: threads that know each ticket's true product.

`Support` answers what flows ask, a moment later. `Desks` is what happens when a ticket is closed:
the desk that worked on it notes which product it was, feedback on the classifier's answer.
"""

import random
import time
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress

import aios
from apps.support_triage.tickets import PRODUCT, Ticket
from apps.support_triage.traffic import Background, Desk, Reply
from apps.support_triage.triage import ENDPOINT

LOOK_S = 0.5
TAKES_S = (1.0, 5.0)
"""How long the stand-in reads a ticket; in a story nobody can wait for minutes."""
CLOSED_AFTER_S = 3.0
SEED = 7


class _Looking(Background):
    """Looks every LOOK_S."""

    def work(self) -> None:
        while not self._stopping.wait(LOOK_S):
            with suppress(aios.TemporaryError):  # as after a restart: the next look is soon
                self.look()

    @abstractmethod
    def look(self) -> None:
        """One look."""


class Support(_Looking):
    """Answers each question with the ticket's true product, once it has been read for a moment.

    Args:
        rt: a connection with a key whose identity is asked.
        tickets: by id.
    """

    def __init__(self, rt: aios.Runtime, tickets: Mapping[str, Ticket]) -> None:
        super().__init__()
        self._rt = rt
        self._tickets = tickets
        self._chance = random.Random(SEED)
        self._due_s: dict[str, float] = {}
        self.answered = 0

    def look(self) -> None:
        now_s = time.monotonic()
        for question in self._rt.inbox():
            due_s = self._due_s.setdefault(question.id, now_s + self._chance.uniform(*TAKES_S))
            if due_s > now_s:
                continue
            ticket = self._tickets[question.text.partition(":")[0]]
            try:
                self._rt.answer(question, {"product": ticket.product})
            except aios.IllegalTransition:
                continue  # it was answered or is over
            self.answered += 1


class Desks(_Looking):
    """Gives feedback on each answer of the classifier once its ticket is closed."""

    def __init__(self, rt: aios.Runtime, desk: Desk) -> None:
        super().__init__()
        self._endpoint = rt.endpoint(ENDPOINT)
        self._desk = desk
        self._next = 0
        self.told = 0

    def look(self) -> None:
        while self._next < len(self._desk.replies):
            reply = self._desk.replies[self._next]
            if reply.at_s > self._desk.elapsed_s - CLOSED_AFTER_S:
                return
            if reply.told["request_id"] is not None:
                true = self._desk.sent[reply.ticket].ticket.product
                right = float(reply.told["guess"] == true)
                self._endpoint.feedback(answer_of(reply), right, **{PRODUCT: true})
                self.told += 1
            self._next += 1


def answer_of(reply: Reply) -> aios.Answer:
    """The classifier's answer that a reply tells of."""
    told = reply.told
    return aios.Answer(
        outputs=[{PRODUCT: told["guess"], "confidence": told["confidence"]}],
        version=told["version"],
        arm=told["arm"],
        request_id=told["request_id"],
        degraded=None,
        latency_s=0.0,
    )
