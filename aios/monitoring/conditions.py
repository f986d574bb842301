"""The little language of a watch's conditions: parsed here, never evaluated as code.

psi > 0.2 on any for 3 windows      some input or output drifted, three windows in a row
js > 0.1 on income                  one field; also chi2, ks, wasserstein
psi > 0.25 on outputs               the predictions drifted; `inputs` are the features
nulls > 0.1 on any                  more than a tenth of a field's values are null
outside > 0.05 on income            values beyond what the version was trained on
accuracy < 0.8 for 2 windows        on feedback; also brier, log_loss, mae, rmse (with `>`)
estimated_accuracy < 0.8            before feedback comes, from the model's own probabilities
error drift                         the errors on feedback grew (ADWIN)
"""

import difflib
import re
from typing import Literal, NoReturn

from aios.errors import UsageError
from aios.monitoring.drift import DRIFT, QUALITY
from aios.records.watching import Condition

Family = Literal["drift", "quality", "concept"]
ADWIN = "adwin"
ESTIMATED = "estimated_accuracy"
LABELLED = ("accuracy", ADWIN, "brier", "log_loss", "mae", "rmse")
_FAMILIES: dict[Family, tuple[str, ...]] = {
    "drift": DRIFT,
    "quality": QUALITY,
    "concept": (*(measure for measure in LABELLED if measure != ADWIN), ESTIMATED),
}
_BELOW = ("accuracy", ESTIMATED)
"""What is bad when it is low; everything else when it is high."""
_SHARES = ("accuracy", "chi2", ESTIMATED, "js", "ks", "nulls", "outside")
"""What never exceeds 1, so that a limit of 20 is a slip and not a wish."""
_FORM = re.compile(
    r"\s*(?P<measure>[A-Za-z_]\w*)\s*(?P<sign>[<>])\s*(?P<limit>\d+(?:\.\d+)?|\.\d+)"
    r"(?:\s+on\s+(?P<on>\S+))?(?:\s+for\s+(?P<windows>\d+)\s+windows?)?\s*"
)
_ERROR_DRIFT = re.compile(r"\s*error\s+drift\s*")
_EXAMPLES: dict[Family, str] = {
    "drift": '"psi > 0.2 on any for 3 windows"',
    "quality": '"nulls > 0.1 on income"',
    "concept": '"accuracy < 0.8 for 2 windows", "error drift"',
}


def parse_condition(text: str, family: Family) -> Condition:
    """The condition that `text` writes.

    >>> found = parse_condition("psi > 0.2 on any for 3 windows", "drift")
    >>> found.measure, found.limit, found.on, found.windows
    ('psi', 0.2, 'any', 3)

    Args:
        family: as which argument of `rt.watch` it was given.

    Raises:
        UsageError: it does not read like that; says what was expected.
    """
    if not isinstance(text, str):
        raise UsageError(f"{family} is a text such as {_EXAMPLES[family]}, not {text!r:.60}")
    if family == "concept" and _ERROR_DRIFT.fullmatch(text):
        return Condition(text=text.strip(), measure=ADWIN, above=True, limit=0.0, on="label")
    found = _FORM.fullmatch(text)
    if found is None:
        _refuse(text, family, "it does not read like a condition")
    measure, on = found["measure"], found["on"]
    known = _FAMILIES[family]
    if measure not in known:
        near = difflib.get_close_matches(measure, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        _refuse(text, family, f"{measure!r} is none of {', '.join(known)}{hint}")
    wanted = "<" if measure in _BELOW else ">"
    if found["sign"] != wanted:
        _refuse(text, family, f"{measure} is bad when it is {_bad(wanted)}: write {wanted}")
    if on is not None and family == "concept":
        _refuse(text, family, "it is about the whole model: leave out 'on'")
    limit, windows = float(found["limit"]), int(found["windows"] or 1)
    if measure in _SHARES and not 0 < limit < 1:
        _refuse(text, family, f"{measure} lies between 0 and 1, and so does its limit")
    if limit <= 0:
        _refuse(text, family, "the limit is more than 0")
    if not 1 <= windows <= 100:
        _refuse(text, family, "the number of windows is 1 to 100")
    return Condition(
        text=" ".join(text.split()),
        measure=measure,
        above=wanted == ">",
        limit=limit,
        on=on or ("label" if measure in LABELLED else "outputs" if family == "concept" else "any"),
        windows=windows,
    )


def _bad(sign: str) -> str:
    return "low" if sign == "<" else "high"


def _refuse(text: str, family: Family, why: str) -> NoReturn:
    raise UsageError(f"{family}={text[:80]!r}: {why}; for example {_EXAMPLES[family]}")
