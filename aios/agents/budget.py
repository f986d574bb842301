"""What an agent has left while it handles a message."""

from aios.errors import BudgetExceeded, UsageError
from aios.records.agents import Budget, Spent

FIELDS = ("usd", "tokens", "seconds", "steps")


class Meter:
    """Counts against a budget. It stops the agent at the first step beyond it, wherever in its
    code that is.

    Args:
        spent: before this message.
    """

    def __init__(self, ref: str, budget: Budget, spent: Spent) -> None:
        self._ref = ref
        self._budget = budget
        self._before = spent
        self.now = Spent()

    def step(self) -> None:
        """One more prediction, call or message.

        Raises:
            BudgetExceeded: there is none left; it is not begun, and does not count.
        """
        limit, used = self._budget.steps, self._before.steps + self.now.steps
        if limit is not None and used >= limit:
            raise self._exceeded(f"has used all of its {limit} steps")
        self.spend(steps=1)

    def spend(
        self, *, usd: float = 0.0, tokens: int = 0, seconds: float = 0.0, steps: int = 0
    ) -> None:
        """Count what was spent. It counts also where it was too much.

        Raises:
            BudgetExceeded: it is more than was left.
            UsageError: an amount is negative or no number.
        """
        if not all(one >= 0 for one in (usd, tokens, seconds, steps)):
            raise UsageError(f"agent {self._ref} cannot spend less than nothing")
        self.now = self.now.plus(Spent(usd=usd, tokens=tokens, seconds=seconds, steps=steps))
        self.check()

    def check(self) -> None:
        """Raise BudgetExceeded where more was spent than there was."""
        total = self._before.plus(self.now)
        for name in FIELDS:
            limit, used = getattr(self._budget, name), getattr(total, name)
            if limit is not None and used > limit:
                raise self._exceeded(f"has used {used:.6g} of its {limit:.6g} {name}")

    def _exceeded(self, how: str) -> BudgetExceeded:
        return BudgetExceeded(
            f"agent {self._ref} {how} and was stopped; give it more with its handle's grant(), or "
            "let it be"
        )

    def left(self) -> dict[str, float | None]:
        """What is left of each part; None where it is not bounded."""
        total = self._before.plus(self.now)
        return {
            name: None
            if (limit := getattr(self._budget, name)) is None
            else max(0, limit - getattr(total, name))
            for name in FIELDS
        }
