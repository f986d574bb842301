"""What people give to `rt.watch` and `rt.feedback` by mistake is told before it is sent."""

from typing import Any

import pytest

from aios.errors import UsageError
from aios.runtime.objects import Answer, Endpoint
from aios.runtime.watching import add_watch, find_watch, send_feedback


class Nowhere:
    """A runtime that must not be asked to change anything."""

    def get(self, path: str, **query: Any) -> Any:
        return [{"id": "loan-watch-1", "name": "loan", "spec": {"endpoint": "loan"}}]

    def change(self, *asked: Any) -> Any:
        raise AssertionError(f"it was sent: {asked}")


ANSWER = Answer([{"y": 1}], 1, "stable", "r1", None, 0.1)


@pytest.mark.parametrize(
    ("request_id", "values", "told"),
    [
        ("r1", {"y": float("nan")}, "'y' is nan; values are finite"),
        ("r1", {"y": float("-inf")}, "'y' is -inf"),
        ({"r1": {"y": float("nan")}}, None, "'r1'.*finite"),
        ("r1", 1, "is an object such as"),
        ({"r1": 1}, None, "is an object such as"),
        (ANSWER, {"y": 1}, "answer.request_id"),
        (["r1", "r2"], {"y": 1}, r"many \{request id: values\}"),
        ("r1", None, "needs values"),
    ],
)
def test_feedback_that_is_none_is_refused_before_it_is_sent(request_id, values, told):
    with pytest.raises(UsageError, match=told):
        send_feedback(Nowhere(), request_id, values, "loan")


@pytest.mark.parametrize(
    ("answer", "kpi"), [("r1", {"y": 1}), (ANSWER, "much"), (ANSWER, float("nan")), (ANSWER, True)]
)
def test_an_endpoints_feedback_is_an_answer_and_a_number(answer, kpi):
    with pytest.raises(UsageError, match=r"rt\.feedback"):
        Endpoint(Nowhere(), "loan").feedback(answer, kpi)


@pytest.mark.parametrize("given", [5, None, {"psi": 0.2}, ["psi > 0.2", 5]])
def test_conditions_are_texts(given):
    with pytest.raises(UsageError, match="drift is a text such as"):
        add_watch(Nowhere(), "loan", {"drift": given}, schedule=None, then=None)


def test_a_watch_is_found_again_by_its_id():
    assert find_watch(Nowhere(), "loan-watch-1").endpoint == "loan"
    with pytest.raises(UsageError, match="there are: loan-watch-1"):
        find_watch(Nowhere(), "loan-watch-2")
