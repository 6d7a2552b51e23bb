"""The door: `tollway events`. Invariant: a trail prints every event once, under the one it follows from."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import click
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct
from rich.text import Text
from rich.tree import Tree
from tollway.event.v1 import event_pb2
from tollway.event.v1 import event_service_pb2 as pb
from tollway.event.v1.event_service_pb2_grpc import EventServiceStub

from cli.client import Connection, channel_to, connection_options, run
from cli.commands.events_watch import event_as_dict, line_of, watch
from cli.commands.replay import Instant
from cli.references import invoice_id
from cli.tables import print_whole

STATUSES: Final = ("pending", "dispatched", "failed", "dead_letter")
PAGE_SIZE: Final = 200


@click.group()
def command() -> None:
    """Follow what happened, and tell what happened on your side."""


command.add_command(watch)


@command.command("list")
@connection_options
@click.option("--subject", "subjects", multiple=True, help='Such as "invoice.*"; may be repeated.')
@click.option("--resource", default="", help="Only of this resource: sub_….")
@click.option("--correlation", default="", help="Only of this correlation: cor_….")
@click.option("--since", type=Instant(), help="From this time of the log on.")
@click.option("--until", type=Instant(), help="Before this time of the log.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those that have come so far.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def list_(connection: Connection, limit: int, as_json: bool, **options: Any) -> None:
    """List events, newest first."""
    request = _list_request(options)

    async def work() -> None:
        async with channel_to(connection) as channel:
            async for listed in _listed(EventServiceStub(channel), connection, request, limit):
                click.echo(_told(listed.event, listed.dispatch_status, as_json=as_json))

    run(work())


async def _listed(
    stub: EventServiceStub, connection: Connection, request: pb.ListEventsRequest, limit: int
) -> AsyncIterator[pb.ListedEvent]:
    """The events of as many pages as it takes. Pages may be short, and even empty."""
    while limit:
        request.page_size = min(limit, PAGE_SIZE)
        answer = await stub.ListEvents(request, metadata=connection.metadata)
        for listed in answer.events:
            yield listed
        limit -= len(answer.events)
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def _list_request(options: dict[str, Any]) -> pb.ListEventsRequest:
    request = pb.ListEventsRequest(
        subjects=options["subjects"],
        resource_id=options["resource"],
        correlation_id=options["correlation"],
    )
    if options["status"]:
        request.dispatch_status = pb.DispatchStatus.Value(
            f"DISPATCH_STATUS_{options['status'].upper()}"
        )
    since: datetime | None = options["since"]
    until: datetime | None = options["until"]
    if since is not None:
        request.time_range.start.FromDatetime(since)
    if until is not None:
        request.time_range.end.FromDatetime(until)
    return request


@command.command()
@connection_options
@click.argument("event_id")
def get(connection: Connection, event_id: str) -> None:
    """Print one event whole, as JSON, with how far it has come."""

    async def work() -> pb.GetEventResponse:
        async with channel_to(connection) as channel:
            request = pb.GetEventRequest(event_id=event_id)
            return await EventServiceStub(channel).GetEvent(request, metadata=connection.metadata)

    answer = run(work())
    told = event_as_dict(answer.event) | {"dispatch_status": _status(answer.dispatch_status)}
    click.echo(json.dumps(told, indent=2, ensure_ascii=False))


@command.command()
@connection_options
@click.argument("subject")
@click.argument("resource")
@click.argument("data", default="{}")
@click.option("--after", default="", help="The event it follows from: evt_….")
@click.option("--note", "notes", multiple=True, metavar="NAME=TEXT", help="An annotation.")
@click.option("--request-id", default="", help="Give the same one to try again safely.")
def publish(connection: Connection, subject: str, resource: str, data: str, **options: Any) -> None:
    """Publish an event of your own: SUBJECT begins with "custom.", RESOURCE is what it is about, DATA a JSON object."""
    request = pb.PublishEventsRequest(request_id=options["request_id"] or uuid4().hex)
    request.events.add(
        subject=subject,
        resource_id=resource,
        data=_struct(data),
        causation_id=options["after"],
        metadata=dict(_note(text) for text in options["notes"]),
    )

    async def work() -> pb.PublishEventsResponse:
        async with channel_to(connection) as channel:
            stub = EventServiceStub(channel)
            return await stub.PublishEvents(request, metadata=connection.metadata)

    for event in run(work()).events:
        click.echo(f"{event.event_id}  v{event.resource_version}  {event.correlation_id}")


def _struct(text: str) -> Struct:
    try:
        given = json.loads(text)
        if not isinstance(given, dict):
            raise click.BadParameter(f"{text!r} is not a JSON object", param_hint="DATA")
        return ParseDict(given, Struct())
    except (json.JSONDecodeError, ParseError) as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="DATA") from error


def _note(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise click.BadParameter(f"{text!r} is not NAME=TEXT", param_hint="--note")
    return name, value


def _told(event: event_pb2.Event, status: int, *, as_json: bool) -> str:
    if as_json:
        told = event_as_dict(event) | {"dispatch_status": _status(status)}
        return json.dumps(told, separators=(",", ":"), ensure_ascii=False)
    shown = _status(status)
    return line_of(event) + ("" if shown == "dispatched" else f"  {shown}")


def _status(status: int) -> str:
    name: str = pb.DispatchStatus.Name(status)  # type: ignore[arg-type] # the wire's number
    return name.removeprefix("DISPATCH_STATUS_").lower()


@command.command()
@connection_options
@click.argument("start")
@click.option(
    "--depth",
    type=click.IntRange(1, 16),
    default=4,
    show_default=True,
    help="How many links to follow.",
)
@click.option("--ids", is_flag=True, help="Show the events' ids.")
def trail(connection: Connection, start: str, depth: int, ids: bool) -> None:
    """Print all that belongs to START as a tree: an event (evt_…), a correlation (cor_…) or a resource (inv_…).

    An invoice may be named by its number, INV-000002.
    """

    async def work() -> pb.GetTrailResponse:
        async with channel_to(connection) as channel:
            is_number = start.startswith("INV-")
            named = await invoice_id(channel, connection, start) if is_number else start
            request = trail_request(named, depth)
            return await EventServiceStub(channel).GetTrail(request, metadata=connection.metadata)

    print_whole(trail_tree(run(work()), with_ids=ids))


def trail_request(start: str, depth: int) -> pb.GetTrailRequest:
    """The request that starts at an event, a correlation or a resource, told by its prefix."""
    match start.partition("_")[0]:
        case "evt":
            return pb.GetTrailRequest(event_id=start, link_depth=depth)
        case "cor":
            return pb.GetTrailRequest(correlation_id=start, link_depth=depth)
        case _:
            return pb.GetTrailRequest(resource_id=start, link_depth=depth)


def trail_tree(answer: pb.GetTrailResponse, *, with_ids: bool = False) -> Tree:
    """The trail for a terminal: one branch per first cause; those of linked correlations say how far away they are."""
    tree = Tree("trail" + (" (more events than are shown)" if answer.truncated else ""))
    branches: list[Tree] = []
    for node in answer.nodes:
        # Sorted by id, a cause stands before its effects.
        has_parent = 0 <= node.parent < len(branches)
        label = _label(node, with_ids=with_ids, with_distance=not has_parent)
        branches.append((branches[node.parent] if has_parent else tree).add(label))
    return tree


def _label(node: pb.TrailNode, *, with_ids: bool, with_distance: bool) -> Text:
    event = node.event
    at = event.occurred_at.ToDatetime().strftime("%Y-%m-%d %H:%M")
    label = Text.assemble(
        (event.subject, "bold"),
        f"  {event.resource_id} v{event.resource_version}  {at}",
        no_wrap=True,
    )
    if with_ids:
        label.append(f"  {event.id}", "dim")
    if with_distance and node.link_distance:
        label.append(
            f"  {node.link_distance} links away" if node.link_distance > 1 else "  linked", "dim"
        )
    return label
