"""What machines ask over HTTP: is it alive, can it work, what has it done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tollway.customer.v1 import customer_service_pb2 as customer_pb

from billing.runtime.db import Database, DatabaseSettings, Role, connect
from server.http import Check, HttpServer, start_http
from tests.conftest import Databases
from tests.server.rim import GET_CUSTOMER, Rim
from tests.server.wire import wire_to


@asynccontextmanager
async def serving(
    checks: Mapping[str, Check], registry: CollectorRegistry | None = None
) -> AsyncIterator[HttpServer]:
    server = await start_http("127.0.0.1", 0, registry or CollectorRegistry(), checks)
    try:
        yield server
    finally:
        await server.stop()


async def get(server: HttpServer, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}{path}") as answer,
    ):
        return answer.status, await answer.text()


def database_check(database: Database) -> Check:
    async def check() -> str:
        async with database.connection() as connection:
            await connection.execute("SELECT 1")
        return ""

    return check


async def fine() -> str:
    return ""


async def test_a_process_is_ready_while_its_database_answers_and_alive_all_the_time(
    databases: Databases,
) -> None:
    async with wire_to(databases.url) as (wire, url):
        database = await connect(url, Role.API, DatabaseSettings())
        async with serving({"database": database_check(database), "bus": fine}) as server:
            assert await get(server, "/readyz") == (200, "database: ok\nbus: ok\n")
            await wire.cut()
            status, text = await get(server, "/readyz")
            assert (status, text) == (503, "database: Unavailable\nbus: ok\n")
            assert await get(server, "/healthz") == (200, "ok\n")
            await wire.join()
            assert await get(server, "/readyz") == (200, "database: ok\nbus: ok\n")
        await database.close()


async def test_what_is_wrong_is_told_and_what_hangs_is_not_waited_for() -> None:
    async def lacking() -> str:
        return "lacks 0009_credit.sql; run `tollway migrate`"

    async def hanging() -> str:
        await asyncio.Event().wait()
        return ""

    async with serving({"schema": lacking, "bus": hanging}) as server:
        status, text = await get(server, "/readyz")
    assert status == 503
    assert text == (
        "schema: lacks 0009_credit.sql; run `tollway migrate`\nbus: no answer within 2 s\n"
    )


async def test_metrics_tell_calls_by_method_and_code_and_no_tenant(rim: Rim) -> None:
    await rim.customer("UA")
    request = customer_pb.GetCustomerRequest(external_id="UA")
    for _ in range(3):
        await rim.call(GET_CUSTOMER, request)
    await rim.refused(GET_CUSTOMER, request, key=None)
    async with serving({}, rim.registry) as server:
        status, text = await get(server, "/metrics")
    assert status == 200
    calls = {
        (sample.labels["method"], sample.labels["code"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "tollway_rpc_calls_total"
    }
    assert calls[GET_CUSTOMER, "OK"] == 3
    assert calls[GET_CUSTOMER, "UNAUTHENTICATED"] == 1
    assert f'tollway_rpc_seconds_count{{method="{GET_CUSTOMER}"}} 4.0' in text
    assert rim.acme.name not in text
    assert str(rim.acme.id) not in text


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open() -> None:
    async with serving({}) as server:
        with pytest.raises(OSError, match="address already in use"):
            await start_http("127.0.0.1", server.port, CollectorRegistry(), {})
