"""The door: `tollway replay`. Invariant: planning is the default and sends nothing; only a plan's token starts one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click
from google.protobuf.json_format import MessageToJson
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tollway.replay.v1 import replay_service_pb2 as pb
from tollway.replay.v1.replay_service_pb2_grpc import ReplayServiceStub
from tollway.type.v1 import time_range_pb2

from cli.client import DEADLINE_S, Connection, channel_to, connection_options, run

POLL_S: Final = 0.25
TARGETS: Final = ("bus",)
# Counting may read a long stretch of the log.
PLAN_DEADLINE_S: Final = 4 * DEADLINE_S


class DryRunFirst(click.Group):
    """Options without a command mean `plan`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the default in front."""
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["plan", *args]
        return super().parse_args(ctx, args)


class Instant(click.ParamType[datetime]):
    """A point in time: ISO 8601, in UTC unless it says otherwise."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """The instant, aware."""
        if isinstance(value, datetime):
            return value
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-02-01T00:00:00Z", param, ctx)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant


@click.group(cls=DryRunFirst)
def command() -> None:
    """Plan and start replays of the event log.

    `plan` is the default and a dry run: it counts, warns, and prints the token with which `start` sends.
    """


@command.command()
@connection_options
@click.option(
    "--to", "targets", type=click.Choice(TARGETS), multiple=True, help="Where to; none by default."
)
@click.option(
    "--subject", "subjects", multiple=True, help='Such as invoice.status.changed, or "invoice.*".'
)
@click.option("--resource", default="", help="Only of this resource: inv_…, sub_…, bat_….")
@click.option("--correlation", default="", help="Only of this correlation id: cor_….")
@click.option("--event", "events", multiple=True, help="Only this event: evt_….")
@click.option("--since", type=Instant(), help="From this time of the log on.")
@click.option("--until", type=Instant(), help="Before this time of the log; now, if not given.")
@click.option("--for-tenant", default="", help="The tenant's id, with an operator's key.")
@click.option(
    "--max-events",
    type=click.IntRange(0, 1_000_000),
    default=0,
    help="The most that may match. [default: 1000]",
)
@click.option(
    "--rate",
    type=click.IntRange(0, 100_000),
    default=0,
    help="The most events a second. [default: no limit]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def plan(connection: Connection, as_json: bool, **options: Any) -> None:
    """Count what a replay would send; nothing is sent."""
    request = plan_request(options)

    async def work() -> pb.PlanReplayResponse:
        async with channel_to(connection) as channel:
            return await ReplayServiceStub(channel).PlanReplay(
                request, metadata=connection.metadata, timeout=PLAN_DEADLINE_S
            )

    answer = run(work())
    if as_json:
        click.echo(MessageToJson(answer))
    else:
        show_plan(answer, Console())


@command.command()
@connection_options
@click.option(
    "--token",
    prompt="The plan's token",
    help="The token that `plan` printed; asked for if missing.",
)
@click.option("--note", prompt="Why", help="Why, for the audit; asked for if missing.")
@click.option("--request-id", default="", help="The same id answers like the first time.")
@click.option("--no-wait", is_flag=True, help="Return when it is started.")
def start(connection: Connection, token: str, note: str, request_id: str, no_wait: bool) -> None:
    """Start the replay that a plan's token confirms, and follow it to its end."""

    async def work() -> pb.Replay:
        async with channel_to(connection) as channel:
            stub = ReplayServiceStub(channel)
            request = pb.StartReplayRequest(
                confirmation_token=token.strip(), note=note, request_id=request_id
            )
            answer = await stub.StartReplay(
                request, metadata=connection.metadata, timeout=PLAN_DEADLINE_S
            )
            if no_wait:
                return answer.replay
            return await follow(stub, connection, answer.replay)

    show_replay(run(work()), Console())


