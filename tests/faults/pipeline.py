"""Dispatchers and routers as real processes, a load of events, and the faults that befall them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
from google.protobuf.message import Message
from tollway.subscription.v1 import subscription_events_pb2
from tollway.tenant.v1 import tenant_events_pb2

from billing.runtime.faults import Fault, fault_of
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.events import NewEvent, emit
from tests.backbone import Backbone
from tests.faults.backbone_process import Options

ROOT = Path(__file__).parents[2]
WRITERS = 3
# A process that is stopped may hold its locks until the limit of transactions, 60 s, ends them.
GROWN_S = 100.0
OLD = tenant_events_pb2.TenantCreated()
NEW = subscription_events_pb2.SubscriptionCreated()


class Worker:
    """One process. Its holder is known here, so that its leases can be freed when it has been killed."""

    def __init__(self, process: asyncio.subprocess.Process, options: Options) -> None:
        self.process, self.options = process, options

    @classmethod
    async def start(cls, options: Options) -> Worker:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.backbone_process", json.dumps(asdict(options))),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
            stdin=asyncio.subprocess.PIPE,
        )
        return cls(process, options)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, also of one that is stopped."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@dataclass(slots=True)
class Pipeline:
    """A house whose dispatchers and routers are processes."""

    backbone: Backbone
    workers: list[Worker] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    payloads: tuple[Message, ...] = (OLD,)

    def options(self, role: str, **how: object) -> Options:
        backbone = self.backbone
        given = (role, backbone.databases.url, backbone.nats_url, str(uuid4()))
        return Options(*given, **how)  # type: ignore[arg-type] # the fields of Options

    async def start(self, role: str, **how: object) -> Worker:
        """One more process of a role."""
        worker = await Worker.start(self.options(role, **how))
        self.workers.append(worker)
        return worker

    async def kill(self, worker: Worker) -> None:
        """SIGKILL; its leases are freed as if the time had passed."""
        await worker.kill()
        self.workers.remove(worker)
        await self.free_leases(worker)

    async def free_leases(self, worker: Worker) -> None:
        holder = UUID(worker.options.holder)
        for table in ("leases", "lease_members"):
            await self.backbone.execute(
                f"UPDATE {table} SET expires_at = '-infinity' WHERE holder = $1", holder
            )

    async def restart(self, worker: Worker) -> Worker:
        """SIGKILL, and another one like it."""
        await self.kill(worker)
        options = worker.options
        return await self.start(options.role, old=options.old, fails_every=options.fails_every)

    def of(self, role: str) -> list[Worker]:
        return [worker for worker in self.workers if worker.options.role == role]

    # --- the load

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Writers at work inside the block: transactions of different lengths, some of which are rolled back."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                own = [self.backbone.resource() for _ in range(3)]
                self.resources += own
                group.create_task(self._write(own, stop))
            try:
                yield
            finally:
                stop.set()

    async def _write(self, own: list[str], stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.write(random.choices(own, k=random.randint(1, 6)))
            except Exception as error:
                if fault_of(error) is not Fault.OUTAGE:
                    raise
                await asyncio.sleep(0.05)  # the database is away, or it was rolled back on purpose
            await asyncio.sleep(random.uniform(0, 0.03))

    async def write(self, resources: list[str], payload: Message | None = None) -> None:
        """One transaction; a resource has one writer. Whether it was committed is what the log says."""
        backbone, now = self.backbone, self.backbone.now
        cause = Cause("worker:test", new_id(now))
        async with backbone.databases.worker.transaction() as tx:
            known = (
                "SELECT coalesce(max(resource_version), 0) FROM billing_events WHERE resource = $1"
            )
            versions = {one: await tx.fetchval(known, one) for one in sorted(set(resources))}
            events = []
            for resource in resources:
                versions[resource] += 1
                fact = payload or random.choice(self.payloads)
                events.append(
                    NewEvent(backbone.tenant, resource, versions[resource], fact, now, cause)
                )
            await emit(tx, events, now=now)
            await asyncio.sleep(random.uniform(0, 0.03))  # a commit comes late
            if payload is None and random.random() < 0.1:
                raise asyncpg.InterfaceError("rolled back on purpose")

    async def until_committed(self, more: int) -> None:
        """Waits until the load has brought so many more events."""
        await self._until_grown("billing_events", more)

    async def until_routed(self, more: int) -> None:
        """Waits until so many more effects are there."""
        await self._until_grown("effects", more)

    async def until_waiting(self, consumer: str, count: int) -> None:
        """Waits until so many events wait for a consumer."""
        waiting = f"router_waiting WHERE consumer = '{consumer}'"
        await self._until_grown(waiting, count - await self.backbone.count(waiting))

    async def _until_grown(self, table: str, more: int) -> None:
        target = await self.backbone.count(table) + more
        async with asyncio.timeout(GROWN_S):
            while await self.backbone.count(table) < target:  # noqa: ASYNC110 - other processes bring it about
                await asyncio.sleep(0.05)


@asynccontextmanager
async def pipeline(
    backbone: Backbone, *, dispatchers: int = 1, routers: int = 1, **how: object
) -> AsyncIterator[Pipeline]:
    """Processes at work; they are killed at the end of the block."""
    await backbone.execute(
        "ALTER TABLE effects ADD COLUMN place bigint GENERATED BY DEFAULT AS IDENTITY;"
        "GRANT ALL ON SEQUENCE effects_place_seq TO tollway_worker;"
        "CREATE TABLE healed (event_id uuid PRIMARY KEY); GRANT SELECT ON healed TO tollway_worker;"
        "CREATE FUNCTION note_healed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " $$ BEGIN INSERT INTO healed VALUES (NEW.event_id) ON CONFLICT DO NOTHING; RETURN NULL; END $$;"
        "CREATE TRIGGER note_healed AFTER INSERT ON outbox FOR EACH ROW"
        " WHEN (NEW.purpose LIKE 'heal%') EXECUTE FUNCTION note_healed()"
    )
    made = Pipeline(backbone)
    try:
        for role, count in (("dispatcher", dispatchers), ("router", routers)):
            for _ in range(count):
                await made.start(role, **(how if role == "router" else {}))
        yield made
    finally:
        for worker in made.workers:
            await worker.kill()
