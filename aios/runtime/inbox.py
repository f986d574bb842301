"""What waits for somebody's word, as users see it."""

from collections.abc import Iterator

from aios.presentation import Shown, moment
from aios.records.acting import Waiting
from aios.runtime.tables import Look


class Inbox(Shown):
    """What waits for somebody's word, oldest first; see `Acting.inbox`."""

    def __init__(self, waiting: list[Waiting]) -> None:
        self.waiting = waiting

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self.waiting)

    def __len__(self) -> int:
        return len(self.waiting)

    def __getitem__(self, index: int) -> Waiting:
        return self.waiting[index]

    def _shown(self) -> Look:
        rows = [
            [
                one.kind,
                one.id,
                one.text,
                one.to,
                ", ".join((one.form or {}).get("properties", {})) or "any value",
                moment(one.asked_s),
                moment(one.until_s),
                one.unanswered,
                one.problem,
            ]
            for one in self.waiting
        ]
        headings = ["kind", "id", "question", "for", "answer with"]
        headings += ["asked", "until", "else", "problem"]
        return f"inbox{'' if rows else ': nothing waits'}", headings, rows
