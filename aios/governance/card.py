"""The model card: what a version is for, how it was made, and how well it does, in one page.

M. Mitchell et al. (2019), "Model cards for model reporting", FAT*; the headings and the YAML
front matter are those of the Hugging Face Hub's model card template.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml
from pydantic import Field

from aios.governance.markdown import bullets, one_line, plain, table
from aios.presentation import moment
from aios.records.base import Record
from aios.records.governed import GateResult, ModelProfile, RunSpec, Snapshot
from aios.records.serving import Artifact
from aios.store.canonical import canonical

MOST_COLUMNS = 100
"""Columns of the data that a card lists; the snapshot has them all."""

_HUB_METRICS = {"auc": "roc_auc", "brier": "brier_score"}
"""Names of metrics on the Hub, where they differ from ours."""
_LIBRARIES = {"onnx": "onnx", "torch": "pytorch", "python": "python"}

_NOT_STATED = "*Not stated.*"
_HUMAN = ("purpose", "owner", "limits")


class ModelCard(Record):
    """The facts of one version's card.

    Attributes:
        ref: `loan:7`, or the model's name while the version has no number yet.
        profile: what the owner declared.
        artifact, contract: what was registered.
        kind: whether the label has two values.
        snapshot: the data; `holdout_rows` of it were seen by neither search nor fit.
        metrics: on the holdout. groups: the same, as attribute -> group -> metric -> value.
        importances: how much each input matters.
        results: of the gates; empty before they ran.
        tier, article: of the policy `policy_digest`, for the declared use.
        run: id of the training run; spec, config: what it was asked and what it chose.
        license: an identifier of the Hub's list.
    """

    ref: str
    profile: ModelProfile
    artifact: Artifact
    contract: dict[str, Any]
    kind: Literal["binary", "regression"]
    snapshot: Snapshot | None = None
    holdout_rows: int = Field(default=0, ge=0)
    metrics: dict[str, float] = Field(default={})
    groups: dict[str, dict[str, dict[str, float | None]]] = Field(default={})
    importances: dict[str, float] = Field(default={})
    results: tuple[GateResult, ...] = ()
    tier: str = ""
    article: str = ""
    policy_digest: str = ""
    run: str | None = None
    spec: RunSpec | None = None
    config: dict[str, Any] = Field(default={})
    license: str = "unknown"
    created_s: float
    created_by: str

    @property
    def missing(self) -> tuple[str, ...]:
        """Required sections that are empty: what a person must declare, and what was not
        measured. The gate `card` fails on any."""
        absent = {
            "data": self.snapshot is None,
            "metrics": not self.metrics,
            "metrics by group": any(not self.groups.get(name) for name in self.profile.protected),
            "lineage": self.run is None and self.spec is None,
        }
        return (
            *missing_declarations(self.profile),
            *(name for name, lacks in absent.items() if lacks),
        )

    def to_markdown(self) -> str:
        """The whole card. Texts of users can add neither headings, links nor HTML to it, nor
        keys to its front matter."""
        return (
            "\n\n".join(
                [
                    f"---\n{_yaml(front_matter(self))}---",
                    f"# Model Card for {plain(self.ref)}",
                    *_details(self),
                    *_uses(self),
                    *_training(self),
                    *_evaluation(self),
                    *_lineage(self),
                ]
            )
            + "\n"
        )


def missing_declarations(profile: ModelProfile) -> tuple[str, ...]:
    """What only a person can say about the model and nobody has said: of purpose, owner and
    limits. `rt.declare` sets them."""
    said = {
        "purpose": bool(plain(profile.purpose)),
        "owner": bool(plain(profile.owner)),
        "limits": any(map(plain, profile.limits)),
    }
    return tuple(name for name in _HUMAN if not said[name])


def front_matter(card: ModelCard) -> dict[str, Any]:
    """What the Hub reads: plain data for YAML. NaN and infinity are left out of the results."""
    task = "tabular-classification" if card.kind == "binary" else "tabular-regression"
    names = {name: one_line(_HUB_METRICS.get(name, name)) for name in card.metrics}
    matter: dict[str, Any] = {
        "language": "en",
        "license": one_line(card.license),
        "library_name": _LIBRARIES[card.artifact.engine],
        "pipeline_tag": task,
        "tags": ["tabular", "aios", one_line(card.profile.use)],
        "metrics": list(names.values()),
        "model_name": one_line(card.ref),
    }
    values = {name: value for name, value in card.metrics.items() if math.isfinite(value)}
    if card.snapshot is None or not values:
        return matter
    dataset = {
        "type": card.snapshot.kind,
        "name": one_line(card.snapshot.source),
        "split": "holdout",
        "revision": card.snapshot.digest,
    }
    results = [
        {"type": names[name], "value": value, "name": one_line(name)}
        for name, value in values.items()
    ]
    result = {"task": {"type": task}, "dataset": dataset, "metrics": results}
    return {**matter, "model-index": [{"name": matter["model_name"], "results": [result]}]}


def _yaml(matter: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True, width=math.inf)
    return text


def _details(card: ModelCard) -> Sequence[str]:
    fields = [
        [way, field.get("name"), field.get("type", field.get("dtype"))]
        for way in ("inputs", "outputs")
        for field in card.contract.get(way, ())
    ]
    return (
        "## Model Details",
        bullets(
            [
                f"**Owner:** {plain(card.profile.owner) or _NOT_STATED}",
                f"**Registered by:** {plain(card.created_by)}, {moment(card.created_s)}",
                f"**Model type:** {card.kind}, runs on {card.artifact.engine}",
                f"**Artifact:** {card.artifact.size_bytes:,} bytes, sha256 "
                f"`{card.artifact.digest}`",
                f"**License:** {plain(card.license)}",
            ]
        ),
        "### Inputs and Outputs",
        table(("way", "field", "type"), fields),
    )


def _uses(card: ModelCard) -> Sequence[str]:
    tier = plain(card.tier) or "none"
    law = f" ({plain(card.article)})" if card.article else ""
    limits = [limit for limit in map(plain, card.profile.limits) if limit]
    return (
        "## Uses",
        "### Intended Use",
        plain(card.profile.purpose) or _NOT_STATED,
        f"Declared use: {plain(card.profile.use)}. Risk tier: {tier}{law}.",
        "### Out-of-Scope Use",
        "Everything that the intended use does not name, and inputs outside the contract.",
        "## Bias, Risks, and Limitations",
        bullets(limits) if limits else _NOT_STATED,
    )


def _training(card: ModelCard) -> Sequence[str]:
    snapshot = card.snapshot
    if snapshot is None:
        return ("## Training Details", "### Training Data", _NOT_STATED)
    shown = list(snapshot.columns.items())[:MOST_COLUMNS]
    left_out = len(snapshot.columns) - len(shown)
    return (
        "## Training Details",
        "### Training Data",
        f"From {plain(snapshot.source)}. {snapshot.rows:,} rows "
        f"({snapshot.duplicate_rows:,} duplicates), taken {moment(snapshot.taken_s)}, content "
        f"sha256 `{snapshot.digest}`.",
        table(
            ("column", "type", "nulls", "distinct", "lowest", "highest"),
            [[name, c.dtype, c.nulls, c.distinct, c.low, c.high] for name, c in shown],
        ),
        *([f"And {left_out} more columns."] if left_out else []),
    )


def _evaluation(card: ModelCard) -> Sequence[str]:
    parts = [
        "## Evaluation",
        "### Testing Data",
        f"{card.holdout_rows:,} rows of the data that neither search nor fit has seen.",
        "### Results",
        table(("metric", "value"), list(card.metrics.items())) if card.metrics else _NOT_STATED,
    ]
    if card.profile.protected:
        parts.append("### Results by Group")
    for attribute in card.profile.protected:
        groups = card.groups.get(attribute)
        parts.append(f"By {plain(attribute)}:")
        parts.append(_by_group(groups) if groups else _NOT_STATED)
    if card.importances:
        ordered = sorted(card.importances.items(), key=lambda item: -item[1])
        parts += ["### Explanation", table(("input", "permutation importance"), ordered)]
    if card.results:
        rows = [
            [each.gate, each.outcome.replace("_", " "), each.value, each.threshold, each.reason]
            for each in card.results
        ]
        parts += ["### Gates", table(("gate", "outcome", "value", "threshold", "reason"), rows)]
    return parts


def _by_group(groups: Mapping[str, Mapping[str, float | None]]) -> str:
    metrics = list(dict.fromkeys(name for values in groups.values() for name in values))
    rows = [[group, *(values.get(name) for name in metrics)] for group, values in groups.items()]
    return table(("group", *metrics), rows)


def _lineage(card: ModelCard) -> Sequence[str]:
    facts: dict[str, object] = {"training run": card.run, "policy": card.policy_digest or None}
    if card.snapshot is not None:
        facts["data snapshot"] = card.snapshot.digest
    if card.spec is not None:
        facts["recipe"] = card.spec.recipe.path
        facts["recipe sha256"] = card.spec.recipe.sha256
        facts["trials"] = card.spec.trials
        facts["seed"] = card.spec.seed
        # The list of packages has its place in the run.
        environment = card.spec.environment.items()
        facts.update((name, canonical(of)) for name, of in environment if name != "packages")
    facts.update((f"chosen {name}", canonical(value)) for name, value in card.config.items())
    rows = [[name, value] for name, value in facts.items() if value is not None]
    return (
        "## Lineage",
        table(("what", "value"), rows) if rows else _NOT_STATED,
        "## Model Card Contact",
        plain(card.profile.owner) or _NOT_STATED,
    )
