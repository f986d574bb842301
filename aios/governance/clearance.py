"""Whether a version may become stable: one pure decision over records and a time."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from aios.errors import UsageError
from aios.governance.policy import Policy, Tier
from aios.presentation import moment
from aios.records.governed import (
    ApprovalRequest,
    Assessment,
    BreakGlass,
    Clearance,
    GateResult,
    ModelProfile,
)
from aios.records.serving import ModelVersion
from aios.store.canonical import canonical


def seal(
    artifact_digest: str,
    snapshot_digest: str,
    results: Sequence[GateResult],
    policy_digest: str,
) -> str:
    """The digest that an approval is bound to: `Assessment.digest`.

    sha256 over the canonical JSON of all four; the order in which gates ran does not count.

    Raises:
        UsageError: a result holds what has no JSON form, such as NaN in its evidence.
    """
    # As they come back from the database, where all keys are text.
    told = [json.loads(canonical(result.model_dump())) for result in results]
    sealed = {
        "artifact": artifact_digest,
        "snapshot": snapshot_digest,
        "results": sorted(told, key=canonical),
        "policy": policy_digest,
    }
    return hashlib.sha256(canonical(sealed).encode("ascii")).hexdigest()


def request_for(
    tier: Tier, assessment: Assessment, author: str, now_s: float
) -> ApprovalRequest | None:
    """The request for the approvals that this tier needs; None if there is nothing to ask.

    That is so when the tier needs no approval, is prohibited, or a gate has not passed:
    people are asked only about what could serve. The id follows from the rest, so a repeat
    makes the same request and a later one a new one.
    """
    if tier.prohibited or not tier.approvals or any(_unpassed(tier, assessment)):
        return None
    made_of = canonical([assessment.ref, assessment.digest, author, now_s])
    return ApprovalRequest(
        id=hashlib.sha256(made_of.encode("ascii")).hexdigest()[:16],
        subject=assessment.ref,
        name=assessment.name,
        version=assessment.version,
        digest=assessment.digest,
        needed=tier.approvals,
        author=author,
        requested_s=now_s,
        expires_s=now_s + tier.approval_expires_s,
    )


def clearance(
    policy: Policy,
    profile: ModelProfile,
    version: ModelVersion,
    assessment: Assessment | None,
    request: ApprovalRequest | None,
    now_s: float,
    break_glass: BreakGlass | None = None,
) -> Clearance:
    """Whether this version may become stable now, and if not, everything that is missing.

    A prohibited use never may, and a use that the policy does not know might be one. A tier
    that asks for nothing always may. Else the version needs an assessment of its own bytes,
    under this policy, made since its use was declared, in which every gate of the tier
    passed, and as many approvals of that very assessment as the tier asks for, from people
    who made neither the version nor the request. A break-glass that is active stands in for
    all that, except where the use is prohibited.

    Args:
        assessment: the newest of this version. `request`: the newest for this version.
    """
    try:
        tier_name, tier = policy.tier_of(profile.use)
    except UsageError as error:
        wanted = f'{error.message}: declare one of them with rt.declare("{version.name}", use=...)'
        return Clearance(ref=version.ref, tier="unknown", allowed=False, missing=(wanted,))

    def answer(*missing: str, **cleared_by: Any) -> Clearance:
        return Clearance(
            ref=version.ref,
            tier=tier_name,
            allowed=not missing,
            missing=missing,
            cleared_by=cleared_by,
        )

    if tier.prohibited:
        return answer(_prohibition(policy, profile, tier))
    if tier.asks_nothing:
        return answer(tier=tier_name)
    missing = [
        *_missing_evidence(policy, tier, profile, version, assessment),
        *_missing_approvals(tier, version, assessment, request, now_s),
    ]
    if missing:
        if break_glass is not None and _is_active(break_glass, version, now_s):
            return answer(break_glass=break_glass.id)
        return answer(*missing)
    return answer(
        tier=tier_name,
        policy=policy.digest,
        **({"assessment": assessment.digest} if assessment else {}),
        **({"request": request.id, "approvers": list(request.approvers)} if request else {}),
    )


def _prohibition(policy: Policy, profile: ModelProfile, tier: Tier) -> str:
    rule = policy.uses.get(profile.use)
    article = (rule.article if rule else "") or "; ".join(tier.articles) or f"policy {policy.name}"
    return f"the use {profile.use!r} is prohibited ({article}): it may not serve, by no approval"


def _missing_evidence(
    policy: Policy,
    tier: Tier,
    profile: ModelProfile,
    version: ModelVersion,
    assessment: Assessment | None,
) -> Iterator[str]:
    """What is wrong with the assessment, as sentences."""
    ref = version.ref
    again = f'run rt.assess("{ref}", recipe, data=...)'
    if assessment is None:
        yield f"{ref} was never assessed: {again}"
        return
    if (assessment.name, assessment.version) != (version.name, version.version):
        yield f"the assessment is of {assessment.ref}, not of {ref}: {again}"
        return
    if assessment.artifact_digest != version.artifact.digest:
        yield f"the assessment of {ref} is of other bytes than the version's: {again}"
    if assessment.policy_digest != policy.digest:
        yield f"the policy has changed since {ref} was assessed: {again}"
    if profile.declared_s > assessment.at_s:
        # Gates read the declaration: protected attributes, limits, and the tier itself.
        declared = f"{version.name} was declared anew, at {moment(profile.declared_s)}"
        yield f"{declared}, since {ref} was assessed: {again}"
    expected = seal(
        assessment.artifact_digest,
        assessment.snapshot_digest,
        assessment.results,
        assessment.policy_digest,
    )
    if assessment.digest != expected:
        yield f"the assessment of {ref} is not what its digest seals, it was altered: {again}"
    yield from _unpassed(tier, assessment)


def _unpassed(tier: Tier, assessment: Assessment) -> Iterator[str]:
    """Which of the tier's gates have not passed. One of two results of a gate is not enough."""
    again = f'run rt.assess("{assessment.ref}", recipe, data=...)'
    asked = {*tier.gates}
    for result in assessment.results if tier.gates else ():
        if result.gate == "holdout" and result.gate not in asked and result.outcome != "passed":
            yield f"the holdout of the assessment does not count: {result.reason}"
    for gate in tier.gates:
        results = [result for result in assessment.results if result.gate == gate]
        if not results:
            yield f"the gate {gate} was not run over {assessment.ref}: {again}"
        for result in results:
            if result.outcome == "failed":
                yield (
                    f"the gate {gate} failed ({result.reason}): mend that and {again}, or train a "
                    "better version"
                )
            elif result.outcome != "passed":
                yield (
                    f"the gate {gate} had not enough data ({result.reason}): {again} with more rows"
                )


