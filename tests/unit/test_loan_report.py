"""The story's report and its live display."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from apps.loan_approval.display import Screen
from apps.loan_approval.narrative import ArmSecond, Event, Look, ModelTold, RolloutTold, Story
from apps.loan_approval.outcomes import Outcomes, Stats
from apps.loan_approval.report import write_report

START_S = 1_700_000_000.0


def look(at_s: float, stage: str = "canary 5%", **verdict: Any) -> dict[str, Any]:
    told = {"rule": "errors worse", "state": "undecided", "estimate": 0.2, "lower": 0.0}
    told |= {"upper": None, "threshold": 0.01, "needed": 40, "explanation": "-"} | verdict
    return {"at_s": START_S + at_s, "era": stage, "payload": {"stage": stage, "verdicts": [told]}}


FIELDS = {
    "id": "r1",
    "endpoint": "loan",
    "status": "rolled_back",
    "from_version": 1,
    "to_version": 4,
    "reason": "errors worse: <20 % failed>",
    "rule": "errors worse",
    "stage": "rolled_back",
    "verdicts": [],
    "created_s": START_S + 2,
    "finished_s": START_S + 8,
    "harmed_since_s": START_S + 4.5,
}
LOOKS = [look(3, "shadow"), look(5), look(6, state="worse", lower=0.05, upper=0.4)]


def story(rollout: RolloutTold, failed_status: int = 200) -> Story:
    """Ten seconds at ten requests a second; v4 answers every second one between 4 and 8 s."""
    sent_s = np.arange(100) / 10
    canary = (sent_s >= 4) & (sent_s < 8) & (np.arange(100) % 2 == 1)
    status = np.full(100, 200, np.int16)
    status[-1] = failed_status
    outcomes = Outcomes(
        started_s=START_S,
        sent_s=sent_s,
        latency_s=np.full(100, 0.003),
        status=status,
        arm=np.where(canary, 2, 1).astype(np.int8),
        version=np.where(canary, 4, 1).astype(np.int32),
        degraded=np.zeros(100, np.int8),
        request_ids=[""] * 100,
    )
    failed = int(failed_status != 200)
    return Story(
        outcomes=outcomes,
        stats=Stats(sent=100, failed=failed, rate_per_s=10.0, p50_s=0.003, p99_s=0.004),
        rollouts=(rollout,),
        models=(ModelTold(version=4, kind="boosting", metrics={"auc": 0.887}),),
        events=(Event(at_s=START_S + 5, text="canary process killed"),),
        arm_seconds=(
            ArmSecond(at_s=START_S + 3, arm="shadow", version=4, count=10, errors=2),
            ArmSecond(at_s=START_S + 3, arm="stable", version=1, count=10),
        ),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("report") / "new"
    rollout = RolloutTold.of(FIELDS, LOOKS, about="raises on some rows")
    report = write_report(story(rollout), folder)
    assert report.html.parent == folder
    return report.html.read_text(encoding="utf-8"), folder


def test_report_needs_no_network_and_no_script(page: tuple[str, Path]) -> None:
    text, _ = page
    links = set(re.findall(r"https?://[^\"'\s<>]+", text))
    assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<script" not in text
    assert text.count("<svg") == 2


def test_report_draws_pictures_of_timeline_and_evidence(page: tuple[str, Path]) -> None:
    _, folder = page
    for name in ("timeline.png", "evidence-v4.png"):
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000


def test_report_tells_outcome_reason_and_time_from_harm_to_rollback(
    page: tuple[str, Path],
) -> None:
    text, _ = page
    assert "0 promoted, 1 rolled back, 0 requests failed" in text
    assert "errors worse: &lt;20 % failed&gt;" in text
    assert "<20 %" not in text
    assert "3.5 s" in text
    assert "v1: 40, v4: 20, shadow copies: 10" in text
    assert "canary process killed" in text
    assert "0.887" in text


def test_charts_take_their_colours_from_the_page_and_share_no_ids(
    page: tuple[str, Path],
) -> None:
    text, _ = page
    drawings = text[text.index("<body>") :]
    assert "var(--canary)" in drawings
    assert "#eb6834" not in drawings
    ids = re.findall(r'\bid="([^"]+)"', drawings)
    assert len(ids) == len(set(ids))


def test_failed_requests_undecided_and_unjudged_rollouts_are_told_as_such(tmp_path: Path) -> None:
    undecided = {**FIELDS, "status": "undecided", "reason": "time is up"}
    told = story(RolloutTold.of(undecided, LOOKS[:2]), failed_status=500)
    told = replace(told, rollouts=(*told.rollouts, RolloutTold.of(FIELDS)))
    text = write_report(told, tmp_path).html.read_text(encoding="utf-8")
    assert "99 loan applications were answered" in text
    assert "1 requests failed" in text
    assert "time is up (errors worse needs 40 more requests)" in text
    assert text.count("No rule was judged") == 1


def test_rollouts_are_taken_as_the_runtime_tells_them() -> None:
    rollout = RolloutTold.of(FIELDS, LOOKS)
    assert rollout.rules == ["errors worse"]
    assert rollout.stages == [(START_S + 3, "shadow"), (START_S + 5, "canary 5%")]
    assert rollout.harm_to_end_s == 3.5
    assert RolloutTold.of(FIELDS, harm_s=START_S + 6).harm_to_end_s == 2.0
    assert RolloutTold.of({**FIELDS, "status": "promoted"}).harm_to_end_s is None
    assert Look.model_validate(LOOKS[0]).verdicts[0].threshold == 0.01


class SteadyReplay:
    """Figures as a replay gives them."""

    elapsed_s = 12.0
    counts = Stats(sent=3600, failed=0, degraded=2)

    def stats(self, last_s: float | None = None) -> Stats:
        return Stats(sent=600, rate_per_s=300.0, p95_s=0.004, by_arm={"stable": 570, "canary": 30})


def shown(*, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False)
    running = {**FIELDS, "stage": "canary 5%", "verdicts": LOOKS[1]["payload"]["verdicts"]}
    with Screen(SteadyReplay(), console) as screen:  # type: ignore[arg-type]
        screen.say("v4 raises on some rows")
        screen.show(running, "raises on some rows")
        screen.show(running, "raises on some rows")
    return out.getvalue()


def test_screen_without_a_terminal_prints_a_line_per_stage_not_per_look() -> None:
    lines = shown(terminal=False).splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("v4 raises on some rows")
    assert "v1 → v4: canary 5%: 300 requests/s, p95 4.0 ms, sent 3,600, failed 0" in lines[1]
    assert "\x1b" not in "".join(lines)


def test_screen_in_a_terminal_shows_arms_figures_and_verdicts() -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown(terminal=True))
    assert re.search(r"stable\s+█{38}\s+285/s", text)
    assert re.search(r"canary\s+█{2}\s+15/s", text)
    assert re.search(r"errors worse\s+undecided\s+0.2 in \[0, \?\], limit 0.01, needs 40", text)
