"""Who changed what: an entry for every call that changes something, in its own transaction, and nobody alters one."""

from __future__ import annotations

import inspect
import os
import sys
from asyncio import create_subprocess_exec, subprocess
from collections.abc import Iterator
from datetime import UTC, timedelta
from typing import Any, Final, cast
from uuid import UUID

import asyncpg
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry
from tollway.catalog.v1 import catalog_service_pb2 as catalog_pb
from tollway.customer.v1 import customer_service_pb2 as customer_pb
from tollway.operations.v1 import operations_service_pb2 as pb
from tollway.tenant.v1 import tenant_service_pb2 as tenant_pb
from tollway.usage.v1 import usage_service_pb2 as usage_pb

from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services.keys import Principal, Scope
from billing.services.tenant_limits import TenantLimits
from server import audit
from server.allowance import Allowances
from server.call import Call
from server.metrics import Refusals
from server.permissions import PERMISSIONS
from server.registry import SERVICES
from tests.conftest import Databases
from tests.server.rim import (
    ANSWERS,
    CREATE_CUSTOMER,
    CREATE_KEY,
    CREATE_TENANT,
    REQUESTS,
    Rim,
)

LIST: Final = "/tollway.operations.v1.OperationsService/ListAuditEntries"
PAUSE: Final = "/tollway.operations.v1.OperationsService/Pause"
USAGE: Final = "/tollway.usage.v1.UsageService"
READS: Final = (
    "Get",
    "List",
    "Watch",
    "Preview",
    "Plan",
    "Explain",
    "Render",
    "Export",
    "Summarize",
)
# Each batch that they record has its entry, which `record_usage` writes.
RECORDING: Final = frozenset(
    f"{USAGE}/{name}" for name in ("RecordUsage", "BatchRecordUsage", "StreamUsage")
)
CUSTOMER: Final = customer_pb.CreateCustomerRequest(
    request_id="req-1", external_id="UA", display_name="United"
)


def changing() -> Iterator[str]:
    """Every method that changes something, and takes a request id."""
    for method in PERMISSIONS:
        if not method.rpartition("/")[2].startswith(READS) and method not in RECORDING:
            yield method


def test_every_method_that_changes_something_goes_through_the_door_that_writes_its_entry() -> None:
    """What does not is read-only by the database, or records usage."""
    outside = []
    for name, (_, servicer) in SERVICES.items():
        for method in descriptor_pool.Default().FindServiceByName(name).methods:
            full = f"/{name}/{method.name}"
            mutates = "mutate" in inspect.getsource(vars(servicer)[method.name])
            if mutates != (full in set(changing())):
                outside.append(full)
            assert mutates == ("request_id" in method.input_type.fields_by_name), full
    assert not outside


async def test_every_method_that_changes_something_has_its_entry(databases: Databases) -> None:
    """Walks the contract: of each request and answer the audit tells who, what, on what, and why."""
    key, tenant = new_id(databases.clock.now()), new_id(databases.clock.now())
    principal = Principal(key, tenant, frozenset({Scope.ADMIN}))
    refusals = Refusals(CollectorRegistry())
    allowance = Allowances(databases.worker, databases.clock, TenantLimits(), refusals).of(
        principal, databases.clock.now()
    )
    for method in changing():
        request, answer = filled(REQUESTS[method], tenant), filled(ANSWERS[method], tenant)
        call = Call(method, principal, allowance, databases.clock.now())
        async with databases.worker.transaction() as tx:
            await audit.record(tx, request, answer, call)
            [row, *more] = await tx.fetch("SELECT * FROM audit_log WHERE method = $1", method)
        assert len(more) <= 1, method
        assert (row["actor"], row["request_id"]) == (principal.actor, "request_id"), method
        assert row["resource"], method
        named = set(request.DESCRIPTOR.fields_by_name)
        texts = {n for n in ("note", "reason") if n in named and getattr(request, n) == n}
        assert (row["note"] in texts) if texts else not row["note"], method


async def test_an_entry_says_who_did_what_to_what_and_when_and_a_retry_has_none(rim: Rim) -> None:
    for _ in range(3):
        made = (await rim.call(CREATE_CUSTOMER, CUSTOMER)).customer
    [entry] = await entries(rim, method="CreateCustomer")
    assert entry.actor.startswith("key_")
    assert (entry.tenant_id, entry.resource) == (rim.acme.name, made.id)
    assert (entry.method, entry.request_id, entry.note) == (CREATE_CUSTOMER, "req-1", "")
    correlation = await rim.value(
        "SELECT correlation_id FROM billing_events WHERE subject = 'customer.created'"
    )
    assert entry.correlation_id == encode(Prefix.CORRELATION, correlation)
    age = rim.clock.now() - entry.create_time.ToDatetime(UTC)
    assert timedelta() <= age < timedelta(minutes=1)


async def test_what_is_refused_has_no_entry(rim: Rim) -> None:
    await rim.call(CREATE_CUSTOMER, CUSTOMER)
    other = customer_pb.CreateCustomerRequest(external_id="UA", display_name="Delta")
    assert (await rim.refused(CREATE_CUSTOMER, other)).reason == "ALREADY_EXISTS"
    assert len(await entries(rim, method="CreateCustomer")) == 1


