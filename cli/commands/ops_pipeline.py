"""The door: `tollway ops status|lag|waiting|pause|resume`.

Invariant: what an operator reads at night is a table with ages, not instants, and what is wrong stands in it.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any, Final

import click
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from tollway.operations.v1 import operations_service_pb2 as pb
from tollway.operations.v1.operations_service_pb2_grpc import OperationsServiceStub

from cli.asking import Asked
from cli.client import Connection, channel_to, connection_options, run
from cli.tables import print_table, table

_REASON: Final = "WAIT_REASON_"


@click.command()
@connection_options
def status(connection: Connection) -> None:
    """Show the queues, what is paused, and who owns the shards."""
    answer = _call(connection, "GetStatus", pb.GetStatusRequest())
    queues = table("queue", "pending", "oldest")
    for queue in answer.queues:
        queues.add_row(queue.name, str(queue.pending), _age(queue, "oldest_time"))
    print_table(queues)
    if answer.pauses:
        paused = table("paused", "since", "by", "why")
        for pause in answer.pauses:
            why = pause.reason + (" (being resumed)" if pause.HasField("resume_time") else "")
            paused.add_row(_target(pause), _age(pause, "pause_time"), pause.actor, why)
        click.echo()
        print_table(paused)
    click.echo()
    owned = table("owned", "processes", "shards", "unowned")
    for kind in dict.fromkeys(lease.kind for lease in answer.leases):
        leases = [lease for lease in answer.leases if lease.kind == kind]
        holders = {lease.holder for lease in leases} - {""}
        free = sum(1 for lease in leases if not lease.holder)
        owned.add_row(kind, str(len(holders)), str(len(leases)), str(free))
    print_table(owned)
    click.echo()
    if answer.unreconciled_buckets:
        click.echo(f"{answer.unreconciled_buckets} usage buckets differ from the records")
    compared = _age(answer, "reconcile_time")
    click.echo(f"all usage buckets were last compared with the records: {compared} ago")


@click.command()
@connection_options
def lag(connection: Connection) -> None:
    """Show how far each shard, partition and consumer is behind."""
    answer = _call(connection, "GetLag", pb.GetLagRequest())
    partitions = {partition.partition: partition for partition in answer.partitions}
    shards = table("shard", "to publish", "oldest", "refused", "unrouted", "position", "router")
    for shard in answer.shards:
        partition = partitions.get(shard.shard)
        shards.add_row(
            str(shard.shard),
            str(shard.pending),
            _age(shard, "oldest_time"),
            str(shard.refused),
            *(_routing(partition) if partition is not None else ("-", "-", "none")),
        )
    print_table(shards)
    click.echo()
    consumers = table("consumer", "waiting", "oldest", "dead")
    for consumer in answer.consumers:
        age = _age(consumer, "oldest_time")
        consumers.add_row(consumer.consumer, str(consumer.waiting), age, str(consumer.dead))
    print_table(consumers)


@click.command()
@connection_options
@click.option("--consumer", default="", help="Of this consumer only.")
@click.option("--resource", default="", help="Of this resource only, such as sub_…")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 200))
def waiting(connection: Connection, consumer: str, resource: str, limit: int) -> None:
    """List the events that wait for a consumer, and why; with --tenant, of one tenant."""
    request = pb.ListWaitingRequest(page_size=limit, consumer=consumer, resource_id=resource)
    answer = _call(connection, "ListWaiting", request)
    headings = ("consumer", "event", "subject", "resource", "why", "since", "attempts", "error")
    rows = table(*headings)
    for event in answer.events:
        why = pb.WaitReason.Name(event.reason).removeprefix(_REASON).lower().replace("_", " ")
        if event.behind_event_id:
            why = f"behind {event.behind_event_id}"
        rows.add_row(
            event.consumer,
            event.event_id,
            event.subject,
            event.resource_id,
            why,
            _age(event, "park_time"),
            str(event.attempts),
            event.last_error,
        )
    print_table(rows)
    if answer.next_page_token:
        click.echo("There are more.")


def _target_options(command: Any) -> Any:
    for option in (
        click.option("--reason", cls=Asked, prompt="Why", help="Why, for the audit."),
        click.option("--paused-tenant", default="", metavar="TENANT", help="A tenant, tnt_…"),
        click.option("--consumer", default="", help="A consumer of the router, such as invoice."),
        click.option("--shard", type=click.IntRange(0, 255), help="A shard of the dispatcher."),
    ):
        command = option(command)
    return command


@click.command()
@connection_options
@_target_options
def pause(connection: Connection, **options: Any) -> None:
    """Pause a shard, a consumer or a tenant: its events wait, and nobody waits for them."""
    made = _call(connection, "Pause", _ordered(pb.PauseRequest, **options)).pause
    click.echo(f"paused: {_target(made)}")


@click.command()
@connection_options
@_target_options
def resume(connection: Connection, **options: Any) -> None:
    """Resume what is paused: all that waited goes through in order."""
    ended = _call(connection, "Resume", _ordered(pb.ResumeRequest, **options)).pause
    click.echo(f"resumed: {_target(ended)}")


COMMANDS: Final = (status, lag, waiting, pause, resume)


def _ordered(
    kind: Any, shard: int | None, consumer: str, paused_tenant: str, reason: str
) -> Message:
    given = [shard is not None, bool(consumer), bool(paused_tenant)]
    if sum(given) != 1:
        raise click.UsageError("Give exactly one of --shard, --consumer and --paused-tenant.")
    target: dict[str, Any] = {"shard": shard} if shard is not None else {}
    if consumer:
        target = {"consumer": consumer}
    if paused_tenant:
        target = {"tenant_id": paused_tenant}
    request: Message = kind(reason=reason, request_id=str(uuid.uuid4()), **target)
    return request


def _routing(partition: pb.PartitionLag) -> tuple[str, str, str]:
    unrouted = str(partition.unrouted) if partition.HasField("unrouted") else "unknown"
    return unrouted, str(partition.position), "at work" if partition.owned else "none"


def _target(pause: pb.ActivePause) -> str:
    kind = pause.WhichOneof("target") or ""
    return f"{kind.removesuffix('_id')} {getattr(pause, kind)}"


def _age(message: Message, field: str) -> str:
    """How long ago, in the two largest units; a dash when it is unset."""
    if not message.HasField(field):
        return "-"
    stamp: Timestamp = getattr(message, field)
    seconds = max(int((datetime.now(UTC) - stamp.ToDatetime(UTC)).total_seconds()), 0)
    days, hours = divmod(seconds // 3600, 24)
    minutes = seconds // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds % 60}s" if minutes else f"{seconds}s"


def _call(connection: Connection, method: str, request: Any) -> Any:
    async def work() -> Any:
        async with channel_to(connection) as channel:
            rpc = getattr(OperationsServiceStub(channel), method)
            return await rpc(request, metadata=connection.metadata)

    return run(work())
