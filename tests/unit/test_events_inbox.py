"""What comes in is kept once, acted on once, in order per key, and set aside if it is poison."""

import threading
from functools import partial

import pytest
from event_worlds import EventWorld, Log, coming
from sqlalchemy import text

from aios.errors import (
    ClusterUnavailable,
    ContractViolation,
    DeadlineExceeded,
    IllegalTransition,
    ModelFailed,
    UnknownName,
)
from aios.events.consumer import Pump, Taking
from aios.events.dispatching import MOST_ATTEMPTS, PutOff, SetAside, after_failure, fault_of
from aios.kernel.dispatcher import flow_id_of
from aios.kernel.events import MOST_WAITING
from aios.registry.events import KEPT_S


@pytest.fixture
def world(tmp_path):
    made = EventWorld(tmp_path)
    made.subscribe()
    return made


def drained(world, rounds=40, name="orders"):
    """Look until nothing waits, with time passing."""
    line = world.line(name)
    for _ in range(rounds):
        if not world.store.waiting(name):
            break
        line.look()
        world.clock.advance(10)
    line.close()


def test_an_event_begins_a_flow_once_however_often_it_is_delivered(world):
    for _ in range(3):
        world.take({"n": 1}, {"n": 2})
    drained(world)
    world.take({"n": 1}, {"n": 2})
    drained(world)
    assert world.starts.data == [{"n": 1}, {"n": 2}]
    assert world.starts.asked == [flow_id_of("orders", f"orders/0/{n}") for n in (0, 1)]
    assert world.events.counts[("orders", "taken")] == 2
    assert world.events.counts[("orders", "repeated")] == 6


def test_what_a_killed_kernel_had_taken_is_acted_on_by_the_next_under_the_same_id(world):
    world.take({"n": 1}, {"n": 2})
    line = world.line()
    # The flow was begun, and the kernel died before the row said so.
    line._act(line.subscription, world.store.due("orders", 1)[0])
    world.restart()
    drained(world)
    assert world.starts.asked[0] == world.starts.asked[1]
    assert world.starts.data == [{"n": 1}, {"n": 2}]


def test_events_of_one_key_keep_their_order_and_a_bad_one_holds_up_no_other_key(world):
    world.starts.fails["bad"] = ContractViolation("bad")
    rows = [("a", 1), ("b", 2), ("a", "bad"), ("a", 4), ("b", 5), ("c", 6), ("a", 7)]
    world.take(*({"key": key, "n": n} for key, n in rows))
    line = world.line()
    line.look()
    assert [one["n"] for one in world.starts.data] == [1, 2, 5, 6]
    # Behind it its own key waits, however often is looked.
    line.look()
    assert [one["n"] for one in world.starts.data] == [1, 2, 5, 6]
    line.close()
    drained(world)
    assert [one["n"] for one in world.starts.data] == [1, 2, 5, 6, 4, 7]
    [letter] = world.store.dead_letters()
    assert letter.event["data"] == {"key": "a", "n": "bad"}
    assert (letter.reason, letter.attempts) == ("bad", MOST_ATTEMPTS)
    assert "ContractViolation" in letter.trace
    assert "begin" in letter.trace


def test_ten_thousand_events_behind_a_poison_key_do_not_hide_the_others(world):
    world.starts.fails["bad"] = ContractViolation("bad")
    world.take({"key": "a", "n": "bad"}, *({"key": "a", "n": n} for n in range(2_000)))
    world.take({"key": "b", "n": "other"}, first=5_000)
    line = world.line()
    line.look()
    line.look()
    assert world.starts.data == [{"key": "b", "n": "other"}]
    line.close()


def test_an_event_is_told_to_the_agent_of_its_key_under_one_operation(world):
    world.subscribe(id="machines", agent="machine")
    batch = [coming(n, {"n": n}, key) for n, key in enumerate(("m-1", "m-2", "m-1", None))]
    world.tells.fails["m-2"] = ClusterUnavailable("away")
    for _ in range(2):
        world.events.take("machines", batch, 0)
    line = world.line("machines")
    # It was told, and the kernel died before the row said so.
    line._act(line.subscription, world.store.due("machines", 1)[0])
    line.close()
    world.restart()
    world.tells.fails.clear()
    drained(world, name="machines")
    told = sorted(world.tells.data, key=lambda one: one[1]["n"])
    assert [(ref, data["n"]) for ref, data in told] == [
        ("machine/m-1", 0),
        ("machine/m-2", 1),
        ("machine/m-1", 2),
    ]
    [letter] = world.store.dead_letters()
    assert letter.reason.startswith("the event has no key")


def test_a_dead_letter_is_acted_on_when_it_is_replayed(world):
    world.starts.fails["bad"] = ContractViolation("bad")
    world.take({"n": "bad"})
    drained(world)
    [letter] = world.store.dead_letters()
    world.starts.fails.clear()
    world.replay(letter.id)
    drained(world)
    assert world.starts.data == [{"n": "bad"}]
    assert world.store.dead_letters() == []
    with pytest.raises(IllegalTransition, match="replayed already"):
        world.replay(letter.id)
    with pytest.raises(UnknownName, match="no dead letter 99"):
        world.replay(99)


