"""The door: `tollway keys`. Invariant: a secret is printed once, when it is made."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tollway.tenant.v1 import tenant_service_pb2 as pb
from tollway.tenant.v1.tenant_service_pb2_grpc import TenantServiceStub

from cli.client import Connection, channel_to, connection_options, run
from cli.tables import at, print_table, table

SCOPES = ("read", "write", "admin")
OVERLAP_HOURS_MAX = 30 * 24


@click.group()
def command() -> None:
    """Create, list, show, rotate and revoke API keys."""


def _for_tenant(work: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--for-tenant", default="", help="The tenant's id, with an operator's key."
    )(work)


@command.command()
@connection_options
@click.option("--name", default="made by tollway keys", help="What the key is for.")
@click.option(
    "--scope", type=click.Choice(SCOPES), multiple=True, default=("admin",), show_default=True
)
@click.option("--operator", is_flag=True, help="An operator's key, with an operator's key.")
@click.option("--expires", type=click.DateTime(), help="When it stops working (UTC).")
@_for_tenant
@click.option(
    "--new-tenant", default="", help="Make a tenant of this name first, with an operator's key."
)
@click.option(
    "--test", is_flag=True, help="The new tenant is in test mode: it may have a test clock."
)
@click.option(
    "--time-zone", default="UTC", show_default=True, help="The new tenant's IANA time zone."
)
def create(connection: Connection, name: str, expires: datetime | None, **given: Any) -> None:
    """Create a key and print its secret, which is shown only this once."""
    scopes = ("operator",) if given["operator"] else given["scope"]
    request = pb.CreateApiKeyRequest(
        request_id=str(uuid.uuid4()),
        tenant_id=given["for_tenant"],
        display_name=name,
        scopes=[pb.Scope.Value(f"SCOPE_{each.upper()}") for each in scopes],
        expire_time=_stamp(expires),
    )

    async def work(stub: Any) -> Any:
        if given["new_tenant"]:
            tenant = pb.CreateTenantRequest(
                request_id=str(uuid.uuid4()),
                display_name=given["new_tenant"],
                mode=pb.TENANT_MODE_TEST if given["test"] else pb.TENANT_MODE_LIVE,
                time_zone=given["time_zone"],
            )
            made = await stub.CreateTenant(tenant, metadata=connection.metadata)
            request.tenant_id = made.tenant.id
        return await stub.CreateApiKey(request, metadata=connection.metadata)

    _print_secret(_call(connection, work))


@command.command("list")
@connection_options
@_for_tenant
def list_keys(connection: Connection, for_tenant: str) -> None:
    """List the keys of a tenant, newest first; of operators, with an operator's key and no tenant."""
    request = pb.ListApiKeysRequest(tenant_id=for_tenant, page_size=200)

    async def work(stub: Any) -> list[pb.ApiKey]:
        keys: list[pb.ApiKey] = []
        while True:
            page = await stub.ListApiKeys(request, metadata=connection.metadata)
            keys += page.api_keys
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return keys

    rows = table("key", "name", "scopes", "state", "ends", "last used")
    for key in _call(connection, work):
        ends = _time(key, "expire_time") or "never"
        used = _time(key, "last_used_time") or "never"
        rows.add_row(key.id, key.display_name, _scopes(key), _state(key), ends, used)
    print_table(rows)


@command.command()
@connection_options
@click.argument("key_id")
@_for_tenant
def show(connection: Connection, key_id: str, for_tenant: str) -> None:
    """Show a key: what it may do, when it ends, and when it was last used."""
    request = pb.GetApiKeyRequest(api_key_id=key_id, tenant_id=for_tenant)

    async def work(stub: Any) -> pb.ApiKey:
        answer = await stub.GetApiKey(request, metadata=connection.metadata)
        return answer.api_key  # type: ignore[no-any-return]

    key = _call(connection, work)
    lines = {
        "key": key.id,
        "tenant": key.tenant_id or "none: an operator's",
        "name": key.display_name,
        "scopes": _scopes(key),
        "state": _state(key),
        "created": _time(key, "create_time"),
        "ends": _time(key, "expire_time") or "never",
        "revoked": _time(key, "revoke_time"),
        "last used": _time(key, "last_used_time") or "never",
    }
    for name, text in lines.items():
        if text:
            click.echo(f"{name:<10} {text}")


@command.command()
@connection_options
@click.argument("key_id")
@click.option(
    "--overlap-hours",
    type=click.FloatRange(0, OVERLAP_HOURS_MAX),
    default=24.0,
    show_default=True,
    help="How long the old key works on.",
)
@click.option("--expires", type=click.DateTime(), help="When the new one stops working (UTC).")
@_for_tenant
def rotate(
    connection: Connection,
    key_id: str,
    overlap_hours: float,
    expires: datetime | None,
    for_tenant: str,
) -> None:
    """Replace a key by a new one and print its secret; the old one works on for the overlap."""
    overlap = Duration()
    overlap.FromTimedelta(timedelta(hours=overlap_hours))
    request = pb.RotateApiKeyRequest(
        request_id=str(uuid.uuid4()),
        api_key_id=key_id,
        tenant_id=for_tenant,
        overlap=overlap,
        expire_time=_stamp(expires),
    )

    async def work(stub: Any) -> Any:
        return await stub.RotateApiKey(request, metadata=connection.metadata)

    answer = _call(connection, work)
    _print_secret(answer)
    ends = _time(answer.replaced_key, "expire_time")
    click.echo(f"The old key {answer.replaced_key.id} ends at {ends}.")


@command.command()
@connection_options
@click.argument("key_id")
@_for_tenant
def revoke(connection: Connection, key_id: str, for_tenant: str) -> None:
    """Revoke a key; calls with it fail within seconds."""
    request = pb.RevokeApiKeyRequest(
        request_id=str(uuid.uuid4()), api_key_id=key_id, tenant_id=for_tenant
    )

    async def work(stub: Any) -> None:
        await stub.RevokeApiKey(request, metadata=connection.metadata)

    _call(connection, work)
    click.echo(f"revoked {key_id}")


def _call(connection: Connection, work: Callable[[Any], Awaitable[Any]]) -> Any:
    async def called() -> Any:
        async with channel_to(connection) as channel:
            return await work(TenantServiceStub(channel))

    return run(called())


def _print_secret(answer: Any) -> None:
    key = answer.api_key
    tenant = f"tenant  {key.tenant_id}\n" if key.tenant_id else ""
    click.echo(f"{tenant}key     {key.id}\nsecret  {answer.secret}")
    click.echo("\nThe secret is not shown again. Use it:  export TOLLWAY_API_KEY=" + answer.secret)


def _scopes(key: pb.ApiKey) -> str:
    return ", ".join(pb.Scope.Name(scope).removeprefix("SCOPE_").lower() for scope in key.scopes)


def _state(key: pb.ApiKey) -> str:
    if key.HasField("revoke_time"):
        return "revoked"
    ended = key.HasField("expire_time") and key.expire_time.ToDatetime(UTC) <= datetime.now(UTC)
    return "expired" if ended else "active"


def _time(key: pb.ApiKey, field: Any) -> str:
    return at(getattr(key, field))


def _stamp(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
