"""The door: plans and replays for a terminal.

Invariant: a plan shows what will happen before the line that starts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tollway.replay.v1 import replay_service_pb2 as pb

from cli.client import Connection
from cli.tables import at, print_table, print_whole, table

STATES: Final = {
    name.removeprefix("REPLAY_STATUS_").lower(): number
    for name, number in pb.ReplayStatus.items()
    if number
}


async def follow(stub: Any, connection: Connection, replay: pb.Replay) -> pb.Replay:
    """Draws a bar until the replay has ended. Ctrl-C ends the watching, not the replay."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    request = pb.WatchReplayRequest(replay_id=replay.id)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(replay.id, total=None, left="")
        async for told in stub.WatchReplay(request, metadata=connection.metadata):
            replay = told.replay
            progress.update(
                task,
                total=replay.matched,
                completed=_done(replay),
                description=f"{replay.id} {_state(replay)}",
                left=_left(replay),
            )
    return replay


def _done(replay: pb.Replay) -> int:
    if replay.status == pb.REPLAY_STATUS_FINISHED:
        return replay.matched
    return min(replay.published + replay.failed, replay.matched)


def _left(replay: pb.Replay) -> str:
    if replay.status == pb.REPLAY_STATUS_PAUSED:
        return replay.status_note
    if _done(replay) >= replay.matched and replay.status == pb.REPLAY_STATUS_RUNNING:
        return "its consumers are at it"
    if not replay.HasField("remaining_duration"):
        return ""
    return f"about {replay.remaining_duration.seconds} s more"


def show_plan(answer: pb.PlanReplayResponse) -> None:
    """The plan for a terminal."""
    facts = [
        ("events", f"{answer.matched:,}"),
        ("log from", at(answer.time_range.start, "milliseconds")),
        ("before", at(answer.time_range.end, "milliseconds")),
        ("first", answer.first_event_id),
        ("last", answer.last_event_id),
        ("takes about", _rough(answer.estimated_duration.ToTimedelta())),
        ("plan", answer.plan_hash),
    ]
    print_whole("[bold]Dry run: nothing was sent.[/bold]\n")
    print_whole(_grid(facts))
    for counted in _tables(answer):
        click.echo()
        print_whole(counted)
    for warning in answer.warnings:
        print_whole(f"\n[yellow]! {escape(warning)}[/yellow]")
    if not answer.matched:
        return
    until = at(answer.token_expire_time)
    click.echo(f"\nStart it, once, with this key, before {until} UTC:\n")
    # As it is: a table would break the token into lines.
    click.echo(f"tollway replay start --token {answer.confirmation_token}")


def _tables(answer: pb.PlanReplayResponse) -> Iterator[Table]:
    """What is counted, as far as there is something to count."""
    if answer.subjects:
        yield _table(("subject", "events"), ((s.subject, s.count) for s in answer.subjects))
        yield _table(
            ("consumer", "wants", "has handled, so skips", "lacks"),
            (
                (c.consumer, c.wanted, c.processed, max(c.wanted - c.processed, 0))
                for c in answer.consumers
            ),
        )
    if len(answer.tenants) > 1:
        yield _table(("tenant", "events"), ((t.tenant_id, t.count) for t in answer.tenants))
    if answer.HasField("deliveries"):
        states = ("delivered", "pending", "parked", "dead", "missing")
        counts = ((state, getattr(answer.deliveries, state)) for state in states)
        yield _table(("at the endpoint", "events"), counts)
    if answer.dead_letters:
        dead = ((d.consumer or "dispatcher", d.count) for d in answer.dead_letters)
        yield _table(("given up by", "events"), dead)
    if answer.samples:
        samples = ((s.event_id, s.subject, s.resource_id, at(s.occur_time)) for s in answer.samples)
        yield _table(("first and last", "subject", "resource", "at"), samples)


def _table(names: Sequence[str], rows: Iterable[Sequence[str | int]]) -> Table:
    filled = table(*names)
    for row in rows:
        filled.add_row(*(f"{cell:,}" if isinstance(cell, int) else cell for cell in row))
    return filled


def show_replay(replay: pb.Replay) -> None:
    """A replay for a terminal."""
    facts = [
        ("replay", replay.id),
        ("tenant", replay.tenant_id),
        ("target", f"{replay.target}, {_word(replay)}"),
        ("state", f"{_state(replay)}{f': {replay.status_note}' if replay.status_note else ''}"),
        ("events", f"{replay.matched:,}"),
        ("given", f"{replay.published:,}"),
        ("skipped", f"{replay.skipped:,}"),
        ("failed", f"{replay.failed:,}"),
        ("why", replay.note),
        ("started", at(replay.start_time)),
    ]
    if replay.HasField("finish_time"):
        facts.append(("finished", at(replay.finish_time)))
    print_whole(_grid(facts))


def show_replays(replays: Sequence[pb.Replay]) -> None:
    """One replay with all its facts, several as a table."""
    if len(replays) == 1:
        show_replay(replays[0])
        return
    rows = table("replay", "target", "state", "events", "given", "skipped", "failed", "started")
    for replay in replays:
        rows.add_row(
            replay.id,
            replay.target,
            _state(replay),
            *(f"{n:,}" for n in (replay.matched, replay.published, replay.skipped, replay.failed)),
            at(replay.start_time),
        )
    print_table(rows)


def _state(replay: pb.Replay) -> str:
    return pb.ReplayStatus.Name(replay.status).removeprefix("REPLAY_STATUS_").lower()


def _rough(stretch: timedelta) -> str:
    """In whole seconds."""
    seconds = round(stretch.total_seconds())
    return str(timedelta(seconds=seconds)) if seconds else "less than a second"


def _word(replay: pb.Replay) -> str:
    mode = pb.ReplayMode.Name(replay.mode).removeprefix("REPLAY_MODE_").lower()
    allowed = replay.external_effects == pb.EXTERNAL_EFFECTS_ALLOW
    return f"{mode}, external effects {'allowed' if allowed else 'suppressed'}"


def _grid(facts: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        grid.add_row(f"[dim]{name}[/dim]", escape(value))
    return grid