def test_an_event_without_its_key_is_acted_on_once_its_subscription_names_a_right_one(world):
    spec = world.subscribe(key="customer")
    log = Log([b'{"row": {"customer": "c1", "n": 1}}', b'{"row": {"n": 2}}'])
    Pump(spec, log.read, partial(world.events.take, "orders")).step()
    one, two = world.store.dead_letters()
    assert one.reason == (
        "the key customer of the event is missing; it is a text or a number. Its data has "
        "row.customer, row.n"
    )
    with pytest.raises(IllegalTransition, match="Take subscription 'orders' off, and on again"):
        world.replay(one.id)
    world.subscribe(key="row.customer")
    world.replay(one.id)
    [row] = world.store.due("orders", 10)
    assert (row.key, row.content["data"]["row"]["n"]) == ("c1", 1)
    drained(world)
    assert world.starts.data == [{"row": {"customer": "c1", "n": 1}}]
    assert [letter.id for letter in world.store.dead_letters()] == [two.id]
    with pytest.raises(IllegalTransition, match=r"the key row\.customer of the event is missing"):
        world.replay(two.id)


def test_a_dead_letter_that_is_discarded_is_gone_and_its_repeat_changes_nothing(world):
    world.starts.fails["bad"] = ContractViolation("bad")
    world.take({"n": "bad"}, {"n": 1})
    drained(world)
    [letter] = world.store.dead_letters()
    world.discard(letter.id)
    assert world.store.dead_letters(replayed=True) == []
    world.starts.fails.clear()
    world.take({"n": "bad"})
    drained(world)
    assert world.starts.data == [{"n": 1}]
    with pytest.raises(UnknownName, match=f"no dead letter {letter.id}"):
        world.discard(letter.id)
    world.clock.advance(KEPT_S + 1)
    assert world.store.forget() == 2, "it is remembered as long as one that was acted on"


def test_one_that_fails_again_after_a_replay_is_a_dead_letter_again(world):
    world.starts.fails["bad"] = ContractViolation("bad")
    world.take({"n": "bad"})
    drained(world)
    [letter] = world.store.dead_letters()
    world.replay(letter.id)
    drained(world)
    assert [one.id for one in world.store.dead_letters()] == [letter.id]


def test_while_what_acts_is_away_nothing_is_poison(world):
    world.starts.fails["n"] = ClusterUnavailable("away")
    world.take(*({"n": n} for n in range(20)))
    line = world.line()
    for _ in range(10):
        line.look()
        world.clock.advance(60)
    assert world.store.dead_letters() == []
    assert line.problem == "away"
    world.starts.fails.clear()
    line.look()
    line.close()
    assert [one["n"] for one in world.starts.data] == list(range(20))
    assert line.problem is None


def test_an_event_that_brings_down_what_acts_is_poison_once_others_succeed(world):
    world.starts.fails["killer"] = DeadlineExceeded("gone")
    world.take({"n": "killer"})
    line = world.line()
    for n in range(20):
        world.take({"n": n}, first=100 + n)
        line.look()
        world.clock.advance(60)
    line.close()
    [letter] = world.store.dead_letters()
    assert letter.event["data"] == {"n": "killer"}


def test_attempts_are_counted_over_a_restart_of_the_kernel(world):
    world.starts.fails["bad"] = ModelFailed("no")
    world.take({"n": "bad"})
    for _ in range(MOST_ATTEMPTS):
        assert world.store.dead_letters() == []
        world.line().look()
        world.restart()
        world.clock.advance(60)
    assert len(world.store.dead_letters()) == 1


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ContractViolation("x"), "event"),
        (ModelFailed("x"), "event"),
        (ValueError("x"), "event"),
        (DeadlineExceeded("x"), "target"),
        (UnknownName("x"), "target"),
        (OSError("x"), "target"),
    ],
)
def test_whose_fault_a_failure_is(error, fault):
    assert fault_of(error) == fault


def test_pauses_grow_and_only_what_counts_leads_to_the_dead_letters():
    dues = [after_failure(n, "event", False, n, 0.0) for n in range(5)]
    assert dues == [PutOff(1, 1.0), PutOff(2, 2.0), PutOff(3, 4.0), PutOff(4, 8.0), SetAside(5)]
    assert after_failure(4, "target", False, 9, 0.0) == PutOff(4, 30.0)
    assert after_failure(4, "target", True, 9, 0.0) == SetAside(5)


def test_a_clock_that_was_set_back_holds_nothing_up_for_long(world):
    world.starts.fails["bad"] = ModelFailed("no")
    world.take({"n": "bad"})
    line = world.line()
    line.look()
    world.clock.advance(-1_000_000)
    assert len(world.store.due("orders", 10)) == 1
    line.close()


