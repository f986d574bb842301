"""The replica's decisions: plans, canary, deadline, breaker, shadow, fallback, reports."""

import asyncio
import time

import numpy as np
import pytest
from serving_fakes import (
    CONTRACT,
    PLAIN_KEY,
    FakeEngine,
    Valve,
    World,
    answering,
    fail,
    plan,
    raising,
    rows,
    served,
)

from aios.contracts import Contract, Number
from aios.errors import (
    ArtifactRejected,
    ContractViolation,
    DeadlineExceeded,
    ModelFailed,
    Overloaded,
    UnknownModel,
    UsageError,
)
from aios.records import Cached, Default, Rule, ServedVersion
from aios.telemetry.sketches import Sketch


async def hanging(batch, timeout_s, traceparent):
    await asyncio.Event().wait()


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 30))


# -- canary ---------------------------------------------------------------------------


def test_a_good_canary_answers_its_keys_and_is_counted():
    async def scenario():
        world = World(ask=answering(0.7))
        await world.endpoint.reconfigure(plan(arm="canary", weight=0.3))
        answers = [await world.predict(key=f"u{i}") for i in range(200)]
        again = [await world.predict(key=f"u{i}") for i in range(200)]
        arms = world.endpoint.report().arms
        return answers, again, arms

    answers, again, arms = run(scenario())
    canary = [answer for answer in answers if answer.arm == "canary"]
    assert 30 < len(canary) < 90
    assert {(a.version, float(a.outputs["p"][0])) for a in canary} == {(2, 0.7)}
    assert [a.arm for a in answers] == [a.arm for a in again], "a key is sticky"
    assert arms["canary"].attempts == 2 * len(canary)
    assert arms["canary"].attempts + arms["stable"].attempts == 400
    assert Sketch.from_bytes(arms["canary"].outputs["p"]).min == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (raising(ModelFailed("x")), "model_failed"),
        (raising(ContractViolation("NaN")), "bad_output"),
        (raising(TimeoutError()), "deadline"),
        (raising(ConnectionError("dead")), "unavailable"),
        (raising(RuntimeError("actor died")), "unavailable"),
        (hanging, "deadline"),
    ],
)
def test_whatever_a_canary_does_stable_answers_and_the_kind_is_counted(ask, kind):
    async def scenario():
        world = World(ask=ask)
        await world.endpoint.reconfigure(plan(arm="canary", deadline_s=0.1))
        answer = await world.predict()
        return answer, world.endpoint.report()

    answer, report = run(scenario())
    assert (answer.arm, answer.version, answer.degraded) == ("stable", 1, None)
    assert report.arms["canary"].errors == {kind: 1}
    assert report.arms["canary"].attempts == 1
    assert report.arms["stable"].errors == {}
    assert report.failed == 0


def test_a_hanging_canary_leaves_stable_its_share_of_the_deadline():
    async def scenario():
        world = World({1: FakeEngine(slow=True)}, ask=hanging)
        await world.endpoint.reconfigure(plan(arm="canary", deadline_s=1.0))
        started = time.monotonic()
        answer = await world.predict()
        return answer, time.monotonic() - started

    answer, took_s = run(scenario())
    assert answer.arm == "stable"
    assert 0.7 < took_s < 1.0


def test_the_canary_is_told_what_is_left_of_the_deadline():
    told = []

    async def ask(batch, timeout_s, traceparent):
        told.append((timeout_s, traceparent))
        return {"p": np.array([0.1])}, 0.0

    async def scenario():
        world = World(ask=ask)
        await world.endpoint.reconfigure(plan(arm="canary", deadline_s=2.0))
        await world.predict(started_s=time.monotonic() - 1.0, traceparent="00-ab-cd-01")

    run(scenario())
    assert told[0][0] == pytest.approx(2.0 - 1.0 - 0.4, abs=0.05)
    assert told[0][1] == "00-ab-cd-01"


