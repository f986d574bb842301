"""An underwriter's rule of thumb: the answer when no model can give one in time."""

from typing import Any

MAX_OBLIGATIONS_PERCENT = 36.0
MAX_HOUSING_PERCENT = 28.0
"""The 28/36 rule of US mortgage lending: housing and all debts, in % of income."""

MAX_LOAN_TO_PRICE = 0.95
CLEAN_CONSUMER_CREDIT = 2

_SCORES = (0.9, 0.7, 0.4, 0.2)
"""The score by the number of concerns: cautious, and never as sure as a model."""


def score(record: dict[str, Any]) -> dict[str, float]:
    """The probability of approval from a few limits that every lender knows.

    A bankruptcy or unverifiable information outweighs the rest. A value that is missing
    counts as a concern: the rule does not guess in the applicant's favour.
    """
    if _over(record, "pubrec", 0) or _over(record, "unver", 0):
        return {"approve": _SCORES[-1]}
    concerns = sum(
        (
            _over(record, "obrat", MAX_OBLIGATIONS_PERCENT),
            _over(record, "hrat", MAX_HOUSING_PERCENT),
            _over(record, "loanprc", MAX_LOAN_TO_PRICE),
            _over(record, "cons", CLEAN_CONSUMER_CREDIT),
        )
    )
    return {"approve": _SCORES[min(concerns, len(_SCORES) - 1)]}


def _over(record: dict[str, Any], field: str, limit: float) -> bool:
    value = record.get(field)
    return value is None or value > limit
