"""Webhook path, step 2: names to addresses, in threads of its own.

Invariant: name servers that do not answer hold up threads of this pool and nothing else of the process; aiohttp asks
for a name once at a time, however many requests wait for it. That a name gets no answer is the house's fault, not its
owner's, unless another name got one meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

THREADS: Final = 32


class PooledResolver(AbstractResolver):
    """The system's resolver (getaddrinfo). What it answers is judged when it is dialled."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook-names")
        # The last two names that got an answer, and when on the monotonic clock; the later one last.
        self._answered: list[tuple[str, float]] = []

    def answers_others(self, host: str, since: float) -> bool:
        """Whether name servers have answered for another name since then."""
        return any(name != host and at >= since for name, at in self._answered)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises OSError when there are none."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._pool, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM
            )
        except socket.gaierror as error:
            if error.errno == socket.EAI_NONAME:  # no such name, which is an answer
                self._note(host)
            raise
        self._note(host)
        return [
            ResolveResult(
                hostname=host,
                host=str(sockaddr[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, sockaddr in found
        ]

    def _note(self, host: str) -> None:
        others = [(name, at) for name, at in self._answered if name != host]
        self._answered = [*others[-1:], (host, time.monotonic())]

    async def close(self) -> None:
        """Does not wait for answers that nobody wants any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
