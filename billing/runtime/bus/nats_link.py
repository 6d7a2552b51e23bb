"""Publish path, step 3: staying connected to NATS for ever.

A link keeps one connection: when it ends, a new one is opened in the background with jitter, and
who depends on it is told. Nothing is buffered meanwhile: a publish while disconnected fails at
once, since the outbox already is the buffer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace

from billing.runtime.bus.base import BusError, BusSettings, BusUnavailable
from billing.runtime.bus.nats_connection import (
    NatsAddress,
    NatsConnection,
    require_atomic_batches,
)

log = logging.getLogger(__name__)

SERVERS_MAX = 16  # addresses kept of those that a cluster tells of
CANCEL_AGAIN_S = 1.0


class NatsLink:
    """One connection at a time, made anew whenever it ends."""

    def __init__(self, address: NatsAddress, settings: BusSettings, name: str) -> None:
        self._address = address
        self._settings = settings
        self._name = name
        self._connection: NatsConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._first_try = asyncio.Event()
        self._closed = False
        self._reason = "not connected yet"
        self._watchers: list[Callable[[bool], None]] = []

    async def start(self) -> None:
        """Begin to connect; returns after the first try, whether it succeeded or not."""
        self._keeper = asyncio.create_task(self._keep_connected(), name=f"nats {self._name}")
        await self._first_try.wait()

    @property
    def connected(self) -> bool:
        """Whether there is a usable connection now."""
        return self._connection is not None and self._connection.usable

    @property
    def connection(self) -> NatsConnection:
        """The connection of this moment.

        Raises:
            BusUnavailable: there is none.
        """
        if self._connection is None or not self._connection.usable:
            raise BusUnavailable("the bus is closed" if self._closed else self._reason)
        return self._connection

    def watch(self, callback: Callable[[bool], None]) -> None:
        """Call back at each connect and disconnect."""
        self._watchers.append(callback)

    async def close(self) -> None:
        """Disconnect for good."""
        self._closed = True
        if self._keeper is not None:
            # The client library may swallow a cancellation in the midst of its handshake; ask until it is heard.
            while not self._keeper.done():
                self._keeper.cancel()
                await asyncio.wait([self._keeper], timeout=CANCEL_AGAIN_S)
            self._keeper = None

    async def _keep_connected(self) -> None:
        failures = 0
        while not self._closed:
            connection = NatsConnection(self._address, self._settings, self._name)
            try:
                await connection.open()
                require_atomic_batches(str(connection.connected_server_version._server_version))
                self._remember_cluster(connection)
                self._connection = connection
                failures = 0
                self._tell(True)
                self._first_try.set()
                await connection.ended.wait()
                self._reason = f"lost NATS at {self._address.servers}"
                log.warning("bus: %s; connecting again", self._reason)
            except BusError as error:
                self._reason = str(error)
                if failures == 0:
                    log.warning("bus: %s; trying on", error)
            finally:
                had = self._connection is not None
                self._connection = None
                await connection.shut()
                if had:
                    self._tell(False)
                self._first_try.set()
            await asyncio.sleep(self._pause_s(failures))
            failures += 1

    def _pause_s(self, failures: int) -> float:
        """Doubling up to the cap; jittered, so that a fleet does not come back all at once."""
        settings = self._settings
        pause = settings.reconnect_first_s * 2.0 ** min(failures, 16)
        return min(pause, settings.reconnect_max_s) * random.uniform(0.5, 1.0)

    def _remember_cluster(self, connection: NatsConnection) -> None:
        known = dict.fromkeys((*self._address.servers, *connection.server_addresses))
        self._address = replace(self._address, servers=tuple(known)[:SERVERS_MAX])

    def _tell(self, connected: bool) -> None:
        for callback in self._watchers:
            try:
                callback(connected)
            except Exception:
                log.exception("bus: a connection callback failed")
