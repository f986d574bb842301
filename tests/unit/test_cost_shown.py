"""`rt.cost()` and `rt.roi()` as people see them, and what the kernel answers."""

import math
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from aios.errors import UnknownEndpoint, UsageError
from aios.kernel.serve_config import challenger_app_name
from aios.kernel.traffic import challenger_at
from aios.records.cost import NodeSeen, Prices, ProcessUsage
from aios.rollout import Shadow
from aios.runtime.cost import Accounted, Costs, Roi, money
from tests.unit.kernel_fakes import QUICK, World, make_template, make_world


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template: Any, tmp_path: Any) -> World:
    return priced(make_world(template, tmp_path), currency="EUR", default_node_hour=3.6)


def priced(world: World, **prices: Any) -> World:
    world.settings = world.settings.model_copy(update={"prices": Prices(**prices)})
    world.restart()
    return world


def work(world: World, seconds: float = 100.0) -> None:
    """A node, of whose 2 cores an endpoint uses a fifth of one."""
    metering, node = world.kernel.metering, NodeSeen(id="n1", cores=2)
    metering.look([node])
    told = {"kind": "endpoint", "endpoint": "loan", "model": "loan", "version": 1, "arm": "stable"}
    calls = {"stable:1": 1000}
    world.clock.advance(seconds)
    usage = ProcessUsage(id="p", node="n1", cpu_s=seconds / 5, calls=calls, **told)
    metering.used(usage)
    metering.look([node])


