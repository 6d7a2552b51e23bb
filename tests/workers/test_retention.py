"""Retention: old weeks of the log, the inbox and the feed go; none that is needed, and nobody is stopped by it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from billing.runtime.db import Database, DatabaseSettings, Role, connect
from billing.runtime.ids import new_id
from billing.services import event_feed, retention
from billing.services.event_feed import CursorTooOld
from billing.services.retention import Kept
from tests.backbone import Backbone
from tests.workers.test_event_feed import drain, route
from workers.metrics import SweeperMetrics
from workers.retention import Retention, RetentionSettings

KEPT = Kept(timedelta(days=90), timedelta(days=35))
OLD_DAYS = 110  # its week is over for longer than the log is kept
BETWEEN_DAYS = 60  # for longer than the inbox is


@pytest.fixture
async def owner(backbone: Backbone) -> AsyncIterator[Database]:
    """The owner's pool, and partitions for the last twenty weeks."""
    since = backbone.now - timedelta(weeks=20)
    await backbone.fetch("SELECT make_event_partitions($1, 25)", since)
    # All that is in the log has been checked.
    await backbone.execute("UPDATE healing SET healed_until = $1", UUID(int=2**128 - 1))
    limits = DatabaseSettings(connections_max=1, lock_timeout_s=0.2)
    database = await connect(backbone.databases.url, Role.OWNER, limits)
    yield database
    await database.close()


def retention_of(backbone: Backbone, owner: Database) -> tuple[Retention, SweeperMetrics]:
    metrics = SweeperMetrics(CollectorRegistry())
    return Retention(backbone.ground, owner, RetentionSettings(), metrics), metrics


async def weeks(backbone: Backbone, parent: str) -> set[str]:
    rows = await backbone.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::regclass",
        parent,
    )
    return {row["name"] for row in rows}


def week_of(parent: str, at: datetime) -> str:
    year, week, _ = at.isocalendar()
    return f"{parent}_{year}w{week:02}"


async def logged(backbone: Backbone, days: int) -> UUID:
    """An event of so many days ago, with a link and an inbox row."""
    event = new_id(backbone.now - timedelta(days=days))
    await backbone.execute(
        "INSERT INTO billing_events (id, tenant_id, subject, resource, resource_version, correlation_id,"
        " schema_version, occurred_at, envelope) VALUES ($1, $2, 's', 'r', 1, $1, 1, now(), '')",
        event,
        backbone.tenant,
    )
    await backbone.execute(
        "INSERT INTO event_links VALUES ($1, $2, $2, $2, $2)", backbone.tenant, event
    )
    await backbone.execute(
        "INSERT INTO inbox (consumer, event_id, tenant_id) VALUES ('c', $1, $2)",
        event,
        backbone.tenant,
    )
    return event


async def test_weeks_older_than_what_is_kept_go_and_the_others_stay(
    backbone: Backbone, owner: Database
) -> None:
    old, between, young = [await logged(backbone, days) for days in (OLD_DAYS, BETWEEN_DAYS, 1)]
    sweep, metrics = retention_of(backbone, owner)
    dropped = await sweep.step()
    assert dropped == metrics.partitions_dropped._value.get() > 0
    assert metrics.partitions_overdue._value.get() == 0
    assert await sweep.step() == 0

    for table, kept in (
        ("billing_events", {between, young}),
        ("event_links", {between, young}),
        ("inbox", {young}),
    ):
        column = "id" if table == "billing_events" else "event_id"
        rows = await backbone.fetch(f"SELECT {column} AS id FROM {table}")
        assert {row["id"] for row in rows} == kept, table
    # A week that is not over for long enough stays whole.
    now = backbone.now
    for parent, days in (("billing_events", 90), ("inbox", 35)):
        left = await weeks(backbone, parent)
        assert week_of(parent, now - timedelta(days=days)) in left
        assert week_of(parent, now - timedelta(days=days + 7)) not in left
    assert old not in {between, young}


