"""Metering over time: kernels that die, reports that come twice, clocks that are put back."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from aios.clock import ManualClock
from aios.errors import StoreUnavailable
from aios.kernel.cost_metrics import CostMetrics
from aios.kernel.metering import LONGEST_GAP_S, Metering
from aios.monitoring.cost import IDLE, OVERHEAD
from aios.records.cost import NodeSeen, Owner, Prices, ProcessUsage, Used
from aios.registry import UsageStore
from aios.store import tables as t
from aios.store.database import Database

NODE = NodeSeen(id="n1", cores=2)
PRICES = Prices(currency="EUR", default_node_hour=3.6, node_hours={"big": 36.0})  # 0.001 a second
LOAN = Owner("endpoint", "loan", "loan", 1, "stable")
START_S = 1_000_000 * 3600.0


class Clock(ManualClock):
    """A clock whose wall time can be put elsewhere."""

    wall_off_s = 0.0

    def now_s(self) -> float:
        return super().now_s() + self.wall_off_s


class Cluster:
    """A metering and what it meters, second by second."""

    def __init__(self, folder: Path, prices: Prices = PRICES) -> None:
        self.clock = Clock(START_S)
        self.database = Database(f"sqlite:///{folder}/aios.db")
        self.database.upgrade()
        self.store = UsageStore(self.database, self.clock)
        self.prices = prices
        self.nodes = [NODE]
        self.restart()

    def restart(self) -> None:
        """As after SIGKILL."""
        self.metering = Metering(self.store, self.prices, self.clock, self.which)

    def which(self, app: str) -> tuple[str, str, int, str] | None:
        return ("loan", "loan", 2, "canary") if app == "loan--v2-x" else None

    def tell(self, cpu_s: float, id: str = "p1", **more: Any) -> None:
        fields = {"kind": "endpoint", "endpoint": "loan", "model": "loan", "version": 1}
        fields |= {"arm": "stable", "node": "n1", "node_cores": 2, **more}
        self.metering.used(ProcessUsage(id=id, cpu_s=cpu_s, **fields))

    def look(self, seconds: float = 10.0) -> None:
        self.clock.advance(seconds)
        self.metering.look(self.nodes)

    def used(self) -> dict[Owner, Used]:
        found: dict[Owner, Used] = {}
        for _, owner, used in self.store.used(0, 1e12):
            found[owner] = found.get(owner, Used()) + used
        return found

    def bill(self) -> float:
        """What all nodes cost; checks that the parts sum to it."""
        self.metering.save()
        bill = sum(one.cost for _, one in self.store.billed(0, 1e12))
        parts = list(self.used().values())
        assert sum(one.cost for one in parts) == pytest.approx(bill)
        assert all(min(one.cost, one.core_s, one.calls) >= 0 for one in parts)
        return bill


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    found = Cluster(tmp_path)
    found.metering.look(found.nodes)
    return found


def test_nodes_cost_price_times_time_and_who_used_them_pays(cluster: Cluster) -> None:
    for second in range(0, 100, 10):
        cluster.tell(second / 2)
        cluster.look()
    assert cluster.bill() == pytest.approx(0.1)
    used = cluster.used()
    assert used[LOAN].core_s == pytest.approx(45)
    assert used[LOAN].cost == pytest.approx(0.1 * 45 / 200)
    assert used[IDLE].core_s == pytest.approx(155)


def test_a_node_costs_from_when_it_is_seen_until_it_is_gone(cluster: Cluster) -> None:
    cluster.look()
    cluster.nodes = [NODE, NodeSeen(id="n2", type="big", cores=64)]
    cluster.look()  # n2 was not there at the look before
    cluster.look()
    cluster.nodes = [NODE]
    cluster.look()
    assert cluster.bill() == pytest.approx(0.04 + 0.1)


def test_a_report_that_comes_twice_or_late_counts_once(cluster: Cluster) -> None:
    cluster.tell(4, calls={"stable:1": 10})
    cluster.tell(4, calls={"stable:1": 10})
    cluster.tell(3, calls={"stable:1": 8})
    cluster.look()
    cluster.tell(4, calls={"stable:1": 10})
    cluster.look()
    cluster.bill()
    assert (cluster.used()[LOAN].core_s, cluster.used()[LOAN].calls) == (4, 10)


def test_a_replica_that_begins_anew_is_another_process(cluster: Cluster) -> None:
    cluster.tell(8)
    cluster.look()
    cluster.tell(1, id="p2")
    cluster.look()
    cluster.bill()
    assert cluster.used()[LOAN].core_s == 9


def test_a_killed_kernel_loses_nothing_and_counts_nothing_twice(cluster: Cluster) -> None:
    cluster.tell(5, calls={"stable:1": 5})
    cluster.look()
    cluster.metering.save()
    cluster.tell(9, calls={"stable:1": 9})
    cluster.look()
    cluster.tell(10, calls={"stable:1": 10})
    cluster.clock.advance(15)
    cluster.restart()
    cluster.tell(12, calls={"stable:1": 12})
    cluster.look(5)
    assert cluster.bill() == pytest.approx(0.04)
    used = cluster.used()
    assert (used[LOAN].core_s, used[LOAN].calls) == (pytest.approx(12), 12)
    cluster.restart()
    cluster.look()
    assert cluster.bill() == pytest.approx(0.05)


def test_what_was_told_and_not_yet_counted_outlives_a_kernel(cluster: Cluster) -> None:
    cluster.look()
    cluster.tell(7)  # after the look: in the saved progress, in no hour yet
    cluster.metering.save()
    cluster.restart()
    cluster.tell(7)
    cluster.look()
    cluster.bill()
    assert cluster.used()[LOAN].core_s == pytest.approx(7)


def test_a_kernel_that_was_away_too_long_does_not_invent_a_bill(cluster: Cluster) -> None:
    cluster.look()
    cluster.metering.save()
    cluster.restart()
    cluster.look(365 * 86_400)
    assert cluster.bill() == pytest.approx(0.01 + LONGEST_GAP_S * 0.001)


def test_another_cluster_does_not_pay_for_the_time_between(cluster: Cluster) -> None:
    cluster.look()
    cluster.metering.save()
    cluster.restart()
    cluster.nodes = [NodeSeen(id="n9", cores=2)]
    cluster.look(1000)
    cluster.look()
    assert cluster.bill() == pytest.approx(0.02)


def test_a_clock_that_is_put_back_makes_nothing_negative(cluster: Cluster) -> None:
    cluster.look()
    cluster.clock.wall_off_s = -7200.0
    cluster.look()
    cluster.metering.save()
    cluster.clock.wall_off_s = -20_000.0
    cluster.restart()
    cluster.look()
    cluster.look()
    assert cluster.bill() == pytest.approx(0.03)


def test_an_interval_over_the_hour_is_in_both(cluster: Cluster) -> None:
    cluster.clock.advance(3595)
    cluster.metering.look([])
    cluster.metering.look(cluster.nodes)
    cluster.tell(4, calls={"stable:1": 3})
    cluster.look()
    cluster.bill()
    hours = [(place.start_s - START_S, one.cost) for place, one in cluster.store.billed(0, 1e12)]
    assert hours == [(0.0, pytest.approx(0.005)), (3600.0, pytest.approx(0.005))]
    assert cluster.used()[LOAN].calls == 3


def test_what_a_lost_node_had_told_is_in_no_bill_and_is_told(cluster: Cluster) -> None:
    cluster.tell(6)
    cluster.nodes = []
    cluster.look()
    assert cluster.bill() == 0
    assert cluster.metering.lost_core_s == 6


def test_a_full_disk_delays_and_a_commit_whose_answer_was_lost_counts_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    stored = cluster.store.save
    answers: list[Any] = ["full", "lost"]

    class Troubled(UsageStore):
        def save(self, *given: Any) -> None:
            trouble = answers.pop(0) if answers else None
            if trouble != "full":
                stored(*given)
            if trouble is not None:
                raise StoreUnavailable(f"the disk is {trouble}")

    cluster.metering._store = Troubled(cluster.database, cluster.clock)
    cluster.tell(4)
    cluster.look(60)
    cluster.look(60)
    assert answers == []
    assert "not stored yet: the disk is lost" in caplog.text
    cluster.look(60)
    assert cluster.bill() == pytest.approx(0.18)
    assert cluster.used()[LOAN].core_s == pytest.approx(4)


def test_a_challenger_is_who_the_kernel_says_and_strangers_are_nobody(cluster: Cluster) -> None:
    bare = {"endpoint": "", "model": "", "version": 0, "arm": ""}
    cluster.tell(3, id="c", app="loan--v2-x", **bare)
    cluster.tell(3, id="s", app="gone--v2-x", **bare)
    cluster.look()
    cluster.bill()
    paid = {owner: one.core_s for owner, one in cluster.used().items() if one.core_s}
    assert paid == {Owner("endpoint", "loan", "loan", 2, "canary"): 3.0, IDLE: 17.0}


def test_what_a_node_did_besides_is_overhead_and_the_rest_idle(cluster: Cluster) -> None:
    cluster.tell(0, node_busy_s=1000)
    cluster.look()
    cluster.tell(5, node_busy_s=1012)
    cluster.look()
    cluster.tell(13, node_busy_s=1016)  # our own count is ahead of the node's, by 4
    cluster.look()
    cluster.tell(13, node_busy_s=1022)
    cluster.look()
    cluster.bill()
    used = cluster.used()
    assert used[OVERHEAD].core_s == pytest.approx(7 + 0 + 2)
    assert used[IDLE].core_s == pytest.approx(80 - 9 - 13)


def test_without_a_price_the_hours_are_counted_and_cost_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, Prices(currency="EUR", node_hours={"big": 36.0}))
    cluster.nodes = [NODE, NodeSeen(id="n2", type="big", cores=4)]
    cluster.look()
    cluster.look()
    assert cluster.bill() == pytest.approx(0.1)
    found = {place.node_type: place.currency for place, _ in cluster.store.billed(0, 1e12)}
    assert found == {"default": "", "big": "EUR"}


def test_old_hours_become_days_and_then_go_without_a_change_of_the_sums(cluster: Cluster) -> None:
    for _ in range(30):
        cluster.tell(cluster.clock.monotonic_s() - START_S)
        cluster.look(3600)
    bill, used = cluster.bill(), cluster.used()
    cluster.clock.advance(62 * 86_400)
    assert cluster.store.roll_up() > 0
    assert {place.width_s for place, _ in cluster.store.billed(0, 1e12)} == {86_400.0}
    assert cluster.bill() == pytest.approx(bill)
    assert cluster.used()[LOAN].core_s == pytest.approx(used[LOAN].core_s)
    assert cluster.store.roll_up() == 0
    cluster.clock.advance(400 * 86_400)
    cluster.store.roll_up()
    with cluster.database.reading() as connection:
        assert connection.execute(select(t.usage)).all() == []


def test_prometheus_gets_the_bill_and_its_parts(cluster: Cluster) -> None:
    cluster.tell(5)
    cluster.look()
    samples = [one for metric in CostMetrics(cluster.metering).collect() for one in metric.samples]
    found = {(one.name, one.labels.get("kind")): one.value for one in samples}
    assert found["aios_bill_total", None] == pytest.approx(0.01)
    assert found["aios_cost_total", "endpoint"] == pytest.approx(0.0025)
    assert found["aios_core_seconds_total", "idle"] == pytest.approx(15)