def test_a_request_that_is_late_before_the_canary_is_asked_is_not_held_against_it():
    async def scenario():
        world = World(ask=answering())
        await world.endpoint.reconfigure(plan(arm="canary", deadline_s=1.0))
        answer = await world.predict(started_s=time.monotonic() - 0.9)
        return answer.arm, world.arm("canary").attempts

    assert run(scenario()) == ("stable", 0)


def test_the_breaker_stops_paying_the_timeout_of_a_dead_canary():
    asked = 0

    async def ask(batch, timeout_s, traceparent):
        nonlocal asked
        asked += 1
        raise ConnectionError("dead")

    async def scenario():
        world = World(ask=ask)
        await world.endpoint.reconfigure(plan(arm="canary"))
        answers = [await world.predict() for _ in range(50)]
        return {answer.arm for answer in answers}, world.arm("canary").attempts

    assert run(scenario()) == ({"stable"}, 5)
    assert asked == 5


def test_a_canary_that_raises_is_asked_on_because_its_errors_are_evidence():
    async def scenario():
        world = World(ask=raising(ModelFailed("x")))
        await world.endpoint.reconfigure(plan(arm="canary"))
        for _ in range(30):
            await world.predict()
        return world.arm("canary").errors

    assert run(scenario()) == {"model_failed": 30}


def test_the_breaker_of_a_canary_survives_a_new_weight():
    async def scenario():
        world = World(ask=raising(ConnectionError()))
        await world.endpoint.reconfigure(plan(1, arm="canary", weight=0.9))
        for i in range(50):
            await world.predict(key=str(i))
        await world.endpoint.reconfigure(plan(2, arm="canary", weight=1.0))
        await world.predict()
        return world.arm("canary").attempts, world.connects

    assert run(scenario()) == (5, ["toy--v2"])


# -- stable, deadline, fallback -------------------------------------------------------


def test_a_slow_stable_is_late_and_nothing_covers_it():
    async def scenario():
        valve = Valve()
        world = World({1: FakeEngine(slow=True, act=valve)})
        await world.endpoint.reconfigure(plan(deadline_s=0.05))
        with pytest.raises(DeadlineExceeded, match="toy:1"):
            await world.predict()
        valve.opened.set()
        return world.arm("stable").errors

    assert run(scenario()) == {"deadline": 1}


def test_a_fast_engine_that_is_stuck_on_a_large_batch_meets_the_deadline_too():
    async def scenario():
        valve = Valve()
        world = World({1: FakeEngine(act=lambda batch: batch.rows > 1 and valve(batch))})
        await world.endpoint.reconfigure(plan(deadline_s=0.05))
        with pytest.raises(DeadlineExceeded):
            await world.predict(rows(*[1] * 300))
        valve.opened.set()

    run(scenario())


@pytest.mark.parametrize("engine", [FakeEngine(act=fail), FakeEngine(7.0)])
def test_a_failing_stable_is_the_models_failure_never_the_callers(engine):
    async def scenario():
        world = World({1: engine})
        await world.endpoint.reconfigure(plan())
        with pytest.raises(ModelFailed, match="no fallback"):
            await world.predict()

    run(scenario())


def test_a_degraded_answer_is_flagged_counted_and_no_success_of_any_arm():
    async def scenario():
        world = World({1: FakeEngine(act=fail)}, ask=raising(ModelFailed("x")))
        await world.endpoint.reconfigure(plan(arm="canary", fallback=(Default({"p": 0.2}),)))
        answer = await world.predict()
        return answer, world.endpoint.report()

    answer, report = run(scenario())
    assert (answer.degraded, answer.arm, answer.outputs["p"].tolist()) == (
        "default",
        "stable",
        [0.2],
    )
    canary, stable = report.arms["canary"], report.arms["stable"]
    assert (canary.attempts, canary.errors, canary.degraded) == (1, {"model_failed": 1}, 0)
    assert (stable.attempts, stable.errors, stable.degraded) == (1, {"model_failed": 1}, 1)
    assert Sketch.from_bytes(stable.latency).count == 0
    assert stable.outputs == {}


