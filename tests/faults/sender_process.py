"""A webhook sender as a process of its own, to be killed.

Usage: python -m tests.faults.sender_process DATABASE_URL. It ends when its standard input closes, which the kernel does
whatever becomes of the test.
"""

from __future__ import annotations

import asyncio
import os
import sys

from prometheus_client import CollectorRegistry

from billing.runtime.clock import DatabaseClock
from billing.runtime.db import DatabaseSettings, Role, connect, read_clock
from billing.runtime.ids import new_id
from billing.services.leases import LeaseKind
from billing.services.webhooks import SENDER_SHARDS
from tests.webhook_world import LOOPBACK, USUAL, VAULT
from workers.leases import LeaseKeeper, LeaseSettings
from workers.loop import run_loop
from workers.metrics import SenderMetrics
from workers.webhooks.client import WebhookClient
from workers.webhooks.guard import Guard
from workers.webhooks.poster import Poster
from workers.webhooks.sender import Sender


async def main(database_url: str) -> None:
    """Works until it is killed."""
    leaving = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    leaving.add_done_callback(lambda _: os._exit(0))
    database = await connect(database_url, Role.WORKER, DatabaseSettings())
    clock = DatabaseClock()
    await read_clock(database, clock)
    settings, stop, wake = LeaseSettings(), asyncio.Event(), asyncio.Event()
    keeper = LeaseKeeper(
        database, LeaseKind.SENDER, new_id(clock.now()), settings, shards=SENDER_SHARDS
    )
    client = WebhookClient(USUAL, Guard(LOOPBACK), user_agent="tollway/test")
    poster = Poster(client, VAULT, clock, SenderMetrics(CollectorRegistry()))
    sender = Sender(database, keeper, poster, clock, wake, USUAL)
    async with asyncio.TaskGroup() as group, sender.running():
        group.create_task(run_loop(keeper.step, stop, idle_s=settings.renew_every_s))
        await run_loop(sender.step, stop, idle_s=0.05, wake=wake)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
