"""The door: `tollway ops rating-failures|retry-rating`.

Invariant: each failure is shown with what an operator can do about it.
"""

from __future__ import annotations

import uuid
from typing import Final

import click
from rich.markup import escape
from tollway.error.v1.error_reason_pb2 import ErrorReason
from tollway.rating.v1 import rating_service_pb2 as pb
from tollway.rating.v1.rating_service_pb2_grpc import RatingServiceStub

from cli.client import DEADLINE_S, Connection, channel_to, connection_options, run
from cli.references import subscription_id
from cli.tables import print_table, table


@click.command("rating-failures")
@connection_options
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 200))
def rating_failures(connection: Connection, limit: int) -> None:
    """List the subscriptions whose usage could not be rated, and why."""
    request = pb.ListRatingFailuresRequest(page_size=limit)

    async def ask() -> pb.ListRatingFailuresResponse:
        async with channel_to(connection) as channel:
            return await RatingServiceStub(channel).ListRatingFailures(
                request, metadata=connection.metadata, timeout=DEADLINE_S
            )

    answer = run(ask())
    rows = table("subscription", "your id", "tenant", "reason", "attempts", "message")
    for failure in answer.failures:
        reason = ErrorReason.Name(failure.reason).removeprefix("ERROR_REASON_")
        rows.add_row(
            failure.subscription_id,
            escape(failure.external_subscription_id),
            failure.tenant_id,
            reason,
            str(failure.attempts),
            escape(failure.message),
        )
    print_table(rows)
    if answer.next_page_token:
        click.echo("There are more.")


@click.command("retry-rating")
@connection_options
@click.argument("subscription")
def retry_rating(connection: Connection, subscription: str) -> None:
    """Rate SUBSCRIPTION, sub_… or your own id of it, again now, and the invoices that wait for it."""

    async def ask() -> pb.RetryRatingResponse:
        async with channel_to(connection) as channel:
            request = pb.RetryRatingRequest(
                subscription_id=await subscription_id(channel, connection, subscription),
                request_id=str(uuid.uuid4()),
            )
            return await RatingServiceStub(channel).RetryRating(
                request, metadata=connection.metadata, timeout=DEADLINE_S
            )

    failure = run(ask()).failure
    before = f"; before, it failed with: {failure.message}" if failure.message else ""
    click.echo(f"{subscription} is being rated again{before}")
    click.echo("`tollway ops rating-failures` lists it for as long as it fails.")


COMMANDS: Final = (rating_failures, retry_rating)
