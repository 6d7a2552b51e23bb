"""The door: `tollway ops`. Invariant: what changes the pipeline asks for a reason, which the audit keeps."""

from __future__ import annotations

import uuid
from typing import Any

import click
from tollway.operations.v1 import operations_service_pb2 as pb
from tollway.operations.v1.operations_service_pb2_grpc import OperationsServiceStub

from cli.asking import Asked
from cli.client import Connection, channel_to, connection_options, run
from cli.commands import ops_pipeline, ops_rating
from cli.tables import print_table, table


@click.group()
def command() -> None:
    """Look after the pipeline; with an operator's key."""


for part in (*ops_pipeline.COMMANDS, *ops_rating.COMMANDS):
    command.add_command(part)


@command.group("dead-letters")
def dead_letters() -> None:
    """Events that were given up after their last attempt."""


@dead_letters.command("list")
@connection_options
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 200))
def list_dead(connection: Connection, limit: int) -> None:
    """List the latest."""
    answer = _call(connection, "ListDeadLetters", pb.ListDeadLettersRequest(page_size=limit))
    rows = table("dead letter", "consumer", "event", "subject", "attempts", "error")
    for dead in answer.dead_letters:
        consumer = dead.consumer or "(publishing)"
        row = (dead.id, consumer, dead.event_id, dead.subject, str(dead.attempts), dead.last_error)
        rows.add_row(*row)
    print_table(rows)
    if answer.next_page_token:
        click.echo("There are more.")


@dead_letters.command()
@connection_options
@click.argument("dead_letter_id")
def show(connection: Connection, dead_letter_id: str) -> None:
    """Show one with its error."""
    request = pb.GetDeadLetterRequest(dead_letter_id=dead_letter_id)
    click.echo(str(_call(connection, "GetDeadLetter", request).dead_letter).rstrip())


@dead_letters.command()
@connection_options
@click.argument("dead_letter_id")
@click.option("--reason", cls=Asked, prompt="Why", help="Why, for the audit.")
def redrive(connection: Connection, dead_letter_id: str, reason: str) -> None:
    """Try one again; what waits behind it follows when it succeeds."""
    request = pb.RedriveDeadLetterRequest(
        dead_letter_id=dead_letter_id, reason=reason, request_id=str(uuid.uuid4())
    )
    dead = _call(connection, "RedriveDeadLetter", request).dead_letter
    click.echo(f"redriven: {dead.event_id} ({dead.subject})")


@dead_letters.command()
@connection_options
@click.argument("dead_letter_id")
@click.option("--reason", cls=Asked, prompt="Why", help="Why, for the audit.")
def discard(connection: Connection, dead_letter_id: str, reason: str) -> None:
    """Give one up for good; what waits behind it goes on."""
    request = pb.DiscardDeadLetterRequest(
        dead_letter_id=dead_letter_id, reason=reason, request_id=str(uuid.uuid4())
    )
    dead = _call(connection, "DiscardDeadLetter", request).dead_letter
    click.echo(f"discarded: {dead.event_id} ({dead.subject})")


def _call(connection: Connection, method: str, request: Any) -> Any:
    async def work() -> Any:
        async with channel_to(connection) as channel:
            rpc = getattr(OperationsServiceStub(channel), method)
            return await rpc(request, metadata=connection.metadata)

    return run(work())
