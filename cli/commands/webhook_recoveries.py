"""The door: `tollway webhooks recover` and `recoveries`. Invariant: without --start nothing is sent."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.markup import escape
from tollway.webhook.v1 import recovery_service_pb2 as pb
from tollway.webhook.v1.recovery_service_pb2_grpc import WebhookRecoveryServiceStub

from cli.client import DEADLINE_S, Connection, channel_to, connection_options, run
from cli.tables import at, print_table, table
from cli.webhook_tables import call, limit_option, page_option

POLL_S: Final = 0.25
STATES: Final = ("dead", "missed", "canceled", "delivered")
TIMES: Final = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])


@click.command()
@connection_options
@click.argument("endpoint")
@click.option("--since", required=True, type=TIMES, help="Events from this time on, in UTC.")
@click.option("--until", type=TIMES, help="Events before this time; now when it is not given.")
@click.option("--subject", "subjects", multiple=True, help='Only these, such as "invoice.*".')
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="dead when none is given."
)
@click.option("--rate", type=click.IntRange(1, 1000), default=100, help="Deliveries a second.")
@click.option("--note", default="", help="Why, for the audit log.")
@click.option("--request-id", default="", help="The same id answers like the first time.")
@click.option("--start", is_flag=True, help="Send. Without it only the preview is shown.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is finished.")
def recover(connection: Connection, start: bool, no_wait: bool, **options: Any) -> None:
    """Send a stretch of events to an endpoint (whe_…) again. A dry run unless --start is given."""
    wanted = _filter(options)
    if not start:
        preview(connection, wanted)
        return
    request = pb.RecoverEndpointRequest(
        request_id=options["request_id"], filter=wanted, note=options["note"]
    )
    answer = call(
        connection,
        WebhookRecoveryServiceStub,
        lambda stub, how: stub.RecoverEndpoint(request, **how),
    )
    click.echo(f"{answer.recovery.id} sends {answer.recovery.matched:,} events")
    if not no_wait:
        run(_wait(connection, answer.recovery.id))


def preview(connection: Connection, wanted: pb.RecoveryFilter) -> None:
    """Prints what a recovery would send."""
    request = pb.PreviewRecoveryRequest(filter=wanted)
    answer = call(
        connection,
        WebhookRecoveryServiceStub,
        lambda stub, how: stub.PreviewRecovery(request, **how),
    )
    rows = table("state", "subject", "events", "")
    for count in answer.counts:
        taken = "[green]sent[/green]" if count.taken else ""
        rows.add_row(count.state, escape(count.subject), f"{count.events:,}", taken)
    print_table(rows)
    if answer.truncated:
        click.echo("the stretch has more events than were counted; give --until")
    click.echo(
        f"{answer.matched:,} events would be sent in {answer.estimated_seconds:,} s;"
        " add --start to send them"
    )


async def _wait(connection: Connection, recovery_id: str) -> None:
    request, told = pb.GetRecoveryRequest(recovery_id=recovery_id), -1
    async with channel_to(connection) as channel:
        stub = WebhookRecoveryServiceStub(channel)
        while True:
            answer = await stub.GetRecovery(
                request, metadata=connection.metadata, timeout=DEADLINE_S
            )
            job = answer.recovery
            if job.made != told or job.status != pb.RECOVERY_STATUS_RUNNING:
                click.echo(f"{job.made:,} of {job.matched:,} {_word(job.status)}")
                told = job.made
            if job.status != pb.RECOVERY_STATUS_RUNNING:
                return
            await asyncio.sleep(POLL_S)


@click.command()
@connection_options
@click.option("--endpoint", default="", help="Only of this endpoint: whe_….")
@click.option("--cancel", default="", help="End this one: wrc_….")
@limit_option
@page_option
def recoveries(connection: Connection, endpoint: str, cancel: str, limit: int, page: str) -> None:
    """List recoveries, the newest first, or end one."""
    if cancel:
        end = pb.CancelRecoveryRequest(recovery_id=cancel)
        ended = call(
            connection,
            WebhookRecoveryServiceStub,
            lambda stub, how: stub.CancelRecovery(end, **how),
        ).recovery
        click.echo(f"{ended.id} is canceled; {ended.made:,} of {ended.matched:,} were made")
        return
    request = pb.ListRecoveriesRequest(endpoint_id=endpoint, page_size=limit, page_token=page)
    answer = call(
        connection,
        WebhookRecoveryServiceStub,
        lambda stub, how: stub.ListRecoveries(request, **how),
    )
    rows = table("recovery", "endpoint", "state", "made", "of", "started", "ended", "by", "note")
    for job in answer.recoveries:
        rows.add_row(
            job.id,
            job.endpoint_id,
            _word(job.status),
            f"{job.made:,}",
            f"{job.matched:,}",
            at(job.create_time),
            at(job.finish_time),
            job.actor,
            escape(job.note),
        )
    print_table(rows, answer.next_page_token)


def _word(status: int) -> str:
    return pb.RecoveryStatus.Name(status).removeprefix("RECOVERY_STATUS_").lower()  # type: ignore[arg-type] # an enum of the wire


def _filter(options: dict[str, Any]) -> pb.RecoveryFilter:
    wanted = pb.RecoveryFilter(
        endpoint_id=options["endpoint"],
        subjects=options["subjects"],
        states=[
            pb.RecoverableState.Value(f"RECOVERABLE_STATE_{s.upper()}") for s in options["states"]
        ],
        rate_per_second=options["rate"],
    )
    wanted.since.FromDatetime(_utc(options["since"]))
    if options["until"] is not None:
        wanted.until.FromDatetime(_utc(options["until"]))
    return wanted


def _utc(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC)
