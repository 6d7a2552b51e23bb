"""The door: `tollway usage record|get|list|summarize|amend|void|unassigned|assign`. Invariant: each is one call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import Channel
from rich.markup import escape
from tollway.error.v1 import error_reason_pb2
from tollway.type.v1.time_range_pb2 import TimeRange
from tollway.usage.v1 import usage_service_pb2 as pb
from tollway.usage.v1.usage_service_pb2_grpc import UsageServiceStub

from cli.client import DEADLINE_S, Connection, channel_to, connection_options, run
from cli.references import business_now, customer_fields
from cli.tables import at, json_text, print_table, table

Answer = TypeVar("Answer", bound=Message)
How = dict[str, Any]
STATES: Final = ("pending", "assigned", "billed", "unassigned", "voided")
GRAINS: Final = ("hour", "day", "month", "period")
_REFUSED: Final = (pb.RECORD_OUTCOME_CONFLICT, pb.RECORD_OUTCOME_REJECTED)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="At most so many."
)
page_option = click.option("--page", default="", help="The token that the page before printed.")
note_option = click.option("--note", default="", help="Why, for those who ask later.")
backfill_option = click.option(
    "--allow-backfill",
    is_flag=True,
    help="Also what is older than the backdating limit of 35 days.",
)


class Refused(click.ClickException):
    """The record was not recorded; the message says why."""


class Instant(click.ParamType[Timestamp]):
    """A date or an instant as ISO 8601; without an offset it is UTC."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Timestamp:
        """The instant for the wire."""
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r}: write 2026-01-31 or 2026-01-31T12:00:00Z.", param, ctx)
        stamp = Timestamp()
        stamp.FromDatetime(instant if instant.tzinfo else instant.replace(tzinfo=UTC))
        return stamp


@click.command("record")
@connection_options
@click.argument("record_key", metavar="KEY")
@click.option("--meter", required=True, help="The key of the meter.")
@click.option("--customer", required=True, help="The customer: your own id, or cus_….")
@click.option("--quantity", default="", help="How much; a count meter needs none.")
@click.option(
    "--at",
    type=Instant(),
    help="When it was used. [default: now, by the test clock if there is one]",
)
@click.option("--subscription", default="", help="The subscription that it is for: sub_….")
@click.option("--property", "properties", multiple=True, metavar="NAME=VALUE")
@backfill_option
def record(
    connection: Connection, record_key: str, properties: tuple[str, ...], **given: Any
) -> None:
    """Record one use under KEY, which is its own for ever. Ends with status 1 when it was refused."""
    request = pb.RecordUsageRequest(
        record=pb.UsageRecord(
            idempotency_key=record_key,
            meter_key=given["meter"],
            timestamp=given["at"],
            quantity=given["quantity"],
            subscription_id=given["subscription"],
            properties=dict(_pair(one) for one in properties),
            **customer_fields(given["customer"]),
        ),
        allow_backfill=given["allow_backfill"],
    )

    async def ask(channel: Channel, how: How) -> pb.RecordUsageResponse:
        if given["at"] is None:
            request.record.timestamp.CopyFrom(await business_now(channel, connection))
        return await UsageServiceStub(channel).RecordUsage(request, **how)

    answer = _called(connection, ask)
    result = answer.result
    word = pb.RecordOutcome.Name(result.outcome).removeprefix("RECORD_OUTCOME_").lower()
    if result.outcome in _REFUSED:
        reason = error_reason_pb2.ErrorReason.Name(result.reason).removeprefix("ERROR_REASON_")
        raise Refused(f"{word}: {result.message} ({reason})")
    click.echo(f"{word} {answer.batch_id}".rstrip())


@click.command("get")
@connection_options
@click.argument("record_key", metavar="KEY")
@json_option
def get(connection: Connection, record_key: str, as_json: bool) -> None:
    """Show a record and every revision of it, the original first."""
    request = pb.GetUsageRecordRequest(idempotency_key=record_key)
    answer = _call(connection, lambda stub, how: stub.GetUsageRecord(request, **how))
    if as_json:
        click.echo(json_text(answer))
        return
    rows = table("revision", "state", "used", "quantity", "period from", "batch", "note")
    for row in answer.revisions:
        rows.add_row(
            str(row.revision),
            _state(row),
            at(row.timestamp),
            row.quantity,
            at(row.period.start),
            row.batch_id,
            escape(row.note),
        )
    print_table(rows)