def test_scores_of_either_arm_are_remembered_over_plans_for_the_cached_fallback():
    async def scenario():
        engine = FakeEngine()
        world = World({1: engine}, ask=answering(0.7))
        steps = (Cached(max_age_s=60),)
        await world.endpoint.reconfigure(plan(1, arm="canary", fallback=steps))
        await world.predict(rows(1, keys=["x"]))
        engine.act = fail
        await world.endpoint.reconfigure(plan(2, fallback=steps))
        answer = await world.predict(rows(1, keys=["x"]))
        with pytest.raises(ModelFailed):
            await world.predict(rows(1, keys=["never seen"]))
        return answer

    answer = run(scenario())
    assert (answer.degraded, answer.outputs["p"].tolist()) == ("cache", [0.7])


# -- shadow ---------------------------------------------------------------------------


def test_a_shadow_gets_copies_and_its_answers_are_compared_with_stables():
    async def scenario():
        world = World(ask=answering(0.75))
        await world.endpoint.reconfigure(plan(arm="shadow"))
        answers = [await world.predict(key=str(i)) for i in range(8)]
        while world.endpoint.live.shadow._running:
            await asyncio.sleep(0)
        return answers, world.arm("shadow")

    answers, shadow = run(scenario())
    assert {answer.arm for answer in answers} == {"stable"}
    assert shadow.attempts == 8
    assert shadow.agreement == {"pairs": 8.0, "sum": 2.0, "over_tolerance": 8}


@pytest.mark.parametrize("ask", [hanging, raising(RuntimeError("x"))])
def test_a_broken_shadow_costs_users_nothing(ask):
    async def scenario():
        world = World(ask=ask)
        await world.endpoint.reconfigure(plan(arm="shadow", deadline_s=0.5))
        async with asyncio.timeout(10):  # were each to wait for its shadow: 200 times 0.5 s
            answers = [await world.predict(key=str(i)) for i in range(200)]
        report = world.endpoint.report()
        world.endpoint.live.shadow.close()
        return {answer.arm for answer in answers}, report

    arms, report = run(scenario())
    assert arms == {"stable"}
    assert report.shadow_dropped > 0
    assert report.failed == 0


def test_a_shadow_is_not_compared_with_what_a_fallback_answered():
    async def scenario():
        world = World({1: FakeEngine(act=fail)}, ask=answering())
        await world.endpoint.reconfigure(plan(arm="shadow", fallback=(Default({"p": 0.2}),)))
        answer = await world.predict()
        return answer.degraded, len(world.endpoint.live.shadow._running)

    assert run(scenario()) == ("default", 0)


def test_a_new_revision_of_the_same_stage_keeps_the_shadows_queue_and_counts():
    async def scenario():
        world = World(ask=hanging)
        await world.endpoint.reconfigure(plan(1, arm="shadow"))
        for i in range(100):
            await world.predict(key=str(i))
        dropped = world.endpoint.report().shadow_dropped
        await world.endpoint.reconfigure(plan(2, arm="shadow"))
        kept = world.endpoint.report().shadow_dropped
        running = world.endpoint.live.shadow._running
        await world.endpoint.reconfigure(plan(3))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return dropped, kept, len(running), world.endpoint.live.shadow

    dropped, kept, running, shadow = run(scenario())
    assert dropped == kept > 0
    assert (running, shadow) == (0, None)


# -- a version by number --------------------------------------------------------------


def test_a_version_can_be_asked_for_by_number_and_only_those_that_take_part():
    async def scenario():
        world = World(ask=answering(0.7))
        await world.endpoint.reconfigure(plan(arm="shadow"))
        with pytest.raises(UnknownModel, match="does not serve version 2; it serves 1"):
            await world.predict(version=2)  # nobody cleared a shadow
        await world.endpoint.reconfigure(plan(2, arm="canary"))
        found = [(await world.predict(version=v)) for v in (1, 2)]
        with pytest.raises(UnknownModel, match="it serves 1, 2"):
            await world.predict(version=3)
        return [(a.version, a.arm, float(a.outputs["p"][0])) for a in found]

    assert run(scenario()) == [(1, "stable", 0.5), (2, "canary", 0.7)]


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (raising(ModelFailed("x")), ModelFailed),
        (raising(ContractViolation("x")), ModelFailed),
        (raising(RuntimeError("actor died")), Overloaded),
        (hanging, DeadlineExceeded),
    ],
)
def test_the_failure_of_a_version_asked_for_is_told_as_the_models(ask, error):
    async def scenario():
        world = World(ask=ask)
        await world.endpoint.reconfigure(plan(arm="canary", deadline_s=0.05))
        with pytest.raises(error, match="toy:2"):
            await world.predict(version=2)

    run(scenario())