OUTBOX = "event_id, purpose, tenant_id, shard, position, subject, resource"
PARKED = "consumer, resource, resource_version, event_id, tenant_id, partition, subject"
NEEDS = {
    "outbox": f"INSERT INTO outbox ({OUTBOX}) VALUES ($1, 'first', $2, 0, 1, 's', 'r')",
    "outbox dead letter": f"INSERT INTO outbox_dead_letters ({OUTBOX}, priority, attempts, last_error, died_at)"
    " VALUES ($1, 'first', $2, 0, 1, 's', 'r', 0, 8, 'e', now())",
    "waiting": f"INSERT INTO router_waiting ({PARKED}, next_attempt_at, parked_at)"
    " VALUES ('c', 'r', 1, $1, $2, 0, 's', now(), now())",
    "router dead letter": f"INSERT INTO router_dead_letters ({PARKED}, attempts, last_error, died_at)"
    " VALUES ('c', 'r', 1, $1, $2, 0, 's', 10, 'e', now())",
}


@pytest.mark.parametrize("need", list(NEEDS))
async def test_a_week_that_something_refers_to_stays_with_its_inbox_until_nothing_does(
    backbone: Backbone, owner: Database, need: str
) -> None:
    event = await logged(backbone, OLD_DAYS)
    await backbone.execute(NEEDS[need], event, backbone.tenant)
    sweep, metrics = retention_of(backbone, owner)
    await sweep.step()
    # The inbox goes in the order of its weeks, so the later ones wait for this one.
    assert metrics.partitions_overdue._value.get() == 3
    assert await backbone.count("billing_events") == await backbone.count("inbox") == 1
    between = week_of("inbox", backbone.now - timedelta(days=BETWEEN_DAYS))
    assert between in await weeks(backbone, "inbox")

    for table in ("outbox", "outbox_dead_letters", "router_waiting", "router_dead_letters"):
        await backbone.execute(f"DELETE FROM {table}")
    await sweep.step()
    assert await backbone.count("billing_events") == await backbone.count("inbox") == 0
    assert metrics.partitions_overdue._value.get() == 0


@pytest.mark.parametrize("status", ["pending", "parked", "dead", "delivered"])
async def test_the_log_is_kept_for_webhooks_that_are_not_delivered(
    backbone: Backbone, owner: Database, status: str
) -> None:
    event = await logged(backbone, OLD_DAYS)
    tenant = backbone.tenant
    await backbone.execute("INSERT INTO tenants VALUES ($1, 't', 'live', 'UTC', 1, now())", tenant)
    await backbone.execute(
        "INSERT INTO webhooks (tenant_id, id, url, subjects, description, status, shard, created_at)"
        " VALUES ($1, $1, 'u', '{}', '', 'enabled', 0, now())",
        tenant,
    )
    await backbone.execute(
        "INSERT INTO webhook_deliveries (tenant_id, webhook_id, event_id, shard, subject, status, due_at, created_at)"
        " VALUES ($1, $1, $2, 0, 's', $3, now(), now())",
        tenant,
        event,
        status,
    )
    await retention_of(backbone, owner)[0].step()
    assert await backbone.count("billing_events") == (0 if status == "delivered" else 1)
    assert await backbone.count("inbox") == 0


@pytest.mark.parametrize(
    ("status", "days", "kept"),
    [
        ("running", OLD_DAYS, 1),
        ("paused", OLD_DAYS, 1),
        ("canceled", OLD_DAYS, 0),
        ("running", BETWEEN_DAYS, 0),
    ],
)
async def test_a_replay_keeps_the_weeks_of_its_own_range_while_it_is_active(
    backbone: Backbone, owner: Database, status: str, days: int, kept: int
) -> None:
    await logged(backbone, OLD_DAYS)
    of_the_replay = new_id(backbone.now - timedelta(days=days)).hex
    plan = json.dumps({"first": of_the_replay, "last": of_the_replay})
    tenant = backbone.tenant
    await backbone.execute("INSERT INTO tenants VALUES ($1, 't', 'live', 'UTC', 1, now())", tenant)
    await backbone.execute(
        "INSERT INTO replays (tenant_id, id, actor, note, plan, plan_hash, token_nonce, status, target, matched,"
        " armed_at, started_at) VALUES ($1, $1, 'a', '', $2::jsonb, '', $1, $3, 'bus', 1, now(), now())",
        tenant,
        plan,
        status,
    )
    await retention_of(backbone, owner)[0].step()
    # The log keeps the event if it is in the replay's range, and not for a replay of another week.
    old = backbone.now - timedelta(days=OLD_DAYS)
    assert (week_of("billing_events", old) in await weeks(backbone, "billing_events")) == kept
    assert await backbone.count("inbox") == kept


