"""The third act: the world changes, and the endpoint notices, retrains and asks.

`aios demo --loop` replays loan applications of the US Small Business Administration: first those of
2001, from which the model was trained, then those of 2007. Fewer were paid back, and other people
asked for other amounts. A watch sees it, retrains on what the endpoint answered and what became of
it, and the new version goes through gates, a shadow, a canary and an officer's approval.
"""

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aios
from apps.loan_approval import sba
from apps.loan_approval.lending import BusinessLoan

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

ENDPOINT = "business-loan"
OFFICER = "credit-officer"
WINDOW_S = 3.0
RATE_PER_S = 60.0
LAG_S = 3.0
"""How long after an answer it is known what became of the loan; a story cannot wait years."""
CALM_S = 30.0
CLIENTS = 2
SEED = 7
TRAINED_ROWS = 6_000
DRIFT = "psi > 0.5 on any for 2 windows"
CONCEPT = "accuracy < 0.8"
PLAN = aios.Canary(
    shadow_first_s=4,
    steps=(0.2, 1.0),
    bake_s=4,
    approve_before=(1.0,),
    abort_when=("errors worse", "latency_p95 > 1.5x + 30ms"),
    max_stage_s=180,
)
ACT_LIMIT_S = 300.0
LOOK_S = 0.3


class Applicants:
    """Applications as traffic, with what became of each loan fed back a little later.

    Args:
        rt: the runtime; its key is used.
        rows: whose applications come first; see `move_to`.
    """

    def __init__(self, rt: aios.Runtime, rows: "pd.DataFrame") -> None:
        self._rt = rt
        self._rows = rows.to_dict("records")
        self._next = 0
        self._lock = threading.Lock()
        self._known: list[tuple[float, str, int]] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(CLIENTS)]
        self._threads.append(threading.Thread(target=self._feed_back, daemon=True))
        self.sent = self.fed_back = 0
        self.failed: list[str] = []

    def move_to(self, rows: "pd.DataFrame") -> None:
        """From now on these apply."""
        with self._lock:
            self._rows, self._next = rows.to_dict("records"), 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)

    def _send(self) -> None:
        endpoint = aios.connect(self._rt.address, self._rt.key).endpoint(ENDPOINT)
        due_s = time.monotonic()
        while not self._stopping.is_set():
            with self._lock:
                row = self._rows[self._next % len(self._rows)]
                self._next += 1
                self.sent += 1
            asked = {name: row[name] for name in (sba.KEY, *sba.FEATURES)}
            try:
                answer = endpoint.predict(asked)
            except aios.AiosError as error:
                self.failed.append(str(error))
            else:
                self._known.append((time.monotonic(), answer.request_id, int(row[sba.LABEL])))
            due_s += CLIENTS / RATE_PER_S
            self._stopping.wait(max(0.0, due_s - time.monotonic()))

    def _feed_back(self) -> None:
        rt = aios.connect(self._rt.address, self._rt.key)
        while not self._stopping.wait(1.0):
            late_s = time.monotonic() - LAG_S
            due = [one for one in self._known if one[0] < late_s]
            if due:
                told = {request_id: {sba.LABEL: label} for _, request_id, label in due}
                rt.feedback(told, endpoint=ENDPOINT)
                self._known = self._known[len(due) :]
                self.fed_back += len(due)


def main(out: Path, csv: Path | None = None) -> int:
    """Tell the act on a private runtime, and write the monitor's report to `out`.

    Returns:
        0 if no request failed, nothing rang before the world changed, and the retrained version
        serves after gates and approval; else 1.
    """
    from rich.console import Console

    console = Console(highlight=False)
    console.print(
        "[bold]aios: the loop[/bold] on real loans of the US Small Business Administration"
    )
    with console.status("reading 899,164 loans"):
        loans = sba.load(csv)
    out.mkdir(parents=True, exist_ok=True)
    with aios.local(window_s=WINDOW_S) as rt:
        console.print(f"a private runtime is up at {rt.address}")
        return _Act(rt, loans, out, console).tell()


