"""Publish path, between steps 2 and 3: "there is something to do", by core NATS.

A hint is a bare message without content, guarantee or order, sent after a commit; the adaptive
poll is what makes delivery certain, the hint only makes it quick. Hints of one turn of the event
loop on one topic are sent once. Who waits in this process is woken at once, and the server does
not send us our own (`no_echo`).
"""

from __future__ import annotations

import asyncio
import re
from weakref import WeakSet

from billing.runtime.bus.base import BusUnavailable
from billing.runtime.bus.nats_link import NatsLink
from billing.runtime.bus.nats_wire import pub

HINT_PREFIX = "tollway.hint"
_TOPIC = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


class NatsHints:
    """Sends hints, and wakes those who wait for them."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._unsent: set[str] = set()
        self._waiting: dict[str, WeakSet[asyncio.Event]] = {}
        link.watch(self._on_connection)

    def hint(self, topic: str) -> None:
        """Wake who waits in this process, and the others soon, once; these not while disconnected."""
        self._wake(topic)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.add(topic)

    def _send(self) -> None:
        topics, self._unsent = self._unsent, set()
        try:
            self._link.connection.send(
                b"".join([pub(f"{HINT_PREFIX}.{topic}", "", b"") for topic in topics])
            )
        except BusUnavailable:
            return

    def subscribe(self, topic: str) -> asyncio.Event:
        """An event that is set by each hint; it ends with its last reference."""
        if not _TOPIC.fullmatch(topic):
            raise ValueError(f"a hint's topic is made of [a-z0-9_] and dots, not {topic!r}")
        event = asyncio.Event()
        if topic not in self._waiting:
            self._waiting[topic] = WeakSet()
            if self._link.connected:
                self._listen(topic)
        self._waiting[topic].add(event)
        return event

    def _listen(self, topic: str) -> None:
        def wake(_fields: list[bytes], _block: bytes, _body: bytes) -> None:
            self._wake(topic)

        self._link.connection.listen(f"{HINT_PREFIX}.{topic}", wake)

    def _wake(self, topic: str) -> None:
        for event in self._waiting.get(topic, ()):
            event.set()

    def _on_connection(self, connected: bool) -> None:
        if not connected:
            return
        for topic in self._waiting:
            self._listen(topic)
            self._wake(topic)  # hints may have been lost meanwhile
