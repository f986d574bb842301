"""Gates of one's own: functions that a policy names as `module:function`.

    def exposure(candidate, context, limit=0.1):
        share = float((candidate.scores > 0.5).mean())
        return aios.GateResult(
            gate="exposure", outcome="passed" if share <= limit else "failed",
            value=share, threshold=limit, reason=f"{share:.0%} would get a loan",
        )

and in the policy `lending.gates:exposure: {limit: 0.2}`. The module must be installed where
training runs; it is trusted, as the administrator is who sets the policy.
"""

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aios.errors import UsageError
from aios.governance.candidate import Candidate, Context
from aios.governance.gates.verdicts import plain
from aios.records import GateResult

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_own(name: str) -> bool:
    """Whether this is the name of a gate of one's own."""
    return _IMPORT_PATH.fullmatch(name) is not None


def judge_own(
    name: str, candidate: Candidate, context: Context, values: Mapping[str, Any]
) -> GateResult:
    """What the function says; its evidence gets the sha256 of the module's text as `code`, which
    the approval covers. Other code counts from the next assessment on.

    Raises:
        UsageError: there is no such function, it takes no such parameter, or it gives
            something else than a GateResult.
    """
    function = _imported(name)
    try:
        inspect.signature(function).bind(candidate, context, **values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the gate {name}: {error}") from None
    found = function(candidate, context, **values)
    if not isinstance(found, GateResult):
        raise UsageError(f"the gate {name} gave {type(found).__name__}, not an aios.GateResult")
    evidence = plain({**found.evidence, "code": _digest(function)})
    return found.model_copy(update={"gate": name, "evidence": evidence})


def _imported(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the gate {name} cannot be imported where training runs ({error}): install its "
            "package on every node"
        ) from None
    if not callable(found):
        raise UsageError(f"the gate {name} is no function")
    return found  # type: ignore[no-any-return]


def _digest(function: Callable[..., Any]) -> str:
    try:
        path = inspect.getsourcefile(function)
        return hashlib.sha256(Path(path or "").read_bytes()).hexdigest()
    except (TypeError, OSError):
        raise UsageError("a gate is a Python function whose module is a readable file") from None
