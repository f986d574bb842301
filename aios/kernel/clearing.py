"""The guard: what the registry holds of a version, put before governance's one decision."""

from typing import Any

from aios.governance import Policy, clearance, default_policy
from aios.records import Clearance, ModelVersion
from aios.registry import Reads


def policy_of(reads: Reads) -> Policy:
    """The policy in force: what was set, else the one that comes with aios."""
    content = reads.policy()
    return default_policy() if content is None else Policy.model_validate(content)


def guard(reads: Reads, version: ModelVersion) -> Clearance:
    """Whether a version may become stable now; a `registry.Guard`, and an answer to a query.

    Reads the policy in force, what the model was declared for, the version's newest assessment
    and newest approval request, and whether glass is broken for its model.
    """
    requests = reads.approvals(version.ref)
    return clearance(
        policy_of(reads),
        reads.profile(version.name),
        version,
        reads.assessment(version.ref),
        requests[-1] if requests else None,
        reads.now_s(),
        reads.break_glass(version.name),
    )


def uncleared(reads: Reads) -> list[dict[str, Any]]:
    """What serves and would not be let serve today, by endpoint: since a rule, a declaration or
    an approval changed, or glass was broken for it."""
    found = []
    for state in reads.endpoints():
        version = reads.version(f"{state.spec.model}:{state.stable_version}")
        clearance = guard(reads, version)
        if not clearance.allowed:
            told = {"endpoint": state.spec.name, "ref": version.ref}
            found.append({**told, "missing": list(clearance.missing)})
    return found