async def test_a_batch_of_usage_has_one_entry_and_duplicates_have_none(rim: Rim) -> None:
    customer = await rim.customer()
    await rim.call(
        "/tollway.catalog.v1.CatalogService/CreateMeter",
        catalog_pb.CreateMeterRequest(key="minutes", aggregation=catalog_pb.AGGREGATION_SUM),
    )
    records = [
        usage_pb.UsageRecord(
            idempotency_key=str(n), meter_key="minutes", customer_id=customer.id, quantity="1"
        )
        for n in range(5)
    ]
    for record in records:
        record.timestamp.FromDatetime(rim.clock.now())
    batch = usage_pb.BatchRecordUsageRequest(records=records[:4])
    for _ in range(2):
        answer = await rim.call(f"{USAGE}/BatchRecordUsage", batch)
    single = usage_pb.RecordUsageRequest(record=records[4])
    one = await rim.call(f"{USAGE}/RecordUsage", single)
    assert [entry.resource for entry in await entries(rim, method="RecordUsage")] == [one.batch_id]
    [entry] = await entries(rim, method="BatchRecordUsage")
    assert entry.resource.startswith("bat_")
    assert (answer.duplicate, answer.batch_id) == (4, "")


async def test_a_tenant_sees_what_operators_did_to_it_and_nothing_of_others(rim: Rim) -> None:
    await rim.call(PAUSE, pb.PauseRequest(shard=0, reason="a bad disk"), rim.operator)
    await rim.call(
        CREATE_KEY,
        tenant_pb.CreateApiKeyRequest(
            tenant_id=rim.acme.name, display_name="CI", scopes=[tenant_pb.SCOPE_READ]
        ),
        rim.operator,
    )
    founded = await rim.call(
        CREATE_TENANT,
        tenant_pb.CreateTenantRequest(display_name="New", mode=tenant_pb.TENANT_MODE_TEST),
        rim.operator,
    )
    await rim.customer("UA", rim.other.keys[Scope.WRITE])

    [own] = await entries(rim)
    assert (own.method, own.tenant_id) == (CREATE_KEY, rim.acme.name)
    assert own.actor.startswith("opr_")
    everything = await entries(rim, rim.operator)
    assert [entry.tenant_id for entry in everything] == [
        rim.other.name,
        founded.tenant.id,
        rim.acme.name,
        "",
    ]
    assert (everything[-1].resource, everything[-1].note) == ("shard/0", "a bad disk")
    named = (("tollway-tenant", rim.acme.name),)
    assert await entries(rim, rim.operator, metadata=named) == [own]
    assert (await rim.refused(LIST, None, rim.acme.keys[Scope.WRITE])).reason == "SCOPE_MISSING"


async def test_entries_are_found_by_who_what_where_and_when_and_paged(rim: Rim) -> None:
    made = [(await rim.customer(f"C{n}")).id for n in range(5)]
    everything = await entries(rim)
    assert [entry.resource for entry in everything] == made[::-1]
    by_writer = await rim.customer("C5", rim.acme.keys[Scope.WRITE])
    [last] = await entries(rim, resource=by_writer.id)
    assert await entries(rim, actor=last.actor) == [last]
    assert await entries(rim, actor=everything[0].actor) == everything
    assert await entries(rim, method="tollway.customer.v1.CustomerService/CreateCustomer") == [
        last,
        *everything,
    ]
    assert not await entries(rim, method="Customer")

    middle = everything[2].create_time
    later = await entries(rim, created_from=middle)
    earlier = await entries(rim, created_until=middle)
    assert [*later, *earlier] == [last, *everything]
    assert last in later
    assert everything[-1] in earlier

    page = await rim.call(LIST, pb.ListAuditEntriesRequest(page_size=4))
    rest = await rim.call(
        LIST, pb.ListAuditEntriesRequest(page_size=4, page_token=page.next_page_token)
    )
    assert [*page.entries, *rest.entries] == [last, *everything]
    assert not rest.next_page_token


async def test_nobody_alters_an_entry_not_even_the_owner_of_the_table(rim: Rim) -> None:
    await rim.customer()
    for statement in (
        "UPDATE audit_log SET note = 'nothing'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ):
        async with rim.owner() as owner:
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="written once"):
                await owner.execute(statement)
        for pool in (rim.databases.api, rim.databases.worker):
            async with pool.connection() as connection:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)


async def test_the_audit_is_read_at_a_terminal(rim: Rim) -> None:
    made = await rim.customer()
    process = await create_subprocess_exec(
        sys.executable,
        "-m",
        "cli.main",
        "audit",
        "--method",
        "CreateCustomer",
        env=os.environ
        | {
            "TOLLWAY_ADDRESS": f"127.0.0.1:{rim.server.port}",
            "TOLLWAY_API_KEY": rim.acme.keys[Scope.ADMIN],
            "COLUMNS": "200",
        },
        stdout=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert made.id in out.decode()
    assert "CustomerService/CreateCustomer" in out.decode()


async def entries(
    rim: Rim, key: str = "", metadata: Any = (), **wanted: Any
) -> list[pb.AuditEntry]:
    """The latest first."""
    answer = await rim.call(LIST, pb.ListAuditEntriesRequest(**wanted), key, metadata=metadata)
    return list(answer.entries)


def filled(kind: type[Message], tenant: UUID, depth: int = 2) -> Message:
    """A message whose texts say their fields' names; one of each list, and of a oneof the last."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        inner = field.message_type
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            text = (
                encode(Prefix.TENANT, tenant) if _names_a_tenant(kind, field.name) else field.name
            )
            setattr(message, field.name, text)
        elif inner is not None and depth and not inner.GetOptions().map_entry:
            value = filled(
                message_factory.GetMessageClass(cast(Descriptor, inner)), tenant, depth - 1
            )
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                getattr(message, field.name).CopyFrom(value)
    return message


def _names_a_tenant(kind: type[Message], name: str) -> bool:
    return name == "tenant_id" or (kind is tenant_pb.Tenant and name == "id")
