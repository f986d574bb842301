"""Traffic plans: the next one of an endpoint, what replicas are told of one, who is in it."""

import hashlib

from aios.errors import UnknownEndpoint
from aios.kernel.serve_config import challenger_of
from aios.records import Challenger, EndpointSpec, ModelVersion, ServedVersion, TrafficPlan
from aios.registry import Change, Registry
from aios.security import permits


def served(version: ModelVersion) -> ServedVersion:
    """A version as replicas need it."""
    return ServedVersion(
        version=version.version, artifact=version.artifact, contract=version.contract
    )


def next_plan(
    change: Change,
    spec: EndpointSpec,
    stable: ModelVersion,
    *,
    challenger: Challenger | None = None,
    era: str | None = None,
    salt: str = "",
) -> TrafficPlan:
    """The plan that follows the newest one. Without `era` counting begins anew under a name
    that never comes again."""
    revision = change.endpoint(spec.name).revision + 1
    return TrafficPlan(
        revision=revision,
        spec=spec,
        stable=served(stable),
        challenger=challenger,
        era=era or f"steady-{revision}",
        salt=salt,
    )


def stamped(registry: Registry, endpoint: str, log_keys: str) -> tuple[str, TrafficPlan]:
    """The plan in force, with the keys that may call, and a stamp that differs whenever either
    does, or what stands for the keys of the prediction log.

    Raises:
        UnknownEndpoint: it is not deployed, or has no plan yet.
    """
    plan = registry.plan(endpoint)
    if plan is None:
        raise UnknownEndpoint(f"endpoint {endpoint!r} has no traffic plan yet")
    active = registry.keys()
    keys = tuple(sorted(key.digest for key in active if permits(key.role, "predict")))
    stamp = hashlib.sha256(" ".join((str(plan.revision), log_keys, *keys)).encode()).hexdigest()
    return stamp, plan.model_copy(update={"keys": keys})


def challenger_at(registry: Registry, app: str) -> tuple[str, str, int, str] | None:
    """Endpoint, model, version and arm of a challenger's Serve application; None if its endpoint
    is gone. One that is not in the traffic plan yet, or no more, has the arm of its rollout."""
    found = challenger_of(app)
    if found is None:
        return None
    endpoint, version = found
    try:
        plan = registry.plan(endpoint)
    except UnknownEndpoint:
        plan = None
    if plan is None:
        return None
    if plan.challenger is not None and plan.challenger.app == app:
        return endpoint, plan.spec.model, version, plan.challenger.arm
    mine = [row for row in registry.active_rollouts() if row.id.endswith(app[-8:])]
    begins_as_shadow = any(
        row.plan.get("kind") == "shadow" or row.plan.get("shadow_first_s") for row in mine
    )
    return endpoint, plan.spec.model, version, "shadow" if begins_as_shadow else "canary"
