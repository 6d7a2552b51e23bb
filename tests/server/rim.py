"""A real server in this process, its callers, and its refusals read as a client reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from prometheus_client import CollectorRegistry
from queries.models import Tenant
from tollway.customer.v1 import customer_service_pb2 as customer_pb

from billing.domain.ids import Prefix, encode
from billing.runtime.clock import Clock
from billing.runtime.db import Database
from billing.runtime.ids import new_id
from billing.runtime.vault import Vault
from billing.services import keys, tenants
from billing.services.actor import Cause
from billing.services.keys import Scope
from billing.services.tenant_limits import TenantLimits
from server.admission import Admission, AdmissionSettings
from server.allowance import Allowances
from server.app import GrpcServer, ServerSettings, start_grpc
from server.authentication import Authenticator
from server.deadlines import Deadlines
from server.house import House
from server.interceptor import Rim as Interceptor
from server.interceptor import RimLimits
from server.metrics import Refusals, RpcMetrics
from server.registry import SERVICES
from tests.conftest import Databases

T = TypeVar("T")
WAIT_MAX_S: Final = 20.0
SETTINGS: Final = ServerSettings(port=0, stop_grace_s=5.0)

CREATE_CUSTOMER: Final = "/tollway.customer.v1.CustomerService/CreateCustomer"
GET_CUSTOMER: Final = "/tollway.customer.v1.CustomerService/GetCustomer"
CREATE_KEY: Final = "/tollway.tenant.v1.TenantService/CreateApiKey"
LIST_KEYS: Final = "/tollway.tenant.v1.TenantService/ListApiKeys"
REVOKE_KEY: Final = "/tollway.tenant.v1.TenantService/RevokeApiKey"
CREATE_TENANT: Final = "/tollway.tenant.v1.TenantService/CreateTenant"


def methods() -> Iterator[tuple[str, type[Message], type[Message]]]:
    """Every method of every registered service, with its request and its answer."""
    pool = descriptor_pool.Default()
    for service in SERVICES:
        for method in pool.FindServiceByName(service).methods:
            yield (
                f"/{service}/{method.name}",
                message_factory.GetMessageClass(method.input_type),
                message_factory.GetMessageClass(method.output_type),
            )


ANSWERS: Final = {method: answer for method, _, answer in methods()}
REQUESTS: Final = {method: request for method, request, _ in methods()}


STREAMS: Final = {
    f"/{service}/{method.name}"
    for service in SERVICES
    for method in descriptor_pool.Default().FindServiceByName(service).methods
    if method.server_streaming
}


async def first_answer(call: Any) -> bytes:
    """The first message of a stream, which is then left."""
    try:
        answer = await call.read()
        return answer if isinstance(answer, bytes) else b""
    finally:
        call.cancel()


@dataclass(slots=True)
class ShiftedClock:
    """Machine time, moved by the test."""

    clock: Clock
    shift: timedelta = timedelta()

    def now(self) -> datetime:
        return self.clock.now() + self.shift


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client can tell of a failed call."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: Mapping[str, str]
    fields: Mapping[str, str]
    retry_s: float | None


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """The rich status of a failed call. Every error has one, with exactly one ErrorInfo."""
    told = [
        Status.FromString(value)
        for key, value in error.trailing_metadata() or ()
        if key == "grpc-status-details-bin" and isinstance(value, bytes)
    ]
    assert len(told) == 1, f"one status, not {len(told)}: {error!r}"
    status = told[0]
    assert (status.code, status.message) == (error.code().value[0], error.details())
    infos = _unpacked(status, ErrorInfo)
    assert len(infos) == 1
    assert infos[0].domain == "tollway"
    retries = _unpacked(status, RetryInfo)
    return Refusal(
        error.code(),
        status.message,
        infos[0].reason,
        dict(infos[0].metadata),
        {
            v.field: v.description
            for bad in _unpacked(status, BadRequest)
            for v in bad.field_violations
        },
        retries[0].retry_delay.ToTimedelta().total_seconds() if retries else None,
    )


def _unpacked(status: Status, kind: type[Any]) -> list[Any]:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


async def refusal_of(call: Awaitable[Any]) -> Refusal:
    """The refusal of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return read_refusal(raised.value)


async def until(reached: Callable[[], Awaitable[T]]) -> T:
    """Waits for a condition that only the database can tell."""
    async with asyncio.timeout(WAIT_MAX_S):
        while not (found := await reached()):  # noqa: ASYNC110 - nothing but the database can tell
            await asyncio.sleep(0.005)
        return found


@dataclass(frozen=True, slots=True)
class Company:
    """A tenant, and a key of each scope."""

    tenant: Tenant
    keys: Mapping[Scope, str]

    @property
    def id(self) -> UUID:
        return self.tenant.id

    @property
    def name(self) -> str:
        """The tenant's TypeID."""
        return encode(Prefix.TENANT, self.tenant.id)


