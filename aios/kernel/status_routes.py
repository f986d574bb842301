"""Routes about the runtime itself: its state, processes, audit log and metrics."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse

from aios.kernel.calls import PREFIX, call

router = APIRouter()


@router.get(f"{PREFIX}/status")
async def status(request: Request) -> Any:
    return await call(request, "status")


@router.get(f"{PREFIX}/ps")
async def ps(request: Request) -> Any:
    return await call(request, "ps")


@router.get(f"{PREFIX}/audit")
async def audit(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    subject: str | None = None,
) -> Any:
    return await call(request, "audit", limit=limit, subject=subject)


@router.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """The kernel's metrics and the API's own, in Prometheus's text format."""
    text = await call(request, "metrics") + request.app.state.strangers.text()
    return PlainTextResponse(text, media_type="text/plain")


@router.get(f"{PREFIX}/audit/verdict")
async def audit_verdict(request: Request) -> Any:
    return await call(request, "audit_verify")
