"""The rim over HTTP: which web pages of other origins may call the API. None may, unless the operator names them.

Invariant: only an origin that is named word for word is answered, never a pattern, and never with credentials of the
browser: the key travels in a header that the page itself sets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ALLOWED_HEADERS: Final = ", ".join(
    (
        "Authorization",
        "Content-Type",
        "Grpc-Timeout",
        "Idempotency-Key",
        "Tollway-Correlation-Id",
        "Tollway-Tenant",
        "Traceparent",
    )
)
ALLOWED_METHODS: Final = "DELETE, GET, PATCH, POST"
PREFLIGHT_S: Final = 600


@dataclass(frozen=True, slots=True)
class Cors:
    """`origins` such as `https://console.example.com`."""

    origins: frozenset[str] = frozenset()

    def add_to(self, app: web.Application) -> None:
        """Answers preflights of the named origins, and marks all answers to them as readable."""
        if self.origins:
            app.middlewares.append(self._preflight)
            app.on_response_prepare.append(self._readable)

    @web.middleware
    async def _preflight(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "OPTIONS" or request.headers.get("Origin") not in self.origins:
            return await handler(request)
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": ALLOWED_METHODS,
                "Access-Control-Allow-Headers": ALLOWED_HEADERS,
                "Access-Control-Max-Age": str(PREFLIGHT_S),
            },
        )

    async def _readable(self, request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin", "")
        response.headers["Vary"] = "Origin"
        if origin in self.origins:
            response.headers["Access-Control-Allow-Origin"] = origin
