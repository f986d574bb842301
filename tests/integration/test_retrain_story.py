"""One version's whole story on real Ray and a real MLflow server: trained, tracked, served,
explained, and proved."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

import aios
from aios.errors import UnknownName
from tests.integration import retrain_recipes as recipes
from tests.mlflow_server import running_mlflow


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with running_mlflow() as found:
        yield found


def seen(look: Callable[[], Any], limit_s: float = 60) -> Any:
    """What `look` finds, once it is in the prediction log."""
    give_up_s = time.monotonic() + limit_s
    while True:
        try:
            return look()
        except UnknownName:
            assert time.monotonic() < give_up_s
            time.sleep(0.5)


def test_a_version_is_tracked_served_explained_and_comes_back_from_mlflow(
    rt: aios.Runtime, toy_contract: aios.Contract, uri: str
) -> None:
    import mlflow

    draws = np.random.default_rng(0)
    rows = pd.DataFrame({"a": draws.normal(size=800), "b": draws.normal(size=800)})
    rows["y"] = (rows.a + 0.2 * rows.b + 0.3 * draws.normal(size=800) > 0).astype(int)
    version = rt.retrain(
        "storied",
        recipes.Toy,
        data=rows,
        contract=toy_contract,
        search={"C": aios.loguniform(0.01, 10)},
        trials=3,
        seed=3,
        tracking_uri=uri,
    )

    client = mlflow.MlflowClient(uri, uri)
    (tracked,) = client.search_model_versions("name = 'storied'")
    assert tracked.tags["aios.version"] == version.ref
    run = client.get_run(tracked.run_id)
    nested = client.search_runs([run.info.experiment_id], "tags.`aios.trial` != ''")
    assert (run.info.status, len(nested)) == ("FINISHED", 3)
    assert run.data.metrics["auc"] == pytest.approx(version.metrics["auc"])

    endpoint = rt.deploy("storied", version.ref)
    answer = endpoint.predict({"a": 2.0, "b": 0.0})
    why = seen(lambda: rt.explain(answer.request_id))
    assert (why.ref, why.inputs["a"]) == (version.ref, 2.0)
    assert why.contributions is not None
    assert abs(why.contributions.values["a"]) > abs(why.contributions.values["b"])
    tree = str(rt.lineage(version.ref))
    assert version.lineage["snapshot"][:8] in tree
    assert "storied" in tree
    assert rt.history("storied", at=time.time())[0].version == version.version

    client.set_registered_model_alias("storied", "champion", tracked.version)
    back = rt.models.register(
        "returned",
        "models:/storied@champion",
        contract=toy_contract,
        tracking_uri=uri,
        outputs={"p": ("probabilities", 1)},
    )
    again = rt.deploy("returned", back.ref).predict({"a": 2.0, "b": 0.0})
    assert again.outputs[0]["p"] == pytest.approx(answer.outputs[0]["p"], abs=1e-5)
    rt.remove("returned")
    rt.remove("storied")
    assert rt.audit.verify().sound
