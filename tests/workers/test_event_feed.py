"""The feed: every routed event once, resumable from any cursor, and slow readers in nobody's way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from uuid import UUID

import pytest
from google.protobuf.struct_pb2 import Struct
from tollway.event.v1 import event_pb2
from tollway.subscription.v1 import subscription_events_pb2

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.bus.base import BusMessage
from billing.runtime.ids import new_id
from billing.services import event_feed
from billing.services.actor import Cause
from billing.services.custom_events import CustomEvent, publish
from billing.services.event_feed import CursorInvalid, FeedFilter, FeedPage, Positions
from billing.services.webhook_subjects import SubjectInvalid
from tests.backbone import PATIENCE_S, SHARDS, Backbone, Effects
from workers.router.consumers import Consumer
from workers.webhooks.body import body_of

FEED = Consumer("feed", None, event_feed.append)
ALL = FeedFilter.of([])
CREATED = subscription_events_pb2.SubscriptionCreated()


async def read(house: Backbone, known: Positions, wanted: FeedFilter = ALL) -> FeedPage:
    async with house.databases.api.transaction(house.tenant, snapshot=True) as snapshot:
        return await event_feed.read(snapshot, house.tenant, known, wanted)


async def drain(
    house: Backbone, known: Positions | None = None, wanted: FeedFilter = ALL
) -> list[UUID]:
    """The ids of everything behind the positions, read page by page."""
    ids, known = [], known or {}
    while True:
        page = await read(house, known, wanted)
        ids += ids_of([item.envelope for item in page.items])
        known = page.positions
        if not page.full:
            return ids


def ids_of(envelopes: Sequence[bytes]) -> list[UUID]:
    return [decode(Prefix.EVENT, event_pb2.Event.FromString(one).id) for one in envelopes]


async def route(house: Backbone, *others: Consumer) -> None:
    """Publishes and routes all there is."""
    await house.dispatch()
    positions = await house.fetch("SELECT partition, last_sequence FROM router_positions")
    left = -sum(row["last_sequence"] for row in positions)
    for partition in range(SHARDS):
        left += (await house.bus.stream_state(partition)).last_seq
    async with house.router([FEED, *others]) as routing:
        await routing.until(lambda: routing.metrics.routed._value.get() >= left)


async def test_every_event_is_in_the_feed_once_and_those_of_a_resource_in_order(
    backbone: Backbone,
) -> None:
    resources = [backbone.resource() for _ in range(50)]
    rounds = [await backbone.emit(resources) for _ in range(5)]
    await route(backbone)

    ids = await drain(backbone)
    assert len(ids) == 250
    assert sorted(ids) == sorted(event for ids_ in rounds for event in ids_)
    for place in range(50):
        own = [ids_[place] for ids_ in rounds]
        assert [event for event in ids if event in set(own)] == own
    # Dense: the counter is the number of the partition's rows.
    assert (await backbone.fetch("SELECT sum(feed_position) AS n FROM router_positions"))[0][
        "n"
    ] == 250


async def test_an_event_that_comes_again_is_not_in_the_feed_again(backbone: Backbone) -> None:
    ids = await backbone.emit([backbone.resource() for _ in range(10)])
    await route(backbone)
    replay = encode(Prefix.REPLAY, new_id(backbone.now))
    for partition, messages in enumerate(await backbone.on_bus()):
        for message in messages:
            bus_id = f"{message.bus_id}:{replay}"
            await backbone.bus.publish_one(
                BusMessage(
                    partition, message.tenant, message.subject, "key", bus_id, {}, message.body
                )
            )
    await route(backbone)
    assert sorted(await drain(backbone)) == sorted(ids)


async def test_a_batch_with_an_event_at_fault_for_another_consumer_is_in_the_feed_whole(
    backbone: Backbone,
) -> None:
    ids = await backbone.emit([backbone.resource() for _ in range(40)])
    await route(backbone, Effects("ill", failing={ids[7]}).consumer())
    assert sorted(await drain(backbone)) == sorted(ids)


async def test_a_reader_goes_on_from_any_cursor_without_loss_or_repetition(
    backbone: Backbone,
) -> None:
    await backbone.emit([backbone.resource() for _ in range(30)])
    await route(backbone)
    page = await read(backbone, {})
    everything = ids_of([item.envelope for item in page.items])
    for place, item in enumerate(page.items):
        text = event_feed.encode_cursor(backbone.tenant, item.positions)
        known = event_feed.decode_cursor(backbone.tenant, text)
        # The partitions are mixed by distance, so the order between resources depends on the start.
        assert sorted(await drain(backbone, known)) == sorted(everything[place + 1 :])


async def test_filters_leave_out_what_is_not_wanted_and_the_cursor_passes_it(
    backbone: Backbone,
) -> None:
    resources = [backbone.resource() for _ in range(3)]
    await backbone.emit(resources)
    created = await backbone.emit(resources, CREATED)
    await route(backbone)

    for subjects in (["subscription.created"], ["subscription.*"], ["nothing", "subscription.*"]):
        assert sorted(await drain(backbone, wanted=FeedFilter.of(subjects))) == sorted(created)
    own = FeedFilter.of(["subscription.created"], resources[1])
    assert await drain(backbone, wanted=own) == [created[1]]
    page = await read(backbone, {}, FeedFilter.of(["nothing"]))
    assert page.items == []
    assert sum(page.positions.values()) == 6
    # An underscore is an underscore, and a beginning ends at a dot.
    assert await drain(backbone, wanted=FeedFilter.of(["sub.*"])) == []


async def test_a_cursor_of_another_tenant_or_of_another_house_is_refused(
    backbone: Backbone,
) -> None:
    theirs = event_feed.encode_cursor(new_id(backbone.now), {0: 1})
    mine = event_feed.encode_cursor(backbone.tenant, {0: 300, 1: 2**40})
    assert event_feed.decode_cursor(backbone.tenant, mine) == {0: 300, 1: 2**40}
    for text in (theirs, "", "é", "####", mine[:-2], mine + "_w"):
        with pytest.raises(CursorInvalid):
            event_feed.decode_cursor(backbone.tenant, text)
    with pytest.raises(CursorInvalid):
        await read(backbone, {0: 1})
    with pytest.raises(SubjectInvalid):
        FeedFilter.of(["No.Such.%"])


async def test_routing_wakes_those_who_watch_the_tenant_and_nobody_else(
    backbone: Backbone,
) -> None:
    woken = backbone.bus.subscribe_hints(event_feed.hint_topic(backbone.tenant))
    other = backbone.bus.subscribe_hints(event_feed.hint_topic(new_id(backbone.now)))
    await backbone.emit([backbone.resource()])
    await route(backbone)
    async with asyncio.timeout(PATIENCE_S):
        await woken.wait()
    assert not other.is_set()


async def test_a_custom_event_goes_to_those_that_take_everything(backbone: Backbone) -> None:
    every, named = Effects("every"), Effects("named")
    data = Struct()
    data["gate"] = "B12"
    told = CustomEvent("custom.flight.landed", "flight-1", data, {})
    cause = Cause("key_test", new_id(backbone.now))
    async with backbone.databases.api.transaction(backbone.tenant) as tx:
        [published] = await publish(tx, backbone.tenant, [told], cause, now=backbone.now)
    await route(backbone, every.consumer(), named.consumer("tenant.created"))

    assert every.given == await drain(backbone) == [published.event_id]
    assert named.given == []
    assert await backbone.count("router_waiting") == 0
    [row] = await backbone.fetch("SELECT envelope FROM billing_events")
    assert json.loads(body_of(row["envelope"]))["data"] == {"gate": "B12"}
