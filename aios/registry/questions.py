"""What flows ask people, and what they answer."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import insert, select, update

from aios.errors import IllegalTransition, UnknownName
from aios.records.acting import Question
from aios.registry.base import Reading, Writing, from_row, listed, shown
from aios.store import tables as t


class QuestionReads(Reading):
    """Questions about questions."""

    def question(self, question_id: str) -> Question:
        """One, whatever its state.

        Raises:
            UnknownName: there is none; the message lists those that wait.
        """
        found = self.questions_of([question_id])
        if not found:
            open_now = listed(one.id for one in self.open_questions())
            raise UnknownName(f"no question {shown(question_id)}; open: {open_now}")
        return found[0]

    def questions_of(self, question_ids: Iterable[str]) -> list[Question]:
        """Those that are there."""
        return self._questions(t.questions.c.id.in_(list(question_ids)))

    def open_questions(self) -> list[Question]:
        """What waits for an answer, oldest first."""
        return self._questions(t.questions.c.status == "open")

    def _questions(self, which: Any) -> list[Question]:
        query = select(t.questions).where(which).order_by(t.questions.c.asked_s, t.questions.c.id)
        with self._reading() as connection:
            return [from_row(Question, row) for row in connection.execute(query)]


class QuestionWrites(Writing, QuestionReads):
    """Changes of questions."""

    def put_question(self, question: Question) -> Question:
        """Ask; the question that stands if it was asked before."""
        known = self.questions_of([question.id])
        if known:
            return known[0]
        self._open().execute(insert(t.questions).values(**question.model_dump(mode="json")))
        return question

    def answer_question(self, question_id: str, answer: Any, by: str) -> Question:
        """Give an open question its answer.

        Raises:
            IllegalTransition: it is no longer open.
        """
        question = self.question(question_id)
        late = question.until_s is not None and question.until_s <= self.at_s
        if question.status != "open" or late:
            raise IllegalTransition(
                f"question {shown(question_id)} is {'expired' if late else question.status}, and "
                "takes no answer any more"
            )
        return self._set(
            question, status="answered", answer=answer, answered_by=by, answered_s=self.at_s
        )

    def reopen_question(self, question_id: str, problem: str) -> Question:
        """The answer did not do: wait for another."""
        question = self.question(question_id)
        return self._set(question, status="open", answer=None, problem=problem)

    def end_question(self, question_id: str, how: str) -> Question:
        """`expired` or `withdrawn`, if it is still open."""
        question = self.question(question_id)
        return self._set(question, status=how) if question.status == "open" else question

    def _set(self, question: Question, **values: Any) -> Question:
        changed = update(t.questions).where(t.questions.c.id == question.id)
        self._open().execute(changed.values(**values))
        return question.model_copy(update=values)
