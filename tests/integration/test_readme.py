"""The README's examples, in the order of the page, on the session's runtime."""

from typing import Any

import aios
from tests.readme_blocks import blocks, needs_runtime

DOORS = {"with aios.local() as rt:": "if rt:", "rt = aios.connect()": "rt"}
"""What opens a runtime, and what stands there when the test brings one."""


def test_the_examples_run_as_printed(rt: aios.Runtime, capsys: Any) -> None:
    examples = [block for block in blocks("python") if needs_runtime(block)]
    assert len(examples) == 2
    namespace: dict[str, Any] = {"rt": rt}
    try:
        for example, (door, instead) in zip(examples, DOORS.items(), strict=True):
            assert example.count(door) == 1
            exec(compile(example.replace(door, instead), "README.md", "exec"), namespace)
        said = capsys.readouterr().out
        assert "credit 1 -> 2, promoted" in said
        assert 'row 0, field "income": "much" is not an integer' in said
        assert 'field "debt"' in said
        assert "credit:1 1\n" in said, "the version asked for, and what the rollback went back to"
        assert namespace["rollout"].status().outcome == "promoted"
    finally:
        rt.remove("credit")
