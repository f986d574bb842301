"""Whether a candidate's bytes are safe, and whether it can take stable's place for callers."""

from typing import Any

from aios.contracts import compatibility
from aios.errors import ArtifactRejected
from aios.governance.candidate import Candidate, Context
from aios.governance.gates.params import ArtifactParams, ContractParams
from aios.governance.gates.verdicts import verdict
from aios.models import verify
from aios.models.artifact import read_verified
from aios.models.manifest import Manifest
from aios.models.pt2 import check_archive
from aios.models.safety import check_onnx, refuse_pickle
from aios.records import GateResult


def judge_artifact(candidate: Candidate, context: Context, params: ArtifactParams) -> GateResult:
    """Every byte is what the digest says, nothing is a pickle, and every operator is allowed
    (`aios.models.safety`, `aios.models.pt2`); trusted code only where the policy takes it."""
    try:
        manifest = verify(candidate.folder, candidate.artifact.digest)
        for name in manifest.files:
            _check_file(candidate, manifest, name)
    except ArtifactRejected as error:
        return verdict("artifact", "failed", error.message, files=[])
    evidence: dict[str, Any] = {
        "digest": candidate.artifact.digest,
        "engine": manifest.engine,
        "files": sorted(manifest.files),
        "trusted_code": manifest.trusted_code,
    }
    if manifest.engine != candidate.artifact.engine:
        reason = f"it is for the engine {manifest.engine}, not {candidate.artifact.engine}"
        return verdict("artifact", "failed", reason, **evidence)
    if manifest.trusted_code and not params.allow_trusted_code:
        source = manifest.python.path if manifest.python else "a Python class"
        reason = (
            f"it runs {source}, trusted code that is not part of its bytes; convert the model, or "
            "set `allow_trusted_code` in the policy"
        )
        return verdict("artifact", "failed", reason, **evidence)
    told = f"{len(manifest.files)} files are what the digest says, and safe to load"
    return verdict("artifact", "passed", told, **evidence)


def _check_file(candidate: Candidate, manifest: Manifest, name: str) -> None:
    content = read_verified(candidate.folder, manifest, name)
    if name.endswith(".onnx"):
        check_onnx(content, name)
    elif name.endswith(".pt2"):
        check_archive(content, name)
    else:
        refuse_pickle(content, name)


def judge_contract(candidate: Candidate, context: Context, params: ContractParams) -> GateResult:
    """Whoever calls stable can call the candidate (`aios.contracts.compatibility`), and no
    protected attribute is an input."""
    stable = context.stable
    breaks = compatibility(stable.contract, candidate.contract) if stable else []
    inputs = [name for name in candidate.protected if name in candidate.contract.inputs]
    faults = [] if params.allow_breaking else list(breaks)
    if candidate.output not in candidate.contract.outputs:
        faults.append(f'there is no output "{candidate.output}"')
    if inputs and not params.allow_protected:
        faults.append(f"the protected attributes {', '.join(inputs)} are inputs of the model")
    evidence: dict[str, Any] = {
        "against": stable.ref if stable else None,
        "breaks": breaks,
        "protected_inputs": inputs,
        "digest": candidate.contract.digest,
    }
    if faults:
        return verdict("contract", "failed", "; ".join(faults), len(faults), 0, **evidence)
    if stable is None:
        told = "the first version; no caller depends on an older contract"
    elif breaks:
        told = f"it differs from {stable.ref}'s, as the policy allows: {'; '.join(breaks)}"
    else:
        told = f"every request that {stable.ref} takes is taken"
    return verdict("contract", "passed", told, 0, 0, **evidence)
