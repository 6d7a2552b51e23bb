"""A line to a server that breaks with the first answer after something happened, and holds from then on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

PIECE_BYTES = 65_536


class LossyLine:
    """Passes bytes on. `happened` is asked before each piece of an answer, until it has lost one."""

    def __init__(self, address: str, happened: Callable[[], Awaitable[bool]]) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._happened = happened
        self.lost = 0

    async def carry(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        far, on = await asyncio.open_connection(self._host, int(self._port))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass(near, on))
                group.create_task(self._answer(far, back))
        finally:
            for writer in (back, on):
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _answer(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(PIECE_BYTES):
                if not self.lost and await self._happened():
                    self.lost += 1
                    target.transport.abort()
                    return
                target.write(piece)
                await target.drain()
        target.close()


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(PIECE_BYTES):
            target.write(piece)
            await target.drain()
    target.close()


@asynccontextmanager
async def lossy_line(
    address: str, happened: Callable[[], Awaitable[bool]]
) -> AsyncIterator[tuple[LossyLine, str]]:
    """A line to `address` on a free port, and its own address."""
    line = LossyLine(address, happened)
    server = await asyncio.start_server(line.carry, "127.0.0.1", 0)
    try:
        yield line, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
