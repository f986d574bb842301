"""What a deployment or a rollout must fit before anything is begun."""

import numpy as np

from aios.contracts import Codec, Contract, compatibility
from aios.errors import (
    ContractViolation,
    Forbidden,
    IllegalTransition,
    UnknownEndpoint,
    UsageError,
)
from aios.governance import Policy
from aios.kernel.clearing import policy_of
from aios.kernel.commands import Asked
from aios.records import Default, EndpointSpec, ModelVersion
from aios.registry import Change


def refuse_unfit_defaults(spec: EndpointSpec, contract: Contract) -> None:
    """A constant that the contract forbids would be found out only when it is needed."""
    codec = Codec(contract)
    for step in spec.fallback:
        if isinstance(step, Default):
            try:
                columns = {name: np.asarray([value]) for name, value in step.outputs.items()}
                codec.check_outputs(columns, 1)
            except (ContractViolation, ValueError, TypeError) as error:
                raise UsageError(
                    f"fallback Default({step.outputs!r}) does not fit the outputs of {spec.model}: "
                    f"{error}"
                ) from error


def refuse_absent_gpu(spec: EndpointSpec, most_gpus: float | None) -> None:
    """Serve would wait for it without an end.

    Args:
        most_gpus: what a node has at most; None where that is not known, or may grow.
    """
    if most_gpus is not None and spec.gpus > most_gpus:
        raise UsageError(
            f"no GPU here: endpoint {spec.name!r} asks for gpus={spec.gpus:g}, and no node has "
            "one; leave gpus out, or start the runtime on a machine with a GPU"
        )


def refuse_other_version(spec: EndpointSpec, stable: int, version: ModelVersion) -> None:
    if spec.model != version.name or stable != version.version:
        raise IllegalTransition(
            f"endpoint {spec.name!r} serves {spec.model}:{stable}; to bring {version.ref} to its "
            f'users use rt.rollout("{spec.name}", "{version.ref}", aios.Canary(...))'
        )


def refuse_unfit(spec: EndpointSpec, now: ModelVersion, to: ModelVersion) -> None:
    if to.name != spec.model:
        raise UsageError(
            f"endpoint {spec.name!r} serves the model {spec.model!r}; {to.ref} is another model"
        )
    if to.version == now.version:
        raise UsageError(f"{to.ref} is the stable version of {spec.name!r} already")
    reasons = compatibility(Contract.from_json(now.contract), Contract.from_json(to.contract))
    if reasons:
        raise UsageError(
            f"{to.ref} cannot replace {now.ref}, its contract is narrower: " + "; ".join(reasons)
        )


def refuse_other_model(change: Change, spec: EndpointSpec, asked: Asked) -> None:
    """The name of an endpoint is what its users know. One that was removed comes back with
    another model only if that is governed as well, or an administrator says so: else the same
    bytes under another name would go around the gates.

    Raises:
        Forbidden: it served a model with gates or approvals, and the new one has none.
    """
    policy = policy_of(change)
    try:
        before = {one.model for one in change.servings(spec.name)} - {spec.model}
    except UnknownEndpoint:
        return
    governed = [name for name in sorted(before) if not _asks_nothing(policy, change, name)]
    if not governed or asked.caller.role == "admin":
        return
    if not _asks_nothing(policy, change, spec.model):
        return
    raise Forbidden(
        f"endpoint {spec.name!r} served {governed[0]}, which has gates to pass; {spec.model} has "
        f'none: declare what it is for with rt.declare("{spec.model}", use=...), or ask an '
        "administrator to deploy it"
    )


def _asks_nothing(policy: Policy, change: Change, model: str) -> bool:
    try:
        return policy.tier_of(change.profile(model).use)[1].asks_nothing
    except UsageError:
        return False  # a use that the policy does not know may serve nothing
