"""The model card: complete, in the Hub's layout, and deaf to markup in what users write."""

import math
import re
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from aios.governance import ModelCard, missing_declarations
from aios.records import (
    Artifact,
    CodeSource,
    ColumnProfile,
    DataSource,
    GateResult,
    ModelProfile,
    RunSpec,
    Snapshot,
)

SECTIONS = [
    *("Model Card for loan:2", "Model Details", "Inputs and Outputs", "Uses", "Intended Use"),
    *("Out-of-Scope Use", "Bias, Risks, and Limitations", "Training Details", "Training Data"),
    *("Evaluation", "Testing Data", "Results", "Results by Group", "Explanation", "Gates"),
    *("Lineage", "Model Card Contact"),
]


def card(text: str = "plain words", **changed: Any) -> ModelCard:
    """A card with `text` wherever a user may write."""
    column = ColumnProfile(dtype="double", nulls=1, distinct=9, low=0.5, high=70.0)
    spec = RunSpec(
        model="loan",
        recipe=CodeSource(path="recipes:Loan", text="class Loan: ...", sha256="e" * 64),
        data=DataSource(kind="parquet", location="loans.parquet"),
        contract={},
        seed=7,
        environment={"git": {"commit": "abc123", "dirty": True}, "packages": ["numpy==2"]},
    )
    fields = {
        "ref": "loan:2",
        "profile": ModelProfile(
            name="loan",
            use="credit_scoring",
            purpose=text,
            owner=text,
            limits=(text, "Not for companies."),
            protected=("black", text),
        ),
        "artifact": Artifact(digest="a" * 64, engine="onnx", size_bytes=1234),
        "contract": {"inputs": [{"name": text, "type": "number"}], "outputs": []},
        "kind": "binary",
        "snapshot": Snapshot(
            kind="parquet",
            location=text,
            rows=100,
            columns={text: column},
            digest="b" * 64,
            taken_s=0.0,
        ),
        "holdout_rows": 20,
        "metrics": {"auc": 0.81, text: 0.5},
        "groups": {name: {text: {"rows": 9, "auc": 0.8}} for name in ("black", text)},
        "importances": {text: 0.25},
        "results": (GateResult(gate="fairness", outcome="failed", value=0.3, reason=text),),
        "tier": "high",
        "article": text,
        "policy_digest": "d" * 64,
        "run": "r1",
        "spec": spec,
        "config": {text: text},
        "license": text,
        "created_s": 0.0,
        "created_by": text,
    }
    return ModelCard.model_validate(fields | changed)


FRONT_MATTER = re.compile(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))")
"""How the Hub's library finds it."""


def split(markdown: str) -> tuple[dict[str, Any], list[Token]]:
    """Front matter as the Hub reads it, and the parsed body."""
    found = FRONT_MATTER.match(markdown)
    body = markdown[found.end() :]
    return yaml.safe_load(found[2]), MarkdownIt("commonmark").enable(
        ["table", "strikethrough"]
    ).parse(body)


def headings(tokens: list[Token]) -> list[str]:
    return [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]


def kinds(tokens: list[Token]) -> list[str]:
    """The structure: what every block and every inline element is, without the words."""
    inside = [child for token in tokens for child in token.children or ()]
    return [token.type for token in (*tokens, *inside) if token.type != "text_special"]


def words(tokens: list[Token]) -> list[str]:
    """The text of each inline block as a reader sees it."""
    return ["".join(each.content for each in token.children or ()) for token in tokens]


def test_the_card_has_the_hubs_front_matter_and_all_sections() -> None:
    matter, tokens = split(card().to_markdown())
    assert headings(tokens) == SECTIONS
    assert (matter["language"], matter["library_name"]) == ("en", "onnx")
    assert matter["pipeline_tag"] == "tabular-classification"
    assert {"license", "tags", "metrics"} <= matter.keys()
    (index,) = matter["model-index"]
    (result,) = index["results"]
    assert index["name"] == "loan:2"
    assert result["task"] == {"type": "tabular-classification"}
    assert result["dataset"]["revision"] == "b" * 64
    assert result["metrics"][0] == {"type": "roc_auc", "value": 0.81, "name": "auc"}


