"""What the tests of replays work with: a tenant with a log, and a hand for what the bus and the router would do to it.

The tests of the worker and of the rim use the real dispatcher and router instead where it is them that matter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
from google.protobuf.message import Message
from tollway.invoice.v1 import invoice_events_pb2
from tollway.subscription.v1 import subscription_events_pb2
from tollway.tenant.v1 import tenant_events_pb2
from tollway.usage.v1 import usage_events_pb2

from billing.domain.ids import Prefix, encode
from billing.domain.replay import EventStatus, Safety, Target, TargetKind
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.consumers import WANTED
from billing.services.events import NewEvent
from billing.services.replay_filter import FilterDraft
from billing.services.replay_plan import PlanDraft, Planned, plan_replay
from billing.services.replay_token import Confirmation, Confirmations
from billing.services.replays import ReplayView, StartOrder, get_replay, start_replay
from billing.services.tenants import NewTenant, create_tenant
from tests.conftest import Databases

ACTOR: Final = "key_test"
METHOD: Final = "/tollway.replay.v1.ReplayService/StartReplay"
AGO: Final = timedelta(seconds=20)

BUS: Final = Target(TargetKind.BUS)
SAFETY_FIELDS: Final = [field.name for field in fields(Safety)]
KEY_MADE: Final = tenant_events_pb2.ApiKeyCreated()
SUBSCRIBED: Final = subscription_events_pb2.SubscriptionCreated()
REPORTED: Final = usage_events_pb2.UsageReported()
DRAFTED: Final = invoice_events_pb2.InvoiceGenerated()
CHANGED: Final = invoice_events_pb2.InvoiceStatusChanged()


@dataclass(slots=True)
class ReplayWorld:
    """One tenant. Its events are some seconds old, so that they lie in the range of a plan."""

    databases: Databases
    tenant_id: UUID
    confirmations: Confirmations = field(default_factory=lambda: Confirmations(bytes(32)))
    versions: dict[str, int] = field(default_factory=dict)

    @property
    def now(self) -> datetime:
        return self.databases.clock.now()

    def cause(self, actor: str = ACTOR) -> Cause:
        return Cause(actor, new_id(self.now))

    def resource(self, prefix: Prefix = Prefix.INVOICE) -> str:
        return encode(prefix, new_id(self.now))

    # What happened.

    async def emit(
        self,
        *payloads: Message,
        resource: str = "",
        correlation_id: UUID | None = None,
        ago: timedelta = AGO,
    ) -> list[UUID]:
        """An event per payload, in one transaction, as if that had been some time ago."""
        now = self.now
        cause = Cause(ACTOR, correlation_id or new_id(now))
        drafts = []
        for payload in payloads:
            named = resource or self.resource()
            version = self.versions[named] = self.versions.get(named, 0) + 1
            drafts.append(NewEvent(self.tenant_id, named, version, payload, now, cause))
        async with self.databases.worker.transaction() as tx:
            ids = await events.emit(tx, drafts, now=now)
        return await self._shift(ids, ago)

    async def _shift(self, ids: Sequence[UUID], ago: timedelta) -> list[UUID]:
        """Moves events of the log, which nobody but the owner can, by the milliseconds in their ids."""
        back = int(ago.total_seconds() * 1000) << 80
        shifted = [UUID(int=event_id.int - back) for event_id in ids]
        for table, column in (("billing_events", "id"), ("outbox", "event_id")):
            await self.as_owner(
                f"UPDATE {table} SET {column} = t.new FROM unnest($1::uuid[], $2::uuid[]) AS t (old, new)"
                f" WHERE {column} = t.old",
                ids,
                shifted,
            )
        return shifted

    async def history(self, *payloads: Message, **options: Any) -> list[UUID]:
        """Events that are on the bus and were handled by every consumer that wants them."""
        ids = await self.emit(*payloads, **options)
        await self.publish()
        await self.handle(WANTED)
        return ids

    async def publish(self) -> None:
        """As the dispatcher does with first publications."""
        await self.execute("DELETE FROM outbox WHERE purpose = 'first'")

    async def handle(self, consumers: Iterable[str], ids: Collection[UUID] | None = None) -> None:
        """As the router does: the consumers' inbox rows for all events, or for these, that are on the bus."""
        for consumer in consumers:
            wanted = WANTED[consumer]
            await self.execute(
                "INSERT INTO inbox (consumer, event_id, tenant_id) SELECT $1, e.id, e.tenant_id FROM billing_events e"
                " WHERE ($2::text[] IS NULL OR e.subject = ANY ($2)) AND ($3::uuid[] IS NULL OR e.id = ANY ($3))"
                " AND NOT EXISTS (SELECT FROM outbox o WHERE o.event_id = e.id) ON CONFLICT DO NOTHING",
                consumer,
                list(wanted) if wanted is not None else None,
                list(ids) if ids is not None else None,
            )

    # What is asked.

    def draft(self, *subjects: str, **options: Any) -> PlanDraft:
        limits = {
            name: options.pop(name) for name in ("max_events", "rate_per_second") if name in options
        }
        target = options.pop("target", BUS)
        safety = Safety(**{name: options.pop(name) for name in SAFETY_FIELDS if name in options})
        if "status" in options:
            options["status"] = EventStatus(options["status"])
        selected = FilterDraft(self.tenant_id, subjects, **options)
        return PlanDraft(selected, [target], **limits, safety=safety)

    async def plan(self, *subjects: str, at: datetime | None = None, **options: Any) -> Planned:
        return await self.plan_as(self.draft(*subjects, **options), at)

    async def plan_as(self, draft: PlanDraft, at: datetime | None = None) -> Planned:
        """A plan as of `at`: events that are younger than a range may end are planned a little ahead."""
        async with self.databases.api.transaction(self.tenant_id, snapshot=True) as tx:
            return await plan_replay(tx, draft, WANTED, now=at or self.now)

    def confirm(
        self, planned: Planned, actor: str = ACTOR, *, now: datetime | None = None
    ) -> Confirmation:
        token, _ = self.confirmations.give(planned.plan, actor, now=now or self.now)
        return self.confirmations.read(token)

    async def start(self, confirmed: Confirmation, actor: str = ACTOR) -> ReplayView:
        async with self.databases.api.transaction(self.tenant_id) as tx:
            order = StartOrder(self.cause(actor), "because")
            return (await start_replay(tx, confirmed, order, now=self.now))[0]

    async def started(self, *subjects: str, **options: Any) -> ReplayView:
        return await self.start(self.confirm(await self.plan(*subjects, **options)))

    async def seen(self, replay_id: UUID) -> ReplayView:
        async with self.databases.api.transaction(self.tenant_id, snapshot=True) as tx:
            return await get_replay(tx, replay_id, self.tenant_id)

    # What there is.

    async def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        async with self.databases.worker.connection() as connection:
            return await connection.fetch(sql, *values)

    async def value(self, sql: str, *values: object) -> Any:
        return (await self.fetch(sql, *values))[0][0]

    async def execute(self, sql: str, *values: object) -> None:
        async with self.databases.worker.connection() as connection:
            await connection.execute(sql, *values)

    async def as_owner(self, sql: str, *values: object) -> None:
        connection = await asyncpg.connect(self.databases.url)
        try:
            await connection.execute(sql, *values)
        finally:
            await connection.close()

    async def queued(self, replay_id: UUID) -> list[UUID]:
        """The events that a replay has in the outbox, in the order of publishing."""
        rows = await self.fetch(
            "SELECT event_id FROM outbox WHERE starts_with(purpose, $1) AND priority = 1 AND replay_id = $2"
            " ORDER BY position",
            f"replay_{replay_id}",
            replay_id,
        )
        return [row["event_id"] for row in rows]

    async def take(self, replay_id: UUID) -> list[UUID]:
        """As the dispatcher does with a replay's rows: they are on the bus now."""
        ids = await self.queued(replay_id)
        await self.execute("DELETE FROM outbox WHERE replay_id = $1", replay_id)
        return ids


async def make_world(databases: Databases) -> ReplayWorld:
    """A new tenant with an empty log."""
    now = databases.clock.now()
    async with databases.worker.transaction() as tx:
        cause = Cause("opr_test", new_id(now))
        tenant = await create_tenant(tx, NewTenant("Acme", "test", "UTC"), cause, now=now)
    world = ReplayWorld(databases, tenant.id)
    await world.as_owner("DELETE FROM billing_events WHERE tenant_id = $1", tenant.id)
    await world.publish()
    return world


def in_turn(payloads: Sequence[Message], count: int) -> list[Message]:
    """So many payloads, one kind after the other."""
    return [payloads[place % len(payloads)] for place in range(count)]
