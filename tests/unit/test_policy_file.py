"""The policy file: what it takes, how it refuses, and the one that comes with aios."""

import random
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aios.errors import UsageError
from aios.governance import Policy, default_policy
from aios.governance.gates import GATES

SHIPPED = (files("aios.governance") / "policies" / "eu_ai_act.yaml").read_text("utf-8")

SMALL = """
name: house
tiers:
  base: {gates: {card: {}, quality: {margin: 0.05}}, approvals: 2, approval_expires_s: 100}
  strict: {extends: base, gates: {quality: {margin: 0.01}}, approvals: 1, articles: [Art. 1]}
uses:
  lending: {tier: strict, article: Art. 1}
undeclared: base
"""


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        Policy.parse(text)
    return caught.value.message


def test_the_shipped_policy_knows_what_the_act_lists() -> None:
    policy = default_policy()
    assert policy.tier_of("social_scoring")[1].prohibited
    name, high = policy.tier_of("credit_scoring")
    assert (name, high.approvals) == ("high", 1)
    assert set(high.gates) == set(GATES)
    assert policy.uses["credit_scoring"].article == "Annex III point 5(b)"
    assert policy.tier_of("chatbot")[0] == "limited"
    name, undeclared = policy.tier_of("undeclared")
    assert (name, undeclared.asks_nothing) == ("minimal", True)


def test_a_tier_takes_over_what_it_extends() -> None:
    name, tier = Policy.parse(SMALL).tier_of("lending")
    assert name == "strict"
    assert tier.gates["quality"]["margin"] == 0.01
    assert (set(tier.gates), tier.approvals) == ({"card", "quality"}, 2)
    assert (tier.approval_expires_s, tier.articles) == (100, ("Art. 1",))


def test_the_digest_follows_the_rules_and_not_their_spelling() -> None:
    policy = Policy.parse(SMALL)
    assert Policy.parse("# why\n" + SMALL).digest == policy.digest
    assert Policy.parse(SMALL.replace("card: {}, ", "card: , ")).digest == policy.digest
    assert Policy.parse(SMALL.replace("0.05", "0.04")).digest != policy.digest


def test_an_unknown_use_is_told_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no use 'astrology'; known: lending"):
        Policy.parse(SMALL).tier_of("astrology")


