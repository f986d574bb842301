"""What a deployment or a rollout must fit before anything is begun."""

import numpy as np

from aios.contracts import Codec, Contract, compatibility
from aios.errors import ContractViolation, IllegalTransition, UsageError
from aios.records import Default, EndpointSpec, ModelVersion


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
