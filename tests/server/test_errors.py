"""Every error leaves as one rich status: what a client can act on, and nothing of our insides."""

from __future__ import annotations

import asyncio
import logging

import asyncpg
import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from tollway.customer.v1 import customer_service_pb2 as customer_pb

from billing.domain.errors import Invalid, Unavailable, Violation
from billing.runtime.db import Database, DatabaseSettings, Role, connect
from server.admission import MESSAGE_BYTES_MAX
from server.app import METADATA_BYTES_MAX
from server.errors import DETAILS_BYTES_MAX, MESSAGE_CHARACTERS_MAX, rich_status, translate
from tests.conftest import Databases
from tests.server.rim import GET_CUSTOMER, Rim, open_rim, read_refusal, refusal_of, until
from tests.server.wire import wire_to

READ = customer_pb.GetCustomerRequest(external_id="UA")
SETTINGS = DatabaseSettings(connections_max=2, acquire_timeout_s=5.0)


async def test_the_unexpected_is_internal_and_its_reference_is_in_the_log(
    rim: Rim, caplog: pytest.LogCaptureFixture
) -> None:
    await rim.customer()
    async with rim.owner() as owner:
        await owner.execute("ALTER TABLE customers RENAME TO elsewhere")
    refused = await rim.refused(GET_CUSTOMER, READ)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    reference = refused.metadata["reference_id"]
    assert refused.message == f"Something went wrong on our side; the reference is {reference}."
    assert refused.retry_s is None
    told = [record for record in caplog.records if reference in record.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR]
    assert told[0].exc_info is not None
    assert "customers" in str(told[0].exc_info[1])


async def test_a_database_that_is_away_is_unavailable_and_comes_back(
    databases: Databases,
) -> None:
    async with wire_to(databases.url) as (wire, url):
        api = await connect(url, Role.API, SETTINGS)
        worker = await connect(url, Role.WORKER, SETTINGS)
        async with open_rim(databases, api, worker) as rim:
            await rim.customer()
            await wire.cut()
            for key in (
                "",
                rim.operator,
            ):  # with a key that is remembered, and with one that is not
                refused = await rim.refused(GET_CUSTOMER, READ, key)
                assert (refused.code, refused.reason) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "UNAVAILABLE",
                )
                assert refused.retry_s == 1
                assert "127.0.0.1" not in refused.message
            await wire.join()
            assert (await rim.call(GET_CUSTOMER, READ)).customer.external_id == "UA"
        await api.close()
        await worker.close()


async def test_a_session_that_is_lost_in_the_middle_is_unavailable_and_leaves_nothing(
    rim: Rim,
) -> None:
    async with rim.owner() as owner, _held_customer(rim, owner):
        waiting = asyncio.ensure_future(rim.customer("UA", timeout=20))
        await rim.someone_waits_for_a_lock()
        async with rim.owner() as second:
            await second.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'tollway api'"
            )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await waiting
    refused = read_refusal(raised.value)
    assert (refused.code, refused.retry_s) == (grpc.StatusCode.UNAVAILABLE, 1)
    assert await rim.value("SELECT count(*) FROM customers") == 0
    assert (await rim.customer("UA")).external_id == "UA"


async def test_a_call_that_its_client_gives_up_leaves_no_transaction_open(rim: Rim) -> None:
    async with rim.owner() as owner:
        async with _held_customer(rim, owner):
            call = rim.raw(*_create("UA"), timeout=20)
            waiting = asyncio.ensure_future(_ignored(call))
            await rim.someone_waits_for_a_lock()
            call.cancel()
            await waiting

            async def nobody_is_busy() -> bool:
                async with rim.owner() as second:  # what a session sees of others does not change
                    busy = await second.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND application_name = 'tollway api' AND state <> 'idle'"
                    )
                return bool(busy == 0)

            await until(nobody_is_busy)
        assert await rim.value("SELECT count(*) FROM customers") == 0
    made = await asyncio.gather(*(rim.customer(f"C{n}") for n in range(20)))
    assert len({customer.id for customer in made}) == 20


async def test_a_rollback_that_fails_does_not_hide_what_went_wrong(databases: Databases) -> None:
    class WentWrong(Exception):
        pass

    async with wire_to(databases.url) as (wire, url):
        database = await connect(url, Role.API, SETTINGS)
        with pytest.raises(WentWrong):
            async with database.transaction() as tx:
                await tx.execute("SELECT 1")
                await wire.cut()
                raise WentWrong
        await wire.join()
        assert await _one(database) == 1
        await database.close()


async def test_a_session_goes_back_clean_though_its_rollback_was_cancelled(
    databases: Databases,
) -> None:
    """Cancelled twice: in the block, and again while it rolls back."""
    database = await connect(databases.url, Role.API, DatabaseSettings(connections_max=1))
    inside = asyncio.Event()

    async def held() -> None:
        async with database.transaction() as tx:
            await tx.execute("CREATE TEMPORARY TABLE t (x integer) ON COMMIT DROP")
            inside.set()
            await asyncio.Event().wait()

    for turns in range(6):  # wherever the second one lands
        inside.clear()
        task = asyncio.create_task(held())
        await inside.wait()
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        async with database.connection() as connection:
            assert not connection.is_in_transaction()
            assert await connection.fetchval("SELECT to_regclass('pg_temp.t')") is None
    await database.close()


