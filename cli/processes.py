"""The door: `tollway serve --processes N`: several servers on one port, kept by a parent that serves nothing.

Invariant: the parent holds the ports, so that they stay the processes' own while one of them is started again. When it
is told to stop, every process drains: health says NOT_SERVING, running calls finish, and the parent leaves last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from billing.runtime.settings import PREFIX, Settings
from cli.children import Child, keep_child
from server.app import PortTaken

log = logging.getLogger(__name__)

READY_LINE: Final = "serving, figures at"


@dataclass(frozen=True, slots=True)
class Ports:
    """The shared ports, and where each process shows its own figures."""

    grpc: int
    http: int
    figures: tuple[str, ...]


@asynccontextmanager
async def keep_processes(
    settings: Settings, count: int, figures_port: int, stop: asyncio.Event
) -> AsyncIterator[Ports]:
    """Runs so many servers inside the block; it begins when all of them serve. Raises PortTaken and ChildFailed."""
    with ExitStack() as held:
        grpc = held.enter_context(_held_port(settings.grpc_host, settings.grpc_port))
        http = held.enter_context(_held_port(settings.http_host, settings.http_port))
        environment = dict(os.environ) | {
            f"{PREFIX}SHARE_PORT": "true",
            f"{PREFIX}GRPC_PORT": str(grpc),
            f"{PREFIX}HTTP_PORT": str(http),
        }
        async with asyncio.TaskGroup() as group:
            places = []
            for n in range(count):
                place: asyncio.Future[str] = asyncio.get_running_loop().create_future()
                port = figures_port + n if figures_port else 0
                child = Child(
                    f"server process {n + 1}",
                    ("serve", "--figures-port", str(port)),
                    environment,
                    READY_LINE,
                    must_start=True,
                )
                group.create_task(keep_child(child, _teller(child, place), stop))
                places.append(place)
            yield Ports(grpc, http, tuple(await asyncio.gather(*places)))
            stop.set()


def _teller(child: Child, place: asyncio.Future[str]) -> Callable[[str], None]:
    def on_ready(text: str) -> None:
        if place.done():
            log.warning("%s serves again, figures at %s", child.name, text)
        else:
            place.set_result(text)

    return on_ready


@contextmanager
def _held_port(host: str, port: int) -> Iterator[int]:
    """A port that is ours to share: bound and not listened on, so that no connection comes here. Raises PortTaken."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            held.bind(address)
        except OSError as error:
            raise PortTaken(f"{host}:{port}: {PortTaken.__doc__}") from error
        yield int(held.getsockname()[1])
