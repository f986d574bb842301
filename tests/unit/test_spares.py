"""Processes that wait for the next replica: how many are started, and where."""

from aios.kernel.serve_client import AppStatus, ReplicaStatus
from aios.kernel.spares import Spares

HERE, THERE = "10.0.0.1", "10.0.0.2"


def app(name: str, *replicas: tuple[str, str | None]) -> AppStatus:
    found = [
        ReplicaStatus(f"{name}-{one}", "RUNNING" if node else "STARTING", 7, node or HERE, 1.0)
        for one, node in replicas
    ]
    return AppStatus(name, "RUNNING", "", tuple(found))


def apps(*found: AppStatus) -> dict[str, AppStatus]:
    return {one.name: one for one in found}


def test_each_node_gets_as_many_as_wanted_once() -> None:
    spares = Spares(2, keep_s=600)
    assert spares.missing({}, [HERE, THERE], 0) == {HERE: 2, THERE: 2}
    assert spares.missing({}, [HERE, THERE], 2) == {}
    assert spares.missing({}, [HERE, THERE, "10.0.0.3"], 4) == {"10.0.0.3": 2}


def test_a_deployment_takes_two_and_a_further_replica_one() -> None:
    spares = Spares(2)
    spares.missing({}, [HERE], 0)
    assert spares.missing(apps(app("loan", ("a", None))), [HERE], 1) == {}, "it still starts"
    assert spares.missing(apps(app("loan", ("a", HERE))), [HERE], 2) == {HERE: 2}
    assert spares.missing(apps(app("loan", ("a", HERE))), [HERE], 3) == {}
    more = apps(app("loan", ("a", HERE), ("b", HERE)))
    assert spares.missing(more, [HERE], 4) == {HERE: 1}


def test_many_replicas_at_once_take_no_more_than_there_were() -> None:
    spares = Spares(2)
    spares.missing({}, [HERE], 0)
    many = apps(app("loan", *((str(number), HERE) for number in range(10))))
    assert spares.missing(many, [HERE], 1) == {HERE: 2}


def test_what_was_kept_for_long_is_started_anew() -> None:
    """Ray ends it then; and something else may have taken one."""
    spares = Spares(1, keep_s=600)
    spares.missing({}, [HERE], 0)
    assert spares.missing({}, [HERE], 599) == {}
    assert spares.missing({}, [HERE], 600) == {HERE: 1}


def test_a_node_that_went_and_came_back_has_none() -> None:
    spares = Spares(1)
    spares.missing({}, [HERE, THERE], 0)
    assert spares.missing({}, [HERE], 1) == {}
    assert spares.missing({}, [HERE, THERE], 2) == {THERE: 1}


def test_an_application_that_was_removed_and_deployed_again_takes_two() -> None:
    spares = Spares(2)
    loan = apps(app("loan", ("a", HERE)))
    spares.missing(loan, [HERE], 0)
    spares.missing({}, [HERE], 1)
    assert spares.missing(loan, [HERE], 2) == {HERE: 2}


def test_none_are_wanted() -> None:
    assert Spares(0).missing(apps(app("loan", ("a", HERE))), [HERE], 0) == {}
