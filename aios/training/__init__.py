"""From data to a candidate: snapshot, split, search, refit, evaluate, gates.

For: `kernel`, which drives a run stage by stage as a durable flow, and the SDK, which sends
recipes. Invariants: a stage can be run again at any time and gives the same; the holdout is
never seen by search or fit; what ran is what was stored. Must not know: the registry, HTTP.
"""

from aios.training.environment import describe_environment, seen_here
from aios.training.recipe import Recipe, choice, integers, loguniform, uniform
from aios.training.recipe_source import load_recipe, recipe_source
from aios.training.reproduce import Reproduction, compare
from aios.training.torch_recipe import TorchRecipe

__all__ = [
    "Recipe",
    "Reproduction",
    "TorchRecipe",
    "choice",
    "compare",
    "describe_environment",
    "integers",
    "load_recipe",
    "loguniform",
    "recipe_source",
    "seen_here",
    "uniform",
]
