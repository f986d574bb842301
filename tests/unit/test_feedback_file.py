"""Feedback from files: every bad row is told by its line, and the others go."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aios.errors import UsageError
from aios.runtime import feedback_file
from aios.runtime.feedback_file import rows_of, send_file


class Api:
    """Takes what it is sent, but for values over 1; `sizes` are the rows of each call."""

    def __init__(self) -> None:
        self.given: dict[str, dict[str, Any]] = {}
        self.sizes: list[int] = []

    def change(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert (method, path, body["partial"]) == ("POST", "/api/v1/endpoints/loan/feedback", True)
        self.sizes.append(len(body["answers"]))
        taken, problems = 0, []
        for place, one in enumerate(body["answers"]):
            if any(isinstance(v, float | int) and v > 1 for v in one["values"].values()):
                problems.append({"place": place, "reason": "over 1"})
            else:
                taken += self.given.get(one["request_id"]) != one["values"]
                self.given[one["request_id"]] = one["values"]
        unchanged = len(body["answers"]) - taken - len(problems)
        told = {"refused": len(problems), "problems": problems[:100]}
        return {"taken": taken, "unchanged": unchanged, **told}


@pytest.fixture
def api() -> Api:
    return Api()


def sent(api: Api, path: Path, content: str | bytes) -> Any:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return send_file(api, path, "loan")  # type: ignore[arg-type]


def test_a_csv_is_read_with_its_numbers_and_truths(api: Api, tmp_path: Path) -> None:
    text = (
        "\ufeffrequest_id,approve,note,again\n"
        '007,1,"a, b",true\n'
        "r2,0.5,007,\n"
        "\n"
        'r3,-1e-3,"two\nlines",False\n'
        "r4,,,\n"
        "r5,1,x\n"
        ",1,x,true\n"
        "r6,2,x,true\n"
    )
    report = sent(api, tmp_path / "f.csv", text)
    assert api.given == {
        "007": {"approve": 1, "note": "a, b", "again": True},
        "r2": {"approve": 0.5, "note": "007"},
        "r3": {"approve": -0.001, "note": "two\nlines", "again": False},
    }
    assert (report.rows, report.taken, report.refused) == (7, 3, 4)
    assert report.problems == [
        (7, "it says nothing beside its request_id"),
        (8, "it has 3 cells for 4 columns"),
        (9, "it has no request_id"),
        (10, "over 1"),
    ]
    assert "7 rows, 3 taken, 0 known already, 4 refused" in repr(report)


def test_what_is_no_csv_and_what_is_not_utf_8_costs_its_own_row_alone(
    api: Api, tmp_path: Path
) -> None:
    broken = b'request_id,y\nr1,1\nr2,\xff\n"r3"x,1\nr4,1\n'
    report = sent(api, tmp_path / "f.csv", broken)
    assert set(api.given) == {"r1", "r4"}
    assert [line for line, _ in report.problems] == [3, 4]
    assert "UTF-8" in report.problems[0][1]


def test_json_lines_are_read_flat_or_as_the_api_takes_them(api: Api, tmp_path: Path) -> None:
    lines = [
        '{"request_id": "r1", "y": 1}',
        '{"request_id": "r2", "values": {"y": 0, "kpi": 0.5}}',
        "{",
        "[1]",
        "",
        '{"request_id": "r3", "y": [1]}',
        '{"request_id": "r4", "y": NaN}',
        '{"request_id": "r5", "y": Infinity}',
        '{"y": 1}',
    ]
    report = sent(api, tmp_path / "f.jsonl", "\n".join(lines))
    assert api.given == {"r1": {"y": 1}, "r2": {"y": 0, "kpi": 0.5}}
    assert [line for line, _ in report.problems] == [3, 4, 6, 7, 8, 9]


def test_parquet_is_read_by_rows(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pd.DataFrame({"request_id": ["r1", None, "r3"], "y": [1.0, 1.0, None]}).to_parquet(path)
    report = send_file(api, path, "loan")  # type: ignore[arg-type]
    assert api.given == {"r1": {"y": 1.0}}
    assert [line for line, _ in report.problems] == [2, 3]


def test_a_large_file_goes_in_parts_and_tells_how_far_it_is(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    rows = [{"request_id": f"r{n}", "y": 1 if n % 10 else 9} for n in range(4_500)]
    path.write_text("\n".join(map(json.dumps, rows)))
    told: list[tuple[float, int, int]] = []
    report = send_file(api, path, "loan", lambda *now: told.append(now))  # type: ignore[arg-type]
    assert api.sizes == [2_000, 2_000, 500]
    assert (report.taken, report.refused, len(report.problems)) == (4_050, 450, 250)
    assert [rows for _, rows, _ in told] == [2_000, 4_000, 4_500]
    assert 0 < told[0][0] < told[1][0] < told[2][0] == 1.0
    again = send_file(api, path, "loan")  # type: ignore[arg-type]
    assert (again.taken, again.unchanged) == (0, 4_050)


def test_long_rows_make_small_parts(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_file, "AT_ONCE_BYTES", 1_000)
    lines = [json.dumps({"request_id": f"r{n}", "note": "x" * 400}) for n in range(6)]
    sent(api, tmp_path / "f.jsonl", "\n".join(lines))
    assert api.sizes == [3, 3]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("f.txt", b"", "none of .csv"),
        ("f.csv", b"", "the first line"),
        ("f.csv", b"id,y\n1,2\n", "request_id among them"),
        ("f.csv", b"request_id,y,y\n1,2,3\n", "each once"),
        ("f.parquet", b"PAR1 no", "no Parquet"),
    ],
)
def test_a_file_that_is_no_feedback_is_refused(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=told):
        list(rows_of(tmp_path / name))
    with pytest.raises(UsageError, match="cannot be read"):
        list(rows_of(tmp_path / "nowhere.csv"))
