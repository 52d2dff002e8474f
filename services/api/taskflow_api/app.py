"""The application: its layers, its routes, its errors."""

from fastapi import FastAPI
from starlette.middleware import Middleware

from taskflow.settings import ApiSettings, DoorSettings
from taskflow_api.client_address import TrustedProxies
from taskflow_api.error_handlers import install_error_handlers
from taskflow_api.guards import refuse_unguarded
from taskflow_api.lean_route import LeanRoutesMiddleware
from taskflow_api.lifespan import lifespan_of
from taskflow_api.middleware.address_limit import AddressLimitMiddleware
from taskflow_api.middleware.body_limit import BodyLimitMiddleware
from taskflow_api.middleware.cross_origin import CrossOriginMiddleware
from taskflow_api.middleware.head_requests import HeadRequestsMiddleware
from taskflow_api.middleware.known_hosts import KnownHostsMiddleware
from taskflow_api.middleware.request_context import RequestContextMiddleware
from taskflow_api.middleware.request_timeout import RequestTimeoutMiddleware
from taskflow_api.routes import ROUTERS, all_routes

REQUEST_SECONDS = 60.0
"""Twice as long as an answer may be held by `Prefer: wait`."""


def create_app(settings: ApiSettings) -> FastAPI:
    """The service; its resources are born when its lifespan begins.

    Raises:
        RuntimeError: a route has no guard.
        TypeError: a router has something for which there is none.
    """
    refuse_unguarded(all_routes())
    app = FastAPI(
        title="TaskFlow",
        lifespan=lifespan_of(settings),
        # Routes of ours serve the documentation, without scripts from elsewhere.
        openapi_url=None,
        redirect_slashes=False,
        # Nothing of it is set up here, for which it would ask the environment at each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        middleware=_layers(settings),
    )
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _layers(settings: DoorSettings) -> list[Middleware]:
    """What a request goes through, from the outermost layer in."""
    proxies = TrustedProxies(settings.trusted_proxies, header=settings.forwarded_header)
    layers = [Middleware(RequestContextMiddleware, proxies=proxies)]
    if settings.cors_origins:
        layers.append(Middleware(CrossOriginMiddleware, origins=settings.cors_origins))
    layers.append(Middleware(KnownHostsMiddleware, names=settings.allowed_hosts))
    if settings.address_limit_requests:
        layers.append(
            Middleware(
                AddressLimitMiddleware,
                requests=settings.address_limit_requests,
                seconds=settings.address_limit_seconds,
                unlimited=settings.unlimited_addresses,
            )
        )
    return [
        *layers,
        Middleware(HeadRequestsMiddleware),
        Middleware(RequestTimeoutMiddleware, seconds=REQUEST_SECONDS),
        Middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes),
        Middleware(LeanRoutesMiddleware, routes=all_routes()),
    ]
