"""The door: `tollway keys`. Invariant: a secret is printed once, when it is made."""

from __future__ import annotations

import click
from tollway.tenant.v1 import tenant_service_pb2 as pb
from tollway.tenant.v1.tenant_service_pb2_grpc import TenantServiceStub

from cli.client import Connection, channel_to, connection_options, run
from cli.tables import print_table, table

SCOPES = ("read", "write", "admin")


@click.group()
def command() -> None:
    """Create, list and revoke API keys."""


@command.command()
@connection_options
@click.option("--name", default="made by tollway keys", help="What the key is for.")
@click.option(
    "--scope", type=click.Choice(SCOPES), multiple=True, default=("admin",), show_default=True
)
@click.option("--for-tenant", default="", help="The tenant's id, with an operator's key.")
@click.option(
    "--new-tenant", default="", help="Make a tenant of this name first, with an operator's key."
)
@click.option(
    "--test", is_flag=True, help="The new tenant is in test mode: it may have a test clock."
)
@click.option(
    "--time-zone", default="UTC", show_default=True, help="The new tenant's IANA time zone."
)
def create(connection: Connection, name: str, scope: tuple[str, ...], **tenant: str | bool) -> None:
    """Create a key and print its secret, which is shown only this once."""

    async def work() -> tuple[pb.ApiKey, str]:
        async with channel_to(connection) as channel:
            stub = TenantServiceStub(channel)
            tenant_id = str(tenant["for_tenant"])
            if tenant["new_tenant"]:
                request = pb.CreateTenantRequest(
                    display_name=str(tenant["new_tenant"]),
                    mode=pb.TENANT_MODE_TEST if tenant["test"] else pb.TENANT_MODE_LIVE,
                    time_zone=str(tenant["time_zone"]),
                )
                made = await stub.CreateTenant(request, metadata=connection.metadata)
                tenant_id = made.tenant.id
            answer = await stub.CreateApiKey(
                pb.CreateApiKeyRequest(
                    tenant_id=tenant_id,
                    display_name=name,
                    scopes=[pb.Scope.Value(f"SCOPE_{each.upper()}") for each in scope],
                ),
                metadata=connection.metadata,
            )
            return answer.api_key, answer.secret

    key, secret = run(work())
    click.echo(f"tenant  {key.tenant_id}\nkey     {key.id}\nsecret  {secret}")
    click.echo("\nThe secret is not shown again. Use it:  export TOLLWAY_API_KEY=" + secret)


@command.command("list")
@connection_options
@click.option("--for-tenant", default="", help="The tenant's id, with an operator's key.")
def list_keys(connection: Connection, for_tenant: str) -> None:
    """List the keys of a tenant, newest first."""

    async def work() -> list[pb.ApiKey]:
        keys: list[pb.ApiKey] = []
        token = ""
        async with channel_to(connection) as channel:
            stub = TenantServiceStub(channel)
            while not keys or token:
                request = pb.ListApiKeysRequest(
                    tenant_id=for_tenant, page_size=200, page_token=token
                )
                page = await stub.ListApiKeys(request, metadata=connection.metadata)
                keys += page.api_keys
                token = page.next_page_token
                if not token:
                    break
        return keys

    rows = table("key", "name", "scopes", "state")
    for key in run(work()):
        scopes = ", ".join(
            pb.Scope.Name(scope).removeprefix("SCOPE_").lower() for scope in key.scopes
        )
        rows.add_row(
            key.id, key.display_name, scopes, "revoked" if key.HasField("revoke_time") else "active"
        )
    print_table(rows)


@command.command()
@connection_options
@click.argument("key_id")
@click.option("--for-tenant", default="", help="The tenant's id, with an operator's key.")
def revoke(connection: Connection, key_id: str, for_tenant: str) -> None:
    """Revoke a key; calls with it fail within seconds."""

    async def work() -> None:
        async with channel_to(connection) as channel:
            request = pb.RevokeApiKeyRequest(api_key_id=key_id, tenant_id=for_tenant)
            await TenantServiceStub(channel).RevokeApiKey(request, metadata=connection.metadata)

    run(work())
    click.echo(f"revoked {key_id}")