@dataclass(slots=True)
class Rim:
    """The server, a channel to it, two tenants that must not see each other, and an operator."""

    databases: Databases
    house: House
    clock: ShiftedClock
    registry: CollectorRegistry
    server: GrpcServer
    channel: grpc.aio.Channel
    acme: Company
    other: Company
    operator: str
    metadata_of_last: Sequence[tuple[str, Any]] = field(default=())

    def raw(
        self,
        method: str,
        body: bytes,
        key: str | None = "",
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        timeout: float | None = None,
    ) -> Any:
        """The bytes that answer a call, a stream's first. An empty key is an admin's of `acme`; None sends none."""
        if key is not None:
            secret = key or self.acme.keys[Scope.ADMIN]
            metadata = (("authorization", f"Bearer {secret}"), *metadata)
        if method in STREAMS:
            stream: Any = self.channel.unary_stream(method)
            return first_answer(stream(body, metadata=tuple(metadata), timeout=timeout))
        call: Any = self.channel.unary_unary(method)
        return call(body, metadata=tuple(metadata), timeout=timeout)

    async def call(
        self, method: str, request: Message | None = None, key: str | None = "", **options: Any
    ) -> Any:
        """The answer of a call; no request is an empty one."""
        body = request.SerializeToString() if request is not None else b""
        return ANSWERS[method].FromString(await self.raw(method, body, key, **options))

    async def refused(
        self, method: str, request: Message | None = None, key: str | None = "", **options: Any
    ) -> Refusal:
        """The refusal of a call that must fail."""
        return await refusal_of(self.call(method, request, key, **options))

    async def customer(
        self, external_id: str = "UA", key: str = "", **options: Any
    ) -> customer_pb.Customer:
        request = customer_pb.CreateCustomerRequest(external_id=external_id, display_name="United")
        made: customer_pb.Customer = (
            await self.call(CREATE_CUSTOMER, request, key, **options)
        ).customer
        return made

    async def value(self, statement: str, *values: Any) -> Any:
        async with self.databases.worker.connection() as connection:
            return await connection.fetchval(statement, *values)

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A session of the database's owner."""
        connection = await asyncpg.connect(self.databases.url)
        try:
            yield connection
        finally:
            await connection.close()

    async def someone_waits_for_a_lock(self) -> None:
        """Returns when a session of the API or of a worker waits for a lock."""

        async def waiting() -> bool:
            async with self.owner() as owner:
                found: int = await owner.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name LIKE 'tollway %' AND wait_event_type = 'Lock'"
                )
            return found > 0

        await until(waiting)


def interceptor(databases: Databases) -> Interceptor:
    """What every call passes, for a server that a test puts together."""
    registry = CollectorRegistry()
    refusals = Refusals(registry)
    limits = RimLimits(
        Admission(AdmissionSettings(), registry, refusals),
        Allowances(databases.worker, databases.clock, TenantLimits(), refusals),
        Deadlines(),
    )
    authenticator = Authenticator(databases.worker)
    return Interceptor(authenticator, databases.clock, RpcMetrics(registry), limits)


@asynccontextmanager
async def open_rim(
    databases: Databases,
    api: Database | None = None,
    worker: Database | None = None,
    settings: ServerSettings = SETTINGS,
) -> AsyncIterator[Rim]:
    """Serves until the block ends; `api` and `worker` stand in for the pools of `databases`."""
    clock = ShiftedClock(databases.clock)
    house = House(api or databases.api, worker or databases.worker, clock, Vault(bytes(range(32))))
    registry = CollectorRegistry()
    acme, other = await found(databases, "Acme"), await found(databases, "Other")
    async with databases.worker.transaction() as tx:
        _, operator = await keys.create_operator_key(tx, "operator", now=clock.now())
    server = await start_grpc(house, settings, registry)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Rim(databases, house, clock, registry, server, channel, acme, other, operator)
    finally:
        await server.stop()


async def found(databases: Databases, name: str) -> Company:
    """A tenant in test mode with a key of each scope."""
    now = databases.clock.now()
    cause = Cause("opr_test", new_id(now))
    secrets = {}
    async with databases.worker.transaction() as tx:
        tenant = await tenants.create_tenant(
            tx, tenants.NewTenant(name, "test", "Europe/Vienna"), cause, now=now
        )
        for scope in (Scope.READ, Scope.WRITE, Scope.ADMIN):
            draft = keys.NewKey(scope.value, (scope,))
            _, secrets[scope] = await keys.create_key(tx, tenant.id, draft, cause, now=now)
    return Company(tenant, secrets)
