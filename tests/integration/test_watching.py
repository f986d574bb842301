"""The loop on real Ray: answers are summarised, feedback is joined, a watch retrains by itself."""

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest

import aios
from aios.errors import UnknownName
from tests.integration import retrain_recipes as recipes

ENDPOINT = "drifting"
RANDOM = np.random.default_rng(11)
NEVER_RINGS = "domain_auc > 0.999"
"""Shows that rows are compared."""
NOR_DOES_THIS = "accuracy < 0.2"
"""The old model is right about half of the shifted rows. Were it to ring, which of the two found
the drift first would be a matter of the machine."""
PLAN = aios.Canary(steps=(0.5, 1.0), bake_s=2, abort_when=("errors worse by 0.4",), max_stage_s=200)
"""A plan that few requests decide, also where a slow machine misses a deadline now and then."""


def people(count: int, shift: float = 0.0) -> pd.DataFrame:
    rows = pd.DataFrame({"a": RANDOM.normal(shift, 1, count), "b": RANDOM.normal(0, 1, count)})
    rows["y"] = (rows.a - shift + 0.3 * RANDOM.normal(size=count) > 0).astype(int)
    return rows


def ask(rt: aios.Runtime, shift: float) -> None:
    """Some answers, with the truth about each fed back at once, and a moment for the rest."""
    endpoint, known = rt.endpoint(ENDPOINT), {}
    for row in people(30, shift).to_dict("records"):
        answer = endpoint.predict({"id": uuid4().hex, "a": row["a"], "b": row["b"]})
        known[answer.request_id] = {"y": row["y"], "sex": str(RANDOM.choice(["f", "m"]))}
    assert rt.feedback(known, endpoint=ENDPOINT) == len(known)
    time.sleep(0.3)


def asked_until(
    rt: aios.Runtime, shift: float, holds: Callable[[], Any], limit_s: float = 240
) -> Any:
    """Keep asking until something holds."""
    give_up_s = time.monotonic() + limit_s
    while not (found := holds()):
        if time.monotonic() > give_up_s:
            pytest.fail(f"it never came to that: {rt.watches()}\n{rt.runs()}\n{rt.rollouts()}")
        ask(rt, shift)
    return found


def told_of_both(rt: aios.Runtime) -> Any:
    """What is seen of the new version, once it has answered both groups and that is known."""
    seen = rt.monitor(ENDPOINT).status()
    groups = {row["group"] for row in seen.groups.get("sex", [])}
    return seen if seen.windows and groups == {"f", "m"} else None


def test_drift_ends_in_a_version_that_says_why_it_exists(
    rt: aios.Runtime, toy_contract: aios.Contract
) -> None:
    first = rt.retrain(ENDPOINT, recipes.Toy, data=people(2000), contract=toy_contract)
    rt.deploy(ENDPOINT, first, deadline_s=5.0)
    watch = rt.watch(
        ENDPOINT,
        drift=["psi > 0.5 on a for 2 windows", NEVER_RINGS],
        concept=NOR_DOES_THIS,
        fairness="demographic_parity_difference > 0.8 on sex",
        label="y",
        min_rows=60,
        min_labels=60,
        then=aios.Retrain(recipes.Toy, rollout=PLAN),
    )
    asked_until(rt, 0.0, lambda: watch.status().fields["state"]["looks"] >= 3)
    asked_until(rt, 0.0, lambda: watch.status().fields["state"]["row_looks"])
    findings = {one["condition"]: one for one in watch.status().findings}
    assert findings[NEVER_RINGS]["state"] == "clear"
    assert findings[NEVER_RINGS]["evidence"]["reference"] == "training data"
    assert watch.status().alarms == []
    assert watch.status().run is None

    asked_until(rt, 3.0, lambda: watch.status().alarms)
    assert watch.status().alarms[0]["finding"]["subject"] == "a"
    asked_until(rt, 3.0, lambda: rt.endpoint(ENDPOINT).status()["version"] == first.version + 1)

    (_, run) = rt.runs(ENDPOINT)
    assert run["id"] == watch.status().run
    lineage = rt.lineage(f"{ENDPOINT}:2")
    assert lineage.because is not None
    assert lineage.because.startswith(f"{ENDPOINT}:2 exists because psi of a was ")
    assert [node.kind for node in lineage.nodes][:3] == ["watch", "snapshot", "run"]
    assert lineage.nodes[1].facts["kind"] == "predictions"
    entries = rt.audit(limit=200, subject=ENDPOINT)
    rang = [entry["details"]["condition"] for entry in entries if entry["action"] == "alarm"]
    assert rang == ["psi > 0.5 on a for 2 windows"]
    assert rt.audit.verify().sound

    seen = asked_until(rt, 3.0, lambda: told_of_both(rt))
    assert seen.normal == "training data"
    assert seen.version == f"{ENDPOINT}:2"
    assert seen.feedback["joined"] > 100
    assert seen.feedback["unknown"] == 0
    page = rt.monitor(ENDPOINT).report()._repr_html_()
    assert page.count("<svg") == 3, "over time, distributions, groups"
    costs = rt.cost(by="run")
    assert costs.adds_up
    assert {part["because"] for part in costs.parts if part["what"] == run["id"]} == {
        f"watch {watch.id}"
    }
    shares = {part["kind"]: part["share"] for part in costs.parts}
    assert min(shares["endpoint"], shares["training"], shares["control plane"]) > 0
    assert "drifting stable" in page
    watch.end()
    assert watch.id not in [one["id"] for one in rt.watches()]
    rt.remove(ENDPOINT)


def test_an_encrypted_log_tells_who_may_know_and_takes_a_new_key_in_its_stride(
    rt: aios.Runtime, toy_frame: pd.DataFrame, toy_model: Any
) -> None:
    contract = aios.Contract(
        inputs={"a": aios.Number(private="hash"), "b": aios.Number(nullable=True, private="omit")},
        outputs={"p": aios.Number(min=0, max=1)},
        key="id",
        private_key="hash",
    )
    version = rt.models.register("hidden", toy_model, contract=contract, sample=toy_frame.head(50))
    endpoint = rt.deploy("hidden", version)
    (first,) = rt.log().keys

    def explained() -> dict[str, Any]:
        answer = endpoint.predict({"id": "ann", "a": 0.5, "b": 1.5})
        give_up_s = time.monotonic() + 60
        while True:
            try:
                return rt.explain(answer.request_id).fields
            except UnknownName:
                assert time.monotonic() < give_up_s, "the answer never came into the log"
                time.sleep(1.0)

    before = explained()
    second = rt.rotate_log_key()
    assert rt.log().keys == [first, second]
    after = explained()
    assert set(before["inputs"]) == {"a"}
    assert before["inputs"]["a"].startswith("hmac:")
    assert before["inputs"] == after["inputs"]
    assert before["key"] == after["key"] != "ann"

    done = rt.compact_log("hidden")
    assert (done["files_before"], done["files_after"], done["problem"]) == (2, 1, None)
    assert done["keys"] == sorted([first, second]), "rows of a moment ago are left to the next hour"
    with pytest.raises(aios.IllegalTransition, match=r"moment ago|rows of .* are under key"):
        rt.retire_log_key(first)
