"""The little language of a watch's conditions: parsed here, never evaluated as code.

psi > 0.2 on any for 3 windows      some input or output drifted, three windows in a row
js > 0.1 on income                  one field; also chi2, ks, wasserstein
psi > 0.25 on outputs               the predictions drifted; `inputs` are the features
domain_auc > 0.65 for 2 windows     recorded rows can be told from those of the training
nulls > 0.1 on any                  more than a tenth of a field's values are null
outside > 0.05 on income            values beyond what the version was trained on
accuracy < 0.8 for 2 windows        on feedback; also brier, log_loss, mae, rmse (with `>`)
estimated_accuracy < 0.8            before feedback comes, from the model's own probabilities
error drift                         the errors on feedback grew, by their ranks

demographic_parity_difference > 0.2 on sex     groups get the good answer unequally often
equal_opportunity_difference > 0.1 on sex      the same among those who deserve it; on feedback,
                                               also equalized_odds_difference, accuracy_difference
"""

import difflib
import re
from collections.abc import Sequence
from typing import Literal, NoReturn

from aios.errors import UsageError
from aios.monitoring.drift import DRIFT, QUALITY
from aios.records.watching import Condition

Family = Literal["drift", "quality", "concept", "fairness"]
ERROR_DRIFT = "error_drift"
DOMAIN = "domain_auc"
"""Judged by recorded rows, and not by summaries of each field."""
CHANCE = 0.5
"""The AUC of rows that nothing tells apart."""
ESTIMATED = "estimated_accuracy"
FAIRNESS = (
    "accuracy_difference",
    "demographic_parity_difference",
    "equal_opportunity_difference",
    "equalized_odds_difference",
)
"""fairlearn's names; judged by what is known of the people, which comes with feedback."""
LABELLED = ("accuracy", "brier", ERROR_DRIFT, "log_loss", "mae", "rmse")
_FAMILIES: dict[Family, tuple[str, ...]] = {
    "drift": (*DRIFT, DOMAIN),
    "quality": QUALITY,
    "concept": (*(measure for measure in LABELLED if measure != ERROR_DRIFT), ESTIMATED),
    "fairness": FAIRNESS,
}
_BELOW = ("accuracy", ESTIMATED)
"""What is bad when it is low; everything else when it is high."""
_SHARES = ("accuracy", "chi2", DOMAIN, ESTIMATED, "js", "ks", "nulls", "outside", *FAIRNESS)
"""What never exceeds 1, so that a limit of 20 is a slip and not a wish."""
_FORM = re.compile(
    r"\s*(?P<measure>[A-Za-z_]\w*)\s*(?P<sign>[<>])\s*(?P<limit>\d{1,9}(?:\.\d{1,20})?|\.\d{1,20})"
    r"(?:\s+on\s+(?P<on>\S+))?(?:\s+for\s+(?P<windows>\d{1,9})\s+windows?)?\s*"
)
_ERROR_DRIFT = re.compile(r"\s*error\s+drift\s*")
_EXAMPLES: dict[Family, str] = {
    "drift": '"psi > 0.2 on any for 3 windows"',
    "quality": '"nulls > 0.1 on income"',
    "concept": '"accuracy < 0.8 for 2 windows", "error drift"',
    "fairness": '"demographic_parity_difference > 0.2 on sex"',
}
_LONGEST = 200


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
    if len(text) > _LONGEST:
        _refuse(text, family, f"it has {len(text):,} characters, and {_LONGEST} are enough")
    if family == "concept" and _ERROR_DRIFT.fullmatch(text):
        written = " ".join(text.split())
        return Condition(text=written, measure=ERROR_DRIFT, above=True, limit=0.0, on="label")
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
    _check_on(text, family, measure, on)
    limit, windows = float(found["limit"]), int(found["windows"] or 1)
    if measure in _SHARES and not 0 < limit < 1:
        _refuse(text, family, f"{measure} lies between 0 and 1, and so does its limit")
    if limit <= 0:
        _refuse(text, family, "the limit is more than 0")
    if measure == DOMAIN and limit < CHANCE:
        _refuse(text, family, "an AUC of 0.5 is chance: the limit is at least that")
    if not 1 <= windows <= 100:
        _refuse(text, family, "the number of windows is 1 to 100")
    return Condition(
        text=" ".join(text.split()),
        measure=measure,
        above=wanted == ">",
        limit=limit,
        on=on or _default_on(measure, family),
        windows=windows,
    )


def reread(conditions: Sequence[Condition], output: str) -> tuple[Condition, ...]:
    """What the texts of conditions say, which is what people are shown and alarms are named by.

    Args:
        output: what `estimated_accuracy` is about.

    Raises:
        UsageError: a text does not read like a condition, says something else than what was sent
            with it, or two say the same.
    """
    known: dict[tuple[str, float, str, int], Condition] = {}
    for sent in conditions:
        families = [name for name, measures in _FAMILIES.items() if sent.measure in measures]
        if sent.measure == ERROR_DRIFT:
            families = ["concept"]
        if not families:
            there = ", ".join(measure for each in _FAMILIES.values() for measure in each)
            raise UsageError(f"no measure {sent.measure!r:.60}; there are {there}, {ERROR_DRIFT}")
        read = parse_condition(sent.text, families[0])
        if read.measure == ESTIMATED and sent.on in (read.on, output):
            read = read.model_copy(update={"on": output})
            sent = sent.model_copy(update={"on": output})
        if read.model_copy(update={"text": sent.text}) != sent:
            raise UsageError(
                f"{sent.text[:80]!r} reads as {_told(read)}, and was sent as {_told(sent)}"
            )
        key = (read.measure, read.limit, read.on, read.windows)
        if key in known:
            raise UsageError(f"{read.text!r} is there twice; leave one out")
        known[key] = read
    return tuple(known.values())


def _told(one: Condition) -> str:
    fields = one.model_dump(exclude={"text"})
    return ", ".join(f"{name} {value!r:.40}" for name, value in fields.items())


def _check_on(text: str, family: Family, measure: str, on: str | None) -> None:
    if on is not None and family == "concept":
        _refuse(text, family, "it is about the whole model: leave out 'on'")
    if measure == DOMAIN and on not in (None, "inputs"):
        _refuse(text, family, "it is about all inputs together: leave out 'on'")
    if on is None and family == "fairness":
        _refuse(text, family, "say what tells the groups apart: 'on' and the name of it")


def _default_on(measure: str, family: Family) -> str:
    if measure == DOMAIN:
        return "inputs"
    return "label" if measure in LABELLED else "outputs" if family == "concept" else "any"


def _bad(sign: str) -> str:
    return "low" if sign == "<" else "high"


def _refuse(text: str, family: Family, why: str) -> NoReturn:
    raise UsageError(f"{family}={text[:80]!r}: {why}; for example {_EXAMPLES[family]}")