class _Act:
    def __init__(
        self, rt: aios.Runtime, loans: "pd.DataFrame", out: Path, console: "Console"
    ) -> None:
        self._rt = rt
        self._loans = loans
        self._out = out
        self._console = console
        self._started_s = time.monotonic()
        self._surprises: list[str] = []

    def tell(self) -> int:
        before, after = (self._year(year) for year in (2001, 2007))
        officer = aios.connect(self._rt.address, self._rt.keys.add(OFFICER, role="approver").key)
        self._rt.set_policy(Path(__file__).with_name("lender.yaml"))
        self._rt.declare(
            ENDPOINT,
            use="small_business_lending",
            purpose="Scores a business loan for an officer, who decides.",
            owner="business lending",
            limits=("Trained on loans of 2001.",),
        )
        contract = aios.Contract(**sba.fields())
        first = self._rt.retrain(
            ENDPOINT, BusinessLoan, data=before.head(TRAINED_ROWS), contract=contract
        )
        self._say(f"{first.ref} is trained on loans of 2001, AUC {first.metrics['auc']:.3f}")
        self._rt.deploy(ENDPOINT, first.ref, deadline_s=0.5)
        watch = self._rt.watch(
            ENDPOINT,
            drift=DRIFT,
            concept=CONCEPT,
            min_rows=120,
            min_labels=150,
            cooldown_s=20.0,
            then=aios.Retrain(BusinessLoan, rollout=PLAN),
        )
        self._say(f"watched: {DRIFT}; {CONCEPT}; then retrain")
        with Applicants(self._rt, before.iloc[TRAINED_ROWS:]) as people:
            self._stay_calm(watch, CALM_S, "loans of 2001 come in")
            self._say("the world changes: loans of 2007 come in", "yellow")
            people.move_to(after)
            self._follow(watch, officer)
            self._stay_calm(watch, CALM_S, "loans of 2007 still come in")
        return self._end(people)

    def _year(self, year: int) -> "pd.DataFrame":
        return self._loans[self._loans[sba.YEAR] == year].sample(frac=1.0, random_state=SEED)

    def _stay_calm(self, watch: aios.Watch, seconds: float, about: str) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            time.sleep(LOOK_S)
        status = watch.status()
        for finding in status.findings:
            self._say(f"{about}: {finding['condition']}: {finding['state']}, {finding['reason']}")
        self._expect(bool(status.findings), f"{about}, and nothing was judged")
        self._expect(not status.alarms, f"{about}, and an alarm rings: {status.summary}")

    def _follow(self, watch: aios.Watch, officer: aios.Runtime) -> None:
        """Tell what happens until the retrained version serves, and be the officer."""
        give_up_s = time.monotonic() + ACT_LIMIT_S
        told: set[str] = set()
        runs: list[aios.Run] = []
        while time.monotonic() < give_up_s:
            status = watch.status()
            for alarm in status.alarms:
                self._once(told, f"alarm: {alarm['finding']['reason']}", "red")
            if status.run is not None and f"run {status.run}" not in told:
                told.add(f"run {status.run}")
                runs.append(self._rt.run(status.run))
                self._rt.monitor(ENDPOINT).report().save(self._out / "loop-drifted.html")
                self._say(f"retraining by itself: run {status.run}", "yellow")
            for run in list(runs):
                if run.status().finished:
                    runs.remove(run)
                    self._say(self._gates(run.status()))
            for rollout in self._rt.rollouts(ENDPOINT):
                self._once(told, f"rollout to version {rollout['to_version']}: {rollout['stage']}")
                if rollout["status"] != "running":
                    self._expect(rollout["status"] == "promoted", f"it ended {rollout['status']}")
                    return
            for request in officer.approvals():
                self._say(f"an officer looks at {request.subject} and approves", "green")
                officer.approve(request, reason="AUC is up, all gates passed, the canary is well.")
            time.sleep(LOOK_S)
        self._expect(False, f"nothing was promoted: {watch.status().summary}")

    def _gates(self, run: Any) -> str:
        """What the gates said of the version that a run made."""
        ref = f"{run.model}:{run.version}"
        results = self._rt.assessment(ref).results
        failed = [f"{one.gate} ({one.reason})" for one in results if one.outcome != "passed"]
        told = f"held back by {'; '.join(failed)}" if failed else f"all {len(results)} gates passed"
        return f"{ref}, AUC {run.metrics['auc']:.3f}: {told}"

    def _end(self, people: Applicants) -> int:
        newest = self._rt.models.list(ENDPOINT)[-1]
        lineage = self._rt.lineage(newest.ref)
        self._console.print(self._rt.assessment(newest.ref))
        self._console.print(lineage)
        self._console.print(self._rt.monitor(ENDPOINT).status())
        self._console.print(self._rt.cost(by="version"))
        self._rt.monitor(ENDPOINT).report().save(self._out / "loop.html")
        lineage.save(self._out / "loop-lineage.html")
        self._expect(lineage.because is not None, f"{newest.ref} does not say why it exists")
        alarms = [entry for entry in self._rt.audit(limit=1000) if entry["action"] == "alarm"]
        self._expect(bool(alarms), "the audit log has no alarm")
        self._expect(
            not people.failed, f"{len(people.failed)} requests failed: {people.failed[:1]}"
        )
        self._console.print(self._rt.audit.verify())
        self._console.print(
            f"{people.sent:,} applications, {len(people.failed)} failed, {people.fed_back:,} with "
            f"feedback\n[bold]{lineage.because}[/bold]\nreports: {self._out}/loop-drifted.html, "
            f"{self._out}/loop.html"
        )
        for surprise in self._surprises:
            self._console.print(f"[red]not as expected: {surprise}[/red]")
        return 1 if self._surprises else 0

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._surprises.append(otherwise)
            self._say(otherwise, "red")

    def _once(self, told: set[str], text: str, style: str = "") -> None:
        if text not in told:
            told.add(text)
            self._say(text, style)

    def _say(self, text: str, style: Any = "") -> None:
        from rich.text import Text

        line = Text(f"{time.monotonic() - self._started_s:6.1f} s  ", style="dim")
        self._console.print(line.append(text, style=style), soft_wrap=True)
