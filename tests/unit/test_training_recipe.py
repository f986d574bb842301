"""Recipes travel as text and come back the same; what cannot travel is told at once."""

import importlib
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aios
from aios.errors import ArtifactRejected, UsageError
from aios.packaging import code_of
from aios.records import CodeSource
from aios.training import (
    Recipe,
    choice,
    compare,
    describe_environment,
    integers,
    load_recipe,
    loguniform,
    recipe_source,
    uniform,
)
from aios.training.recipe import direction
from tests.unit.training_runs import spec_of


class Plain(Recipe):
    label = "y"

    def fit(self, config: dict[str, Any], train: Any) -> Any:
        return math.pi


def source_of(text: str, name: str = "Mine", folder: str | None = None) -> CodeSource:
    import hashlib

    text = textwrap.dedent(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return CodeSource(path=f"__main__:{name}", text=text, sha256=digest, folder=folder)


def test_a_recipe_of_a_file_travels_with_the_whole_file_and_comes_back() -> None:
    source = recipe_source(Plain)
    assert source.text == Path(__file__).read_text()
    assert source.folder is not None
    assert (Path(source.folder) / source.path.partition(":")[0].replace(".", "/")).with_suffix(
        ".py"
    ) == Path(__file__), "the folder is where the module is imported from"
    back = load_recipe(source)
    assert type(back) is not Plain
    assert back.label == "y"
    assert back.fit({}, None) == math.pi


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (int, "a recipe is a subclass"),
        (Recipe, "a recipe is a subclass"),
        (type("Nested", (Plain,), {"__qualname__": "f.<locals>.Nested"}), "top of a file"),
        (type("Ghost", (Plain,), {"__module__": "builtins"}), "put it in a file"),
        (type("NoLabel", (Plain,), {"label": ""}), "label"),
        (type("OneName", (Plain,), {"protected": "black"}), "protected is a tuple"),
        (type("Whole", (Plain,), {"holdout_fraction": 0.9}), "together below 1"),
        (type("Less", (Plain,), {"metric": "auc", "mode": "min"}), "'max'"),
        (type("Narrow", (Plain,), {"fit": lambda self: None}), r"fit\(self, config, train\)"),
        (type("Asks", (Plain,), {"__init__": lambda self, depth: None}), "without arguments"),
    ],
)
def test_what_is_no_good_recipe_is_told_before_it_is_sent(made: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        recipe_source(made)


def test_of_two_definitions_of_a_name_the_earlier_is_not_taken_for_the_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = "@aios.flow\ndef twice():\n    return {}\n"
    text = "import aios\n" + flow.format(1) + "first = twice\n" + flow.format(2)
    (tmp_path / "doubled.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    doubled = importlib.import_module("doubled")
    with pytest.raises(UsageError, match="twice is defined more than once in doubled, and another"):
        code_of(doubled.first, "flow")
    assert "return 2" in code_of(doubled.twice, "flow").text
    (tmp_path / "doubled.py").write_text("import aios\n" + flow.format(3))
    before = doubled.twice
    importlib.reload(doubled)  # as a notebook does by itself: its text is what is meant
    assert "return 3" in code_of(before, "flow").text


def test_of_a_script_no_other_definition_than_the_one_that_counts_is_taken(tmp_path: Path) -> None:
    text = (
        "import aios\nfrom aios.packaging import code_of\n\n"
        "@aios.flow\ndef twice():\n    return 1\n\n"
        "if True:\n    @aios.flow\n    def twice():\n        return 2\n\n"
        "code_of(twice, 'flow')\n"
    )
    (tmp_path / "script.py").write_text(text)
    ran = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False
    )
    assert "twice is defined more than once in __main__" in ran.stderr


def test_state_of_an_instance_does_not_get_lost_silently() -> None:
    recipe = Plain()
    recipe.depth = 3  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="depth was set on the instance"):
        recipe_source(recipe)


