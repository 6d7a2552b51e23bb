"""What must hold after any fault, said once.

Every committed event was published; every effect happened exactly once; the order per resource held, healed events
excepted; nothing is given up that need not be; positions, inbox and feed agree; and whoever watches from the beginning
gets every event once.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from prometheus_client import CollectorRegistry
from tollway.event.v1 import event_pb2

from billing.domain.ids import Prefix, decode
from billing.runtime.vault import Vault, new_key_text
from billing.services.event_feed import FeedFilter
from server.feed import watch
from server.house import House
from tests.backbone import SHARDS, Backbone
from tests.faults.backbone_process import CONSUMERS
from workers.healing import Healer, HealingSettings
from workers.metrics import SweeperMetrics

SETTLE_S = 90.0
ORDERED = ("second", "feed")
# The load has ended, so no event is too young to be looked at.
HEALING = HealingSettings(after=timedelta(minutes=-5))


@dataclass(frozen=True, slots=True)
class Committed:
    """One event of the log, which alone knows what was committed."""

    id: UUID
    resource: str
    version: int
    subject: str


async def assert_all_is_well(
    backbone: Backbone, *, discarded: Collection[UUID] = (), healed: bool = False
) -> None:
    """Waits until all is quiet, then looks. `discarded` were given up by an operator; `healed`: the bus lost some."""
    await settle(backbone)
    committed = await log_of(backbone)
    late = {row["event_id"] for row in await backbone.fetch("SELECT event_id FROM healed")}
    assert healed or not late, "healing armed events though nothing was lost"
    assert committed, "nothing happened at all"
    for table in ("outbox", "outbox_dead_letters", "router_waiting", "router_dead_letters"):
        assert await backbone.count(table) == 0, table
    await assert_effects_once(backbone, committed, discarded, late)
    await assert_positions_agree(backbone)
    await assert_order_on_the_bus(backbone, late)
    watched = await watch_from_the_beginning(backbone)
    assert_once(watched, [event.id for event in committed if event.id not in discarded], "watched")


async def settle(backbone: Backbone) -> None:
    """Waits until nothing is queued, everything on the bus is routed, and the log has been checked to its end."""
    healer = Healer(backbone.ground, CONSUMERS, HEALING, SweeperMetrics(CollectorRegistry()))
    async with asyncio.timeout(SETTLE_S):
        while True:
            await healer.step()
            if await is_quiet(backbone):
                return
            await asyncio.sleep(0.05)


async def is_quiet(backbone: Backbone) -> bool:
    [row] = await backbone.fetch(
        "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM router_waiting) AS left,"
        " (SELECT healed_until FROM healing)"
        " >= (SELECT id FROM billing_events ORDER BY id DESC LIMIT 1) AS healed"
    )
    return row["left"] == 0 and bool(row["healed"])


async def log_of(backbone: Backbone) -> list[Committed]:
    rows = await backbone.fetch(
        "SELECT id, resource, resource_version, subject FROM billing_events ORDER BY id"
    )
    return [Committed(*row.values()) for row in rows]


async def assert_effects_once(
    backbone: Backbone,
    committed: list[Committed],
    discarded: Collection[UUID],
    late: Collection[UUID],
) -> None:
    versions = {event.id: (event.resource, event.version) for event in committed}
    for consumer, subjects in CONSUMERS.items():
        wanted = [event.id for event in committed if subjects is None or event.subject in subjects]
        inbox = await backbone.fetch(
            "SELECT event_id FROM inbox WHERE consumer = $1 ORDER BY event_id", consumer
        )
        assert_once([row["event_id"] for row in inbox], wanted, f"inbox of {consumer}")
        table = (
            "SELECT event_id FROM event_feed ORDER BY partition, position"
            if consumer == "feed"
            else f"SELECT event_id FROM effects WHERE consumer = '{consumer}' ORDER BY place"
        )
        effects = [row["event_id"] for row in await backbone.fetch(table)]
        done = [event for event in wanted if event not in discarded]
        assert_once(effects, done, f"effects of {consumer}")
        if consumer in ORDERED:
            assert_order((versions[e] for e in effects if e not in late), consumer)


async def assert_positions_agree(backbone: Backbone) -> None:
    positions = await backbone.fetch("SELECT * FROM router_positions ORDER BY partition")
    assert [row["partition"] for row in positions] == list(range(SHARDS))
    for row in positions:
        state = await backbone.bus.stream_state(row["partition"])
        assert (row["stream_identity"], row["last_sequence"]) == (state.identity, state.last_seq)
        fed = await backbone.fetch(
            "SELECT position FROM event_feed WHERE partition = $1 ORDER BY position",
            row["partition"],
        )
        assert [one["position"] for one in fed] == list(range(1, row["feed_position"] + 1))


async def assert_order_on_the_bus(backbone: Backbone, late: Collection[UUID]) -> None:
    """What the streams still hold: first appearances, in order per resource."""
    for messages in await backbone.on_bus():
        events = [event_pb2.Event.FromString(message.body) for message in messages]
        first = list({event.id: event for event in events}.values())
        assert_order(
            (
                (event.resource_id, event.resource_version)
                for event in first
                if decode(Prefix.EVENT, event.id) not in late
            ),
            "the bus",
        )


async def watch_from_the_beginning(backbone: Backbone) -> list[UUID]:
    """What a watcher gets until a sign of life says that there is nothing more."""
    databases = backbone.databases
    vault = Vault.parse(new_key_text())
    house = House(databases.api, databases.worker, databases.clock, vault)
    [row] = await backbone.fetch("SELECT count(*) FROM event_feed")
    seen: list[UUID] = []
    async with asyncio.timeout(SETTLE_S):
        async for envelope, _ in watch(house, backbone.tenant, {}, FeedFilter.of([])):
            if envelope:
                seen.append(decode(Prefix.EVENT, event_pb2.Event.FromString(envelope).id))
            if len(seen) >= row["count"]:
                return seen
    raise AssertionError("a watch does not end by itself")


def assert_once(found: list[UUID], wanted: list[UUID], what: str) -> None:
    """The same events, each once; says what is missing and what is there twice."""
    missing = set(wanted) - set(found)
    strange = set(found) - set(wanted)
    twice = [event for event, times in Counter(found).items() if times > 1]
    assert (missing, strange, twice) == (set(), set(), []), what


def assert_order(versions: Iterable[tuple[str, int]], where: str) -> None:
    """Versions ascend per resource."""
    seen: dict[str, list[int]] = defaultdict(list)
    for resource, version in versions:
        seen[resource].append(version)
    for resource, own in seen.items():
        assert own == sorted(own), f"{where}: {resource}"