def _missing_approvals(
    tier: Tier,
    version: ModelVersion,
    assessment: Assessment | None,
    request: ApprovalRequest | None,
    now_s: float,
) -> Iterator[str]:
    """Who still has to say yes, as sentences."""
    if not tier.approvals:
        return
    ref = version.ref
    if request is None:
        if assessment is not None and any(_unpassed(tier, assessment)):
            yield f"{ref} needs {_approvals(tier.approvals)}, asked for once its gates have passed"
            return
        yield f"{ref} needs {_approvals(tier.approvals)}, and none was asked for: rt.assess does so"
        return
    if (request.subject, request.name, request.version) != (ref, version.name, version.version):
        yield f"the approval is for {request.subject}, not for {ref}"
    if assessment is None or request.digest != assessment.digest:
        yield (
            f"the approval of {ref} is void, as it was for another assessment: "
            f"ask for a new one, rt.assess does so"
        )
    state = request.state(now_s)
    if state == "rejected":
        no = next(each for each in request.decisions if each.answer == "rejected")
        yield f"{ref} was rejected by {no.by}: {no.reason}"
    elif state == "expired":
        yield f"the approval of {ref} expired at {moment(request.expires_s)}: run rt.assess again"
    else:
        # The request may have been made by another's hand than the version.
        authors = {request.author, version.created_by}
        open_ = tier.approvals - len(set(request.approvers) - authors)
        if open_ > 0:
            yield (
                f"{ref} waits for {_approvals(open_)} by others than its author: "
                f'ask an approver: rt.approve("{ref}", reason=...)'
            )


def _approvals(count: int) -> str:
    return f"{count} approval" if count == 1 else f"{count} approvals"


def _is_active(break_glass: BreakGlass, version: ModelVersion, now_s: float) -> bool:
    return break_glass.name == version.name and (break_glass.from_s <= now_s < break_glass.until_s)
