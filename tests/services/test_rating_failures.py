"""Ratings that fail are listed with their reason, and tried again when the cause is mended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from tollway.error.v1.error_reason_pb2 import ErrorReason
from tollway.rating.v1 import rating_service_pb2 as pb
from tollway.rating.v1.rating_service_pb2_grpc import RatingServiceStub

from billing.services.rating import RatingSettings
from tests.conftest import Databases
from tests.services.usage_server import Client, usage_server
from tests.services.usage_world import Sub, World, make_world
from workers.rating import RatingWorker

MATRIX = '{"dimensions": ["region"], "cells": [{"values": ["eu"], "unit_amount": "2"}]}'


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with usage_server(world) as client:
        yield client


async def fail(world: World, customer: str) -> Sub:
    """A subscription whose price knows no price for what was used."""
    await world.customer(customer)
    sub = await world.served(customer, price_id=await world.price("minutes", "matrix", MATRIX))
    await world.record(
        {"key": customer, "customer": customer, "properties": {"region": "us"}},
    )
    await world.fold()
    return sub


async def rate(world: World) -> None:
    await RatingWorker(world.worker, world.databases.clock, RatingSettings()).step()


async def listed(client: Client, **fields: Any) -> pb.ListRatingFailuresResponse:
    stub = RatingServiceStub(client.channel)
    request = pb.ListRatingFailuresRequest(**fields)
    answer: pb.ListRatingFailuresResponse = await stub.ListRatingFailures(
        request, metadata=client.metadata
    )
    return answer


async def test_a_failure_says_what_is_missing_and_goes_when_it_is_mended(
    world: World, client: Client
) -> None:
    await world.execute("UPDATE meters SET group_by = '{region}' WHERE true")
    sub = await fail(world, "DL")
    await rate(world)
    (failure,) = (await listed(client)).failures
    assert failure.subscription_id == world.subscription_text(sub)
    assert failure.reason == ErrorReason.ERROR_REASON_USAGE_NOT_RATABLE
    assert "region='us'" in failure.message
    assert (failure.attempts, failure.HasField("retry_time")) == (1, True)

    # Voided as a further revision does it; its fold marks the period as due.
    await world.execute("UPDATE usage_records SET voided = true WHERE true")
    await rate(world)
    assert len((await listed(client)).failures) == 1
    stub = RatingServiceStub(client.channel)
    answer = await stub.RetryRating(
        pb.RetryRatingRequest(subscription_id=failure.subscription_id), metadata=client.metadata
    )
    assert answer.failure.message == failure.message
    await world.execute("UPDATE usage_buckets SET records = 0, quantity_sum = 0 WHERE true")
    await rate(world)
    assert not (await listed(client)).failures


async def test_failures_are_paged(world: World, client: Client) -> None:
    await world.execute("UPDATE meters SET group_by = '{region}' WHERE true")
    subs = [await fail(world, f"C{n}") for n in range(3)]
    await rate(world)
    first = await listed(client, page_size=2)
    rest = await listed(client, page_size=2, page_token=first.next_page_token)
    found = [failure.subscription_id for failure in (*first.failures, *rest.failures)]
    assert found == sorted(map(world.subscription_text, subs))
    assert rest.next_page_token == ""


async def test_a_subscription_that_is_not_there_is_not_found(client: Client, world: World) -> None:
    sub = Sub(world.new(), world.new(), world.new())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await RatingServiceStub(client.channel).RetryRating(
            pb.RetryRatingRequest(subscription_id=world.subscription_text(sub)),
            metadata=client.metadata,
        )
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