class Asking(Accounted):
    """A runtime whose questions go straight to a kernel."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._transport: Any = self

    def get(self, path: str, **query: Any) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        if path == "/api/v1/costs":
            return self._world.do("costs", **given)
        return self._world.do("roi", endpoint=path.split("/")[-2], **given)


def test_a_bill_is_told_with_its_parts_and_adds_up(world: World) -> None:
    work(world)
    costs = Asking(world).cost()
    assert costs.bill == pytest.approx(0.1)
    assert costs.adds_up
    assert costs.idle_share == pytest.approx(0.9)
    lines = repr(costs).splitlines()
    assert "0.10 EUR (0.02778 node-hours, 0.05556 core-hours), 90% idle" in lines[0]
    assert lines[1] == "the parts sum to the bill"
    assert lines[2].split()[:5] == ["endpoint", "share", "EUR", "EUR", "per"]
    assert lines[3].split() == ["loan", "10.0%", "0.01", "0.01", "0.0056", "1000"]
    assert [line.split()[0] for line in lines[4:]] == ["overhead", "idle"]


def test_parts_that_do_not_add_up_are_an_alarm(world: World) -> None:
    work(world)
    found = Asking(world).cost().fields
    wrong = Costs({**found, "difference": 0.001})
    assert not wrong.adds_up
    assert "! the parts do not sum to the bill: +0.001" in repr(wrong)


def test_without_prices_it_is_in_core_hours_and_says_how_to_set_them(world: World) -> None:
    work(priced(world))
    costs = Asking(world).cost(by="kind")
    assert costs.bill is None
    assert costs.adds_up
    shown = repr(costs)
    assert "no prices are set" in shown
    assert "EUR per 1,000" not in shown
    assert "[prices]" in repr(Asking(world).roi("loan"))


def test_hours_before_there_were_prices_are_told_and_not_counted(world: World) -> None:
    work(priced(world))
    world.kernel.metering.save()
    work(priced(world, currency="EUR", default_node_hour=36.0))
    costs = Asking(world).cost()
    assert costs.bill == pytest.approx(1.0)
    assert "0.02778 node-hours of type 'default' had no price and are not in it" in repr(costs)


def test_nothing_metered_yet_is_said(world: World) -> None:
    assert "nothing was metered yet" in repr(Asking(world).cost())
    assert "<svg" not in Asking(world).cost()._repr_html_()


def test_a_notebook_gets_the_table_and_the_bars(world: World) -> None:
    work(world, 3.5 * 3600)
    costs = Asking(world).cost(by="version")
    page = costs._repr_html_()
    assert page.count("<svg") == 1
    assert "loan:1" in page
    (axes,) = costs.figure().axes
    heights = [bar.get_height() for bars in axes.containers for bar in bars]
    assert sum(heights) == pytest.approx(costs.bill)
    assert axes.get_ylabel() == "EUR by the hour"


def test_the_parts_of_one_endpoint_stand_in_its_report(world: World) -> None:
    work(world)
    page = Asking(world).cost(by="arm").of("loan")
    assert "10.0% of the cluster&#x27;s 0.10 EUR" in page
    assert "loan stable" in page
    assert "idle" not in page


def test_many_parts_are_drawn_as_the_largest_and_the_rest() -> None:
    parts = [{"what": f"p{n}", "kind": "endpoint", "share": 0.1} for n in range(10)]
    parts.append({"what": "idle", "kind": "idle", "share": 0.0})
    bar = {"start_s": 0.0, "width_s": 86_400.0, "parts": {part["what"]: 1.0 for part in parts}}
    fields = {"by": "arm", "currency": "EUR", "bill": 11.0, "parts": parts, "series": [bar]}
    hours = {"core_hours": 1.0, "node_hours": 1.0, "gpu_hours": 0.0, "difference": 0.0}
    (axes,) = Costs({**fields, **hours}).figure().axes
    drawn = {bars.get_label(): bars[0].get_height() for bars in axes.containers}
    assert list(drawn) == [*(f"p{n}" for n in range(7)), "all others", "idle"]
    assert drawn["all others"] == 3.0


def test_without_matplotlib_the_table_is_enough(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(world)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = Asking(world).cost()._repr_html_()
    assert "<svg" not in page
    assert "loan" in page


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"by": "colour"}, "by arm, endpoint, kind, run, version; not by 'colour'"),
        ({"since": 2_000_000.0}, "ends before it begins"),
        ({"since": 500.0, "until": 400.0}, "ends before it begins"),
        ({"since": "yesterday"}, "a datetime or Unix seconds, not 'yesterday'"),
        ({"until": math.nan}, "a datetime or Unix seconds, not nan"),
        ({"since": True}, "a datetime or Unix seconds"),
        ({"since": -5.0}, "since_s"),
    ],
)
def test_a_window_that_is_none_is_refused(world: World, asked: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Asking(world).cost(**asked)


def test_a_window_may_be_given_as_datetimes(world: World) -> None:
    work(world)
    since = datetime.fromtimestamp(world.clock.now_s() - 7200, UTC)
    assert Asking(world).cost(since).bill == pytest.approx(0.1)
    before = datetime.fromtimestamp(world.clock.now_s() - 7200, UTC)
    assert Asking(world).cost(0.0, before).parts == []


# -- what it brings -----------------------------------------------------------------------


def feed(world: World, count: int, kpi: Any, version: int = 1, first: int = 0) -> None:
    answers = [{"request_id": f"q{n}", "values": {"kpi": kpi}} for n in range(first, first + count)]
    world.do("feedback", endpoint="loan", answers=answers)
    world.bench.gives["write_feedback"] = {}
    at_s = world.clock.now_s() - 10
    answer = {"version": version, "arm": "stable", "answered_s": at_s, "outputs": []}
    world.bench.gives["find_answers"] = lambda _: {f"q{n}": answer for n in range(10_000)}
    world.kernel.watcher.follow_feedback()


def test_kpis_that_were_fed_back_are_set_against_the_cost(world: World) -> None:
    work(world)
    feed(world, 40, 0.5)
    feed(world, 1, 2.0)  # the last one counts
    feed(world, 1, None, first=1)  # taken back
    roi = Asking(world).roi("loan", value_per_kpi=0.01)
    assert roi.fields["kpis"] == 39
    assert roi.value == pytest.approx((38 * 0.5 + 2.0) * 0.01)
    assert roi.cost == pytest.approx(0.1)
    assert roi.ratio == pytest.approx(2.1)
    assert "brought 0.21 EUR for 0.10 EUR: net 0.11 EUR, it has paid for itself" in repr(roi)
    assert "39 answers, 3.9% of the calls; the others count nothing" in repr(roi)


def test_answers_that_are_not_recorded_are_mentioned(world: World) -> None:
    world.deploy(record_fraction=0.5)
    work(world)
    feed(world, 30, 1.0)
    assert "only 50% of answers are recorded" in repr(Asking(world).roi("loan"))
    found = Asking(world).roi("loan", extrapolate=True, maintenance_per_month=100.0)
    assert found.value == pytest.approx(1000.0)
    assert found.cost > 0.1


def test_without_a_kpi_it_is_said_what_to_do(world: World) -> None:
    work(world)
    assert 'rt.feedback(request_id, {"kpi": 12.5}, endpoint="loan")' in repr(
        Asking(world).roi("loan")
    )
    feed(world, 3, 1.0)
    told = repr(Asking(world).roi("loan", extrapolate=True))
    assert "not enough data: 3 answers with a kpi are too few" in told
    with pytest.raises(UnknownEndpoint):
        Asking(world).roi("nobody")
    with pytest.raises(UsageError, match="maintenance_per_month"):
        Asking(world).roi("loan", maintenance_per_month=-1.0)


def test_when_it_will_have_paid_is_a_date() -> None:
    fields = {"endpoint": "loan", "currency": "EUR", "value": 1.0, "error": 0.0, "cost": 2.0}
    more = {"net": -1.0, "ratio": 0.5, "kpi_share": 0.1, "versions": [], "kpis": 3}
    base = {**fields, **more, "extrapolate": False}
    coming = Roi({**base, "paid": False, "break_even_s": 1_900_000_000.0})
    assert "it has paid for itself on 2030-03-17" in coming.verdict
    assert "never pays" in Roi({**base, "paid": False, "break_even_s": None}).verdict


def test_money_is_readable() -> None:
    assert [money(one) for one in (0.0, 1234.5, 0.0123456, -3.0, None)] == [
        "0.00", "1,234.50", "0.0123", "-3.00", None,
    ]  # fmt: skip


# -- whose a challenger is ----------------------------------------------------------------


def test_a_challengers_application_has_the_arm_of_its_plan_or_of_its_rollout(world: World) -> None:
    rollout = world.rollout(QUICK)
    app = challenger_app_name("loan", 2, rollout)
    assert challenger_at(world.kernel.registry, app) == ("loan", "loan", 2, "canary")
    while world.plan().challenger is None:
        world.tick()
    assert challenger_at(world.kernel.registry, app) == ("loan", "loan", 2, "canary")
    world.do("command_rollout", id=rollout, command="abort")
    world.tick()
    app = challenger_app_name("loan", 2, world.rollout(Shadow(duration_s=60)))
    assert challenger_at(world.kernel.registry, app) == ("loan", "loan", 2, "shadow")
    assert challenger_at(world.kernel.registry, "loan") is None
    assert challenger_at(world.kernel.registry, "gone--v2-12345678") is None
