"""What a check of the audit log found. Apart from the check, so that the SDK can show it."""

from collections.abc import Sequence

from aios.presentation import Rows, Shown
from aios.records import Record


class Verdict(Shown, Record):
    """Whether the audit log is as it was written.

    Attributes:
        sound: nothing is wrong with any entry or checkpoint.
        entries: how many were found right, from the first on.
        checkpoints: how many were found right, from the first on.
        sealed: how many entries those checkpoints vouch for. The newer ones are held by the
            hash chain alone, which whoever can write to the database can make anew.
        outside: how many of the checkpoints were also found outside of the database; None if
            that was not looked at, and then a log whose end was cut off looks sound.
        signed: whether signatures were checked, for which the public key is needed; if not,
            checkpoints prove nothing against somebody who makes new ones.
        first_bad: number of the first entry that is wrong, missing or no longer vouched for.
        reason: what is wrong with it.
    """

    sound: bool
    entries: int
    checkpoints: int
    sealed: int
    outside: int | None = None
    signed: bool
    first_bad: int | None = None
    reason: str | None = None

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        if self.sound:
            title = f"audit log: sound, {self.entries:,} entries"
        else:
            title = f"audit log: NOT SOUND from entry {self.first_bad}: {self.reason}"
        facts: list[tuple[str, object]] = [
            ("entries found right", self.entries),
            ("of them under a checkpoint", self.sealed),
            ("checkpoints found right", self.checkpoints),
            ("of them also outside", "not looked at" if self.outside is None else self.outside),
            ("signatures", "checked" if self.signed else "not checked: no public key was given"),
        ]
        return title, ("what", "found"), facts
