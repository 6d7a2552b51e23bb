"""The usage, rating and scheduler services on a real server with the rim's interceptor, for one tenant's key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from tollway.rating.v1.rating_service_pb2_grpc import add_RatingServiceServicer_to_server
from tollway.scheduler.v1.scheduler_service_pb2_grpc import add_SchedulerServiceServicer_to_server
from tollway.usage.v1.backfill_service_pb2_grpc import add_BackfillServiceServicer_to_server
from tollway.usage.v1.threshold_service_pb2_grpc import add_ThresholdServiceServicer_to_server
from tollway.usage.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server

from billing.runtime.vault import Vault
from billing.services import keys
from billing.services.actor import Cause
from server.house import House
from server.services.backfill import BackfillServicer
from server.services.rating import RatingServicer
from server.services.scheduler import SchedulerServicer
from server.services.threshold import ThresholdServicer
from server.services.usage import UsageServicer
from tests.server.rim import interceptor
from tests.services.usage_world import World


@dataclass(frozen=True, slots=True)
class Client:
    """A channel to the server, the metadata that names the tenant's key, and the server's port."""

    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...]
    port: int
    key: str


@asynccontextmanager
async def usage_server(world: World) -> AsyncIterator[Client]:
    """Serves until the block ends."""
    databases = world.databases
    server = grpc.aio.server(interceptors=[interceptor(databases)])
    house = House(databases.api, databases.worker, databases.clock, Vault(bytes(32)))
    add_SchedulerServiceServicer_to_server(SchedulerServicer(house), server)
    add_UsageServiceServicer_to_server(UsageServicer(house), server)
    add_RatingServiceServicer_to_server(RatingServicer(house), server)
    add_BackfillServiceServicer_to_server(BackfillServicer(house), server)
    add_ThresholdServiceServicer_to_server(ThresholdServicer(house), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with databases.worker.transaction() as tx:
        draft = keys.NewKey("test", (keys.Scope.ADMIN,))
        cause = Cause("opr_test", world.new())
        _, key = await keys.create_key(tx, world.tenant_id, draft, cause, now=world.now)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Client(channel, (("authorization", f"Bearer {key}"),), port, key)
    await server.stop(None)