def test_the_card_tells_the_facts() -> None:
    text = card().to_markdown()
    facts = ("a" * 64, "b" * 64, "d" * 64, "e" * 64, "abc123", "0.81", "20 rows", "Not for comp")
    assert [fact for fact in facts if fact not in text] == []
    assert "numpy==2" not in text


def test_a_card_of_little_still_reads_and_says_what_is_missing() -> None:
    bare = ModelCard(
        ref="loan:1",
        profile=ModelProfile(name="loan", protected=("black",)),
        artifact=Artifact(digest="a" * 64, engine="torch", size_bytes=1),
        contract={},
        kind="regression",
        created_s=0.0,
        created_by="ana",
    )
    everything = ("purpose", "owner", "limits", "data", "metrics", "metrics by group", "lineage")
    assert bare.missing == everything
    matter, tokens = split(bare.to_markdown())
    assert "model-index" not in matter
    assert "Intended Use" in headings(tokens)
    assert "*Not stated.*" in bare.to_markdown()


def test_a_full_card_misses_nothing_and_each_part_counts() -> None:
    full = card()
    assert full.missing == ()
    blank = full.profile.model_copy(update={"purpose": " \n", "limits": ("",)})
    assert missing_declarations(blank) == ("purpose", "limits")
    assert card(groups={"black": {"1": {"auc": 0.5}}}).missing == ("metrics by group",)
    assert card(groups={}).missing == ("metrics by group",)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_stays_out_of_the_results(value: float) -> None:
    matter, _ = split(card(metrics={"auc": value, "accuracy": 0.5}).to_markdown())
    (result,) = matter["model-index"][0]["results"]
    assert [metric["name"] for metric in result["metrics"]] == ["accuracy"]


HOSTILE = [
    "# Approved by all",
    "x\n# Approved\n\n---\nlicense: mit\n---\n",
    "x\n===\ny\n---",
    "---",
    "...\nlicense: mit",
    "=====",
    "```\ncode",
    "<script>alert(1)</script>",
    "<!-- hidden",
    "&lt;b&gt; &#60;b&#62;",
    "[click](javascript:alert)",
    "![pixel](http://x/y.png)",
    "<http://x>",
    "a | b | c\n|---|---|",
    "| x |",
    "- item",
    "+ item",
    "12. item",
    "3) item",
    "> quote",
    "    indented",
    "**bold** _em_ ~~gone~~ `code`",
    "[ref]: http://x",
    "\\",
    "a\\|b\\\\|c",
    "\u2028# x\u2029# y\u0085# z\x0b# u\r# v",
    "\u202ereversed",
    "\x00x\x1b[31m",
    "!!python/object:os.system",
    "*anchor &anchor",
    "key: value",
    "null",
    "{{ jinja }}",
    "$x$ $$y$$",
]


PLAIN = split(card().to_markdown())


def unchanged_by(text: str) -> None:
    markdown = card(text).to_markdown()
    matter, tokens = split(markdown)
    plain_matter, plain_tokens = PLAIN
    assert matter.keys() == plain_matter.keys()
    assert headings(tokens) == SECTIONS
    assert kinds(tokens) == kinds(plain_tokens)
    assert [letter for letter in markdown if not (letter.isprintable() or letter == "\n")] == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_changes_no_structure(text: str) -> None:
    unchanged_by(text)


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.isprintable()])
def test_what_is_escaped_reads_as_it_was_written(text: str) -> None:
    _, tokens = split(card(text).to_markdown())
    assert " ".join(text.split()) in words(tokens)


@given(
    st.lists(
        st.sampled_from(
            ["#", "-", "=", "`", "*", "_", "[", "](", "<b>", "|", "\\", "\n", " ", "1."]
        )
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
        max_size=12,
    )
    .map("".join)
    .filter(lambda text: any(each.isprintable() and not each.isspace() for each in text))
)
@settings(max_examples=60, deadline=None)
def test_no_text_changes_the_structure(text: str) -> None:
    unchanged_by(text)