# -- the pump -------------------------------------------------------------------------


def test_nothing_is_acknowledged_before_it_is_on_disk_and_nothing_is_lost_by_kills(world):
    log = Log([b'{"key": "k%d", "n": %d}' % (n % 7, n) for n in range(5_000)])
    spec = world.store.subscriptions()[0].spec
    deaths = iter([0, 1, 3, 4])
    steps, death = 0, next(deaths)

    def take(batch, filtered):
        nonlocal steps, death
        steps += 1
        if steps - 1 == death:
            # Either nothing was kept, or all was and nobody heard of it.
            if death % 2:
                world.events.take("orders", batch, filtered)
            death = next(deaths, -1)
            raise KeyboardInterrupt
        return world.events.take("orders", batch, filtered)

    while log.committed < len(log.bodies):
        pump = Pump(spec, log.read, take)
        try:
            while pump.step():
                assert world.store.waiting("orders") >= log.committed
        except KeyboardInterrupt:
            continue
    drained(world)
    assert [one["n"] for one in world.starts.data] == list(range(5_000))
    assert world.events.counts[("orders", "repeated")] > 0


def test_a_full_inbox_holds_its_readers_until_there_is_room(world):
    log = Log([b"{}"] * 3)
    answers = [Taking(True), Taking(True), Taking(True), Taking(False), Taking(False)]
    asked = []

    def take(batch, filtered):
        asked.append(len(batch))
        return answers[len(asked) - 1]

    Pump(world.store.subscriptions()[0].spec, log.read, take).step()
    assert asked == [3, 0, 0, 0]
    assert (log.committed, log.idled) == (3, 3)


def test_the_kernel_says_when_the_inbox_is_full(world):
    batch = [coming(n, {}) for n in range(MOST_WAITING - 1)]
    assert world.events.take("orders", batch, 0) == Taking(False)
    assert world.take({}, first=MOST_WAITING) == Taking(True)
    assert world.events.take("orders", [], 0) == Taking(True)


def test_a_reader_of_a_subscription_that_is_off_acknowledges_nothing(world):
    log = Log([b"{}"] * 3)
    spec = world.store.subscriptions()[0].spec
    with world.registry.change(actor="ann", action="x", subject="x") as change:
        change.unsubscribe("orders")
    world.events.changed()
    Pump(spec, log.read, partial(world.events.take, "orders")).step()
    assert log.committed == 0
    assert world.store.waiting("orders") == 0


def test_a_pump_goes_on_after_its_source_or_the_kernel_was_away(world):
    log = Log([b'{"n": 1}'])
    failures = [ClusterUnavailable("kernel"), None]
    opened = []

    def read():
        opened.append(1)
        if len(opened) == 1:
            raise OSError("broker")
        return log.read()

    def take(batch, filtered):
        error = failures.pop(0) if failures else None
        if error is not None:
            raise error
        return world.events.take("orders", batch, filtered)

    pump = Pump(world.store.subscriptions()[0].spec, read, take)
    thread = threading.Thread(target=pump.run)
    thread.start()
    for _ in range(100):
        if log.committed:
            break
        threading.Event().wait(0.1)
    pump.close()
    thread.join(10)
    assert log.committed == 1
    assert len(opened) == 2
    assert world.store.waiting("orders") == 1


def test_what_cannot_be_read_is_set_aside_at_once_and_the_rest_goes_on(world):
    log = Log([b'{"n": 1}', b"\xff\xfe not json", b'{"specversion": "2.0"}', b'{"n": 2}'])
    Pump(world.store.subscriptions()[0].spec, log.read, partial(world.events.take, "orders")).step()
    drained(world)
    assert log.committed == 4
    assert world.starts.data == [{"n": 1}, {"n": 2}]
    reasons = [one.reason for one in world.store.dead_letters()]
    assert "no JSON" in reasons[0]
    assert "specversion is '2.0'" in reasons[1]
    assert world.store.dead_letters()[0].raw.endswith("not json")
    with pytest.raises(IllegalTransition, match="could not be read"):
        world.replay(world.store.dead_letters()[0].id)


def test_what_was_acted_on_long_ago_is_forgotten_and_what_waits_is_not(world):
    world.take({"n": 1})
    drained(world)
    world.take({"n": 2}, first=7)
    world.clock.advance(KEPT_S + 60)
    assert world.store.forget() == 1
    assert world.store.waiting("orders") == 1


def test_asking_for_what_is_due_reads_an_index_and_not_the_table(world):
    with world.store._database.reading() as connection:
        plan = connection.execute(
            text(
                "EXPLAIN QUERY PLAN SELECT seq FROM inbox WHERE subscription = 'x' AND "
                "state = 'waiting' ORDER BY seq LIMIT 5"
            )
        ).all()
    assert "inbox_waiting" in str(plan)