SCRIPT = """
    import math
    import sys

    from aios.training import Recipe, load_recipe, recipe_source

    SCALE = {"a": 2.0}
    UNUSED = open(sys.argv[0])

    def scaled(value):
        return helper(value) * SCALE["a"]

    def helper(value):
        return math.floor(value)

    class Base(Recipe):
        label = "y"

    class Mine(Base):
        def fit(self, config, train):
            return scaled(config["x"]) SECRET

    if len(sys.argv) < 2:
        source = recipe_source(Mine)
        assert "sys" not in source.text and "UNUSED" not in source.text, source.text
        assert source.path == "__main__:Mine", source.path
        print(load_recipe(source).fit({"x": 2.5}, None))
"""


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("", "4.0"),
        ("+ UNUSED", "uses UNUSED, which is made by `UNUSED = open(sys.argv[0])`"),
    ],
)
def test_of_a_script_only_what_the_recipe_needs_travels(
    tmp_path: Path, secret: str, said: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT).replace(" SECRET", secret))
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert said in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import aios\nclass Mine(aios:\n", "line 2"),
        ("import not_there_at_all\n", "line 1: import not_there_at_all.*install it"),
        ("x = 1\ny = frame\n", "line 2: y = frame.*import or define it"),
        ("x = 1\n1 / 0\n", "line 2: 1 / 0: ZeroDivisionError"),
        ("x = 1\n", "defines no recipe Mine"),
    ],
)
def test_a_text_that_does_not_run_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_recipe(source_of(text))


def test_a_text_that_was_changed_is_refused() -> None:
    source = recipe_source(Plain)
    with pytest.raises(ArtifactRejected, match="sha256"):
        load_recipe(source.model_copy(update={"text": source.text + "\n"}))


def test_neighbours_are_imported_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "my_neighbour.py").write_text("VALUE = 7\n")
    text = """
        import my_neighbour
        from aios.training import Recipe
        class Mine(Recipe):
            label = "y"
            def fit(self, config, train):
                return my_neighbour.VALUE
    """
    assert load_recipe(source_of(text, folder=str(tmp_path))).fit({}, None) == 7


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: uniform(1, 1),
        lambda: uniform(0, math.inf),
        lambda: uniform("a", 2),  # type: ignore[arg-type]
        lambda: loguniform(0, 1),
        lambda: integers(0.5, 2),  # type: ignore[arg-type]
        lambda: choice([]),
        lambda: choice("abc"),
        lambda: choice([object()]),
    ],
)
def test_impossible_bounds_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        wrong()


@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6))
def test_domains_survive_json(low: float, width: float) -> None:
    domain = uniform(low, low + width)
    assert type(domain).model_validate_json(domain.model_dump_json()) == domain


def test_a_known_metric_knows_which_way_is_better() -> None:
    class Errors(Plain):
        metric: ClassVar[str] = "rmse"

    class Own(Plain):
        metric: ClassVar[str] = "profit"

    assert (direction(Plain()), direction(Errors()), direction(Own())) == ("max", "min", "max")


def test_the_environment_names_commit_and_packages() -> None:
    told = describe_environment(Path(__file__).parent)
    assert told["packages"]["scikit-learn"]
    assert told["python"].startswith("3.")
    assert len(told["git"]["commit"]) == 40
    assert describe_environment("/")["git"] is None


def test_two_runs_are_identical_equal_or_what_differs_is_named() -> None:
    spec = spec_of(recipe_source(Plain))
    results = {
        "snapshot": {"snapshot": {"digest": "d1"}},
        "search": {"config": {"C": 1.0}},
        "refit": {
            "artifact": {"digest": "a1"},
            "metrics": {"auc": 0.8},
            "environment": {"python": "3.11", "packages": {"numpy": "2.1"}},
        },
    }
    same = compare("loan:7", (spec, results), (spec, results))
    assert (same.verdict, same.causes) == ("identical", ())
    refit = {**results["refit"], "artifact": {"digest": "a2"}}
    equal = compare("loan:7", (spec, results), (spec, {**results, "refit": refit}))
    assert equal.verdict == "equal"
    refit = {**refit, "metrics": {"auc": 0.7}}
    refit["environment"] = {"python": "3.11", "packages": {"numpy": "2.2"}}
    other = spec.model_copy(update={"seed": 8})
    different = compare("loan:7", (spec, results), (other, {**results, "refit": refit}))
    assert different.verdict == "different"
    assert [cause.what for cause in different.causes] == ["seed", "package numpy"]
    assert "0.8" in repr(different)


def test_the_door_has_recipes() -> None:
    assert aios.Recipe is Recipe