def test_a_path_is_a_file_and_a_string_never_is(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(SMALL)
    assert Policy.parse(file) == Policy.parse(SMALL)
    assert "must be a mapping" in refusal(str(file))
    with pytest.raises(UsageError, match="cannot be read"):
        Policy.parse(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("card: {}", "charm: {}", "tiers.base.gates.charm: no such gate"),
        ("0.05", "-0.05", "tiers.base.gates.quality.margin: Input should be greater"),
        ("0.05", ".nan", "tiers.base.gates.quality.margin: Input should be a finite"),
        ("{margin: 0.05}", "{self: 1}", "tiers.base.gates.quality.self: no such parameter"),
        ("{margin: 0.05}", "7", "tiers.base.gates.quality: must be a mapping"),
        ("approvals: 2", "approvals: -2", "tiers.base.approvals: "),
        ("approvals: 2", "aprovals: 2", "tiers.base.aprovals: no such field"),
        ("base: {", "base: {extends: strict, ", "tiers.base.extends: goes round in a cycle"),
        ("extends: base", "extends: bass", "tiers.strict.extends: no tier 'bass'"),
        ("{tier: strict,", "{tier: free,", "uses.lending.tier: no tier 'free'"),
        ("lending:", "undeclared:", "uses.undeclared: set `undeclared"),
        ("undeclared: base", "undeclared: none", "undeclared: no tier 'none'"),
        ("undeclared: base", "", "undeclared: Field required"),
        ("name: house", "name: house\nname: home", "the key 'name' is there twice"),
        ("card: {}", "card: {}, card: {}", "the key 'card' is there twice"),
        ("name: house", "name: &a house", "anchors and aliases are not taken"),
        ("name: house", "name: !!python/name:os.system x", "is not taken"),
        ("name: house", "name: " + "9" * 5000, "over 40 digits"),
        ("name: house", "name: " + "[" * 900, "more than 20 levels"),
        ("name: house", f"name: [{'1,' * 30_000}]", "more than 20,000 keys"),
        ("name: house", "name: house\n<<: {name: home}", "not readable YAML"),
        ("name: house", "name: 2020-99-99", "not readable YAML"),
        ("name: house", "name: house # " + "x" * 2**20, "has more than 1,048,576 bytes"),
        ("name: house", "name: \ud800", "not readable YAML"),
        ("name: house", "1: house", "is no text"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(old: str, new: str, told: str) -> None:
    assert old in SMALL
    assert told in refusal(SMALL.replace(old, new, 1))


words = st.from_regex(r"[a-z][a-z0-9]{0,5}(_[a-z0-9]{1,4})?", fullmatch=True)
gates = st.fixed_dictionaries(
    {},
    optional={
        "quality": st.fixed_dictionaries({}, optional={"margin": st.floats(0, 1e6)}),
        "fairness": st.fixed_dictionaries({}, optional={"max": st.floats(0, 1)}),
        "card": st.none() | st.just({}),
    },
)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, object]:
    names = draw(st.lists(words, min_size=1, max_size=5, unique=True))
    tiers = {}
    for at, name in enumerate(names):
        tiers[name] = {
            "description": draw(st.text(max_size=30)),
            "prohibited": draw(st.booleans()),
            "extends": draw(st.none() | st.sampled_from(names[:at])) if at else None,
            "gates": draw(gates),
            "approvals": draw(st.integers(0, 20)),
            "approval_expires_s": draw(st.floats(1e-3, 1e9)),
        }
    uses = draw(st.lists(words.filter(lambda word: word != "undeclared"), max_size=5))
    return {
        "name": draw(st.text(min_size=1, max_size=30)),
        "tiers": tiers,
        "uses": {use: {"tier": draw(st.sampled_from(names))} for use in uses},
        "undeclared": draw(st.sampled_from(names)),
    }


@example({"name": "\x85", "tiers": {"a": {}}, "undeclared": "a"})
@given(policies())
@settings(max_examples=60, deadline=None)
def test_a_policy_survives_its_own_yaml(fields: dict[str, object]) -> None:
    policy = Policy.model_validate(fields)
    again = Policy.parse(policy.to_yaml())
    assert again == policy
    assert again.digest == policy.digest
    for use in policy.uses:
        assert again.tier_of(use) == policy.tier_of(use)


def mutated(text: str, chance: random.Random) -> str:
    """The text after a few edits of characters, words and lines."""
    signs = ":{}[]&*!|>'\"%@`#,-?<\n\t \x00\ud800é0ex.~"
    for _ in range(chance.randint(1, 6)):
        begin = chance.randrange(len(text))
        end = min(len(text), begin + chance.choice((0, 1, 1, 5, 40)))
        other = chance.randrange(len(text))
        piece = chance.choice(
            (
                "",
                chance.choice(signs),
                text[other : other + chance.randint(1, 60)],
                chance.choice(("-1", ".inf", "null", "2020-13-01", "0x" + "f" * 999, "{}", "<<: ")),
            )
        )
        text = text[:begin] + piece + text[end:]
    return text


def test_a_thousand_damaged_files_are_refused_or_valid() -> None:
    chance = random.Random(7)
    valid = 0
    for turn in range(1000):
        text = mutated(SMALL if turn % 4 else SHIPPED, chance)
        try:
            policy = Policy.parse(text)
        except UsageError:
            continue
        valid += 1
        assert Policy.parse(policy.to_yaml()) == policy
        assert len(policy.digest) == 64
    assert 10 < valid < 990
