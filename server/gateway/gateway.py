"""The rim over HTTP: every route of the contract on aiohttp, and what holds for all of them.

Invariant: what aiohttp itself refuses below /v1/ is told like every other error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from aiohttp import web

from server.deadlines import Deadlines
from server.errors import translate
from server.gateway.errors import (
    BodyTooLarge,
    CertificateMissing,
    MethodNotAllowed,
    RouteNotFound,
    error_response,
    refusal,
)
from server.gateway.exchange import Exchange
from server.gateway.routes import Route

Methods = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Gateway:
    """The guarded methods by name, the routes that lead to them, and how long a call may take."""

    methods: Methods
    routes: tuple[Route, ...]
    deadlines: Deadlines

    def add_to(self, app: web.Application) -> None:
        """Registers every route; a path with several verbs is one resource."""
        by_pattern: dict[str, list[Route]] = {}
        for route in self.routes:
            by_pattern.setdefault(route.pattern, []).append(route)
        for pattern, routes in by_pattern.items():
            resource = app.router.add_resource(pattern)
            for route in routes:
                exchange = Exchange(route, self.methods[route.method], self.deadlines)
                answer = exchange.stream if route.streams_out else exchange.unary
                resource.add_route(route.verb, answer)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What did not come from a method: a path that is not there, a body that is too large, a fault of ours."""
    if not request.path.startswith("/v1/"):
        return await handler(request)
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _refused_by_http(error)
    except ConnectionError:
        raise  # the client has left
    except Exception as error:
        return error_response(translate(error, request.path))


@web.middleware
async def certificate_required(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Under mutual TLS the API answers only who has shown a certificate, which TLS itself has verified."""
    transport = request.transport
    shown = transport is not None and transport.get_extra_info("peercert")
    if request.path.startswith("/v1/") and not shown:
        return refusal(CertificateMissing())
    return await handler(request)


def _refused_by_http(error: web.HTTPException) -> web.Response:
    match error:
        case web.HTTPMethodNotAllowed():
            response = refusal(MethodNotAllowed())
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            return response
        case web.HTTPRequestEntityTooLarge():
            return refusal(BodyTooLarge())
        case web.HTTPNotFound():
            return refusal(RouteNotFound())
        case _:
            raise error
