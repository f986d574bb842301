import orjson
import pytest

from aios import errors
from aios.contracts.problems import STATUSES, problem, retry_after_s, status_of


def all_classes(root=errors.AiosError):
    return [root] + [c for child in root.__subclasses__() for c in all_classes(child)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ContractViolation("x"), 422),
        (errors.Malformed("x"), 400),
        (errors.UsageError("x"), 400),
        (errors.Unauthenticated("x"), 401),
        (errors.Forbidden("x"), 403),
        (errors.UnknownEndpoint("x"), 404),
        (errors.UnknownModel("x"), 404),
        (errors.IllegalTransition("x"), 409),
        (errors.PayloadTooLarge("x"), 413),
        (errors.Unsupported("x"), 415),
        (errors.ModelFailed("x"), 502),
        (errors.Overloaded("x"), 503),
        (errors.ClusterUnavailable("x"), 503),
        (errors.DeadlineExceeded("x"), 504),
        (errors.StoreCorrupt("x"), 500),
        (KeyError("secret"), 500),
        (BaseException("secret"), 500),
    ],
)
def test_each_error_has_its_status(error, status):
    told, body = problem(error, "r1")
    document = orjson.loads(body)
    assert told == document["status"] == status_of(error) == status
    assert document["request_id"] == "r1"
    assert document["title"]


def test_every_error_class_finds_a_status_and_comes_back_from_its_body():
    for kind in all_classes():
        assert kind in STATUSES or kind.__mro__[1] in STATUSES or kind.__mro__[2] in STATUSES
        _, body = problem(kind("what happened", rows=3), "r1")
        document = orjson.loads(body)
        assert document["type"] == f"urn:aios:problem:{kind.__name__}"
        again = errors.from_problem(document)
        assert type(again) is kind
        assert (again.message, again.details) == ("what happened", {"rows": 3})


def test_violations_are_listed_and_come_back():
    found = [{"row": 3, "field": "appinc", "value": "-4", "allowed": "a number of at least 0"}]
    _, body = problem(errors.ContractViolation("bad", violations=found), "r1")
    document = orjson.loads(body)
    assert document["violations"] == found
    assert errors.from_problem(document).violations == found


def test_an_unexpected_error_tells_nothing_but_the_request_id():
    _, body = problem(RuntimeError("password=hunter2 at /srv/models"), "r77")
    assert b"hunter2" not in body
    assert b"/srv" not in body
    assert b"r77" in body


def test_details_that_json_cannot_hold_do_not_break_the_answer():
    class Odd:
        pass

    for detail in (Odd(), {1: 2}, float("nan"), 10**400, "\ud800", {"a": {"\ud800": 1}}):
        status, body = problem(errors.UsageError("bad \ud800", thing=detail), "r1")
        assert status == 400
        assert orjson.loads(body)["code"] == "UsageError"


def test_retry_after_comes_with_503_in_whole_seconds():
    assert retry_after_s(errors.Overloaded("x", retry_after_s=0.2)) == 1
    assert retry_after_s(errors.Overloaded("x", retry_after_s=2.1)) == 3
    assert retry_after_s(errors.Overloaded("x", retry_after_s=float("inf"))) == 1
    assert retry_after_s(errors.ClusterUnavailable("x")) == 1
    assert retry_after_s(errors.DeadlineExceeded("x")) is None
    assert retry_after_s(errors.UsageError("x")) is None
