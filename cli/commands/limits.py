"""The door: `tollway limits`. Invariant: what is not named stays as it is; `default` takes an override away."""

from __future__ import annotations

import uuid
from typing import Any, Final

import click
from tollway.tenant.v1 import tenant_service_pb2 as pb
from tollway.tenant.v1.tenant_service_pb2_grpc import TenantServiceStub

from cli.client import Connection, channel_to, connection_options, run
from cli.tables import print_table, table

# The limit, its option's help.
LIMITS: Final = {
    "requests_per_second": "Calls a second, in each server process.",
    "records_per_second": "Usage records a second, in each server process.",
    "streams": "Open streams, in each server process.",
    "records_per_day": "Usage records a day of UTC; 0 for no quota.",
    "records_per_month": "Usage records a month of UTC; 0 for no quota.",
}
DEFAULT: Final = "default"


class NumberOrDefault(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic in newer releases only
    """A whole number, or the word that stands for the server's default."""

    name = "number|default"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """The number, or the word."""
        if value == DEFAULT:
            return DEFAULT
        if not str(value).isdecimal():
            self.fail(f"give a whole number, or {DEFAULT!r}, not {value!r}", param, ctx)
        return int(value)


@click.group()
def command() -> None:
    """See and set what a tenant may do: rates, streams, and quotas of usage records."""


@command.command()
@connection_options
@click.option("--for-tenant", default="", help="The tenant's id, with an operator's key.")
def show(connection: Connection, for_tenant: str) -> None:
    """Show a tenant's limits, which of them an operator has set, and what is used."""
    request = pb.GetTenantLimitsRequest(tenant_id=for_tenant)
    _print(_call(connection, "GetTenantLimits", request).limits)


def _options(function: Any) -> Any:
    for name, text in reversed(LIMITS.items()):
        option = click.option("--" + name.replace("_", "-"), type=NumberOrDefault(), help=text)
        function = option(function)
    return function


@command.command("set")
@connection_options
@click.option("--for-tenant", required=True, help="The tenant's id.")
@_options
@click.option("--reason", required=True, help="Why; the audit keeps it.")
def set_limits(
    connection: Connection, for_tenant: str, reason: str, **limits: int | str | None
) -> None:
    """Set limits of a tenant, with an operator's key; `default` goes back to the server's own."""
    named = {name: value for name, value in limits.items() if value is not None}
    if not named:
        raise click.UsageError(
            "name a limit: " + ", ".join("--" + each.replace("_", "-") for each in LIMITS)
        )
    request = pb.UpdateTenantLimitsRequest(
        request_id=str(uuid.uuid4()),
        tenant_id=for_tenant,
        reason=reason,
        **{name: value for name, value in named.items() if value != DEFAULT},  # type: ignore[arg-type] # by their names
    )
    request.update_mask.paths.extend(named)
    _print(_call(connection, "UpdateTenantLimits", request).limits)


def _call(connection: Connection, method: str, request: Any) -> Any:
    async def work() -> Any:
        async with channel_to(connection) as channel:
            call = getattr(TenantServiceStub(channel), method)  # type: ignore[no-untyped-call, unused-ignore]
            return await call(request, metadata=connection.metadata)

    return run(work())


def _print(limits: pb.TenantLimits) -> None:
    used = {
        "records_per_day": limits.records_today,
        "records_per_month": limits.records_this_month,
    }
    rows = table("limit", "value", "set by", "used")
    for name in LIMITS:
        value = getattr(limits, name)
        by = "an operator" if name in limits.overridden else "the server's default"
        shown = "none" if name in used and not value else str(value)
        rows.add_row(name.replace("_", " "), shown, by, str(used[name]) if name in used else "")
    print_table(rows)
