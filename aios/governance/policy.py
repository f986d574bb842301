"""The policy of risk tiers: which gates and how many approvals a use asks for.

A policy is a YAML file that people read, copy and change; its digest is in every decision
that was made under it. `default_policy` is the one that comes with aios.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from aios.errors import UsageError
from aios.governance.gates import GATES, is_own
from aios.governance.strict_yaml import MAX_TEXT_BYTES, read_mapping
from aios.presentation import Rows, Shown
from aios.records.base import Record
from aios.records.governed import UNDECLARED
from aios.store.canonical import canonical

Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$", max_length=100)]
Sentence = Annotated[str, Field(min_length=1, max_length=2000)]

THIRTY_DAYS_S = 30 * 86400.0
"""An approval says yes to the world of that day; a month later somebody should look again."""


class _Fault(ValueError):
    """What is wrong, with its place below the field that is being validated."""

    def __init__(self, where: Sequence[str], what: str) -> None:
        super().__init__(what)
        self.where = where


class UseRule(Record):
    """The tier of one use, with the article of law that puts it there."""

    tier: Word
    article: str = Field(default="", max_length=2000)
    why: str = Field(default="", max_length=2000)


class Tier(Record):
    """What a version must pass before it may serve.

    `gates` maps the name of a gate to its parameters; what is not given has the gate's own
    default, and is written out here, so that the policy's digest covers it. `extends` takes
    another tier's gates and articles as a base: a gate that both name has this tier's
    parameters, and the larger number of approvals and the shorter expiry count.
    `approval_expires_s` is from the request on.
    """

    description: str = Field(default="", max_length=2000)
    articles: tuple[Sentence, ...] = ()
    prohibited: bool = False
    extends: Word | None = None
    gates: dict[str, dict[str, Any]] = Field(default={})
    approvals: int = Field(default=0, ge=0, le=20)
    approval_expires_s: float = Field(default=THIRTY_DAYS_S, gt=0, allow_inf_nan=False)

    @property
    def asks_nothing(self) -> bool:
        """Whether any version may serve, unseen."""
        return not (self.prohibited or self.gates or self.approvals)

    @field_validator("gates", mode="before")
    @classmethod
    def _known_gates(cls, gates: Any) -> Any:
        if not isinstance(gates, dict):
            return gates
        return {name: _params(name, params) for name, params in gates.items()}


class Policy(Shown, Record):
    """Which tier each use is in, and what the tiers ask for.

    `undeclared` is the tier of models whose owner has not said what they are for.
    """

    name: str = Field(min_length=1, max_length=200)
    description: str = Field(default="", max_length=5000)
    tiers: dict[Word, Tier] = Field(min_length=1)
    uses: dict[Word, UseRule] = Field(default={})
    undeclared: Word

    @classmethod
    def parse(cls, source: str | Path) -> Self:
        """The policy in this YAML text, or in the file at this `Path`.

        A string is always text, never a path: who sends a policy over the network must not
        be able to name files of the machine that reads it.

        Raises:
            UsageError: the file cannot be read, the text is not plain YAML (`read_mapping`),
                or a field is wrong; names the field by its path.
        """
        text = _file_text(source) if isinstance(source, Path) else source
        fields = read_mapping(text, "the policy")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise UsageError(f"the policy: {_told(error)}") from None

    def to_yaml(self) -> str:
        """YAML text that `parse` turns into an equal policy; comments are gone."""
        fields = self.model_dump(mode="json")
        # Not as Unicode: PyYAML loses U+0085 and its like when it reads what it wrote.
        text: str = yaml.safe_dump(fields, sort_keys=False, width=100)
        return text

    @cached_property
    def digest(self) -> str:
        """sha256 over the canonical JSON, with every gate's parameters written out."""
        return hashlib.sha256(canonical(self.model_dump(mode="json")).encode("ascii")).hexdigest()

    def tier_of(self, use: str) -> tuple[str, Tier]:
        """The name of the tier that this use is in, and the tier with all that it extends.

        Raises:
            UsageError: the policy does not know this use; lists those that it knows.
        """
        if use == UNDECLARED:
            return self.undeclared, self._resolved(self.undeclared)
        if use not in self.uses:
            known = ", ".join(sorted(self.uses)) or "none"
            raise UsageError(
                f"the policy {self.name!r} knows no use {use!r:.120}; known: {known}", use=use
            )
        name = self.uses[use].tier
        return name, self._resolved(name)

    def _resolved(self, name: str) -> Tier:
        tier = self.tiers[name]
        if tier.extends is None:
            return tier
        base = self._resolved(tier.extends)
        return tier.model_copy(
            update={
                "extends": None,
                "articles": tuple(dict.fromkeys((*base.articles, *tier.articles))),
                "prohibited": base.prohibited or tier.prohibited,
                "gates": {**base.gates, **tier.gates},
                "approvals": max(base.approvals, tier.approvals),
                "approval_expires_s": min(base.approval_expires_s, tier.approval_expires_s),
            }
        )

    @model_validator(mode="after")
    def _tiers_exist(self) -> Self:
        known = ", ".join(self.tiers)
        for where, tier in self._mentions():
            if tier not in self.tiers:
                raise _Fault(where, f"no tier {tier!r}; tiers: {known}")
        if UNDECLARED in self.uses:
            raise _Fault(("uses", UNDECLARED), "set `undeclared: <tier>` at the top instead")
        for name in self.tiers:
            chain = [name]
            while (above := self.tiers[chain[-1]].extends) is not None:
                if above in chain:
                    told = " -> ".join([*chain, above])
                    raise _Fault(("tiers", name, "extends"), f"goes round in a cycle: {told}")
                chain.append(above)
        return self

    def _mentions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        yield ("undeclared",), self.undeclared
        yield from ((("uses", use, "tier"), rule.tier) for use, rule in self.uses.items())
        for name, tier in self.tiers.items():
            if tier.extends is not None:
                yield ("tiers", name, "extends"), tier.extends

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        title = f"policy {self.name}, {self.digest[:12]}; undeclared uses are {self.undeclared}"
        headings = ("tier", "uses", "gates", "approvals")
        rows = []
        for name in self.tiers:
            tier = self._resolved(name)
            uses = ", ".join(use for use, rule in self.uses.items() if rule.tier == name)
            asked = "prohibited" if tier.prohibited else ", ".join(tier.gates)
            rows.append([name, uses, asked, tier.approvals])
        return title, headings, rows


