"""The door: `tollway clock`. Invariant: an advance that fails says what it waited for, and exits with 1."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Final

import click
from tollway.scheduler.v1 import scheduler_service_pb2 as pb
from tollway.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from cli.client import Connection, channel_to, connection_options, run

# An advance of years through many instants is a long watch, and none is without an end.
WATCH_DEADLINE_S: Final = 24 * 3600.0
CALL_DEADLINE_S: Final = 30.0
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class Instant(click.ParamType[datetime]):
    """2024-01-31T09:00:00Z; without a zone, UTC; a day alone is its midnight."""

    name = "instant"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """The instant, or a usage error that shows how to write one."""
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no instant; write one like 2024-01-31T09:00:00Z.", param, ctx)
        return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


class Stretch(click.ParamType[timedelta]):
    """12h, 30d, 4w."""

    name = "stretch"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """The length, or a usage error that shows how to write one."""
        if value[-1:] not in _UNITS or not value[:-1].isdigit():
            self.fail(f"{value!r} is no length; write one like 12h, 30d or 4w.", param, ctx)
        return int(value[:-1]) * _UNITS[value[-1]]


@click.group()
def command() -> None:
    """The test clock of a tenant in test mode: its business time, which goes as fast as you like."""


@command.command()
@connection_options
@click.option("--at", type=Instant(), required=True, help="Where it starts; may lie in the past.")
def create(connection: Connection, at: datetime) -> None:
    """Give the tenant a clock of its own."""
    request = pb.CreateTestClockRequest()
    request.start_time.FromDatetime(at)

    async def work() -> pb.TestClock:
        async with channel_to(connection) as channel:
            answer = await SchedulerServiceStub(channel).CreateTestClock(
                request, metadata=connection.metadata, timeout=CALL_DEADLINE_S
            )
        return answer.test_clock

    click.echo(line_of(run(work())))


@command.command()
@connection_options
@click.option("--to", type=Instant(), help="Where to go.")
@click.option("--by", type=Stretch(), help="How far to go: 12h, 30d, 4w.")
@click.option("--no-wait", is_flag=True, help="Do not watch until it is there.")
def advance(
    connection: Connection, to: datetime | None, by: timedelta | None, no_wait: bool
) -> None:
    """Send the clock on, and watch everything that falls due on the way happen."""
    if (to is None) == (by is None):
        raise click.UsageError("Give one of --to and --by.")

    async def work() -> pb.TestClock | None:
        async with channel_to(connection) as channel:
            stub = SchedulerServiceStub(channel)
            now = await stub.GetTestClock(
                pb.GetTestClockRequest(), metadata=connection.metadata, timeout=CALL_DEADLINE_S
            )
            request = pb.AdvanceTestClockRequest()
            here = now.test_clock.current_time.ToDatetime(UTC)
            request.target_time.FromDatetime(to if to is not None else here + (by or timedelta()))
            sent = await stub.AdvanceTestClock(
                request, metadata=connection.metadata, timeout=CALL_DEADLINE_S
            )
            said = line_of(sent.test_clock)
            click.echo(said)
            return None if no_wait else await _watched(stub, connection, said)

    _finish(run(work()))


@command.command()
@connection_options
def show(connection: Connection) -> None:
    """Show where the clock stands, and what its last advance brought about."""

    async def work() -> pb.TestClock:
        async with channel_to(connection) as channel:
            answer = await SchedulerServiceStub(channel).GetTestClock(
                pb.GetTestClockRequest(), metadata=connection.metadata, timeout=CALL_DEADLINE_S
            )
        return answer.test_clock

    clock = run(work())
    click.echo(line_of(clock))
    _tell_happened(clock)


@command.command()
@connection_options
def watch(connection: Connection) -> None:
    """Watch the clock until it is there."""

    async def work() -> pb.TestClock | None:
        async with channel_to(connection) as channel:
            return await _watched(SchedulerServiceStub(channel), connection)

    _finish(run(work()))


async def _watched(
    stub: SchedulerServiceStub, connection: Connection, said: str = ""
) -> pb.TestClock | None:
    """Prints each state of the clock, those that look alike once; the last one."""
    last = None
    watching = stub.WatchTestClock(
        pb.WatchTestClockRequest(), metadata=connection.metadata, timeout=WATCH_DEADLINE_S
    )
    async for answer in watching:
        last = answer.test_clock
        line = line_of(last)
        if line != said:
            click.echo(line)
        said = line
    return last


def line_of(clock: pb.TestClock) -> str:
    """Where the clock stands, where it goes, and what it waits for."""
    at = clock.current_time.ToDatetime(UTC).isoformat()
    to = clock.target_time.ToDatetime(UTC).isoformat()
    waiting = f", waits for {clock.waiting_for.rstrip('.')}" if clock.waiting_for else ""
    match clock.status:
        case pb.TEST_CLOCK_STATUS_ADVANCING:
            return f"{at}  on its way to {to}{waiting}"
        case pb.TEST_CLOCK_STATUS_FAILED:
            again = f"; mend that and send it on: tollway clock advance --to {to}"
            return f"{at}  failed on its way to {to}{waiting}{again}"
        case _:
            return f"{at}  ready"


def _tell_happened(clock: pb.TestClock) -> None:
    for one in clock.happened:
        click.echo(f"  {one.count:>8}  {one.subject}")


def _finish(clock: pb.TestClock | None) -> None:
    if clock is None:
        return
    _tell_happened(clock)
    if clock.status == pb.TEST_CLOCK_STATUS_FAILED:
        sys.exit(1)
