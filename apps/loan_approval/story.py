"""The loan story in two acts, and not one failed request.

`aios demo` (or `make demo`) tells it on a private runtime. First, real applications are replayed
as HTTP traffic while a better model is promoted, three bad ones are turned back, and the
process of a canary is killed. Then `governed` retrains a model that decides about people.
"""

import os
import platform
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aios
from apps.loan_approval import data, governed, report, training
from apps.loan_approval.display import Screen
from apps.loan_approval.dossier import Dossier
from apps.loan_approval.narrative import ArmSecond, Event, ModelTold, RolloutTold, Story
from apps.loan_approval.replay import Replay

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

OBRAT_LIMIT = 37.0
"""v4 raises on the 23 % of applicants whose obligations are above."""
SLEEP_S = 0.05
COPIES = 20
"""Ids per application; see `data.records`."""
LOOK_S = 0.25
ROLLOUT_LIMIT_S = 240.0


@dataclass(frozen=True)
class Version:
    """One version of the story's model."""

    number: int
    about: str
    model: Any
    sample: "pd.DataFrame"
    estimator: Any = None


@dataclass(frozen=True)
class Chapter:
    """One rollout: of which version, what is expected, and whether its process is killed."""

    version: int
    about: str
    expected: tuple[str, ...]
    shadow_first_s: float = 0.0
    kill: bool = False


CHAPTERS = (
    Chapter(2, "gradient boosting: better", ("promoted",), shadow_first_s=5),
    Chapter(3, "trained on shuffled labels", ("rolled_back",), shadow_first_s=5),
    Chapter(4, "raises on some rows", ("rolled_back",)),
    Chapter(5, f"sleeps {SLEEP_S * 1000:.0f} ms", ("rolled_back",)),
    Chapter(
        6,
        "same as v1, its process killed",
        ("promoted", "rolled_back", "undecided"),
        kill=True,
    ),
    Chapter(6, "same as v1, left alone", ("promoted", "undecided")),
)


def main(out: Path, rate_per_s: float) -> int:
    """Tell the story, print what happened, write the report to `out`.

    Returns:
        0 if no request failed, every rollout ended as it should, and the rules let serve
        and held back what they should; else 1.
    """
    from rich.console import Console

    console = Console(highlight=False)
    console.print("[bold]aios: the loan story[/bold] on 1,989 real mortgage applications")
    frame = data.load()
    train, holdout = data.split(frame)
    with console.status("training the models"):
        versions = make_versions(train)
    with aios.local() as rt:
        console.print(f"a private runtime is up at {rt.address}")
        register(rt, versions, holdout, console)
        rt.deploy("loan", "loan:1", deadline_s=0.5, fallback=FALLBACK)
        console.print("endpoint loan serves loan:1; the replay begins")
        replay = Replay(
            rt.address, str(rt.key), data.records(frame, copies=COPIES), rate_per_s, clients=32
        )
        with replay, Screen(replay) as screen:
            time.sleep(3)
            told = [tell(rt, chapter, screen) for chapter in CHAPTERS]
            time.sleep(3)
        story = collect(rt, replay, versions, holdout, told)
        dossier = governed.tell(rt, frame, out, console)
    console.print("the runtime is down; drawing the report")
    written = report.write_report(story, out, dossier)
    return finish(story, dossier, console, written)


FALLBACK = (
    aios.Cached(max_age_s=600),
    aios.Rule("apps.loan_approval.rules:score"),
    aios.Default({"approve": 0.0}),
)


def make_versions(train: "pd.DataFrame") -> list[Version]:
    """Train what the story registers, in order."""
    first = training.logistic(train)
    formula = training.linear_formula(first)
    raises = aios.PythonModel(
        "apps.loan_approval.faulty:RaisesOnSomeRows", {**formula, "obrat_limit": OBRAT_LIMIT}
    )
    sleeps = aios.PythonModel("apps.loan_approval.faulty:Sleeps", {**formula, "seconds": SLEEP_S})
    second = training.boosting(train)
    third = training.boosting(train, shuffle_labels=True)
    return [
        Version(1, "logistic regression", first, train, first),
        Version(2, "gradient boosting", second, train, second),
        Version(3, "shuffled labels", third, train, third),
        Version(4, "raises on some rows", raises, train[train.obrat <= OBRAT_LIMIT]),
        Version(5, "sleeps", sleeps, train.head(20)),
        Version(6, "same as v1", first, train, first),
    ]


def register(
    rt: aios.Runtime, versions: list[Version], holdout: "pd.DataFrame", console: "Console"
) -> None:
    """Register every version with its figures on the holdout."""
    contract = aios.Contract(**data.contract_fields())
    for version in versions:
        measured = training.metrics(version.estimator, holdout) if version.estimator else {}
        rt.models.register(
            "loan",
            version.model,
            contract=contract,
            sample=version.sample[list(data.FEATURES)],
            metrics=measured,
            tags={"about": version.about},
        )
    console.print(rt.models.list("loan"))


