"""The demo's receiver: what a tenant would run. It verifies every delivery with the standardwebhooks library.

Invariant: a delivery counts only once its signature holds; one that does not fails the demo.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

BODY_BYTES_MAX = 1024 * 1024


class Receiver:
    """Counts verified deliveries by subject and keeps each event once, by its webhook-id."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.refused = 0
        self.deliveries = 0
        self._verifier: Webhook | None = None
        self._changed = asyncio.Condition()

    def trust(self, secret: str) -> None:
        """Verifies by this secret from now on."""
        self._verifier = Webhook(secret)

    @property
    def subjects(self) -> Counter[str]:
        """How many distinct events of each subject came."""
        return Counter(event["type"] for event in self.events.values())

    async def handle(self, request: web.Request) -> web.Response:
        """Answers 204 to a verified delivery and 401 to any other."""
        body = await request.read()
        try:
            assert self._verifier is not None, (
                "the endpoint was made after the receiver knew its secret"
            )
            event = self._verifier.verify(body, dict(request.headers.items()))
        except WebhookVerificationError:
            self.refused += 1
            return web.Response(status=401)
        async with self._changed:
            self.deliveries += 1
            self.events[request.headers["webhook-id"]] = (
                event if isinstance(event, dict) else json.loads(body)
            )
            self._changed.notify_all()
        return web.Response(status=204)

    async def wait_until(self, enough: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until `enough` holds; False when it does not in time."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(enough)
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def receiving(receiver: Receiver) -> AsyncIterator[str]:
    """Listens on a free port of loopback; the URL to post to."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.add_routes([web.post("/hook", receiver.handle)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()
