"""Why an answer was given: found in the log, led back to who let it, and taken apart."""

import json
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from governed_world import DATA, RUN, again, answer, governed
from kernel_fakes import World
from rich.console import Console
from sklearn.linear_model import LinearRegression

from aios.contracts import Category, Contract, Integer, Number
from aios.errors import ModelFailed, StoreUnavailable, UnknownName
from aios.models import build
from aios.monitoring.recorded import find_answer
from aios.records import ModelVersion
from aios.runtime.explanation import Explanation
from aios.serving.endpoint import Answer
from aios.serving.recorder import Recorder
from aios.store.artifacts import ArtifactStore
from aios.training.explaining import Reasons, explain_answer
from aios.training.pipeline import BACKGROUND
from aios.training.workspace import Workspace

REASONS = {
    "output": "approve",
    "contributions": {
        "score": 0.75,
        "base": 0.5,
        "values": {"a": 0.25},
        "errors": {"a": 0.01},
        "permutations": 200,
    },
    "why": None,
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return governed(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    found = again(template, tmp_path)
    found.bench.gives = {"find_answer": answer(), "explain": REASONS}
    return found


def explained(world: World, **recorded: Any) -> Explanation:
    world.bench.gives["find_answer"] = answer(**recorded)
    return Explanation(world.do("explain", request_id="r1"))


# -- the log --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two endpoints; `r1` has two rows, and was used a second time on `other`, earlier."""
    from serving_fakes import rows

    folder = str(tmp_path_factory.mktemp("log"))
    for endpoint, values in (("other", (9.0,)), ("loan", (1.5, 2.5))):
        recorder = Recorder(f"{folder}/{endpoint}", 1.0)
        batch = rows(*values, keys=["k"] * len(values))
        made = Answer({"p": np.array(values) / 10}, 3, "canary", None)
        recorder.add(batch, made, key="k", request_id="r1", latency_s=0.01)
        recorder.add(batch, made, key="k", request_id=f"only-{endpoint}", latency_s=0.01)
        recorder.flush()
    return folder


def test_an_answer_is_found_by_its_id_on_whichever_endpoint(log: str) -> None:
    found = find_answer(log, ["loan", "other", "never-called"], "only-other")
    assert (found.endpoint, found.version, found.arm) == ("other", 3, "canary")
    assert (found.inputs, found.outputs) == ({"a": 9.0}, {"p": 0.9})


def test_of_an_id_that_was_used_twice_the_newest_answer_counts(log: str) -> None:
    found = find_answer(log, ["other", "loan"], "r1", row=1)
    assert (found.endpoint, found.row, found.rows, found.inputs) == ("loan", 1, 2, {"a": 2.5})


def test_what_is_not_there_says_why_that_may_be(log: str) -> None:
    with pytest.raises(UnknownName, match=r"'r2' .* loan; .* 5 s .* record_fraction"):
        find_answer(log, ["loan"], "r2")
    with pytest.raises(UnknownName, match="no row 2; its rows are 0 to 1"):
        find_answer(log, ["loan"], "r1", row=2)


def test_a_log_that_cannot_be_read_is_no_missing_answer(tmp_path: Path) -> None:
    folder = tmp_path / "loan" / "_delta_log"
    folder.mkdir(parents=True)
    (folder / "00000000000000000000.json").write_text("{broken")
    with pytest.raises(StoreUnavailable, match="loan"):
        find_answer(str(tmp_path), ["loan"], "r1")


# -- contributions --------------------------------------------------------------------

CONTRACT = Contract(
    inputs={
        "income": Number(min=0, max=100),
        "months": Integer(min=0, max=100, nullable=True),
        "kind": Category(values=["old", "new"]),
    },
    outputs={"score": Number()},
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelVersion, Workspace]:
    """score = 0.02 income, whatever else is asked; 60 rows as background."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    folder = tmp_path_factory.mktemp("artifacts")
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "income": random.uniform(0, 100, 60),
            "months": random.integers(0, 100, 60),
            "kind": random.choice(["old", "new"], 60),
        }
    )
    columns = make_column_transformer(
        (SimpleImputer(), ["income", "months"]), (OrdinalEncoder(), ["kind"])
    )
    model = make_pipeline(columns, LinearRegression()).fit(frame, 0.02 * frame["income"])
    built = build(model, CONTRACT, frame, folder / "built")
    ArtifactStore(str(folder / "store"), folder).put(built.folder, built.artifact.digest)
    version = ModelVersion(
        name="loan",
        version=1,
        artifact=built.artifact,
        contract=CONTRACT.to_json(),
        contract_digest=CONTRACT.digest,
        created_s=1.0,
        created_by="ann",
    )
    workspace = Workspace(str(folder / "run"), str(folder / "store"), str(folder / "cache"))
    frame.to_parquet(folder / "background.parquet", index=False)
    workspace.write(BACKGROUND, (folder / "background.parquet").read_bytes())
    return version, workspace


@pytest.mark.parametrize("months", [12, None])
def test_contributions_add_up_and_name_what_matters(
    trained: tuple[ModelVersion, Workspace], months: int | None
) -> None:
    version, workspace = trained
    inputs = {"income": 90.0, "months": months, "kind": "new"}
    found = explain_answer(version, inputs, None, workspace)
    assert found.why is None
    assert found.output == "score"
    assert found.contributions is not None
    reasons = found.contributions
    assert reasons.score == pytest.approx(1.8, abs=1e-4)
    assert reasons.base + sum(reasons.values.values()) == pytest.approx(reasons.score, abs=1e-6)
    assert reasons.values["income"] == pytest.approx(reasons.score - reasons.base, abs=1e-3)
    assert Reasons.model_validate_json(found.model_dump_json()) == found


def test_what_cannot_be_explained_says_why(
    trained: tuple[ModelVersion, Workspace], tmp_path: Path
) -> None:
    version, workspace = trained
    inputs = {"income": 900.0, "months": 1, "kind": "new"}
    outside = explain_answer(version, inputs, None, workspace)
    assert outside.contributions is None
    assert outside.why is not None
    assert "income" in outside.why
    elsewhere = Workspace(str(tmp_path), workspace.artifacts_url, workspace.cache)
    gone = explain_answer(version, {}, None, elsewhere)
    assert gone.why is not None
    assert "no background rows" in gone.why


def test_an_answer_to_private_questions_is_not_taken_apart(
    trained: tuple[ModelVersion, Workspace],
) -> None:
    version, workspace = trained
    income = Number(private="hash")
    contract = Contract({**CONTRACT.inputs, "income": income}, CONTRACT.outputs)
    private = version.model_copy(update={"contract": contract.to_json()})
    found = explain_answer(private, {"income": "hmac:0", "months": 1}, None, workspace)
    assert found.contributions is None
    assert found.why is not None
    assert found.why.startswith("income is private by the contract")


# -- who let it -----------------------------------------------------------------------


def test_an_answer_leads_to_data_gates_and_whose_approval_let_it_serve(world: World) -> None:
    found = explained(world)
    assert (found.ref, found.arm, found.endpoint) == ("loan:2", "stable", "loan")
    assert (found.inputs, found.outputs) == ({"a": 4.5}, {"approve": 0.75})
    assert found.snapshot is not None
    assert found.snapshot.digest == DATA
    assert found.run is not None
    assert (found.run["id"], found.run["config"]) == (RUN, {"depth": 3})
    assert found.assessment is not None
    assert found.assessment.passed
    assert found.approval is not None
    assert found.approval.approvers == ("bea",)
    assert found.served is not None
    assert found.served.cleared_by["assessment"] == found.assessment.digest
    assert found.contributions is not None
    assert found.contributions.values == {"a": 0.25}
    assert world.bench.asked[0] == ("find_answer", {"endpoints": ["loan"], "row": 0})
    assert world.bench.asked[1] == ("explain", {"run": RUN, "version": 2})


def test_it_is_the_clearance_of_then_and_not_of_now(world: World) -> None:
    """Another assessment since, that failed, has nothing to do with why it served."""
    before = explained(world)
    assert before.assessment is not None
    worse = before.assessment.results[0].model_copy(update={"outcome": "failed"})
    with world.kernel.registry.change(actor="ann", action="test", subject="loan") as change:
        change.add_assessment(
            before.assessment.model_copy(
                update={"id": "later", "digest": "9" * 64, "results": (worse,)}
            )
        )
    after = explained(world)
    assert after.assessment == before.assessment


def test_a_version_made_by_hand_is_not_explained_and_says_how(world: World) -> None:
    found = explained(world, version=1, at_s=1_000_050.0)
    assert (found.run, found.snapshot, found.assessment) == (None, None, None)
    assert found.served is not None
    assert found.served.cause == "deploy"
    assert found.contributions is None
    assert found.no_contributions is not None
    assert "registered by hand" in found.no_contributions
    assert [name for name, _ in world.bench.asked] == ["find_answer"]


def test_a_canary_leads_to_its_rollout_and_its_approval(world: World) -> None:
    found = explained(world, arm="canary", at_s=1_000_125.0)
    assert found.served is None
    assert found.rollout is not None
    assert found.rollout["id"] == "loan-2-ab"
    assert found.approval is not None
    assert found.approval.approvers == ("bea",)


def test_a_fallback_is_not_explained_by_the_model(world: World) -> None:
    found = explained(world, degraded="rule")
    assert found.contributions is None
    assert found.no_contributions is not None
    assert "'rule' gave this answer" in found.no_contributions


def test_a_model_that_cannot_be_asked_leaves_the_rest(world: World) -> None:
    world.bench.gives["explain"] = ModelFailed("its process died")
    found = explained(world)
    assert found.approval is not None
    assert found.no_contributions == "it could not be computed: its process died"


def test_an_unknown_request_is_named(world: World) -> None:
    world.bench.gives["find_answer"] = UnknownName("no answer to request 'r1'")
    for _ in range(2):
        with pytest.raises(UnknownName, match="r1"):
            world.do("explain", request_id="r1")


def test_who_asks_the_same_meanwhile_waits_for_the_same_answer(world: World) -> None:
    """A client whose call was given up on the way asks again: it starts nothing anew."""
    original = world.bench.find_answer
    answers: list[Any] = []
    others = [
        threading.Thread(target=lambda: answers.append(world.do("explain", request_id="r1")))
        for _ in range(2)
    ]

    def slow(*arguments: Any) -> dict[str, Any]:
        for other in others:
            other.start()
        for other in others:
            other.join(0.1)
            assert other.is_alive()
        return original(*arguments)

    world.bench.find_answer = slow  # type: ignore[method-assign]
    first = world.do("explain", request_id="r1")
    for other in others:
        other.join(10)
    assert answers == [first, first]
    assert [name for name, _ in world.bench.asked] == ["find_answer", "explain"]


# -- looks ----------------------------------------------------------------------------


class Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_reads_well_everywhere_and_is_never_markup(world: World) -> None:
    found = explained(world, inputs={"a": 4.5, "<b>name</b>": "<i>x</i>"})
    plain = repr(found)
    page = Text()
    page.feed(found._repr_html_())
    assert page.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td"}
    console = Console(width=140, color_system=None, force_terminal=True)
    with console.capture() as shown:
        console.print(found)
    for text in (plain, page.text, shown.get()):
        for told in ("loan:2", "bea", "<i>x</i>", "quality", "+0.2500", "12,345 rows", "tier high"):
            assert told in text
    assert json.loads(json.dumps(found.fields)) == found.fields
