"""What a user asks of a rollout: which stages, how long, and when to turn back."""

import difflib
import itertools
import math
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from aios.errors import UsageError
from aios.records import ArmName, Record
from aios.rollout.rules import AbortRule, parse_rule

StageKind = Literal["starting", "shadow", "baseline", "canary", "baking", "promoting", "done"]

DEFAULT_RULES = ("errors worse", "latency_p95 > 1.5x + 10ms", "output drift")


class Stage(Record):
    """One stage with traffic. `decides` marks the last: leaving it promotes or finishes.

    `judged` is false for a baseline, in which only stable is measured.
    """

    kind: StageKind
    arm: ArmName
    weight_fraction: float
    bake_s: float
    decides: bool = False
    judged: bool = True


class _Plan(Record):
    """What all plans share.

    Args:
        abort_when: Rules, see `aios.rollout.rules`. At least one: a rollout that nothing
            can stop is refused.
        error_probability: With what probability a challenger that breaks no rule is still
            told "worse" by any rule, in any stage, at any look. Each rule in each judged
            stage gets an equal part of it (union bound). Promoting one that does break a
            rule happens with at most this probability too: all rules must say "not worse"
            in the last stage, so that side needs no division (Berger 1982).
        min_requests: Fewest requests on the challenger before a stage is left.
        no_data_s: How long the challenger may answer nothing, or a rule may find nothing
            to measure, before it is rolled back. Default: `bake_s`, at least 15 s.
        max_stage_s: How long a stage may stay undecided before it is rolled back. Default:
            ten times `bake_s`, at least 120 s.
        recover_s: How long a challenger that went down may take to come back; Ray restarts
            a killed replica in well under this. A fourth fall within one stage is not
            waited for.
        start_timeout_s: How long the challenger may take to become ready, and a promotion
            to reach all replicas.
        approve_before: Weights that nobody's traffic reaches before a person has said yes, such
            as `(1.0,)` for the promotion. Not even `promote` goes around it.
    """

    abort_when: tuple[str, ...] = DEFAULT_RULES
    error_probability: float = Field(default=0.05, gt=0, lt=0.5)
    min_requests: int = Field(default=20, ge=1)
    no_data_s: float | None = Field(default=None, gt=0)
    max_stage_s: float | None = Field(default=None, gt=0)
    recover_s: float = Field(default=20, gt=0)
    start_timeout_s: float = Field(default=300, gt=0)
    approve_before: tuple[float, ...] = ()

    def __init__(self, **settings: Any) -> None:
        if isinstance(settings.get("abort_when"), str):
            settings["abort_when"] = (settings["abort_when"],)
        _refuse_unknown(type(self), settings)
        try:
            super().__init__(**settings)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "the plan"
            raise UsageError(
                f"{type(self).__name__}: {field}: {first['msg']} (got {first['input']!r:.80})"
            ) from None

    @model_validator(mode="after")
    def _check(self) -> "_Plan":
        name = type(self).__name__
        if not self.abort_when:
            raise UsageError(
                f"{name} has no abort rule: a rollout that nothing can stop is refused; "
                f"give abort_when, for example {DEFAULT_RULES!r}"
            )
        if len(set(self.abort_when)) < len(self.abort_when):
            raise UsageError(f"{name}: an abort rule is given twice: {self.abort_when!r}")
        has_shadow = any(stage.kind == "shadow" for stage in self.stages())
        for rule in self.rules():
            if rule.kind == "disagreement" and not has_shadow:
                raise UsageError(
                    f"{name}: rule {rule.text!r} compares shadow answers with stable's; "
                    "set shadow_first_s, or drop the rule"
                )
        for weight in self.approve_before:
            if weight not in self.weights():
                known = ", ".join(f"{known:g}" for known in self.weights()) or "none"
                raise UsageError(
                    f"{name}: approve_before has {weight:g}, which is no weight of the plan; "
                    f"it has: {known}"
                )
        self._check_durations()
        return self

    def _check_durations(self) -> None:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{type(self).__name__}: {name} must be finite, not {value}")
        longest = max(stage.bake_s for stage in self.stages())
        if self.max_stage_s is not None and self.max_stage_s < longest:
            raise UsageError(
                f"{type(self).__name__}: max_stage_s {self.max_stage_s:g} is shorter than a "
                f"stage of {longest:g} s: no stage could end well"
            )

    def rules(self) -> tuple[AbortRule, ...]:
        """The parsed abort rules, in order."""
        return tuple(parse_rule(text) for text in self.abort_when)

    def stages(self) -> tuple[Stage, ...]:
        """The stages with traffic, in order."""
        raise NotImplementedError

    def weights(self) -> tuple[float, ...]:
        """The shares of traffic that the challenger gets one after the other, the promotion's
        1.0 included."""
        served = (stage.weight_fraction for stage in self.stages() if stage.weight_fraction > 0)
        return tuple(dict.fromkeys((*served, 1.0)))

    @property
    def alpha(self) -> float:
        """The part of `error_probability` that one rule in one stage may spend."""
        judged = sum(stage.judged for stage in self.stages())
        return self.error_probability / (len(self.abort_when) * judged)

    def stage_limit_s(self, stage: Stage) -> float:
        """After how long an undecided stage is rolled back."""
        return self.max_stage_s if self.max_stage_s is not None else max(120.0, 10 * stage.bake_s)

    def quiet_limit_s(self, stage: Stage) -> float:
        """After how long without data a stage is rolled back."""
        return self.no_data_s if self.no_data_s is not None else max(15.0, stage.bake_s)