def test_stable_asked_for_by_number_with_a_bad_output_is_not_the_callers_fault():
    async def scenario():
        world = World({1: FakeEngine(7.0)})
        await world.endpoint.reconfigure(plan())
        with pytest.raises(ModelFailed, match="toy:1"):
            await world.predict(version=1)

    run(scenario())


# -- plans ----------------------------------------------------------------------------


def test_the_first_plan_raises_when_it_cannot_be_acted_on():
    async def scenario():
        world = World({1: ArtifactRejected("changed on disk")})
        with pytest.raises(ArtifactRejected):
            await world.endpoint.reconfigure(plan())
        assert world.endpoint.report() is None
        with pytest.raises(Overloaded):
            world.endpoint.admit()

    run(scenario())


@pytest.mark.parametrize(
    "bad",
    [
        plan(2, stable=9),
        plan(2, stable=8),
        plan(2, fallback=(Rule("no_such_module:f"),)),
    ],
)
def test_a_bad_plan_is_refused_while_the_old_goes_on_and_says_so(bad):
    async def scenario():
        engines = {9: ArtifactRejected("changed on disk"), 8: OSError("disk gone")}
        world = World(engines)
        await world.endpoint.reconfigure(plan(1))
        await world.endpoint.reconfigure(bad)
        refused = world.endpoint.report()
        answer = await world.predict()
        await world.endpoint.reconfigure(plan(3))
        return refused, answer, world.endpoint.report()

    refused, answer, after = run(scenario())
    assert refused.revision == 1
    assert refused.refused.startswith("revision 2: ")
    assert answer.version == 1
    assert (after.revision, after.refused) == (3, None)


def test_an_older_revision_is_ignored():
    async def scenario():
        world = World()
        await world.endpoint.reconfigure(plan(5, stable=2))
        await world.endpoint.reconfigure(plan(4, stable=1))
        live = world.endpoint.live
        await world.endpoint.reconfigure(plan(5, stable=2))
        assert world.endpoint.live is live, "the same plan changes nothing"
        return (await world.predict()).version, world.loads

    assert run(scenario()) == (2, [2])


def test_a_revoked_key_is_taken_over_within_the_same_revision():
    async def scenario():
        world = World()
        await world.endpoint.reconfigure(plan(5))
        before = world.endpoint.authenticated(PLAIN_KEY.encode())
        await world.endpoint.reconfigure(plan(5).model_copy(update={"keys": ()}))
        return before, world.endpoint.authenticated(PLAIN_KEY.encode())

    assert run(scenario()) == (True, False)


def test_a_new_era_counts_from_zero_and_the_same_era_goes_on():
    async def scenario():
        world = World(ask=answering())
        counts = []
        for revision, era, weight in [(1, "a", 0.1), (2, "a", 0.5), (3, "b", 0.5)]:
            await world.endpoint.reconfigure(plan(revision, arm="canary", era=era, weight=weight))
            for i in range(20):
                await world.predict(key=str(i))
            report = world.endpoint.report()
            counts.append((report.era, sum(arm.attempts for arm in report.arms.values())))
        return counts, report

    counts, report = run(scenario())
    assert counts == [("a", 20), ("a", 40), ("b", 20)]
    assert report.requests == 60, "requests of the replica are counted over eras"
    assert report.sequence == 3


