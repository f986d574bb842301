"""One private runtime for the whole session: starting one takes 10 to 25 seconds."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

import aios


@pytest.fixture(scope="session")
def rt() -> Iterator[aios.Runtime]:
    with aios.local() as runtime:
        yield runtime


@pytest.fixture(scope="session")
def toy_contract() -> aios.Contract:
    return aios.Contract(
        inputs={"a": aios.Number(min=-100, max=100), "b": aios.Number(nullable=True)},
        outputs={"p": aios.Number(min=0, max=1)},
        key="id",
    )


@pytest.fixture(scope="session")
def toy_frame() -> pd.DataFrame:
    noise = np.random.default_rng(0)
    return pd.DataFrame({"a": noise.normal(size=300), "b": noise.normal(size=300)})


@pytest.fixture(scope="session")
def toy_model(toy_frame: pd.DataFrame):
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(SimpleImputer(), LogisticRegression()).fit(
        toy_frame, (toy_frame.a + toy_frame.b > 0).astype(int)
    )
