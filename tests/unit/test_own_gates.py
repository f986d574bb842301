"""Gates of one's own, named in a policy as module:function."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import loan_candidate

from aios.errors import UsageError
from aios.governance import Policy
from aios.governance.candidate import Context
from aios.governance.gates import run_gates
from aios.records import GateResult

GATES_FILE = """
import numpy as np
import aios

def exposure(candidate, context, limit=0.9):
    share = float((candidate.scores > 0.5).mean())
    return aios.GateResult(
        gate="whatever", outcome="passed" if share <= limit else "failed",
        value=share, threshold=limit, reason=f"{share:.0%} would get a loan",
        evidence={"rows": np.int64(len(candidate.holdout)), "scores": candidate.scores[:3]},
    )

def silent(candidate, context):
    pass

def raising(candidate, context):
    raise KeyError("secret")

rows = 3
"""

POLICY = """
name: mine
undeclared: open
tiers:
  open:
    gates:
      {gate}: {params}
"""


@pytest.fixture
def lending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lending_gates.py"
    path.write_text(GATES_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lending_gates", raising=False)
    return path


def judged(name: str, **params: Any) -> GateResult:
    return run_gates(loan_candidate(), Context(), {name: params})[0]


def test_it_judges_under_its_own_name_and_its_code_is_evidence(lending: Path) -> None:
    found = judged("lending_gates:exposure")
    assert (found.gate, found.outcome) == ("lending_gates:exposure", "passed")
    assert found.evidence["code"] == hashlib.sha256(lending.read_bytes()).hexdigest()
    assert GateResult.model_validate_json(found.model_dump_json()) == found
    assert found.evidence["rows"] == 600
    strict = judged("lending_gates:exposure", limit=0.0)
    assert (strict.outcome, strict.threshold) == ("failed", 0.0)


@pytest.mark.parametrize(
    ("name", "params", "reason"),
    [
        ("lending_gates:silent", {}, "gave NoneType, not an aios.GateResult"),
        ("lending_gates:raising", {}, "raised KeyError"),
        ("lending_gates:nothing", {}, "cannot be imported where training runs"),
        ("nowhere_at_all:gate", {}, "cannot be imported where training runs"),
        ("lending_gates:rows", {}, "is no function"),
        ("lending_gates:exposure", {"limits": 1}, "unexpected keyword argument 'limits'"),
        ("math:hypot", {}, "no signature found"),
    ],
)
def test_what_cannot_judge_has_failed_and_says_why(
    lending: Path, name: str, params: dict[str, Any], reason: str
) -> None:
    found = judged(name, **params)
    assert found.outcome == "failed"
    assert "secret" not in found.reason
    assert reason in found.reason


def test_a_policy_names_it_and_imports_nothing() -> None:
    text = POLICY.format(gate="nowhere_at_all:gate", params="{limit: 0.2}")
    policy = Policy.parse(text)
    assert policy.tiers["open"].gates == {"nowhere_at_all:gate": {"limit": 0.2}}
    other = Policy.parse(text.replace("0.2", "0.3"))
    assert policy.digest != other.digest
    assert Policy.parse(policy.to_yaml()) == policy


@pytest.mark.parametrize("gate", ["speed", "os.system", "a:b:c", "a:b()", "../gates:x", ":x"])
def test_a_policy_with_another_unknown_gate_is_refused(gate: str) -> None:
    with pytest.raises(UsageError, match="no such gate; there are artifact"):
        Policy.parse(POLICY.format(gate=f'"{gate}"', params="{}"))


def test_a_policy_with_parameters_that_are_no_mapping_is_refused() -> None:
    with pytest.raises(UsageError, match="must be a mapping of parameters"):
        Policy.parse(POLICY.format(gate="lending.gates:exposure", params="3"))
