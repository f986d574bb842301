import pickle

import pytest

from aios import errors
from aios.errors import AiosError, PermanentError, from_problem


def all_classes(root: type[AiosError] = AiosError) -> list[type[AiosError]]:
    return [root] + [c for child in root.__subclasses__() for c in all_classes(child)]


@pytest.mark.parametrize("kind", all_classes(), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickle_and_the_trip_over_http(kind):
    error = kind("what happened to loan:7", rows=3, violations=[{"row": 1}])
    for again in (pickle.loads(pickle.dumps(error)), from_problem(error.to_problem())):
        assert type(again) is kind
        assert str(again) == "what happened to loan:7"
        assert again.details == {"rows": 3, "violations": [{"row": 1}]}


def test_an_unknown_code_becomes_a_permanent_error():
    assert type(from_problem({"code": "Newer", "detail": "x"})) is PermanentError
    assert type(from_problem({})) is PermanentError


def test_the_tree_at_the_top_of_the_module_names_every_error():
    assert errors.__doc__ is not None
    own = [kind for kind in all_classes() if kind.__module__ == errors.__name__]
    assert [kind.__name__ for kind in own if kind.__name__ not in errors.__doc__] == []


def test_each_error_says_what_it_is_for():
    for kind in all_classes():
        assert kind.__doc__
