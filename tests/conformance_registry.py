"""What every database under the registry must do. Run over SQLite and over PostgreSQL.

A test module subclasses the suite and provides two fixtures: `url`, a new and empty database,
and `migrated_url`, a new one that was upgraded.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from aios.clock import ManualClock
from aios.errors import (
    AiosError,
    IllegalTransition,
    UnknownEndpoint,
    UnknownModel,
    UnknownName,
    UnknownRollout,
    UsageError,
)
from aios.records import Artifact, EndpointSpec, ModelVersion, ServedVersion, TrafficPlan
from aios.registry import Change, Registry, RolloutRow
from aios.security import digest, key_id, new_key
from aios.store import audit, tables
from aios.store.database import Database

ARTIFACT = Artifact(digest="a" * 64, engine="onnx", size_bytes=10)
WHO = {"actor": "ana", "action": "test"}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def register(change: Change, name: str = "loan", **more: Any) -> ModelVersion:
    return change.register(name, ARTIFACT, {"inputs": {}}, "c" * 64, **more)


def deploy(registry: Registry, name: str = "loan", versions: int = 2) -> None:
    with registry.change(subject=name, **WHO) as change:
        for _ in range(versions):
            register(change, name)
        change.put_endpoint(EndpointSpec(name=name, model=name), 1)


def plan(registry: Registry, name: str, revision: int) -> TrafficPlan:
    stable = ServedVersion(version=1, artifact=ARTIFACT, contract={})
    return TrafficPlan(revision=revision, spec=registry.endpoint(name).spec, stable=stable)


def rollout(rollout_id: str, endpoint: str = "loan") -> RolloutRow:
    return RolloutRow(
        id=rollout_id,
        endpoint=endpoint,
        from_version=1,
        to_version=2,
        plan={"steps": [0.05, 1.0]},
        stage="shadow",
        created_s=5.0,
        created_by="ana",
    )


def all_at_once(count: int, act: Callable[[int], object]) -> list[object]:
    """Run `act(0..count-1)` in threads that start together; results, or what they raised."""
    gate = threading.Barrier(count)
    results: list[object] = [None] * count

    def run(index: int) -> None:
        gate.wait()
        try:
            results[index] = act(index)
        except AiosError as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class RegistryConformance:
    """The registry over any database."""

    @pytest.fixture
    def database(self, migrated_url: str) -> Iterator[Database]:
        database = Database(migrated_url)
        yield database
        database.close()

    @pytest.fixture
    def registry(self, database: Database) -> Registry:
        return Registry(database, ManualClock(1000.0))

    def test_versions_count_up_per_model_also_for_the_same_artifact(self, registry: Registry):
        with registry.change(subject="loan", **WHO) as change:
            made = [register(change).version, register(change).version]
            other = register(change, "fraud").version
        assert made == [1, 2]
        assert other == 1
        assert [v.ref for v in registry.versions()] == ["fraud:1", "loan:1", "loan:2"]

    def test_a_version_comes_back_as_it_was_registered(self, registry: Registry):
        with registry.change(subject="loan", **WHO) as change:
            made = register(
                change,
                metrics={"auc": 0.1 + 0.2},
                tags={"team": "risk"},
                lineage={"run": "r1", "data": {"version": 3}},
                conversion={"worst": 1e-9},
                created_by="bob",
            )
        assert registry.version("loan:1") == made
        assert made.created_s == 1000.0

    def test_racing_registrations_leave_no_gap(self, registry: Registry):
        def register_five(_index: int) -> None:
            for _ in range(5):
                with registry.change(subject="loan", **WHO) as change:
                    register(change)

        assert all_at_once(6, register_five) == [None] * 6
        assert [v.version for v in registry.versions("loan")] == list(range(1, 31))
        assert registry.verify_audit() is None
        assert len(registry.audit(limit=100)) == 30

    def test_references_name_a_version_an_alias_or_the_newest(self, registry: Registry):
        with registry.change(subject="loan", **WHO) as change:
            for _ in range(3):
                register(change)
            change.set_alias("loan", "stable", 1)
            change.set_alias("loan", "stable", 2)
        assert registry.version("loan:1").version == 1
        assert registry.version("loan@stable").version == 2
        assert registry.version("loan").version == 3
        assert registry.aliases("loan") == {"stable": 2}

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            ("lona", 'no model "lona"; registered: loan'),
            ("lona:1", 'no model "lona"; registered: loan'),
            ("loan:9", "model loan has no version 9; it has 1 to 2"),
            ("loan:0", "model loan has no version 0; it has 1 to 2"),
            ("loan:9999999999", "model loan has no version 9999999999; it has 1 to 2"),
            ("loan@best", 'model loan has no alias "best"; it has: stable'),
            ("loan:one", 'no model "loan:one"; registered: loan'),
            ("loan:" + "9" * 5000, "no model"),
            ("", 'no model ""; registered: loan'),
            ("loan\n", 'no model "loan\\n"; registered: loan'),
            ("lo\ud800an", 'no model "lo\\ud800an"; registered: loan'),
            ("loan\x00", 'no model "loan\\u0000"; registered: loan'),
        ],
    )
    def test_an_unknown_version_is_told_what_exists(
        self, registry: Registry, reference: str, message: str
    ):
        with registry.change(subject="loan", **WHO) as change:
            register(change)
            register(change)
            change.set_alias("loan", "stable", 1)
        with pytest.raises(UnknownModel) as caught:
            registry.version(reference)
        assert caught.value.message.startswith(message)

    def test_an_alias_needs_a_name_and_a_version_that_exists(self, registry: Registry):
        deploy(registry)
        for alias, version, kind in (("x y", 1, UsageError), ("stable", 7, UnknownModel)):
            with pytest.raises(kind), registry.change(subject="loan", **WHO) as change:
                change.set_alias("loan", alias, version)
        assert registry.aliases("loan") == {}

    def test_a_malformed_name_or_metric_is_refused_and_leaves_nothing(self, registry: Registry):
        for name, metrics in (("Loan!", {}), ("loan", {"auc": float("nan")}), ("", {})):
            with pytest.raises(UsageError), registry.change(subject="x", **WHO) as change:
                register(change, name, metrics=metrics)
        assert registry.versions() == []
        assert registry.audit() == []

    def test_an_endpoint_remembers_the_version_that_stable_replaced(self, registry: Registry):
        deploy(registry)
        first = registry.endpoint("loan")
        assert (first.stable_version, first.previous_version, first.revision) == (1, None, 0)
        with registry.change(subject="loan", **WHO) as change:
            change.put_endpoint(first.spec.model_copy(update={"deadline_s": 0.2}), 2)
        second = registry.endpoint("loan")
        assert (second.stable_version, second.previous_version) == (2, 1)
        assert second.spec.deadline_s == 0.2
        with registry.change(subject="loan", **WHO) as change:
            change.put_endpoint(first.spec, 2)
        assert registry.endpoint("loan").previous_version == 1

    def test_a_rejected_version_is_nothing_to_go_back_to(self, registry: Registry):
        deploy(registry)
        spec = registry.endpoint("loan").spec
        with registry.change(subject="loan", **WHO) as change:
            change.put_endpoint(spec, 2)
        with registry.change(subject="loan", **WHO) as change:
            change.put_endpoint(spec, 1, rejected=True)
        found = registry.endpoint("loan")
        assert (found.stable_version, found.previous_version) == (1, None)

    def test_another_model_has_no_previous_version(self, registry: Registry):
        deploy(registry, "loan")
        deploy(registry, "fraud")
        with registry.change(subject="loan", **WHO) as change:
            change.put_endpoint(EndpointSpec(name="loan", model="fraud"), 2)
        assert registry.endpoint("loan").previous_version is None

    def test_an_unknown_endpoint_is_told_what_is_deployed(self, registry: Registry):
        deploy(registry, "fraud")
        deploy(registry, "churn")
        with pytest.raises(UnknownEndpoint) as caught:
            registry.endpoint("frod")
        assert caught.value.message == 'no endpoint "frod"; deployed: churn, fraud'
        for ask in (registry.plan, registry.plans):
            with pytest.raises(UnknownEndpoint):
                ask("frod")
        with pytest.raises(UnknownModel), registry.change(subject="x", **WHO) as change:
            change.put_endpoint(EndpointSpec(name="x", model="fraud"), 9)

    def test_revisions_grow_by_one_and_history_stays(self, registry: Registry):
        deploy(registry)
        assert registry.plan("loan") is None
        for revision in (1, 2):
            with registry.change(subject="loan", **WHO) as change:
                change.publish(plan(registry, "loan", revision))
        for wrong in (2, 4):
            with (
                pytest.raises(IllegalTransition),
                registry.change(subject="loan", **WHO) as change,
            ):
                change.publish(plan(registry, "loan", wrong))
        newest = registry.plan("loan")
        assert newest is not None
        assert newest.revision == registry.endpoint("loan").revision == 2
        assert [p.revision for p in registry.plans("loan")] == [1, 2]

    def test_a_removed_endpoint_goes_on_counting_revisions(self, registry: Registry):
        deploy(registry)
        with registry.change(subject="loan", **WHO) as change:
            change.publish(plan(registry, "loan", 1))
            change.remove_endpoint("loan")
        assert registry.endpoints() == []
        assert [p.revision for p in registry.plans("loan")] == [1]
        deploy(registry)
        assert registry.endpoint("loan").revision == 1
        with registry.change(subject="loan", **WHO) as change:
            change.publish(plan(registry, "loan", 2))

    def test_a_second_running_rollout_is_refused(self, registry: Registry):
        deploy(registry)
        with registry.change(subject="loan", **WHO) as change:
            change.create_rollout(rollout("r1"))
        for forbidden in (
            lambda change: change.create_rollout(rollout("r2")),
            lambda change: change.remove_endpoint("loan"),
        ):
            with (
                pytest.raises(IllegalTransition, match="rollout r1"),
                registry.change(subject="loan", **WHO) as change,
            ):
                forbidden(change)
        assert [r.id for r in registry.active_rollouts()] == ["r1"]

    def test_of_racing_rollouts_one_wins(self, registry: Registry):
        deploy(registry)

        def start(index: int) -> None:
            with registry.change(subject="loan", **WHO) as change:
                change.create_rollout(rollout(f"r{index}"))

        results = all_at_once(6, start)
        assert results.count(None) == 1
        assert sum(isinstance(result, IllegalTransition) for result in results) == 5

    def test_the_database_itself_refuses_two_running_rollouts(
        self, registry: Registry, database: Database
    ):
        deploy(registry)
        rows = [rollout(name).model_dump(mode="json") for name in ("r1", "r2")]
        with pytest.raises(IntegrityError), database.transaction() as connection:
            connection.execute(insert(tables.rollouts), rows)

    def test_a_rollout_ends_once(self, registry: Registry):
        deploy(registry)
        with registry.change(subject="loan", **WHO) as change:
            change.create_rollout(rollout("r1"))
            change.save_rollout("r1", "running", {"n": 1}, stage="canary-1")
        assert registry.rollout("r1").stage == "canary-1"
        assert registry.save_progress("r1", {"n": 2})
        with registry.change(subject="loan", **WHO) as change:
            change.save_rollout("r1", "rolled_back", {"n": 3}, "errors worse")
        ended = registry.rollout("r1")
        assert (ended.status, ended.reason, ended.finished_s) == (
            "rolled_back",
            "errors worse",
            1000.0,
        )
        assert not registry.save_progress("r1", {"n": 4})
        with (
            pytest.raises(IllegalTransition, match="has ended"),
            registry.change(subject="loan", **WHO) as change,
        ):
            change.save_rollout("r1", "promoted", {})
        assert registry.rollout("r1") == ended
        with registry.change(subject="loan", **WHO) as change:
            change.create_rollout(rollout("r2"))
        assert [r.id for r in registry.rollouts("loan")] == ["r1", "r2"]

    def test_a_reason_of_any_spelling_is_kept(self, registry: Registry):
        deploy(registry)
        with registry.change(subject="loan", **WHO) as change:
            change.create_rollout(rollout("r1"))
            change.save_rollout("r1", "rolled_back", {}, "model said \0 and \ud800 and \u00fc")
        assert registry.rollout("r1").reason == "model said \\x00 and \\ud800 and \u00fc"

    def test_a_rollout_id_is_used_once(self, registry: Registry):
        deploy(registry)
        with registry.change(subject="loan", **WHO) as change:
            change.create_rollout(rollout("r1"))
            change.save_rollout("r1", "aborted", {})
        with (
            pytest.raises(IllegalTransition, match="used before"),
            registry.change(subject="loan", **WHO) as change,
        ):
            change.create_rollout(rollout("r1"))

    def test_evidence_keeps_its_order_and_needs_a_rollout(self, registry: Registry):
        deploy(registry)
        with registry.change(subject="loan", **WHO) as change:
            change.create_rollout(rollout("r1"))
        for at_s in (3.0, 1.0, 2.0):
            registry.add_evidence("r1", "canary-1", at_s, {"n": at_s})
        assert [e.at_s for e in registry.evidence("r1")] == [3.0, 1.0, 2.0]
        with pytest.raises(UnknownRollout, match='no rollout "r9"; running: r1 on loan'):
            registry.add_evidence("r9", "canary-1", 1.0, {})

    def test_a_repeated_operation_gives_its_first_result(self, registry: Registry):
        for attempt in range(2):
            with registry.change(subject="loan", operation_id="op-1", **WHO) as change:
                if change.done is None:
                    change.remember({"version": register(change).version})
                else:
                    assert attempt == 1
                    assert change.done == {"version": 1}
        assert registry.remembered("op-1") == {"version": 1}
        assert registry.remembered("op-2") is None
        assert len(registry.versions("loan")) == len(registry.audit()) == 1

    def test_a_repeated_operation_cannot_write(self, registry: Registry):
        for expected in (None, IllegalTransition):
            caught = None
            try:
                with registry.change(subject="loan", operation_id="op-1", **WHO) as change:
                    register(change)
            except IllegalTransition as error:
                caught = type(error)
            assert caught is expected
        assert len(registry.versions("loan")) == 1

    def test_an_operation_id_belongs_to_one_request(self, registry: Registry):
        with registry.change(subject="loan", operation_id="op-1", **WHO):
            pass
        with (
            pytest.raises(UsageError, match="another request"),
            registry.change(subject="fraud", operation_id="op-1", **WHO),
        ):
            pass
        with pytest.raises(UsageError, match="another request"):
            registry.remembered("op-1", "0" * 64)
        for malformed in ("", "x" * 201, "a\nb"):
            with (
                pytest.raises(UsageError, match="operation id"),
                registry.change(subject="loan", operation_id=malformed, **WHO),
            ):
                pass

    def test_racing_repeats_of_an_operation_take_effect_once(self, registry: Registry):
        def attempt(_index: int) -> Any:
            with registry.change(subject="loan", operation_id="op-1", **WHO) as change:
                if change.done is None:
                    change.remember({"version": register(change).version})
                    return change.result
                return change.done

        assert all_at_once(6, attempt) == [{"version": 1}] * 6
        assert len(registry.versions("loan")) == 1

    def test_a_change_that_raises_leaves_no_trace(self, registry: Registry):
        def fail() -> None:
            with registry.change(subject="loan", operation_id="op-1", **WHO) as change:
                register(change)
                change.remember({"version": 1})
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert registry.versions() == []
        assert registry.audit() == []
        assert registry.remembered("op-1") is None

    def test_a_change_sees_itself_and_others_see_it_when_it_is_over(self, registry: Registry):
        with registry.change(subject="loan", **WHO) as change:
            register(change)
            assert change.version("loan").version == 1
            assert registry.versions() == []
        assert registry.version("loan").version == 1
        with pytest.raises(UsageError, match="over"):
            change.set_alias("loan", "stable", 1)
        with pytest.raises(UsageError, match="over"):
            change.version("loan")

    def test_a_change_inside_a_change_is_refused_instead_of_hanging(self, registry: Registry):
        with (
            registry.change(subject="loan", **WHO),
            pytest.raises(UsageError, match="open in this thread"),
            registry.change(subject="loan", **WHO),
        ):
            pass

    def test_keys_stop_at_their_expiry_or_when_revoked(self, database: Database):
        clock = ManualClock(1000.0)
        registry = Registry(database, clock)
        plains = [new_key(name)[0] for name in ("ana", "ana", "bob")]
        with registry.change(subject="keys", **WHO) as change:
            for plain, expires_s in zip(plains, (None, 1010.0, None), strict=True):
                change.add_key(key_id(plain), "ana", digest(plain), "admin", expires_s)
        active = registry.keys()
        assert {key.digest for key in active} == {digest(plain) for plain in plains}
        clock.advance(10)
        with registry.change(subject="keys", **WHO) as change:
            change.revoke_key(key_id(plains[0]))
            change.revoke_key(key_id(plains[0]))
        active = registry.keys()
        assert [key.id for key in active] == [key_id(plains[2])]
        with pytest.raises(UnknownName), registry.change(subject="keys", **WHO) as change:
            change.revoke_key("nobody-1")
        for again in ((key_id(plains[0]), "f" * 64), ("new-id", digest(plains[0]))):
            with pytest.raises(UsageError), registry.change(subject="keys", **WHO) as change:
                change.add_key(again[0], "eve", again[1], "admin")

    def test_every_change_has_its_audit_entry(self, registry: Registry):
        with registry.change(
            actor="ana", action="register", subject="loan", details={"why": "first"}
        ) as change:
            register(change)
        with registry.change(actor="bob", action="deny", subject="fraud"):
            pass
        newest, first = registry.audit()
        assert (newest.actor, newest.action, newest.subject) == ("bob", "deny", "fraud")
        assert first.details == {"why": "first", "version": 1, "artifact": ARTIFACT.digest}
        assert [entry.seq for entry in registry.audit(subject="loan")] == [1]
        assert len(registry.audit(limit=1)) == 1
        assert registry.audit_head() == (2, newest.hash)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("actor", ""), ("subject", "a\x00b"), ("action", "x\n"), ("subject", "s" * 301)],
    )
    def test_names_that_could_forge_a_log_line_are_refused(
        self, registry: Registry, field: str, value: str
    ):
        names = {"actor": "ana", "action": "test", "subject": "loan", field: value}
        with pytest.raises(UsageError, match=field), registry.change(**names):
            pass
        assert registry.audit() == []

    @pytest.mark.parametrize(
        "statement",
        ["UPDATE audit SET actor = 'eve'", "DELETE FROM audit WHERE seq = 1"],
    )
    def test_the_database_refuses_to_change_audit_entries(
        self, registry: Registry, database: Database, statement: str
    ):
        with registry.change(subject="loan", **WHO):
            pass
        with pytest.raises(DBAPIError, match="never"), database.transaction() as connection:
            connection.execute(text(statement))
        assert registry.audit()[0].actor == "ana"
        assert registry.verify_audit() is None

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            # By design: the suite runs once per backend.
            HealthCheck.differing_executors,
        ],
    )
    @given(details=st.dictionaries(st.text(max_size=8), JSON, max_size=4))
    def test_any_json_comes_back_and_seals(self, registry: Registry, details: dict[str, Any]):
        with registry.change(subject="loan", details=details, **WHO):
            pass
        assert registry.audit(limit=1)[0].details == details
        assert registry.verify_audit() is None

    @pytest.mark.parametrize("value", [float("inf"), {1, 2}, b"x", object()])
    def test_what_is_not_json_is_a_usage_error(self, registry: Registry, value: object):
        with (
            pytest.raises(UsageError, match="JSON"),
            registry.change(subject="loan", details={"value": value}, **WHO),
        ):
            pass
        with pytest.raises(UsageError, match="JSON"):
            registry.save_progress("r1", {"value": value})

    def test_migrations_build_the_tables_that_the_code_uses(self, database: Database):
        with database.transaction() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": "aios_schema"})
            differences = compare_metadata(context, tables.tables)
            assert differences == []

    def test_upgrading_again_and_at_the_same_time_is_fine(self, url: str):
        databases = [Database(url) for _ in range(4)]
        assert all_at_once(4, lambda index: databases[index].upgrade()) == [None] * 4
        databases[0].upgrade()
        deploy(Registry(databases[0]))
        assert Registry(databases[3]).endpoint("loan").stable_version == 1
        for database in databases:
            database.close()

    def test_a_newer_schema_is_refused(self, database: Database, migrated_url: str):
        with database.transaction() as connection:
            connection.execute(text("UPDATE aios_schema SET version_num = '9999'"))
        with pytest.raises(UsageError, match="newer aios"):
            Database(migrated_url).upgrade()

    def test_tables_of_another_program_are_left_alone(self, url: str):
        database = Database(url)
        with database.transaction() as connection:
            connection.execute(text("CREATE TABLE versions (x INTEGER)"))
        with pytest.raises(UsageError, match=r"another program \(versions\)"):
            database.upgrade()
        database.close()

    def test_two_databases_on_one_store_never_tear_the_chain(
        self, database: Database, migrated_url: str
    ):
        other = Database(migrated_url)
        registries = [Registry(database), Registry(other)]

        def write(index: int) -> None:
            for _ in range(5):
                with registries[index % 2].change(subject="loan", **WHO) as change:
                    register(change)

        assert all_at_once(4, write) == [None] * 4
        with other.reading() as connection:
            assert audit.verify(connection) is None
            assert audit.head(connection)[0] == 20
        other.close()
