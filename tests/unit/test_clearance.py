"""Clearance: nothing becomes stable without all that its tier asks for."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.errors import UsageError
from aios.governance import Policy, clearance, request_for, seal
from aios.records import (
    ApprovalRequest,
    Artifact,
    Assessment,
    BreakGlass,
    Clearance,
    Decision,
    GateResult,
    ModelProfile,
    ModelVersion,
)

NOW_S = 1000.0
POLICY = Policy.parse(
    """
name: house
tiers:
  never: {prohibited: true, gates: {card: {}}, approvals: 1}
  high: {gates: {card: {}, fairness: {}}, approvals: 2, approval_expires_s: 500}
  seen: {approvals: 1}
  checked: {gates: {card: {}}}
  free: {}
uses:
  punishing: {tier: never, article: Article 5}
  lending: {tier: high}
  sorting: {tier: seen}
  counting: {tier: checked}
  playing: {tier: free}
undeclared: free
"""
)
VERSION = ModelVersion(
    name="loan",
    version=2,
    artifact=Artifact(digest="a" * 64, engine="onnx", size_bytes=1),
    contract={},
    contract_digest="c" * 64,
    created_s=0,
    created_by="ana",
)


def results(**outcomes: str) -> tuple[GateResult, ...]:
    told = {"card": "passed", "fairness": "passed", **outcomes}
    return tuple(
        GateResult(gate=gate, outcome=outcome, reason=f"{gate} was looked at")
        for gate, outcome in told.items()
        if outcome != "absent"
    )


def assessed(found: tuple[GateResult, ...], **changed: Any) -> Assessment:
    sealed = ("a" * 64, "5" * 64, found, POLICY.digest)
    fields = {
        "id": "a1",
        "name": "loan",
        "version": 2,
        "artifact_digest": sealed[0],
        "snapshot_digest": sealed[1],
        "results": found,
        "policy_digest": sealed[3],
        "digest": seal(*sealed),
        "at_s": 500.0,
        "by": "ana",
    }
    return Assessment.model_validate(fields | changed)


def answered(request: ApprovalRequest, *by: str, answer: str = "approved") -> ApprovalRequest:
    more = [Decision(by=who, answer=answer, reason="looked at it", at_s=700) for who in by]
    return request.model_copy(update={"decisions": (*request.decisions, *more)})


@dataclass(frozen=True)
class Case:
    """All that one decision is made from; as it stands it is cleared."""

    use: str
    assessment: Assessment | None
    request: ApprovalRequest | None
    declared_s: float = 100.0
    now_s: float = NOW_S
    break_glass: BreakGlass | None = None

    def decide(self) -> Clearance:
        profile = ModelProfile(name="loan", use=self.use, declared_s=self.declared_s)
        facts = (POLICY, profile, VERSION, self.assessment, self.request, self.now_s)
        return clearance(*facts, self.break_glass)


def cleared(use: str = "lending") -> Case:
    assessment = assessed(results())
    request = request_for(POLICY.tier_of(use)[1], assessment, "ana", 600.0)
    return Case(use, assessment, request and answered(request, "bob", "carol"))


GLASS = BreakGlass(id="b1", name="loan", by="root", reason="fire", from_s=900, until_s=1100)


def test_what_has_all_is_cleared_and_says_by_whom() -> None:
    case = cleared()
    found = case.decide()
    assert (found.allowed, found.missing, found.tier) == (True, (), "high")
    assert found.cleared_by["assessment"] == case.assessment.digest
    assert found.cleared_by["approvers"] == ["bob", "carol"]


@pytest.mark.parametrize("use", ["undeclared", "playing"])
def test_a_tier_that_asks_for_nothing_lets_all_serve(use: str) -> None:
    assert Case(use, None, None).decide().allowed


def broken(**changed: Any) -> Case:
    return replace(cleared(), **changed)


def with_request(**changed: Any) -> Case:
    case = cleared()
    return replace(case, request=case.request.model_copy(update=changed))


def with_assessment(**changed: Any) -> Case:
    """The same approvals, of an assessment that was altered with its digest left as it was."""
    case = cleared()
    return replace(case, assessment=case.assessment.model_copy(update=changed))


REQUEST = cleared().request.model_copy(update={"decisions": ()})


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (broken(assessment=None), 'never assessed: run rt.assess("loan:2"'),
        (with_assessment(version=1), "is of loan:1, not of loan:2"),
        (with_assessment(artifact_digest="b" * 64), "of other bytes"),
        (with_assessment(policy_digest="b" * 64), "the policy has changed"),
        (with_assessment(snapshot_digest="b" * 64), "not what its digest seals"),
        (broken(declared_s=501), "was declared anew"),
        (
            broken(assessment=assessed(results(fairness="failed"))),
            "the gate fairness failed (fairness was looked at)",
        ),
        (
            broken(assessment=assessed(results(card="not_enough_data"))),
            "the gate card had not enough data",
        ),
        (broken(assessment=assessed(results(fairness="absent"))), "fairness was not run"),
        (
            broken(assessment=assessed((*results(), *results(fairness="failed")))),
            "the gate fairness failed",
        ),
        (broken(request=None), "needs 2 approvals, and none was asked for"),
        (broken(request=REQUEST), "waits for 2 approvals by others than its author: ask an app"),
        (broken(request=answered(REQUEST, "bob")), "waits for 1 approval by"),
        (broken(request=answered(REQUEST, "bob", "bob")), "waits for 1 approval by"),
        (broken(request=answered(REQUEST, "ana", "bob")), "waits for 1 approval by"),
        (
            broken(request=answered(REQUEST.model_copy(update={"author": "dan"}), "ana", "bob")),
            "waits for 1 approval by",
        ),
        (with_request(needed=1, decisions=()), "waits for 2 approvals"),
        (with_request(digest="d" * 64), "is void, as it was for another assessment"),
        (with_request(subject="loan:3"), "the approval is for loan:3, not for loan:2"),
        (with_request(subject="r-1/3"), "the approval is for r-1/3"),
        (
            broken(request=answered(cleared().request, "dora", answer="rejected")),
            "was rejected by dora: looked at it",
        ),
        (broken(now_s=1100), "expired"),
    ],
)
def test_each_thing_that_is_missing_is_told(case: Case, told: str) -> None:
    found = case.decide()
    assert not found.allowed
    assert told in "\n".join(found.missing)
    assert found.cleared_by == {}
    glass = replace(case, break_glass=GLASS.model_copy(update={"until_s": 2000})).decide()
    assert (glass.allowed, glass.cleared_by) == (True, {"break_glass": "b1"})


@pytest.mark.parametrize("use", ["punishing", "astrology"])
def test_a_prohibited_or_unknown_use_never_serves(use: str) -> None:
    found = replace(cleared(), use=use, break_glass=GLASS).decide()
    assert not found.allowed
    assert ("Article 5" if use == "punishing" else "knows no use") in found.missing[0]


@pytest.mark.parametrize("changed", [{"from_s": NOW_S + 1}, {"until_s": NOW_S}, {"name": "fraud"}])
def test_a_break_glass_of_another_time_or_model_does_nothing(changed: dict[str, Any]) -> None:
    glass = GLASS.model_copy(update=changed)
    assert not broken(request=None, break_glass=glass).decide().allowed


def test_what_was_cleared_in_order_does_not_count_as_break_glass() -> None:
    assert "break_glass" not in replace(cleared(), break_glass=GLASS).decide().cleared_by


def test_people_are_asked_only_about_what_could_serve() -> None:
    high, passed = POLICY.tier_of("lending")[1], assessed(results())
    request = request_for(high, passed, "ana", 600.0)
    assert (request.needed, request.expires_s, request.subject) == (2, 1100.0, "loan:2")
    assert request == request_for(high, passed, "ana", 600.0)
    assert request.id != request_for(high, passed, "ana", 601.0).id
    assert request_for(high, assessed(results(card="failed")), "ana", 600.0) is None
    assert request_for(high, assessed(()), "ana", 600.0) is None
    assert request_for(POLICY.tier_of("counting")[1], passed, "ana", 600.0) is None
    assert request_for(POLICY.tier_of("punishing")[1], passed, "ana", 600.0) is None


def test_the_seal_covers_each_part_and_outlives_the_database() -> None:
    evidence = {"groups": {10: 1.5, 2: (1, 2)}}
    found = [GateResult(gate="card", outcome="passed", reason="", evidence=evidence)]
    stored = [GateResult.model_validate_json(found[0].model_dump_json())]
    whole = seal("a", "s", found, "p")
    assert whole == seal("a", "s", stored, "p")
    assert seal("a", "s", results(), "p") == seal("a", "s", results()[::-1], "p")
    changed = found[0].model_copy(update={"value": 1.0})
    others = {
        *(seal("b", "s", found, "p"), seal("a", "t", found, "p")),
        *(seal("a", "s", [changed], "p"), seal("a", "s", found, "q"), seal("a", "s", [], "p")),
    }
    assert len(others | {whole}) == 6
    with pytest.raises(UsageError):
        seal("a", "s", [found[0].model_copy(update={"value": float("nan")})], "p")


outcomes = st.sampled_from(["passed", "passed", "passed", "failed", "not_enough_data", "absent"])
people = st.lists(st.sampled_from(["ana", "bob", "carol", "dora"]), max_size=4)


@given(
    use=st.sampled_from(["lending", "sorting", "counting", "playing", "punishing", "undeclared"]),
    card=outcomes,
    fairness=outcomes,
    approvers=people,
    without=st.integers(0, 3),
    now_s=st.floats(600, 1200),
    later_s=st.floats(0, 600),
)
@settings(max_examples=300, deadline=None)
def test_taking_something_away_never_allows(
    use: str,
    card: str,
    fairness: str,
    approvers: list[str],
    without: int,
    now_s: float,
    later_s: float,
) -> None:
    """Less evidence, fewer approvals and later hours: what was refused stays refused."""
    found = assessed(results(card=card, fairness=fairness))
    asked = REQUEST.model_copy(update={"digest": found.digest})
    case = Case(use, found, answered(asked, *approvers), now_s=now_s)
    poorer = [
        replace(case, assessment=None),
        replace(case, request=None),
        replace(case, request=answered(asked, *approvers[:without])),
        replace(case, request=answered(case.request, "dora", answer="rejected")),
        replace(case, now_s=now_s + later_s),
        replace(case, declared_s=501),
    ]
    for gate in ("card", "fairness"):
        fewer = tuple(result for result in found.results if result.gate != gate)
        remade = assessed(fewer)
        again = asked.model_copy(update={"digest": remade.digest})
        poorer.append(Case(use, remade, answered(again, *approvers), now_s=now_s))
    if not case.decide().allowed:
        assert [each for each in poorer if each.decide().allowed] == []
