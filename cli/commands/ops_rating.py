"""The door: `tollway ops rating-failures|retry-rating`.

Invariant: each failure is shown with what an operator can do about it.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

import click
from tollway.error.v1.error_reason_pb2 import ErrorReason
from tollway.rating.v1 import rating_service_pb2 as pb
from tollway.rating.v1.rating_service_pb2_grpc import RatingServiceStub

from cli.client import Connection, channel_to, connection_options, run
from cli.tables import print_table, table


@click.command("rating-failures")
@connection_options
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 200))
def rating_failures(connection: Connection, limit: int) -> None:
    """List the subscriptions whose usage could not be rated, and why."""
    request = pb.ListRatingFailuresRequest(page_size=limit)
    answer = _call(connection, "ListRatingFailures", request)
    rows = table("subscription", "tenant", "reason", "attempts", "message")
    for failure in answer.failures:
        reason = ErrorReason.Name(failure.reason).removeprefix("ERROR_REASON_")
        name = failure.external_subscription_id or failure.subscription_id
        rows.add_row(name, failure.tenant_id, reason, str(failure.attempts), failure.message)
    print_table(rows)
    if answer.next_page_token:
        click.echo("There are more.")


@click.command("retry-rating")
@connection_options
@click.argument("subscription_id")
def retry_rating(connection: Connection, subscription_id: str) -> None:
    """Rate a subscription again now, and the invoices that wait for it."""
    request = pb.RetryRatingRequest(subscription_id=subscription_id, request_id=str(uuid.uuid4()))
    failure = _call(connection, "RetryRating", request).failure
    before = f"; before, it failed with: {failure.message}" if failure.message else ""
    click.echo(f"{subscription_id} is being rated again{before}")
    click.echo("`tollway ops rating-failures` lists it for as long as it fails.")


def _call(connection: Connection, method: str, request: Any) -> Any:
    async def work() -> Any:
        async with channel_to(connection) as channel:
            call = getattr(RatingServiceStub(channel), method)  # type: ignore[no-untyped-call, unused-ignore]
            return await call(request, metadata=connection.metadata)

    return run(work())


COMMANDS: Final = (rating_failures, retry_rating)