def tell(
    rt: aios.Runtime, chapter: Chapter, screen: Screen
) -> tuple[RolloutTold, tuple[Event, ...]]:
    """Roll one version out and watch it to its end."""
    plan = aios.Canary(
        steps=(0.05, 0.25, 1.0),
        bake_s=6,
        shadow_first_s=chapter.shadow_first_s,
        error_probability=0.05,
        abort_when=("errors worse", "latency_p95 > 1.5x + 20ms", "output drift > 0.3"),
        max_stage_s=ROLLOUT_LIMIT_S / 2,
    )
    about = f"v{chapter.version}: {chapter.about}"
    rollout = rt.rollout("loan", f"loan:{chapter.version}", plan)
    events: list[Event] = []
    give_up_s = time.monotonic() + ROLLOUT_LIMIT_S
    while True:
        status = rollout.status()
        screen.show(status.fields, about)
        if status.finished or time.monotonic() > give_up_s:
            break
        if chapter.kill and not events and status.stage.startswith("canary 25"):
            time.sleep(2)
            pid = kill_challenger(rt)
            events.append(Event(at_s=time.time(), text=f"SIGKILL to the canary, pid {pid}"))
            screen.say(f"{about}: the canary's process {pid} was killed")
        time.sleep(LOOK_S)
    screen.show(None)
    style = "green" if status.outcome == "promoted" else "yellow"
    screen.say(f"{about}: {status.summary}", style)
    return RolloutTold.of(status.fields, rollout.evidence(), about=chapter.about), tuple(events)


def kill_challenger(rt: aios.Runtime) -> int:
    """SIGKILL the process that runs the challenger; returns its pid."""
    pid = next(int(row["pid"]) for row in rt.ps() if row["role"] == "challenger" and row["pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


def collect(
    rt: aios.Runtime,
    replay: Replay,
    versions: list[Version],
    holdout: "pd.DataFrame",
    told: list[tuple[RolloutTold, tuple[Event, ...]]],
) -> Story:
    """Everything that the report shows, while the runtime is still there to be asked."""
    models = [
        ModelTold(
            version=version.number,
            kind=version.about,
            metrics=training.metrics(version.estimator, holdout),
            approval_rates=training.approval_rates(version.estimator, holdout),
        )
        for version in versions
        if version.estimator is not None
    ]
    series = rt.endpoint("loan").series()
    return Story(
        outcomes=replay.outcomes(),
        stats=replay.stats(),
        rollouts=tuple(rollout for rollout, _ in told),
        events=tuple(event for _, events in told for event in events),
        models=tuple(models),
        arm_seconds=tuple(ArmSecond.model_validate(row) for row in series),
        lender_rates=training.lender_approval_rates(holdout),
        group_sizes={group: int(holdout[group].sum()) for group in training.GROUPS},
        machine=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    )


def finish(story: Story, dossier: Dossier, console: "Console", written: report.Report) -> int:
    """Print the tables of what happened; 0 if it happened as it should."""
    from rich.table import Table

    table = Table(title="what happened", title_justify="left")
    for heading in ("version", "outcome", "answers by arm", "harm to end", "stated reason"):
        table.add_column(heading)
    for rollout in story.rollouts:
        arms = story.requests_by_arm(rollout)
        harm_s = rollout.harm_to_end_s
        table.add_row(
            f"v{rollout.to_version} {rollout.about}",
            rollout.outcome,
            ", ".join(f"{arm} {count}" for arm, count in arms.items()),
            "" if harm_s is None else f"{harm_s:.1f} s",
            rollout.reason or "",
        )
    console.print(table)
    console.print(governed.as_table(dossier))
    stats = story.stats
    arms = ", ".join(f"{arm} {count}" for arm, count in stats.by_arm.items())
    console.print(
        f"requests sent {stats.sent}, failed {stats.failed}, by arm: {arms}; degraded "
        f"{stats.degraded}; connections renewed {stats.reconnected}; "
        f"p50 {stats.p50_s * 1000:.1f} ms, p99 {stats.p99_s * 1000:.1f} ms"
    )
    console.print(dossier.audit)
    console.print(f"report: {written.html}")
    surprises = [
        f"v{chapter.version} ended {rollout.outcome}, expected {' or '.join(chapter.expected)}"
        for chapter, rollout in zip(CHAPTERS, story.rollouts, strict=True)
        if rollout.outcome not in chapter.expected
    ]
    surprises += dossier.surprises
    for surprise in surprises:
        console.print(f"[red]{surprise}[/red]")
    return 1 if stats.failed or surprises else 0
