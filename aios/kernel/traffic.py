"""The next traffic plan of an endpoint, from what is in force now."""

from aios.records import Challenger, EndpointSpec, ModelVersion, ServedVersion, TrafficPlan
from aios.registry import Change


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
