"""The door: `tollway audit`. Invariant: the latest first, as many as were asked for."""

from __future__ import annotations

from datetime import datetime

import click
from google.protobuf.timestamp_pb2 import Timestamp
from tollway.operations.v1 import operations_service_pb2 as pb
from tollway.operations.v1.operations_service_pb2_grpc import OperationsServiceStub

from cli.client import Connection, channel_to, connection_options, run
from cli.tables import at, print_table, table

ENTRIES_MAX = 10_000


@click.command()
@connection_options
@click.option("--actor", default="", help="Who did it: a key's id.")
@click.option("--method", default="", help="The RPC, such as VoidInvoice.")
@click.option("--resource", default="", help="What it was done to, such as inv_….")
@click.option("--from", "start", type=click.DateTime(), help="At this time (UTC) or later.")
@click.option("--until", "end", type=click.DateTime(), help="Before this time (UTC).")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, ENTRIES_MAX))
def command(
    connection: Connection,
    start: datetime | None,
    end: datetime | None,
    limit: int,
    **named: str,
) -> None:
    """List who changed what, when, and why; of all tenants with an operator's key that names none."""
    request = pb.ListAuditEntriesRequest(
        **named,
        created_from=_stamp(start),
        created_until=_stamp(end),
        page_size=min(limit, 200),
    )

    async def work() -> list[pb.AuditEntry]:
        found: list[pb.AuditEntry] = []
        async with channel_to(connection) as channel:
            stub = OperationsServiceStub(channel)
            while len(found) < limit:
                page = await stub.ListAuditEntries(request, metadata=connection.metadata)
                found += page.entries
                request.page_token = page.next_page_token
                if not page.next_page_token:
                    break
        return found[:limit]

    rows = table("when", "who", "what", "on", "why")
    for entry in run(work()):
        when = at(entry.create_time, "milliseconds")
        rows.add_row(when, entry.actor, entry.method.rpartition(".")[2], entry.resource, entry.note)
    print_table(rows)


def _stamp(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
