"""The governed act: what its recipes look at, and what its part of the report tells."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import binomtest

from apps.loan_approval import data, dossier_charts, recipes
from apps.loan_approval.dossier import (
    Candidate,
    DecisionTold,
    Dossier,
    Explained,
    GateTold,
    Share,
    TrialTold,
)
from apps.loan_approval.dossier_report import governed_charts, governed_section
from apps.loan_approval.narrative import RolloutTold
from apps.loan_approval.outcomes import Stats

AT_S = 1_700_000_000.0


class Rows:
    """Training data as a recipe sees it."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.features = list(data.FEATURES)
        self._frame = frame

    def frame(self) -> pd.DataFrame:
        return self._frame[[*self.features, data.LABEL]]


@pytest.mark.parametrize(
    ("recipe", "ignored"),
    [
        (recipes.AbilityToPay, set(data.FEATURES) - set(recipes.ABILITY)),
        (recipes.WithoutHistoryMarks, set(recipes.HISTORY_MARKS)),
        (recipes.Everything, set()),
    ],
)
def test_a_recipe_answers_to_what_it_looks_at_and_to_nothing_else(
    recipe: type[recipes.Mortgage], ignored: set[str]
) -> None:
    frame = data.load()
    model = recipe().fit({"C": 1.0}, Rows(frame))
    asked = frame[list(data.FEATURES)].dropna().head(300)
    usual = model.predict_proba(asked)[:, 1]
    for name in data.FEATURES:
        other = asked.copy()
        other[name] = asked[name].to_numpy()[::-1]
        same = bool((model.predict_proba(other)[:, 1] == usual).all())
        assert same == (name in ignored), name


def test_nothing_protected_is_an_input_and_all_of_it_is_in_the_data() -> None:
    assert set(recipes.Mortgage.protected) <= set(data.PROTECTED) & set(data.load().columns)
    assert not set(recipes.Mortgage.protected) & set(data.FEATURES)
    assert {*recipes.ABILITY, *recipes.HISTORY_MARKS} <= set(data.FEATURES)


def candidate(number: int, outcome: str, upper: float, **told: Any) -> Candidate:
    groups = {
        "0.0": {"rows": 700, "selection_rate": 0.99},
        "1.0": {"rows": 77, "selection_rate": 0.8},
        "?": {"rows": 3, "selection_rate": None},
    }
    evidence = {"attributes": {"black": {"demographic_parity": {"groups": groups}}}}
    return Candidate(
        ref=f"mortgage:{number}",
        about="some <columns>",
        outcome="refused" if outcome == "failed" else "registered",
        seconds=12.3,
        metric="auc",
        metrics={"auc": 0.8},
        gates=(
            GateTold(
                gate="fairness",
                outcome=outcome,
                value=upper,
                threshold=0.2,
                reason=f"may be <{upper}>",
                evidence=evidence,
            ),
            GateTold(gate="card", outcome="passed"),
        ),
        trials=(
            TrialTold(number=0, config={"C": 1.0}, state="finished", value=0.7),
            TrialTold(number=1, config={"C": 2.0}, state="failed"),
            TrialTold(number=2, config={"C": 3.0}, state="finished", value=0.8),
        ),
        **told,
    )


@pytest.fixture(scope="module")
def dossier() -> Dossier:
    decision = DecisionTold(by="officer", answer="approved", reason="fair <enough>", at_s=AT_S)
    return Dossier(
        candidates=(
            candidate(1, "failed", 0.31, said_no=("Tried to roll out. NotApproved: fairness",)),
            candidate(2, "passed", 0.12, decisions=(decision,)),
        ),
        rollout=RolloutTold(
            id="r1",
            from_version=1,
            to_version=2,
            outcome="promoted",
            started_s=AT_S,
            finished_s=AT_S + 9,
        ),
        traffic=Stats(sent=100, p50_s=0.003, p99_s=0.004),
        explained=Explained(
            request_id="q-1",
            ref="mortgage:2",
            at_s=AT_S,
            base=0.9,
            score=0.6,
            shares=(
                Share(feature="obrat", value="95", added=-0.4, error=0.01),
                Share(feature="cons", value="1", added=0.1),
            ),
            approvers=("officer",),
        ),
        lineage="<ul><li>the data</li></ul>",
        history=(("mortgage:2", "10:00:00", "now", "rollout of kernel", "officer"),),
        audit="audit log: sound, 40 entries",
        card="card-mortgage-2.md",
        surprises=("a surprise & more",),
    )


def test_a_candidate_knows_what_holds_it_back_and_how_groups_fare(dossier: Dossier) -> None:
    refused, passed = dossier.candidates
    assert (refused.not_passed, passed.not_passed) == (("fairness",), ())
    assert [(group.name, group.rows, group.rate) for group in refused.groups] == [
        ("0.0", 700, 0.99),
        ("1.0", 77, 0.8),
    ]


def test_the_section_tells_gates_people_rollout_reasons_and_the_log(dossier: Dossier) -> None:
    text = governed_section(dossier, governed_charts(dossier))
    for told in (
        "mortgage:1 has AUC 0.800 and may not serve: fairness.",
        "mortgage:2 has 0.800, and was approved by officer.",
        "may be &lt;0.31&gt;",
        "refused: Tried to roll out. NotApproved: fairness",
        "approved: fair &lt;enough&gt;",
        "100 requests, 0 failed",
        "which officer let serve: approval with 60.0% probability",
        "<li>the data</li>",
        "audit log: sound, 40 entries",
        "a surprise &amp; more",
    ):
        assert told in text, told
    assert "<columns>" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert text.count("<svg") == 3


def test_the_charts_are_drawn(dossier: Dossier, tmp_path: Path) -> None:
    drawn = governed_charts(dossier)
    assert list(drawn) == ["trials", "fairness", "explanation"]
    for name, figure in drawn.items():
        path = tmp_path / f"{name}.png"
        figure.savefig(path)
        assert path.stat().st_size > 5_000
    names = [label.get_text() for label in drawn["fairness"].axes[0].get_yticklabels()]
    assert names == ["not black (700)", "black (77)"]


@pytest.mark.parametrize(("yes", "rows"), [(0, 5), (80, 100), (3, 3), (699, 700)])
def test_intervals_are_wilsons(yes: int, rows: int) -> None:
    known = binomtest(yes, rows).proportion_ci(0.95, method="wilson")
    assert dossier_charts.wilson(yes / rows, rows) == pytest.approx((known.low, known.high))
