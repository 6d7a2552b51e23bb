"""The door: `tollway events trail`. Invariant: every event is printed once, under the one it follows from."""

from __future__ import annotations

import click
from rich.console import Console
from rich.tree import Tree
from tollway.event.v1 import event_service_pb2 as pb
from tollway.event.v1.event_service_pb2_grpc import EventServiceStub

from cli.client import Connection, channel_to, connection_options, run


@click.group()
def command() -> None:
    """Follow what happened."""


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
def trail(connection: Connection, start: str, depth: int) -> None:
    """Print all that belongs to START as a tree: an event (evt_…), a correlation (cor_…) or a resource (inv_…)."""

    async def work() -> pb.GetTrailResponse:
        async with channel_to(connection) as channel:
            request = trail_request(start, depth)
            return await EventServiceStub(channel).GetTrail(request, metadata=connection.metadata)

    Console().print(trail_tree(run(work())))


def trail_request(start: str, depth: int) -> pb.GetTrailRequest:
    """The request that starts at an event, a correlation or a resource, told by its prefix."""
    match start.partition("_")[0]:
        case "evt":
            return pb.GetTrailRequest(event_id=start, link_depth=depth)
        case "cor":
            return pb.GetTrailRequest(correlation_id=start, link_depth=depth)
        case _:
            return pb.GetTrailRequest(resource_id=start, link_depth=depth)


def trail_tree(answer: pb.GetTrailResponse) -> Tree:
    """The trail for a terminal: one branch per first cause."""
    tree = Tree("trail" + (" (more events than are shown)" if answer.truncated else ""))
    branches: list[Tree] = []
    for node in answer.nodes:
        event = node.event
        at = event.occurred_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
        distance = f"  [dim]{node.link_distance} links away[/dim]" if node.link_distance else ""
        what = f"[bold]{event.subject}[/bold]  {event.resource_id} v{event.resource_version}"
        label = f"{what}  {at}  [dim]{event.id}[/dim]"
        # Sorted by id, a cause stands before its effects.
        parent = branches[node.parent] if 0 <= node.parent < len(branches) else tree
        branches.append(parent.add(label + distance))
    return tree