def test_an_error_with_very_many_particulars_still_fits_into_trailers() -> None:
    violations = [Violation(f"records[{n}].{'x' * 500}", "ü" * 5000) for n in range(1000)]
    error = Invalid("m" * 100_000, violations=violations, metadata={"key": "v" * 100_000})
    status = rich_status(error)
    assert status.ByteSize() < DETAILS_BYTES_MAX + 1000
    assert len(status.message) == MESSAGE_CHARACTERS_MAX
    bad = BadRequest()
    status.details[-1].Unpack(bad)
    assert len(bad.field_violations) >= 1


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.SerializationError("s"),
        asyncpg.DeadlockDetectedError("d"),
        asyncpg.LockNotAvailableError("l"),
        asyncpg.QueryCanceledError("q"),
        asyncpg.ConnectionDoesNotExistError("c"),
        asyncpg.TooManyConnectionsError("t"),
        asyncpg.AdminShutdownError("a"),
        asyncpg.CannotConnectNowError("n"),
        asyncpg.TransactionTimeoutError("t"),
        asyncpg.IdleInTransactionSessionTimeoutError("i"),
        asyncpg.ReadOnlySQLTransactionError("r"),
        asyncpg.InvalidCachedStatementError("i"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InterfaceError("pool is closing"),
        ConnectionResetError("r"),
        TimeoutError(),
        Unavailable(retry_after_s=1),
    ],
    ids=lambda error: f"{type(error).__name__}({error})",
)
def test_what_passes_is_unavailable_and_worth_another_try(error: Exception) -> None:
    assert translate(error, "/x").code == grpc.StatusCode.UNAVAILABLE.value[0]


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError("u"),
        asyncpg.CheckViolationError("c"),
        asyncpg.InsufficientPrivilegeError("i"),
        asyncpg.UndefinedTableError("u"),
        asyncpg.DataError("invalid input for query argument $1"),
        asyncpg.InterfaceError("the server expects 2 arguments for this query, 1 was passed"),
        asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
        FileNotFoundError("f"),
        KeyError("k"),
    ],
    ids=lambda error: f"{type(error).__name__}({error})",
)
def test_what_would_fail_again_is_our_fault(error: Exception) -> None:
    status = translate(error, "/x")
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert status.message.startswith("Something went wrong on our side; the reference is ")


def _create(external_id: str) -> tuple[str, bytes]:
    request = customer_pb.CreateCustomerRequest(external_id=external_id, display_name="x")
    return "/tollway.customer.v1.CustomerService/CreateCustomer", request.SerializeToString()


async def _ignored(call: grpc.aio.UnaryUnaryCall[bytes, bytes]) -> None:
    await asyncio.wait([asyncio.ensure_future(call.code())])


async def _one(database: Database) -> int:
    async with database.transaction() as tx:
        one: int = await tx.fetchval("SELECT 1")
    return one


class _held_customer:  # noqa: N801 - read as a block: while a customer is being made by somebody else
    """Somebody else's customer UA, not committed; whoever makes the same one waits. Rolled back at the end."""

    def __init__(self, rim: Rim, owner: asyncpg.Connection[asyncpg.Record]) -> None:
        self._rim, self._transaction = rim, owner.transaction()
        self._owner = owner

    async def __aenter__(self) -> None:
        await self._transaction.start()
        await self._owner.execute(
            "INSERT INTO customers (tenant_id, id, external_id, display_name, time_zone, created_at)"
            " VALUES ($1, gen_random_uuid(), 'UA', 'x', 'UTC', now())",
            self._rim.acme.id,
        )

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()


@pytest.mark.parametrize(
    "method",
    ["/tollway.customer.v1.CustomerService/Nothing", "/tollway.nothing.v1.NoService/GetNothing"],
)
async def test_a_method_that_is_not_there_is_told_with_its_reason(rim: Rim, method: str) -> None:
    refused = await refusal_of(rim.raw(method, b""))
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "METHOD_NOT_FOUND",
    )


async def test_what_the_library_refuses_by_itself_has_the_code_that_the_page_tells(
    rim: Rim,
) -> None:
    """docs/errors.md says that these carry no reason. Where one has one some day, the page must change."""
    large_metadata = (("x-large", "x" * 4 * METADATA_BYTES_MAX),)
    for body, metadata in ((b"x" * (MESSAGE_BYTES_MAX + 1), ()), (b"", large_metadata)):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await rim.raw(GET_CUSTOMER, body, metadata=metadata)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        names = [key for key, _ in raised.value.trailing_metadata() or ()]
        assert "grpc-status-details-bin" not in names
