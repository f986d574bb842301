"""When a flow whose workers die may begin again."""

from aios.flows import crashes
from aios.flows.crashes import Crashes


def times_of(known: Crashes, deaths: list[tuple[int, float]]) -> list[int]:
    """How many deaths in a row are counted after each of (steps, lived_s)."""
    return [
        known.died("flow", f"worker-{n}", steps, lived_s, float(n)).times
        for n, (steps, lived_s) in enumerate(deaths)
    ]


def test_deaths_count_that_come_soon_and_without_a_step_in_between() -> None:
    assert times_of(Crashes(), [(1, 5.0)] * 4) == [1, 2, 3, 4]
    assert times_of(Crashes(), [(1, 5.0), (1, 5.0), (2, 5.0), (2, 5.0)]) == [1, 2, 1, 2]
    assert times_of(Crashes(), [(1, 5.0), (1, 5.0), (1, 3600.0), (1, 5.0)]) == [1, 2, 1, 2]


def test_the_first_two_begin_at_once_and_the_others_later_and_later() -> None:
    known = Crashes()
    pauses_s = []
    for n in range(16):
        crash = known.died("flow", f"worker-{n}", 0, 1.0, 100.0)
        pauses_s.append(crash.due_s - 100.0)
    assert pauses_s[:2] == [0.0, 0.0]
    for place, pause_s in enumerate(pauses_s[2:]):
        whole_s = min(2.0 * 2**place, crashes.LONGEST_S)
        assert 0.5 * whole_s <= pause_s <= 1.5 * whole_s


def test_a_death_is_counted_once_however_often_it_is_told() -> None:
    known = Crashes()
    first = known.died("flow", "worker-1", 0, 1.0, 0.0)
    assert known.died("flow", "worker-1", 0, 1.0, 50.0) == first == known.last("flow")
    assert known.last("another") is None


def test_what_is_known_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(crashes, "MOST_KNOWN", 3)
    known = Crashes()
    for n in range(5):
        known.died(f"flow-{n}", "worker", 0, 1.0, 0.0)
    assert [n for n in range(5) if known.last(f"flow-{n}") is not None] == [2, 3, 4]