@command.command()
@connection_options
@click.argument("replay_id")
@click.option("--follow", "following", is_flag=True, help="Follow it to its end.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def show(connection: Connection, replay_id: str, following: bool, as_json: bool) -> None:
    """Show a replay (rpl_…) and how far it has come."""

    async def work() -> pb.Replay:
        async with channel_to(connection) as channel:
            stub = ReplayServiceStub(channel)
            replay = await get(stub, connection, replay_id)
            return await follow(stub, connection, replay) if following else replay

    replay = run(work())
    if as_json:
        click.echo(MessageToJson(replay))
    else:
        show_replay(replay, Console())


def plan_request(options: dict[str, Any]) -> pb.PlanReplayRequest:
    """The request that the options of `plan` ask for."""
    span = time_range_pb2.TimeRange()
    if options["since"]:
        span.start.FromDatetime(options["since"])
    if options["until"]:
        span.end.FromDatetime(options["until"])
    selected = pb.ReplayFilter(
        tenant_id=options["for_tenant"],
        subjects=options["subjects"],
        resource_id=options["resource"],
        correlation_id=options["correlation"],
        event_ids=options["events"],
        time_range=span,
    )
    return pb.PlanReplayRequest(
        filter=selected,
        targets=[pb.ReplayTarget(**{name: pb.BusTarget()}) for name in options["targets"]],
        max_events=options["max_events"],
        rate_per_second=options["rate"],
    )


async def get(stub: Any, connection: Connection, replay_id: str) -> pb.Replay:
    """The replay as it is now."""
    request = pb.GetReplayRequest(replay_id=replay_id)
    answer: pb.GetReplayResponse = await stub.GetReplay(
        request, metadata=connection.metadata, timeout=DEADLINE_S
    )
    return answer.replay


async def follow(stub: Any, connection: Connection, replay: pb.Replay) -> pb.Replay:
    """Draws a bar until the replay is finished. Ctrl-C ends the watching, not the replay."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(replay.id, total=replay.matched)
        while True:
            sent = replay.published + replay.failed
            waits = sent >= replay.matched and replay.status != pb.REPLAY_STATUS_FINISHED
            progress.update(
                task,
                total=replay.matched,
                completed=min(sent, replay.matched),
                description=f"{replay.id}{', its consumers are at it' if waits else ''}",
            )
            if replay.status == pb.REPLAY_STATUS_FINISHED:
                return replay
            await asyncio.sleep(POLL_S)
            replay = await get(stub, connection, replay.id)


def show_plan(answer: pb.PlanReplayResponse, console: Console) -> None:
    """The plan for a terminal."""
    start, end = (at.ToDatetime(UTC) for at in (answer.time_range.start, answer.time_range.end))
    facts = [
        ("events", f"{answer.matched:,}"),
        ("log from", start.isoformat(" ", "milliseconds")),
        ("before", end.isoformat(" ", "milliseconds")),
        ("first", answer.first_event_id),
        ("last", answer.last_event_id),
        ("plan", answer.plan_hash[:16]),
    ]
    console.print("[bold]Dry run: nothing was sent.[/bold]\n")
    console.print(_grid(facts))
    if answer.subjects:
        subjects = Table("subject", "events", box=None, pad_edge=False)
        for counted in answer.subjects:
            subjects.add_row(counted.subject, f"{counted.count:,}")
        console.print("", subjects)
        consumers = Table(
            "consumer", "wants", "has handled, so skips", "will handle", box=None, pad_edge=False
        )
        for each in answer.consumers:
            lacking = max(each.wanted - each.processed, 0)
            consumers.add_row(
                each.consumer, f"{each.wanted:,}", f"{each.processed:,}", f"{lacking:,}"
            )
        console.print("", consumers)
    for warning in answer.warnings:
        console.print(f"\n[yellow]! {escape(warning)}[/yellow]", highlight=False)
    until = answer.token_expire_time.ToDatetime(UTC).isoformat(" ", "seconds")
    console.print(f"\nStart it, once, with this key, before {until}:\n", highlight=False)
    # As it is: a table would break the token into lines.
    click.echo(f"tollway replay start --token {answer.confirmation_token}")


def show_replay(replay: pb.Replay, console: Console) -> None:
    """A replay for a terminal."""
    facts = [
        ("replay", replay.id),
        ("tenant", replay.tenant_id),
        ("state", pb.ReplayStatus.Name(replay.status).removeprefix("REPLAY_STATUS_").lower()),
        ("events", f"{replay.matched:,}"),
        ("published", f"{replay.published:,}"),
        ("handled before", f"{replay.skipped:,}"),
        ("failed", f"{replay.failed:,}"),
        ("why", replay.note),
        ("started", replay.start_time.ToDatetime(UTC).isoformat(" ", "seconds")),
    ]
    if replay.HasField("finish_time"):
        facts.append(("finished", replay.finish_time.ToDatetime(UTC).isoformat(" ", "seconds")))
    console.print(_grid(facts))


def _grid(facts: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        grid.add_row(f"[dim]{name}[/dim]", escape(value))
    return grid
