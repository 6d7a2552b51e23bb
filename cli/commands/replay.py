"""The door: `tollway replay`. Invariant: planning is the default and sends nothing; only a plan's token starts one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import click
from tollway.replay.v1 import replay_service_pb2 as pb
from tollway.replay.v1.replay_service_pb2_grpc import ReplayServiceStub

from cli.asking import Asked
from cli.client import DEADLINE_S, Connection, channel_to, connection_options, run
from cli.replay.request import STATUSES, plan_request
from cli.replay.view import STATES, follow, show_plan, show_replay, show_replays
from cli.tables import json_text

# Counting may read a long stretch of the log.
PLAN_DEADLINE_S: Final = 4 * DEADLINE_S


class DryRunFirst(click.Group):
    """Without a command, `plan` is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the default in front."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
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
    "--to",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="bus, consumer:NAME, endpoint:whe_… or dead-letters; none by default.",
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
@click.option(
    "--status",
    type=click.Choice(tuple(STATUSES)),
    help="Only events that are on the bus, or that were given up.",
)
@click.option(
    "--force", is_flag=True, help="The consumer computes anew, from the facts. [default: preserve]"
)
@click.option(
    "--external-effects",
    type=click.Choice(("suppress", "allow")),
    default="suppress",
    show_default=True,
    help="Whether tenants' endpoints may be reached.",
)
@click.option("--allow-closed-periods", is_flag=True, help="Also where periods are billed.")
@click.option(
    "--allow-older-than-inbox", is_flag=True, help="Also where duplicates cannot be told."
)
@click.option("--stop-on-errors", is_flag=True, help="Pause at the first event that fails.")
@click.option("--follow-ups", is_flag=True, help="With --force: rate all periods again.")
@click.option("--all-tenants", is_flag=True, help="With an operator's key; asks for a phrase.")
@click.option("--phrase", default="", help="With --all-tenants: the phrase, not asked for then.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def plan(connection: Connection, as_json: bool, **options: Any) -> None:
    """Count what a replay would send; nothing is sent."""
    request = plan_request(options)
    if options["all_tenants"]:
        request.phrase = options["phrase"] or _asked_phrase()

    async def work() -> pb.PlanReplayResponse:
        async with channel_to(connection) as channel:
            return await ReplayServiceStub(channel).PlanReplay(
                request, metadata=connection.metadata, timeout=PLAN_DEADLINE_S
            )

    answer = run(work())
    if as_json:
        click.echo(json_text(answer))
    else:
        show_plan(answer)


def _asked_phrase() -> str:
    if not sys.stdin.isatty():
        raise click.UsageError('Give the phrase: --phrase "replay all tenants".')
    phrase: str = click.prompt('This is about every tenant. Type "replay all tenants"')
    return phrase


@command.command()
@connection_options
@click.option(
    "--token",
    cls=Asked,
    prompt="The plan's token",
    help="The token that `plan` printed; asked for if missing.",
)
@click.option("--note", prompt="Why", cls=Asked, help="Why, for the audit; asked for if missing.")
@click.option("--request-id", default="", help="The same id answers like the first time.")
@click.option("--plan-hash", default="", help="The plan that you agreed to; another is refused.")
@click.option("--no-wait", is_flag=True, help="Return when it is started.")
def start(connection: Connection, no_wait: bool, **options: Any) -> None:
    """Start the replay that a plan's token confirms, and follow it to its end."""

    async def work() -> list[pb.Replay]:
        async with channel_to(connection) as channel:
            stub = ReplayServiceStub(channel)
            request = pb.StartReplayRequest(
                confirmation_token=options["token"].strip(),
                note=options["note"],
                request_id=options["request_id"],
                plan_hash=options["plan_hash"],
            )
            answer = await stub.StartReplay(
                request, metadata=connection.metadata, timeout=PLAN_DEADLINE_S
            )
            if no_wait or len(answer.replays) > 1:
                return list(answer.replays)
            return [await follow(stub, connection, answer.replay)]

    show_replays(run(work()))


@command.command()
@connection_options
@click.argument("replay_id")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def show(connection: Connection, replay_id: str, as_json: bool) -> None:
    """Show a replay (rpl_…) and how far it has come."""

    async def work() -> pb.Replay:
        async with channel_to(connection) as channel:
            request = pb.GetReplayRequest(replay_id=replay_id)
            answer = await ReplayServiceStub(channel).GetReplay(
                request, metadata=connection.metadata, timeout=DEADLINE_S
            )
            return answer.replay

    replay = run(work())
    if as_json:
        click.echo(json_text(replay))
    else:
        show_replay(replay)


@command.command()
@connection_options
@click.argument("replay_id")
def watch(connection: Connection, replay_id: str) -> None:
    """Follow a replay to its end. Ctrl-C ends the watching, not the replay."""

    async def work() -> pb.Replay:
        async with channel_to(connection) as channel:
            stub = ReplayServiceStub(channel)
            return await follow(stub, connection, pb.Replay(id=replay_id))

    show_replay(run(work()))


@command.command(name="list")
@connection_options
@click.option("--status", type=click.Choice(tuple(STATES)), help="Only in this state.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True)
def list_(connection: Connection, status: str | None, limit: int) -> None:
    """List replays, the newest first."""

    async def work() -> list[pb.Replay]:
        async with channel_to(connection) as channel:
            request = pb.ListReplaysRequest(
                status=STATES[status] if status else pb.REPLAY_STATUS_UNSPECIFIED, page_size=limit
            )
            answer = await ReplayServiceStub(channel).ListReplays(
                request, metadata=connection.metadata, timeout=DEADLINE_S
            )
            return list(answer.replays)

    show_replays(run(work()))


_note = click.option("--note", default="", help="Why, for the audit.")
_asked_note = click.option(
    "--note", cls=Asked, prompt="Why", help="Why, for the audit; asked for if missing."
)
# The order, how it takes its reason, and its help.
_ORDERS: Final = (
    ("Pause", _note, "Pause a replay at once."),
    ("Resume", _note, "Let a paused replay go on; failures so far are accepted."),
    ("Cancel", _asked_note, "End a replay before its time; what was sent stays sent."),
)


def _order(verb: str) -> Callable[..., None]:
    def give(connection: Connection, replay_id: str, note: str) -> None:
        request = getattr(pb, f"{verb}ReplayRequest")(replay_id=replay_id, note=note)

        async def work() -> pb.Replay:
            async with channel_to(connection) as channel:
                method = getattr(ReplayServiceStub(channel), f"{verb}Replay")
                answer = await method(request, metadata=connection.metadata, timeout=DEADLINE_S)
                replay: pb.Replay = answer.replay
                return replay

        show_replay(run(work()))

    return give


for verb, note_option, told in _ORDERS:
    taking = click.argument("replay_id")(note_option(_order(verb)))
    command.command(verb.lower(), help=told)(connection_options(taking))
