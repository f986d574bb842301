"""How unusual records are, asked for with a prediction: told, or why not, and never instead."""

import asyncio
import threading
import time

import numpy as np
import orjson
import pytest
from serving_fakes import (
    CONTRACT,
    FakeEngine,
    Valve,
    World,
    answering,
    fail,
    plan,
    rows,
    served,
)
from test_serving_http import JSON_BODY, V2_BODY, call

from aios.contracts import Contract, Number, Tensor, Text
from aios.errors import ArtifactRejected
from aios.models import OutlierDetector, OutlierScores
from aios.models.outliers import FittedOutliers, fit_outliers
from aios.records import Default
from aios.serving.outliers import KEPT, MOST_WAITING, RETRY_S, Outliers

ASKING = {"x-aios-outlier": "1"}
ORDINARY = np.random.default_rng(0).normal(0, 1, 500)


class FakeDetector:
    """Scores every row alike; `act(batch)` runs first and may raise or wait."""

    def __init__(self, score=0.5, *, slow=False, act=lambda batch: None):
        self._score, self._act = score, act
        self._seconds = 0.1 if slow else 0.0
        self.threads = []

    def seconds(self, rows):
        return self._seconds

    def score(self, batch):
        self.threads.append(threading.current_thread())
        self._act(batch)
        scores = np.full(batch.rows, self._score)
        return OutlierScores(scores, scores / 2)


def real(contract=CONTRACT):
    found = fit_outliers([{"a": value} for value in ORDINARY], contract)
    assert isinstance(found, FittedOutliers)
    return OutlierDetector(found.content, found.entry, contract, ref="toy:1")


def ask(*bodies, detectors=None, path="/predict", headers=ASKING, engines=None, **spec):
    """Each body's reply, and the world afterwards."""

    async def scenario():
        world = World(engines, detectors=detectors or {1: FakeDetector()})
        await world.endpoint.reconfigure(plan(**spec))
        found = [await call(world.app, path=path, chunks=[b], headers=headers) for b in bodies]
        return found, world

    return asyncio.run(scenario())


def test_each_record_has_its_score_and_an_outlier_more_than_the_ordinary():
    body = orjson.dumps([{"a": 0.1}, {"a": 90.0}])
    (reply,), _ = ask(body, detectors={1: real()})
    usual, odd = reply.json["outlier"]
    assert usual < 0.5 < 0.6 < odd <= 1.0
    below, above = reply.json["outlier_beyond"]
    assert below < 0.6
    assert above > 0.99
    assert reply.json["outlier_reason"] is None
    assert [one["p"] for one in reply.json["outputs"]] == [0.5, 0.5]


@pytest.mark.parametrize("headers", [{}, {"x-aios-outlier": "0"}])
def test_who_does_not_ask_gets_what_there_was_before_and_nothing_is_loaded(headers):
    for path, body in (("/predict", JSON_BODY), ("/infer", V2_BODY)):
        (reply,), world = ask(body, headers=headers, path=path)
        assert reply.status == 200
        assert not any("outlier" in name for name in reply.json)
        assert b"outlier" not in reply.body
        assert world.detector_loads == []


@pytest.mark.parametrize("value", ["", "yes", "true", "2", "11", "1, 1", "-1", "1" * 5000, "é"])
def test_a_header_that_says_neither_is_400(value):
    (reply,), world = ask(JSON_BODY, headers={"x-aios-outlier": value})
    assert (reply.status, reply.is_problem) == (400, True)
    assert "x-aios-outlier" in reply.json["detail"]
    assert world.endpoint.report().in_flight == 0


def test_the_protocols_answer_has_them_as_tensors():
    (reply,), _ = ask(V2_BODY, path="/infer", detectors={1: FakeDetector(0.75)})
    score, beyond = reply.json["outputs"][1:]
    assert score == {"name": "aios-outlier", "datatype": "FP64", "shape": [1], "data": [0.75]}
    assert beyond["name"] == "aios-outlier-beyond"
    assert beyond["data"] == [0.375]
    assert "parameters" not in reply.json


