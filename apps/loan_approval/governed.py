"""The second act: a model that decides about people, and the rules that it meets.

`mortgage` is declared for credit scoring, which the shipped policy puts into the tier `high`.
Three recipes are trained. The one with the best AUC may not serve, because it approves too
different shares of two groups; the next best may, after somebody else than its author has
said yes. Then the act asks what anybody may ask later: why this applicant got this answer,
who let it happen, and whether the log of it all is as it was written.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aios
from apps.loan_approval import data, recipes
from apps.loan_approval.display import Screen, watch_run
from apps.loan_approval.dossier import (
    Candidate,
    DecisionTold,
    Dossier,
    Explained,
    Share,
)
from apps.loan_approval.narrative import RolloutTold
from apps.loan_approval.replay import Replay

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

MODEL = "mortgage"
OFFICER = "credit-officer"
SEED = 7
TRIALS = 6
SEARCH = {"C": aios.loguniform(1e-3, 10.0)}
RATE_PER_S = 60.0
PLAN = aios.Canary(
    steps=(0.1, 0.5, 1.0),
    bake_s=4,
    error_probability=0.05,
    abort_when=("errors worse", "latency_p95 > 1.5x + 30ms"),
    max_stage_s=120,
)
"""Without the rule on drift of the output: this version is meant to answer otherwise."""

LOOK_S = 0.25
ROLLOUT_LIMIT_S = 300.0
LOGGED_WITHIN_S = 30.0
"""The prediction log is written every few seconds; an answer is explained from it."""


def tell(rt: aios.Runtime, frame: "pd.DataFrame", out: Path, console: "Console") -> Dossier:
    """Run the act on a runtime of its own or of the first act.

    Args:
        rt: with the key of an administrator, who is the author of all three versions.
        frame: all applications, as `data.load` gives them.
        out: folder for the last version's card and lineage.
        console: where to tell it.
    """
    return _Act(rt, frame, out, console).tell()


def as_table(dossier: Dossier) -> "Table":
    """What became of each candidate."""
    from rich.table import Table

    table = Table(title="what the rules said", title_justify="left")
    for heading in ("version", "AUC", "largest gap may be", "gates", "decision"):
        table.add_column(heading)
    for one in dossier.candidates:
        fairness = one.gate("fairness")
        gap = None if fairness is None else fairness.value
        answers = [f"{decision.answer} by {decision.by}" for decision in one.decisions]
        table.add_row(
            f"{one.ref} {one.about}",
            f"{one.auc:.3f}",
            "" if gap is None else f"{gap:.3f}",
            f"not: {', '.join(one.not_passed)}" if one.not_passed else "all passed",
            "; ".join(answers) or "may not serve",
        )
    return table


class _Act:
    def __init__(
        self, rt: aios.Runtime, frame: "pd.DataFrame", out: Path, console: "Console"
    ) -> None:
        self._rt = rt
        self._frame = frame
        self._out = out
        self._console = console
        self._officer = aios.connect(rt.address, rt.keys.add(OFFICER, role="approver").key)
        self._contract = aios.Contract(**data.contract_fields())
        self._surprises: list[str] = []

    def tell(self) -> Dossier:
        self._console.rule("[bold]act two: nothing serves ungoverned[/bold]", align="left")
        self._console.print(
            self._rt.declare(
                MODEL,
                use="credit_scoring",
                purpose="Scores a mortgage application for a loan officer, who decides.",
                owner="retail lending",
                limits=(
                    "Applications in Boston of 1990: not for other places or times.",
                    "An aid to a decision and not the decision.",
                ),
                protected=recipes.Mortgage.protected,
            )
        )
        first = self._first()
        fastest = self._refused()
        fair, rollout, traffic = self._approved()
        self._expect(
            fastest.auc > fair.auc > first.auc,
            f"AUC should fall from {fastest.ref} to {fair.ref} to {first.ref}",
        )
        return self._asked_later((first, fastest, fair), rollout, traffic)

    def _first(self) -> Candidate:
        """v1 looks at three ratios, passes, is approved and deployed."""
        run = self._train(recipes.AbilityToPay)
        ref = run.wait().ref
        self._expect_gates(ref, ())
        decision = self._approve(ref, "Three ratios of ability to pay; a fair start.")
        self._rt.deploy(MODEL, ref, deadline_s=0.5)
        self._say(f"endpoint {MODEL} serves {ref}", "green")
        return self._candidate(run, ref, "three ratios of ability to pay", decisions=(decision,))

    def _refused(self) -> Candidate:
        """v2 sees everything and has the best AUC; nothing brings it to users."""
        run = self._train(recipes.Everything)
        ref = run.wait().ref
        self._expect_gates(ref, ("fairness",))
        refused = self._refusal(
            f"roll {ref} out", aios.NotApproved, lambda: self._rt.rollout(MODEL, ref, PLAN)
        )
        return self._candidate(run, ref, "all 14 columns", said_no=refused)

    def _approved(self) -> tuple[Candidate, RolloutTold, Any]:
        """v3 passes, waits for somebody else's yes, and then rolls out by itself."""
        run = self._train(recipes.WithoutHistoryMarks, rollout=(MODEL, PLAN))
        ref = run.wait().ref
        self._expect_gates(ref, ())
        self._console.print(self._rt.clearance(ref))
        refused = self._refusal(
            f"approve one's own {ref}",
            aios.Forbidden,
            lambda: self._rt.approve(ref, reason="I made it, and it is good."),
        )
        self._console.print(self._officer.approvals())
        records = data.records(self._frame, copies=20)
        replay = Replay(
            self._rt.address, str(self._rt.key), records, RATE_PER_S, clients=8, endpoint=MODEL
        )
        with replay, Screen(replay, self._console) as screen:
            decision = self._approve(ref, "Within the limit for all groups, and ranks better.")
            rollout = self._watch_rollout(run, ref, screen)
        traffic = replay.stats()
        self._expect(rollout.good, f"the rollout of {ref} ended {rollout.outcome}")
        self._expect(not traffic.failed, f"{traffic.failed} requests failed")
        candidate = self._candidate(
            run, ref, "without three credit marks", said_no=refused, decisions=(decision,)
        )
        return candidate, rollout, traffic

    def _watch_rollout(self, run: aios.Run, ref: str, screen: Screen) -> RolloutTold:
        """The rollout that the run starts once its version is cleared, to its end."""
        give_up_s = time.monotonic() + ROLLOUT_LIMIT_S
        while (begun := run.status()).fields["rollout"] is None:
            if begun.finished or time.monotonic() > give_up_s:
                raise aios.PermanentError(f"no rollout of {ref} began: {begun.summary}")
            time.sleep(LOOK_S)
        rollout = self._rt.get_rollout(begun.fields["rollout"])
        while not (status := rollout.status()).finished and time.monotonic() < give_up_s:
            screen.show(status.fields, ref)
            time.sleep(LOOK_S)
        screen.show(None)
        screen.say(f"{ref}: {status.summary}", "green" if status.outcome == "promoted" else "red")
        return RolloutTold.of(status.fields, rollout.evidence(), about="approved by a person")

    def _asked_later(
        self, candidates: tuple[Candidate, ...], rollout: RolloutTold, traffic: Any
    ) -> Dossier:
        """Card, lineage, one answer's explanation, history, audit."""
        ref = candidates[-1].ref
        self._out.mkdir(parents=True, exist_ok=True)
        name = ref.replace(":", "-")
        card = self._out / f"card-{name}.md"
        card.write_text(self._rt.card(ref).text, encoding="utf-8")
        lineage = self._rt.lineage(ref)
        lineage.save(self._out / f"lineage-{name}.html")
        self._console.print(lineage)
        explained = self._explain()
        self._expect(explained.ref == ref, f"{explained.ref} answered, and not {ref}")
        self._expect(explained.approvers == (OFFICER,), f"{explained.ref} was not approved")
        history = self._rt.history(MODEL)
        self._console.print(history)
        verdict = self._rt.audit.verify()
        self._expect(verdict.sound, f"the audit log is not sound: {verdict.reason}")
        self._console.print(verdict)
        self._say(f"card: {card}")
        return Dossier(
            candidates=candidates,
            rollout=rollout,
            traffic=traffic,
            explained=explained,
            lineage=lineage._repr_html_(),
            history=tuple(
                (
                    f"{one.model}:{one.version}",
                    _clock(one.from_s),
                    "now" if one.until_s is None else _clock(one.until_s),
                    f"{one.cause} of {one.by}",
                    ", ".join(one.cleared_by.get("approvers", ())),
                )
                for one in history
            ),
            audit=repr(verdict).splitlines()[0],
            card=card.name,
            surprises=tuple(self._surprises),
        )

    def _explain(self) -> Explained:
        """Ask for the answer of the applicant whom the model trusts least, then why."""
        endpoint, asked = self._rt.endpoint(MODEL), data.records(self._frame)
        scores = [output[data.LABEL] for output in endpoint.predict(asked).outputs]
        answer = endpoint.predict(asked[scores.index(min(scores))])
        give_up_s = time.monotonic() + LOGGED_WITHIN_S
        with self._console.status(f"waiting for request {answer.request_id} in the log"):
            while True:
                try:
                    found = self._rt.explain(answer.request_id)
                    break
                except aios.UsageError:
                    if time.monotonic() > give_up_s:
                        raise
                    time.sleep(1.0)
        self._console.print(found)
        why = found.contributions
        if why is None:
            raise aios.PermanentError(f"{answer.request_id}: {found.no_contributions}")
        return Explained(
            request_id=found.request_id,
            ref=found.ref,
            at_s=found.at_s,
            base=why.base,
            score=why.score,
            shares=tuple(
                Share(
                    feature=name,
                    value=_short(found.inputs.get(name)),
                    added=added,
                    error=why.errors[name],
                )
                for name, added in why.values.items()
            ),
            approvers=found.approval.approvers if found.approval else (),
        )

    # -- what every chapter does ------------------------------------------------------

    def _train(self, recipe: type[recipes.Mortgage], **settings: Any) -> aios.Run:
        columns = [data.KEY, *data.FEATURES, data.LABEL, *recipes.Mortgage.protected]
        run = self._rt.start_retrain(
            MODEL,
            recipe,
            data=self._frame[columns],
            contract=self._contract,
            search=SEARCH,
            trials=TRIALS,
            seed=SEED,
            **settings,
        )
        status = watch_run(run, f"retrain {recipe.__name__}", self._console)
        auc = f", AUC {status.metrics['auc']:.3f}" if "auc" in status.metrics else ""
        self._say(f"{recipe.__name__} became {status.model}:{status.version}{auc}")
        return run

    def _candidate(self, run: aios.Run, ref: str, about: str, **told: Any) -> Candidate:
        return Candidate.of(run, self._rt.assessment(ref), about, **told)

    def _expect_gates(self, ref: str, not_passed: tuple[str, ...]) -> None:
        assessment = self._rt.assessment(ref)
        self._console.print(assessment)
        found = tuple(one.gate for one in assessment.results if one.outcome != "passed")
        expected = ", ".join(not_passed) or "none"
        self._expect(
            found == not_passed,
            f"gates not passed by {ref}: {', '.join(found) or 'none'}, expected {expected}",
        )

    def _approve(self, ref: str, reason: str) -> DecisionTold:
        request = self._officer.approve(ref, reason=reason)
        decision = DecisionTold.model_validate(request.decisions[-1].model_dump())
        self._say(f"{decision.by} {decision.answer} {ref}: {decision.reason}", "green")
        return decision

    def _refusal(
        self, what: str, expected: type[aios.AiosError], attempt: Callable[[], object]
    ) -> tuple[str, ...]:
        """What the runtime answers to an attempt that it must refuse."""
        try:
            attempt()
        except expected as error:
            said = f"{type(error).__name__}: {error}"
            self._say(f"tried to {what}: {said}", "yellow")
            return (f"Tried to {what}. {said}",)
        self._expect(False, f"nobody refused to {what}")
        return ()

    def _expect(self, fine: bool, otherwise: str) -> None:
        if not fine:
            self._surprises.append(otherwise)
            self._say(otherwise, "bold red")

    def _say(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._console.print(Text(text, style=style), soft_wrap=True)


def _clock(at_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_s))


def _short(value: object) -> str:
    return "missing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
