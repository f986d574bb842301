"""What users write as text that travels: recipes, flows, agents, tools.

For: `training`, `flows` and `agents`, which run what was sent, and the SDK, which sends it.
Invariants: what runs is the text that is stored, under its digest; two texts of one name live
beside each other. The text is trusted code: who may send it is the kernel's matter. Must not
know: what a recipe, a flow or an agent is.
"""

from aios.packaging.code import (
    CODE_MODULE,
    code_of,
    exits_told,
    file_of,
    load_code,
    own_line,
    to_its_end,
)

__all__ = ["CODE_MODULE", "code_of", "exits_told", "file_of", "load_code", "own_line", "to_its_end"]
