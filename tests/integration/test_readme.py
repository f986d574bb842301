"""The README's examples, in the order of the page, on the session's runtime."""

from pathlib import Path
from typing import Any

import pytest

import aios
from tests.readme_blocks import blocks, needs_runtime

CONNECT = "rt = aios.connect()"
DOORS = (("with aios.local() as rt:", "if rt:"), *4 * ((CONNECT, "rt"),))
"""What opens a runtime in each example, and what stands there when the test brings one."""


def test_the_examples_run_as_printed(
    rt: aios.Runtime, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [block for block in blocks("python") if needs_runtime(block)]
    assert len(examples) == 5
    (recipe,) = [block for block in blocks("python") if "(aios.Recipe)" in block]
    (tmp_path / "repays.py").write_text(recipe)
    (acting,) = [block for block in blocks("python") if "@aios.agent" in block]
    (tmp_path / "refunds.py").write_text(acting)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"rt": rt}
    try:
        for example, (door, instead) in zip(examples, DOORS, strict=True):
            assert example.count(door) == 1
            exec(compile(example.replace(door, instead), "README.md", "exec"), namespace)
        said = capsys.readouterr().out
        assert "credit 1 -> 2, promoted" in said
        assert 'row 0, field "income": "much" is not an integer' in said
        assert 'field "debt"' in said
        assert "credit:1 1\n" in said, "the version asked for, and what the rollback went back to"
        assert namespace["version"].ref == "credit:3"
        assert "credit:3" in said
        assert "audit log: sound" in said
        assert "credit-watch-" in said
        assert (tmp_path / "monitor.html").read_text().count("<svg") == 2
        assert "paid 42 under " in said
        assert "refunds {'tickets': 1}" in said
        assert namespace["rollout"].status().outcome == "promoted"
    finally:
        rt.remove("credit")