@click.command("list")
@connection_options
@click.option("--customer", default="", help="The customer: your own id, or cus_….")
@click.option("--subscription", default="", help="sub_…")
@click.option("--meter", default="", help="The key of the meter.")
@click.option("--state", type=click.Choice(STATES))
@click.option("--batch", default="", help="bat_…")
@click.option("--backfill", default="", help="bkf_…")
@click.option("--item", default="", help="sit_…, as a line of an invoice names it.")
@click.option("--period", type=Instant(), help="With --item: the start of its usage period.")
@click.option("--since", type=Instant(), help="Used at this time or later.")
@click.option("--until", type=Instant(), help="Used before this time.")
@limit_option
@page_option
@json_option
def list_(connection: Connection, as_json: bool, **given: Any) -> None:
    """List records as they count now, newest first, of a customer, a subscription, an item, a batch or a backfill."""
    request = pb.ListUsageRequest(
        subscription_id=given["subscription"],
        meter_key=given["meter"],
        state=pb.UsageState.Value(f"USAGE_STATE_{(given['state'] or 'unspecified').upper()}"),
        batch_id=given["batch"],
        backfill_id=given["backfill"],
        subscription_item_id=given["item"],
        period_start=given["period"],
        used=TimeRange(start=given["since"], end=given["until"]),
        page_size=given["limit"],
        page_token=given["page"],
        **customer_fields(given["customer"]),
    )
    answer = _call(connection, lambda stub, how: stub.ListUsage(request, **how))
    if as_json:
        click.echo(json_text(answer))
        return
    rows = table("key", "meter", "used", "quantity", "state", "subscription", "revision")
    for row in answer.records:
        rows.add_row(
            escape(row.idempotency_key),
            escape(row.meter_key),
            at(row.timestamp),
            row.quantity,
            _state(row),
            row.subscription_id,
            str(row.revision or ""),
        )
    print_table(rows, answer.next_page_token)


@click.command("summarize")
@connection_options
@click.option("--customer", required=True, help="The customer: your own id, or cus_….")
@click.option("--meter", required=True, help="The key of the meter.")
@click.option("--by", "grain", type=click.Choice(GRAINS), default="day", show_default=True)
@click.option("--since", type=Instant(), required=True)
@click.option("--until", type=Instant(), help="[default: now, by the test clock if there is one]")
@click.option("--time-zone", default="", help="[default: the customer's]")
@json_option
def summarize(connection: Connection, as_json: bool, **given: Any) -> None:
    """Say how much a customer used, by hour, day, month or usage period, and by the meter's groups."""
    request = pb.SummarizeUsageRequest(
        meter_key=given["meter"],
        range=TimeRange(start=given["since"], end=given["until"]),
        grain=pb.UsageGrain.Value(f"USAGE_GRAIN_{given['grain'].upper()}"),
        time_zone=given["time_zone"],
        **customer_fields(given["customer"]),
    )

    async def ask(channel: Channel, how: How) -> pb.SummarizeUsageResponse:
        if given["until"] is None:
            # The end is not in the range; what was recorded just now is.
            now = await business_now(channel, connection)
            request.range.end.FromSeconds(now.seconds + 1)
        return await UsageServiceStub(channel).SummarizeUsage(request, **how)

    answer = _called(connection, ask)
    if as_json:
        click.echo(json_text(answer))
        return
    rows = table("from", "to", "group", "records", "quantity")
    for row in answer.rows:
        group = ", ".join(f"{name}={value}" for name, value in sorted(row.group.items()))
        start, end = at(row.stretch.start), at(row.stretch.end)
        rows.add_row(start, end, escape(group), f"{row.records:,}", row.quantity)
    print_table(rows)
    if answer.truncated:
        click.echo("There is more: ask for less time.")


