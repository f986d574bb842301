"""What a training run leaves in the registry: a version, what was found of it, who is asked."""

from aios.contracts import Contract
from aios.errors import UsageError
from aios.governance import Policy, request_for
from aios.kernel.clearing import policy_of
from aios.kernel.stages import status_with
from aios.records import (
    ApprovalRequest,
    Artifact,
    Assessment,
    GateResult,
    ModelVersion,
    Snapshot,
    TrainingRun,
)
from aios.registry import Change, Reads, Registry
from aios.training.pipeline import CARD_REF


def register(registry: Registry, run: TrainingRun) -> None:
    """Version, snapshot, assessment, approval request and the run's row: all or nothing.

    Raises:
        IllegalTransition: the run was cancelled.
        UsageError: the policy has come to prohibit the model's use.
    """
    assessed = run.results["assess"]
    with registry.change(
        actor=run.created_by,
        action="register" if run.spec.assesses is None else "assess",
        subject=run.model,
        details={"run": run.id},
        operation_id=f"{run.id}-register",
    ) as change:
        if change.done is not None:
            return
        snapshot = Snapshot.model_validate(run.results["snapshot"]["snapshot"])
        change.add_snapshot(snapshot)
        version = (
            _add_version(change, run, snapshot)
            if run.spec.assesses is None
            else change.version(run.spec.assesses)
        )
        assessment = Assessment(
            id=run.id,
            name=version.name,
            version=version.version,
            run=run.id,
            artifact_digest=version.artifact.digest,
            snapshot_digest=snapshot.digest,
            policy_digest=assessed["policy_digest"],
            digest=assessed["digest"],
            results=tuple(GateResult.model_validate(one) for one in assessed["results"]),
            card=assessed["card"].replace(CARD_REF, version.ref),
            # What was declared while the gates ran, they did not see.
            at_s=assessed.get("as_of_s", change.at_s),
            by=run.created_by,
        )
        change.add_assessment(assessment)
        request = _ask(change, run, version, assessment)
        result = {
            "version": version.version,
            "ref": version.ref,
            "passed": assessment.passed,
            "assessment": assessment.digest,
            "request": request,
        }
        results = {**run.results, "register": result}
        status = status_with(run.spec, results)
        change.save_run(run.id, status, "register", results, version=version.version)
        change.remember(result)


def void_reason(reads: Reads, request: ApprovalRequest) -> str | None:
    """Why nobody need answer a request about a version any more; None if it still counts."""
    ref = f"{request.name}:{request.version}"
    if request.subject != ref:
        return None
    assessment = reads.assessment(ref)
    if assessment is None or assessment.digest != request.digest:
        why, then = "it was assessed again since", "look at rt.approvals()"
    elif assessment.policy_digest != policy_of(reads).digest:
        why, then = "the policy changed since it was assessed", f'run rt.assess("{ref}", ...)'
    elif reads.profile(request.name).declared_s > assessment.at_s:
        why, then = "the model was declared anew since", f'run rt.assess("{ref}", ...)'
    else:
        return None
    return f"the request about {ref} is void: {why}; {then}"


def refuse_prohibited(policy: Policy, model: str, use: str) -> None:
    """Raise UsageError if the policy prohibits the use for which a model was declared."""
    _, tier = policy.tier_of(use)
    if tier.prohibited:
        rule = policy.uses.get(use)
        article = (rule.article if rule is not None else "") or "; ".join(tier.articles)
        raise UsageError(
            f"the use {use!r} of model {model} is prohibited by the policy {policy.name!r}"
            f"{f' ({article})' if article else ''}: it can be neither registered nor served"
        )


def _add_version(change: Change, run: TrainingRun, snapshot: Snapshot) -> ModelVersion:
    refuse_prohibited(policy_of(change), run.model, change.profile(run.model).use)
    refit, search = run.results["refit"], run.results.get("search", {})
    contract = Contract.from_json(run.spec.contract)
    environment = run.spec.environment
    return change.register(
        run.model,
        Artifact.model_validate(refit["artifact"]),
        contract.to_json(),
        contract.digest,
        metrics=refit["metrics"],
        lineage={
            "run": run.id,
            "snapshot": snapshot.digest,
            "recipe": {"path": run.spec.recipe.path, "sha256": run.spec.recipe.sha256},
            "config": search.get("config", {}),
            "search": {name: one.model_dump(mode="json") for name, one in run.spec.search.items()},
            "trials": run.spec.trials,
            "seed": run.spec.seed,
            "split_seed": run.results["split"].get("seed"),
            "git": environment.get("git"),
            "environment": refit.get("environment"),
            **({} if run.spec.cause is None else {"cause": run.spec.cause}),
        },
        conversion=refit["conversion"],
        created_by=run.created_by,
    )


def _ask(
    change: Change, run: TrainingRun, version: ModelVersion, assessment: Assessment
) -> str | None:
    policy = policy_of(change)
    if policy.digest != assessment.policy_digest:
        return None  # its assessment is void by now; nobody need be asked about it
    tier = policy.tier_of(change.profile(run.model).use)[1]
    request = request_for(tier, assessment, run.created_by, change.at_s)
    return None if request is None else change.request_approval(request).id