def test_an_arm_that_stands_for_another_version_begins_a_window_of_its_own():
    async def scenario():
        world = World(ask=answering())
        await world.endpoint.reconfigure(plan(1, arm="canary", version=2))
        await world.predict()
        await world.endpoint.reconfigure(plan(2, arm="canary", version=3))
        await world.predict()
        return world.arm("canary")

    canary = run(scenario())
    assert (canary.version, canary.attempts) == (3, 1)


def test_going_back_to_a_version_that_is_still_loaded_needs_no_load():
    async def scenario():
        engines = {version: FakeEngine(version / 10) for version in range(1, 6)}
        world = World(engines)
        for revision, stable in enumerate([1, 2, 1, 3, 2], start=1):
            await world.endpoint.reconfigure(plan(revision, stable=stable))
        return world.loads, (await world.predict()).outputs["p"].tolist(), engines

    loads, outputs, engines = run(scenario())
    assert loads == [1, 2, 3]
    assert outputs == [0.2]
    assert not any(engine.closed for engine in engines.values())


def test_only_the_newest_versions_stay_loaded():
    async def scenario():
        engines = {version: FakeEngine() for version in range(1, 6)}
        world = World(engines)
        for version in range(1, 6):
            await world.endpoint.reconfigure(plan(version, stable=version))
        return [version for version, engine in engines.items() if engine.closed]

    assert run(scenario()) == [1, 2]


def test_other_limits_threads_or_another_contract_of_the_same_artifact_are_loaded_anew():
    async def scenario():
        world = World()
        first = plan(1, max_rows=2)
        await world.endpoint.reconfigure(first)
        await world.endpoint.reconfigure(plan(2, max_rows=50))
        assert world.endpoint.live.codec.max_rows == 50
        narrow = Contract(inputs={"a": Number(min=0)}, outputs=dict(CONTRACT.outputs))
        stable = ServedVersion(version=2, artifact=first.stable.artifact, contract=narrow.to_json())
        await world.endpoint.reconfigure(plan(3, max_rows=50).model_copy(update={"stable": stable}))
        assert world.endpoint.live.codec.contract == narrow
        await world.endpoint.reconfigure(plan(4, max_rows=50, threads=2))
        return world.loads

    assert run(scenario()) == [1, 1, 2, 1]


