"""The maintenance story told short, on a real runtime and a real broker, with its kills."""

from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from apps.predictive_maintenance import outcome, report
from apps.predictive_maintenance.plant import TICKS_AN_HOUR
from apps.predictive_maintenance.story import Options, tell


@pytest.mark.timeout(900)
def test_machines_are_watched_stopped_with_approval_and_nothing_is_lost_or_done_twice(
    tmp_path: Path,
) -> None:
    options = Options(readings=900, rate_per_s=22.5, machines=5, out=tmp_path)
    found = tell(options, Console(quiet=True))
    assert outcome.surprises(found) == []
    assert {kill.what for kill in found.kills} == {"agent host", "flow worker", "event reader"}
    became = Counter(one.became for one in found.interventions)
    assert became["repaired"] + became["too late"] >= 1, "somebody said yes"
    states = Counter(row["state"] for row in found.reservations)
    assert states["used"] == became["repaired"] + became["too late"]
    assert states["released"] == became["refused"] + became["unanswered"]
    assert not [one for one in found.interventions if not one.response_s > 0]
    assert all(one.why for one in found.interventions)
    wrong = sum(found.confusion[pair] for pair in ((True, "normal"), (False, "anomalous")))
    assert wrong <= found.judged * 0.01, "the endpoint's answers are those of these readings"
    # What the machines lived through is what the bill says.
    broken = [wear for one in found.caught for wear in [one.wear] if wear.how == "broken"]
    assert found.bills["with aios"].breakdowns == len(broken)
    spans = [span for one in found.machines for span in one.life.spans]
    hours = sum(span.end - span.begin for span in spans) / TICKS_AN_HOUR
    assert found.bills["with aios"].hours == pytest.approx(hours)
    assert all(one.lead_ticks > 0 for one in found.caught if one.lead_ticks is not None)
    assert any(part["kind"] == "endpoint" for part in found.cost.parts)
    page = report.write_report(found, tmp_path).read_text()
    assert f"{found.sent:,} readings were sent and {found.judged:,} judged" in page
