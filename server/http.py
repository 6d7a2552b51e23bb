"""The rim over HTTP: what machines ask of a process: /healthz, /readyz, /metrics.

Invariant: /healthz says that the process runs, /readyz that it can do its work: database, bus and schema are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CHECK_TIMEOUT_S: Final = 2.0

# A check answers what is wrong, or nothing.
Check = Callable[[], Awaitable[str]]


class HttpServer:
    """A running server. `port` is the one it listens on."""

    def __init__(self, runner: web.AppRunner, port: int) -> None:
        self._runner, self.port = runner, port

    async def stop(self) -> None:
        """Finishes running requests and stops."""
        await self._runner.cleanup()


async def start_http(
    host: str, port: int, registry: CollectorRegistry, checks: Mapping[str, Check]
) -> HttpServer:
    """Starts serving; a port of 0 chooses a free one. Raises OSError when the port is taken."""
    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", _healthz),
            web.get("/readyz", _readyz(checks)),
            web.get("/metrics", _metrics(registry)),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
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
