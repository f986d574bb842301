"""`Runtime`: the one object a user holds."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from aios.contracts import Contract
from aios.errors import UsageError
from aios.presentation import Shown
from aios.records import (
    ApprovalRequest,
    Assessment,
    Autoscale,
    BreakGlass,
    Cached,
    Clearance,
    Default,
    Domain,
    EndpointSpec,
    ModelProfile,
    ModelVersion,
    Rule,
    Serving,
)
from aios.rollout import BlueGreen, Canary, Shadow
from aios.runtime.agents import Delegated
from aios.runtime.capacity import Measured
from aios.runtime.cost import Accounted
from aios.runtime.events import Eventful
from aios.runtime.explanation import Explanation, reproduce
from aios.runtime.flows import Acting
from aios.runtime.governance import Audit, Card, History, Inbox, PolicyText
from aios.runtime.keys import Keys
from aios.runtime.lineage import Lineage
from aios.runtime.log import PredictionLog
from aios.runtime.models import Models
from aios.runtime.objects import Endpoint, Live, Rollout
from aios.runtime.tables import Status, Table
from aios.runtime.training import Run, start_run
from aios.runtime.transport import Transport
from aios.runtime.watched import Watched
from aios.training.reproduce import Reproduction


class Runtime(Accounted, Watched, Acting, Delegated, Eventful, PredictionLog, Measured, Live):
    """A running aios: register models, deploy endpoints, roll versions out and back.

    Get one from `aios.connect()` or `aios.local()`. It holds a connection and nothing else.
    """

    def __init__(self, address: str, key: str | None) -> None:
        self._transport = Transport(address, key)
        self.address = self._transport.address
        self.key = key
        self.models = Models(self._transport)
        self.audit = Audit(self._transport)
        self.keys = Keys(self._transport)

    def deploy(
        self,
        name: str,
        version: str | ModelVersion,
        *,
        deadline_s: float = 1.0,
        replicas: int | Autoscale = 1,
        fallback: Sequence[Cached | Rule | Default] = (),
        wait_s: float = 120.0,
        **settings: Any,
    ) -> Endpoint:
        """Serve a version as endpoint `name`, or change how an endpoint is served.

        Args:
            version: such as `loan:1`. An endpoint that serves another version already is not
                switched over: that is what `rollout` is for.
            deadline_s: the whole budget of one request.
            replicas: a number, or `aios.Autoscale(1, 8)`.
            fallback: what answers when the model cannot, tried in order.
            wait_s: how long to wait until it answers; 0 returns at once.
            settings: see `EndpointSpec`: max_queued, max_body_bytes, max_rows,
                record_fraction, require_key, threads, and gpus=1 (or a share of one) to keep the
                model on a GPU.

        Raises:
            IllegalTransition: the endpoint serves another version, or a rollout runs.
            DeadlineExceeded: it is not ready after `wait_s`; says what Serve reports.
            UsageError: it asks for a GPU and there is none.
        """
        ref = version.ref if isinstance(version, ModelVersion) else version
        if not isinstance(ref, str):
            raise UsageError(f"the version is {version!r:.60}; give one such as {name}:1")
        scale = Autoscale(replicas, replicas) if isinstance(replicas, int) else replicas
        fields = {
            "deadline_s": deadline_s,
            "replicas": scale,
            "fallback": tuple(fallback),
            **settings,
        }
        try:
            spec = EndpointSpec(name=name, model=ref.split(":")[0].split("@")[0], **fields)
        except ValidationError as error:
            raise UsageError(_explain(error)) from None
        body = {"version": ref, "spec": spec.model_dump(mode="json", exclude={"name", "model"})}
        self._transport.change("PUT", f"/api/v1/endpoints/{name}", body)
        endpoint = Endpoint(self._transport, name)
        return endpoint.wait(wait_s) if wait_s else endpoint

    def endpoint(self, name: str) -> Endpoint:
        """An endpoint that is deployed.

        Raises:
            UnknownEndpoint: it is not; says which are.
        """
        self._transport.get(f"/api/v1/endpoints/{name}")
        return Endpoint(self._transport, name)

    def remove(self, name: str) -> None:
        """Take an endpoint down; its history stays.

        Raises:
            IllegalTransition: a rollout runs on it.
        """
        self._transport.change("DELETE", f"/api/v1/endpoints/{name}")

    def rollout(
        self, endpoint: str, version: str | ModelVersion, plan: Canary | BlueGreen | Shadow
    ) -> Rollout:
        """Start to move an endpoint to another version; returns at once.

        Raises:
            IllegalTransition: one runs on this endpoint already.
            UsageError: the version's contract is narrower than stable's; names the fields.
        """
        if not isinstance(plan, Canary | BlueGreen | Shadow):
            raise UsageError(
                f"the plan is {plan!r:.60}; give aios.Canary(), aios.BlueGreen() or aios.Shadow()"
            )
        ref = version.ref if isinstance(version, ModelVersion) else version
        body = {"version": ref, "plan": plan.model_dump(mode="json")}
        found = self._transport.change("POST", f"/api/v1/endpoints/{endpoint}/rollouts", body)
        return Rollout(self._transport, found["id"])

    def get_rollout(self, rollout_id: str) -> Rollout:
        """A rollout that somebody started, by the id that `rollouts` lists.

        Raises:
            UnknownRollout: there is none; says which run.
        """
        self._transport.get(f"/api/v1/rollouts/{rollout_id}")
        return Rollout(self._transport, rollout_id)

    def rollouts(self, endpoint: str | None = None) -> Table:
        """Rollouts that run or ran, oldest first."""
        found = self._transport.get("/api/v1/rollouts", endpoint=endpoint)
        columns = ["id", "endpoint", "from_version", "to_version", "status", "stage", "reason"]
        return Table("rollouts", found, columns)

    def rollback(self, endpoint: str, reason: str = "") -> int:
        """Give users what they had before: ends a running rollout, else undoes the last
        promotion. Returns the version that is stable now; every replica follows within a
        fraction of a second, and `endpoint(...).wait()` waits for it.

        Raises:
            IllegalTransition: there is no promotion to undo; a rollback is not undone by
                another one.
        """
        path = f"/api/v1/endpoints/{endpoint}/rollback"
        return int(self._transport.change("POST", path, {"reason": reason})["version"])

    def status(self) -> Status:
        """What is deployed, how it does, and which rollouts run."""
        return Status(self.address, self._transport.get("/api/v1/status"))

    def ps(self) -> Table:
        """Every process of the runtime's work: kernel, API, replicas of each arm, workers of flows,
        hosts of agents, readers of events."""
        columns = ["role", "name", "version", "pid", "node", "state", "in_flight", "revision"]
        return Table("processes", self._transport.get("/api/v1/ps"), columns)

    # -- training ---------------------------------------------------------------------

    def retrain(
        self, model: str, recipe: Any, *, data: Any, wait_s: float = 3600.0, **settings: Any
    ) -> ModelVersion:
        """Train, check and register the next version of a model; waits for it.

        A version whose gates did not all pass is registered too, so that its evidence is
        kept, and cannot serve: `rt.clearance(version.ref)` says what is missing.

        Args:
            settings: as in `start_retrain`.

        Raises:
            PermanentError: the run failed; says in which stage and why. Nothing is registered.
            DeadlineExceeded: it goes on after `wait_s`.
        """
        return self.start_retrain(model, recipe, data=data, **settings).wait(wait_s)

    def start_retrain(
        self,
        model: str,
        recipe: Any,
        *,
        data: Any,
        contract: Contract | None = None,
        search: Mapping[str, Domain] | None = None,
        trials: int = 1,
        seed: int = 0,
        resources: Mapping[str, float] | None = None,
        rollout: tuple[str, Canary | BlueGreen | Shadow] | None = None,
        tracking_uri: str | None = None,
        trial_time_limit_s: float = 600.0,
        memory_limit_bytes: int | None = None,
    ) -> Run:
        """Begin a training run and return at once; it survives restarts of anything.

        Args:
            recipe: a subclass of `aios.Recipe`. Its source text is what runs.
            data: a DataFrame, a path or URL of Parquet or CSV, or `aios.DataSource(...)`.
            contract: of the version; default: that of the model's newest version.
            search: setting -> `aios.loguniform(...)` and the like; `trials` of them are tried.
            resources: `cpus` and `gpus` of one trial.
            rollout: (endpoint, plan) to begin once the version may serve.
            tracking_uri: MLflow server that gets run, trials, metrics and model.
            trial_time_limit_s, memory_limit_bytes: bounds of one trial.

        Raises:
            UsageError: recipe, data or search cannot be taken, or the model's use is prohibited.
        """
        return start_run(
            self._transport,
            model,
            recipe,
            data,
            contract=contract,
            search=search,
            trials=trials,
            seed=seed,
            resources=resources,
            rollout=rollout,
            tracking_uri=tracking_uri,
            trial_time_limit_s=trial_time_limit_s,
            memory_limit_bytes=memory_limit_bytes,
        )

    def assess(self, ref: str, recipe: Any, *, data: Any, wait_s: float = 3600.0) -> Assessment:
        """Run the gates over a version that exists, on this data; waits for it.

        The recipe says which column is the label, which are protected and how rows are split;
        nothing is trained. Only the holdout counts: a version that was trained on rows of it
        looks better than it is.
        """
        found = self.models.get(ref)
        run = start_run(self._transport, found.name, recipe, data, assesses=found.ref)
        run.wait(wait_s)
        return self.assessment(found.ref)

    def runs(self, model: str | None = None) -> Table:
        """Training runs that go on or went on, oldest first."""
        found = self._transport.get("/api/v1/runs", name=model)
        columns = ["id", "model", "version", "status", "stage", "created_by", "error"]
        return Table("runs", found, columns)

    def run(self, run_id: str) -> Run:
        """A training run that somebody started, by the id that `runs` lists.

        Raises:
            UnknownName: there is none; says which go on.
        """
        self._transport.get(f"/api/v1/runs/{run_id}")
        return Run(self._transport, run_id)

    # -- governance -------------------------------------------------------------------

    def declare(
        self,
        model: str,
        *,
        use: str,
        purpose: str = "",
        owner: str = "",
        limits: Sequence[str] = (),
        protected: Sequence[str] = (),
    ) -> ModelProfile:
        """Say what a model is for: it decides which gates and approvals its versions need.

        Raises:
            UsageError: the policy knows no such use, or prohibits it.
        """
        for what, given in (("limits", limits), ("protected", protected)):
            if isinstance(given, str):
                raise UsageError(f"{what}={given!r:.60}: give several texts, in a list")
        body = {
            "use": use,
            "purpose": purpose,
            "owner": owner,
            "limits": list(limits),
            "protected": list(protected),
        }
        found = self._transport.change("PUT", f"/api/v1/models/{model}/profile", body)
        return ModelProfile.model_validate(found)

    def policy(self) -> PolicyText:
        """The policy in force: tiers, their gates and approvals, and which use is in which."""
        return PolicyText(self._transport.get("/api/v1/policy"))

    def set_policy(self, path: str | Path) -> PolicyText:
        """Put a policy file in force. Assessments made under another one count no more.

        Raises:
            UsageError: it is no policy; names the field.
        """
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the policy {path} cannot be read: {error}") from None
        self._transport.change("PUT", "/api/v1/policy", {"text": text})
        return self.policy()

    def assessment(self, ref: str) -> Assessment:
        """What the gates found over a version, newest.

        Raises:
            UnknownName: it was never assessed.
        """
        return Assessment.model_validate(self._transport.get(f"/api/v1/models/{ref}/assessment"))

    def clearance(self, ref: str) -> Clearance:
        """Whether a version may become stable now, and everything that is missing if not."""
        return Clearance.model_validate(self._transport.get(f"/api/v1/models/{ref}/clearance"))

    def card(self, ref: str) -> Card:
        """A version's model card, as of its newest assessment."""
        return Card(ref, self.assessment(ref).card)

    def approvals(self) -> Inbox:
        """What waits for somebody's approval."""
        found = self._transport.get("/api/v1/approvals")
        return Inbox([ApprovalRequest.model_validate(fields) for fields in found])

    def approve(self, subject: str | ApprovalRequest, *, reason: str) -> ApprovalRequest:
        """Say yes, with your name: to a version (`loan:2`) or to a rollout's next step (its id).

        Args:
            subject: which, or its row in `rt.approvals()`: then the answer counts for what that
                row was about, and is refused if something else is asked by now.
            reason: kept in the audit log.

        Raises:
            Forbidden: you made it, or your role may not approve.
            IllegalTransition: it is void, expired, answered, or you have answered before.
        """
        return self._answer(subject, "approve", reason)

    def reject(self, subject: str | ApprovalRequest, *, reason: str) -> ApprovalRequest:
        """Say no, with your name. One no is enough."""
        return self._answer(subject, "reject", reason)

    def _answer(self, about: str | ApprovalRequest, answer: str, reason: str) -> ApprovalRequest:
        seen = about.id if isinstance(about, ApprovalRequest) else None
        subject = about.subject if isinstance(about, ApprovalRequest) else about
        found = self._transport.change(
            "POST", f"/api/v1/approvals/{subject}/{answer}", {"reason": reason, "request": seen}
        )
        return ApprovalRequest.model_validate(found)

    def break_glass(self, model: str, *, reason: str, lasts_s: float = 900.0) -> BreakGlass:
        """Let a model serve around its gates for up to 15 minutes; administrators only.

        It is in the audit log, and in red in `rt.status()` as long as it lasts. A version that
        served only because of it is never what a rollback leads to.
        """
        body = {"reason": reason, "lasts_s": lasts_s}
        found = self._transport.change("POST", f"/api/v1/models/{model}/break-glass", body)
        return BreakGlass.model_validate(found)

    def history(self, endpoint: str, at: float | datetime | None = None) -> History:
        """What an endpoint served and what let it: always, or at one time (Unix seconds)."""
        at_s = at.timestamp() if isinstance(at, datetime) else at
        found = self._transport.get(f"/api/v1/endpoints/{endpoint}/history", at_s=at_s)
        return History(endpoint, [Serving.model_validate(fields) for fields in found])

    def lineage(self, ref: str) -> Lineage:
        """What a version came from and what became of it, as a graph: data, run, version, gates,
        approvals, rollouts, endpoints. It prints as a tree; `.openlineage()` gives it to a data
        catalogue, `.save(path)` as a page.

        Raises:
            UnknownModel: there is no such version.
        """
        return Lineage(self._transport.get(f"/api/v1/models/{ref}/lineage"))

    def explain(self, request_id: str, row: int = 0) -> Explanation:
        """Why an answer was given: what was asked, which version answered, on which data it was
        trained, which gates and whose approval let it serve, and what each feature added.

        Takes a few seconds, the first time up to 15: the model is asked again, in a process of
        its own.

        Args:
            request_id: of the answer (`answer.request_id`, header `x-aios-request-id`).
            row: which record of the request, from 0.

        Raises:
            UnknownName: it is not in the prediction log. Answers are written there every 5 s,
                and only the endpoint's `record_fraction` of them.
        """
        path = "/api/v1/explanation"
        return Explanation(self._transport.get(path, request_id=request_id, row=row))

    def reproduce(self, ref: str, *, wait_s: float = 3600.0) -> Reproduction:
        """Make a version again, from its own data, recipe, seed and settings, and compare:
        identical, equal within a tolerance, or what differs. Nothing is registered.

        Raises:
            UsageError: it was registered by hand.
            PermanentError: it cannot be made again, such as when its data are gone; says why.
            DeadlineExceeded: the run goes on after `wait_s`.
        """
        return reproduce(self._transport, ref, wait_s)

    def metrics(self) -> str:
        """Prometheus's text format, of all endpoints."""
        return self._transport.text("/metrics")

    def close(self) -> None:
        """Close the connection; a private runtime ends with it."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _named(self) -> str:
        return f"aios runtime at {self.address}"

    def _now(self) -> Shown:
        return self.status()


def _explain(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the endpoint"
    return f"{where}: {fault['msg']} (got {str(fault['input'])[:80]!r})"
