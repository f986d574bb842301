"""How batches of any size go through places of fixed sizes, as a GPU wants them; on CPU here."""

import threading

import numpy as np
import pytest

from aios.models import device_for
from aios.models.torch_graphs import MOST_ROWS, FixedPlaces


class World:
    """A module of two inputs; notes each size that is captured, and how often it ran."""

    def __init__(self):
        self.captured, self.runs = [], 0
        row = [((3,), "float32"), ((), "int64")]
        self.places = FixedPlaces(self._answer, row, "cpu", self._capture)

    def _answer(self, numbers, ids):
        self.runs += 1
        return {"sum": numbers.sum(1) + ids, "twice": 2 * numbers}

    def _capture(self, compute):
        self.captured.append(len(compute()["sum"]))
        return compute


def ask(places, rows, seed=0):
    random = np.random.default_rng(seed)
    numbers = random.standard_normal((rows, 3), dtype=np.float32)
    ids = random.integers(0, 1000, rows)
    found = places.run([numbers, ids])
    np.testing.assert_allclose(found["sum"], numbers.sum(1) + ids, rtol=1e-5)
    np.testing.assert_array_equal(found["twice"], 2 * numbers)
    return found


def test_each_size_is_captured_once_and_rows_before_change_no_answer():
    world = World()
    for seed, rows in enumerate((5, 1, 8, 3, 5, 7, 4)):
        ask(world.places, rows, seed)
    assert sorted(world.captured) == [1, 4, 8]


def test_prepared_sizes_are_all_that_a_replica_joins():
    world = World()
    world.places.prepare()
    assert world.captured == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    ask(world.places, MOST_ROWS)
    world.places.prepare()
    assert len(world.captured) == 9


def test_answers_of_a_place_are_the_callers_own_when_the_place_is_used_again():
    kept = {}

    def capture(compute):
        fixed = compute()["o"].clone()

        def replay():  # as a graph does: into the same tensor
            fixed.copy_(compute()["o"])
            return {"o": fixed}

        return replay

    places = FixedPlaces(lambda x: {"o": x + 1}, [((1,), "float32")], "cpu", capture)
    for value in (1.0, 2.0):
        kept[value] = places.run([np.full((2, 1), value, np.float32)])["o"]
    assert [float(one[0, 0]) for one in kept.values()] == [2.0, 3.0]


def test_threads_wait_for_each_other():
    world = World()
    failures = []

    def often(seed):
        try:
            for _ in range(50):
                ask(world.places, 4, seed)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=often, args=(seed,)) for seed in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []


@pytest.mark.parametrize(
    ("engine", "gpus", "device"),
    [("onnx", 0.0, "cpu"), ("onnx", 1.0, "cuda"), ("torch", 0.25, "cuda"), ("python", 1.0, "cpu")],
)
def test_a_model_is_kept_where_its_process_has_a_gpu(engine, gpus, device):
    assert device_for(engine, gpus) == device