async def test_what_is_not_healed_yet_stays(backbone: Backbone, owner: Database) -> None:
    event = await logged(backbone, OLD_DAYS)
    await backbone.execute("UPDATE healing SET healed_until = $1", UUID(int=event.int - 1))
    sweep, _ = retention_of(backbone, owner)
    await sweep.step()
    assert await backbone.count("billing_events") == await backbone.count("inbox") == 1
    await backbone.execute("UPDATE healing SET healed_until = $1", event)
    await sweep.step()
    assert await backbone.count("billing_events") == await backbone.count("inbox") == 0


async def test_a_week_that_is_needed_when_it_is_detached_comes_back(
    backbone: Backbone, owner: Database
) -> None:
    event = await logged(backbone, OLD_DAYS)
    database = backbone.databases.worker
    old = await retention.list_old(database, KEPT, now=backbone.now, most=50)
    [week] = [p for p in old if p.parent == "billing_events" and p.lower_id <= event < p.upper_id]
    # Between the look and the detachment somebody arms it again.
    await backbone.execute(NEEDS["outbox"], event, backbone.tenant)

    assert not await retention.drop_partition(owner, database, week, KEPT)

    assert await backbone.count("billing_events") == 1
    assert week.child in await weeks(backbone, "billing_events")


async def test_a_lock_that_somebody_holds_is_not_waited_for_and_the_next_sweep_goes_on(
    backbone: Backbone, owner: Database
) -> None:
    await logged(backbone, OLD_DAYS)
    sweep, metrics = retention_of(backbone, owner)
    reader = await asyncpg.connect(backbone.databases.url)
    try:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM billing_events")
            await sweep.step()
            assert metrics.partitions_overdue._value.get() > 0
            # Traffic goes on meanwhile, in the log and in the inbox.
            await backbone.emit([backbone.resource()])
            await logged(backbone, 1)
    finally:
        await reader.close()
    # What was interrupted within is finished.
    while await sweep.step():
        pass
    assert metrics.partitions_overdue._value.get() == 0
    assert await backbone.count("billing_events") == 2
    left = await backbone.fetch(
        "SELECT relname FROM pg_class WHERE relname = $1",
        week_of("billing_events", backbone.now - timedelta(days=OLD_DAYS)),
    )
    assert left == []


async def test_a_week_that_a_sweep_left_detached_is_dropped_by_the_next(
    backbone: Backbone, owner: Database
) -> None:
    name = week_of("inbox", backbone.now - timedelta(days=OLD_DAYS))
    await backbone.execute(f"ALTER TABLE inbox DETACH PARTITION {name}")
    await retention_of(backbone, owner)[0].step()
    assert await backbone.fetch("SELECT 1 FROM pg_class WHERE relname = $1", name) == []


async def test_the_feed_goes_by_the_week_and_tells_cursors_that_are_too_old(
    backbone: Backbone, owner: Database
) -> None:
    database, now = backbone.databases.worker, backbone.now
    short = Kept(timedelta(days=7), timedelta(days=7))
    ids = []
    for week in range(3):
        await retention.turn_feed(database, KEPT, now=now + timedelta(weeks=week))
        ids += await backbone.emit([backbone.resource() for _ in range(5)])
        await route(backbone)
        await backbone.expire_leases()
    stored = await backbone.fetch(
        "SELECT week, count(*) FROM event_feed GROUP BY week ORDER BY week"
    )
    assert [row["count"] for row in stored] == [5, 5, 5]
    # Weeks are no bounds to a reader, wherever it begins.
    assert sorted(await drain(backbone)) == sorted(ids)

    later = now + timedelta(weeks=3)
    await retention.turn_feed(database, short, now=later)
    for partition in await retention.list_old(database, short, now=later, most=100):
        if partition.parent == "event_feed":
            assert await retention.drop_partition(owner, database, partition, short)
    assert await backbone.count("event_feed") == 5
    with pytest.raises(CursorTooOld):
        await drain(backbone)
    async with database.connection() as connection:
        beginning = await event_feed.beginning(connection)
    assert sorted(await drain(backbone, beginning)) == sorted(ids[10:])