def test_binary_answers_have_them_as_binary_tensors():
    tensor = {"name": "a", "shape": [2], "datatype": "FP64", "data": [1.0, 2.0]}
    body = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    (reply,), _ = ask(body, path="/infer", detectors={1: FakeDetector(0.75)})
    length = int(reply.headers["inference-header-content-length"])
    names = [output["name"] for output in orjson.loads(reply.body[:length])["outputs"]]
    assert names == ["p", "aios-outlier", "aios-outlier-beyond"]
    sent = np.frombuffer(reply.body[length:])
    assert sent.tolist() == [0.5, 0.5, 0.75, 0.75, 0.375, 0.375]


def test_a_version_without_a_detector_says_why_on_both_wires():
    (reply,), world = ask(JSON_BODY, detectors={1: None})
    assert reply.json["outlier"] is None
    assert reply.json["outlier_beyond"] is None
    assert "sample of at least 100" in reply.json["outlier_reason"]
    assert world.endpoint.report().outliers_missed == 0
    (reply,), _ = ask(V2_BODY, path="/infer", detectors={1: None})
    assert "sample of at least 100" in reply.json["parameters"]["outlier_reason"]
    assert len(reply.json["outputs"]) == 1


def test_texts_and_tensors_alone_are_no_ground_to_judge_by():
    contract = Contract(inputs={"t": Text(), "x": Tensor([2])}, outputs={"p": Number()})

    async def scenario():
        outliers = Outliers(lambda version: None)
        return await outliers.score(served(1, contract), rows(1.0), time.monotonic() + 5)

    assert "no number, boolean or category" in asyncio.run(scenario()).reason


def test_nulls_and_constants_are_scored_like_anything_else():
    contract = Contract(
        inputs={"a": Number(nullable=True), "b": Number(nullable=True)},
        outputs={"p": Number(min=0, max=1)},
    )
    background = [{"a": value, "b": None} for value in ORDINARY]
    found = fit_outliers(background, contract)
    detector = OutlierDetector(found.content, found.entry, contract, ref="x")

    async def scenario():
        world = World(detectors={1: detector})
        given = plan().model_copy(update={"stable": served(1, contract)})
        await world.endpoint.reconfigure(given)
        body = orjson.dumps([{"a": None, "b": None}] * 3 + [{}, {"a": 5, "b": 5}])
        return await call(world.app, chunks=[body], headers=ASKING)

    reply = asyncio.run(scenario())
    assert reply.status == 200
    assert len(set(reply.json["outlier"][:4])) == 1
    assert reply.json["outlier"][4] > reply.json["outlier"][0]


def test_many_askers_wait_for_one_load_off_the_event_loop():
    loaders, opened = [], threading.Event()

    def load():
        loaders.append(threading.current_thread())
        assert opened.wait(10)
        return FakeDetector()

    async def scenario():
        world = World(detectors={1: load})
        await world.endpoint.reconfigure(plan())
        asked = [asyncio.ensure_future(call(world.app, headers=ASKING)) for _ in range(21)]
        while world.endpoint.report().in_flight < 21:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        opened.set()
        found = [*await asyncio.gather(*asked), await call(world.app, headers=ASKING)]
        return found, world

    found, world = asyncio.run(scenario())
    assert [reply.json["outlier"] for reply in found] == [[0.5]] * 22
    assert world.detector_loads == [1]
    assert loaders[0] is not threading.main_thread()


