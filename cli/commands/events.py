"""The door: `tollway events trail`. Invariant: every event is printed once, under the one it follows from."""

from __future__ import annotations

import click
from rich.console import Console
from rich.text import Text
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
@click.option("--ids", is_flag=True, help="Show the events' ids.")
def trail(connection: Connection, start: str, depth: int, ids: bool) -> None:
    """Print all that belongs to START as a tree: an event (evt_…), a correlation (cor_…) or a resource (inv_…)."""

    async def work() -> pb.GetTrailResponse:
        async with channel_to(connection) as channel:
            request = trail_request(start, depth)
            return await EventServiceStub(channel).GetTrail(request, metadata=connection.metadata)

    Console().print(trail_tree(run(work()), with_ids=ids))


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
