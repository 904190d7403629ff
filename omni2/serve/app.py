"""The server's app: the routes around one desk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from omni2.omni import OmniModel
from omni2.serve import chat, openai_http
from omni2.serve.desk import Desk
from omni2.serve.gate import Gate
from omni2.serve.problems import Problem
from omni2.serve.realtime import socket as realtime
from omni2.serve.settings import Settings
from omni2.serve.trace import Trace

LIVE = Path(__file__).parents[2] / "webui" / "live"  # the browser client; in a checkout only

router = APIRouter(tags=["operation"])


def create_app(model: OmniModel, settings: Settings) -> FastAPI:
    """All routes over `model`; `app.state` has `desk`, `settings` and `metrics`."""
    app = FastAPI(title="omni2", lifespan=_lifespan, docs_url=None, redoc_url=None)  # their pages need a CDN
    desk = Desk(model, settings)
    app.state.desk, app.state.settings, app.state.metrics = desk, settings, desk.metrics
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Trace, desk=desk)
    for routes in (router, chat.router, openai_http.router, realtime.router):
        app.include_router(routes)
    if LIVE.is_dir():
        app.mount("/live", StaticFiles(directory=LIVE, html=True), "live")
        app.add_api_route("/", _to_live, include_in_schema=False)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await app.state.desk.drain()
        app.state.desk.close()


async def _to_live() -> RedirectResponse:
    return RedirectResponse("/live/")


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A body or parameter of another shape than the route's: 422 that names the first field at fault."""
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    param = ".".join(str(name) for name in first["loc"][1:])
    problem = Problem(422, "invalid_request_error", "invalid_request", f"{param}: {first['msg']}", param)
    return _reply(request, problem)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """No such route or method, and what else the framework refuses."""
    assert isinstance(error, HTTPException)
    problem = Problem(error.status_code, "invalid_request_error", "not_served", error.detail)
    return _reply(request, problem, dict(error.headers or {}))


def _reply(request: Request, problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    problem = request.app.state.desk.report(problem)
    return JSONResponse(problem.body, problem.status, problem.headers | (headers or {}))


@router.get("/health")
@router.get("/health/ready")
async def health(request: Request, response: Response) -> dict[str, str | bool]:
    """Whether new requests are let in; 503 once the server is about to stop."""
    desk: Desk = request.app.state.desk
    response.status_code = 503 if desk.draining else 200
    return {"status": "draining" if desk.draining else "ready", "model": desk.model.bundle.name, "live": True}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Whether the process answers."""
    return {"live": True}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(request.app.state.metrics.page(), media_type=request.app.state.metrics.content_type)