class Canary(_Plan):
    """Give the challenger growing shares of the keys; promote it if no rule is broken.

    Leaving a step takes `bake_s`, `min_requests` and no rule that says "worse"; leaving the
    last one before 1.0 takes "not worse" from every rule. Step 1.0 is the promotion.

    >>> [stage.weight_fraction for stage in Canary(steps=(0.1, 1.0)).stages()]
    [0.1]

    Args:
        steps: Strictly growing weights in (0, 1], the last 1.0, at least one below.
        bake_s: Shortest time in each step.
        shadow_first_s: Before the first step, copy requests to the challenger without using
            its answers for so long; 0 is none.
        settings: See `_Plan`: abort_when, error_probability, min_requests, no_data_s,
            max_stage_s, recover_s, start_timeout_s, approve_before.

    Raises:
        UsageError: Anything above does not hold.
    """

    kind: Literal["canary"] = "canary"
    steps: tuple[float, ...] = (0.05, 0.25, 1.0)
    bake_s: float = Field(default=60, ge=0)
    shadow_first_s: float = Field(default=0, ge=0)

    def __init__(self, steps: Any = (0.05, 0.25, 1.0), bake_s: float = 60, **settings: Any) -> None:
        _check_steps(steps)
        super().__init__(steps=steps, bake_s=bake_s, **settings)

    def stages(self) -> tuple[Stage, ...]:
        canaries = tuple(
            Stage(
                kind="canary",
                arm="canary",
                weight_fraction=weight,
                bake_s=self.bake_s,
                decides=index == len(self.steps) - 2,
            )
            for index, weight in enumerate(self.steps[:-1])
        )
        return (*_shadow_first(self.shadow_first_s), *canaries)