def test_a_load_that_is_slower_than_the_deadline_leaves_the_prediction_and_the_next_ask_has_it():
    opened = threading.Event()

    def load():
        assert opened.wait(10)
        return FakeDetector()

    async def scenario():
        world = World(detectors={1: load})
        await world.endpoint.reconfigure(plan(deadline_s=0.05))
        first = await call(world.app, headers=ASKING)
        opened.set()
        later = first
        give_up_s = time.monotonic() + 5
        while later.json["outlier"] is None and time.monotonic() < give_up_s:
            later = await call(world.app, headers=ASKING)
        return first, later, world

    first, later, world = asyncio.run(scenario())
    assert (first.status, first.json["outputs"], first.json["degraded"]) == (
        200,
        [{"p": 0.5}],
        None,
    )
    assert "deadline" in first.json["outlier_reason"]
    assert later.json["outlier"] == [0.5]
    assert world.detector_loads == [1]
    report = world.endpoint.report()
    assert report.outliers_missed >= 1
    assert report.failed == 0


class Jumping(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    ahead_s = 0.0

    def time(self):
        return super().time() + self.ahead_s


def test_a_detector_that_cannot_be_loaded_is_a_reason_and_tried_again_later():
    broken = [True]

    def load():
        if broken[0]:
            raise ArtifactRejected("the file 'outliers.onnx' was changed")
        return FakeDetector()

    async def scenario():
        world = World(detectors={1: load})
        await world.endpoint.reconfigure(plan())
        found = [await call(world.app, headers=ASKING) for _ in range(3)]
        tries = len(world.detector_loads)
        broken[0] = False
        asyncio.get_running_loop().ahead_s += RETRY_S + 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return found, tries, await call(world.app, headers=ASKING), world.endpoint.report()

    with asyncio.Runner(loop_factory=Jumping) as runner:
        found, tries, later, report = runner.run(scenario())
    for reply in found:
        assert (reply.status, reply.json["outputs"]) == (200, [{"p": 0.5}])
        assert "was changed" in reply.json["outlier_reason"]
    assert tries == 1
    assert later.json["outlier"] == [0.5]
    assert (report.outliers_missed, report.failed) == (3, 0)


def test_a_detector_that_raises_is_a_reason_that_tells_no_secret():
    def act(batch):
        raise ValueError("card 4111-1111")

    for slow in (False, True):
        (reply,), world = ask(JSON_BODY, detectors={1: FakeDetector(act=act, slow=slow)})
        assert (reply.status, reply.json["outputs"]) == (200, [{"p": 0.5}])
        assert reply.json["outlier_reason"] == "the detector raised ValueError"
        assert world.endpoint.report().outliers_missed == 1


def test_what_is_fast_runs_on_the_loop_and_what_is_slow_in_a_thread():
    fast, slow = FakeDetector(), FakeDetector(slow=True)
    ask(JSON_BODY, detectors={1: fast})
    ask(JSON_BODY, detectors={1: slow})
    assert fast.threads == [threading.main_thread()]
    assert slow.threads[0] is not threading.main_thread()


def test_a_real_detector_knows_that_many_rows_take_longer():
    detector = real()
    assert detector.seconds(1) < detector.seconds(10_000)
    assert detector.seconds(10_000) > 0.001


def test_a_detector_that_hangs_costs_its_askers_the_deadline_and_others_nothing():
    valve = Valve()

    async def scenario():
        world = World(detectors={1: FakeDetector(slow=True, act=valve)})
        await world.endpoint.reconfigure(plan(deadline_s=0.1))
        asking = asyncio.ensure_future(call(world.app, headers=ASKING))
        await asyncio.get_running_loop().run_in_executor(None, valve.entered.wait, 5)
        begin_s = time.monotonic()
        others = [await call(world.app) for _ in range(10)]
        others_s = time.monotonic() - begin_s
        late = await asking
        valve.opened.set()
        return late, others, others_s

    late, others, others_s = asyncio.run(scenario())
    assert (late.status, late.json["outlier"]) == (200, None)
    assert "deadline" in late.json["outlier_reason"]
    assert {reply.status for reply in others} == {200}
    assert others_s < 0.1


def test_more_askers_than_may_wait_are_told_so_at_once():
    valve = Valve()

    async def scenario():
        world = World(detectors={1: FakeDetector(slow=True, act=valve)})
        await world.endpoint.reconfigure(plan(deadline_s=10.0))
        waiting = [
            asyncio.ensure_future(call(world.app, headers=ASKING)) for _ in range(MOST_WAITING)
        ]
        await asyncio.get_running_loop().run_in_executor(None, valve.entered.wait, 5)
        while world.endpoint.report().in_flight < MOST_WAITING:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        over = await call(world.app, headers=ASKING)
        valve.opened.set()
        await asyncio.gather(*waiting)
        return over, [*map(asyncio.Future.result, waiting), await call(world.app, headers=ASKING)]

    over, waiting = asyncio.run(scenario())
    assert (over.status, over.json["outlier"]) == (200, None)
    assert "too many" in over.json["outlier_reason"]
    assert all(reply.json["outlier"] == [0.5] for reply in waiting)


def test_the_detector_of_the_version_that_answered_scores():
    async def scenario():
        detectors = {1: FakeDetector(0.1), 2: FakeDetector(0.2)}
        world = World(ask=answering(0.7), detectors=detectors)
        await world.endpoint.reconfigure(plan(arm="canary", weight=0.5))
        found = {}
        for user in range(40):
            body = orjson.dumps({"a": 1, "id": f"u{user}"})
            reply = await call(world.app, chunks=[body], headers=ASKING)
            found.setdefault(reply.json["arm"], set()).add(reply.json["outlier"][0])
        by_number = await call(
            world.app, path="/versions/2/infer", chunks=[V2_BODY], headers=ASKING
        )
        return found, by_number

    found, by_number = asyncio.run(scenario())
    assert found == {"stable": {0.1}, "canary": {0.2}}
    assert by_number.json["outputs"][1]["data"] == [0.2]


def test_a_degraded_answer_is_told_too():
    (reply,), _ = ask(JSON_BODY, engines={1: FakeEngine(act=fail)}, fallback=(Default({"p": 0.1}),))
    assert reply.json["degraded"] == "default"
    assert reply.json["outlier"] == [0.5]


def test_when_the_deadline_is_spent_nothing_is_begun():
    detector = FakeDetector(slow=True)

    async def scenario():
        outliers = Outliers(lambda version: detector)
        await outliers.score(served(1), rows(1.0), time.monotonic() + 5)
        return await outliers.score(served(1), rows(1.0), time.monotonic() - 0.001), outliers

    late, outliers = asyncio.run(scenario())
    assert "deadline" in late.reason
    assert len(detector.threads) == 1
    assert outliers.missed == 1


def test_few_detectors_stay_loaded():
    loads = []

    def load(version):
        loads.append(version.version)
        return FakeDetector()

    async def scenario():
        outliers = Outliers(load)
        for version in [*range(1, KEPT + 2), KEPT + 1, 1]:
            told = await outliers.score(served(version), rows(1.0), time.monotonic() + 5)
            assert told.told is not None

    asyncio.run(scenario())
    assert loads == [*range(1, KEPT + 2), 1]


def test_a_client_that_goes_away_while_it_is_scored_leaves_nothing_behind():
    valve = Valve()

    async def scenario():
        world = World(detectors={1: FakeDetector(slow=True, act=valve)})
        await world.endpoint.reconfigure(plan(deadline_s=10.0))
        asking = asyncio.ensure_future(call(world.app, headers=ASKING))
        await asyncio.get_running_loop().run_in_executor(None, valve.entered.wait, 5)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        valve.opened.set()
        later = await call(world.app, headers=ASKING)
        return later, world.endpoint.report()

    later, report = asyncio.run(scenario())
    assert later.json["outlier"] == [0.5]
    assert (report.in_flight, report.failed) == (0, 0)
