"""What every database under the registry must do with the facts that rules go by.

Run over SQLite and over PostgreSQL; a test module subclasses the suite and provides the same
two fixtures as for `RegistryConformance`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

from aios.clock import ManualClock
from aios.errors import (
    Forbidden,
    IllegalTransition,
    NotApproved,
    UnknownEndpoint,
    UnknownModel,
    UnknownName,
    UsageError,
)
from aios.records import (
    ApprovalRequest,
    Assessment,
    BreakGlass,
    Clearance,
    CodeSource,
    ColumnProfile,
    DataSource,
    Decision,
    EndpointSpec,
    GateResult,
    ModelProfile,
    ModelVersion,
    RunSpec,
    Serving,
    Snapshot,
    TrainingRun,
)
from aios.records.acting import Question
from aios.registry import Reads, Registry
from aios.store import schema, tables
from aios.store.database import Database
from tests.conformance_registry import ARTIFACT, WHO, all_at_once, register

LOAN = EndpointSpec(name="loan", model="loan")


@dataclass
class Door:
    """A guard that a test opens and shuts; remembers whom it was asked about."""

    missing: tuple[str, ...] = ()
    cleared_by: dict[str, Any] = field(default_factory=lambda: {"tier": "minimal"})
    asked: list[int] = field(default_factory=list)

    def __call__(self, _reads: Reads, version: ModelVersion) -> Clearance:
        self.asked.append(version.version)
        return Clearance(
            ref=version.ref,
            tier="high",
            allowed=not self.missing,
            missing=self.missing,
            cleared_by=self.cleared_by,
        )


def serve(registry: Registry, version: int, **how: Any) -> None:
    with registry.change(subject="loan", **WHO) as change:
        change.put_endpoint(LOAN, version, **how)
        change.set_alias("loan", "stable", version)


def roll_back(registry: Registry) -> int | None:
    """As the kernel does it; the version that is stable then, or None if there is no way."""
    target = registry.rollback_target("loan")
    if target is not None:
        serve(registry, target, rejected=True, cause="rollback")
    return target


def snapshot(letter: str = "d", **more: Any) -> Snapshot:
    columns = {"income": ColumnProfile(dtype="double", nulls=1, distinct=5, top={"a\0": 2})}
    facts: dict[str, Any] = {"kind": "delta", "location": "s3://loans", "version": 3} | more
    return Snapshot(rows=2**40, columns=columns, digest=letter * 64, taken_s=1.0, **facts)


def assessment(assessment_id: str = "a1", version: int = 1, **more: Any) -> Assessment:
    facts: dict[str, Any] = {
        "results": (
            GateResult(gate="quality", outcome="passed", reason="fine", evidence={"p": 0.1}),
        ),
        "digest": "e" * 64,
        "artifact_digest": ARTIFACT.digest,
    } | more
    return Assessment(
        id=assessment_id,
        name="loan",
        version=version,
        snapshot_digest="d" * 64,
        policy_digest="f" * 64,
        at_s=5.0,
        by="ana",
        **facts,
    )


def asking(request_id: str = "q1", **more: Any) -> ApprovalRequest:
    facts: dict[str, Any] = {"digest": "e" * 64, "needed": 2, "expires_s": 1100.0} | more
    return ApprovalRequest(
        id=request_id,
        subject="loan:1",
        name="loan",
        version=1,
        author="bob",
        requested_s=1000.0,
        **facts,
    )


def answer(registry: Registry, by: str, said: str = "approved", to: str = "q1") -> ApprovalRequest:
    with registry.change(subject="loan:1", **WHO) as change:
        decision = Decision.model_validate(
            {"by": by, "answer": said, "reason": "I looked", "at_s": change.at_s}
        )
        return change.decide(to, decision)


def glass(broken_id: str = "g1", from_s: float = 1000.0, until_s: float = 1900.0) -> BreakGlass:
    return BreakGlass(
        id=broken_id, name="loan", by="eve", reason="outage", from_s=from_s, until_s=until_s
    )


def training(run_id: str = "r1", model: str = "loan") -> TrainingRun:
    recipe = CodeSource(path="recipe:Loan", text="class Loan: ...", sha256="a" * 64)
    spec = RunSpec(
        model=model,
        recipe=recipe,
        data=DataSource(kind="csv", location="loans.csv"),
        contract={"inputs": {}},
    )
    return TrainingRun(
        id=run_id, model=model, stage="snapshot", spec=spec, created_s=1000.0, created_by="ana"
    )


class GovernedConformance:
    """Profiles, policies, data, assessments, approvals, servings and runs over any database."""

    @pytest.fixture
    def database(self, migrated_url: str) -> Iterator[Database]:
        database = Database(migrated_url)
        yield database
        database.close()

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(1000.0)

    @pytest.fixture
    def door(self) -> Door:
        return Door()

    @pytest.fixture
    def registry(self, database: Database, clock: ManualClock, door: Door) -> Registry:
        """With four versions of the model `loan`, made by ana."""
        registry = Registry(database, clock, guard=door)
        with registry.change(subject="loan", **WHO) as change:
            for _ in range(4):
                register(change)
        return registry

    # -- facts ------------------------------------------------------------------------

    def test_a_definition_sent_again_is_the_same_version_and_a_changed_one_the_next(
        self, registry: Registry
    ):
        def define(text: str, **facts: Any) -> str:
            digest = hashlib.sha256(text.encode()).hexdigest()
            source = CodeSource(path="work:refund", text=text, sha256=digest)
            with registry.change(subject="refund", **WHO) as change:
                return change.define("flow", "refund", source, facts, "ana").ref

        assert [define("a"), define("a"), define("b"), define("b", retries=1), define("a")] == [
            "refund:1",
            "refund:1",
            "refund:2",
            "refund:3",
            "refund:4",
        ]
        assert registry.definition("flow", "refund", 2).source.text == "b"
        assert registry.definition("flow", "refund").version == 4
        assert registry.definitions("agent") == []
        with pytest.raises(UnknownName, match="no version 9; it has 1, 2, 3, 4"):
            registry.definition("flow", "refund", 9)
        with pytest.raises(UnknownName, match='no agent "refund"; known: none'):
            registry.definition("agent", "refund")

    def test_a_question_is_put_once_answered_once_and_may_be_asked_again(
        self, registry: Registry, clock: ManualClock
    ):
        asked = Question(
            id="order-42/1",
            flow="order-42",
            text="approve?",
            form={"type": "boolean"},
            to="approver",
            asked_by="ana",
            asked_s=1000.0,
            until_s=1060.0,
        )

        def change():
            return registry.change(subject="order-42", **WHO)

        with change() as one:
            assert one.put_question(asked) == asked
        with change() as one:
            assert one.put_question(asked.model_copy(update={"text": "other"})) == asked
            answered = one.answer_question("order-42/1", False, "bea")
        assert registry.question("order-42/1") == answered
        assert (answered.answer, answered.answered_by, registry.open_questions()) == (
            False,
            "bea",
            [],
        )
        with change() as one, pytest.raises(IllegalTransition, match="is answered"):
            one.answer_question("order-42/1", True, "bea")
        with change() as one:
            again = one.reopen_question("order-42/1", "not so")
        assert registry.open_questions() == [again]
        clock.advance(60.0)
        with change() as one, pytest.raises(IllegalTransition, match="is expired"):
            one.answer_question("order-42/1", True, "bea")
        with change() as one:
            assert one.end_question("order-42/1", "expired").status == "expired"
            assert one.end_question("order-42/1", "withdrawn").status == "expired"
        with pytest.raises(UnknownName, match='no question "nope"; open: none'):
            registry.question("nope")

    def test_a_model_is_undeclared_until_somebody_says_what_it_is_for(self, registry: Registry):
        assert registry.profile("loan") == ModelProfile(name="loan")
        for use in ("credit_scoring", "spam_filter"):
            told = ModelProfile(name="loan", use=use, limits=("adults",), protected=("sex",))
            with registry.change(actor="carol", action="declare", subject="loan") as change:
                declared = change.declare(told)
        assert registry.profile("loan") == declared
        assert (declared.use, declared.declared_by, declared.declared_s) == (
            "spam_filter",
            "carol",
            1000.0,
        )
        assert registry.audit(limit=1)[0].details == {
            "use": "spam_filter",
            "used_before": "credit_scoring",
        }
        with pytest.raises(UsageError):
            registry.profile("Loan!")

    def test_the_policy_set_last_is_in_force_and_earlier_ones_are_kept(self, registry: Registry):
        assert registry.policy() is None
        for letter in "abba":
            with registry.change(subject="policy", **WHO) as change:
                change.set_policy({"name": letter}, letter * 64)
        assert registry.policy() == {"name": "a"}
        assert registry.policy("b" * 64) == {"name": "b"}
        with pytest.raises(UnknownName, match="newest first: aaaaaaaaaaaa, bbbbbbbbbbbb, aaaa"):
            registry.policy("c" * 64)

    def test_a_snapshot_comes_back_and_is_kept_once_per_place(
        self, registry: Registry, database: Database
    ):
        for made in (snapshot(), snapshot(), snapshot(version=4), snapshot(version=None)):
            with registry.change(subject="loan", **WHO) as change:
                change.add_snapshot(made)
                change.add_snapshot(made)
        assert registry.snapshot("d" * 64) == made
        # A sketch of the same rows is another one each time.
        other = {"income": made.columns["income"].model_copy(update={"sketch": "QUtM"})}
        with registry.change(subject="loan", **WHO) as change:
            change.add_snapshot(made.model_copy(update={"columns": other, "taken_s": 9.0}))
        assert registry.snapshot("d" * 64) == made
        with database.reading() as connection:
            assert connection.execute(text("SELECT COUNT(*) FROM snapshots")).scalar() == 3
        with pytest.raises(UnknownName, match="dddddddddddd of s3://loans"):
            registry.snapshot("e" * 64)

    def test_the_newest_assessment_of_a_version_counts(self, registry: Registry):
        first, second = assessment("a1"), assessment("a2", digest="f" * 64, card="# Loan")
        with registry.change(subject="loan", **WHO) as change:
            for one in (first, second, assessment("a3", version=2)):
                change.add_assessment(one)
        assert registry.assessment("loan:1") == second
        assert registry.assessments("loan:1") == [first, second]
        assert registry.assessment("loan:3") is None
        with pytest.raises(UnknownModel):
            registry.assessment("loan:9")

    @pytest.mark.parametrize(
        ("wrong", "kind", "message"),
        [
            (assessment("a2", artifact_digest="b" * 64), UsageError, "assess loan:1 again"),
            (assessment("a1"), IllegalTransition, "used before"),
            (assessment("a2", version=9), UnknownModel, "no version 9"),
        ],
    )
    def test_an_assessment_that_cannot_be_is_refused(
        self, registry: Registry, wrong: Assessment, kind: type[Exception], message: str
    ):
        with registry.change(subject="loan", **WHO) as change:
            change.add_assessment(assessment("a1"))
        with (
            pytest.raises(kind, match=message),
            registry.change(subject="loan", **WHO) as change,
        ):
            change.add_assessment(wrong)
        assert len(registry.assessments("loan:1")) == 1

    # -- approvals --------------------------------------------------------------------

    def ask(self, registry: Registry, request: ApprovalRequest) -> ApprovalRequest:
        with registry.change(subject="loan:1", **WHO) as change:
            return change.request_approval(request)

    def test_a_request_waits_until_enough_people_said_yes(self, registry: Registry):
        self.ask(registry, asking())
        assert registry.waiting_approvals() == [asking()]
        answer(registry, "carol")
        assert [one.approvers for one in registry.waiting_approvals()] == [("carol",)]
        done = answer(registry, "dave")
        assert done.state(1000.0) == "approved"
        assert registry.waiting_approvals() == []
        assert registry.approvals("loan:1") == [registry.approval("q1")] == [done]
        assert registry.approvals(digest="0" * 64) == []
        told = registry.audit(limit=1)[0].details
        assert told == {"answer": "approved", "reason": "I looked", "digest": "e" * 64}

    def test_one_no_ends_a_request(self, registry: Registry):
        self.ask(registry, asking())
        assert answer(registry, "carol", "rejected").state(1000.0) == "rejected"
        with pytest.raises(IllegalTransition, match="is rejected"):
            answer(registry, "dave")

    @pytest.mark.parametrize(
        ("by", "to", "kind", "message"),
        [
            ("bob", "q1", Forbidden, "bob asked for the approval of loan:1"),
            ("ana", "q1", Forbidden, "ana made loan:1"),
            ("carol", "q1", IllegalTransition, "2 different people must approve"),
            ("carol", "q9", UnknownName, 'no approval request "q9"; waiting: q1 for loan:1'),
        ],
    )
    def test_who_may_not_answer_is_told_why(
        self, registry: Registry, by: str, to: str, kind: type[Exception], message: str
    ):
        self.ask(registry, asking())
        answer(registry, "carol")
        for said in ("approved", "rejected"):
            with pytest.raises(kind, match=message):
                answer(registry, by, said, to)
        assert registry.approval("q1").approvers == ("carol",)

    def test_an_expired_request_takes_no_answer(self, registry: Registry, clock: ManualClock):
        self.ask(registry, asking())
        clock.advance(100)
        assert registry.waiting_approvals() == []
        with pytest.raises(IllegalTransition, match="is expired"):
            answer(registry, "carol")

    def test_of_racing_answers_no_more_than_needed_count(self, registry: Registry):
        self.ask(registry, asking())
        results = all_at_once(6, lambda index: answer(registry, f"approver{index % 5}"))
        assert len(registry.approval("q1").decisions) == 2
        assert sum(isinstance(result, IllegalTransition) for result in results) == 4

    def test_a_repeated_request_is_the_one_that_stands(self, registry: Registry):
        self.ask(registry, asking())
        assert self.ask(registry, asking("q2")).id == "q1"
        answer(registry, "carol")
        answer(registry, "dave")
        assert self.ask(registry, asking("q2")).approvers == ("carol", "dave")

    def test_another_digest_ends_the_request_before(self, registry: Registry):
        self.ask(registry, asking())
        answer(registry, "carol")
        self.ask(registry, asking("q2", digest="f" * 64))
        assert [one.id for one in registry.waiting_approvals()] == ["q2"]
        with pytest.raises(IllegalTransition, match="is expired"):
            answer(registry, "dave")
        answer(registry, "dave", "rejected", "q2")
        assert self.ask(registry, asking("q3", digest="f" * 64)).id == "q3"

    def test_a_request_must_be_new(self, registry: Registry):
        yes = Decision(by="carol", answer="approved", reason="me", at_s=1.0)
        wrong = (
            (asking(decisions=(yes,)), UsageError),
            (asking(expires_s=1000.0), UsageError),
            (asking().model_copy(update={"version": 9}), UnknownModel),
        )
        for request, kind in wrong:
            with pytest.raises(kind):
                self.ask(registry, request)
        assert registry.approvals() == []

    # -- broken glass -----------------------------------------------------------------

    def test_glass_is_broken_for_its_model_until_it_expires(
        self, registry: Registry, clock: ManualClock
    ):
        with registry.change(subject="loan", **WHO) as change:
            change.add_break_glass(glass())
            assert change.break_glass("loan") == glass()
        assert registry.break_glass("fraud") is None
        clock.advance(899)
        assert registry.broken_glass() == [glass()]
        clock.advance(1)
        assert registry.break_glass("loan") is None

    @pytest.mark.parametrize(
        ("broken", "kind"),
        [
            (glass(until_s=1901.0), UsageError),
            (glass(from_s=2000.0, until_s=2900.0), UsageError),
            (glass(until_s=1000.0), UsageError),
            (glass().model_copy(update={"name": "lona"}), UnknownModel),
        ],
    )
    def test_glass_is_never_broken_for_long_nor_for_nothing(
        self, registry: Registry, broken: BreakGlass, kind: type[Exception]
    ):
        with pytest.raises(kind), registry.change(subject="loan", **WHO) as change:
            change.add_break_glass(broken)
        assert registry.broken_glass() == []

    # -- what serves ------------------------------------------------------------------

    def test_what_served_when_and_who_let_it_is_known(
        self, registry: Registry, clock: ManualClock, door: Door
    ):
        serve(registry, 1)
        clock.advance(10)
        door.cleared_by = {"assessment": "e" * 64}
        serve(registry, 2, cause="rollout")
        serve(registry, 2)
        clock.advance(10)
        assert roll_back(registry) == 1
        clock.advance(10)
        with registry.change(subject="loan", **WHO) as change:
            change.remove_endpoint("loan")
        found = registry.servings("loan")
        assert [(one.version, one.cause, one.from_s, one.until_s, one.bad) for one in found] == [
            (1, "deploy", 1000.0, 1010.0, False),
            (2, "rollout", 1010.0, 1020.0, True),
            (1, "rollback", 1020.0, 1030.0, False),
        ]
        assert [one.cleared_by for one in found] == [
            {"tier": "minimal"},
            {"assessment": "e" * 64},
            {"tier": "minimal"},
        ]
        at = [registry.serving_at("loan", at_s) for at_s in (999.0, 1009.9, 1010.0, 1029.0, 1030.0)]
        assert [one and one.version for one in at] == [None, 1, 2, 1, None]
        assert registry.servings_of("loan", 2) == [found[1]]
        with pytest.raises(UnknownEndpoint, match="ever deployed: loan"):
            registry.servings("lona")

    def test_the_database_itself_refuses_two_open_servings(
        self, registry: Registry, database: Database
    ):
        serve(registry, 1)
        row = Serving(endpoint="loan", model="loan", version=2, cause="deploy", by="x", from_s=1)
        second = insert(tables.servings).values(**row.model_dump(mode="json"), break_glass=False)
        with pytest.raises(IntegrityError), database.transaction() as connection:
            connection.execute(second)

    def test_rollbacks_walk_back_and_never_return_to_what_was_taken_back(self, registry: Registry):
        for version in (1, 2, 3):
            serve(registry, version, cause="rollout")
        assert roll_back(registry) == 2
        assert roll_back(registry) == 1
        assert roll_back(registry) is None
        serve(registry, 2, cause="rollout")
        serve(registry, 4, cause="rollout")
        assert roll_back(registry) == 2
        assert registry.endpoint("loan").previous_version == 1

    def test_a_rollback_never_leads_behind_the_deployment(
        self, registry: Registry, clock: ManualClock
    ):
        serve(registry, 1)
        with registry.change(subject="loan", **WHO) as change:
            change.remove_endpoint("loan")
        clock.advance(1)
        serve(registry, 2)
        assert registry.rollback_target("loan") is None

    def test_what_served_by_broken_glass_is_no_way_back(self, registry: Registry, door: Door):
        serve(registry, 1)
        door.cleared_by = {"break_glass": "g1"}
        serve(registry, 2)
        door.cleared_by = {"tier": "minimal"}
        serve(registry, 3, cause="rollout")
        assert registry.rollback_target("loan") == 1
        door.missing = ("an approval",)
        with pytest.raises(NotApproved):
            serve(registry, 2, cause="rollback")

    # -- the guard --------------------------------------------------------------------

    def test_what_is_not_cleared_is_refused_with_everything_missing(
        self, registry: Registry, door: Door
    ):
        serve(registry, 1)
        door.missing = ("no assessment", "2 approvals")
        for how in ({"cause": "deploy"}, {"cause": "rollout"}, {"cause": "rollback"}):
            with pytest.raises(NotApproved) as caught:
                serve(registry, 2, **how)
        assert caught.value.message == (
            "loan:2 may not become stable (tier high): no assessment; 2 approvals"
        )
        assert caught.value.details["missing"] == ["no assessment", "2 approvals"]
        assert registry.endpoint("loan").stable_version == 1
        assert len(registry.servings("loan")) == 1
        other = EndpointSpec(name="loan-eu", model="loan")
        with pytest.raises(NotApproved), registry.change(subject="x", **WHO) as change:
            change.put_endpoint(other, 1)

    def test_the_stable_alias_is_no_way_around(self, registry: Registry, door: Door):
        serve(registry, 1)
        door.missing = ("an approval",)
        with pytest.raises(NotApproved), registry.change(subject="loan", **WHO) as change:
            change.set_alias("loan", "stable", 2)
        with registry.change(subject="loan", **WHO) as change:
            change.set_alias("loan", "stable", 1)
            change.set_alias("loan", "newest", 2)
        assert registry.aliases("loan") == {"newest": 2, "stable": 1}

    def test_a_rollback_works_when_nothing_is_cleared_any_more(
        self, registry: Registry, door: Door
    ):
        serve(registry, 1)
        serve(registry, 2, cause="rollout")
        door.missing, door.asked = ("an approval",), []
        for cause in ("deploy", "rollout"):
            with pytest.raises(NotApproved):
                serve(registry, 1, cause=cause)
        door.asked = []
        assert roll_back(registry) == 1
        assert door.asked == []
        with pytest.raises(NotApproved):
            serve(registry, 2, cause="rollback")

    def test_another_spec_alone_asks_nobody(self, registry: Registry, door: Door):
        serve(registry, 1)
        door.missing = ("an approval",)
        with registry.change(subject="loan", **WHO) as change:
            change.put_endpoint(LOAN.model_copy(update={"deadline_s": 0.2}), 1)
        assert registry.endpoint("loan").spec.deadline_s == 0.2
        assert len(registry.servings("loan")) == 1

    # -- runs -------------------------------------------------------------------------

    def test_a_run_ends_once(self, registry: Registry):
        with registry.change(subject="loan", **WHO) as change:
            change.create_run(training())
            change.create_run(training("r2", "fraud"))
        assert registry.save_run_progress("r1", "split", {"snapshot": {"rows": 5}})
        running = registry.run("r1")
        assert (running.stage, running.results) == ("split", {"snapshot": {"rows": 5}})
        with registry.change(subject="loan", **WHO) as change:
            ended = change.save_run("r1", "registered", "register", {"n": 1}, version=4)
        assert registry.run("r1") == ended
        assert (ended.version, ended.finished_s, ended.spec) == (4, 1000.0, training().spec)
        assert not registry.save_run_progress("r1", "split", {})
        with (
            pytest.raises(IllegalTransition, match=r"has ended \(registered\)"),
            registry.change(subject="loan", **WHO) as change,
        ):
            change.save_run("r1", "running", "split", {})
        with (
            pytest.raises(IllegalTransition, match="used before"),
            registry.change(subject="loan", **WHO) as change,
        ):
            change.create_run(training())
        assert [run.id for run in registry.runs()] == ["r1", "r2"]
        assert [run.id for run in registry.runs("loan")] == ["r1"]
        assert [run.id for run in registry.active_runs()] == ["r2"]
        with pytest.raises(UnknownName, match='no training run "r9"; active: r2 of fraud'):
            registry.run("r9")

    # -- upgrades ---------------------------------------------------------------------

    def test_an_upgrade_makes_servings_from_the_plans_that_there_are(self, url: str):
        database = Database(url)
        with database.transaction() as connection:
            config = Config(
                attributes={"connection": connection, "version_table": schema.VERSION_TABLE}
            )
            folder = Path(schema.__file__).parent / "migrations"
            config.set_main_option("script_location", str(folder))
            command.upgrade(config, "0001")
            for statement in _OLD_STORE:
                connection.exec_driver_sql(statement)
        database.upgrade()
        registry = Registry(database, ManualClock(1000.0), guard=Door(missing=("all",)))
        found = registry.servings("loan")
        assert [(one.version, one.cause, one.by, one.until_s, one.bad) for one in found] == [
            (1, "deploy", "ana", 20.0, False),
            (2, "rollout", "kernel", 30.0, True),
            (1, "rollback", "unknown", 40.0, False),
            (3, "rollout", "unknown", None, False),
        ]
        assert registry.endpoint("loan").previous_version == 1
        assert [one.version for one in registry.servings("fraud")] == [1]
        assert registry.endpoint("fraud").previous_version is None
        assert roll_back(registry) == 1
        with pytest.raises(IntegrityError), database.transaction() as connection:
            connection.execute(text("UPDATE endpoints SET stable_version = 9"))
        database.close()


def _old_plan(revision: int, version: int, at_s: float) -> str:
    plan = json.dumps({"spec": {"model": "loan"}, "stable": {"version": version}})
    return f"INSERT INTO plans VALUES ('loan', {revision}, '{plan}', {at_s})"


def _old_endpoint(name: str, stable: int, previous: str, updated_s: float) -> str:
    spec = EndpointSpec(name=name, model="loan").model_dump_json()
    return (
        f"INSERT INTO endpoints VALUES ('{name}', '{spec}', 'loan', {stable}, {previous}, "
        f"10.0, {updated_s})"
    )


_OLD_STORE = [
    *(
        f"INSERT INTO versions VALUES ('loan', {number}, '{ARTIFACT.model_dump_json()}', "
        "'{}', 'c', '{}', '{}', '{}', '{}', 1.0, 'ana')"
        for number in (1, 2, 3)
    ),
    _old_endpoint("loan", 3, "1", 41.0),
    _old_endpoint("fraud", 1, "NULL", 10.0),
    # The life of an earlier endpoint of this name.
    _old_plan(1, 3, 5.0),
    _old_plan(2, 1, 10.0),
    _old_plan(3, 1, 15.0),
    _old_plan(4, 2, 20.0),
    _old_plan(5, 1, 30.0),
    _old_plan(6, 3, 40.0),
    "INSERT INTO audit VALUES (1, 10.0, 'ana', 'deploy', 'loan', '{}', 'p', 'h')",
    "INSERT INTO audit VALUES (2, 20.0, 'kernel', 'advance_rollout', 'loan', '{}', 'h', 'i')",
]
