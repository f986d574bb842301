"""A recipe as text, and made again of it."""

from typing import Any

from aios.errors import UsageError
from aios.packaging import code_of, load_code
from aios.records import CodeSource
from aios.training.recipe import Recipe, check_recipe


def recipe_source(recipe: Recipe | type[Recipe]) -> CodeSource:
    """The text that makes this recipe again, and where its neighbours are imported from.

    Raises:
        UsageError: it is no recipe, has no source, carries state that would not travel, or
            uses something of the notebook that cannot be made again.
    """
    found = recipe if isinstance(recipe, type) else type(recipe)
    if not issubclass(found, Recipe) or found is Recipe:
        raise UsageError(
            f"a recipe is a subclass of aios.Recipe that defines fit, not {recipe!r:.100}"
        )
    if not isinstance(recipe, type) and vars(recipe):
        raise UsageError(
            f"{found.__name__}: {', '.join(sorted(vars(recipe)))} was set on the instance and "
            "does not travel; make it a class attribute, or search over it"
        )
    source = code_of(found, "recipe")
    check_recipe(_made(found))
    return source


def load_recipe(source: CodeSource) -> Recipe:
    """The recipe that a text describes, made in a fresh module.

    Raises:
        ArtifactRejected: the text is not what its digest says.
        UsageError: the text cannot be run here; names the line, and what to do.
    """
    found: Any = load_code(source, "recipe")
    if not (isinstance(found, type) and issubclass(found, Recipe)):
        name = source.path.partition(":")[2]
        raise UsageError(f"the text of {source.path} defines no recipe {name}")
    recipe = _made(found)
    check_recipe(recipe)
    return recipe


def _made(found: type[Recipe]) -> Recipe:
    try:
        return found()
    except TypeError as error:
        raise UsageError(
            f"{found.__name__} must be made without arguments ({error}); "
            "make them class attributes, or search over them"
        ) from None
