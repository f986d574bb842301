"""The small parts of a replica: split, breaker, fallback chain, shadow queue, windows."""

import asyncio
import math
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_fakes import CODEC, rows

from aios.contracts import Codec, Contract, Number, Tensor, Text
from aios.errors import ContractViolation, ModelFailed, Overloaded, UsageError
from aios.records import Cached, Default, Rule
from aios.serving import fallback as fallback_module
from aios.serving.breaker import Breaker
from aios.serving.fallback import FallbackChain, load_rule
from aios.serving.runner import failure_kind
from aios.serving.shadow import ShadowQueue
from aios.serving.split import covered, position
from aios.serving.windows import ArmWindow
from aios.telemetry.sketches import Sketch

# -- split ----------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.01, 0.05, 0.25, 0.5, 0.99])
def test_split_gives_each_arm_its_share_within_binomial_bounds(weight):
    count = 40_000
    hits = sum(covered("salt", f"user-{i}", weight) for i in range(count))
    assert abs(hits - count * weight) < 5 * math.sqrt(count * weight * (1 - weight))


@given(st.text(), st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_growing_weight_never_moves_a_key_back(salt, key, first, second):
    small, large = sorted((first, second))
    assert covered(salt, key, small) <= covered(salt, key, large)


@given(st.text(st.characters(exclude_categories=[])), st.text(), st.floats(0, 1))
def test_split_is_fixed_for_a_key_and_takes_any_text(key, salt, weight):
    assert 0.0 <= position(salt, key) < 1.0
    assert covered(salt, key, weight) == covered(salt, key, weight)
    assert covered(salt, key, 1.0)
    assert not covered(salt, key, 0.0)


def test_another_salt_chooses_other_keys():
    keys = [f"u{i}" for i in range(2000)]
    both = sum(covered("s1", key, 0.5) and covered("s2", key, 0.5) for key in keys)
    assert 400 < both < 600


# -- breaker --------------------------------------------------------------------------


def test_breaker_opens_after_failures_in_a_row_and_lets_one_probe_through():
    breaker = Breaker(threshold=3, open_s=1.0)
    for _ in range(2):
        breaker.failed(10.0)
        assert breaker.allows(10.0)
    breaker.failed(10.0)
    assert not breaker.allows(10.9)
    assert breaker.allows(11.0)
    assert not breaker.allows(11.5)
    assert breaker.allows(12.0)


def test_breaker_closes_on_success_and_a_success_between_starts_the_count_again():
    breaker = Breaker(threshold=3, open_s=1.0)
    for _ in range(3):
        breaker.failed(0.0)
    assert breaker.allows(1.0)
    breaker.succeeded()
    assert all(breaker.allows(1.0) for _ in range(5))
    breaker.failed(1.0)
    breaker.failed(1.0)
    breaker.succeeded()
    breaker.failed(1.0)
    breaker.failed(1.0)
    assert breaker.allows(1.0)


@given(st.lists(st.tuples(st.sampled_from(["ask", "ok", "fail"]), st.floats(0, 0.7))))
def test_breaker_is_open_only_after_three_failures_and_never_lets_two_probes_through(events):
    breaker = Breaker(threshold=3, open_s=1.0)
    now_s, in_a_row, last_blocked_s = 0.0, 0, -math.inf
    for event, wait_s in events:
        now_s += wait_s
        if event == "ok":
            breaker.succeeded()
            in_a_row = 0
        elif event == "fail":
            breaker.failed(now_s)
            in_a_row += 1
            last_blocked_s = now_s
        elif in_a_row < 3:
            assert breaker.allows(now_s)
        else:
            passed = breaker.allows(now_s)
            assert passed == (now_s >= last_blocked_s + 1.0)
            if passed:
                last_blocked_s = now_s


# -- fallback -------------------------------------------------------------------------


@pytest.fixture
def rules():
    module = types.ModuleType("toy_rules")
    module.good = lambda record: {"p": record["a"] / 100}
    module.breaks = lambda record: 1 / 0
    module.outside = lambda record: {"p": 7.0}
    module.huge = lambda record: {"p": 10**400}
    module.odd = lambda record: None
    module.number = 3
    sys.modules["toy_rules"] = module
    yield module
    del sys.modules["toy_rules"]


def chain(*steps, codec=CODEC):
    return FallbackChain(steps, codec)


def test_cached_answers_by_key_only_while_young_enough(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr(fallback_module.time, "monotonic", lambda: now_s)
    steps = chain(Cached(max_age_s=10))
    steps.remember(rows(1, 2, keys=["x", "y"]), {"p": np.array([0.1, 0.2])})
    outputs, kind = steps.answer(rows(9, 9, keys=["y", "x"]))
    assert (outputs["p"].tolist(), kind) == ([0.2, 0.1], "cache")
    assert steps.answer(rows(9, 9, keys=["x", "z"])) is None, "one row is not covered"
    assert steps.answer(rows(9)) is None, "without a key there is nothing to look up"
    now_s = 110.5
    assert steps.answer(rows(9, keys=["x"])) is None


def test_the_chain_goes_on_to_the_first_step_that_covers_the_batch(rules):
    steps = chain(Cached(), Rule("toy_rules:good"), Default({"p": 0.0}))
    assert steps.answer(rows(50))[1] == "rule"
    steps.remember(rows(1, keys=["x"]), {"p": np.array([0.9])})
    assert steps.answer(rows(1, keys=["x"]))[1] == "cache"


@pytest.mark.parametrize("name", ["breaks", "outside", "huge", "odd"])
def test_a_rule_that_raises_or_leaves_the_contract_is_passed_over(rules, name):
    outputs, kind = chain(Rule(f"toy_rules:{name}"), Default({"p": 0.25})).answer(rows(1, 2))
    assert (outputs["p"].tolist(), kind) == ([0.25, 0.25], "default")
    assert chain(Rule(f"toy_rules:{name}")).answer(rows(1)) is None


def test_a_default_outside_the_contract_never_answers():
    assert chain(Default({"p": 3.0})).answer(rows(1)) is None
    assert chain(Default({"q": 0.1})).answer(rows(1)) is None


@pytest.mark.parametrize("path", ["no_such_module:f", "toy_rules:missing", "toy_rules:number"])
def test_a_rule_that_cannot_be_had_is_refused_when_the_plan_arrives(rules, path):
    with pytest.raises(UsageError, match=path):
        chain(Rule(path))


def test_a_rule_whose_module_raises_is_refused(tmp_path, monkeypatch):
    (tmp_path / "broken_rules.py").write_text("raise RuntimeError('at import')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="at import"):
        load_rule("broken_rules:f")


def test_memory_is_bounded_and_forgets_the_oldest_key_first(monkeypatch):
    monkeypatch.setattr(fallback_module, "MAX_CACHED_KEYS", 3)
    steps = chain(Cached())
    for key in ["a", "b", "c", "a", "d"]:
        steps.remember(rows(1, keys=[key]), {"p": np.array([0.5])})
    covered_keys = [k for k in "abcd" if steps.answer(rows(1, keys=[k])) is not None]
    assert covered_keys == ["a", "c", "d"]


def test_a_new_chain_takes_over_what_the_old_one_remembered():
    old, new = chain(Cached()), chain(Cached())
    old.remember(rows(1, keys=["x"]), {"p": np.array([0.5])})
    new.inherit(old)
    assert new.answer(rows(1, keys=["x"])) is not None


def test_tensors_and_texts_come_back_from_the_cache():
    contract = Contract(
        inputs={"a": Number()}, outputs={"t": Tensor((2,)), "s": Text(max_length=5)}, key="id"
    )
    codec = Codec(contract)
    batch = codec.validate_records([{"a": 1, "id": "x"}, {"a": 2, "id": "y"}])
    outputs = {
        "t": np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32),
        "s": np.array(["ja", "nein"], dtype=object),
    }
    steps = FallbackChain([Cached()], codec)
    steps.remember(batch, outputs)
    found, _ = steps.answer(batch)
    assert found["t"].tolist() == outputs["t"].tolist()
    assert found["s"].tolist() == ["ja", "nein"]
    assert steps._scores["x"][1]["t"].base is None, "a view would hold the whole batch"


# -- shadow queue ---------------------------------------------------------------------


def test_shadow_queue_drops_the_oldest_and_counts_it():
    async def scenario():
        sent, gate = [], asyncio.Event()

        async def send(batch, stable):
            await gate.wait()
            sent.append(float(batch.column("a")[0]))

        queue = ShadowQueue(send, size=3, workers=1)
        for value in range(6):
            queue.put(rows(value), {})
            await asyncio.sleep(0)
        gate.set()
        while queue._running:
            await asyncio.sleep(0)
        return sent, queue.dropped

    assert asyncio.run(scenario()) == ([0.0, 3.0, 4.0, 5.0], 2)


def test_a_hanging_shadow_holds_as_many_workers_and_no_more():
    async def scenario():
        running = 0

        async def send(batch, stable):
            nonlocal running
            running += 1
            await asyncio.Event().wait()

        queue = ShadowQueue(send, size=8, workers=4)
        for value in range(50):
            queue.put(rows(value), {})
            await asyncio.sleep(0)
        held = running, len(queue._running), queue.dropped
        queue.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return held, len(queue._running)

    assert asyncio.run(scenario()) == ((4, 4, 50 - 4 - 8), 0)


# -- windows --------------------------------------------------------------------------


def test_windows_are_cumulative_and_fold_into_sketches():
    window = ArmWindow(3)
    window.succeeded(0.1, {"p": np.array([0.2, 0.4])})
    window.failed("deadline")
    first = window.report()
    window.succeeded(0.3, {"p": np.array([0.6])})
    window.failed("deadline")
    window.failed("model_failed")
    window.degraded()
    second = window.report()
    assert (first.version, first.attempts, first.errors) == (3, 2, {"deadline": 1})
    assert (second.attempts, second.degraded) == (5, 1)
    assert second.errors == {"deadline": 2, "model_failed": 1}
    assert Sketch.from_bytes(second.latency).count == 2
    outputs = Sketch.from_bytes(second.outputs["p"])
    assert (outputs.count, outputs.max) == (3, pytest.approx(0.6))
    assert window.report() == second, "nothing new, nothing changes"


def test_agreement_sums_paired_differences():
    window = ArmWindow(2)
    window.compared({"p": np.array([0.1, 0.9])}, {"p": np.array([0.1, 0.4])})
    agreement = window.report().agreement
    assert agreement["pairs"] == 2
    assert agreement["sum"] == pytest.approx(0.5)
    assert agreement["over_tolerance"] == 1


def test_agreement_passes_over_what_cannot_be_paired():
    window = ArmWindow(2)
    window.compared({"p": np.array([0.1]), "new": np.array([1.0])}, {"p": np.array([0.1])})
    window.compared({"p": np.array(["a"], dtype=object)}, {"p": np.array([0.1])})
    window.compared({"p": np.array([0.1, 0.2])}, {"p": np.array([[0.1], [0.2]])})
    window.compared({"p": np.array([np.nan])}, {"p": np.array([0.1])})
    agreement = window.report().agreement
    assert (agreement["pairs"], agreement["over_tolerance"]) == (1, 0)
    assert math.isfinite(agreement["sum"])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=40))
def test_attempts_are_successes_plus_errors_whenever_one_looks(events):
    window = ArmWindow(1)
    for good, seconds in events:
        if good:
            window.succeeded(seconds, {"p": np.array([0.5])})
        else:
            window.failed("unavailable")
        report = window.report()
        succeeded = Sketch.from_bytes(report.latency).count
        assert report.attempts == succeeded + report.errors.get("unavailable", 0)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelFailed("x"), "model_failed"),
        (ContractViolation("x"), "bad_output"),
        (TimeoutError(), "deadline"),
        (ConnectionError(), "unavailable"),
        (Overloaded("x"), "unavailable"),
        (RuntimeError("actor died"), "unavailable"),
    ],
)
def test_every_failure_has_a_kind(error, kind):
    assert failure_kind(error) == kind
