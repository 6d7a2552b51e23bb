"""The rim over HTTP: the API in JSON, its reference, and what machines ask of a process: /healthz, /readyz, /metrics.

Invariant: /healthz says that the process runs, /readyz that it can do its work: database, bus and schema are there. A
key travels in clear text on loopback only: elsewhere the API is served over TLS or not at all.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from server.admission import MESSAGE_BYTES_MAX
from server.gateway.cors import Cors
from server.gateway.documents import Documents
from server.gateway.gateway import Gateway, certificate_required, errors_as_json
from server.gateway.reference import reference_routes

CHECK_TIMEOUT_S: Final = 2.0
STOP_S: Final = 5.0

# A check answers what is wrong, or nothing.
Check = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class HttpApi:
    """The API over HTTP: the gateway, the web pages that may call it, and TLS where it is not loopback."""

    gateway: Gateway
    cors: Cors
    tls: ssl.SSLContext | None = None


class HttpServer:
    """A running server. `port` is the one it listens on."""

    def __init__(self, runner: web.AppRunner, port: int) -> None:
        self._runner, self.port = runner, port

    async def stop(self) -> None:
        """Takes no more requests, gives those that run a few seconds, and stops."""
        await self._runner.cleanup()


async def start_http(
    host: str,
    port: int,
    registry: CollectorRegistry,
    checks: Mapping[str, Check],
    api: HttpApi | None = None,
    *,
    share_port: bool = False,
) -> HttpServer:
    """Starts serving; a port of 0 chooses a free one. Raises OSError when the port is taken, unless it is shared."""
    app = web.Application(client_max_size=MESSAGE_BYTES_MAX)
    app.add_routes(
        [
            web.get("/healthz", _healthz),
            web.get("/readyz", _readyz(checks)),
            web.get("/metrics", _metrics(registry)),
        ]
    )
    if api is not None:
        api.cors.add_to(app)
        app.middlewares.append(errors_as_json)
        if api.tls is not None and api.tls.verify_mode is not ssl.CERT_NONE:
            app.middlewares.append(certificate_required)
        app.add_routes(reference_routes())
        app.add_routes(Documents(api.gateway.methods, api.gateway.deadlines).routes())
        api.gateway.add_to(app)
    # A client that leaves cancels its call. A line of a stream may be as long as a message.
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=STOP_S,
        read_bufsize=MESSAGE_BYTES_MAX // 2,
    )
    await runner.setup()
    try:
        context = api.tls if api else None
        await web.TCPSite(
            runner, host, port, ssl_context=context, reuse_port=share_port or None
        ).start()
    except OSError:
        await runner.cleanup()
        raise
    bound: int = runner.addresses[0][1]
    return HttpServer(runner, bound)


async def _healthz(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _readyz(checks: Mapping[str, Check]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def outcome(check: Check) -> str:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await check()
        except TimeoutError:
            return f"no answer within {CHECK_TIMEOUT_S:g} s"
        except (
            Exception
        ) as error:  # whatever is wrong with a part is the answer here, not a fault of ours
            return type(error).__name__

    async def readyz(request: web.Request) -> web.Response:
        found = await asyncio.gather(*(outcome(check) for check in checks.values()))
        parts = dict(zip(checks, found, strict=True))
        text = "".join(f"{name}: {wrong or 'ok'}\n" for name, wrong in parts.items())
        return web.Response(text=text, status=503 if any(parts.values()) else 200)

    return readyz


def _metrics(registry: CollectorRegistry) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    return metrics