@lru_cache(maxsize=1)
def default_policy() -> Policy:
    """The policy that comes with aios: tiers after the EU AI Act. It is no legal advice."""
    text = (files("aios.governance") / "policies" / "eu_ai_act.yaml").read_text("utf-8")
    return Policy.parse(text)


def _params(gate: str, params: Any) -> dict[str, Any]:
    """A gate's parameters, checked, with its defaults written out. Those of one's own gate are
    checked where it runs: what reads a policy imports nothing that a policy names."""
    given = {} if params is None else params
    if not isinstance(given, dict):
        raise _Fault((str(gate),), "must be a mapping of parameters; `{}` takes the defaults")
    if is_own(str(gate)):
        return {str(name): value for name, value in given.items()}
    if gate not in GATES:
        told = f"no such gate; there are {', '.join(GATES)}, or your own as module:function"
        raise _Fault((str(gate),), told)
    kind = GATES[gate].params
    for name in given:
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields) or "none"
            raise _Fault((gate, str(name)), f"no such parameter; {gate} has: {known}")
    try:
        return kind(**given).model_dump(mode="json")
    except UsageError as error:
        field = error.details["field"]
        told = error.message.removeprefix(f"{kind.__name__}: {field}: ")
        raise _Fault((gate, field), told) from None


def _told(error: ValidationError) -> str:
    """The first fault as `path of the field: what is wrong`."""
    fault = error.errors(include_url=False)[0]
    cause = fault.get("ctx", {}).get("error")
    below = cause.where if isinstance(cause, _Fault) else ()
    # In a mapping, pydantic marks a bad key with an element of its own.
    parts = [str(part) for part in (*fault["loc"], *below) if part != "[key]"]
    where = ".".join(parts) or "the whole"
    if cause is not None:
        return f"{where}: {cause}"[:600]
    if fault["type"] == "extra_forbidden":
        return f"{where}: no such field"[:600]
    got = "" if fault["type"] == "missing" else f" (got {fault['input']!r:.80})"
    return f"{where}: {fault['msg']}{got}"[:600]


def _file_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise UsageError(f"{path} has more than {MAX_TEXT_BYTES:,} bytes: not a policy")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the policy cannot be read from {path}: {error}") from None
