"""Loans of the US Small Business Administration: 899,164 of them, in time, through the crisis.

The file is fetched once (54 MB), see `apps/supplies.py`. It is the public data set of M. Li,
A. Mickel and S. Taylor (2018), "Should This Loan be Approved or Denied?", Journal of Statistics
Education 26(1), where it can be had too, as SBAnational.csv. Of the loans that were approved in
2001 one in nine was not paid back, of those in 2007 more than four in ten.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import aios
from apps import supplies

if TYPE_CHECKING:
    import pandas as pd

KEY = "loan"
LABEL = "repaid"
"""1 where the loan was paid in full, 0 where it was charged off."""
YEAR = "approved"

FEATURES: dict[str, aios.Number | aios.Category] = {
    "term": aios.Number(min=0, max=600),
    "amount": aios.Number(min=0, max=10_000_000),
    "guaranteed": aios.Number(min=0, max=1),
    "employees": aios.Number(min=0, max=10_000),
    "new_business": aios.Number(min=0, max=1),
    "urban": aios.Number(min=0, max=1),
    "revolving": aios.Category(["no", "unknown", "yes"]),
    "franchise": aios.Number(min=0, max=1),
    "same_state_bank": aios.Number(min=0, max=1),
    "sector": aios.Number(min=0, max=99),
}
"""Months, USD, share that the state guarantees, and what is known of the business. The file's term
is the one at the end of the loan's life, which flatters every model of it."""


def fields() -> dict[str, dict[str, aios.Number | aios.Category] | str]:
    """What `aios.Contract` takes."""
    return {"inputs": dict(FEATURES), "outputs": {LABEL: aios.Number(min=0, max=1)}, "key": KEY}


def load(csv: Path | None = None) -> "pd.DataFrame":
    """All loans with a known end: `FEATURES`, `LABEL`, `KEY`, `YEAR`.

    Args:
        csv: SBAnational.csv, if you have it; else the package is fetched, once.

    Raises:
        aios.UsageError: it cannot be fetched or is not the file it should be.
    """
    import pandas as pd

    kept = supplies.CACHE / "sba.parquet"
    if csv is None and kept.exists():
        return pd.read_parquet(kept)
    frame = _clean(_read(csv))
    if csv is None:
        frame.to_parquet(kept, index=False)
    return frame


def _read(csv: Path | None) -> "pd.DataFrame":
    import pandas as pd

    columns = [
        *("LoanNr_ChkDgt", "State", "BankState", "NAICS", "ApprovalFY", "Term", "NoEmp"),
        *("NewExist", "FranchiseCode", "UrbanRural", "RevLineCr", "MIS_Status", "GrAppv"),
        "SBA_Appv",
    ]
    if csv is not None:
        return pd.read_csv(csv, usecols=columns, low_memory=False)
    return supplies.read(supplies.LOANS, supplies.CACHE, usecols=columns, low_memory=False)


def _clean(raw: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    raw = raw[raw.MIS_Status.isin(["P I F", "CHGOFF"])]
    amount, guaranteed = (
        pd.to_numeric(raw[name].str.replace(r"[$, ]", "", regex=True)).astype(float)
        for name in ("GrAppv", "SBA_Appv")
    )
    revolving = raw.RevLineCr.map({"Y": "yes", "N": "no"}).fillna("unknown")
    frame = pd.DataFrame(
        {
            KEY: raw.LoanNr_ChkDgt.astype(str),
            YEAR: pd.to_numeric(raw.ApprovalFY.astype(str).str[:4]).astype(int),
            "term": raw.Term.clip(0, 600).astype(float),
            "amount": amount.clip(0, 10_000_000),
            "guaranteed": (guaranteed / amount).clip(0, 1).fillna(0.0),
            "employees": raw.NoEmp.clip(0, 10_000).astype(float),
            "new_business": (raw.NewExist == 2).astype(float),
            "urban": (raw.UrbanRural == 1).astype(float),
            "revolving": revolving.astype(str),
            "franchise": (raw.FranchiseCode > 1).astype(float),
            "same_state_bank": (raw.State == raw.BankState).astype(float),
            "sector": (pd.to_numeric(raw.NAICS) // 10_000).astype(float),
            LABEL: (raw.MIS_Status == "P I F").astype(int),
        }
    )
    return frame.reset_index(drop=True)