def test_a_plan_changes_under_requests_in_flight_without_failing_one():
    async def scenario():
        engines = {
            version: FakeEngine(version / 100, slow=version % 2 == 0) for version in range(1, 31)
        }
        world = World(engines, ask=answering())
        await world.endpoint.reconfigure(plan(1))
        answers, done = [], False

        async def user(number):
            while not done:
                answers.append(await world.predict(key=str(number)))
                await asyncio.sleep(0.0005)

        users = [asyncio.ensure_future(user(i)) for i in range(8)]
        for revision in range(2, 30):
            arm = [None, "canary", "shadow"][revision % 3]
            await world.endpoint.reconfigure(
                plan(revision, stable=revision, arm=arm, version=50, era=str(revision // 4))
            )
            await asyncio.sleep(0.002)
        done = True
        await asyncio.gather(*users)
        return answers, world.endpoint.report()

    answers, report = run(scenario())
    assert len(answers) > 30
    for answer in answers:
        expected = 0.7 if answer.version == 50 else answer.version / 100
        assert answer.outputs["p"].tolist() == [pytest.approx(expected)]
    assert (report.requests, report.failed, report.in_flight) == (len(answers), 0, 0)


def test_a_request_whose_plan_was_replaced_many_times_is_still_answered_from_it():
    async def scenario():
        asked, fails = asyncio.Event(), asyncio.Event()

        async def ask(batch, timeout_s, traceparent):
            asked.set()
            await fails.wait()
            raise ConnectionError("dead")

        engines = {version: FakeEngine() for version in range(1, 7)}
        world = World(engines, ask=ask)
        await world.endpoint.reconfigure(plan(1, arm="canary", version=50))
        request = asyncio.ensure_future(world.predict())
        await asked.wait()
        for version in range(2, 7):
            await world.endpoint.reconfigure(plan(version, stable=version))
        fails.set()
        answer = await request
        return answer.version, engines[1].closed, engines[2].closed

    assert run(scenario()) == (1, True, True)


def test_a_request_finishes_on_the_plan_it_began_with():
    async def scenario():
        valve = Valve()
        world = World({1: FakeEngine(0.1, slow=True, act=valve), 2: FakeEngine(0.2)})
        await world.endpoint.reconfigure(plan(1, stable=1))
        old = asyncio.ensure_future(world.predict())
        await asyncio.get_running_loop().run_in_executor(None, valve.entered.wait, 5)
        await world.endpoint.reconfigure(plan(2, stable=2))
        new = await world.predict()
        valve.opened.set()
        return (await old).version, new.version

    assert run(scenario()) == (1, 2)


# -- admission and reports ------------------------------------------------------------


def test_over_its_limit_a_replica_refuses_and_counts_it():
    async def scenario():
        world = World()
        await world.endpoint.reconfigure(plan(max_queued=2))
        live = world.endpoint.admit()
        world.endpoint.admit()
        with pytest.raises(Overloaded) as caught:
            world.endpoint.admit()
        full = world.endpoint.report()
        world.endpoint.release(live, 0.1, failed=True)
        world.endpoint.admit()
        return caught.value.retry_after_s, full, world.endpoint.report()

    wait_s, full, after = run(scenario())
    assert wait_s == 1.0
    assert (full.in_flight, full.rejected, full.requests) == (2, 1, 0)
    assert (after.in_flight, after.requests, after.failed) == (2, 1, 1)


def test_a_report_says_who_when_and_what():
    async def scenario():
        world = World()
        await world.endpoint.reconfigure(plan(4, era="steady"))
        await world.predict()
        return world.endpoint.report()

    report = run(scenario())
    assert (report.endpoint, report.replica, report.at_s) == ("toy", "r1", 7.0)
    assert (report.revision, report.era) == (4, "steady")
    assert Sketch.from_bytes(report.latency).count == 1
    assert report.arms["stable"].attempts == 1


def test_answered_requests_reach_the_recorder_with_key_arm_and_degradation():
    async def scenario():
        world = World({1: FakeEngine(act=fail)})
        await world.endpoint.reconfigure(plan(fallback=(Default({"p": 0.2}),)))
        await world.predict(rows(1, 2, keys=["x", "y"]), key="x", request_id="r-9")
        return list(world.recorder._buffer)

    (entry,) = run(scenario())
    assert (entry.request_id, entry.key, entry.answer.degraded) == ("r-9", "x", "default")


def test_what_is_private_is_known_before_any_version_of_a_plan_answers():
    private = Contract(
        {"a": Number(private="omit")}, {"p": Number(private="hash")}, "id", private_key="hash"
    )

    async def scenario():
        world = World(ask=raising(UsageError("not asked")))
        await world.endpoint.reconfigure(plan(1))
        stable = served(3, private)
        await world.endpoint.reconfigure(
            plan(2, arm="canary").model_copy(update={"stable": stable})
        )
        return [one.privacy.rules for one in (world.recorder, world.features)]

    for rules in run(scenario()):
        assert rules(3) == ({"a": "omit"}, {"p": "hash"}, "hash")
        assert rules(1) == rules(2) == ({}, {}, None)


def test_keys_are_asked_for_unless_the_endpoint_is_open():
    async def scenario():
        world = World()
        await world.endpoint.reconfigure(plan(1))
        closed = world.endpoint.authenticated(None), world.endpoint.authenticated(b"aios_x")
        await world.endpoint.reconfigure(plan(2, require_key=False))
        return closed, world.endpoint.authenticated(None)

    assert run(scenario()) == ((False, False), True)


def test_a_usage_error_in_a_challenger_does_not_look_like_the_callers():
    async def scenario():
        world = World(ask=raising(UsageError("no input c")))
        await world.endpoint.reconfigure(plan(arm="canary"))
        return (await world.predict()).arm

    assert run(scenario()) == "stable"
