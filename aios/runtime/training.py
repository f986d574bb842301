"""`rt.retrain` and what it gives: runs that one can watch, and versions at their end."""

import hashlib
import io
import os
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aios.contracts import Contract
from aios.errors import DeadlineExceeded, PermanentError, UnknownModel, UsageError
from aios.presentation import Shown, duration
from aios.records import DataSource, Domain, ModelVersion, RunSpec, Trial
from aios.rollout import BlueGreen, Canary, Shadow
from aios.runtime.objects import LOOK_S, Live, spinner
from aios.runtime.tables import Look
from aios.runtime.transport import Transport
from aios.training.environment import describe_environment
from aios.training.recipe_source import recipe_source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv"}
SHOWN_TRIALS = 30


class RunStatus(Shown):
    """A training run at one moment.

    Attributes:
        outcome: `running`, `registered`, `refused` (registered, but a gate did not pass),
            `failed` or `cancelled`.
        stage: what is going on, or was going on last.
        version: the number of the version it made; None before it is registered.
        trials: what the search tried so far.
        fields: all of it, as plain values.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.id: str = fields["id"]
        self.model: str = fields["model"]
        self.outcome: str = fields["status"]
        self.stage: str = fields["stage"]
        self.version: int | None = fields["version"]
        self.error: str | None = fields["error"]
        self.metrics: dict[str, float] = fields["metrics"]
        self.config: dict[str, Any] | None = fields["config"]
        self.trials = [Trial.model_validate(trial) for trial in fields["trials"]]
        self.fields = fields

    @property
    def finished(self) -> bool:
        return self.outcome != "running"

    @property
    def registered(self) -> bool:
        """Whether the version exists and is logged where it is tracked, also when a rollout is
        still to come."""
        left = set(self.fields["stages"]) - set(self.fields["done"])
        return self.finished or left <= {"rollout"}

    @property
    def summary(self) -> str:
        """One line: outcome or stage, and how far the search is."""
        ended = sum(trial.state != "running" for trial in self.trials)
        head = self.outcome if self.finished else self.stage
        if self.stage == "search" and not self.finished:
            best = _best(self.fields["metric"], self.trials)
            head = f"search, {ended} of {self.fields['spec']['trials']} trials{best}"
        return f"{head}: {self.error}" if self.error else head

    def _shown(self) -> Look:
        version = f" -> {self.model}:{self.version}" if self.version is not None else ""
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        title = f"run {self.id}{version}, {self.summary}{f'; {metrics}' if metrics else ''}"
        names = list(dict.fromkeys(name for trial in self.trials for name in trial.config))
        rows = [
            [
                trial.number,
                trial.state,
                *(trial.config.get(name) for name in names),
                trial.value,
                duration(trial.seconds),
                trial.error,
            ]
            for trial in self.trials[:SHOWN_TRIALS]
        ]
        metric = self.fields["metric"] or "value"
        return title, ["trial", "state", *names, metric, "took", "error"], rows


class Run(Live):
    """A training run, going on or ended. Holds only its id; every call asks the runtime."""

    def __init__(self, transport: Transport, run_id: str) -> None:
        self._transport = transport
        self.id = run_id

    def status(self) -> RunStatus:
        """Where it is, and the trials so far."""
        return RunStatus(self._transport.get(f"/api/v1/runs/{self.id}"))

    def wait(self, timeout_s: float = 3600.0) -> ModelVersion:
        """Wait until its version is registered, and return that.

        A version whose gates did not all pass is returned too: `rt.assessment(ref)` says
        which, and it cannot serve. Where it could not be tracked or rolled out, a warning says
        why.

        Raises:
            DeadlineExceeded: it runs on after `timeout_s`; it is not touched.
            PermanentError: it failed or was cancelled; says in which stage and why.
        """
        give_up_s = time.monotonic() + timeout_s
        with spinner(f"run {self.id}") as show:
            while True:
                status = self.status()
                if status.registered and status.outcome not in ("failed", "cancelled"):
                    if status.error is not None:
                        warnings.warn(f"run {self.id}: {status.error}", stacklevel=3)
                    ref = f"{status.model}:{status.version}"
                    found = self._transport.get(f"/api/v1/models/{ref}")
                    return ModelVersion.model_validate(found)
                if status.finished:
                    raise PermanentError(
                        f"run {self.id} {status.outcome}: {status.error}", run=self.id
                    )
                show(f"run {self.id}: {status.summary}")
                if time.monotonic() > give_up_s:
                    raise DeadlineExceeded(
                        f"run {self.id} goes on after {timeout_s} s: {status.summary}"
                    )
                time.sleep(LOOK_S)

    def cancel(self) -> None:
        """End it. What was registered by then stays, as a version that was not rolled out.

        Raises:
            IllegalTransition: it has ended.
        """
        self._transport.change("POST", f"/api/v1/runs/{self.id}/cancel", {})

    def plot(self) -> "Figure":
        """The value of each trial, and the best so far, as a matplotlib figure."""
        from matplotlib.figure import Figure

        status = self.status()
        known = [(t.number, t.value, t.state) for t in status.trials if t.value is not None]
        better = min if status.fields["mode"] == "min" else max
        best = [better(value for _, value, _ in known[: n + 1]) for n in range(len(known))]
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        for state, colour in (("finished", "#2e6f9e"), ("stopped", "#b8860b")):
            shown = [(number, value) for number, value, how in known if how == state]
            numbers = [number for number, _ in shown]
            axes.scatter(numbers, [value for _, value in shown], label=state, color=colour)
        axes.step([number for number, _, _ in known], best, where="post", label="best so far")
        axes.set(xlabel="trial", ylabel=status.fields["metric"], title=f"run {self.id}")
        axes.legend()
        return figure

    def _named(self) -> str:
        return f"run {self.id} at {self._transport.address}"

    def _now(self) -> Shown:
        return self.status()


def start_run(transport: Transport, model: str, recipe: Any, data: Any, **wanted: Any) -> Run:
    """Send a run on its way; see `Runtime.start_retrain`."""
    spec = run_spec(transport, model, recipe, data, **wanted)
    found = transport.change("POST", "/api/v1/runs", {"spec": spec.model_dump(mode="json")})
    return Run(transport, found["id"])


def run_spec(
    transport: Transport,
    model: str,
    recipe: Any,
    data: Any,
    *,
    contract: Contract | None = None,
    search: Mapping[str, Domain] | None = None,
    trials: int = 1,
    seed: int = 0,
    resources: Mapping[str, float] | None = None,
    rollout: tuple[str, Canary | BlueGreen | Shadow] | None = None,
    assesses: str | None = None,
    **limits: Any,
) -> RunSpec:
    """All that a run is asked to do; a DataFrame is sent now. See `Runtime.start_retrain`."""
    if contract is None:
        contract = _newest_contract(transport, assesses or model)
    wanted = dict(resources or {})
    cpus, gpus = wanted.pop("cpus", 1.0), wanted.pop("gpus", 0.0)
    if wanted:
        raise UsageError(f"resources are cpus and gpus, not {', '.join(wanted)}")
    for name, domain in (search or {}).items():
        if not isinstance(domain, Domain):
            raise UsageError(
                f"search: {name} is {domain!r:.60}; give aios.uniform, loguniform, integers or "
                "choice"
            )
    source = recipe_source(recipe)
    fields = {
        "model": model,
        "recipe": source,
        "data": _source(transport, data),
        "contract": contract.to_json(),
        "search": dict(search or {}),
        "trials": trials,
        "seed": seed,
        "cpus": cpus,
        "gpus": gpus,
        "environment": describe_environment(source.folder),
        "rollout": None if rollout is None else _rollout(*rollout),
        "assesses": assesses,
        **limits,
    }
    return _checked(fields)


def _checked(fields: dict[str, Any]) -> RunSpec:
    from pydantic import ValidationError

    try:
        return RunSpec.model_validate(fields)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UsageError(f"{where}: {fault['msg']} (got {fault['input']!r:.80})") from None


def _rollout(endpoint: str, plan: Canary | BlueGreen | Shadow) -> dict[str, Any]:
    if not isinstance(plan, Canary | BlueGreen | Shadow):
        raise UsageError(f'rollout is ("endpoint", aios.Canary(...)), not ({endpoint!r}, {plan!r})')
    return {"endpoint": endpoint, "plan": plan.model_dump(mode="json")}


def _newest_contract(transport: Transport, ref: str) -> Contract:
    try:
        found = transport.get(f"/api/v1/models/{ref}")
    except UnknownModel:
        raise UsageError(
            f"{ref} has no version whose contract could be taken; give contract=aios.Contract(...)"
        ) from None
    return Contract.from_json(found["contract"])


def _source(transport: Transport, data: Any) -> DataSource:
    """Where the rows are: a path or URL by its ending, a DataFrame (sent now), or as given."""
    if isinstance(data, DataSource):
        return data
    if hasattr(data, "to_parquet") and hasattr(data, "columns"):
        content = io.BytesIO()
        data.to_parquet(content, index=False)
        body = content.getvalue()
        digest = hashlib.sha256(body).hexdigest()
        found = transport.change("PUT", f"/api/v1/data/{digest}", content=body)
        return DataSource(kind="frame", location=found["location"])
    text = str(data)
    path = text.split("?")[0].rstrip("/*")
    kind = next((kind for ending, kind in _KINDS.items() if path.endswith(ending)), None)
    if kind is None:
        raise UsageError(
            f"data is {text[:80]!r}; give a DataFrame, a path that ends in .parquet or .csv, or "
            'aios.DataSource(kind="delta", location=..., version=...)'
        )
    if "://" not in text:
        text = os.path.abspath(os.path.expanduser(text))  # the cluster has other working folders
    return DataSource.model_validate({"kind": kind, "location": text})


def _best(metric: str | None, trials: list[Trial]) -> str:
    known = [trial.value for trial in trials if trial.value is not None]
    return f", {metric} {known[-1]:.4g} last" if metric and known else ""
