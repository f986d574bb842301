"""One private runtime for all tests that can share it: starting one takes 10 to 25 seconds, and one
that idles a quarter of a core. So the files that use it come first, one worker takes them all
(see `tests/conftest.py`), and it ends with the last file of them."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest

import aios
from tests.conftest import SHARING, shares

_SHARED = ExitStack()
_LAST = pytest.StashKey[pytest.Item | None]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    users = [item for item in items if "rt" in getattr(item, "fixturenames", ())]
    unknown = {item.path.name for item in users if not shares(str(item.path))}
    assert not unknown, f"put {unknown} into SHARING, or two workers start a runtime each"
    order = {name: place for place, name in enumerate(SHARING)}
    items.sort(key=lambda item: order[item.path.name] if shares(str(item.path)) else len(SHARING))
    users.sort(key=items.index)
    config.stash[_LAST] = users[-1] if users else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    yield
    last = item.config.stash[_LAST]
    # Its file's own fixtures end with the file.
    ends = nextitem is None or nextitem.path != item.path
    if ends and last is not None and item.path == last.path:
        _SHARED.close()


@pytest.fixture(scope="session")
def rt() -> Iterator[aios.Runtime]:
    """Windows are short and the log is encrypted: feedback, watches and retrains do with that."""
    yield _SHARED.enter_context(aios.local(window_s=2, log_encryption=True))
    _SHARED.close()


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
