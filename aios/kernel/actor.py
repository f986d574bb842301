"""The kernel's actor, as every process sees it that talks to the kernel.

Whoever takes a handle of an actor imports, by Ray, the module of its class. So the class is alone
here: a replica that asks for its traffic plan would otherwise import the whole control plane, with
its database, a second of CPU and some 50 MB.
"""

from typing import Any

from aios.security import Caller


class KernelActor:
    """Hands everything on to `on_ray.Resident`, in whose words it is told."""

    def __init__(self, settings: dict[str, Any], api_key: tuple[str, str]) -> None:
        from aios.kernel.on_ray import Resident  # only where the kernel runs

        self._resident = Resident(settings, api_key)

    async def next_plan(self, endpoint: str, stamp: str) -> dict[str, Any]:
        return await self._resident.next_plan(endpoint, stamp)

    async def execute(
        self, command: str, arguments: dict[str, Any], caller: Caller, operation_id: str | None
    ) -> dict[str, Any]:
        return await self._resident.execute(command, arguments, caller, operation_id)

    async def agents(self, epoch: int, what: str, told: Any) -> dict[str, Any]:
        return await self._resident.agents(epoch, what, told)

    async def report(self, report: dict[str, Any]) -> None:
        await self._resident.report(report)

    async def take_windows(self, parts: list[dict[str, Any]]) -> None:
        await self._resident.take_windows(parts)

    async def take_events(
        self, subscription: str, rows: list[tuple[Any, ...]], filtered: int
    ) -> tuple[bool, bool, str | None]:
        return await self._resident.take_events(subscription, rows, filtered)

    async def used(self, usage: dict[str, Any]) -> None:
        await self._resident.used(usage)

    async def ask_flows(self, what: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        return await self._resident.ask_flows(what, arguments)

    async def ready(self) -> int:
        return await self._resident.ready()
