"""The quickstart notebook, run as a reader would, on the runtime that it starts itself."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "apps" / "notebooks" / "quickstart.ipynb"


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def output_of(notebook: Any, part: str) -> dict[str, str]:
    """Everything that the one cell with `part` in its source showed, by mime type."""
    (cell,) = (cell for cell in code_cells(notebook) if part in cell.source)
    shown: dict[str, str] = {}
    for output in cell.outputs:
        pieces = output.get("data") or {"text": output.get("text", "")}
        for kind, text in pieces.items():
            shown[kind] = shown.get(kind, "") + text
    return shown


def test_the_quickstart_tells_its_story() -> None:
    notebook = nbformat.read(QUICKSTART, as_version=4)
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(notebook)), (
        "the notebook is committed without outputs"
    )
    resources = {"metadata": {"path": str(ROOT)}}
    client = NotebookClient(notebook, timeout=200, kernel_name="python3", resources=resources)
    try:
        client.execute()
    except CellExecutionError as error:
        rollout = output_of(notebook, "rollout.wait").get("text/plain")
        pytest.fail(f"a cell failed; the rollout was: {rollout}\n{error}")

    wrong = output_of(notebook, "ContractViolation")["text"]
    assert 'row 0, field "obrat": -3 is below the minimum 0' in wrong
    assert '"race"' in wrong

    rollout = output_of(notebook, "rollout.wait")
    assert "promoted: " in rollout["text/plain"]
    assert rollout["text/html"].count("<tr>") == 4, "a heading and three rules"

    for plotted in ("loan.series()", "rollout.evidence()"):
        assert len(output_of(notebook, plotted)["image/png"]) > 5_000

    back = output_of(notebook, "rt.rollback")
    assert " 0 failed;" in back["text"]
    assert ">loan:1<" in back["text/html"]
    assert all(role in output_of(notebook, "rt.ps()")["text/plain"] for role in ("kernel", "api"))
    assert "rollback" in output_of(notebook, "rt.audit")["text/plain"]