@click.command("amend")
@connection_options
@click.argument("record_key", metavar="KEY")
@click.option("--quantity", help="How much it was.")
@click.option("--at", type=Instant(), help="When it was used.")
@click.option("--property", "properties", multiple=True, metavar="NAME=VALUE", help="All of them.")
@click.option("--subscription", help="sub_…; empty lets the customer's subscriptions decide.")
@note_option
@backfill_option
def amend(
    connection: Connection, record_key: str, properties: tuple[str, ...], **given: Any
) -> None:
    """Correct the record of KEY: what is given takes the place of what it says; the original is kept."""
    changes = {
        "quantity": given["quantity"],
        "timestamp": given["at"],
        "properties": dict(_pair(one) for one in properties) or None,
        "subscription_id": given["subscription"],
    }
    named = {name: value for name, value in changes.items() if value is not None}
    request = pb.AmendUsageRequest(
        idempotency_key=record_key,
        update_mask=FieldMask(paths=list(named)),
        note=given["note"],
        allow_backfill=given["allow_backfill"],
        **named,
    )
    answer = _call(connection, lambda stub, how: stub.AmendUsage(request, **how))
    click.echo(f"revision {answer.record.revision}: {answer.record.quantity}")


@click.command("void")
@connection_options
@click.argument("record_key", metavar="KEY")
@note_option
@backfill_option
def void(connection: Connection, record_key: str, note: str, allow_backfill: bool) -> None:
    """Let the record of KEY count no more; it is kept, and so is its key."""
    request = pb.VoidUsageRequest(
        idempotency_key=record_key, note=note, allow_backfill=allow_backfill
    )
    answer = _call(connection, lambda stub, how: stub.VoidUsage(request, **how))
    click.echo(f"revision {answer.record.revision}: voided")


@click.command("unassigned")
@connection_options
@limit_option
@page_option
@json_option
def unassigned(connection: Connection, limit: int, page: str, as_json: bool) -> None:
    """List usage that no subscription covers, by customer and meter."""
    request = pb.ListUnassignedUsageRequest(page_size=limit, page_token=page)
    answer = _call(connection, lambda stub, how: stub.ListUnassignedUsage(request, **how))
    if as_json:
        click.echo(json_text(answer))
        return
    rows = table("customer", "meter", "records", "quantity", "first", "last")
    for row in answer.usage:
        rows.add_row(
            escape(row.external_customer_id or row.customer_id),
            escape(row.meter_key),
            f"{row.records:,}",
            row.quantity,
            at(row.first_time),
            at(row.last_time),
        )
    print_table(rows, answer.next_page_token)


@click.command("assign")
@connection_options
@click.argument("subscription")
@click.argument("keys", nargs=-1)
@note_option
def assign(connection: Connection, subscription: str, keys: tuple[str, ...], note: str) -> None:
    """Assign unassigned usage that SUBSCRIPTION (sub_…) covers, or the records of these KEYS."""
    request = pb.AssignUsageRequest(subscription_id=subscription, idempotency_keys=keys, note=note)
    answer = _call(connection, lambda stub, how: stub.AssignUsage(request, **how))
    more = "; there may be more: call again" if answer.has_more else ""
    click.echo(f"{answer.records:,} records are on their way{more}")


COMMANDS: Final = (record, get, list_, summarize, amend, void, unassigned, assign)


def _call(
    connection: Connection, work: Callable[[UsageServiceStub, How], Awaitable[Answer]]
) -> Answer:
    return _called(connection, lambda channel, how: work(UsageServiceStub(channel), how))


def _called(connection: Connection, ask: Callable[[Channel, How], Awaitable[Answer]]) -> Answer:
    async def call() -> Answer:
        async with channel_to(connection) as channel:
            return await ask(channel, {"metadata": connection.metadata, "timeout": DEADLINE_S})

    return run(call())


def _pair(text: str) -> tuple[str, str]:
    name, joint, value = text.partition("=")
    if not joint or not name:
        raise click.BadParameter(f"{text!r}: write NAME=VALUE.")
    return name, value


def _state(row: pb.RecordedUsage) -> str:
    return pb.UsageState.Name(row.state).removeprefix("USAGE_STATE_").lower()
