"""Publish path, step 3: librdkafka from asyncio: its callbacks, errors and connections.

librdkafka does its work in threads of its own and hands results over in `poll`. One thread here
polls for the producer, so that callbacks come at once and the event loop never blocks.

Invariant: the event loop is entered from a foreign thread only through `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from billing.runtime.bus.base import BusSettings, MessageRefused, RefusalReason

log = logging.getLogger(__name__)

TOPIC = "tollway.events"
POLL_S = 0.05
PROBE_S = 0.5  # while down, between two looks whether the cluster is back

BLAME = {
    KafkaError.MSG_SIZE_TOO_LARGE: RefusalReason.TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE: RefusalReason.TOO_LARGE,
    KafkaError.INVALID_MSG: RefusalReason.MALFORMED,
    KafkaError.INVALID_RECORD: RefusalReason.MALFORMED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: RefusalReason.NOT_PERMITTED,
}


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """bootstrap.servers and the options of the URL that librdkafka gets."""

    servers: str
    options: tuple[tuple[str, str], ...] = ()

    def config(self, settings: BusSettings, name: str) -> dict[str, Any]:
        """What every client of ours starts from."""
        return {
            **dict(self.options),
            "bootstrap.servers": self.servers,
            "client.id": name,
            "reconnect.backoff.ms": int(settings.reconnect_first_s * 1000),
            "reconnect.backoff.max.ms": int(settings.reconnect_max_s * 1000),
            "socket.connection.setup.timeout.ms": max(1000, int(settings.connect_timeout_s * 1000)),
            "socket.keepalive.enable": True,
            "log_level": 2,  # outages are ours to tell, once
        }


def refusal_of(error: KafkaError) -> MessageRefused | None:
    """The refusal that `error` means when it blames the message; None when it is an outage."""
    reason = BLAME.get(error.code())
    return None if reason is None else MessageRefused(reason, error.str())


class ProducerThread:
    """A producer, the thread that polls it, and whether the cluster can be reached."""

    def __init__(self, config: dict[str, Any], settings: BusSettings) -> None:
        self._config = {**config, "error_cb": self._on_error}
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._watchers: list[Callable[[bool], None]] = []
        self._stopping = threading.Event()
        self._first_look = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="kafka producer", daemon=True)
        self._fatal = False
        self._up = False
        self.connected = False
        self.producer = Producer(self._config)

    async def start(self) -> None:
        """Start polling; returns after the first look at the cluster."""
        self._thread.start()
        await self._first_look.wait()

    def watch(self, callback: Callable[[bool], None]) -> None:
        """Call back, in the event loop, at each change of `connected`."""
        self._watchers.append(callback)

    async def stop(self, timeout_s: float) -> None:
        """Send what is queued, at most for `timeout_s`, then end the thread."""
        await asyncio.to_thread(self.producer.flush, timeout_s)
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)
        self.connected = False

    # --- in the producer's thread

    def _run(self) -> None:
        self._look()
        self._loop.call_soon_threadsafe(self._first_look.set)
        while not self._stopping.is_set():
            self.producer.poll(POLL_S)
            if self._fatal:
                self._replace()
            if not self._up and not self._stopping.wait(PROBE_S):
                self._look()

    def _replace(self) -> None:
        """After a fatal error (a gap in the series was unavoidable) only a new producer goes on."""
        self._fatal = False
        self.producer.purge()
        self.producer.flush(1.0)  # the purged messages' callbacks
        self.producer = Producer(self._config)

    def _look(self) -> None:
        try:
            self.producer.list_topics(timeout=self._settings.connect_timeout_s)
        except KafkaException as error:
            log.debug("bus: Kafka does not answer: %s", error)
        else:
            self._tell(True)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            log.error("bus: Kafka producer failed and is made anew: %s", error.str())
            self._fatal = True
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._tell(False)

    def _tell(self, up: bool) -> None:
        if up != self._up:
            self._up = up
            self._loop.call_soon_threadsafe(self._changed, up)

    # --- in the event loop

    def _changed(self, up: bool) -> None:
        if not up:
            log.warning("bus: all Kafka brokers are down; trying on")
        self.connected = up
        for callback in self._watchers:
            callback(up)