class BlueGreen(_Plan):
    """Switch all traffic at once, watch it for `bake_s`, then promote or switch back.

    At full weight stable answers nothing, so there is nothing to compare with at the same
    time. Stable is therefore measured just before, in the shadow stage or else for
    `baseline_s` at weight 0, and the stated probabilities hold only as far as traffic is
    alike before and after. Where that is in doubt, use `Canary`.

    Args:
        bake_s: Shortest time at full weight.
        shadow_first_s: As in `Canary`.
        baseline_s: How long stable is measured when there is no shadow stage.
        settings: See `_Plan`.

    Raises:
        UsageError: Anything above does not hold.
    """

    kind: Literal["blue_green"] = "blue_green"
    bake_s: float = Field(default=60, ge=0)
    shadow_first_s: float = Field(default=0, ge=0)
    baseline_s: float = Field(default=10, gt=0)

    def __init__(self, bake_s: float = 60, **settings: Any) -> None:
        super().__init__(bake_s=bake_s, **settings)

    def stages(self) -> tuple[Stage, ...]:
        before = _shadow_first(self.shadow_first_s) or (
            Stage(
                kind="baseline",
                arm="canary",
                weight_fraction=0.0,
                bake_s=self.baseline_s,
                judged=False,
            ),
        )
        full = Stage(
            kind="baking", arm="canary", weight_fraction=1.0, bake_s=self.bake_s, decides=True
        )
        return (*before, full)


class Shadow(_Plan):
    """Copy requests to the challenger for `duration_s` and tell what its answers are like.

    Users never get its answers, and it is never promoted: it ends "finished", with the
    verdicts, or "rolled_back" as soon as a rule says "worse".

    Args:
        duration_s: How long.
        settings: See `_Plan`.

    Raises:
        UsageError: Anything above does not hold.
    """

    kind: Literal["shadow"] = "shadow"
    duration_s: float = Field(default=60, gt=0)

    def __init__(self, duration_s: float = 60, **settings: Any) -> None:
        super().__init__(duration_s=duration_s, **settings)

    def stages(self) -> tuple[Stage, ...]:
        (only,) = _shadow_first(self.duration_s)
        return (only.model_copy(update={"decides": True}),)

    def weights(self) -> tuple[float, ...]:
        return ()


RolloutPlan = Annotated[Canary | BlueGreen | Shadow, Field(discriminator="kind")]
_PLANS: TypeAdapter[Canary | BlueGreen | Shadow] = TypeAdapter(RolloutPlan)


def parse_plan(value: dict[str, Any]) -> Canary | BlueGreen | Shadow:
    """The plan that `plan.model_dump(mode="json")` described.

    Raises:
        UsageError: It is no plan.
    """
    try:
        return _PLANS.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(
            f"this is no rollout plan: {first['msg']}; kinds are canary, blue_green and shadow"
        ) from None


def _shadow_first(duration_s: float) -> tuple[Stage, ...]:
    if not duration_s > 0:
        return ()
    return (Stage(kind="shadow", arm="shadow", weight_fraction=0.0, bake_s=duration_s),)


def _refuse_unknown(plan: type[_Plan], settings: dict[str, Any]) -> None:
    known = sorted(plan.model_fields)
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"{plan.__name__} has no setting {name!r}: {hint}known: {', '.join(known)}"
            )


def _check_steps(steps: Any) -> None:
    example = "for example steps=(0.05, 0.25, 1.0)"
    if isinstance(steps, str) or not isinstance(steps, tuple | list):
        raise UsageError(f"Canary: steps is a tuple of weights, not {steps!r}; {example}")
    if any(isinstance(step, bool) or not isinstance(step, int | float) for step in steps):
        raise UsageError(f"Canary: every step is a number, got {steps!r}; {example}")
    if any(not 0 < step <= 1 for step in steps):
        raise UsageError(
            f"Canary: steps are fractions above 0 and at most 1, got {steps!r}; "
            f"five percent is 0.05; {example}"
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise UsageError(f"Canary: steps must grow strictly, got {steps!r}; {example}")
    if not steps or steps[-1] != 1:
        raise UsageError(f"Canary: the last step is 1.0, got {steps!r}; {example}")
    if len(steps) < 2:
        raise UsageError(
            "Canary: at least one step lies below 1.0, else nothing is compared; "
            "BlueGreen switches all traffic at once"
        )
