"""Routes about money."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from aios.kernel.calls import PREFIX, call

router = APIRouter(prefix=PREFIX)


@router.get("/costs")
async def costs(
    request: Request,
    since_s: float | None = None,
    until_s: float | None = None,
    by: Annotated[str, Query(max_length=40)] = "endpoint",
) -> Any:
    return await call(request, "costs", since_s=since_s, until_s=until_s, by=by)


@router.get("/endpoints/{name}/roi")
async def roi(
    request: Request,
    name: str,
    since_s: float | None = None,
    until_s: float | None = None,
    value_per_kpi: float = 1.0,
    maintenance_per_month: float = 0.0,
    extrapolate: bool = False,
) -> Any:
    return await call(
        request,
        "roi",
        endpoint=name,
        since_s=since_s,
        until_s=until_s,
        value_per_kpi=value_per_kpi,
        maintenance_per_month=maintenance_per_month,
        extrapolate=extrapolate,
    )
